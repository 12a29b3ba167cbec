"""What measurements say beyond the formula: gradient-boosted trees on ``log(measured / formula)``, over all tasks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cost_model.learned.columns import feature_names
from cost_model.learned.features import Estimate, features, filler, in_threads
from cost_model.learned.forest import DEPTH, Forest, evaluate_forest, forest_of
from cost_model.learned.trees import import_xgboost
from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.workload import Workload

if TYPE_CHECKING:
    import xgboost

Floats = NDArray[np.float64]

NUM_MEMBERS = 4
"""Models that saw the measurements with different weights; where they disagree, more should be measured."""

NUM_ROUNDS = 30
"""Trees of a member."""

BLOCK = 512
"""Mappings whose features are kept at hand for the trees: a part of a core's own cache."""

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

    @property
    def weights(self) -> Floats:
        """How much each counts: a mapping twice as slow as the best one measured a quarter of it, and so on.

        What the formula misses of a mapping that idles most of the time says little of those among which is chosen.
        """
        found: Floats = 1.0 / np.square(1.0 + np.log2(self.cycles / self.cycles.min(initial=np.inf)))
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedResidual:
    """A fitted model.

    Attributes:
        arch: The accelerator as the formula sees it.
        forest: The members; they look at features only that differ between measurements.
        noise: Standard deviation of what members leave unexplained of measurements that they did not see.
    """

    arch: Arch
    forest: Forest
    noise: float

    def predict(self, workload: Workload, batch: MappingBatch, estimate: Estimate) -> tuple[Floats, Floats]:
        """Expected ``log(measured / formula)`` of each mapping, and its standard deviation."""
        fill, width = filler(workload, self.arch, batch, estimate), len(feature_names())
        mean, variance = np.zeros(batch.num_mappings), np.zeros(batch.num_mappings)

        def work(begin: int, end: int) -> None:
            room = np.zeros((min(BLOCK, end - begin), width), dtype=np.float32)
            for first in range(begin, end, BLOCK):
                part = slice(first, min(first + BLOCK, end))
                rows = room[: part.stop - part.start]
                fill(first, rows)
                evaluate_forest(self.forest, rows, mean[part], variance[part])

        in_threads(work, batch.num_mappings)
        return mean, np.sqrt(variance + self.noise**2)


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
    matrix = np.concatenate([features(each.workload, arch, each.batch, each.estimate) for each in known])
    target = np.concatenate([lesson.residuals for lesson in known])
    columns = np.flatnonzero(matrix.max(axis=0) > matrix.min(axis=0))
    if len(columns) == 0:
        columns = np.array([0])
    counts = np.concatenate([lesson.weights for lesson in known])
    rng = np.random.default_rng([seed, len(target)])
    drawn = [rng.poisson(1.0, size=len(target)) for _ in range(NUM_MEMBERS)]
    weights = [counts * (times if times.any() else 1) for times in drawn]
    threads = max(1, min(NUM_MEMBERS, os.cpu_count() or 1))
    parts = [range(first, NUM_MEMBERS, threads) for first in range(threads)]
    # the library waits outside the interpreter's lock, and one thread for a member of so few rows is fastest
    with ThreadPoolExecutor(threads) as pool:
        trained = list(pool.map(lambda part: _train(matrix[:, columns], target, weights, part, seed), parts))
    members = {number: member for part in trained for number, member in part.items()}
    forest = forest_of([members[number][0] for number in range(NUM_MEMBERS)], columns)
    unseen = [np.flatnonzero(times == 0) for times in drawn]
    errors = np.concatenate([members[number][1][rows] for number, rows in enumerate(unseen)])
    of_errors = np.concatenate([counts[rows] for rows in unseen])
    noise = math.sqrt(np.average(errors**2, weights=of_errors)) if len(errors) else float(target.std())
    return LearnedResidual(arch=arch, forest=forest, noise=noise)


def _train(
    matrix: NDArray[np.float32], target: Floats, weights: Sequence[Floats], members: Sequence[int], seed: int
) -> dict[int, tuple[xgboost.Booster, Floats]]:
    """Members by number, and by how much each misses the target."""
    library = import_xgboost()
    names = [f"f{at}" for at in range(matrix.shape[1])]
    data = library.QuantileDMatrix(matrix, label=target, feature_names=names, nthread=1, max_bin=64)
    found = {}
    for number in members:
        data.set_weight(weights[number])
        parameters = {
            "objective": "reg:squarederror", "base_score": float(np.average(target, weights=weights[number])),
            "eta": 0.2, "max_depth": DEPTH, "min_child_weight": 0.3, "lambda": 0.5, "colsample_bytree": 0.7,
            "tree_method": "hist", "max_bin": 64, "seed": seed + number, "nthread": 1,
        }  # fmt: skip
        booster = library.train(parameters, data, num_boost_round=NUM_ROUNDS)
        found[number] = booster, booster.predict(data) - target
    return found
