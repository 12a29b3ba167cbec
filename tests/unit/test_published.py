"""The published model under our nouns: its numbers, and mappings that are what it priced."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cost_model.published.mappings import order_with_reuse, published_mapping, published_search, split_over_array
from cost_model.published.model import reuse_vectors
from cost_model.published.nest import LEVELS, published_factors, published_nest
from tests.unit.dmazerunner_tables import PRUNED_SEARCHES
from tvm_spm.arch import load_arch
from tvm_spm.errors import ArchError, SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload

ARCH = load_arch("dmazerunner-256")
LAYERS = {row.layer: row for row in PRUNED_SEARCHES}
CONV5_2 = LAYERS["conv5_2"].workload


def factors_of(workload: Workload, mapping: Mapping) -> dict[str, dict[str, int]]:
    """Back from a mapping to the trip counts of the published model."""
    spatial = mapping.rows.combine(mapping.cols, lambda a, b: a * b)
    levels = (mapping.dram_factors(workload.dims), mapping.spm_factors(), mapping.rf, spatial)
    return {level: {name: dims[name] for name in DIM_NAMES} for level, dims in zip(LEVELS, levels, strict=True)}


@pytest.mark.parametrize("pruned", [False, True])
def test_conv5_2_at_batch_4(pruned: bool):
    found = published_search(CONV5_2, ARCH, objective="edp", pruned=pruned)
    # As the released tool prints it.
    assert f"{found.cost.edp_pj_cycles:.9e}" == "6.844957271e+15"
    assert found.certified
    assert found.lower_bound == found.cost.objective("edp")
    # The prunes leave 753, each priced; bounds leave less than a thousandth of all.
    assert found.num_evaluated == 753 if pruned else found.num_evaluated < 17_545
    assert f"{753 if pruned else 17_545_176:,}" in found.space
    assert found.default_cost.objective("edp") >= found.cost.objective("edp")


def test_conv2_2_pruned_prices_what_the_released_tool_prices():
    found = published_search(LAYERS["conv2_2"].workload, ARCH, objective="edp", pruned=True)
    assert found.num_evaluated == 122_092
    assert found.cost.edp_pj_cycles == pytest.approx(float(LAYERS["conv2_2"].best_edp), rel=1e-9)


@pytest.mark.parametrize("objective", ["edp", "energy", "latency"])
@pytest.mark.parametrize(
    "workload",
    [
        CONV5_2,
        LAYERS["conv1"].workload,
        Workload.matmul(m=49, k=512, n=512),
        Workload.conv2d(K=32, C=32, OY=14, OX=14, FY=3, FX=3, padding=1, groups=32),
    ],
    ids=["conv5_2", "conv1", "matmul", "depthwise"],
)
def test_mapping_is_what_was_priced(workload: Workload, objective: str):
    found = published_search(workload, ARCH, objective=objective)
    mapping, nest = found.mapping, published_nest(workload)
    assert Mapping.parse(str(mapping)) == Mapping.parse(mapping.line()) == mapping
    assert mapping.canonical(workload) == mapping
    # The tiling holds every factor, and prices again to the same cost.
    factors = factors_of(workload, mapping)
    published_factors(nest, factors)
    assert published_mapping(workload, ARCH, factors, objective=objective) == (mapping, found.cost)
    # The paper splits 256 PEs as it likes; on an array of 16 x 16 only what has no longer axis is legal.
    rejection = legality.check(workload, ARCH, mapping)
    too_long = [axis for axis in ("rows", "cols") if getattr(mapping, axis).product() > 16]
    assert (rejection.reason if rejection else None) == (too_long[0] if too_long else None)


def test_breakdown_adds_up():
    cost = published_search(CONV5_2, ARCH).cost
    shares = (cost.compute_cycles, cost.noc_stall_cycles, cost.dma_stall_cycles, cost.overhead_cycles)
    assert sum(shares) == cost.cycles
    assert min(shares) >= 0
    assert cost.energy_pj == round(cost.energy_pj)
    assert cost.model == "dmazerunner"
    # Every element at least once: I 4 * 512 * 9 * 9, W 512 * 512 * 9, O 4 * 512 * 49, of 2 B each.
    assert cost.dram_bytes[0] >= 2 * 4 * 512 * 81
    assert cost.dram_bytes[1] >= 2 * 512 * 512 * 9
    assert cost.dram_bytes[2] >= 2 * 4 * 512 * 49


def test_orders_have_the_reuse_they_were_asked_for():
    nest = published_nest(CONV5_2)
    factors = {"K": 4, "C": 8, "OX": 7, "FX": 3}
    row = tuple(factors.get(name, 1) for name in nest.dims)
    for reuse in reuse_vectors(nest, row):
        order = order_with_reuse(nest, factors, reuse)
        assert sorted(order) == sorted(factors)
        for operand in Operand:
            run = 1
            for name in reversed(order):
                if nest.depends(operand, nest.dims.index(name)):
                    break
                run *= factors[name]
            assert run == reuse[operand.value]


def test_order_without_reuse_ends_with_a_loop_all_depend_on():
    nest = published_nest(Workload.matmul(m=4, k=4, n=4, batch=4))
    assert order_with_reuse(nest, {"G": 2, "K": 2, "C": 2}, (1, 1, 1))[-1] == "G"
    with pytest.raises(ValueError, match="no loops of .* reuse W 3 times"):
        order_with_reuse(nest, {"OX": 2}, (1, 3, 1))


def test_array_split_prefers_whole_dims():
    # 8 x 2 on the rows and 16 on the columns; 49 needs 7 x 7; 17 fits no axis of 16.
    assert split_over_array(Dims(K=16, C=8, OX=2), 16, 16) == (Dims(K=16), Dims(C=8, OX=2))
    assert split_over_array(Dims(OX=49), 16, 16) == (Dims(OX=7), Dims(OX=7))
    assert split_over_array(Dims(K=17, C=2), 16, 16) == (Dims(K=17, C=2), Dims())
    assert split_over_array(Dims(), 1, 1) == (Dims(), Dims())
    for rows, cols in ((16, 16), (1, 256), (8, 32)):
        split = split_over_array(Dims(K=64, OX=4), rows, cols)
        assert math.prod(split[0]) <= rows
        assert math.prod(split[1]) <= cols


def test_what_the_model_cannot_describe_is_named():
    with pytest.raises(SpmError, match="objective 'edpp': did you mean 'edp'"):
        published_search(CONV5_2, ARCH, objective="edpp")
    quad = replace(ARCH, cores=replace(ARCH.cores, count=4))
    with pytest.raises(ArchError, match="the model of Dave et al. has 1 core"):
        published_search(CONV5_2, quad)
