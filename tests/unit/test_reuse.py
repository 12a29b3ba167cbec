"""Counts of tiny mappings, by arithmetic."""

from __future__ import annotations

import pytest

from cost_model.analytical.model import AnalyticalModel
from tests.oracle.reuse import ROOT, count_reuse, cut, loop_nest, num_bursts, summed_elems
from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Axis, Dims, Projection, Workload

CONV = Workload.conv2d(K=2, C=2, OY=4, OX=4, FY=3, FX=3, padding=1)
"""Input 2x4x4, weights 2x2x3x3, output 2x4x4."""

BYTES, BURSTS = load_arch("edge-256"), load_arch("eyeriss-168")
"""Machines whose memory moves bytes, and bursts of 64 of them."""

HALVES = Dims(K=2, C=1, OY=2, OX=4, FY=3, FX=3)
"""Half the output rows and half the input channels."""


def conv_mapping(*dram_order: str, spill: bool = False) -> Mapping:
    return Mapping(spm=HALVES, rf=HALVES, dram_order=dram_order, spill=spill)


def moved_bytes(workload: Workload, mapping: Mapping, arch: Arch) -> tuple[int, int, int, int]:
    """DRAM bytes of I W O extras, on which the model and its oracle agree."""
    cost, reuse = AnalyticalModel().cost(workload, arch, mapping), count_reuse(workload, mapping)
    assert (cost.dram_bytes, cost.dram_unused_bytes) == (reuse.dram_bytes(arch), reuse.unused_bits(arch) // 8)
    return cost.dram_bytes


@pytest.mark.parametrize(
    ("extent", "tile", "parts"),
    [(6, 2, [(0, 2), (2, 2), (4, 2)]), (5, 2, [(0, 2), (2, 2), (4, 1)]), (1, 2, [(0, 1)]), (2, 2, [(0, 2)])],
)
def test_a_cut_gives_full_tiles_and_one_edge_tile(extent: int, tile: int, parts: list[tuple[int, int]]) -> None:
    assert cut((0, extent), tile) == parts


def test_loops_that_iterate_once_are_no_loops() -> None:
    nest = loop_nest(conv_mapping("K", "OY", "FX", "C").levels(CONV.dims))
    assert nest.loops == ((0, "OY"), (0, "C"))


def test_load_position_is_the_innermost_loop_that_changes_the_tile() -> None:
    nest = loop_nest(conv_mapping("OY", "C").levels(CONV.dims))
    assert nest.load_position(CONV.I, 1) == 1
    assert nest.load_position(CONV.W, 1) == 1
    assert nest.load_position(CONV.O, 1) == 0
    assert loop_nest(Mapping(spm=CONV.dims, rf=CONV.dims).levels(CONV.dims)).load_position(CONV.W, 2) == ROOT


def test_outputs_stay_while_a_reduction_is_inside() -> None:
    reuse = count_reuse(CONV, conv_mapping("OY", "C"))
    # each pass loads 1 channel of 3 rows (-1..2 and 1..4 without padding) and 4 columns: 4 * 3 * 4
    assert reuse.dram_in[0].num_elems == 48
    # the weights of one channel, 2*3*3, are loaded again for each half of the rows: 4 * 18
    assert reuse.dram_in[1].num_elems == 72
    # 2*4*4 outputs leave once and are complete
    assert reuse.dram_final.num_elems == 32
    assert reuse.dram_spill.num_elems == reuse.dram_in[2].num_elems == 0
    # int16 everywhere
    assert moved_bytes(CONV, conv_mapping("OY", "C"), BYTES) == (96, 144, 64, 0)


def test_outputs_leave_unfinished_while_a_reduction_is_outside() -> None:
    reuse = count_reuse(CONV, conv_mapping("C", "OY", spill=True))
    # both halves (16 outputs each) leave after the first channel, come back, and leave again
    assert reuse.dram_spill.num_elems == reuse.dram_in[2].num_elems == 32
    assert reuse.dram_final.num_elems == 32
    # weights stay while the rows change: each of 2 channels once
    assert reuse.dram_in[1].num_elems == 36
    assert reuse.dram_in[0].num_elems == 48


def test_a_tile_wholly_in_padding_moves_nothing() -> None:
    workload = Workload.conv2d(K=1, C=1, OY=4, OX=1, FY=1, FX=1, padding=(1, 0))
    reuse = count_reuse(workload, Mapping(dram_order=("OY",)))
    # rows -1, 0, 1, 2 of an input with rows 0 and 1
    assert reuse.dram_in[0].num_transfers == 4
    assert reuse.dram_in[0].num_elems == 2
    assert reuse.dram_in[0].num_bursts == 2


@pytest.mark.parametrize(
    ("box", "bursts"),
    [
        ((2, 4, 4), 1),  # the whole tensor
        ((2, 4, 3), 8),  # 2 * 4 runs of 3
        ((2, 3, 4), 2),  # rows are whole, so 3 of them are one run; 2 runs of 12
        ((1, 4, 4), 1),  # one channel is one run
        ((0, 4, 4), 0),
    ],
)
def test_bursts_are_contiguous_runs(box: tuple[int, int, int], bursts: int) -> None:
    axes = tuple(Axis(terms=((name, 1),), extent=extent) for name, extent in (("C", 2), ("OY", 4), ("OX", 4)))
    assert num_bursts(Projection(axes=axes, dtype="int16"), box) == bursts


def test_bytes_are_rounded_up_per_transfer() -> None:
    workload = Workload.matmul(m=1, k=3, n=1, dtype="int4", out_dtype="int32")
    # 3 transfers of one 4-bit element move 3 bytes, one transfer of all three moves 2
    assert moved_bytes(workload, Mapping(dram_order=("C",)), BYTES) == (3, 3, 4, 0)
    assert moved_bytes(workload, Mapping(spm=Dims(C=3), rf=Dims(C=3)), BYTES) == (2, 2, 4, 0)


def test_every_burst_is_whole() -> None:
    # 16-bit weights (32, 100), SPM tiles of 32 x 40, 32 x 40 and 32 x 20: rows of 80, 80 and 40 B are bursts of 128,
    # 128 and 64 B. 32 * (128 + 128 + 64) = 10,240 B move where 32 * 100 * 2 = 6,400 are used.
    workload = Workload.matmul(m=1, k=32, n=100)
    tiles = Mapping(spm=Dims(C=32, K=40), dram_order=("K",))
    reuse = count_reuse(workload, tiles)
    assert reuse.dram_in[1].num_bursts == 3 * 32
    assert reuse.dram_in[1].num_bytes(BURSTS) == 10_240
    assert reuse.dram_in[1].unused_bits(BURSTS) == 8 * (10_240 - 6_400)
    assert reuse.dram_in[1].num_bytes(BYTES) == 6_400
    assert reuse.dram_in[1].unused_bits(BYTES) == 0
    # 32 inputs once: one burst of 64 B. Outputs of 40, 40 and 20 elements: 128 + 128 + 64 B for 200.
    assert moved_bytes(workload, tiles, BURSTS) == (64, 10_240, 320, 0)
    assert reuse.unused_bits(BURSTS) == 8 * (0 + 3_840 + 120)


def test_a_covered_axis_does_not_end_a_burst() -> None:
    # the whole of 3 x 5 elements of 4 bits: 60 bits in one burst of 64 B; two rows of five: 40 bits in one as well
    workload = Workload.matmul(m=1, k=3, n=5, dtype="int4", out_dtype="int32")
    assert count_reuse(workload, Mapping(spm=Dims(C=3, K=5))).dram_in[1].num_bytes(BURSTS) == 64
    # tiles of 2 and 1 rows
    halves = Mapping(spm=Dims(C=2, K=5), dram_order=("C",))
    assert count_reuse(workload, halves).dram_in[1].num_bytes(BURSTS) == 128
    # columns of 4 and 1: 3 bursts each
    columns = Mapping(spm=Dims(C=3, K=4), dram_order=("K",))
    assert count_reuse(workload, columns).dram_in[1].num_bytes(BURSTS) == 6 * 64


def test_halo_is_summed_over_tiles() -> None:
    axis = Axis(terms=(("OY", 2), ("FY", 1)), extent=9)
    # output tiles 2 + 2 at stride 2 with a 3-tap filter: (2-1)*2 + 3 = 5 rows each
    assert summed_elems(axis, {"OY": [(0, 2), (2, 2)], "FY": [(0, 3)]}) == 10


def test_every_pe_that_needs_an_element_receives_it() -> None:
    workload = Workload.matmul(m=2, k=3, n=4)
    mapping = Mapping(spm=Dims(K=4, C=3, OX=2), rows=Dims(C=3), cols=Dims(K=4), rf=Dims(OX=2))
    reuse = count_reuse(workload, mapping)
    i, w, o = reuse.rf_in
    # each of 2*3 inputs goes to the 4 columns, each of 3*4 weights to one PE
    assert (i.num_elems, i.num_deliveries) == (6, 24)
    assert (w.num_elems, w.num_deliveries) == (12, 12)
    # 2*4 outputs leave once; 3 rows are summed over 2 hops each
    assert (reuse.rf_out.num_elems, reuse.num_reduction_hops) == (8, 16)
    assert o.num_elems == 0


def test_idle_pes_of_an_edge_tile_receive_nothing() -> None:
    workload = Workload.matmul(m=1, k=1, n=5)
    mapping = Mapping(spm=Dims(K=5), cols=Dims(K=3), spm_order=("K",))
    # steps of 3 and 2 PEs; the one input stays, so it reaches the 3 PEs of the first step only
    assert count_reuse(workload, mapping).rf_in[0].num_deliveries == 3
    assert count_reuse(workload, mapping).rf_in[1].num_deliveries == 5
