"""What measurements say of groups, and what they let be expected of groups that nobody measured."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.fusion.prover import Point

MOST_MEASURED = 8
"""Mappings of one group that a measurer is asked for."""

SAME = 1e-6
"""Energies that differ by less, as a share, are of one model."""

Way = Point | AttentionMapping
"""How a group runs."""


class Ratio(NamedTuple):
    """Of measured to expected cycles and energy."""

    cycles: float
    energy: float

    @classmethod
    def of(cls, measured: Cost, cycles: int, energy_pj: float) -> Ratio:
        """Of one measurement; energy that was not measured is as expected, but for the order of a sum."""
        energy = measured.energy_pj / energy_pj if energy_pj > 0 else 1.0
        return cls(measured.cycles / max(1, cycles), 1.0 if abs(energy - 1) < SAME else energy)


class MeasuredGroups:
    """Answers of a measurer about ways to run groups; equal groups share theirs.

    What was not measured is expected to take as much longer than a search says as what was measured does in the median:
    layers first, which are many, so that one group that is slower than all else is the only one that is. So is energy,
    which a board may meter in its own way.

    Args:
        ratios: Measured cycles and energies of layers over those expected of them.

    Attributes:
        is_all: Whether groups run in ways that were measured or not at all.
        limits: Why groups were not measured of which some gain was expected; empty if there are none.
        failures: Names of layers of groups whose measurement failed, each with the reason, in order.
    """

    def __init__(self, ratios: Sequence[Ratio]) -> None:
        self._ratios = list(ratios)
        self._scale = Ratio(1.0, 1.0)
        self._answers: dict[Hashable, dict[Way, Cost | None]] = {}
        self.is_all = False
        self.limits: tuple[str, ...] = ()
        self.failures: list[tuple[tuple[str, ...], str]] = []
        self.learn()

    def __len__(self) -> int:
        return sum(len(found) for found in self._answers.values())

    @property
    def num_succeeded(self) -> int:
        """Ways that were measured with success."""
        return sum(cost is not None for found in self._answers.values() for cost in found.values())

    def knows(self, group: Hashable, way: Way) -> bool:
        """Whether a way was measured, with or without success."""
        return way in self._answers.get(group, {})

    def is_closed(self, group: Hashable) -> bool:
        """Whether no further way of a group is to be measured."""
        return self.is_all or len(self._answers.get(group, {})) >= MOST_MEASURED

    def costs(self, group: Hashable) -> dict[Way, Cost]:
        """Of the ways that were measured with success."""
        return {way: cost for way, cost in self._answers.get(group, {}).items() if cost is not None}

    def add(self, group: Hashable, way: Way, cost: Cost | None, expected: tuple[int, float]) -> None:
        """An answer.

        Args:
            group: Equal for equal ones.
            way: What was measured.
            cost: Of it; None if the measurement failed.
            expected: Cycles and pJ by the search that found it.
        """
        self._answers.setdefault(group, {})[way] = cost
        if cost is not None:
            self._ratios.append(Ratio.of(cost, *expected))

    def learn(self) -> None:
        """Expect of others what the answers so far show; changes what a plan costs."""
        if self._ratios:
            self._scale = Ratio(*(statistics.median(each) for each in zip(*self._ratios, strict=True)))

    def expected(self, cycles: int, energy_pj: float) -> tuple[int, float]:
        """What takes so many cycles and pJ by the search, as measurements let it be expected."""
        more = self._scale
        return (
            cycles if more.cycles == 1.0 else max(1, round(cycles * more.cycles)),
            energy_pj if more.energy == 1.0 else energy_pj * more.energy,
        )

    def searched(self, cycles: float, energy_pj: float) -> tuple[float, float]:
        """What a search would say of something that is expected to take so much."""
        # a board may meter no energy at all
        return cycles / self._scale.cycles, energy_pj / (self._scale.energy or 1.0)
