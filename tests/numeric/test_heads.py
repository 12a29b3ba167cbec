"""Products write heads where attention reads them, and compute what was written; copies are left where they must be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax

from tests.numeric.fused import network
from tvm_spm.deploy.runtime import build, run
from tvm_spm.frontend import extract
from tvm_spm.workload import Workload

Shape = tuple[int, ...]
Emit = Callable[[relax.Expr], relax.Expr]

_BATCH, _TOKENS, _HEADS, _DEPTH, _WIDTH = 2, 5, 3, 4, 7


def draw(*shapes: Shape, dtype: str = "float32") -> list[NDArray[np.generic]]:
    rng = np.random.default_rng(3)
    if dtype == "float32":
        return [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    return [rng.integers(-9, 9, shape).astype(dtype) for shape in shapes]


def module(arrays: list[NDArray[np.generic]], body: Callable[[Emit, list[relax.Var]], relax.Expr]) -> tvm.IRModule:
    kinds = [(array.shape, str(array.dtype)) for array in arrays]
    return network(kinds, lambda builder, params: body(builder.emit, params))


def computed(mod: tvm.IRModule, arrays: list[NDArray[np.generic]], num_layers: int) -> NDArray[np.generic]:
    """What a module computes once its layers are found, how many these are, and that all of them multiply."""
    extraction = extract(mod)
    assert [call.reason for call in extraction.graph.host_calls if "view" not in call.reason] == []
    assert len(extraction.graph.nodes) == num_layers
    return run(build(extraction.mod, "edge-256"), arrays)[0]


def num_products(mod: tvm.IRModule) -> int:
    return sum(isinstance(task.work, Workload) for task in extract(mod).graph.tasks)


def heads(array: NDArray[np.generic], axes: Shape) -> NDArray[np.generic]:
    return array.reshape(*array.shape[:-1], _HEADS, _DEPTH).transpose(axes)


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (0, 2, 3, 1), (2, 0, 1, 3), (3, 1, 2, 0)])
@pytest.mark.parametrize("is_turned", [False, True])
def test_heads_are_written_where_they_are_read(axes: Shape, is_turned: bool):
    # W stored (c, k) or (k, c); a bias, a number and a vector behind the product
    x, bias, scale = draw((_BATCH, _TOKENS, _WIDTH), (_HEADS * _DEPTH,), (1, 1, _HEADS * _DEPTH))
    weight = draw((_HEADS * _DEPTH, _WIDTH) if is_turned else (_WIDTH, _HEADS * _DEPTH))[0]

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        matrix = emit(relax.op.permute_dims(p[1])) if is_turned else p[1]
        total = emit(relax.op.add(emit(relax.op.matmul(p[0], matrix)), p[2]))
        total = emit(relax.op.multiply(total, relax.const(0.125, "float32")))
        total = emit(relax.op.divide(total, p[3]))
        cut = emit(relax.op.reshape(total, (_BATCH, _TOKENS, _HEADS, _DEPTH)))
        return emit(relax.op.permute_dims(cut, axes))

    arrays = [x, weight, bias, scale]
    expected = heads((x @ (weight.T if is_turned else weight) + bias) * np.float32(0.125) / scale, axes)
    found = computed(module(arrays, body), arrays, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_rounded_integers_keep_every_bit():
    # as a network of 8-bit integers ends its products
    x, weight = draw((_BATCH, _TOKENS, _WIDTH), (_WIDTH, _HEADS * _DEPTH), dtype="int8")
    bias = draw((_HEADS * _DEPTH,), dtype="int32")[0]

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        total = emit(relax.op.add(emit(relax.op.matmul(p[0], p[1], out_dtype="int32")), p[2]))
        total = emit(relax.op.multiply(emit(relax.op.astype(total, "float32")), relax.const(0.37, "float32")))
        total = emit(relax.op.clip(emit(relax.op.round(total)), -50, 50))
        total = emit(relax.op.astype(total, "int8"))
        cut = emit(relax.op.reshape(total, (_BATCH, _TOKENS, _HEADS, _DEPTH)))
        return emit(relax.op.permute_dims(cut, (0, 2, 1, 3)))

    arrays = [x, weight, bias]
    wide = (x.astype("int32") @ weight.astype("int32") + bias).astype("float32") * np.float32(0.37)
    expected = heads(np.clip(np.round(wide), -50, 50).astype("int8"), (0, 2, 1, 3))
    np.testing.assert_array_equal(computed(module(arrays, body), arrays, 1), expected)


@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [((_BATCH, _HEADS, _TOKENS, _DEPTH), (0, 2, 1, 3)), ((_BATCH, 3, 2, _TOKENS, _DEPTH), (0, 3, 1, 2, 4)),
     ((_DEPTH, _BATCH, _HEADS, _TOKENS), (1, 3, 2, 0))],
)  # fmt: skip
def test_heads_are_read_where_they_were_written(shape: Shape, axes: Shape, is_turned: bool):
    y, residual = draw(shape, (_BATCH, _TOKENS, _WIDTH))
    width = y.size // (_BATCH * _TOKENS)
    weight = draw((_WIDTH, width) if is_turned else (width, _WIDTH))[0]

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        matrix = emit(relax.op.permute_dims(p[1])) if is_turned else p[1]
        rows = emit(relax.op.reshape(emit(relax.op.permute_dims(p[0], axes)), (_BATCH, _TOKENS, width)))
        return emit(relax.op.add(emit(relax.op.matmul(rows, matrix)), p[2]))

    arrays = [y, weight, residual]
    rows = y.transpose(axes).reshape(_BATCH, _TOKENS, width)
    expected = rows @ (weight.T if is_turned else weight) + residual
    np.testing.assert_allclose(computed(module(arrays, body), arrays, 1), expected, rtol=1e-5, atol=1e-5)


def test_one_token_is_a_view():
    # as in decode: all axes that change their place but one are of extent 1
    x, weight, out = draw((1, 1, _WIDTH), (_WIDTH, _HEADS * _DEPTH), (_HEADS * _DEPTH, _WIDTH))

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        cut = emit(relax.op.reshape(emit(relax.op.matmul(p[0], p[1])), (1, 1, _HEADS, _DEPTH)))
        joined = emit(relax.op.permute_dims(emit(relax.op.permute_dims(cut, (0, 2, 1, 3))), (0, 2, 1, 3)))
        return emit(relax.op.matmul(emit(relax.op.reshape(joined, (1, 1, _HEADS * _DEPTH))), p[2]))

    arrays = [x, weight, out]
    found = computed(module(arrays, body), arrays, 2)
    np.testing.assert_allclose(found, x @ weight @ out, rtol=1e-5, atol=1e-5)


def test_a_product_that_others_read_too_is_not_done_twice():
    x, weight = draw((_BATCH, _TOKENS, _WIDTH), (_WIDTH, _HEADS * _DEPTH))

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        total = emit(relax.op.matmul(p[0], p[1]))
        cut = emit(relax.op.reshape(total, (_BATCH, _TOKENS, _HEADS, _DEPTH)))
        turned = emit(relax.op.permute_dims(cut, (0, 2, 1, 3)))
        return emit(relax.op.add(turned, emit(relax.op.reshape(total, (_BATCH, _HEADS, _TOKENS, _DEPTH)))))

    mod = module([x, weight], body)
    assert num_products(mod) == 1
    total = x @ weight
    expected = heads(total, (0, 2, 1, 3)) + total.reshape(_BATCH, _HEADS, _TOKENS, _DEPTH)
    found = run(build(extract(mod).mod, "edge-256"), [x, weight])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("between", ["rows", "softmax", "matrix"])
def test_other_work_in_between_stays(between: str):
    # a vector along the rows, work over a row, and a bias for every element are not done where columns stand
    x, weight = draw((_BATCH, _TOKENS, _WIDTH), (_WIDTH, _HEADS * _DEPTH))
    added = draw((_TOKENS, 1) if between == "rows" else (_TOKENS, _HEADS * _DEPTH))[0]

    def body(emit: Emit, p: list[relax.Var]) -> relax.Expr:
        total = emit(relax.op.matmul(p[0], p[1]))
        total = emit(relax.op.nn.softmax(total) if between == "softmax" else relax.op.add(total, p[2]))
        cut = emit(relax.op.reshape(total, (_BATCH, _TOKENS, _HEADS, _DEPTH)))
        return emit(relax.op.permute_dims(cut, (0, 2, 1, 3)))

    arrays = [x, weight, added]
    total = (x @ weight).astype("float64")
    powers = np.exp(total - total.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True) if between == "softmax" else total + added
    found = run(build(extract(module(arrays, body)).mod, "edge-256"), arrays)[0]
    np.testing.assert_allclose(found, heads(expected, (0, 2, 1, 3)), rtol=1e-4, atol=1e-5)
