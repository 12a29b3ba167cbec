"""What the numbers of an accelerator predict for measured mappings, and how far off that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.model import evaluate_batch
from cost_model.calibration.numbers import Number, Scale
from tvm_spm.arch import Arch
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.workload import Workload

Floats = NDArray[np.float64]

FAITHFUL = 0.02
"""Errors of the logarithm of cycles below it count by their square, larger ones by their size."""

PRIOR = 0.002
"""Weight of the declared numbers: decides only what the measurements say nothing about."""

_STEP = 0.02
"""Of differences, on the scale of a number: the formula is no smooth function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Mappings of one workload and what they took.

    Attributes:
        workload: What ran.
        batch: How; ``n`` mappings.
        cycles: ``(n,)``; positive.
    """

    workload: Workload
    batch: MappingBatch
    cycles: Floats


class Predictions:
    """Errors of the formula as a function of a position: one coordinate a number, on its scale.

    Attributes:
        declared: The position of the file.
        low: Least position considered.
        high: Largest.
    """

    def __init__(self, arch: Arch, measured: Sequence[Measured], numbers: Sequence[Number]) -> None:
        self.arch, self.numbers = arch, tuple(numbers)
        self._measured = [each for each in measured if each.batch.num_mappings]
        self._logs = np.concatenate([np.log(each.cycles) for each in self._measured] or [np.empty(0)])
        # every task counts the same, however often it was measured
        counts = [each.batch.num_mappings for each in self._measured]
        mean = sum(counts) / max(1, len(counts))
        self._weights = np.concatenate([np.full(n, math.sqrt(mean / n)) for n in counts] or [np.empty(0)])
        self._known: dict[tuple[float | None, ...], Floats] = {}
        self.declared = np.array([number.position(number.of(arch)) for number in self.numbers])
        least = [0.0 if n.scale is Scale.OVERHEAD or n.is_whole else math.log(1e-4) for n in self.numbers]
        self.low = np.array(least) - 1e-9
        self.high = np.array([number.position(number.most) for number in self.numbers]) + 1e-9

    @property
    def num_measured(self) -> int:
        """Measurements."""
        return len(self._logs)

    def values(self, position: Floats) -> tuple[float | None, ...]:
        """The numbers of a position; as declared, to the last bit, where it is the declared one."""
        found: list[float | None] = []
        for at, number in enumerate(self.numbers):
            found.append(number.value(float(position[at])) if self.is_free(position, at) else number.of(self.arch))
        return tuple(found)

    def is_free(self, position: Floats, at: int) -> bool:
        """Whether a number is another one than declared."""
        return bool(abs(position[at] - self.declared[at]) >= 1e-9)

    def machine(self, position: Floats) -> Arch:
        """The accelerator at a position."""
        arch = self.arch
        for number, value in zip(self.numbers, self.values(position), strict=True):
            arch = number.set(arch, value)
        return arch

    def errors(self, position: Floats) -> Floats:
        """``log(formula / measured)`` of every measurement."""
        key = self.values(position)
        if key not in self._known:
            machine = self.machine(position)
            costs = [evaluate_batch(each.workload, machine, each.batch).cycles for each in self._measured]
            self._known[key] = np.log(np.concatenate([np.empty(0), *costs]).astype(np.float64)) - self._logs
        return self._known[key]

    def residuals(self, position: Floats) -> Floats:
        """Errors, and how far each number is from the declared one."""
        return np.concatenate([self._weights * self.errors(position), PRIOR * (position - self.declared)])

    def cost(self, position: Floats) -> float:
        """Robust sum of all residuals, in units of ``FAITHFUL``."""
        scaled = (self.residuals(position) / FAITHFUL) ** 2
        return float(np.sum(np.sqrt(1 + scaled) - 1))

    def spread(self, position: Floats) -> float:
        """Robust standard deviation of the errors around 0."""
        errors = self.errors(position)
        return float(1.4826 * np.median(np.abs(errors))) if len(errors) else 0.0

    def jacobian(self, position: Floats, free: Sequence[int]) -> Floats:
        """``(residuals, free)``: how residuals move with some of the numbers."""
        columns = []
        for at in free:
            number, step = self.numbers[at], _STEP
            if number.is_whole:  # as far as the next whole number
                step = max(step, number.position(number.value(position[at]) + 1) - position[at])
            before, behind = position.copy(), position.copy()
            before[at] = max(self.low[at], position[at] - step)
            behind[at] = min(self.high[at], position[at] + step)
            columns.append((self.residuals(behind) - self.residuals(before)) / (behind[at] - before[at]))
        return np.stack(columns, axis=1)

    def is_seen(self, position: Floats, at: int) -> bool:
        """Whether half or twice its value would change any prediction."""
        here = self.errors(position)
        for step in (-math.log(2), math.log(2)):
            moved = position.copy()
            moved[at] = max(self.low[at], moved[at] + step)
            if np.max(np.abs(self.errors(moved) - here), initial=0.0) > 1e-4:
                return True
        return False

    def deviations(self, position: Floats) -> Floats:
        """Standard errors on the scale of each number, from the curvature of the fit and the errors that remain."""
        jacobian = self.jacobian(position, range(len(self.numbers)))
        noise = max(self.spread(position), 1e-4)
        covariance = np.linalg.pinv(jacobian.T @ jacobian / noise**2 + 1e-12 * np.eye(len(position)))
        found: Floats = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return found
