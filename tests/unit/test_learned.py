"""Saving and loading a ranker, and the text of each refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from cost_model.features import FEATURES_VERSION, Estimate
from cost_model.learned import XGBoostRanker
from tests.mapspace_cases import small_arch
from tvm_spm.errors import ModelError, SpmError
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

WORKLOAD = Workload.matmul(m=8, k=8, n=8)
ARCH = small_arch()
BATCH = MapSpace(workload=WORKLOAD, arch=ARCH).sample(np.random.default_rng(0), 40)


def fitted(objective: str = "edp") -> XGBoostRanker:
    ranker = XGBoostRanker(WORKLOAD, ARCH, objective=objective)
    ranker.fit(BATCH, np.arange(1.0, 41.0))
    return ranker


def test_a_saved_ranker_scores_the_same(tmp_path: Path):
    ranker, again = fitted(), XGBoostRanker(WORKLOAD, ARCH)
    ranker.save(tmp_path / "ranker.json")
    again.load(tmp_path / "ranker.json")
    assert np.array_equal(ranker.scores(BATCH), again.scores(BATCH))


def test_an_unfitted_ranker_can_be_saved(tmp_path: Path):
    again = fitted()
    XGBoostRanker(WORKLOAD, ARCH).save(tmp_path / "ranker.json")
    again.load(tmp_path / "ranker.json")
    assert again.scores(BATCH).tolist() == [0.0] * 40


def test_without_measurements_the_estimate_ranks():
    cycles = np.arange(40.0, 0.0, -1.0)
    ranker = XGBoostRanker(
        WORKLOAD, ARCH, objective="latency", estimate=lambda batch: Estimate(cycles=cycles, energy_pj=np.ones(40))
    )
    assert ranker.rank(BATCH).tolist() == list(range(39, -1, -1))
    # 2 cycles: log2 = 1.
    assert ranker.scores(BATCH)[38] == 1


def test_other_features_are_refused(tmp_path: Path):
    path = tmp_path / "ranker.json"
    fitted().save(path)
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "features_version": 999}))
    with pytest.raises(ModelError) as caught:
        XGBoostRanker(WORKLOAD, ARCH).load(path)
    assert str(caught.value) == (
        f"{path}: saved with features_version 999, this ranker has {FEATURES_VERSION}; fit a new one"
    )


def test_another_objective_is_refused(tmp_path: Path):
    fitted("energy").save(tmp_path / "ranker.json")
    with pytest.raises(ModelError, match="saved with objective energy, this ranker has latency"):
        XGBoostRanker(WORKLOAD, ARCH, objective="latency").load(tmp_path / "ranker.json")


def test_files_that_are_no_rankers(tmp_path: Path):
    path = tmp_path / "ranker.json"
    ranker = XGBoostRanker(WORKLOAD, ARCH)
    with pytest.raises(ModelError, match="cannot read: No such file or directory"):
        ranker.load(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="not a saved ranker: Expecting"):
        ranker.load(path)
    path.write_text("[]")
    with pytest.raises(ModelError, match="not a saved ranker: no trees"):
        ranker.load(path)
    fitted().save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "trees": {"learner": 3}}))
    with pytest.raises(ModelError, match="not a saved ranker: its trees are damaged"):
        ranker.load(path)


def test_a_place_that_cannot_be_written(tmp_path: Path):
    with pytest.raises(ModelError, match="cannot write: Is a directory"):
        fitted().save(tmp_path)


def test_unknown_objective():
    with pytest.raises(SpmError, match="objective 'latncy': did you mean 'latency'"):
        XGBoostRanker(WORKLOAD, ARCH, objective="latncy")


def test_without_xgboost(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(SpmError) as caught:
        XGBoostRanker(WORKLOAD, ARCH)
    assert str(caught.value) == (
        "the learned model needs xgboost: pip install xgboost (or xgboost-cpu, without GPU libraries)"
    )
