"""Trees as arrays say what the library says; a learned residual does not depend on threads, blocks or company."""

from __future__ import annotations

import os

import numpy as np
import pytest
import xgboost

from cost_model.learned import Estimate
from cost_model.learned.forest import DEPTH, evaluate_forest, forest_of
from cost_model.learned.residual import BLOCK, Lesson, fit_residual
from tests.mapspace_cases import small_arch
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

WORKLOAD = Workload.matmul(m=24, k=20, n=36)
ARCH = small_arch()


def boosters(rng: np.random.Generator, num_rows: int, num_columns: int) -> tuple[list[xgboost.Booster], np.ndarray]:
    """Three members that differ, on numbers of which many are equal; some trees are stumps or end early."""
    rows = rng.integers(-2, 9, size=(num_rows, num_columns)).astype(np.float32) / 3
    target = rows[:, 0] * rows[:, 1] + rng.normal(size=num_rows)
    data = xgboost.DMatrix(rows, label=target)
    parameters = {"max_depth": DEPTH, "eta": 0.3, "gamma": 0.5, "nthread": 1, "subsample": 0.7}
    settings = ({**parameters, "seed": at, "base_score": 0.1 * at} for at in range(3))
    return [xgboost.train(each, data, num_boost_round=12) for each in settings], rows


@pytest.mark.parametrize("seed", range(6))
def test_a_forest_says_what_the_library_says(seed: int):
    rng = np.random.default_rng(seed)
    members, seen = boosters(rng, int(rng.integers(3, 200)), 5)
    # the forest's rows hold columns that no booster saw, in another order
    columns = rng.permutation(9)[:5].astype(np.int64)
    unseen = rng.normal(size=(int(rng.integers(1, 60)), 5)).astype(np.float32) * 2
    for matrix in (seen, unseen):
        rows = np.full((len(matrix), 9), np.nan, dtype=np.float32)
        rows[:, columns] = matrix
        mean, variance = np.empty(len(rows)), np.empty(len(rows))
        evaluate_forest(forest_of(members, columns), rows, mean, variance)
        said = np.stack([each.predict(xgboost.DMatrix(matrix)) for each in members]).astype(np.float64)
        # the only difference is in which order three members are added up, in double precision
        np.testing.assert_allclose(mean, said.mean(axis=0), rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(variance, said.var(axis=0), rtol=1e-9, atol=1e-15)


def test_one_member_is_the_library_to_the_last_bit():
    members, rows = boosters(np.random.default_rng(9), 150, 4)
    mean, variance = np.empty(len(rows)), np.empty(len(rows))
    evaluate_forest(forest_of(members[1:2], np.arange(4)), rows, mean, variance)
    assert mean.astype(np.float32).tolist() == members[1].predict(xgboost.DMatrix(rows)).tolist()
    assert not variance.any()


def lesson(num_rows: int) -> Lesson:
    space = MapSpace(workload=WORKLOAD, arch=ARCH)
    batch = space.sample(np.random.default_rng(0), num_rows)
    estimate = Estimate(cycles=np.full(num_rows, 1000.0), energy_pj=np.full(num_rows, 7.0))
    return Lesson(workload=WORKLOAD, batch=batch, estimate=estimate, cycles=1000.0 + 90.0 * batch.spm[:, 1])


def test_cpus_change_nothing_that_is_learned(monkeypatch: pytest.MonkeyPatch):
    found = []
    for cpus in (1, 2, 64):
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        found.append(fit_residual(ARCH, [lesson(60)], seed=3))
    first, *others = found
    assert first is not None
    for each in others:
        assert each is not None
        assert each.noise == first.noise
        for ours, theirs in zip(each.forest, first.forest, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_mapping_is_expected_to_do_what_it_does_alone():
    taught, many = fit_residual(ARCH, [lesson(60)]), lesson(2 * BLOCK + 3)
    assert taught is not None
    mean, deviation = taught.predict(WORKLOAD, many.batch, many.estimate)
    for row in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 2):
        one = slice(row, row + 1)
        estimate = Estimate(many.estimate.cycles[one], many.estimate.energy_pj[one])
        found = taught.predict(WORKLOAD, many.batch.take(one), estimate)
        assert (found[0][0], found[1][0]) == (mean[row], deviation[row])
    none = taught.predict(WORKLOAD, many.batch.take(slice(0, 0)), Estimate(np.zeros(0), np.zeros(0)))
    assert [each.size for each in none] == [0, 0]


def test_slow_mappings_count_less():
    batch = lesson(4).batch
    estimate = Estimate(cycles=np.ones(4), energy_pj=np.ones(4))
    cycles = np.array([200.0, 100.0, 400.0, 800.0])
    found = Lesson(workload=WORKLOAD, batch=batch, estimate=estimate, cycles=cycles).weights
    # 1, 0, 2 and 3 times twice as slow as the best
    assert found.tolist() == [1 / 4, 1.0, 1 / 9, 1 / 16]
