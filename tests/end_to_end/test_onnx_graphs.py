"""Odd ONNX graphs: computed shapes are computed, every output of a node arrives, and invalid graphs are refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node


def model_of(nodes, shapes, outputs, constants, opset=13):
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weights(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype("float32")


def branch(name, nodes, output):
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, FLOAT, None)])


ints = np.array
COMPUTED = {
    "reshape by a cast and sliced shape": (
        [
            node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["s32"], to=TensorProto.INT32),
            node("Slice", ["s32", "zero", "one"], ["n"]), node("Cast", ["n"], ["n64"], to=INT64),
            node("Concat", ["n64", "rest"], ["t"], axis=0), node("Reshape", ["x", "t"], ["r"]),
            node("MatMul", ["r", "w"], ["y"]),
        ],
        {"x": (2, 3, 4)},
        {"zero": ints([0]), "one": ints([1]), "rest": ints([-1]), "w": weights(12, 5)},
    ),
    "shape of a reshaped tensor, twice": (
        [
            node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["n"]), node("Mul", ["n", "two"], ["m"]),
            node("Concat", ["m", "rest"], ["t"], axis=0), node("Reshape", ["x", "t"], ["r"]),
            node("Shape", ["r"], ["s2"]), node("Slice", ["s2", "one", "two"], ["k"]),
            node("Concat", ["rest", "k", "one"], ["t2"], axis=0), node("Reshape", ["r", "t2"], ["y"]),
        ],
        {"x": (3, 8)},
        {"i": ints([0]), "one": ints([1]), "two": ints([2]), "rest": ints([-1])},
    ),
    "pads from constants": (
        [
            node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(ints([0]))),
            node("Concat", ["z", "p"], ["a"], axis=0), node("Reshape", ["a", "sq"], ["b"]),
            node("Transpose", ["b"], ["d"], perm=[1, 0]), node("Reshape", ["d", "rest"], ["pads"]),
            node("Pad", ["x", "pads"], ["q"], mode="reflect"), node("MatMul", ["q", "w"], ["y"]),
        ],
        {"x": (2, 6)},
        {"n": ints([2]), "p": ints([1, 3]), "sq": ints([2, 2]), "rest": ints([-1]), "w": weights(10, 3)},
    ),
    "grid from a range": (
        [
            node("Conv", ["x", "w"], ["f"]), node("Shape", ["f"], ["s"]), node("Gather", ["s", "last"], ["n"]),
            node("Cast", ["n"], ["m"], to=FLOAT), node("Range", ["from", "m", "step"], ["r"]),
            node("Add", ["r", "half"], ["g"]), node("Sub", ["g", "f"], ["y"]),
        ],
        {"x": (1, 2, 5, 6)},
        {
            "w": weights(3, 2, 1, 1), "last": ints(3), "from": np.float32(0), "step": np.float32(1),
            "half": np.float32(0.5),
        },
    ),
    "where and equal choose a shape": (
        [
            node("Shape", ["x"], ["s"]), node("Equal", ["t", "minus"], ["c"]),
            node("ConstantOfShape", ["n"], ["ones"], value=numpy_helper.from_array(ints([1]))),
            node("Where", ["c", "ones", "t"], ["u"]), node("Expand", ["x", "u"], ["y"]),
        ],
        {"x": (1, 3)},
        {"t": ints([4, -1]), "minus": ints([-1]), "n": ints([2])},
    ),
    "branch on a fixed shape": (
        [
            node("Shape", ["x"], ["s"]), node("Gather", ["s", "i"], ["n"]), node("Equal", ["n", "one"], ["c"]),
            node(
                "If", ["c"], ["v"],
                then_branch=branch("then", [node("Squeeze", ["x", "axes"], ["t"])], "t"),
                else_branch=branch("else", [node("Identity", ["x"], ["e"])], "e"),
            ),
            node("MatMul", ["v", "w"], ["y"]),
        ],
        {"x": (1, 2, 4)},
        {"i": ints(0), "one": ints(1), "axes": ints([0]), "w": weights(4, 3)},
    ),
    "resize to a computed size": (
        [
            node("Shape", ["x"], ["s"]), node("Slice", ["s", "zero", "two"], ["head"]),
            node("Slice", ["s", "two", "four"], ["tail"]), node("Mul", ["tail", "two"], ["doubled"]),
            node("Concat", ["head", "doubled"], ["sizes"], axis=0),
            node("Resize", ["x", "", "", "sizes"], ["y"], mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric"),
        ],
        {"x": (1, 2, 3, 4)},
        {"zero": ints([0]), "two": ints([2]), "four": ints([4])},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_what_follows_from_fixed_shapes_is_computed(name):
    nodes, shapes, constants = COMPUTED[name]
    assert_computes(model_of(nodes, shapes, {"y": FLOAT}, constants))


def assert_computes(model):
    rng = np.random.default_rng(1)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    data = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    expected = ReferenceEvaluator(model).run(None, data)
    found = runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), list(data.values()))
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert got.dtype == want.dtype
        # Sums of at most 12 products of normal numbers.
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_sequences_of_constants_stay_sequences():
    nodes = [
        node("SequenceConstruct", ["a", "b"], ["s"]), node("ConcatFromSequence", ["s"], ["c"], axis=0),
        node("Add", ["x", "c"], ["y"]),
    ]  # fmt: skip
    assert_computes(model_of(nodes, {"x": (4, 3)}, {"y": FLOAT}, {"a": weights(2, 3), "b": weights(2, 3)}))


SEVERAL = {
    "values and indices": (
        [node("MatMul", ["x", "w"], ["a"]), node("TopK", ["a", "k"], ["v", "i"])],
        {"v": FLOAT, "i": INT64},
        {"k": ints([3])},
    ),
    "only the indices are used": (
        [
            node("MatMul", ["x", "w"], ["a"]), node("TopK", ["a", "k"], ["v", "i"]),
            node("Cast", ["i"], ["f"], to=FLOAT),
        ],
        {"f": FLOAT},
        {"k": ints([3])},
    ),
    "maxima and where they are": (
        [node("MatMul", ["x", "w"], ["a"]), node("Unsqueeze", ["a", "axes"], ["b"]),
         node("MaxPool", ["b"], ["y", "at"], kernel_shape=[2], strides=[2])],
        {"y": FLOAT, "at": INT64},
        {"axes": ints([0])},
    ),
    "parts of a split": (
        [node("MatMul", ["x", "w"], ["a"]), node("Split", ["a"], ["p", "q"], axis=1), node("Relu", ["q"], ["y"])],
        {"p": FLOAT, "y": FLOAT},
        {},
    ),
    "a dropout and its mask": (
        [node("MatMul", ["x", "w"], ["a"]), node("Dropout", ["a"], ["y", "mask"])],
        {"y": FLOAT, "mask": BOOL},
        {},
    ),
    "one tensor under three names": (
        [node("MatMul", ["x", "w"], ["a"]), node("Identity", ["a"], ["b"]), node("Identity", ["b"], ["c"])],
        {"a": FLOAT, "b": FLOAT, "c": FLOAT},
        {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SEVERAL)
def test_every_output_of_a_node_arrives(name):
    nodes, outputs, constants = SEVERAL[name]
    assert_computes(model_of(nodes, {"x": (2, 8)}, outputs, constants | {"w": weights(8, 6)}))


INVALID = {
    "letter that no operand has": ([node("Einsum", ["x", "w"], ["y"], equation="baj,jk->bik")], "Einsum"),
    "operands that the equation has not": ([node("Einsum", ["x", "w"], ["y"], equation="ij->i")], "Einsum"),
    "inner extents that differ": ([node("MatMul", ["w", "x"], ["y"])], "MatMul"),
    "shapes that do not broadcast": ([node("Add", ["x", "w"], ["y"])], "Add"),
    "axis out of range": ([node("Softmax", ["x"], ["y"], axis=7)], "Softmax"),
    "axes that are no permutation": ([node("Transpose", ["x"], ["y"], perm=[0, 2])], "Transpose"),
    "parts that do not add up": ([node("Split", ["x", "i"], ["y", "z"], axis=1)], "Split"),
    "two writers of one name": ([node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"])], "single static assignment"),
    "no such operator": ([node("Relux", ["x"], ["y"])], "Relux"),
    "attribute of a wrong type": ([node("Concat", ["x", "x"], ["y"], axis="one")], "Concat"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_graphs_are_refused_before_tvm_sees_them(name):
    nodes, said = INVALID[name]
    model = model_of(nodes, {"x": (2, 8)}, {"y": FLOAT}, {"w": weights(5, 6), "i": ints([3, 6])})
    with pytest.raises(ModelError, match="small: cannot import: not a valid ONNX model") as caught:
        load_model(model)
    assert said in str(caught.value)


def test_known_indices_outside_of_the_tensor_are_refused():
    model = model_of([node("Gather", ["x", "i"], ["y"], axis=1)], {"x": (2, 8)}, {"y": FLOAT}, {"i": ints([0, 8])})
    with pytest.raises(ModelError, match=r"'y' \(operator Gather\): index 8 is outside of axis 1, .* from -8 to 7 fit"):
        load_model(model)


NORMALISING = {
    "in training": (node("BatchNormalization", ["x", *"gbmv"], ["y", "o", "p"], training_mode=1), 15, "as in training"),
    "in training, as said before": (node("BatchNormalization", ["x", *"gbmv"], ["y", *"opqr"]), 9, "as in training"),
}


@pytest.mark.parametrize("name", NORMALISING)
def test_statistics_that_tvm_gets_wrong_are_refused(name):
    normalising, opset, said = NORMALISING[name]
    outputs = {output: FLOAT for output in normalising.output[:2] if output != "o"}
    vectors = {"g": weights(8), "b": weights(8), "m": weights(8), "v": weights(8) ** 2}
    used = {key: vectors[key] for key in normalising.input[1:]}
    with pytest.raises(ModelError, match=rf"'y' \(operator {normalising.op_type}\).*{said}"):
        load_model(model_of([normalising], {"x": (2, 8)}, outputs, used, opset))


@pytest.mark.parametrize(
    ("attributes", "shape"),
    [({"group": 3}, (6, 4, 3, 3)), ({"group": 32768}, (6, 4, 3, 3)), ({}, (6, 3, 3, 3)), ({"group": 2}, (5, 2, 3, 3)),
     ({"kernel_shape": [1, 3]}, (6, 4, 3, 3))],
)  # fmt: skip
def test_a_convolution_whose_weights_do_not_suit_its_input_is_refused(attributes, shape):
    nodes = [node("Conv", ["x", "w"], ["y"], **attributes)]
    with pytest.raises(ModelError, match=r"'y' \(operator Conv\): weights .* do not suit 4 input channels"):
        load_model(model_of(nodes, {"x": (1, 4, 8, 8)}, {"y": FLOAT}, {"w": weights(*shape)}))


@pytest.mark.parametrize("operator", ["Conv", "MaxPool", "AveragePool"])
def test_a_window_larger_than_its_image_is_refused(operator):
    attributes = {} if operator == "Conv" else {"kernel_shape": [3, 3]}
    nodes = [node(operator, ["x", "w"] if operator == "Conv" else ["x"], ["y"], name="seen", **attributes)]
    model = model_of(
        nodes, {"x": (1, 4, 2, 2)}, {"y": FLOAT}, {"w": weights(6, 4, 3, 3)} if "w" in nodes[0].input else {}
    )
    with pytest.raises(ModelError, match=rf"'seen' \(operator {operator}\): its window is larger .* of \[1, 4, 2, 2\]"):
        load_model(model)


@pytest.mark.parametrize(("shape", "said"), [((1, 5, 8, 8), "do not suit 5"), ((1, 4, 2, 2), "window is larger")])
def test_shapes_that_are_not_the_models_are_named_before_what_they_break(shape, said):
    nodes = [node("Conv", ["x", "w"], ["y"])]
    model = model_of(nodes, {"x": (1, 4, 8, 8)}, {"y": FLOAT}, {"w": weights(6, 4, 3, 3)})
    with pytest.raises(ModelError, match=rf"with shapes that are not the model's \(dim . of input 'x' is .* {said}"):
        load_model(model, shapes={"x": shape})


def test_a_dropout_in_training_is_refused():
    nodes = [node("Dropout", ["x", "ratio", "training"], ["y"], name="drop")]
    constants = {"ratio": np.float32(0.5), "training": np.array(True)}
    with pytest.raises(ModelError, match=r"'drop' \(operator Dropout\) drops at random, as in training"):
        load_model(model_of(nodes, {"x": (2, 8)}, {"y": FLOAT}, constants))
    load_model(model_of(nodes, {"x": (2, 8)}, {"y": FLOAT}, {**constants, "training": np.array(False)}))


UNDEFINED = {
    "use before definition": [node("Relu", ["a"], ["y"]), node("Exp", ["x"], ["a"])],
    "no definition": [node("Relu", ["a"], ["y"])],
}


@pytest.mark.parametrize("name", UNDEFINED)
def test_a_name_that_nothing_defines_is_named(name):
    model = model_of(UNDEFINED[name], {"x": (2, 8)}, {"y": FLOAT}, {})
    with pytest.raises(ModelError, match="nothing before its use defines 'a'"):
        load_model(model)


UNKNOWN = {
    "LSTM": node("LSTM", ["x", "w", "w"], ["y"], name="cell", hidden_size=4),
    "RandomUniformLike": node("RandomUniformLike", ["x"], ["y"], name="dice"),
}


@pytest.mark.parametrize("operator", UNKNOWN)
def test_what_cannot_be_imported_is_named(operator):
    model = model_of([UNKNOWN[operator]], {"x": (5, 1, 8)}, {"y": FLOAT}, {"w": weights(1, 16, 8)})
    with pytest.raises(ModelError, match=rf"small: cannot import: node '\w+' \(operator {operator}\): "):
        load_model(model)


def test_wrong_declared_shapes_of_outputs_decide_nothing():
    model = model_of([node("Relu", ["x"], ["y"])], {"x": (2, 8)}, {"y": FLOAT}, {})
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, [3, 7]))
    assert_computes(model)


def test_large_constants_keep_their_numbers():
    # 150 x 120 = 18,000 elements are data, not something that shapes are computed from.
    constants = {"w": weights(150, 120), "n": ints([1])}
    nodes = [
        node("Shape", ["x"], ["s"]), node("Concat", ["s", "n"], ["t"], axis=0), node("MatMul", ["x", "w"], ["a"]),
        node("Unsqueeze", ["a", "n"], ["y"]),
    ]  # fmt: skip
    folded = extract(load_model(model_of(nodes, {"x": (1, 150)}, {"y": FLOAT}, constants)))
    data = np.eye(1, 150, 3, dtype="float32")
    (found,) = runtime.run(runtime.build(folded.mod, "edge-256"), [data])
    np.testing.assert_array_equal(found.ravel(), constants["w"][3])


def test_an_open_batch_is_one_and_a_name_is_one_number(caplog):
    nodes = [node("Add", ["x", "z"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    model = model_of(nodes, {"x": ("batch", 8), "z": ("batch", 8)}, {"y": FLOAT}, {"w": weights(8, 3)})
    assert [int(dim) for dim in load_model(model)["main"].ret_ty.shape.values] == [1, 3]
    assert "open batch dim of 'x', 'z' taken as 1" in caplog.text
    bound = load_model(model, shapes={"x": (5, 8)})
    assert [int(dim) for dim in bound["main"].ret_ty.shape.values] == [5, 3]


def test_a_small_result_spread_over_an_image_is_no_epilogue():
    nodes = [
        node("GlobalAveragePool", ["x"], ["p"]), node("Conv", ["p", "w"], ["a"]), node("HardSigmoid", ["a"], ["s"]),
        node("Mul", ["x", "s"], ["m"]), node("Conv", ["m", "w"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, {"x": (1, 8, 6, 6)}, {"y": FLOAT}, {"w": weights(8, 8, 1, 1)})
    found = extract(load_model(model)).graph
    assert len([task for task in found.tasks if hasattr(task.work, "macs")]) == 2
    assert not found.host_calls
    assert_computes(model)


def test_branches_that_the_data_chooses_are_both_computed():
    nodes = [
        node("ReduceSum", ["x"], ["t"], keepdims=0), node("Greater", ["t", "zero"], ["c"]),
        node(
            "If", ["c"], ["v"],
            then_branch=branch("then", [node("MatMul", ["x", "w"], ["a"])], "a"),
            else_branch=branch("else", [node("Neg", ["x"], ["n"]), node("MatMul", ["n", "w"], ["b"])], "b"),
        ),
        node("Relu", ["v"], ["y"]),
    ]  # fmt: skip
    model = model_of(nodes, {"x": (2, 8)}, {"y": FLOAT}, {"w": weights(8, 6), "zero": np.float32(0)})
    found = extract(load_model(model)).graph
    assert sum(task.count for task in found.tasks if hasattr(task.work, "macs")) == 2
    assert not found.host_calls
    assert_computes(model)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [1, 0, 2, 1, 1, 0], "strides": [2, 1, 1]}, {"dilations": [2, 1, 1], "group": 2},
     {"auto_pad": "SAME_UPPER", "strides": [2, 2, 1]}],
)  # fmt: skip
def test_a_convolution_over_a_volume_is_a_layer(attributes):
    kernel = weights(6, 4 // attributes.get("group", 1), 3, 2, 3)
    model = model_of(
        [node("Conv", ["x", "w", "b"], ["y"], **attributes)], {"x": (1, 4, 6, 5, 7)}, {"y": FLOAT},
        {"w": kernel, "b": weights(6)},
    )  # fmt: skip
    (task,) = [task for task in extract(load_model(model)).graph.tasks if hasattr(task.work, "macs")]
    (made,) = ReferenceEvaluator(model).run(None, {"x": np.zeros((1, 4, 6, 5, 7), "float32")})
    assert task.work.macs == made.size * kernel[0].size
    assert_computes(model)
