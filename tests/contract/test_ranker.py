"""What every ranker promises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cost_model.learned import Estimate, XGBoostRanker
from tvm_spm.arch import load_arch
from tvm_spm.cost import Ranker
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

WORKLOAD = Workload.conv2d(K=64, C=64, OY=28, OX=28, FY=3, FX=3)
ARCH = load_arch("dmazerunner-256")
SPACE = MapSpace(workload=WORKLOAD, arch=ARCH)


def estimate(batch: MappingBatch) -> Estimate:
    """Ideal cycles of the PEs in use, and energy that never changes."""
    cycles = WORKLOAD.macs / (batch.rows * batch.cols).prod(axis=1)
    return Estimate(cycles=cycles, energy_pj=np.ones(batch.num_mappings))


def measure(batch: MappingBatch) -> np.ndarray:
    """What is to be learnt: more passes than one cost."""
    passes = np.ceil(np.array(WORKLOAD.dims.as_tuple()) / batch.spm).prod(axis=1)
    return estimate(batch).cycles * (1 + np.log2(passes))


MakeRanker = Callable[[int], Ranker]

RANKERS: dict[str, MakeRanker] = {
    "xgboost": lambda seed: XGBoostRanker(WORKLOAD, ARCH, seed=seed),
    "xgboost-with-estimate": lambda seed: XGBoostRanker(WORKLOAD, ARCH, seed=seed, estimate=estimate),
    "xgboost-two-threads": lambda seed: XGBoostRanker(WORKLOAD, ARCH, seed=seed, estimate=estimate, num_threads=2),
}


@pytest.fixture(params=sorted(RANKERS))
def make(request: pytest.FixtureRequest) -> MakeRanker:
    return RANKERS[request.param]


def drawn(seed: int, num_mappings: int) -> MappingBatch:
    return SPACE.sample(np.random.default_rng(seed), num_mappings)


def places(order: np.ndarray) -> np.ndarray:
    return np.argsort(order, kind="stable")


def test_ranks_every_mapping_once(make: MakeRanker):
    ranker = make(0)
    for fitted in (False, True):
        assert sorted(ranker.rank(drawn(1, 40)).tolist()) == list(range(40)), f"fitted: {fitted}"
        ranker.fit(drawn(0, 30), measure(drawn(0, 30)))


def test_same_seed_same_order(make: MakeRanker):
    orders = []
    for _ in range(2):
        ranker = make(3)
        ranker.fit(drawn(0, 50), measure(drawn(0, 50)))
        orders.append(ranker.rank(drawn(1, 60)).tolist())
    assert orders[0] == orders[1]


def test_learns_the_order(make: MakeRanker):
    ranker = make(0)
    ranker.fit(drawn(0, 300), measure(drawn(0, 300)))
    fresh = drawn(1, 300)
    order = ranker.rank(fresh)
    truth = places(np.argsort(measure(fresh), kind="stable"))
    # Spearman's rank correlation; random orders stay below 0.2 for 300 mappings.
    assert np.corrcoef(places(order), truth)[0, 1] > 0.7


def test_inputs_stay_unchanged(make: MakeRanker):
    batch = drawn(0, 20)
    scores = measure(batch)
    before = [column.copy() for column in (*batch, scores)]
    ranker = make(0)
    ranker.fit(batch, scores)
    ranker.rank(batch)
    assert all(np.array_equal(a, b) for a, b in zip(before, (*batch, scores), strict=True))


def test_a_second_fit_replaces_the_first(make: MakeRanker):
    once, twice = make(0), make(0)
    twice.fit(drawn(2, 40), 1 / measure(drawn(2, 40)))
    for ranker in (once, twice):
        ranker.fit(drawn(0, 40), measure(drawn(0, 40)))
    assert once.rank(drawn(1, 50)).tolist() == twice.rank(drawn(1, 50)).tolist()


def test_scores_that_are_no_numbers_are_left_out(make: MakeRanker):
    clean, dirty = make(0), make(0)
    batch = drawn(0, 40)
    scores = measure(batch)
    clean.fit(batch.take(slice(2, None)), scores[2:])
    dirty.fit(batch, np.concatenate([[np.nan, np.inf], scores[2:]]))
    assert clean.rank(drawn(1, 50)).tolist() == dirty.rank(drawn(1, 50)).tolist()


def test_nothing_to_learn_from(make: MakeRanker):
    ranker = make(0)
    ranker.fit(drawn(0, 0), np.empty(0))
    assert sorted(ranker.rank(drawn(1, 10)).tolist()) == list(range(10))


def test_nothing_to_rank(make: MakeRanker):
    ranker = make(0)
    ranker.fit(drawn(0, 20), measure(drawn(0, 20)))
    assert ranker.rank(drawn(1, 0)).tolist() == []


def test_one_measurement_is_enough_not_to_fail(make: MakeRanker):
    ranker = make(0)
    ranker.fit(drawn(0, 1), measure(drawn(0, 1)))
    assert len(ranker.rank(drawn(1, 5))) == 5
