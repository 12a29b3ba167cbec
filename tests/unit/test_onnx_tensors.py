"""Tensors of hostile ONNX models: sizes before memory, files beside the model only, exactly as many bytes as needed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend import load_model
from tvm_spm.frontend.onnx.load import read_onnx
from tvm_spm.frontend.onnx.tensors import load_tensors

BUDGET = 2**30
HUGE = 27_000_000_000
WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def made(
    nodes: list[onnx.NodeProto], inputs: dict[str, list[int]], constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def matmul() -> onnx.ModelProto:
    return made([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [2, 3]}, {"w": WEIGHT})


def saved(folder: Path, **entries: str) -> Path:
    """A model whose weight is stored in ``weights.bin``, 4 bytes from its start, with other entries as given."""
    model = matmul()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": "4", "length": "48", **entries}.items():
        tensor.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def write_weights(path: Path) -> None:
    path.write_bytes(b"skip" + WEIGHT.tobytes() + b"more")


def read(path: Path) -> np.ndarray:
    return numpy_helper.to_array(read_onnx(path, max_memory_bytes=BUDGET).graph.initializer[0])


def test_a_tensor_beside_the_model_is_read(tmp_path: Path):
    write_weights(tmp_path / "weights.bin")
    assert (read(saved(tmp_path)) == WEIGHT).all()
    (tmp_path / "sub").mkdir()
    write_weights(tmp_path / "sub" / "w")
    assert (read(saved(tmp_path, location="sub/w")) == WEIGHT).all()


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "../weights.bin"}, "must be a file beside the model"),
        ({"location": "sub/../../weights.bin"}, "must be a file beside the model"),
        ({"location": "/etc/passwd"}, "must be a file beside the model"),
        ({"location": ""}, "must be a file beside the model"),
        ({"location": "a\0b"}, "must be a file beside the model"),
        ({"location": "missing"}, "No such file"),
        ({"location": "."}, "must be a file beside the model"),
        ({"location": "sub"}, "not a regular file"),
        ({"location": "pipe"}, "not a regular file"),
        ({"location": "link"}, "is a link, and links are not followed"),
        ({"location": "folder/weights.bin"}, "cannot read"),
        ({"location": "hard"}, "has a second name"),
        ({"offset": "-4"}, "offset '-4': must be a whole number >= 0"),
        ({"offset": "9" * 5000}, "must be a whole number >= 0"),
        ({"offset": "x"}, "offset 'x': must be a whole number >= 0"),
        ({"offset": "9"}, "48 B from byte 9 on: the file has only 56 B"),
        ({"offset": "9" * 18}, "the file has only 56 B"),
        ({"length": "-1"}, "length '-1': must be a whole number >= 0"),
        ({"length": "47"}, "a length of 47 B: its shape 3x4 needs 48 B"),
        ({"length": "3221225472"}, "a length of 3,221,225,472 B: its shape 3x4 needs 48 B"),
    ],
    ids=range(20),
)
def test_what_is_not_beside_the_model_is_not_read(tmp_path: Path, entries: dict[str, str], reason: str):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    write_weights(folder / "weights.bin")
    write_weights(tmp_path / "outside.bin")
    write_weights(tmp_path / "weights.bin")
    (folder / "link").symlink_to(tmp_path / "outside.bin")
    (folder / "folder").symlink_to(tmp_path)
    os.link(tmp_path / "outside.bin", folder / "hard")
    os.mkfifo(folder / "pipe")
    with pytest.raises(ModelError) as caught:
        read(saved(folder, **entries))
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(folder))


def test_only_as_many_bytes_as_the_shape_needs_are_read(tmp_path: Path):
    path = tmp_path / "weights.bin"
    write_weights(path)
    os.truncate(path, 2**40)  # a hole of 1 TiB behind the 48 bytes
    model = onnx.load(saved(tmp_path), load_external_data=False)
    del model.graph.initializer[0].external_data[2]  # the length
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert (read(tmp_path / "model.onnx") == WEIGHT).all()


def test_a_model_in_memory_reads_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_weights(tmp_path / "weights.bin")
    monkeypatch.chdir(tmp_path)
    model = onnx.load(saved(tmp_path), load_external_data=False)
    with pytest.raises(ModelError, match="tensor 'w' is stored in a file, and a model in memory has no directory"):
        load_model(model)


def nodes(*rest: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [*rest, helper.make_node("Add", ["x", "c"], ["y"])]


def size(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64)


@pytest.mark.parametrize(
    "model",
    [
        made(nodes(helper.make_node("ConstantOfShape", ["s"], ["c"])), {"x": [1]}, {"s": size(HUGE)}),
        made(nodes(helper.make_node("Expand", ["x", "s"], ["c"])), {"x": [1]}, {"s": size(HUGE)}),
        made(nodes(helper.make_node("Tile", ["x", "s"], ["c"])), {"x": [1]}, {"s": size(HUGE)}),
        made(nodes(helper.make_node("Pad", ["x", "s"], ["c"])), {"x": [1]}, {"s": np.array([0, HUGE])}),
        made(
            nodes(
                helper.make_node("Shape", ["x"], ["one"]),
                helper.make_node("Mul", ["one", "s"], ["many"]),
                helper.make_node("ConstantOfShape", ["many"], ["c"]),
            ),
            {"x": [1]},
            {"s": size(HUGE)},
        ),
        made([helper.make_node("MatMul", ["x", "z"], ["y"])], {"x": [2**20, 1], "z": [1, 2**20]}, {}),
        made([helper.make_node("Relu", ["x"], ["y"])], {"x": [HUGE]}, {}),
        made([helper.make_node("Relu", ["x"], ["y"])], {"x": [2**62, 2**62]}, {}),
        made([helper.make_node("Relu", ["x"], ["y"])], {"x": [10**9] * 4}, {}),
    ],
    ids=["fill", "expand", "tile", "pad", "computed", "outer product", "input", "overflow", "1e9"],
)
def test_a_small_file_that_asks_for_much_is_refused_before_it_gets_it(model: onnx.ModelProto):
    assert len(model.SerializeToString()) < 200
    with pytest.raises(ModelError, match=r"hostile: its tensors need .*: must be <= 1 GiB; give its inputs smaller"):
        load_model(model, max_memory_bytes=BUDGET)


def test_the_budget_counts_each_tensor_once():
    # x 2*3, w 3*4 and y 2*4 numbers of 4 bytes.
    needed = 4 * (6 + 12 + 8)
    load_model(matmul(), max_memory_bytes=needed)
    with pytest.raises(ModelError, match=r"its tensors need 104 B: must be <= 103 B"):
        load_model(matmul(), max_memory_bytes=needed - 1)
    with pytest.raises(ModelError, match=r"alexnet: its tensors need .* must be <= 1 MiB"):
        load_model("alexnet", max_memory_bytes=2**20)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dims": [3, 2**40]}, "weights need 1.229e+04 GiB"),
        ({"dims": [3, -4]}, "no extent may be negative"),
        ({"dims": [3, 3]}, "tensor 'w': shape 3x3 needs 36 B, the tensor holds 48 B"),
        ({"data_type": 77}, "unknown element type 77"),
        ({"data_type": TensorProto.INT4}, "shape 3x4 needs 6 B, the tensor holds 48 B"),
        ({"raw_data": b""}, "shape 3x4 needs 48 B, the tensor holds 0 B"),
    ],
)
def test_a_tensor_must_hold_what_it_claims(change: dict[str, object], reason: str):
    model = matmul()
    tensor = model.graph.initializer[0]
    for name, value in change.items():
        if name == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, name, value)
    with pytest.raises(ModelError) as caught:
        load_tensors(model, None, origin="m", max_memory_bytes=BUDGET)
    assert reason in str(caught.value)


def test_tensors_hide_in_subgraphs_functions_and_attributes():
    bad = TensorProto(name="bad", dims=[2], data_type=TensorProto.FLOAT, float_data=[1.0])
    branch = helper.make_graph([], "branch", [], [], [bad])
    for node in (
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Constant", [], ["y"], value=bad),
    ):
        for model in (made([node], {"x": [1]}, {}), made([], {"x": [1]}, {})):
            if not model.graph.node:
                model.functions.append(helper.make_function("d", "f", [], ["y"], [node], []))
            with pytest.raises(ModelError, match="tensor 'bad': shape 2 needs 2 numbers, the tensor holds 1"):
                load_tensors(model, None, origin="m", max_memory_bytes=BUDGET)


def test_graphs_in_graphs_have_an_end():
    model = onnx.ModelProto()
    graph = model.graph
    for _ in range(200):
        graph = graph.node.add(op_type="If").attribute.add(name="then_branch").g
        graph.name = "g"
    with pytest.raises(ModelError, match="nested more than 24 deep"):
        load_model(model)


def test_names_must_be_text():
    content = matmul().SerializeToString().replace(b"hostile", b"hos\xff\xfee!")
    model = onnx.ModelProto.FromString(content)
    with pytest.raises(ModelError, match="not UTF-8 text"):
        load_model(model)


@pytest.mark.parametrize("extent", [-1, -(2**63)])
def test_negative_extents_never_reach_shape_inference(extent: int):
    inside = helper.make_graph(
        [helper.make_node("Slice", ["b", "s", "s"], ["o"])],
        "branch",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [extent])],
        [numpy_helper.from_array(size(0), "s")],
    )
    with pytest.raises(ModelError, match="tensor 'o': no extent may be negative"):
        load_model(made([helper.make_node("If", ["x"], ["y"], then_branch=inside, else_branch=inside)], {"x": [1]}, {}))
    # Exporters write -1 for an input's extent that is not known.
    node = helper.make_node("Slice", ["x", "s", "s"], ["y"])
    with pytest.raises(ModelError, match="unknown input dims: 'x' has dims"):
        load_model(made([node], {"x": [extent]}, {"s": size(0)}))


def test_an_input_of_size_0_is_not_unknown():
    with pytest.raises(ModelError, match=r"input 'x': shape 0, 3 holds no element: every dim must be >= 1"):
        load_model(made([helper.make_node("Relu", ["x"], ["y"])], {"x": [0, 3]}, {}))


@pytest.mark.parametrize("extra", ["x", "w"])
def test_an_input_or_a_constant_may_be_an_output(extra: str):
    model = matmul()
    model.graph.output.append(helper.make_tensor_value_info(extra, TensorProto.FLOAT, None))
    assert len(load_model(model)["main"].ret_ty.fields) == 2


@pytest.mark.parametrize("axis", [2**32, 2**33 - 1, -(2**63)])
def test_an_axis_is_not_cut_to_32_bits(axis: int):
    for attributes in ({"axis": axis}, {"axes": [0, axis]}):
        with pytest.raises(ModelError, match="there is no such axis"):
            load_model(made([helper.make_node("Softmax", ["x"], ["y"], **attributes)], {"x": [2, 3]}, {}))


@pytest.mark.parametrize("inputs", [["x", ""], ["", "x"]])
@pytest.mark.parametrize("operator", ["Concat", "Max", "Add", "MatMul"])
def test_an_input_that_is_needed_is_not_left_out(operator: str, inputs: list[str]):
    attributes = {"axis": 0} if operator == "Concat" else {}
    with pytest.raises(ModelError, match="must not be left out"):
        load_model(made([helper.make_node(operator, inputs, ["y"], **attributes)], {"x": [2, 2]}, {}))
