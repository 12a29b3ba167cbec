"""The certified optimum of the published model: counts and costs small enough to follow by hand, and the errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_model.published.lattice import over_divisors, splits_of, tile_set
from cost_model.published.nest import published_machine, published_nest
from cost_model.published.search import pruned_search, published_exact, published_random
from cost_model.published.space import Prunes
from tests.unit.dmazerunner_tables import PRUNED_SEARCHES, PRUNING_STEPS, PrunedRow, StepRow
from tvm_spm.arch import load_arch
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.workload import Workload

ARCH = load_arch("dmazerunner-256")
TINY = Workload.conv2d(K=2, C=2, OY=1, OX=1, FY=1, FX=1)
CONV5_2 = Workload.conv2d(N=4, K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1)


def test_tiny_layer_by_hand():
    # Two loops of 2, each factor at one of 4 levels: 16 tilings. In a single SPM pass each operand is one burst, of 2,
    # 4 and 2 elements: ceil((291 + 0.48 * elements) * 500 / 3200) = 46 cycles each. O is loaded and stored, so the DMA
    # takes 4 * 46 = 184 cycles, longer than any way to compute. A second pass would add transfers.
    best = published_exact(TINY, ARCH, "latency")
    assert best.num_tilings == 4 * 4
    assert (best.value, best.lower_bound, best.certified) == (184.0, 184.0, True)
    assert best.cycles == 184
    assert "DRAM" not in {level for level, row in best.factors if row}


def test_tiles_are_counted_through_their_divisors():
    # Bounds K = 4, C = 2. For each tile, how many tiles divide it: the product of the divisor counts.
    nest, machine = published_nest(Workload.conv2d(K=4, C=2, OY=1, OX=1, FY=1, FX=1)), published_machine(ARCH)
    tiles = tile_set(nest, machine, Prunes())
    assert [tuple(size) for size in tiles.sizes[:, 1:3].tolist()] == [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1), (4, 2)]
    assert over_divisors(tiles.lattice, np.ones(6, np.int64), np.add).tolist() == [1, 2, 2, 4, 3, 6]
    costs = np.array([5.0, 4.0, 7.0, 9.0, 3.0, 8.0])
    assert over_divisors(tiles.lattice, costs, np.minimum).tolist() == [5.0, 4.0, 5.0, 4.0, 3.0, 3.0]
    # A tile splits into PEs and RFs as often as it has divisors: nothing here is too large.
    assert np.diff(splits_of(nest, machine, Prunes(), tiles).start).tolist() == [1, 2, 2, 4, 3, 6]


@pytest.mark.parametrize("row", PRUNING_STEPS, ids=lambda row: "+".join(row.steps) or "none")
def test_tilings_are_counted_without_enumerating_them(row: StepRow):
    best = published_exact(CONV5_2, ARCH, prunes=Prunes.of(*row.steps))
    assert best.num_tilings == row.num_left
    assert f"{best.edp:.9e}" == "6.844957271e+15"


@pytest.mark.parametrize("row", PRUNED_SEARCHES, ids=lambda row: row.layer)
def test_optimum_is_certified_and_not_above_the_pruned_one(row: PrunedRow):
    best = published_exact(row.workload, ARCH)
    assert best.certified
    assert best.lower_bound == best.value == best.edp == best.energy_pj * best.cycles
    # The tool's own prunes lose up to 2.4 % on these layers.
    assert 1 <= float(row.best_edp) / best.edp * (1 + 1e-9) < 1.024


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["edp", "energy", "latency"])
def test_optimum_equals_pricing_fourteen_million_tilings(objective: str):
    workload = next(row.workload for row in PRUNED_SEARCHES if row.layer == "conv5_1")
    plain = pruned_search(workload, ARCH, prunes=Prunes(), objective=objective)
    best = published_exact(workload, ARCH, objective)
    assert best.num_tilings == plain.num_evaluated
    assert best.value == plain.value


def test_further_loops_may_be_unrolled():
    strict = published_exact(CONV5_2, ARCH, prunes=Prunes(unrolled=("FY", "FX")))
    replicated = published_exact(CONV5_2, ARCH, prunes=Prunes(unrolled=("FY", "FX"), unroll_others=True))
    assert set(strict.named_factors()["spatial"]) == {"FY", "FX"}
    assert math.prod(strict.named_factors()["spatial"].values()) == 9
    assert set(replicated.named_factors()["spatial"]) > {"FY", "FX"}
    assert replicated.edp < strict.edp
    # Re-measured on the released tool, over its pruned result of 6.844957271e15.
    assert f"{strict.edp / 6.844957271e15:.2f}" == "28.57"
    assert f"{replicated.edp / 6.844957271e15:.2f}" == "1.57"


def test_a_stop_keeps_the_bound_and_loses_the_proof():
    asked = iter([False, True])
    found = published_exact(CONV5_2, ARCH, should_stop=lambda: next(asked))
    best = published_exact(CONV5_2, ARCH)
    assert found.lower_bound <= best.value <= found.value
    assert found.certified == (found.lower_bound >= found.value)
    with pytest.raises(NoMappingError, match="stopped before a tiling was found"):
        published_exact(CONV5_2, ARCH, should_stop=lambda: True)


def test_random_search_needs_the_space_and_a_budget():
    drawn = published_random(TINY, ARCH, num_evaluated=200, rng=np.random.default_rng(0))
    assert drawn.edp == published_exact(TINY, ARCH).edp  # 16 tilings: 200 draws miss one of them with 16 e^-12.5
    with pytest.raises(SpmError) as error:
        published_random(TINY, ARCH, num_evaluated=0, rng=np.random.default_rng(0))
    assert str(error.value) == "published_random: num_evaluated = 0: must be >= 1"


def test_nothing_left_and_unknown_objectives_are_named():
    prunes = Prunes(min_pe_share=1.0)
    with pytest.raises(NoMappingError, match="no tiling is left by Prunes"):
        published_exact(TINY, ARCH, prunes=prunes)
    with pytest.raises(SpmError) as error:
        published_exact(TINY, ARCH, "edpp")
    assert str(error.value) == "objective 'edpp': did you mean 'edp'?"
