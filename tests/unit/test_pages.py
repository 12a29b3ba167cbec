"""Open pages by hand: rows of banks, a transfer's waits, the order of transfers, floors, and what a search says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_model.bounds import lower_bound
from cost_model.simulator import account, simulate_batch
from tvm_spm.addresses import locate
from tvm_spm.arch import Arch, load_arch
from tvm_spm.errors import NoMappingError
from tvm_spm.mapping import Mapping
from tvm_spm.pages import Pages, visit
from tvm_spm.report.breakdown import breakdown_of
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuner import evaluate, search
from tvm_spm.workload import Axis, Dims, Epilogue, Operand, Projection, Workload


def on(arch: str, pages: Pages | None, **dram: float) -> Arch:
    """A preset with other pages."""
    found = load_arch(arch)
    return replace(found, levels=replace(found.levels, DRAM=replace(found.levels.DRAM, pages=pages, **dram)))


def test_a_run_meets_rows_of_banks():
    # rows of 64 B in 2 banks: addresses 0..63 are row 0 of bank 0, 64..127 row 0 of bank 1, 128..191 row 1 of bank 0
    rows = [-1, -1]
    assert visit(rows, 10, 20, 2, 64, 64) == (1, 1)
    assert visit(rows, 20, 64, 2, 64, 64) == (1, 0)
    assert visit(rows, 63, 65, 2, 64, 64) == (2, 1)
    assert rows == [0, 0]
    assert visit(rows, 0, 192, 2, 64, 64) == (3, 1)
    assert rows == [1, 0]
    assert visit(rows, 0, 1, 2, 64, 64) == (1, 1)


def test_banks_take_turns_within_a_row():
    # blocks of 16 B: address 16 is bank 1, address 32 bank 0 again, both row 0; row 1 begins at 2 * 64
    rows = [-1, -1]
    assert visit(rows, 0, 128, 2, 64, 16) == (8, 2)
    assert visit(rows, 128, 129, 2, 64, 16) == (1, 1)
    assert rows == [1, 0]


def test_tensors_lie_behind_each_other():
    work = Workload.matmul(m=3, k=5, n=7, dtype="int8", out_dtype="int32")
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=7),), dtype="int16")
    work = replace(work, epilogue=Epilogue(num_ops_per_elem=1, extras=(bias,)))
    # I 15 B, W 35 B, O 84 B, P 84 B, E0 14 B, each at the next multiple of 64
    kept = [(each.name, each.address, each.num_bytes) for each in locate(work, spills=True)]
    assert kept == [("I", 0, 15), ("W", 64, 35), ("O", 128, 84), ("P", 256, 84), ("E0", 384, 14)]
    assert [each.address for each in locate(work, spills=False)] == [0, 64, 128, 256]
    half = Workload.matmul(m=3, k=50, n=7, dtype="int4", out_dtype="int32")
    assert [each.num_bytes for each in locate(half, spills=False)][0] == 75


ROWS = Workload.matmul(m=4, k=32, n=16, dtype="int8", out_dtype="int32")
"""I is 4 rows of 32 B at 0, W 32 rows of 16 B at 128, O 4 rows of 64 B at 640."""

MAPPING = Mapping(
    spm=Dims(OX=2, C=16, K=16), rf=Dims(), rows=Dims(), cols=Dims(), cores=Dims(),
    dram_order=("OX", "C", "K", "N", "G", "OY", "FY", "FX"), spm_order=("K", "C", "OX", "N", "G", "OY", "FY", "FX"),
    spm_double=(), rf_double=(), spill=True,
)  # fmt: skip


def test_transfers_by_hand():
    pages = Pages(banks=2, row_bytes=128, hit_cycles=0, miss_cycles=10)
    ideal = on("edge-256", None, channel_bytes_per_cycle=1.0)
    paged = on("edge-256", pages, channel_bytes_per_cycle=1.0)
    counts = account(ROWS, paged, MAPPING).counts
    # 4 passes, OX in two halves and C in two. Rows of 128 B: I is one (bank 0), W four (banks 1 0 1 0), O two (1 0).
    #   load I: 2 runs of 16 B of row 0 -> 1 miss; load W: 1 run of 256 B at 128, rows 1 (bank 1) and 2 (bank 0) -> 2
    #   load I: 2 runs, bank 0 had row 2 -> 1 miss; load W: 384..639, rows 3 (bank 1) and 4 (bank 0) -> 2 misses
    #   store O: 1 run of 128 B at 640, row 5 (bank 1) -> 1 miss
    #   load I (third row on): bank 0 had row 4 -> 1; W again rows 1 and 2 -> 2; I: 1; W: 2; store O at 768: row 6 -> 1
    assert counts.misses == 2 * (1 + 2 + 1 + 2 + 1)
    # blocks: I 2 + W 2 a pass, O 1 a half
    assert counts.blocks == 4 * (2 + 2) + 2
    cycles = [simulate_batch(ROWS, arch, [MAPPING])[0].cycles for arch in (ideal, paged)]
    # nothing is double-buffered: every wait shows
    assert cycles[1] - cycles[0] == counts.misses * pages.miss_cycles


def test_a_breakdown_shows_misses():
    paged = on("edge-256", Pages(banks=2, row_bytes=128, miss_cycles=10), channel_bytes_per_cycle=1.0)
    assert "open pages: runs come to 18 blocks of a bank, 14 miss (77.8%)" in str(breakdown_of(ROWS, paged, MAPPING))
    assert "open pages" not in str(breakdown_of(ROWS, on("edge-256", None), MAPPING))


def test_hits_are_part_of_a_run():
    # the same blocks and misses; each of the 10 runs and each of the 8 blocks beyond the first of W's waits for a hit
    pages = Pages(banks=2, row_bytes=128, hit_cycles=3, miss_cycles=10)
    ideal = on("edge-256", None, channel_bytes_per_cycle=1.0)
    cycles = [
        simulate_batch(ROWS, arch, [MAPPING])[0].cycles
        for arch in (ideal, on("edge-256", pages, channel_bytes_per_cycle=1.0))
    ]
    # 18 blocks wait, 14 of them 10 cycles and 4 of them 3
    assert cycles[1] - cycles[0] == 14 * 10 + 4 * 3


def test_every_row_is_opened_once():
    # 4 * 32 + 32 * 16 + 4 * 16 * 4 = 896 B at 26.67 B a cycle are 33.6 cycles; 7 rows of 128 B: 70 more
    pages = Pages(banks=2, row_bytes=128, miss_cycles=10)
    assert lower_bound(ROWS, on("edge-256", None), "latency") == 34
    assert lower_bound(ROWS, on("edge-256", pages), "latency") == 104
    # a hit is no wait for a row
    assert lower_bound(ROWS, on("edge-256", replace(pages, hit_cycles=10)), "latency") == 34


@pytest.mark.parametrize("objective", ["latency", "edp"])
def test_a_search_says_how_far_the_waits_may_be_from_the_bound(objective: str):
    ideal, paged = on("edge-256-lpddr4", None), load_arch("edge-256-lpddr4")
    layer = Workload.conv2d(K=32, C=32, OY=14, OX=14, FY=3, FX=3, padding=1)
    free = search(layer, ideal, objective=objective, factors="perfect")
    found = search(layer, paged, objective=objective, factors="perfect", trials=128)
    assert free.certified
    assert found.cost == simulate_batch(layer, paged, [found.mapping])[0]
    assert found.lower_bound == pytest.approx(max(free.value, lower_bound(layer, paged, objective)))
    # no worse than what is certified without pages, and still above that
    proved = simulate_batch(layer, paged, [free.mapping])[0].objective(objective)
    assert found.lower_bound < found.value <= proved
    assert not found.certified
    assert "which waits for no row of DRAM" in str(found)
    assert found.default_cost is not None
    assert found.num_evaluated == free.num_evaluated + 128
    # energy has no waits
    assert search(layer, paged, objective="energy", factors="perfect", trials=1).certified


def test_a_search_keeps_to_its_space_under_pages():
    # short runs of 32 B in rows of their own: what is certified without pages waits for nearly all of them
    layer, paged = Workload.conv2d(K=24, C=16, OY=56, OX=56, FY=1, FX=1), load_arch("edge-256-lpddr4")
    found = search(layer, paged, objective="latency", factors="perfect", trials=256)
    proved = search(layer, on("edge-256-lpddr4", None), objective="latency", factors="perfect")
    waits = simulate_batch(layer, paged, [proved.mapping])[0].cycles
    assert found.cost.cycles < 0.9 * waits
    assert MapSpace(workload=layer, arch=paged, perfect=True).contains(found.mapping)
    cap = proved.cost.energy_pj
    capped = search(layer, paged, objective="latency", factors="perfect", trials=128, energy_cap_pj=cap)
    assert capped.cost.energy_pj <= cap
    assert search(layer, paged, objective="latency", trials=64, searcher="evolutionary").cost.model == "simulator"


def test_the_bound_that_is_nearest_is_named():
    # rows of 64 B that take a million cycles: physics, which opens each row, is far above the formula
    slow = on("edge-256-ddr4", Pages(banks=1, row_bytes=64, miss_cycles=10**6))
    layer = Workload.matmul(m=33, k=64, n=16)
    found = search(layer, slow, objective="latency", trials=16)
    assert found.lower_bound == lower_bound(layer, slow, "latency")
    assert "every row opened once" in found.space
    assert "under the analytical model" not in found.space


@pytest.mark.parametrize("factors", ["any", "perfect"])
def test_a_bound_of_perfect_factors_says_so_beside_the_gap(factors: str):
    layer = Workload.matmul(m=33, k=64, n=16)
    found = search(layer, "edge-256-ddr4", trials=64, factors=factors)
    beside = "lower bound of perfect factors, below which any factors may go: all legal mappings"
    assert not found.certified
    assert (beside in str(found)) == (factors == "perfect")
    assert "which waits for no row of DRAM" in str(found)


@pytest.mark.parametrize(("arch", "is_bound"), [("edge-256", True), ("quad-edge", False)])
def test_the_analytical_model_says_that_it_leaves_misses_out(arch: str, is_bound: bool):
    pages = Pages(banks=2, row_bytes=128, miss_cycles=10)
    bound = "a lower bound " if is_bound else ""
    assert f"(analytical, {bound}without what misses of pages cost)" in str(
        evaluate(ROWS, on(arch, pages), MAPPING, model="analytical")
    )
    assert evaluate(ROWS, on(arch, pages), MAPPING).model == "simulator"
    assert evaluate(ROWS, on(arch, None), MAPPING, model="analytical").model == "analytical"


def test_where_cores_share_a_channel_only_physics_is_a_bound():
    pages = load_arch("edge-256-lpddr4").levels.DRAM.pages
    arch = on("quad-edge", pages)
    layer = Workload.matmul(m=64, k=64, n=64)
    found = search(layer, arch, objective="latency", trials=64)
    assert found.lower_bound == lower_bound(layer, arch, "latency")
    assert "every row opened once" in found.space


def test_waits_that_cannot_be_counted_are_refused():
    layer = Workload.matmul(m=2**16, k=2**16, n=2**16)
    require_countable(layer, load_arch("edge-256"))
    with pytest.raises(NoMappingError, match="the models count up to"):
        require_countable(layer, on("edge-256", Pages(banks=1, row_bytes=8, miss_cycles=10**6)))


def test_operands_are_where_loops_index_them():
    assert [each.projection for each in locate(ROWS, spills=False)] == [
        ROWS.projection(Operand.I), ROWS.projection(Operand.W), ROWS.final_projection(),
    ]  # fmt: skip
