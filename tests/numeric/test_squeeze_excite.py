"""Squeeze-excite and hard activations stay on the accelerator, in every form, and compute what onnxruntime does."""

from __future__ import annotations

import math

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from tvm import relax

from tests.squeeze_excite import GATE, HARD_SWISH, POOL, SMALL, network
from tvm_spm.deploy import runtime
from tvm_spm.frontend import extract, load_model
from tvm_spm.workload import Workload

FORMS = [
    *({"swish": swish} for swish in HARD_SWISH),
    *({"gate": gate} for gate in GATE),
    *({"pool": pool, "gate": gate} for pool, gate in zip(POOL, GATE, strict=True)),
]


def run(model, data):
    """The tasks, and what they compute."""
    extraction = extract(load_model(model))
    return extraction.graph, runtime.run(runtime.build(extraction.mod, "edge-256"), list(data.values()))


@pytest.mark.parametrize("form", FORMS, ids=lambda form: ", ".join(f"{k} {v}" for k, v in form.items()))
def test_all_of_it_is_layers_and_short_vector_work(form):
    model = network(SMALL, 16, **form)
    graph = extract(load_model(model)).graph
    assert [call for call in graph.host_calls if "a view" not in call.reason] == []
    layers = [graph.tasks[node.task] for node in graph.nodes]
    # A 3x3 layer before all; per block one per channel, two of the excitation and one behind, wider ones one before.
    assert sum(isinstance(task.work, Workload) for task in layers) == 1 + 3 * 4 + 2
    vectors = [task.work for task in layers if not isinstance(task.work, Workload)]
    # Means and products with them, once a block each; element-wise work is part of the layer before it.
    assert len(vectors) == 3 * 2
    # A bias, and add, largest, least, product and quotient of a hard swish.
    assert max(task.work.epilogue.num_ops_per_elem for task in layers if isinstance(task.work, Workload)) <= 6


@pytest.mark.parametrize("form", [FORMS[4], FORMS[5], FORMS[-1]], ids=str)
def test_it_computes_what_onnxruntime_does(form):
    data = {"data": np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype("float32")}
    model = network(SMALL, 16, **form)
    _, found = run(model, data)
    wanted = onnxruntime.InferenceSession(model.SerializeToString()).run(None, data)
    np.testing.assert_allclose(found[0], wanted[0], rtol=0, atol=1e-4 * np.abs(wanted[0]).max())


def clip_of(low, high, dtype, *, opset=13, given=()):
    """``Clip`` of x; bounds named in ``given`` are inputs of the model."""
    bounds = {"low": low, "high": high}
    names = ["" if value is None else name for name, value in bounds.items()]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info("x", kind, [4, 6])]
    inputs += [helper.make_tensor_value_info(name, kind, []) for name in given]
    constants = [
        numpy_helper.from_array(np.array(value, dtype), name)
        for name, value in bounds.items()
        if value is not None and name not in given
    ]
    node = helper.make_node("Clip", ["x", *names], ["y"])
    if opset < 11:
        attributes = {key: float(value) for key, value in (("min", low), ("max", high)) if value is not None}
        node, constants = helper.make_node("Clip", ["x"], ["y"], **attributes), []
    graph = helper.make_graph([node], "clip", inputs, [helper.make_tensor_value_info("y", kind, [4, 6])], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


CLIPS = [
    (0, 6, "float32", {}), (None, 2, "float32", {}), (-1, None, "float32", {}), (3, -3, "float32", {}),
    (np.nan, 2, "float32", {}), (-np.inf, 2, "float32", {}), (np.inf, None, "float32", {}),
    (0, 6, "float32", {"opset": 10}), (None, 2, "float32", {"opset": 10}), (-2, 3, "int32", {}), (-2, 3, "int64", {}),
    (0, 6, "float32", {"given": ("low",)}), (0, 6, "float32", {"given": ("low", "high")}),
]  # fmt: skip


@pytest.mark.parametrize(("low", "high", "dtype", "more"), CLIPS, ids=str)
def test_a_clip_has_the_bounds_it_is_given(low, high, dtype, more):
    model = clip_of(low, high, dtype, **more)
    data = {"x": np.linspace(-8, 8, 24).reshape(4, 6).astype(dtype)}
    data |= {name: np.array({"low": low, "high": high}[name], dtype) for name in more.get("given", ())}
    graph, found = run(model, data)
    wanted = data["x"]
    # Largest first, as ONNX writes it; a bound that is no number is none.
    wanted = wanted if low is None or low != low else np.maximum(wanted, np.array(low, dtype))
    wanted = wanted if high is None or high != high else np.minimum(wanted, np.array(high, dtype))
    np.testing.assert_array_equal(found[0], wanted)
    if not more.get("given"):
        ops = [task.work.num_ops // 24 for task in graph.tasks]
        assert sum(ops) <= 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_clip_of_one_side_is_one_step(dtype):
    """As PyTorch's ``clamp(min=0)`` and ``clamp(max=6)`` are imported."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((4, 6), dtype))
    with builder.function("main", [x], attrs={"num_input": 1}):
        with builder.dataflow():
            low = builder.emit(relax.op.clip(x, 0, math.inf))
            high = builder.emit(relax.op.clip(low, -math.inf, 6))
            found = builder.emit_output(relax.op.clip(high, -math.inf, math.inf))
        builder.emit_func_output(found)
    extraction = extract(builder.get())
    assert sum(task.work.num_ops for task in extraction.graph.tasks) == 2 * 24
    data = np.linspace(-8, 8, 24).reshape(4, 6).astype(dtype)
    (out,) = runtime.run(runtime.build(extraction.mod, "edge-256"), [data])
    np.testing.assert_array_equal(out, np.clip(data, 0, 6))


def test_many_tensors_are_compared_pair_by_pair():
    shapes = {"x": [4, 6], "y": [1, 6], "z": [4, 6]}
    rng = np.random.default_rng(2)
    data = {name: rng.standard_normal(shape).astype("float32") for name, shape in shapes.items()}
    graph = helper.make_graph(
        [helper.make_node("Max", ["x", "y", "z", "one"], ["top"]), helper.make_node("Min", ["top", "z"], ["out"])],
        "least", [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("out", 1, None)], [numpy_helper.from_array(np.float32([0.5]), "one")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    tasks, found = run(model, data)
    x, y, z = data.values()
    np.testing.assert_array_equal(found[0], np.minimum(np.maximum(np.maximum(np.maximum(x, y), z), 0.5), z))
    assert sum(task.work.num_ops for task in tasks.tasks) == 4 * 24
