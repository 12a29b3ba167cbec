"""The search space of Dave et al. holds as many methods, and the same optimum, as the authors' released tool finds."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from cost_model.published.batch import batch_best, nest_arrays
from cost_model.published.nest import Factors, PublishedNest, published_machine, published_nest
from cost_model.published.search import pruned_search
from cost_model.published.space import AUTO, Prunes
from tests.unit.dmazerunner_tables import BASELINES, PRUNED_SEARCHES, PRUNING_STEPS, BaselineRow, PrunedRow, StepRow
from tests.unit.published_orders import best_over_orders
from tvm_spm.arch import load_arch
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.objective import Objective
from tvm_spm.workload import Operand, Workload

ARCH = load_arch("dmazerunner-256")
CONV5_2 = Workload.conv2d(N=4, K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1)
POINTWISE = Workload.conv2d(K=64, C=512, OY=2, OX=1, FY=1, FX=1, stride=2)


@pytest.mark.parametrize("row", PRUNED_SEARCHES, ids=lambda row: row.layer)
def test_pruned_search_equals_the_tool(row: PrunedRow):
    result = pruned_search(row.workload, ARCH, prunes=AUTO)
    assert result.num_evaluated == row.num_evaluated
    assert f"{result.edp:.{row.decimals}e}" == row.best_edp
    assert result.prunes == AUTO  # no layer needs relaxing
    assert best_over_orders(row.workload, ARCH, result.named_factors()).min_edp == result.edp


@pytest.mark.parametrize("row", [r for r in PRUNING_STEPS if r.num_left < 100_000], ids=lambda row: "+".join(row.steps))
def test_pruning_step_leaves_what_the_tool_leaves(row: StepRow):
    result = pruned_search(CONV5_2, ARCH, prunes=Prunes.of(*row.steps))
    assert result.num_evaluated == row.num_left
    assert f"{result.edp:.9e}" == "6.844957271e+15"


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [r for r in PRUNING_STEPS if r.num_left >= 100_000], ids=lambda row: "+".join(row.steps) or "none"
)
def test_pruning_step_leaves_millions(row: StepRow):
    tracemalloc.start()
    result = pruned_search(CONV5_2, ARCH, prunes=Prunes.of(*row.steps))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert result.num_evaluated == row.num_left
    assert f"{result.edp:.9e}" == "6.844957271e+15"
    assert peak_bytes < 64 * 1024**2


@pytest.mark.parametrize("row", BASELINES, ids=lambda row: "|".join(row.unrolled))
def test_strict_baseline_equals_the_tool(row: BaselineRow):
    best = pruned_search(CONV5_2, ARCH)
    fixed = pruned_search(CONV5_2, ARCH, prunes=replace(Prunes.of("OPT2"), unrolled=row.unrolled))
    assert {dim for dim, _ in fixed.named_factors()["spatial"].items()} == set(row.unrolled)
    assert f"{fixed.edp / best.edp:.2f}" == row.edp_ratio
    assert f"{fixed.cycles / best.cycles:.{row.time_decimals}f}" == row.time_ratio


def test_space_equals_a_walk_over_all_factorisations():
    # Every way to split every bound over four levels, kept if it fits: <= 256 PEs, <= 256 elements per RF, and
    # <= 32 banks of 1024 elements (2 KiB).
    nest, machine = published_nest(POINTWISE), published_machine(ARCH)
    valid = [factors for factors in _factorisations(nest) if _fits(nest, factors)]
    result = pruned_search(POINTWISE, ARCH, prunes=Prunes())
    assert result.num_evaluated == len(valid)
    assert machine.num_pes == machine.rf_elems == 256
    values = batch_best(nest_arrays(nest, machine), np.array(valid), Objective.EDP.code)
    assert result.edp == values.min()


@pytest.mark.parametrize(("objective", "field"), [("edp", "edp"), ("energy", "energy_pj"), ("latency", "cycles")])
def test_each_objective_is_least_in_its_own_search(objective: str, field: str):
    results = {name: pruned_search(CONV5_2, ARCH, objective=name) for name in ("edp", "energy", "latency")}
    assert getattr(results[objective], field) == min(getattr(result, field) for result in results.values())
    assert results[objective].edp == results[objective].energy_pj * results[objective].cycles


def test_shares_drift_as_floats_do():
    # 0.8 - 0.1 - 0.1 = 0.6000000000000001 is above 0.6, so the SPM share falls only with the third step.
    shares, prunes = [], AUTO
    while prunes is not None:
        shares.append((round(prunes.min_pe_share, 9), round(prunes.min_spm_share, 9), prunes.whole_filters))
        prunes = prunes.relaxed()
    assert shares == [
        (0.8, 0.5, True), (0.7, 0.5, True), (0.6, 0.5, True), (0.5, 0.4, True),
        (0.4, 0.3, True), (0.3, 0.2, True), (0.2, 0.1, False), (0.1, 0.0, False),
    ]  # fmt: skip


def test_a_small_layer_relaxes_until_something_is_left():
    result = pruned_search(Workload.conv2d(N=1, K=64, C=64, OY=7, OX=7, FY=3, FX=3, padding=1), ARCH)
    assert result.prunes != AUTO
    assert result.num_evaluated >= result.prunes.enough_tilings


def test_nothing_left_is_an_error():
    with pytest.raises(NoMappingError, match="no tiling is left by Prunes"):
        pruned_search(POINTWISE, ARCH, prunes=Prunes(min_pe_share=1.0, min_spm_share=1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prunes.of("OPT4"), "prunes: unknown step 'OPT4'; did you mean 'OPT3'?"),
        (lambda: Prunes(min_rf_share=1.5), "prunes: min_rf_share = 1.5: must be >= 0 and <= 1"),
        (lambda: Prunes(unrolled=("OYY",)), "prunes: unrolled: unknown dim 'OYY'; did you mean 'OY'?"),
        (lambda: pruned_search(POINTWISE, ARCH, objective="edpp"), "objective 'edpp': did you mean 'edp'?"),
    ],
)
def test_wrong_options_are_named(make, message: str):
    with pytest.raises(SpmError) as error:
        make()
    assert str(error.value) == message


def _factorisations(nest: PublishedNest) -> list[Factors]:
    splits = []
    for extent in nest.extents:
        divisors = [d for d in range(1, extent + 1) if extent % d == 0]
        splits.append([split for split in itertools.product(divisors, repeat=4) if math.prod(split) == extent])
    return [tuple(zip(*choice, strict=True)) for choice in itertools.product(*splits)]


def _fits(nest: PublishedNest, factors: Factors) -> bool:
    _, spm, rf, spatial = factors
    tile = tuple(s * r * p for s, r, p in zip(spm, rf, spatial, strict=True))
    banks = sum(math.ceil(nest.footprint_elems(operand, tile) / 1024) for operand in Operand)
    return (
        math.prod(spatial) <= 256
        and sum(nest.footprint_elems(operand, rf) for operand in Operand) <= 256
        and banks <= 32
    )
