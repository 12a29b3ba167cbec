"""Attention with an online softmax against the three functions it replaces."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.script import relax as R

from cost_model.attention.model import attention_cost
from cost_model.attention.search import inner_mappings
from schedules.attention.code import attention_func
from tests.numeric.attention_calls import num_roundings, replace_attention
from tests.numeric.poison import lower_to_allocations, poisoned
from tvm_spm.arch import load_arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.deploy.runtime import build, run
from tvm_spm.deploy.verify.compare import compare
from tvm_spm.frontend import extract
from tvm_spm.frontend.attention import AttentionSite, find_attention
from tvm_spm.lowering.blocks import substitute
from tvm_spm.objective import Objective
from tvm_spm.tuning.attention import plan_attention

Shape = tuple[int, ...]

_ARCH = "edge-256"
_LARGEST_VALUE = 3
"""Numbers drawn are whole and at most this, so that all scores are exact: in both forms the powers have the same
arguments up to their own rounding."""

_DEVIATIONS = 8
"""Standard deviations that a sum of independent roundings never leaves, as in ``verify``."""


def attention(
    q: Shape, k: Shape, v: Shape, *, mask: Shape | None = None, transposed: bool = True, dtype: str = "float32"
) -> tvm.IRModule:
    """``softmax(q k / 8 + mask) v``."""
    builder = relax.BlockBuilder()
    shapes = [q, k, v] if mask is None else [q, k, v, mask]
    params = [relax.Var(name, R.Tensor(shape, dtype)) for name, shape in zip("qkvm", shapes, strict=False)]
    with builder.function("main", params):
        with builder.dataflow():
            rank = len(k)
            axes = [*range(rank - 2), rank - 1, rank - 2]
            keys = builder.emit(relax.op.permute_dims(params[1], axes)) if transposed else params[1]
            scores = builder.emit(relax.op.matmul(params[0], keys))
            scores = builder.emit(relax.op.divide(scores, relax.const(8.0, dtype)))
            if mask is not None:
                scores = builder.emit(relax.op.add(scores, params[3]))
            probabilities = builder.emit(relax.op.nn.softmax(scores, axis=-1))
            result = builder.emit_output(relax.op.matmul(probabilities, params[2]))
        builder.emit_func_output(result)
    return builder.get()


def the_site(mod: tvm.IRModule) -> AttentionSite:
    sites, refused = find_attention(mod)
    assert refused == ()
    assert len(sites) == 1
    return sites[0]


def draw(mod: tvm.IRModule, rng: np.random.Generator, masked: float) -> list[NDArray[np.generic]]:
    """Whole numbers; a mask hides a share of the keys with a large negative number, never all of a row."""
    arrays = []
    for param in mod["main"].params:
        shape = [int(extent) for extent in param.ty.shape.values]
        dtype = str(param.ty.dtype)
        array = rng.integers(-_LARGEST_VALUE, _LARGEST_VALUE, size=shape, endpoint=True).astype(dtype)
        if param.name == "m":
            hidden = rng.random(shape) < masked
            hidden[..., -1] = False
            array = np.where(hidden, -1e9 if dtype == "float32" else -6e4, 0).astype(dtype)
        arrays.append(array)
    return arrays


def check(
    mod: tvm.IRModule, mapping: AttentionMapping, inputs: list[NDArray[np.generic]], *, poison: bool = False
) -> None:
    fused = extract(mod).mod
    site = the_site(fused)
    func = attention_func(site, mapping)
    if poison:
        func = poisoned(lower_to_allocations(func))
    replaced = replace_attention(fused, [(site, func)])
    assert len([f for f in replaced.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]) == 1
    # Independent roundings grow like the root of their number. ``compare`` takes them relative to the largest result or
    # 1; they are relative to the largest value, which averages of values do not exceed.
    roundings = _LARGEST_VALUE * math.ceil(_DEVIATIONS * math.sqrt(num_roundings(site, mapping)))
    expected, actual = run(build(fused, _ARCH), inputs), run(build(replaced, _ARCH), inputs)
    result = compare(expected, actual, num_roundings=roundings)
    assert np.isfinite(actual[0]).all()
    assert result.passed, str(result)


@pytest.mark.parametrize(
    ("extent", "depth", "query_tile", "key_tile", "cores"),
    [
        (1, 32, 1, 1, (1, 1)), (7, 32, 3, 5, (2, 2)), (7, 64, 7, 2, (1, 3)), (128, 64, 48, 40, (2, 1)),
        (512, 64, 100, 96, (1, 2)), (128, 32, 128, 128, (3, 1)), (7, 32, 4, 1, (3, 1)),
    ],
)  # fmt: skip
def test_any_tiles(extent: int, depth: int, query_tile: int, key_tile: int, cores: tuple[int, int]):
    shape = (2, 3, extent, depth)
    mod = attention(shape, shape, shape, mask=(2, 1, 1, extent))
    mapping = AttentionMapping(cores=cores, query_tile=query_tile, key_tile=key_tile)
    check(mod, mapping, draw(mod, np.random.default_rng(extent), 0.4))


@pytest.mark.parametrize(("query_tile", "key_tile"), [(3, 5), (7, 2), (4, 7)])
def test_a_softmax_beside_the_products(query_tile: int, key_tile: int):
    # the code is that of one chunk after the other, with a note on the loops that have several at a time
    shape = (2, 3, 7, 16)
    mod = attention(shape, shape, shape, mask=(2, 1, 1, 7))
    mapping = AttentionMapping(query_tile=query_tile, key_tile=key_tile, beside=True)
    check(mod, mapping, draw(mod, np.random.default_rng(7), 0.4))
    site = find_attention(extract(mod).mod)[0][0]
    assert '"spm.beside": "softmax"' in str(attention_func(site, mapping))
    assert "spm.beside" not in str(attention_func(site, replace(mapping, beside=False)))


@pytest.mark.parametrize(
    ("q", "k", "v", "mask", "transposed"),
    [
        ((5, 9, 32), (5, 11, 32), (5, 11, 64), None, True),
        ((5, 9, 32), (5, 32, 11), (5, 11, 64), (9, 11), False),
        ((9, 32), (11, 32), (11, 16), (9, 1), True),
        ((2, 1, 9, 8), (2, 1, 11, 8), (2, 1, 11, 8), (1, 1, 9, 11), True),
        ((2, 3, 9, 8), (2, 3, 8, 11), (2, 3, 11, 4), (1,), False),
        ((2, 3, 1, 8), (2, 3, 8, 11), (2, 3, 11, 4), (2, 3, 1, 11), False),
    ],
)
def test_any_layout(q: Shape, k: Shape, v: Shape, mask: Shape | None, transposed: bool):
    mod = attention(q, k, v, mask=mask, transposed=transposed)
    check(mod, AttentionMapping(query_tile=4, key_tile=3), draw(mod, np.random.default_rng(0), 0.3))


def test_both_products_may_be_one_function():
    # Without a scale, which would be part of the first.
    builder, params = relax.BlockBuilder(), [relax.Var(name, R.Tensor((3, 10, 10), "float32")) for name in "qkv"]
    with builder.function("main", params):
        with builder.dataflow():
            scores = builder.emit(relax.op.matmul(params[0], params[1]))
            probabilities = builder.emit(relax.op.nn.softmax(scores, axis=-1))
            result = builder.emit_output(relax.op.matmul(probabilities, params[2]))
        builder.emit_func_output(result)
    mod = builder.get()
    assert len([f for f in extract(mod).mod.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]) == 2
    check(mod, AttentionMapping(query_tile=4, key_tile=3), draw(mod, np.random.default_rng(3), 0.0))


def test_whole_chunks_hidden_by_a_mask():
    # The first chunks hold nothing but hidden keys: the maximum is about -1e9 until the last key comes.
    shape = (1, 2, 12, 32)
    mod = attention(shape, shape, shape, mask=(1, 1, 1, 12))
    check(mod, AttentionMapping(query_tile=5, key_tile=4), draw(mod, np.random.default_rng(1), 1.0))


def test_half_precision():
    shape = (1, 2, 12, 32)
    mod = attention(shape, shape, shape, mask=(1, 1, 1, 12), dtype="float16")
    check(mod, AttentionMapping(query_tile=5, key_tile=4), draw(mod, np.random.default_rng(1), 0.3))


def test_rows_of_halves_are_summed_in_more():
    """A row of 4,096 equal scores: 1,024 ones among as many powers of 1, of which float16 adds up only 2,048."""
    mod = attention((1, 1, 2, 2), (1, 1, 4096, 2), (1, 1, 4096, 2), dtype="float16")
    fused = extract(mod).mod
    site = the_site(fused)
    values = np.zeros((1, 1, 4096, 2), "float16")
    values[:, :, 1024:2048] = 1
    inputs = [np.zeros((1, 1, 2, 2), "float16"), np.zeros((1, 1, 4096, 2), "float16"), values]
    func = attention_func(site, AttentionMapping(query_tile=2, key_tile=1000))
    for each in (fused, replace_attention(fused, [(site, func)])):
        np.testing.assert_array_equal(run(build(each, _ARCH), inputs)[0], np.full((1, 1, 2, 2), 0.25, "float16"))


def test_nothing_is_read_before_it_is_staged():
    shape = (2, 2, 11, 8)
    mod = attention(shape, shape, shape, mask=(2, 1, 11, 11))
    mapping = AttentionMapping(cores=(1, 2), query_tile=4, key_tile=3)
    check(mod, mapping, draw(mod, np.random.default_rng(2), 0.3), poison=True)


def test_keys_that_stay_are_staged_once_per_head():
    shape = (1, 2, 11, 8)
    mod = attention(shape, shape, shape, mask=(1, 1, 1, 11))
    check(mod, AttentionMapping(query_tile=4, key_tile=11), draw(mod, np.random.default_rng(2), 0.3), poison=True)


def elements_moved(func: tvm.tirx.PrimFunc) -> Counter[str]:
    """Elements that the copies of a function move, every loop walked."""
    found: Counter[str] = Counter()
    analyzer = tvm.sym.Analyzer()

    def extent(loop: tvm.tirx.For, at: dict[tvm.ir.Var, int]) -> int:
        return int(analyzer.simplify(substitute(loop.extent, {v: tvm.tirx.const(i, "int64") for v, i in at.items()})))

    def walk(stmt: tvm.tirx.Stmt, at: dict[tvm.ir.Var, int]) -> None:
        if isinstance(stmt, tvm.tirx.SeqStmt):
            for inner in stmt.seq:
                walk(inner, at)
        elif isinstance(stmt, tvm.tirx.For) and "spm.dma" in stmt.annotations:
            elems, inner = 1, stmt
            while isinstance(inner, tvm.tirx.For):
                elems, inner = elems * extent(inner, at), inner.body
            found[str(stmt.annotations["spm.dma"])] += elems
        elif isinstance(stmt, tvm.tirx.For) and not isinstance(stmt.body, tvm.tirx.BufferStore):
            for i in range(extent(stmt, at)):
                walk(stmt.body, {**at, stmt.loop_var: i})

    walk(func.body.block.body, {})
    return found


@pytest.mark.parametrize(("query_tile", "key_tile", "cores"), [(3, 4, (2, 2)), (5, 13, (1, 2)), (11, 4, (3, 1))])
def test_code_moves_what_is_priced(query_tile: int, key_tile: int, cores: tuple[int, int]):
    mod = attention((2, 3, 11, 8), (2, 3, 13, 8), (2, 3, 13, 4), mask=(2, 1, 11, 13))
    site = the_site(extract(mod).mod)
    mapping = AttentionMapping(cores=cores, query_tile=query_tile, key_tile=key_tile)
    arch = load_arch("quad-edge")
    mapping = replace(mapping, inner=inner_mappings(site.work, arch, mapping, "edp"))
    moved = elements_moved(attention_func(site, mapping))
    priced = attention_cost(site.work, arch, mapping).dram_bytes
    assert priced == tuple(4 * moved[name] for name in ("I", "W", "O", "mask"))


def test_plan_for_two_equal_layers():
    # The second layer attends to the result of the first, and is the same attention otherwise.
    builder, shape = relax.BlockBuilder(), (2, 24, 16)
    x = relax.Var("x", R.Tensor(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            value: relax.Expr = x
            for _ in range(2):
                keys = builder.emit(relax.op.permute_dims(value, [0, 2, 1]))
                scores = builder.emit(relax.op.matmul(x, keys))
                value = builder.emit(relax.op.matmul(builder.emit(relax.op.nn.softmax(scores, axis=-1)), value))
            result = builder.emit_output(relax.op.nn.relu(value))
        builder.emit_func_output(result)
    mod = builder.get()
    fused = extract(mod).mod
    plan, _ = plan_attention(fused, load_arch("quad-edge"), objective=Objective.LATENCY)
    replaced = replace_attention(fused, [(each.site, attention_func(each.site, each.result.mapping)) for each in plan])
    assert [each.result.cost.macs for each in plan] == [2 * 2 * 24 * 24 * 16] * len(plan)
    assert len(plan) == 2
    inputs = draw(mod, np.random.default_rng(0), 0.0)
    expected, actual = run(build(fused, _ARCH), inputs), run(build(replaced, _ARCH), inputs)
    roundings = sum(num_roundings(each.site, each.result.mapping) for each in plan)
    # Scores of the second layer are sums over 16 results of the first, times at most 3: as powers, their errors count.
    allowed = _LARGEST_VALUE * math.ceil(_DEVIATIONS * math.sqrt(roundings)) * (1 + 2 * 16 * _LARGEST_VALUE)
    assert compare(expected, actual, num_roundings=allowed).passed


def test_scores_read_twice_are_no_attention():
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((2, 8, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            scores = builder.emit(relax.op.matmul(x, x))
            result = builder.emit(relax.op.matmul(builder.emit(relax.op.nn.softmax(scores, axis=-1)), x))
            both = builder.emit_output(relax.Tuple([scores, result]))
        builder.emit_func_output(both)
    sites, refused = find_attention(extract(builder.get()).mod)
    assert sites == ()
    assert [refusal.reason for refusal in refused] == ["the scores are read 2 times"]


def test_softmax_over_another_axis_is_no_attention():
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((2, 8, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            scores = builder.emit(relax.op.matmul(x, x))
            probabilities = builder.emit(relax.op.nn.softmax(scores, axis=1))
            result = builder.emit_output(relax.op.matmul(probabilities, x))
        builder.emit_func_output(result)
    assert find_attention(extract(builder.get()).mod)[0] == ()
