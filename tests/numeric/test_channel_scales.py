"""Batch normalisation of inference costs nothing: its numbers are in the weights of the layer before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax, tirx

from tests.numeric.fused import network
from tvm_spm.deploy.runtime import build, run
from tvm_spm.frontend import extract
from tvm_spm.workload import VectorWork, Workload

_ARCH = "edge-256"
_EPSILON = 1e-3

Layer = Callable[[relax.Expr, relax.Expr], relax.Expr]

# Input, weights, axis of the channels, and the layer.
LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, Layer]] = {
    "conv2d": ((1, 3, 6, 5), (4, 3, 3, 3), 1, lambda x, w: relax.op.nn.conv2d(x, w, padding=1)),
    "conv2d, groups": ((2, 6, 6, 5), (4, 3, 3, 3), 1, lambda x, w: relax.op.nn.conv2d(x, w, groups=2)),
    "conv2d, depthwise": ((1, 6, 6, 5), (6, 1, 3, 3), 1, lambda x, w: relax.op.nn.conv2d(x, w, groups=6)),
    "conv2d, channels last": (
        (1, 6, 5, 3), (3, 3, 3, 4), 3,
        lambda x, w: relax.op.nn.conv2d(x, w, data_layout="NHWC", kernel_layout="HWIO"),
    ),
    "conv1d": ((1, 3, 9), (4, 3, 3), 1, lambda x, w: relax.op.nn.conv1d(x, w, padding=1)),
    "transposed": ((1, 3, 4, 5), (3, 4, 2, 2), 1, lambda x, w: relax.op.nn.conv2d_transpose(x, w, strides=(2, 2))),
    "transposed, groups": (
        (1, 6, 4, 5), (6, 2, 3, 3), 1, lambda x, w: relax.op.nn.conv2d_transpose(x, w, strides=(1, 1), groups=3),
    ),
    "matmul": ((5, 6), (6, 4), 1, relax.op.matmul),
    "matmul, batch": ((2, 5, 6), (2, 6, 4), 2, relax.op.matmul),
    "linear": ((5, 6), (4, 6), 1, lambda x, w: relax.op.matmul(x, relax.op.permute_dims(w))),
}  # fmt: skip

Arrays = list[NDArray[np.float32]]


def statistics(channels: int, rng: np.random.Generator) -> Arrays:
    """Gamma, beta, mean and variance; also a gamma of 0 and a negative one."""
    gamma = rng.standard_normal(channels)
    gamma[0] = 0
    return [
        array.astype("float32")
        for array in (gamma, rng.standard_normal(channels), rng.standard_normal(channels), rng.random(channels) + 0.1)
    ]


def normalised(y: NDArray[np.float64], axis: int, numbers: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    shape = [-1 if each == axis else 1 for each in range(y.ndim)]
    gamma, beta, mean, variance = (each.astype("float64").reshape(shape) for each in numbers)
    return (y - mean) / np.sqrt(variance + _EPSILON) * gamma + beta


def batch_norm(builder: relax.BlockBuilder, y: relax.Expr, axis: int, numbers: Sequence[relax.Expr]) -> relax.Expr:
    norm = builder.emit(relax.op.nn.batch_norm(y, *numbers, axis=axis, epsilon=_EPSILON, training=False))
    return builder.emit(relax.TupleGetItem(norm, 0))


def constants(arrays: Sequence[NDArray[np.float32]]) -> list[relax.Expr]:
    return [relax.const(array) for array in arrays]


def work_of(mod: tvm.IRModule) -> list[Workload | VectorWork]:
    return [task.work for task in extract(mod).graph.tasks]


def operators(mod: tvm.IRModule) -> str:
    return "".join(func.script() for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))


def plain(name: str, *, bias: Sequence[float] | None = None) -> tuple[tvm.IRModule, NDArray[np.float32], Arrays]:
    """The layer alone, its input and its weights."""
    data, weight, axis, layer = LAYERS[name]
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal(data).astype("float32"), rng.standard_normal(weight).astype("float32")
    mod = network([(data, "float32")], lambda b, p: b.emit(layer(p[0], relax.const(w))))
    return mod, x, [w]


def layer_output(name: str) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Input, weights, and what the layer alone makes of them."""
    mod, x, (w,) = plain(name)
    return x, w, run(build(extract(mod).mod, _ARCH), [x])[0].astype("float64")


def close(actual: NDArray[np.generic], expected: NDArray[np.float64]) -> None:
    # At most 54 terms, each with a rounding of weight, product and sum.
    np.testing.assert_allclose(actual, expected, rtol=3 * 54 * 2**-24, atol=3 * 54 * 2**-24 * np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_normalised_layer(name: str, has_bias: bool):
    x, w, y = layer_output(name)
    axis, layer = LAYERS[name][2:]
    channels = y.shape[axis]
    numbers = statistics(channels, np.random.default_rng(1))
    bias = np.random.default_rng(2).standard_normal(channels).astype("float32")
    shape = [channels if each == axis else 1 for each in range(y.ndim)]

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        value = builder.emit(layer(p[0], relax.const(w)))
        if has_bias:
            value = builder.emit(relax.op.add(value, builder.emit(relax.op.reshape(relax.const(bias), shape))))
        return builder.emit(relax.op.nn.relu(batch_norm(builder, value, axis, constants(numbers))))

    mod = extract(network([(x.shape, "float32")], body)).mod
    expected = normalised(y + (bias.reshape(shape) if has_bias else 0), axis, numbers)
    close(run(build(mod, _ARCH), [x])[0], np.maximum(expected, 0))
    text = operators(mod)
    assert "sqrt" not in text
    assert " / " not in text
    # One sum for bias, mean and shift, then the maximum: the filters hold the rest.
    works = [work for work in work_of(network([(x.shape, "float32")], body)) if isinstance(work, Workload)]
    assert {work.epilogue.num_ops_per_elem for work in works} <= {0, 2}


@pytest.mark.parametrize("name", ["conv2d, groups", "transposed, groups", "linear"])
def test_scales_of_their_own(name: str):
    # As exporters write a normalisation that they have taken apart: times a number per channel, minus one, over one.
    x, w, y = layer_output(name)
    axis, layer = LAYERS[name][2:]
    shape = [y.shape[axis] if each == axis else 1 for each in range(y.ndim)]
    rng = np.random.default_rng(1)
    scale, shift, last = (rng.random(shape).astype("float32") + 0.5 for _ in range(3))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        value = builder.emit(relax.op.multiply(relax.const(scale), builder.emit(layer(p[0], relax.const(w)))))
        value = builder.emit(relax.op.subtract(value, relax.const(shift)))
        value = builder.emit(relax.op.divide(value, relax.const(last)))
        return builder.emit(relax.op.multiply(value, relax.const(np.float32(3))))

    mod = network([(x.shape, "float32")], body)
    close(run(build(extract(mod).mod, _ARCH), [x])[0], (y * scale - shift) / last * 3)
    works = [work for work in work_of(mod) if isinstance(work, Workload)]
    # TVM leaves the sum after a transposed convolution apart.
    assert {work.epilogue.num_ops_per_elem for work in works} == {int("transposed" not in name)}
    assert " / " not in operators(mod)


def test_layer_with_other_readers_stays():
    x, w, y = layer_output("conv2d")
    numbers = statistics(4, np.random.default_rng(1))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        value = builder.emit(LAYERS["conv2d"][3](p[0], relax.const(w)))
        return builder.emit(relax.op.add(batch_norm(builder, value, 1, constants(numbers)), value))

    mod = extract(network([(x.shape, "float32")], body)).mod
    close(run(build(mod, _ARCH), [x])[0], normalised(y, 1, numbers) + y)
    assert "sqrt" not in operators(mod)


def test_weights_of_two_layers_stay():
    x, w, y = layer_output("conv2d")
    weight, numbers = relax.const(w), statistics(4, np.random.default_rng(1))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        first, second = (builder.emit(LAYERS["conv2d"][3](data, weight)) for data in p)
        return builder.emit(relax.op.add(batch_norm(builder, first, 1, constants(numbers)), second))

    mod = extract(network([(x.shape, "float32")] * 2, body)).mod
    close(run(build(mod, _ARCH), [x, x])[0], normalised(y, 1, numbers) + y)
    filters = [c for c in constants_of(mod) if c.shape == w.shape]
    assert len(filters) >= 1
    assert all(np.array_equal(each, w) for each in filters)


def constants_of(mod: tvm.IRModule) -> list[NDArray[np.generic]]:
    found: list[NDArray[np.generic]] = []
    relax.analysis.post_order_visit(
        mod["main"], lambda node: found.append(node.value.numpy()) if isinstance(node, tvm.ir.GenericConst) else None
    )
    return found


def test_no_layer_before():
    numbers = statistics(4, np.random.default_rng(1))
    x = np.random.default_rng(0).standard_normal((1, 4, 3, 3)).astype("float32")
    mod = network([(x.shape, "float32")], lambda b, p: batch_norm(b, p[0], 1, constants(numbers)))
    fused = extract(mod).mod
    close(run(build(fused, _ARCH), [x])[0], normalised(x.astype("float64"), 1, numbers))
    assert "sqrt" not in operators(fused)


def test_unknown_statistics_are_computed():
    x, w, y = layer_output("conv2d")
    numbers = statistics(4, np.random.default_rng(1))
    shapes = [(x.shape, "float32"), *((number.shape, "float32") for number in numbers)]

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        return batch_norm(builder, builder.emit(LAYERS["conv2d"][3](p[0], relax.const(w))), 1, p[1:])

    mod = extract(network(shapes, body)).mod
    close(run(build(mod, _ARCH), [x, *numbers])[0], normalised(y, 1, numbers))


def test_factors_that_spread_a_result_stay():
    # One column times a row of numbers: the layer has one channel, the product four.
    rng = np.random.default_rng(0)
    x, w, row = (rng.standard_normal(shape).astype("float32") for shape in ((5, 6), (6, 1), (1, 4)))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        return builder.emit(relax.op.multiply(builder.emit(relax.op.matmul(p[0], relax.const(w))), relax.const(row)))

    mod = extract(network([(x.shape, "float32")], body)).mod
    close(run(build(mod, _ARCH), [x])[0], x.astype("float64") @ w * row)


def test_weights_stay_within_their_type():
    # 2^15 * 2^2 is no float16; the sums of the products with 2^-8 are.
    x, w = np.full((3, 4), 2**-8, "float16"), np.full((4, 2), 2**15, "float16")

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        value = builder.emit(relax.op.matmul(p[0], relax.const(w)))
        return builder.emit(relax.op.multiply(value, relax.const(np.float16(4))))

    mod = extract(network([(x.shape, "float16")], body)).mod
    assert (run(build(mod, _ARCH), [x])[0] == 4 * 2**7 * 4).all()
