"""A gradient-boosted ranker on named features; its scores only order mappings, they are not cycles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cost_model.learned.columns import feature_names
from cost_model.learned.features import Estimate, Estimator, features
from cost_model.learned.trees import import_xgboost
from tvm_spm.arch import Arch
from tvm_spm.objective import Objective
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    import xgboost

NUM_ROUNDS = 120
"""Trees; enough for the residuals of a few hundred measurements, and fitted within a tenth of a second."""


class XGBoostRanker:
    """Learns ``log2(measured / estimated)`` of the objective, or ``log2(measured)`` without an estimate.

    The ratio is close to a constant where nothing is shared, so few measurements already correct the estimate.
    """

    def __init__(
        self,
        workload: Workload,
        arch: Arch,
        *,
        objective: str = "edp",
        estimate: Estimator | None = None,
        seed: int = 0,
        num_threads: int = 1,
    ) -> None:
        """A ranker for the mappings of one task.

        Args:
            workload: What is computed.
            arch: On what.
            objective: ``edp``, ``energy`` or ``latency``.
            estimate: A faster model to correct, for a batch of mappings.
            seed: Same seed and data, same order, whatever the number of threads.
            num_threads: Of one fit or prediction.

        Raises:
            SpmError: xgboost is not installed, or the objective is unknown.
        """
        self._workload, self._arch, self._objective, self._estimate = workload, arch, Objective.of(objective), estimate
        self._parameters = {
            "objective": "reg:squarederror", "eta": 0.1, "max_depth": 5, "min_child_weight": 1.0, "lambda": 1.0,
            "tree_method": "exact", "seed": seed, "nthread": num_threads,
        }  # fmt: skip
        self._xgboost = import_xgboost()
        self._booster: xgboost.Booster | None = None

    def fit(self, batch: MappingBatch, scores: NDArray[np.float64]) -> None:
        """Learn from measured objective values; those that are not finite and positive are left out."""
        usable = np.isfinite(scores) & (scores > 0)
        if not usable.any():
            self._booster = None
            return
        rows = batch.take(usable)
        estimate = None if self._estimate is None else self._estimate(rows)
        target = np.log2(scores[usable]) - self._baseline(rows.num_mappings, estimate)
        self._booster = self._xgboost.train(
            {**self._parameters, "base_score": float(np.mean(target))},
            self._matrix(rows, estimate, target),
            num_boost_round=NUM_ROUNDS,
        )

    def scores(self, batch: MappingBatch) -> NDArray[np.float64]:
        """``log2`` of the predicted objective, smaller is better; before the first ``fit`` that of the estimate."""
        estimate = None if self._estimate is None else self._estimate(batch)
        baseline = self._baseline(batch.num_mappings, estimate)
        if self._booster is None or batch.num_mappings == 0:
            return baseline
        return baseline + self._booster.predict(self._matrix(batch, estimate)).astype(np.float64)

    def rank(self, batch: MappingBatch) -> NDArray[np.int64]:
        """Indices of the mappings, best first; of equal ones the earlier first."""
        return np.argsort(self.scores(batch), kind="stable").astype(np.int64)

    def _baseline(self, num_mappings: int, estimate: Estimate | None) -> NDArray[np.float64]:
        if estimate is None:
            return np.zeros(num_mappings)
        cycles, energy = (np.log2(np.asarray(v, dtype=np.float64)) for v in estimate)
        return {Objective.LATENCY: cycles, Objective.ENERGY: energy, Objective.EDP: cycles + energy}[self._objective]

    def _matrix(
        self, batch: MappingBatch, estimate: Estimate | None, target: NDArray[np.float64] | None = None
    ) -> xgboost.DMatrix:
        return self._xgboost.DMatrix(
            features(self._workload, self._arch, batch, estimate),
            label=target,
            feature_names=list(feature_names(with_estimate=estimate is not None)),
        )
