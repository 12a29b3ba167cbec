"""Attention is one group however it was written, and computes what was written."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import tvm
from numpy.typing import NDArray
from onnx import helper
from tvm import relax

from schedules.attention.code import attention_func
from tests.numeric.attention_calls import replace_attention
from tests.numeric.fused import network
from tvm_spm.attention import AttentionMapping
from tvm_spm.deploy.runtime import build, run
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.attention import find_attention
from tvm_spm.workload import Workload

Array = NDArray[np.float64]
Shape = tuple[int, ...]
Emit = Callable[[relax.Expr], relax.Expr]

_ARCH = "edge-256"
_HIDDEN = -math.inf


def attended(q: Array, k: Array, v: Array, added: Array | float = 0.0) -> Array:
    """By the definition, in float64; rows that see nothing are 0."""
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(each, group, axis=1) for each in (k, v))
    scores = np.einsum("bhmd,bhnd->bhmn", q, k) / math.sqrt(q.shape[-1]) + added
    largest = scores.max(-1, keepdims=True)
    powers = np.exp(scores - np.where(np.isinf(largest), 0, largest))
    total = powers.sum(-1, keepdims=True)
    return np.einsum("bhmn,bhnc->bhmc", powers / np.where(total == 0, 1, total), v)


def check(mod: tvm.IRModule, arrays: list[NDArray[np.generic]], expected: Array) -> None:
    """One attention, with its numbers, and with them as one function in two tilings."""
    fused = extract(mod).mod
    sites, refused = find_attention(fused)
    assert [refusal.reason for refusal in refused] == []
    assert len(sites) == 1
    # At most 16 terms of a size of about 1; powers err by a few roundings.
    close = {"rtol": 64 * 2**-23, "atol": 64 * 2**-23}
    np.testing.assert_allclose(run(build(fused, _ARCH), arrays)[0], expected, **close)
    for mapping in (
        AttentionMapping(query_tile=3, key_tile=4),
        AttentionMapping(cores=(2, 1), query_tile=2, key_tile=99),
    ):
        replaced = replace_attention(fused, [(sites[0], attention_func(sites[0], mapping))])
        np.testing.assert_allclose(run(build(replaced, _ARCH), arrays)[0], expected, **close)


def draw(*shapes: Shape) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def wide(arrays: list[NDArray[np.float32]]) -> list[Array]:
    return [array.astype("float64") for array in arrays]


def turned(emit: Emit, expr: relax.Expr) -> relax.Expr:
    rank = expr.ty.ndim
    return emit(relax.op.permute_dims(expr, [*range(rank - 2), rank - 1, rank - 2]))


def or_zero(emit: Emit, scores: relax.Expr, weights: relax.Expr) -> relax.Expr:
    """As PyTorch takes it apart."""
    seen = emit(relax.op.logical_not(emit(relax.op.equal(scores, relax.const(_HIDDEN, "float32")))))
    some = emit(relax.op.max(emit(relax.op.astype(seen, "int8")), 3, keepdims=True))
    empty = emit(relax.op.logical_not(emit(relax.op.astype(some, "bool"))))
    zeros = emit(relax.op.full_like(weights, relax.const(0.0, "float32")))
    return emit(relax.op.where(empty, zeros, weights))


def nan_to_zero(emit: Emit, scores: relax.Expr, weights: relax.Expr) -> relax.Expr:
    """As its ONNX exporter writes it."""
    return emit(relax.op.where(emit(relax.op.isnan(weights)), relax.const(0.0, "float32"), weights))


def some_hidden(shape: Shape) -> NDArray[np.float32]:
    mask = np.where(np.random.default_rng(1).random(shape) < 0.4, _HIDDEN, 0.25)
    mask[..., 1, :] = _HIDDEN
    return mask.astype("float32")


@pytest.mark.parametrize("zeroed", [or_zero, nan_to_zero])
@pytest.mark.parametrize("is_added", [True, False])
def test_rows_without_a_key(zeroed: Callable[..., relax.Expr], is_added: bool):
    q, k, v = draw((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    mask = some_hidden((2, 1, 5, 7))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        emit = builder.emit
        scores = emit(relax.op.matmul(p[0], turned(emit, p[1])))
        scores = emit(relax.op.multiply(scores, relax.const(1 / math.sqrt(8), "float32")))
        hidden = relax.const(_HIDDEN, "float32")
        masked = relax.op.add(scores, p[3]) if is_added else relax.op.where(p[3], scores, hidden)
        scores = emit(masked)
        weights = emit(relax.op.nn.softmax(scores, axis=-1))
        return emit(relax.op.matmul(zeroed(emit, scores, weights), p[2]))

    given = mask if is_added else ~np.isinf(mask)
    kinds = [(each.shape, str(each.dtype)) for each in (q, k, v, given)]
    added = mask if is_added else np.where(given, 0, _HIDDEN)
    check(network(kinds, body), [q, k, v, given], attended(*wide([q, k, v]), added))


def test_zeroed_rows_without_a_mask_are_a_plain_softmax():
    q, k, v = draw((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        emit = builder.emit
        scores = emit(
            relax.op.divide(emit(relax.op.matmul(p[0], turned(emit, p[1]))), relax.const(math.sqrt(8), "float32"))
        )
        return emit(relax.op.matmul(or_zero(emit, scores, emit(relax.op.nn.softmax(scores, axis=-1))), p[2]))

    mod = network([(each.shape, "float32") for each in (q, k, v)], body)
    check(mod, [q, k, v], attended(*wide([q, k, v])))
    assert not find_attention(extract(mod).mod)[0][0].is_zero_when_empty


def test_heads_and_batch_in_one_axis_and_both_operands_scaled():
    q, k, v = draw((2, 3, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    mask = some_hidden((1, 1, 5, 7))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        emit = builder.emit
        factor = relax.const(8**-0.25, "float32")

        def folded(expr: relax.Expr, shape: Shape) -> relax.Expr:
            spread = emit(relax.op.broadcast_to(expr, (2, 3, *shape)))
            return emit(relax.op.reshape(spread, (6, *shape)))

        left = folded(emit(relax.op.multiply(p[0], factor)), (5, 8))
        right = folded(emit(relax.op.multiply(turned(emit, p[1]), factor)), (8, 7))
        scores = emit(relax.op.reshape(emit(relax.op.matmul(left, right)), (2, 3, 5, 7)))
        scores = emit(relax.op.add(scores, p[3]))
        weights = or_zero(emit, scores, emit(relax.op.nn.softmax(scores, axis=3)))
        total = emit(relax.op.matmul(folded(weights, (5, 7)), folded(p[2], (7, 4))))
        return emit(relax.op.reshape(total, (2, 3, 5, 4)))

    mod = network([(each.shape, "float32") for each in (q, k, v, mask)], body)
    check(mod, [q, k, v, mask], attended(*wide([q, k, v]), mask))
    # Both products, the softmax, and nothing for the factors.
    assert len(extract(mod).graph.nodes) == 3


def test_weights_that_are_copied_along_the_batch():
    x, w = draw((5, 3, 8), (8, 4))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        return builder.emit(relax.op.matmul(p[0], builder.emit(relax.op.broadcast_to(p[1], (5, 8, 4)))))

    extraction = extract(network([(each.shape, "float32") for each in (x, w)], body))
    assert len(extraction.graph.nodes) == 1
    np.testing.assert_allclose(run(build(extraction.mod, _ARCH), [x, w])[0], x @ w, rtol=1e-5, atol=1e-5)


def repeated(emit: Emit, expr: relax.Expr, group: int) -> relax.Expr:
    return emit(relax.op.repeat(expr, group, 1))


def spread(emit: Emit, expr: relax.Expr, group: int) -> relax.Expr:
    batch, heads, *rest = (int(extent) for extent in expr.ty.shape.values)
    wide_shape = (batch, heads, group, *rest)
    copies = emit(relax.op.broadcast_to(emit(relax.op.expand_dims(expr, 2)), wide_shape))
    return emit(relax.op.reshape(copies, (batch, heads * group, *rest)))


@pytest.mark.parametrize("copied", [repeated, spread])
@pytest.mark.parametrize(
    ("rows", "mask_shape"),
    [(1, None), (1, (2, 1, 1, 7)), (1, (1, 6, 1, 7)), (5, None), (5, (2, 1, 1, 7)), (5, (5, 7)), (5, (2, 6, 5, 7)),
     (5, (6, 1, 7)), (5, (1, 1, 5, 1))],
)  # fmt: skip
def test_heads_that_share_keys(copied: Callable[..., relax.Expr], rows: int, mask_shape: Shape | None):
    q, k, v = draw((2, 6, rows, 8), (2, 2, 7, 8), (2, 2, 7, 4))
    masks = [] if mask_shape is None else draw(mask_shape)

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        emit = builder.emit
        scores = emit(relax.op.matmul(p[0], turned(emit, copied(emit, p[1], 3))))
        scores = emit(relax.op.divide(scores, relax.const(math.sqrt(8), "float32")))
        scores = emit(relax.op.add(scores, p[3])) if masks else scores
        weights = or_zero(emit, scores, emit(relax.op.nn.softmax(scores, axis=-1)))
        return emit(relax.op.matmul(weights, copied(emit, p[2], 3)))

    mod = network([(each.shape, "float32") for each in (q, k, v, *masks)], body)
    check(mod, [q, k, v, *masks], attended(*wide([q, k, v]), *masks))
    work = find_attention(extract(mod).mod)[0][0].work
    # Keys and values are read as they are stored, and for all heads of a group at once where no mask forbids it.
    assert [axis.extent for axis in work.scores.W.axes if axis.extent > 1] == [2, 2, 7, 8]
    folds = mask_shape is None or rows == 1 or mask_shape in ((2, 1, 1, 7), (2, 6, 5, 7))
    assert work.queries == (3 * rows if folds else rows)


def test_weights_that_are_read_elsewhere_keep_their_heads():
    q, k, v = draw((1, 4, 2, 8), (1, 2, 7, 8), (1, 2, 7, 4))

    def body(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
        emit = builder.emit
        scores = emit(relax.op.matmul(p[0], turned(emit, repeated(emit, p[1], 2))))
        scores = emit(relax.op.divide(scores, relax.const(math.sqrt(8), "float32")))
        weights = emit(relax.op.nn.softmax(scores, axis=-1))
        total = emit(relax.op.matmul(weights, repeated(emit, p[2], 2)))
        return emit(relax.op.add(total, emit(relax.op.sum(weights, axis=-1, keepdims=True))))

    mod = extract(network([(each.shape, "float32") for each in (q, k, v)], body)).mod
    assert find_attention(mod)[0] == ()
    found = run(build(mod, _ARCH), [q, k, v])[0]
    np.testing.assert_allclose(found, attended(*wide([q, k, v])) + 1, rtol=1e-5, atol=1e-5)


def onnx_attention(kinds: dict[str, tuple[Shape, int]], out: Shape, **attributes: int) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in kinds.items()]
    node = helper.make_node("Attention", list(kinds), ["y"], **attributes)
    output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, out)
    graph = helper.make_graph([node], "attention", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


@pytest.mark.parametrize("kind", ["plain", "added", "chosen", "causal", "shared", "decode"])
def test_onnx_attention(kind: str):
    rows, shared = {"decode": (1, 2), "shared": (5, 2)}.get(kind, (5, 4))
    q, k, v = draw((2, 4, rows, 8), (2, shared, 7, 8), (2, shared, 7, 4))
    arrays: list[NDArray[np.generic]] = [q, k, v]
    kinds = {name: (array.shape, onnx.TensorProto.FLOAT) for name, array in zip("qkv", (q, k, v), strict=True)}
    added: Array | float = 0.0
    if kind == "added":
        added = draw((5, 7))[0].astype("float64")
        arrays.append(added.astype("float32"))
        kinds["mask"] = ((5, 7), onnx.TensorProto.FLOAT)
    if kind == "chosen":
        chosen = np.random.default_rng(2).random((5, 7)) < 0.6
        chosen[:, 0] = True
        arrays.append(chosen)
        kinds["mask"] = ((5, 7), onnx.TensorProto.BOOL)
        added = np.where(chosen, 0, _HIDDEN)
    if kind == "causal":
        added = np.where(np.tri(5, 7, dtype=bool), 0, _HIDDEN)
    model = onnx_attention(kinds, (2, 4, rows, 4), is_causal=int(kind == "causal"))
    check(load_model(model), arrays, attended(*wide([q, k, v]), added))


@pytest.mark.parametrize("are_weights_quantised", [False, True])
def test_quantised_attention(are_weights_quantised: bool):
    # Scores of integers are one with what follows. Weights can only be rounded once the last key has come, so that a
    # rounding between softmax and values keeps three layers, of integers.
    q, k, v = draw((1, 2, 12, 8), (1, 2, 12, 8), (1, 2, 12, 8))
    step = 1 / 32
    constants = {"step": np.float32(step), "zero": np.int8(0), "scale": np.float32(1 / math.sqrt(8))}
    nodes = [helper.make_node("Transpose", ["k"], ["turned"], perm=[0, 1, 3, 2])]

    def rounded(name: str) -> str:
        nodes.append(helper.make_node("QuantizeLinear", [name, "step", "zero"], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "step", "zero"], [f"{name}_d"]))
        return f"{name}_d"

    nodes.append(helper.make_node("MatMul", [rounded("q"), rounded("turned")], ["products"]))
    nodes.append(helper.make_node("Mul", ["products", "scale"], ["scores"]))
    nodes.append(helper.make_node("Softmax", ["scores"], ["weights"], axis=-1))
    operands = [rounded("weights"), rounded("v")] if are_weights_quantised else ["weights", "v"]
    nodes.append(helper.make_node("MatMul", operands, ["y"]))
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2, 12, 8)) for name in "qkvy"]
    initial = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "quantised", values[:3], values[3:], initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def near(array: Array) -> Array:
        return np.clip(np.round(array / step), -128, 127) * step

    q_near, k_near, wide_v = (near(wide([q])[0]), near(wide([k])[0]), wide([v])[0])
    mod = load_model(model)
    if not are_weights_quantised:
        check(mod, [q, k, v], attended(q_near, k_near, wide_v))
        assert find_attention(extract(mod).mod)[0][0].work.scores.I.dtype == "int8"
        return
    extraction = extract(mod)
    assert find_attention(extraction.mod)[0] == ()
    products = [task.work for task in extraction.graph.tasks if isinstance(task.work, Workload)]
    assert [(work.I.dtype, work.W.dtype) for work in products] == [("int8", "int8")] * 2
