"""What TVM's importer reads over: attributes, scales and types that change the numbers."""

from __future__ import annotations

import inspect
import re

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm.relax.frontend.onnx import onnx_frontend

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.onnx.ignored import IGNORED, WITHOUT_EFFECT

node = helper.make_node
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model_of(nodes, shapes, constants, opset, outputs=("y",), kind=FLOAT):
    graph = helper.make_graph(
        nodes, "odd", [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def normal(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype("float32")


def computed(model, data):
    return runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), list(data.values()))


IMAGE = {"x": (1, 2, 5, 6)}
HEADS = {"q": (1, 4, 1, 8), "k": (1, 2, 1, 8), "v": (1, 2, 1, 8), "pk": (1, 2, 5, 8), "pv": (1, 2, 5, 8)}
TABLES = {"c": normal(9, 4), "s": normal(9, 4), "p": np.array([[0, 1, 2, 5]])}


def scaled(*scales, **attributes):
    model_node = node("Resize", ["x", "", "scales"], ["y"], **attributes)
    return model_of([model_node], IMAGE, {"scales": np.array(scales, "float32")}, 19)


def sized(*sizes, **attributes):
    return model_of([node("Resize", ["x", "", "", "sizes"], ["y"], **attributes)], IMAGE, {"sizes": [*sizes]}, 18)


def transposed(**attributes):
    return model_of([node("ConvTranspose", ["x", "w"], ["y"], **attributes)], IMAGE, {"w": normal(2, 3, 3, 3)}, 18)


CASES = {
    "fractional scales": scaled(1, 1, 1.7, 2.3, mode="cubic", cubic_coeff_a=-0.5),
    "fractional scales of nearest": scaled(
        1, 1, 2.5, 0.7, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
    ),
    "symmetric coordinates": scaled(1, 1, 2, 1.5, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"),
    "channels last": scaled(1, 2, 2, 1, mode="nearest"),
    "antialias": scaled(1, 1, 0.8, 0.5, mode="linear", antialias=1),
    "aspect ratio": sized(9, 9, mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    "whole scales": scaled(1, 1, 2, 3, mode="linear"),
    "transposed to a larger shape": transposed(strides=[2, 2], output_shape=[12, 14]),
    "infinite": model_of([node("IsInf", ["x"], ["y"], detect_negative=0)], IMAGE, {}, 20),
    "rotary with constant tables": model_of(
        [node("RotaryEmbedding", ["x", "c", "s", "p"], ["y"], interleaved=1)], {"x": (1, 2, 4, 8)}, TABLES, 23
    ),
    "attention with constant mask": model_of(
        [node("Attention", [*"qkvm"], ["y"])], {**dict.fromkeys("qkv", (1, 2, 6, 8))}, {"m": normal(6, 6)}, 23
    ),
    "attention with a cache": model_of(
        [node("Attention", ["q", "k", "v", "", "pk", "pv"], ["y", "nk", "nv"])], HEADS, {}, 23, ("y", "nk", "nv")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_nothing_is_read_over(name):
    model = CASES[name]
    data = {
        each.name: normal(*(dim.dim_value for dim in each.type.tensor_type.shape.dim)) for each in model.graph.input
    }
    if name == "infinite":
        data["x"][0, 0, 0, :3] = np.inf, -np.inf, np.nan
    for got, want in zip(computed(model, data), ReferenceEvaluator(model).run(None, data), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("operator", "opset"), [("Upsample", 9), ("Resize", 10)])
@pytest.mark.parametrize("scales", [(1, 1, 1.7, 1.3), (1, 1, 2, 3), (1, 1, 0.6, 1), (1, 2, 2, 1)])
def test_nearest_of_old_stands_at_index_over_scale(operator, opset, scales):
    scales = np.array(scales, "float32")
    model = model_of([node(operator, ["x", "s"], ["y"], mode="nearest")], IMAGE, {"s": scales}, opset)
    want = x = normal(*IMAGE["x"])
    for axis, scale in enumerate(scales):
        places = np.arange(int(np.float32(x.shape[axis]) * scale), dtype="float32") / scale
        want = want.take(np.floor(places).astype(int), axis=axis)
    np.testing.assert_array_equal(computed(model, {"x": x})[0], want)


def test_linear_of_old_is_interpolated_at_index_over_scale():
    scales = np.array([1, 1, 1.7], "float32")
    model = model_of([node("Resize", ["x", "s"], ["y"], mode="linear")], {"x": (1, 2, 5)}, {"s": scales}, 10)
    x = normal(1, 2, 5)
    want = [[np.interp(np.arange(8) / 1.7, np.arange(5), row) for row in x[0]]]
    np.testing.assert_allclose(computed(model, {"x": x})[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("depth", [np.array(5), np.array([5])])
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("kind", ["float32", "int64", "float16"])
def test_one_hot_has_the_type_of_its_values(depth, axis, kind):
    values = np.array([3, 2], kind)
    model = model_of([node("OneHot", ["x", "d", "v"], ["y"], axis=axis)], {"x": (4,)}, {"d": depth, "v": values}, 18,
                     kind=INT64)  # fmt: skip
    x = np.array([1, -1, 4, 7])  # from the end, and none
    want = np.where((x[:, None] == np.arange(5)) | (x[:, None] == np.arange(-5, 0)), values[1], values[0])
    got = computed(model, {"x": x})[0]
    assert got.dtype == kind
    np.testing.assert_array_equal(got, want if axis == -1 else want.T)


def test_a_transposed_convolution_is_cut_to_its_shape():
    """ONNX's reference cannot do it: the padding that its definition asks for is written out."""
    x = normal(*IMAGE["x"])
    for auto_pad, pads in (("NOTSET", [1, 0, 0, 0]), ("SAME_UPPER", [0, 0, 1, 0])):
        got = computed(transposed(strides=[3, 2], output_shape=[14, 13], auto_pad=auto_pad), {"x": x})[0]
        want = ReferenceEvaluator(transposed(strides=[3, 2], pads=pads)).run(None, {"x": x})[0]
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_what_is_refused_names_its_node():
    model = model_of([node("BeamSearch", ["x"], ["y"], name="beam", domain="com.microsoft")], IMAGE, {}, 18)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, (1, 2)))
    said = r"odd: cannot import: node 'beam' \(operator BeamSearch\): .* unknown to the importer; nor can ONNX's"
    with pytest.raises(ModelError, match=said):
        load_model(model)


def test_a_body_on_the_host_reads_constants_of_the_graph_around_it():
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("MatMul", ["i", "w"], ["t"]), node("Add", ["s", "t"], ["n"]), node("Tanh", ["n"], ["o"])], "body",
        [value("s", FLOAT, (2, 4)), value("i", FLOAT, (2, 4))], [value("n", FLOAT, (2, 4)), value("o", FLOAT, (2, 4))],
    )  # fmt: skip
    scan = node("Scan", ["s0", "x"], ["last", "y"], body=body, num_scan_inputs=1)
    model = model_of([scan], {"s0": (2, 4), "x": (3, 2, 4)}, {"w": normal(4, 4)}, 18, ("last", "y"))
    s = normal(2, 4)
    data = {"s0": s, "x": normal(3, 2, 4)}
    rows = []
    for x in data["x"]:
        s = s + x @ normal(4, 4)
        rows.append(np.tanh(s))
    last, y = computed(model, data)
    np.testing.assert_allclose(last, s, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, rows, rtol=1e-5, atol=1e-5)


def test_a_range_between_vectors_is_named():
    """ONNX wants scalars; vectors ended in an error of numpy."""
    several = {"from": np.zeros(2, "int64"), "to": np.full(2, 3, "int64"), "by": np.ones(2, "int64")}
    nodes = [node("Range", ["from", "to", "by"], ["r"], name="steps"), node("Cast", ["r"], ["c"], to=FLOAT),
             node("Add", ["x", "c"], ["y"])]  # fmt: skip
    with pytest.raises(ModelError, match="steps"):
        load_model(model_of(nodes, {"x": (3,)}, several, 18))


def test_a_range_whose_length_is_computed_is_named_where_somebody_reads_it():
    """As an output it is computed; in front of others TVM's fusion reads its length before it is known."""
    ends = {"from": np.float32(0), "by": np.float32(1)}
    last = node("ReduceMax", ["x"], ["to"], keepdims=0)
    for behind in ([], [node("Cos", ["r"], ["y"])]):
        nodes = [last, node("Range", ["from", "to", "by"], ["r" if behind else "y"], name="steps"), *behind]
        model = model_of(nodes, {"x": (3,)}, ends, 17)
        if behind:
            with pytest.raises(ModelError, match="'steps'.*its input 'limit' depends on the data"):
                load_model(model)
        else:
            (y,) = computed(model, {"x": np.array([1, 4, 2], "float32")})
            np.testing.assert_array_equal(y, [0, 1, 2, 3])


def test_an_input_of_texts_is_named():
    model = model_of([node("Relu", ["x"], ["y"])], {"x": (2,)}, {}, 18)
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, (2,)))
    with pytest.raises(ModelError, match="input 'words' is a tensor of texts; cut the model behind"):
        load_model(model)


def test_every_attribute_that_no_converter_names_is_known():
    missed: dict[str, set[str]] = {}
    for operator, converter in onnx_frontend._get_convert_map().items():
        text = "".join(
            inspect.getsource(base) for base in converter.__mro__
            if base.__module__ == onnx_frontend.__name__ and base is not onnx_frontend.OnnxOpConverter
        )  # fmt: skip
        attributes: set[str] = set()
        for opset in range(9, onnx.defs.onnx_opset_version() + 1):
            if onnx.defs.has(operator, opset, ""):
                attributes |= set(onnx.defs.get_schema(operator, opset).attributes)
        unread = {name for name in attributes if not re.search(rf"[\"']{name}[\"']", text)}
        reduced = {"reduction"} if operator.startswith("Scatter") else set()  # read through a helper
        missed[operator] = unread - reduced - {*IGNORED.get(operator, ()), *WITHOUT_EFFECT.get(operator, ())}
    assert {operator: names for operator, names in missed.items() if names} == {}
