"""An ONNX model as a Relax module with static shapes."""

from __future__ import annotations

import collections.abc
import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import onnx
import tvm
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.onnx.branches import choose_by_where, has_branches
from tvm_spm.frontend.onnx.check import checked_skeleton, infer_shapes
from tvm_spm.frontend.onnx.dequantised import take_integers
from tvm_spm.frontend.onnx.fold import fold_constants
from tvm_spm.frontend.onnx.host import tensor_kinds
from tvm_spm.frontend.onnx.limits import describe, refuse_empty, refuse_kinds, refuse_training
from tvm_spm.frontend.onnx.loops import has_loops, keep_loops, write_loops
from tvm_spm.frontend.onnx.microsoft.expand import has_learned, has_own_operators, in_own_domain, write_out
from tvm_spm.frontend.onnx.operators import expand_functions, import_graph
from tvm_spm.frontend.onnx.packed import SmallConstant
from tvm_spm.frontend.onnx.plain import made_plain
from tvm_spm.frontend.onnx.quantised import expand_quantised
from tvm_spm.frontend.onnx.recurrent import has_recurrent, write_recurrent
from tvm_spm.frontend.onnx.scans import close_scans, is_scan, write_out_scans
from tvm_spm.frontend.onnx.simplify import is_weightless, simplify
from tvm_spm.frontend.onnx.tensors import load_tensors
from tvm_spm.frontend.onnx.volume import has_volumes, stack_planes
from tvm_spm.frontend.pinned import Values, pin_onnx
from tvm_spm.input_file import read_regular

_log = logging.getLogger(__name__)

Shapes = collections.abc.Mapping[str, tuple[int, ...]]
"""Dims per input."""

Inputs = collections.abc.Mapping[str, tuple[int | str, ...] | None]
"""Dims per input as declared: unknown ones by their name or ``?``, ``None`` if even the rank is unknown."""


MAX_FILE_BYTES = 2**31 - 1
"""Largest file: protobuf reads no more; larger models store their tensors in files beside it."""


def read_onnx(path: Path, *, max_memory_bytes: int) -> onnx.ModelProto:
    """Read a file, and the tensors that are stored in files beside it.

    Raises:
        ModelError: There is no such file, it does not hold an ONNX model, or it needs more memory than allowed.
    """
    content = read_regular(path, max_bytes=min(MAX_FILE_BYTES, max_memory_bytes), error=ModelError)
    if not content:
        raise ModelError(f"{path}: the file is empty (0 B); export the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model ({len(content):,} B that do not decode)") from None
    load_tensors(model, path.parent, origin=str(path), max_memory_bytes=max_memory_bytes)
    return model


def import_onnx(
    model: onnx.ModelProto, *, shapes: Shapes, origin: str, max_memory_bytes: int, values: Values | None = None
) -> tvm.IRModule:
    """Import a model.

    Args:
        model: The model.
        shapes: Shapes of inputs by name; must cover all inputs with unknown dims but for an open batch dim, which is 1.
        origin: What errors call the model.
        max_memory_bytes: Refuse a model whose tensors, each once, need more.
        values: Numbers of inputs that become constants.

    Returns:
        A module whose ``main`` takes the inputs and, for a file without weights, the weights after them; its attribute
        ``num_input`` counts the inputs. Other weights are constants.

    Raises:
        ModelError: The model is empty, dims are unknown, or an operator cannot be imported.
    """
    if not model.graph.node:
        raise ModelError(f"{origin}: not an ONNX model, or one without a single operator")
    refuse_kinds(model, origin)
    pinned = pin_inputs(model, shapes, values or {}, origin)
    chosen = {name: tuple(int(dim) for dim in dims or ()) for name, dims in _input_shapes(pinned.graph).items()}
    try:
        mod, num_weights = _imported(_prepared(pinned, origin, max_memory_bytes), chosen, origin, max_memory_bytes)
    except ModelError as error:
        other = _other_dims(_input_shapes(model.graph), shapes)
        if not other:
            raise
        why = (
            str(error)
            .removeprefix(f"{origin}: ")
            .removeprefix("cannot import: ")
            .removeprefix("not a valid ONNX model: ")
        )
        raise ModelError(f"{origin}: cannot import with shapes that are not the model's ({other}): {why}") from error
    main = mod["main"]
    refuse_empty(main, origin)
    mod["main"] = main.with_attr("num_input", len(main.params) - num_weights)
    return mod


def _other_dims(declared: Inputs, shapes: Shapes) -> str:
    """Which dims are given otherwise than a model fixes them."""
    found = []
    for name, shape in shapes.items():
        for axis, (dim, extent) in enumerate(zip(declared.get(name) or (), shape, strict=False)):
            if isinstance(dim, int) and dim != extent:
                found.append(f"dim {axis} of input {name!r} is {dim}, {extent} is given")
    return ", ".join(found)


def _imported(
    static: onnx.ModelProto, chosen: dict[str, tuple[int, ...]], origin: str, max_memory_bytes: int
) -> tuple[tvm.IRModule, int]:
    """The module of a prepared model, and how many weights were appended to its inputs."""

    def import_body(body: onnx.ModelProto, where: str) -> tvm.IRModule:
        given = {name: tuple(int(dim) for dim in dims or ()) for name, dims in _input_shapes(body.graph).items()}
        mod, num_weights = _imported(_prepared(body, where, max_memory_bytes), given, where, max_memory_bytes)
        if num_weights:
            raise ModelError(f"{where}: cannot import: weights without numbers in the body of a loop")
        return mod

    try:
        simpler, num_weights = simplify(static)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return import_graph(simpler, chosen, origin, import_body), num_weights
    except TVM_ERRORS as error:
        raise ModelError(f"{origin}: cannot import: {_failed_at(error, static)}: {first_line(error)}") from error


def pin_inputs(model: onnx.ModelProto, shapes: Shapes, values: Values, origin: str) -> onnx.ModelProto:
    """The model with inputs of known dims; those whose numbers are given are constants.

    Raises:
        ModelError: Shapes or numbers do not fit the inputs, or dims stay unknown.
    """
    model = pin_onnx(model, values, origin)
    named = _with_named_dims(_input_shapes(model.graph), shapes, origin)
    return _with_shapes(model, choose_shapes(named, shapes, origin))


def _prepared(model: onnx.ModelProto, origin: str, max_memory_bytes: int) -> onnx.ModelProto:
    """The model in operators that the importer takes, with everything computed that does not depend on the data."""
    keep_fills, packed = is_weightless(model.graph), dict[str, SmallConstant]()

    def folded(model: onnx.ModelProto) -> onnx.ModelProto:
        return fold_constants(model, origin, keep_fills=keep_fills, max_memory_bytes=max_memory_bytes)

    def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
        return infer_shapes(checked_skeleton(model, origin), origin, max_memory_bytes=max_memory_bytes)

    plain = in_own_domain(made_plain(model, origin, max_memory_bytes=max_memory_bytes))
    plain = write_out(plain, origin) if has_learned(plain) else plain
    static = folded(expand_functions(expand_quantised(plain, origin, packed)))
    while (flat := _flatter(static, shapes_of, origin)) is not None:
        static = folded(expand_functions(expand_quantised(flat, origin, packed)))
    static = keep_loops(static, origin)
    if has_branches(static):
        # Branches whose results differ in shape stay as they are.
        with contextlib.suppress(ModelError):
            static = folded(expand_functions(expand_quantised(choose_by_where(static), origin, packed)))
    refuse_training(static, origin)
    if has_recurrent(static):
        static = folded(write_recurrent(static, shapes_of(static), origin))
    static = take_integers(close_scans(static), origin, packed)
    if any(node.op_type == "Conv" for node in static.graph.node):
        kinds = {name: kind.shape for name, kind in tensor_kinds(static, origin).items()}
        if has_volumes(static, kinds):
            static = stack_planes(static, kinds, origin)
    return static


def _flatter(
    model: onnx.ModelProto, shapes_of: Callable[[onnx.ModelProto], dict[str, tuple[int, ...]]], origin: str
) -> onnx.ModelProto | None:
    """The model with other domains' operators written out, or loops of known length, or these as loops over sequences.

    Returns:
        None if there is nothing left to write.
    """
    if has_own_operators(model):
        return write_out(model, origin)
    if has_loops(model):
        return write_loops(model, origin)
    return write_out_scans(model, shapes_of(model), origin) if any(map(is_scan, model.graph.node)) else None


def _failed_at(error: BaseException, model: onnx.ModelProto) -> str:
    """The node that TVM's importer could not convert, as far as it can be told.

    The importer names neither the node nor, for an operator that it does not know, where it stands; its own frame does.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("node")
        if frame.f_code.co_name == "_construct_nodes" and isinstance(node, onnx.NodeProto):
            return describe(node)
        constant = frame.f_locals.get("init_tensor")
        if isinstance(constant, onnx.TensorProto):
            reader = next((node for node in model.graph.node if constant.name in node.input), None)
            kind = onnx.TensorProto.DataType.Name(constant.data_type)
            of = "" if reader is None else f", which {describe(reader)} reads"
            return f"constant {constant.name!r} of type {kind}{of}"
    unknown = {word.strip() for word in first_line(error).rpartition(":")[2].split(",")}
    nodes = [node for node in model.graph.node if node.op_type in unknown]
    return describe(nodes[0]) if nodes else "the model"


def _input_shapes(graph: onnx.GraphProto) -> Inputs:
    constants = {init.name for init in graph.initializer}
    found: dict[str, tuple[int | str, ...] | None] = {}
    for value in graph.input:
        if value.name in constants or not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        dims = tuple(_declared(dim) for dim in tensor.shape.dim)
        found[value.name] = dims if tensor.HasField("shape") else None
    return found


def _declared(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    """A number if it is known; exporters also write -1 for one that is not."""
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return str(dim.dim_param) or "?"


def choose_shapes(inputs: Inputs, shapes: Shapes, origin: str) -> dict[str, tuple[int, ...]]:
    """Dims of every input, those given before those declared.

    Raises:
        ModelError: Given dims do not fit the declared ones, or dims stay unknown; names the flag that fixes them.
    """
    for name, shape in shapes.items():
        if name not in inputs:
            raise ModelError(f"{origin}: shape given for {name!r}, which is no input: {did_you_mean(name, inputs)}")
        declared = inputs[name]
        if declared is not None and len(declared) != len(shape):
            raise ModelError(
                f"{origin}: input {name!r}: {len(shape)} dims given, the model has {len(declared)} ({_shown(declared)})"
            )
        if any(extent < 1 for extent in shape):
            raise ModelError(f"{origin}: input {name!r}: shape {_shown(shape)}: every dim must be >= 1")
    unknown = [
        name
        for name, dims in inputs.items()
        if name not in shapes and (dims is None or any(isinstance(dim, str) for dim in dims))
    ]
    if unknown:
        listed = "; ".join(f"{name!r} has dims ({_shown(inputs[name])})" for name in unknown)
        flags = " ".join(f"--shape {name}={example_shape(inputs[name])}" for name in unknown)
        raise ModelError(f"{origin}: unknown input dims: {listed}; fix them, for example {flags}")
    chosen = {name: tuple(int(extent) for extent in shapes.get(name, dims or ())) for name, dims in inputs.items()}
    for name, shape in chosen.items():
        if 0 in shape:
            example = example_shape(tuple(extent or "?" for extent in shape))
            raise ModelError(
                f"{origin}: input {name!r}: shape {_shown(shape)} holds no element: every dim must be >= 1; if 0 "
                f"stands for an unknown dim, fix it, for example --shape {name}={example}"
            )
    return chosen


def _with_named_dims(inputs: Inputs, shapes: Shapes, origin: str) -> Inputs:
    """Dims that follow: a name stands for one number everywhere, and a first dim that alone is open is a batch of 1."""
    numbers: dict[str, int] = {}
    for name, shape in shapes.items():
        numbers |= {
            dim: extent for dim, extent in zip(inputs.get(name) or (), shape, strict=False) if isinstance(dim, str)
        }
    numbers.pop("?", None)
    found = {name: _replaced(dims, numbers) for name, dims in inputs.items()}
    batched = []
    for name, dims in found.items():
        is_open = dims is not None and len(dims) > 1 and isinstance(dims[0], str) and name not in shapes
        if dims is None or not is_open or any(isinstance(dim, str) for dim in dims[1:]):
            continue
        batched.append(name)
        found[name] = (1, *dims[1:])
        if dims[0] != "?":
            numbers[str(dims[0])] = 1
    if batched:
        listed = ", ".join(repr(name) for name in batched)
        _log.warning("%s: open batch dim of %s taken as 1; fix another with --shape", origin, listed)
    return {name: _replaced(dims, numbers) for name, dims in found.items()}


def _replaced(dims: tuple[int | str, ...] | None, numbers: dict[str, int]) -> tuple[int | str, ...] | None:
    return None if dims is None else tuple(numbers.get(dim, dim) if isinstance(dim, str) else dim for dim in dims)


def _with_shapes(model: onnx.ModelProto, chosen: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    """The model with the dims of its inputs fixed; weights are shared with the original where nothing changes."""
    if all(_input_shapes(model.graph).get(name) == shape for name, shape in chosen.items()):
        return model
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in chosen:
            del value.type.tensor_type.shape.dim[:]
            for extent in chosen[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = extent
    del fixed.graph.value_info[:]
    return fixed


def _shown(dims: tuple[int | str, ...] | None) -> str:
    return "unknown rank" if dims is None else ", ".join(str(dim) for dim in dims)


def example_shape(dims: tuple[int | str, ...] | None) -> str:
    """Unknown dims filled in: 1 for the batch, 3 for channels, 224 elsewhere."""
    usual = (1, 3, 224, 224)
    known: tuple[int | str, ...] = usual if dims is None else dims
    filled = [dim if isinstance(dim, int) else usual[i] if len(known) == 4 else 1 for i, dim in enumerate(known)]
    return ",".join(str(extent) for extent in filled)
