"""The price of attention against a literal walk: every tile, every transfer, every word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_model.attention.model import Pricing, attention_cost
from cost_model.attention.search import attention_search
from cost_model.attention.stages import best_inner, tile_records
from cost_model.fused.passes import CYCLES
from cost_model.simulator.model import simulate_batch
from tests.oracle.attention import AttentionWalk
from tvm_spm.arch import Arch, load_arch
from tvm_spm.attention import Attention, AttentionMapping, refuse_attention, spm_terms
from tvm_spm.errors import MappingError, NoMappingError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.workload import Axis, Dims, Epilogue, Projection, Workload

EDGE, QUAD = load_arch("edge-256"), load_arch("quad-edge")
SLOW = replace(
    QUAD, name="slow", dma=replace(QUAD.dma, startup_cycles=37), cores=replace(QUAD.cores, launch_cycles=11),
    levels=replace(QUAD.levels, DRAM=replace(QUAD.levels.DRAM, channels=2)),
)  # fmt: skip

BURSTS = replace(SLOW, levels=replace(SLOW.levels, DRAM=replace(SLOW.levels.DRAM, burst_bytes=64)))
"""The same with memory that moves 64 B at least."""


def attention(heads: int, queries: int, keys: int, depth: int, masks: tuple[str, ...] = ()) -> Attention:
    """16-bit, with a scale and masks that follow queries (q), keys (k) or both."""
    work = Attention.of(heads=heads, queries=queries, keys=keys, depth=depth)
    extents = {"q": ("OX", queries), "k": ("K", keys)}
    extras = tuple(
        Projection(axes=tuple(Axis(terms=((extents[a][0], 1),), extent=extents[a][1]) for a in mask), dtype="float32")
        for mask in masks
    )
    epilogue = Epilogue(num_ops_per_elem=1 + len(masks), extras=extras)
    return Attention(scores=replace(work.scores, epilogue=epilogue), context=work.context)


def mapped(work: Attention, arch: Arch, **options: object) -> AttentionMapping:
    """Tiles, and for each product the fastest way below SPM."""
    mapping = AttentionMapping(**options)
    scores, context = mapping.stage_dims(mapping.query_tile, mapping.key_tile, work)
    inner = (
        best_inner(work.scores, arch, scores, accumulates=False, objective="latency"),
        best_inner(work.context, arch, context, accumulates=True, objective="latency"),
    )
    return replace(mapping, inner=inner)


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize(
    ("arch", "shape", "masks", "cores", "tile"),
    [
        (EDGE, (1, 20, 20, 8), (), (1, 1), (20, 20)),
        (EDGE, (2, 33, 20, 16), ("k",), (1, 1), (8, 20)),
        (SLOW, (3, 33, 45, 8), ("qk",), (2, 2), (8, 16)),
        (SLOW, (3, 17, 45, 8), ("q", "k"), (3, 1), (17, 16)),
        (QUAD, (5, 24, 40, 32), ("q",), (1, 3), (4, 40)),
        (BURSTS, (3, 33, 45, 8), ("qk",), (2, 2), (8, 16)),
        (BURSTS, (3, 17, 45, 8), ("q", "k"), (3, 1), (17, 16)),
        (SLOW, (4, 16, 16, 8), ("q", "qk"), (4, 1), (16, 16)),
    ],
)
def test_price_equals_literal_walk(
    arch: Arch, shape: tuple[int, int, int, int], masks: tuple[str, ...], cores: tuple[int, int],
    tile: tuple[int, int], double: bool, beside: bool,
):  # fmt: skip
    work = attention(*shape, masks)
    mapping = mapped(work, arch, cores=cores, query_tile=tile[0], key_tile=tile[1], double=double, beside=beside)
    assert refuse_attention(work, arch, mapping) is None
    cost, walk = attention_cost(work, arch, mapping), AttentionWalk(work, arch, mapping)
    assert cost.cycles == walk.cycles()
    assert cost.energy_pj == pytest.approx(walk.energy_pj, rel=1e-12)
    moved = walk.num_bytes
    mask_bytes = sum(num_bytes for name, num_bytes in moved.items() if name.startswith("mask"))
    assert cost.dram_bytes == (moved["Q"], moved["K"] + moved["V"], moved["O"], mask_bytes)
    assert cost.dram_unused_bytes == sum(moved.values()) - walk.used_bytes
    assert (cost.dram_unused_bytes > 0) == (arch is BURSTS)
    parts = cost.compute_cycles + cost.noc_stall_cycles + cost.dma_stall_cycles + cost.overhead_cycles
    assert parts == cost.cycles
    assert min(cost.noc_stall_cycles, cost.dma_stall_cycles) >= 0


def test_a_pass_is_that_of_the_simulator():
    # Two passes along the sum, columns in the outer SPM loop: each loads everything, the second reads partial sums.
    workload = Workload.matmul(m=24, k=40, n=32)
    inner = Mapping(
        spm=Dims(OX=24, C=40, K=32), rows=Dims(K=16), cols=Dims(OX=12), rf=Dims(OX=2, C=4), spm_order=("K", "C")
    )
    half = replace(inner, spm=inner.spm.with_dim("C", 20), dram_order=("C",))
    one, two = simulate_batch(workload, EDGE, [inner, half])
    whole, fresh, more = (
        int(tile_records(workload, EDGE, inner, [tile], [accumulates])[0, CYCLES])
        for tile, accumulates in (
            (inner.spm, False), (half.spm, False), (half.spm, True),
        )
    )  # fmt: skip
    assert one.compute_cycles + one.noc_stall_cycles == whole
    assert two.compute_cycles + two.noc_stall_cycles == fresh + more


def test_capacity_names_what_takes_the_space():
    # 16-bit, 100 queries, 200 keys, depth 64; banks of 2048 B.
    # Q 12,800 -> 14,336; K and V 2 x 25,600 -> 26,624 each, twice; scores 40,000 -> 40,960; rows 600 -> 2048;
    # output 12,800 -> 14,336. One head and one tile of queries: Q and the output have one buffer.
    work = attention(1, 100, 400, 64)
    mapping = AttentionMapping(query_tile=100, key_tile=200)
    assert dict(spm_terms(work, EDGE, mapping)) == {
        "Q": 14_336, "K": 53_248, "V": 53_248, "scores": 40_960, "rows": 2_048, "output": 14_336,
    }  # fmt: skip
    rejection = refuse_attention(work, EDGE, mapping)
    assert (rejection.reason, rejection.needed, rejection.available) == ("spm-capacity", 178_176, 131_072)
    # 144 keys: K and V 18,432 each, twice; scores 28,800 -> 30,720; 14,336 + 73,728 + 30,720 + 2,048 + 14,336 =
    # 135,168. 143 keys: scores 28,600 -> 28,672, the rest alike: 133,120. 133 keys: K and V 17,024 -> 18,432, scores
    # 26,600 -> 26,624: 131,072.
    assert rejection.nearest == "133 keys fit"
    assert refuse_attention(work, EDGE, replace(mapping, key_tile=133)) is None
    assert refuse_attention(work, EDGE, replace(mapping, key_tile=134)) is not None


def test_sums_of_rows_are_float32_for_halves():
    # 600 queries, banks of 2,048 B: of int16 3 x 1,200 B; the sum of halves takes 2,400 B, as all of float32 do.
    mapping = AttentionMapping(query_tile=600, key_tile=1)
    for dtype, num_bytes in (("int16", 4_096), ("float16", 6_144), ("bfloat16", 6_144), ("float32", 8_192)):
        work = Attention.of(heads=1, queries=600, keys=8, depth=8, dtype=dtype)
        assert dict(spm_terms(work, EDGE, mapping))["rows"] == num_bytes
    half, whole = (
        attention_cost(work, EDGE, mapped(work, EDGE, query_tile=16, key_tile=8)).energy.spm_pj
        for work in (Attention.of(heads=2, queries=16, keys=32, depth=8, dtype=name) for name in ("float16", "int16"))
    )
    # Per head 4 chunks of 16 rows whose sums are read and written, and 16 sums read at the end: a word more each.
    words = 2 * (4 * 16 * 2 + 16)
    assert half - whole == pytest.approx(words * EDGE.levels.SPM.access_pj)


def test_work_beside_the_array_needs_two_tiles_of_scores():
    # As above with 50 queries and 100 keys: scores 10,000 -> 10,240 twice; rows 300 -> 2048 twice.
    terms = dict(
        spm_terms(attention(1, 100, 400, 64), EDGE, AttentionMapping(query_tile=50, key_tile=100, beside=True))
    )
    assert (terms["scores"], terms["rows"]) == (20_480, 4_096)


def test_the_softmax_hides_behind_the_products():
    # Depth 64 on 256 PEs: 16 x 16 scores take 64 cycles for each product and 16 x 16 x 5 / 16 = 80 for the softmax.
    # Six chunks one after the other take at least 6 x (64 + 80 + 64); beside each other the array works 6 x 128, the
    # first scores and the last softmax have no company, and outputs of 16 x 64 are corrected 5 times for 64 cycles.
    work = attention(1, 16, 96, 64)
    apart = attention_cost(work, EDGE, mapped(work, EDGE, query_tile=16, key_tile=16))
    beside = attention_cost(work, EDGE, mapped(work, EDGE, query_tile=16, key_tile=16, beside=True))
    assert beside.cycles <= apart.cycles - 5 * 80
    assert beside.energy_pj == apart.energy_pj
    assert beside.noc_stall_cycles == apart.noc_stall_cycles


def test_cores_that_would_idle():
    # 5 heads in 4 parts are 2 each: 3 parts.
    rejection = refuse_attention(attention(5, 8, 8, 8), QUAD, AttentionMapping(cores=(4, 1), query_tile=8, key_tile=8))
    assert (rejection.reason, rejection.needed, rejection.available) == ("idle-core", 4, 3)
    rejection = refuse_attention(attention(6, 8, 8, 8), QUAD, AttentionMapping(cores=(3, 2), query_tile=4, key_tile=8))
    assert (rejection.reason, rejection.needed, rejection.available) == ("cores", 6, 4)


@pytest.mark.parametrize("objective", ["edp", "energy", "latency"])
def test_search_beats_a_fixed_choice(objective: str):
    work = attention(2, 64, 96, 16)
    small = replace(QUAD, levels=replace(QUAD.levels, SPM=replace(QUAD.levels.SPM, capacity_bytes=32_768)))
    found = attention_search(work, small, objective=objective)
    assert refuse_attention(work, small, found.mapping) is None
    assert attention_cost(work, small, found.mapping) == found.cost
    for cores, double in (((2, 2), False), ((1, 1), True)):
        fixed = mapped(work, small, cores=cores, query_tile=16, key_tile=16, double=double)
        assert refuse_attention(work, small, fixed) is None
        assert found.cost.objective(objective) <= attention_cost(work, small, fixed).objective(objective)


def test_nothing_fits():
    tiny = replace(EDGE, levels=replace(EDGE.levels, SPM=replace(EDGE.levels.SPM, capacity_bytes=4096)))
    with pytest.raises(NoMappingError, match="attention tile does not fit SPM"):
        attention_search(attention(1, 8, 8, 8), tiny)


def test_products_that_do_not_belong_together():
    work = attention(2, 8, 12, 4)
    with pytest.raises(WorkloadError, match="keys = 12 in the scores and 16 in the second product"):
        Attention(scores=work.scores, context=attention(2, 8, 16, 4).context)
    with pytest.raises(MappingError, match="query tile = 0"):
        AttentionMapping(query_tile=0, key_tile=1)


@pytest.mark.parametrize("beside", [False, True])
def test_no_timeline_is_below_its_bound(beside: bool):
    work = attention(5, 70, 90, 16, ("q", "qk"))
    for cores, tile in (((1, 1), (16, 16)), ((2, 2), (35, 90)), ((3, 1), (70, 32))):
        mapping = mapped(work, SLOW, cores=cores, query_tile=tile[0], key_tile=tile[1], beside=beside)
        assert refuse_attention(work, SLOW, mapping) is None
        pricing = Pricing(work=work, arch=SLOW, mapping=mapping)
        for objective in Objective:
            assert pricing.bound(objective) <= pricing.cost().objective(objective)
