"""A ranker before its first measurement, and the text of each refusal."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from cost_model.learned import Estimate, XGBoostRanker
from tests.mapspace_cases import small_arch
from tvm_spm.errors import SpmError
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

WORKLOAD = Workload.matmul(m=8, k=8, n=8)
ARCH = small_arch()
BATCH = MapSpace(workload=WORKLOAD, arch=ARCH).sample(np.random.default_rng(0), 40)


def test_without_measurements_the_estimate_ranks():
    cycles = np.arange(40.0, 0.0, -1.0)
    ranker = XGBoostRanker(
        WORKLOAD, ARCH, objective="latency", estimate=lambda batch: Estimate(cycles=cycles, energy_pj=np.ones(40))
    )
    assert ranker.rank(BATCH).tolist() == list(range(39, -1, -1))
    # 2 cycles: log2 = 1.
    assert ranker.scores(BATCH)[38] == 1


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
