"""ONNX's own tests of its operators: a sample of all, and one of each kind that TVM's importer took for another."""

from __future__ import annotations

import numpy as np
import onnx_operators
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_operators import FOLDED, HOST, NATIVE, REFUSED, WRONG

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model

SAMPLED = 80
"""Every how manieth test is run."""

KINDS = {
    ("attention_24_qk_matmul_output_mode3_softmax_precision", 24): NATIVE,  # rows of which nothing is seen
    ("bitshift_right_uint8", 11): NATIVE,
    ("bitshift_left_int32_shift_ge_width", 28): HOST,
    ("cast_FLOAT_to_FLOAT8E4M3FN", 28): HOST,
    ("cast_FLOAT_to_UINT4", 28): REFUSED,
    ("det_2d", 11): HOST,  # a scalar from the host
    ("group_normalization_example", 21): NATIVE,
    ("gru_seq_length", 7): NATIVE,
    ("hannwindow", 17): FOLDED,  # the data decides the shape
    ("layer_normalization_default_axis", 17): NATIVE,  # with its statistics
    ("mish", 18): NATIVE,
    ("mod_float_edge_cases_fmod_0_float32", 28): HOST,
    ("mvn", 13): NATIVE,  # without axes
    ("nonmaxsuppression_iou_threshold_boundary", 11): NATIVE,
    ("pow_types_float32_int64", 15): NATIVE,
    ("pow_types_int64_int64", 15): HOST,
    ("reduce_l1_default_axes_keepdims_example", 11): NATIVE,  # a list without an element
    ("rms_normalization_4d_axis1", 23): NATIVE,
    ("roialign_mode_max", 16): HOST,
    ("sce_sum", 13): NATIVE,  # a scalar
    ("slice_default_axes", 7): NATIVE,
    ("string_concat", 20): REFUSED,
    ("swiglu", 28): NATIVE,  # a body with a body in it
    ("top_k", 10): NATIVE,
    ("training_dropout_default", 22): REFUSED,
}  # fmt: skip
"""Test and opset, and how it is covered; some are newer than the oldest ``onnx`` supported."""


@pytest.fixture(scope="module")
def cases():
    return list(onnx_operators.cases())


def test_a_sample_of_all_operators_computes_what_onnx_says(cases):
    found = [(case, onnx_operators.outcome(case)) for case in cases[::SAMPLED]]
    known = [(case, *outcome) for case, outcome in found if outcome is not None]
    assert [(case.name, case.opset, why) for case, status, why in known if status == WRONG] == []
    natives = [case.name for case, status, _ in known if status == NATIVE]
    assert len(natives) > 0.7 * len(known)
    assert len(known) > 20


def test_what_was_read_as_something_else(cases):
    chosen = {(case.name, case.opset): case for case in cases if (case.name, case.opset) in KINDS}
    assert len(chosen) > len(KINDS) / 2
    found = {key: onnx_operators.outcome(case) for key, case in chosen.items()}
    assert {key: outcome[0] for key, outcome in found.items()} == {key: KINDS[key] for key in chosen}, found


def value(name, shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, constants=(), sparse=(), opset=17):
    graph = helper.make_graph(
        nodes, "net", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
        sparse_initializer=sparse,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


X = np.arange(12, dtype="float32").reshape(3, 4)


def run(model, **options):
    return runtime.run(runtime.build(extract(load_model(model, **options)).mod, "edge-256"), [X])


def sparse_of(name, indices):
    values = numpy_helper.from_array(np.array([2, 3], "float32"), name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices, np.int64), ""), [4, 2])


@pytest.mark.parametrize("indices", [[1, 6], [[0, 1], [3, 0]]])
def test_constants_of_which_most_numbers_are_zero(indices):
    model = model_of(
        [helper.make_node("Constant", [], ["c"], sparse_value=sparse_of("", indices)),
         helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["x", "c"], ["b"]),
         helper.make_node("Add", ["a", "b"], ["y"])],
        [value("x", (3, 4))], sparse=[sparse_of("w", indices)],
    )  # fmt: skip
    weights = np.array([[0, 2], [0, 0], [0, 0], [3, 0]], "float32")
    np.testing.assert_array_equal(run(model)[0], 2 * (X @ weights))


def test_a_sparse_constant_outside_of_its_shape_is_named():
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", (3, 4))], sparse=[sparse_of("w", [1, 8])]
    )
    with pytest.raises(ModelError, match=r"net: cannot import: .*'?w'?"):
        load_model(model)


TOP = model_of(
    [helper.make_node("Add", ["k", "one"], ["more"]), helper.make_node("TopK", ["x", "more"], ["y", "i"])],
    [value("x", (3, 4)), value("k", ["n"], TensorProto.INT64)], {"one": np.array([1])},
)  # fmt: skip


def test_a_number_of_largest_that_follows_from_a_given_value():
    np.testing.assert_array_equal(run(TOP, values={"k": 1})[0], X[:, :1:-1])
    with pytest.raises(ModelError, match=r"\(operator TopK\): TopK k must be a constant; .*\(--value NAME=NUMBERS\)"):
        load_model(TOP, shapes={"k": (1,)})


def test_shapes_that_are_not_the_models_are_shown_beside_what_they_break():
    model = model_of([helper.make_node("Add", ["x", "w"], ["y"])], [value("x", (3, 4))], {"w": X})
    with pytest.raises(
        ModelError, match=r"not the model's \(dim 1 of input 'x' is 4, 5 is given\): .*Incompatible dimensions"
    ):
        load_model(model, shapes={"x": (3, 5)})


def test_an_input_that_is_no_tensor_is_named():
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [3]))
    nodes = [helper.make_node("ConcatFromSequence", ["s"], ["y"], name="join", axis=0)]
    model = model_of(nodes, [helper.make_value_info("s", kind)])
    with pytest.raises(
        ModelError, match=r"input 's' is a sequence, no tensor, which node 'join' .* reads; cut the model"
    ):
        load_model(model)


@pytest.mark.parametrize(
    ("shape", "more"),
    [
        ((2, 2, 6, 6), {"kernel_shape": [2, 2]}),
        ((1, 3, 6, 5), {"kernel_shape": [3, 2], "pads": [1, 1, 1, 0]}),
        ((2, 1, 7, 7), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ((1, 2, 5, 7), {"kernel_shape": [3, 2], "dilations": [1, 2], "storage_order": 1}),
        ((1, 2, 6, 6), {"kernel_shape": [3, 3], "strides": [2, 1], "auto_pad": "SAME_UPPER"}),
        ((1, 2, 9), {"kernel_shape": [3]}),
        ((1, 2, 4, 4, 4), {"kernel_shape": [2, 2, 2]}),
    ],
)
def test_where_the_largest_of_a_window_lies(shape, more):
    """The first of several; ONNX's own reference is wrong where windows move by one element."""
    kinds = [("x", TensorProto.FLOAT, shape), ("y", TensorProto.FLOAT, None), ("i", TensorProto.INT64, None)]
    data, *results = [helper.make_tensor_value_info(*each) for each in kinds]
    graph = helper.make_graph([helper.make_node("MaxPool", ["x"], ["y", "i"], **more)], "largest", [data], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    x = np.random.default_rng(0).integers(0, 9, shape).astype("float32")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    extraction = extract(load_model(model))
    assert not extraction.graph.host_calls
    for got, wanted in zip(
        runtime.run(runtime.build(extraction.mod, "edge-256"), [x]), session.run(None, {"x": x}), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)
