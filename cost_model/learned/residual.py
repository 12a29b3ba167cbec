"""What measurements say beyond the formula: gradient-boosted trees on ``log(measured / formula)``, over all tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_model.learned.columns import feature_names
from cost_model.learned.features import Estimate, features
from cost_model.learned.trees import import_xgboost
from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.workload import Workload

Floats = NDArray[np.float64]

NUM_MEMBERS = 4
"""Models that saw the measurements with different weights; where they disagree, more should be measured."""

NUM_ROUNDS = 30
"""Trees of a member."""

NOTHING = 1e-9
"""Residuals of whole tasks below it are rounding: there is nothing to learn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What was measured of one task.

    Attributes:
        workload: What ran.
        batch: How; ``n`` mappings.
        estimate: What the formula says.
        cycles: ``(n,)`` measured; positive.
    """

    workload: Workload
    batch: MappingBatch
    estimate: Estimate
    cycles: Floats

    @property
    def residuals(self) -> Floats:
        """``log(measured / formula)``."""
        return np.log(self.cycles / self.estimate.cycles)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedResidual:
    """A fitted model.

    Attributes:
        arch: The accelerator as the formula sees it.
        columns: Features that differ between measurements; others are not looked at.
        members: Boosters.
        noise: Standard deviation of what members leave unexplained of measurements that they did not see.
    """

    arch: Arch
    columns: NDArray[np.int64]
    members: tuple[Any, ...]
    noise: float

    def predict(self, workload: Workload, batch: MappingBatch, estimate: Estimate) -> tuple[Floats, Floats]:
        """Expected ``log(measured / formula)`` of each mapping, and its standard deviation."""
        if batch.num_mappings == 0:
            return np.zeros(0), np.zeros(0)
        matrix = features(workload, self.arch, batch, estimate)[:, self.columns]
        found = np.stack([member.inplace_predict(matrix) for member in self.members]).astype(np.float64)
        return found.mean(axis=0), np.sqrt(found.var(axis=0) + self.noise**2)


def fit_residual(arch: Arch, lessons: Sequence[Lesson], *, seed: int = 0) -> LearnedResidual | None:
    """Learn from all tasks together.

    Args:
        arch: The accelerator as the formula sees it.
        lessons: What was measured, a task each.
        seed: Same seed and lessons, same model.

    Returns:
        None where there is nothing to learn: no measurement, or the formula is exact.

    Raises:
        SpmError: xgboost is not installed.
    """
    known = [lesson for lesson in lessons if lesson.batch.num_mappings]
    if not known or all(np.abs(lesson.residuals).max() < NOTHING for lesson in known):
        return None
    xgboost = import_xgboost()
    matrix = np.concatenate([features(each.workload, arch, each.batch, each.estimate) for each in known])
    target = np.concatenate([lesson.residuals for lesson in known])
    columns = np.flatnonzero(matrix.max(axis=0) > matrix.min(axis=0))
    if len(columns) == 0:
        columns = np.array([0])
    names = feature_names()
    data = xgboost.QuantileDMatrix(
        matrix[:, columns], label=target, feature_names=[names[at] for at in columns], nthread=1, max_bin=64
    )
    rng = np.random.default_rng([seed, len(target)])
    members, unseen = [], []
    for number in range(NUM_MEMBERS):
        weights = rng.poisson(1.0, size=len(target)).astype(np.float64)
        data.set_weight(weights if weights.any() else np.ones(len(target)))
        parameters = {
            "objective": "reg:squarederror", "base_score": float(target.mean()), "eta": 0.2, "max_depth": 5,
            "min_child_weight": 0.3, "lambda": 0.5, "colsample_bytree": 0.7, "tree_method": "hist", "max_bin": 64,
            "seed": seed + number, "nthread": 1,
        }  # fmt: skip
        members.append(xgboost.train(parameters, data, num_boost_round=NUM_ROUNDS))
        unseen.append((members[-1].predict(data) - target)[weights == 0])
    errors = np.concatenate(unseen)
    noise = float(np.sqrt(np.mean(errors**2))) if len(errors) else float(target.std())
    return LearnedResidual(arch=arch, columns=columns, members=tuple(members), noise=noise)
