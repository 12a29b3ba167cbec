"""Numbers of 16 bits are added up in more, and rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tvm import relax, tirx

from tvm_spm.deploy.runtime import build, run
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract
from tvm_spm.frontend.load import load_model

SHAPE = (2, 3, 64, 64)
"""Means of 4,096 numbers."""

LARGEST_ERROR = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Of one rounding, of a number of 1."""

pool, op = relax.op.nn, relax.op

Floats = NDArray[np.float64]

OPERATORS: dict[str, tuple[Callable[[relax.Expr], relax.Expr], Callable[[Floats], Floats]]] = {
    "mean": (lambda x: op.mean(x, [2, 3]), lambda x: x.mean((2, 3))),
    "mean of all": (lambda x: op.mean(x), lambda x: x.mean()),
    "sum": (lambda x: op.sum(x, [1, 3], keepdims=True), lambda x: x.sum((1, 3), keepdims=True)),
    "product": (lambda x: op.prod(x, [1]), lambda x: x.prod(1)),
    "variance": (lambda x: op.variance(x, [2, 3]), lambda x: x.var((2, 3))),
    "deviation": (lambda x: op.std(x, [2, 3]), lambda x: x.std((2, 3))),
    "pool": (lambda x: pool.avg_pool2d(x, [32, 32], 32), lambda x: x.reshape(2, 3, 2, 32, 2, 32).mean((3, 5))),
    "pool of all": (lambda x: pool.adaptive_avg_pool2d(x, [1, 1]), lambda x: x.mean((2, 3), keepdims=True)),
    "pools of unequal size": (
        lambda x: pool.adaptive_avg_pool2d(x, [3, 1]),
        lambda x: np.stack([x[:, :, a:b].mean((2, 3)) for a, b in ((0, 22), (21, 43), (42, 64))], 2)[..., None],
    ),
    "softmax": (lambda x: pool.softmax(x, 2), lambda x: np.exp(x) / np.exp(x).sum(2, keepdims=True)),
    "log of softmax": (lambda x: pool.log_softmax(x, 3), lambda x: x - np.log(np.exp(x).sum(3, keepdims=True))),
}  # fmt: skip


def network(make: Callable[[relax.Expr], relax.Expr], dtype: str) -> tvm.IRModule:
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(SHAPE, dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(make(x))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", OPERATORS)
def test_sums_are_rounded_once(name: str, dtype: str):
    """Numbers around 30, of which 2,185 have the largest sum of float16."""
    make, wanted = OPERATORS[name]
    data = np.random.default_rng(0).uniform(27, 33, SHAPE).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    (got,) = run(relax.build(extract(network(make, dtype)).mod, "llvm"), [data])
    assert str(got.dtype) == dtype
    exact = wanted(data.astype("float64"))
    # one rounding, and those of float32 on the way: variances of numbers around 30 lose a few bits of 24
    np.testing.assert_allclose(got.astype("float64"), exact, rtol=LARGEST_ERROR[dtype] * 1.01, atol=2.0**-25)


@pytest.mark.parametrize("name", OPERATORS)
def test_wide_sums_cost_what_sums_cost(name: str):
    """Lanes widen what they read and round what they write; only a sum that nothing follows is rounded by itself."""
    short, wide = (extract(network(OPERATORS[name][0], dtype)).graph for dtype in ("float16", "float32"))
    if not short.tasks:
        assert [call.name for call in short.host_calls] == [call.name for call in wide.host_calls]
        return
    (short_work,), (wide_work,) = ([task.work for task in graph.tasks] for graph in (short, wide))
    assert (2 * short_work.read_bytes, 2 * short_work.write_bytes) == (wide_work.read_bytes, wide_work.write_bytes)
    rounded = short_work.write_bytes // 2 if name in ("sum", "product") else 0
    assert short_work.num_ops == wide_work.num_ops + rounded


def test_what_is_summed_is_fused_as_in_float32():
    def body(x: relax.Expr) -> relax.Expr:
        return op.exp(op.sum(op.multiply(op.abs(x), op.abs(x)), [2, 3]))

    names = [[task.name for task in extract(network(body, dtype)).graph.tasks] for dtype in ("float16", "float32")]
    assert names[0] == names[1]


def test_loops_that_the_author_wrote_stay():
    from tvm import te

    def body(x: te.Tensor) -> te.Tensor:
        k = te.reduce_axis((0, 64), "k")
        return te.compute((2, 3, 64), lambda a, b, c: te.sum(x(a, b, c, k), axis=k), name="total")

    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType(SHAPE, "float16"))
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(builder.call_te(body, x))
        builder.emit_func_output(out)
    (func,) = [func for func in extract(builder.get()).mod.functions.values() if isinstance(func, tirx.PrimFunc)]
    assert "float32" not in str(func)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_function_of_a_number_is_compiled(dtype: str):
    """LLVM has some in float32 and float64 only."""
    functions = {
        "acos": np.arccos, "asin": np.arcsin, "asinh": np.arcsinh, "atan": np.arctan, "atanh": np.arctanh,
        "cos": np.cos, "cosh": np.cosh, "exp": np.exp, "log": np.log, "sin": np.sin, "sinh": np.sinh, "tan": np.tan,
        "tanh": np.tanh, "sqrt": np.sqrt, "acosh": lambda x: np.arccosh(x + 1),
    }  # fmt: skip

    def all_of(x: relax.Expr) -> relax.Expr:
        one = relax.const(1, dtype)
        return relax.Tuple([getattr(op, name)(op.add(x, one) if name == "acosh" else x) for name in functions])

    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    data = np.full(SHAPE, 0.5, kind)
    data[0, 0, 0, :4] = np.array([0.25, 0.375, 0.75, 0.875], kind)
    made = run(build(extract(network(all_of, dtype)).mod, "edge-256"), [data])
    for (name, exact), got in zip(functions.items(), made, strict=True):
        assert str(got.dtype) == dtype
        wanted = exact(data.astype("float64"))
        # the function in float16 where there is one, whose own error is up to an ulp
        np.testing.assert_allclose(got.astype("float64"), wanted, rtol=2 * LARGEST_ERROR[dtype], err_msg=name)


OF_ONNX = {
    "GlobalAveragePool": {}, "AveragePool": {"kernel_shape": [64, 32], "strides": [64, 32]},
    "ReduceMean": {"axes": [2, 3]}, "ReduceSum": {"keepdims": 0}, "Softmax": {"axis": 3}, "LogSoftmax": {"axis": 2},
    "ReduceL1": {"axes": [1]},
    "ReduceL2": {"axes": [3]}, "ReduceSumSquare": {"axes": [1]}, "ReduceLogSumExp": {"axes": [3]},
    "ReduceLogSum": {"axes": [2, 3]}, "LpNormalization": {"axis": 3}, "GlobalLpPool": {},
    "LpPool": {"kernel_shape": [8, 8]}, "InstanceNormalization": {}, "LRN": {"size": 3, "alpha": 0.5},
    "MeanVarianceNormalization": {"axes": [0, 3]}, "default": {},
}  # fmt: skip


def onnx_model(operator: str, dtype: int, channels: dict[str, NDArray[np.floating]]) -> onnx.ModelProto:
    name = "MeanVarianceNormalization" if operator == "default" else operator
    node = helper.make_node(name, ["x", *channels], ["y"], **OF_ONNX[operator])
    graph = helper.make_graph(
        [node], "half", [helper.make_tensor_value_info("x", dtype, SHAPE)],
        [helper.make_tensor_value_info("y", dtype, None)],
        [numpy_helper.from_array(array, name) for name, array in channels.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("operator", OF_ONNX)
def test_networks_of_float16_are_rounded_once(operator: str):
    """As onnxruntime computes them in float32, from the same numbers."""
    rng = np.random.default_rng(1)
    data = rng.uniform(44, 52, SHAPE).astype("float16")
    if operator == "ReduceSum":
        data /= 4096
    channels = {name: rng.uniform(1, 2, 3).astype("float16") for name in "sb"} if operator[:8] == "Instance" else {}
    wide = {name: array.astype("float32") for name, array in channels.items()}
    exact = onnx_model(operator, TensorProto.FLOAT, wide).SerializeToString()
    (wanted,) = onnxruntime.InferenceSession(exact, providers=["CPUExecutionProvider"]).run(
        None, {"x": data.astype("float32")}
    )
    model = load_model(onnx_model(operator, TensorProto.FLOAT16, channels))
    (got,) = run(build(extract(model).mod, "edge-256"), [data])
    assert got.dtype == np.float16
    # a norm is rounded before it is scaled and before it is shifted, too
    least = 3 * 2.0**-11 * np.abs(wanted).max() if channels else 2.0**-24
    np.testing.assert_allclose(got.astype("float64"), wanted, rtol=2.0**-11, atol=least)


@pytest.mark.parametrize("operator", ["GlobalLpPool", "LRN", "LpPool", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"])
@pytest.mark.parametrize("reader", ["GlobalAveragePool", "InstanceNormalization", "ReduceSumSquare"])
def test_what_is_rounded_once_is_read_by_any_operator(operator: str, reader: str):
    """By one that TVM's importer converts, one that is converted here, and one that is widened itself."""
    rng = np.random.default_rng(2)
    data, channel = rng.uniform(1, 2, (2, 1, 6, 8)).astype("float16"), np.ones(1, "float16")
    attributes = {"LRN": {"size": 1}, "LpPool": {"kernel_shape": [2, 2]}, "ReduceL2": {"axes": [2]}}.get(operator, {})
    given = ["s", "b"] if reader == "InstanceNormalization" else []

    def model(dtype: int) -> onnx.ModelProto:
        nodes = [
            helper.make_node(operator, ["x"], ["r"], **attributes), helper.make_node(reader, ["r", *given], ["y"])
        ]  # fmt: skip
        values = [helper.make_tensor_value_info(*each) for each in (("x", dtype, data.shape), ("y", dtype, None))]
        channels = [
            numpy_helper.from_array(channel.astype(helper.tensor_dtype_to_np_dtype(dtype)), name) for name in given
        ]  # fmt: skip
        graph = helper.make_graph(nodes, "read", values[:1], values[1:], channels)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)

    session = onnxruntime.InferenceSession(
        model(TensorProto.FLOAT).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (wanted,) = session.run(None, {"x": data.astype("float32")})
    (got,) = run(build(extract(load_model(model(TensorProto.FLOAT16))).mod, "edge-256"), [data])
    assert got.dtype == np.float16
    if reader != "InstanceNormalization":  # which magnifies what the first rounding took
        np.testing.assert_allclose(got.astype("float64"), wanted, rtol=2.0**-9)


@pytest.mark.parametrize("order", [1, 2])
def test_a_vector_over_its_length(order: int):
    """Where it has none, that is 0; magnitudes are summed, and not numbers."""
    data = np.array([[3, -4, 0], [0, 0, 0], [-1, 1, 2]], "float32")
    node = helper.make_node("LpNormalization", ["x"], ["y"], axis=1, p=order)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3]) for name in "xy"]
    graph = helper.make_graph([node], "length", values[:1], values[1:])
    found = extract(load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)))
    assert not found.graph.host_calls
    lengths = np.array([[7], [1], [4]]) if order == 1 else np.array([[5], [1], [math.sqrt(6)]])
    np.testing.assert_allclose(run(build(found.mod, "edge-256"), [data])[0], data / lengths, rtol=2.0**-22)


@pytest.mark.parametrize(
    "operator", ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
)
@pytest.mark.parametrize("axes", [[], None])
def test_a_reduction_over_no_axis_still_has_its_function(operator: str, axes: list[int] | None):
    """ONNX: no axis stands for none if the node says so, and what happens before and after the sum happens."""
    data = np.array([[3, -4, 0.5], [0.25, -1, 2]], "float32")
    if operator == "LogSum":
        data = np.abs(data)
    given = [] if axes is None else [numpy_helper.from_array(np.array(axes, np.int64), "axes")]
    node = helper.make_node(f"Reduce{operator}", ["x", *(each.name for each in given)], ["y"], noop_with_empty_axes=1)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy"]
    graph = helper.make_graph([node], "none", values[:1], values[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"x": data})
    (got,) = run(build(extract(load_model(model)).mod, "edge-256"), [data])
    np.testing.assert_allclose(got, wanted, rtol=2.0**-22)


@pytest.mark.parametrize(
    ("operator", "attributes", "text"),
    [
        ("LpNormalization", {"p": 3}, "attribute p = 3: must be 1 or 2"),
        ("LpNormalization", {"axis": 5}, "axis 5 of a tensor with 3 axes"),
        ("InstanceNormalization", {}, "scale has shape [3]: must be [2], one number for each channel"),
    ],
)
def test_a_norm_that_does_not_fit_is_named(operator: str, attributes: dict[str, int], text: str):
    given = [numpy_helper.from_array(np.ones(3, "float32"), name) for name in "sb"]
    names = ["x", "s", "b"] if operator[0] == "I" else ["x"]
    node = helper.make_node(operator, names, ["y"], **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 4]) for name in "xy"]
    graph = helper.make_graph([node], "odd", values[:1], values[1:], given)
    with pytest.raises(ModelError) as caught:
        load_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert str(caught.value) == f"odd: cannot import: node {operator + '_0'!r} (operator {operator}): {text}"
