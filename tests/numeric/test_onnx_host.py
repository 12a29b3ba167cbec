"""ONNX nodes that TVM does not take: written out where ONNX says how, else evaluated by its reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import tvm_spm
from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def model_of(nodes, inputs, constants=(), opset=18):
    graph = helper.make_graph(
        nodes, "odd", [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def weights(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype("float32")


QKV = [(name, FLOAT, (1, 4 if name == "q" else 2, 8, 16)) for name in "qkv"]
CASES = {
    "Celu": (model_of([node("Celu", ["x"], ["y"], alpha=2.0)], [("x", FLOAT, (3, 4))]), False),
    "Swish": (model_of([node("Swish", ["x"], ["y"])], [("x", FLOAT, (3, 4))], opset=24), False),
    "grouped heads": (model_of([node("Attention", [*"qkv"], ["y"], is_causal=1)], QKV, opset=23), False),
    "RotaryEmbedding": (
        model_of(
            [node("RotaryEmbedding", ["x", "c", "s"], ["y"])],
            [("x", FLOAT, (1, 2, 4, 8)), ("c", FLOAT, (1, 4, 4)), ("s", FLOAT, (1, 4, 4))], opset=23,
        ),
        False,
    ),
    "LpNormalization": (model_of([node("LpNormalization", ["x"], ["y"], axis=1)], [("x", FLOAT, (3, 4))]), False),
    "Det": (model_of([node("Det", ["x"], ["y"])], [("x", FLOAT, (3, 4, 4))]), True),
    "ReverseSequence": (
        model_of(
            [node("ReverseSequence", ["x", "n"], ["y"], batch_axis=1, time_axis=0)], [("x", FLOAT, (4, 2))],
            [("n", np.array([3, 1]))],
        ),
        True,
    ),
    "between convolutions": (
        model_of(
            [node("Conv", ["x", "w"], ["a"]), node("ReverseSequence", ["a", "n"], ["b"], batch_axis=1, time_axis=0),
             node("Conv", ["b", "v"], ["y"])],
            [("x", FLOAT, (2, 4, 8, 8))],
            [("w", weights(8, 4, 3, 3)), ("v", weights(4, 8, 1, 1)), ("n", np.array([2, 1, 2, 1, 1, 2, 2, 1]))],
        ),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_odd_operator_keeps_no_network_out(name):
    model, is_on_host = CASES[name]
    rng = np.random.default_rng(2)
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input}
    data = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    found = extract(load_model(model))
    got = runtime.run(runtime.build(found.mod, "edge-256"), list(data.values()))[0]
    want = ReferenceEvaluator(model).run(None, data)[0]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    assert any(call.name.startswith("onnx.") for call in found.graph.host_calls) == is_on_host


def test_a_network_with_a_node_on_the_host_is_tuned_and_says_so():
    result = tvm_spm.tune(CASES["between convolutions"][0], "spm/edge-256", trials=2)
    assert result.verified
    assert len(result.tasks) == 2
    lines = str(result).splitlines()
    assert lines[0] == "2 tasks on edge-256 for least edp, verified:"
    assert any(line.startswith("  on the host: ") and "onnx.ReverseSequence" in line for line in lines)
    assert lines[-1].startswith(f"network: {result.cost.cycles:,} cycles")


def test_upsampling_by_scales_that_are_an_input():
    model = model_of(
        [node("Upsample", ["x", "s"], ["y"], mode="nearest")], [("x", FLOAT, (1, 2, 3, 4))],
        [("s", np.array([1, 1, 2, 3], "float32"))], opset=9,
    )  # fmt: skip
    x = weights(1, 2, 3, 4)
    got = runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), [x])[0]
    np.testing.assert_array_equal(got, x.repeat(2, axis=2).repeat(3, axis=3))


def test_what_the_reference_lacks_too_is_named():
    model = model_of([node("RandomUniformLike", ["x"], ["y"], name="dice")], [("x", FLOAT, (2, 3))])
    with pytest.raises(ModelError, match=r"odd: cannot import: node 'dice' \(operator RandomUniformLike\)"):
        load_model(model)


def test_functions_of_the_model_are_written_out():
    function = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    model = model_of([node("Twice", ["x"], ["y"], domain="own")], [("x", FLOAT, (2, 3))])
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("own", 1))
    x = weights(2, 3)
    np.testing.assert_array_equal(runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), [x])[0], 2 * x)
