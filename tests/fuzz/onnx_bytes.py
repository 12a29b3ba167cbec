"""ONNX files with damaged bytes: what is still read becomes a module, or is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

import onnx
from onnx import TensorProto

from tests.fuzz.mutate import damaged_bytes
from tests.fuzz.onnx_models import check_import, odd_model
from tests.fuzz.outcome import REFUSED

ODD_NUMBERS = (0, -1, 1, 2, 3, 7, 2**15, 2**31 - 1, 2**31, 2**33, 2**62, -(2**63), -2)

OPERATORS = (
    "Add", "Sub", "MatMul", "Gemm", "Conv", "Einsum", "Reshape", "Transpose", "Softmax", "Split", "TopK", "Gather",
    "Resize", "Loop", "If", "Scan", "LSTM", "NonZero", "OneHot", "ConstantOfShape", "Range", "Tile", "Expand", "Pad",
    "Cast", "Where", "Slice", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Identity", "Dropout", "Clip", "Pow", "Mod",
    "ReduceSum", "ArgMax", "CumSum", "DepthToSpace", "InstanceNormalization", "ConvTranspose", "QuantizeLinear",
)  # fmt: skip


def run(random: Random) -> str:
    """One case."""
    model = odd_model(random, most_nodes=4)
    with tempfile.TemporaryDirectory() as folder:
        if random.random() < 0.3:
            _move_out(model, Path(folder))
        path = Path(folder) / "model.onnx"
        if random.random() < 0.6:
            damage_fields(model, random)
        content = model.SerializeToString()
        path.write_bytes(damaged_bytes(content, random) if random.random() < 0.5 else content)
        outcome = check_import(str(path), is_run=False)
        # A damaged byte in a weight or a name gives another model, so its numbers are only compared now and then.
        if outcome != REFUSED and random.random() < 0.1 and _is_plain(path):
            outcome = check_import(str(path), is_run=True)
    return outcome


def damage_fields(model: onnx.ModelProto, random: Random) -> None:
    """Change one or two things that a file can say, so that it still decodes."""
    for _ in range(random.choice((1, 1, 2))):
        node = random.choice(model.graph.node)
        odd = random.choice(ODD_NUMBERS)
        places = [*model.graph.input, *model.graph.output, *model.graph.initializer, *node.attribute, node, node]
        place = random.choice(places)
        if isinstance(place, onnx.ValueInfoProto):
            dims = place.type.tensor_type.shape.dim
            if dims and random.random() < 0.7:
                random.choice(dims).dim_value = odd
            else:
                place.type.tensor_type.elem_type = random.randrange(25)
        elif isinstance(place, onnx.TensorProto):
            if place.dims and random.random() < 0.7:
                place.dims[random.randrange(len(place.dims))] = odd
            else:
                place.data_type = random.randrange(25)
        elif isinstance(place, onnx.AttributeProto):
            if place.ints:
                place.ints[random.randrange(len(place.ints))] = odd
            else:
                place.i = odd
        elif random.random() < 0.5:
            node.op_type = random.choice(OPERATORS)
        else:
            values = random.choice((node.input, node.output))
            names = [value.name for value in model.graph.input] + list(random.choice(model.graph.node).output)
            values[random.randrange(len(values))] = random.choice((*names, "", "nobody"))


def _move_out(model: onnx.ModelProto, folder: Path) -> None:
    """Store the constants in a file beside the model."""
    at = 0
    with (folder / "weights").open("wb") as file:
        for tensor in model.graph.initializer:
            content = tensor.raw_data
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", "weights"), ("offset", str(at)), ("length", str(len(content)))):
                tensor.external_data.add(key=key, value=value)
            file.write(content)
            at += len(content)


def _is_plain(path: Path) -> bool:
    """Whether the reference takes every operator as the model means it."""
    model = onnx.load(path)
    flags = [attr.i for node in model.graph.node for attr in node.attribute if attr.name in ("keepdims", "transB")]
    is_known = all(node.domain in ("", "ai.onnx") for node in model.graph.node) and not model.functions
    return is_known and all(flag in (0, 1) for flag in flags)
