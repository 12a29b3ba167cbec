"""The published model of Dave et al. equals the authors' released tool, number by number."""

from __future__ import annotations

import itertools
import math

import pytest

from cost_model.published.model import order_classes, reuse_vectors, tiling_facts
from cost_model.published.nest import PublishedNest, published_factors, published_machine, published_nest
from tests.unit.dmazerunner_tables import ORDERS, TILINGS, TilingRow
from tests.unit.published_orders import best_over_orders
from tvm_spm.arch import load_arch
from tvm_spm.errors import ArchError, MappingError, WorkloadError
from tvm_spm.objective import Objective
from tvm_spm.workload import Operand, Workload

ARCH = load_arch("dmazerunner-256")
each_tiling = pytest.mark.parametrize("row", TILINGS, ids=lambda row: row.name)


@each_tiling
def test_facts_of_tiling_equal_the_tool(row: TilingRow):
    nest = published_nest(row.workload)
    factors = published_factors(nest, row.factors)
    facts = tiling_facts(nest, published_machine(ARCH), factors)
    assert facts.pes_used == row.pes
    assert facts.macs == row.macs == nest.macs
    assert facts.num_rf_passes == row.rf_passes_per_spm_pass
    assert facts.num_spm_passes == row.spm_passes
    assert facts.rf_pass_cycles == row.rf_pass_cycles
    assert facts.noc_cycles == row.noc_cycles
    assert (0, 0, facts.reduction_cycles) == row.inter_pe_cycles
    assert facts.num_bursts == row.num_bursts
    assert facts.burst_elems == row.burst_elems
    assert facts.dma_cycles == row.dma_cycles
    assert facts.rf_elems == row.rf_elems
    spm_tile = [math.prod(loop) for loop in zip(*factors[1:], strict=True)]
    assert tuple(nest.footprint_elems(operand, tuple(spm_tile)) for operand in Operand) == row.spm_elems
    assert len(reuse_vectors(nest, factors[0])) == row.num_classes_dram
    assert len(reuse_vectors(nest, factors[1])) == row.num_classes_spm


@each_tiling
def test_best_over_orders_equals_the_tool(row: TilingRow):
    best = best_over_orders(row.workload, ARCH, row.factors)
    assert best.min_cycles == row.min_cycles
    assert best.min_energy_pj == row.min_energy_pj
    assert float(f"{best.min_edp:.9e}") == row.min_edp


@each_tiling
def test_every_order_class_equals_the_tool(row: TilingRow):
    ours = {(c.reuse_dram, c.reuse_spm): c for c in order_classes(row.workload, ARCH, row.factors)}
    theirs = ORDERS[row.name]
    assert set(ours) == {(order.reuse_dram, order.reuse_spm) for order in theirs}
    for order in theirs:
        c = ours[order.reuse_dram, order.reuse_spm]
        got = (c.cycles, c.energy_pj, c.value(Objective.EDP), c.spm_pass_cycles, c.spm_pass_energy_pj, c.dram_energy_pj)
        parts = (c.energy.mac_pj, c.energy.rf_pj, c.energy.noc_pj, c.energy.spm_pj, c.energy.dram_pj)
        assert (*got, *parts) == tuple(order[2:])


def test_reuse_vectors_equal_a_walk_over_all_orders():
    # Scan every order from innermost outwards, ignoring loops of trip count 1: multiply while the tensor does not
    # depend on the loop, stop at the first on which it does.
    for row in TILINGS:
        nest = published_nest(row.workload)
        for level in published_factors(nest, row.factors)[:2]:
            walked = set()
            for order in itertools.permutations([loop for loop in range(7) if level[loop] > 1]):
                walked.add(tuple(_reuse(nest, operand, level, order) for operand in Operand))
            vectors = reuse_vectors(nest, level)
            assert set(vectors) == walked
            assert len(vectors) == len(walked)


def _reuse(nest: PublishedNest, operand: Operand, level: tuple[int, ...], order: tuple[int, ...]) -> int:
    run = itertools.takewhile(lambda loop: not nest.depends(operand, loop), reversed(order))
    return math.prod(level[loop] for loop in run)


def test_a_convolution_has_fifteen_reuse_classes():
    # 2^3 - 1 runs of C FX FY, 2^1 - 1 of K, 2^3 - 1 of N OX OY; distinct primes, so that no two products are equal.
    nest = published_nest(Workload.conv2d(N=2, K=3, C=5, OY=11, OX=7, FY=17, FX=13))
    assert len(reuse_vectors(nest, nest.extents)) == 15


def test_padding_is_stored_and_a_stride_breaks_rows():
    # 56x56, 3x3, stride 2, padding 1, whole map in one pass: the loops touch 57 of 58 stored rows and columns, so each
    # of 64 * 57 rows is a burst of 57 elements: 3648 * ceil((291 + 0.48 * 57) * 500 / 3200) = 3648 * 50 cycles.
    # Stored as 57x57 it is one burst: ceil((291 + 0.48 * 64 * 57 * 57) * 500 / 3200) = 15641 cycles.
    shape = {"K": 128, "C": 64, "OY": 28, "OX": 28, "FY": 3, "FX": 3, "stride": 2, "padding": 1}
    machine = published_machine(ARCH)
    for given, num_bursts, dma_cycles in ((56, 3648, 182400), (None, 1, 15641)):
        nest = published_nest(Workload.conv2d(**shape, IY=given, IX=given))
        facts = tiling_facts(nest, machine, ((1,) * 7, nest.extents, (1,) * 7, (1,) * 7))
        assert facts.num_bursts[Operand.I.value] == num_bursts
        assert facts.dma_cycles[Operand.I.value] == dma_cycles


def test_depthwise_channels_go_by_any_of_their_names():
    layer = Workload.conv2d(N=1, K=6, C=6, OY=5, OX=5, FY=3, FX=3, groups=6)
    rest = {"SPM": {"OX": 5, "OY": 5, "FX": 3, "FY": 3}}
    costs = {best_over_orders(layer, ARCH, {**rest, "DRAM": {name: 6}}) for name in "GCK"}
    assert len(costs) == 1


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"DRAM": {"K": 3}}, "factors of K: DRAM 3 x SPM 1 x RF 1 x spatial 1 = 3, must equal the extent 4"),
        ({"DRAm": {"K": 4}}, "factors: unknown level 'DRAm'; did you mean 'DRAM'?"),
        (
            {"DRAM": {"M": 4}},
            "factors of DRAM: unknown dim 'M'; choose one of 'C', 'FX', 'FY', 'G', 'K', 'N', 'OX', 'OY'",
        ),
        ({"DRAM": {"K": 0}}, "factors of DRAM: K = 0: must be an integer >= 1"),
        ({"DRAM": {"G": 4}}, "factors of DRAM: G = 4: the loop nest has only N K C OX OY FX FY"),
    ],
)
def test_wrong_factors_are_named(factors: dict[str, dict[str, int]], message: str):
    with pytest.raises(MappingError) as error:
        best_over_orders(Workload.conv2d(K=4, C=1, OY=1, OX=1, FY=1, FX=1), ARCH, factors)
    assert str(error.value) == message


def test_what_the_published_model_cannot_describe_is_refused():
    grouped = Workload.conv2d(K=8, C=8, OY=4, OX=4, FY=1, FX=1, groups=2)
    with pytest.raises(WorkloadError, match="2 groups of 4 -> 4 channels"):
        published_nest(grouped)
    with pytest.raises(ArchError, match=r"levels\.SPM is split by operand"):
        published_machine(load_arch("vta-1x16x16"))
    with pytest.raises(ArchError, match="cores.count = 4: the model of Dave et al. has 1 core"):
        published_machine(load_arch("quad-edge"))
