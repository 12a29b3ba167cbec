"""What measurements say of groups, and what they let be expected of groups that nobody measured."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Sequence

from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.fusion.prover import Point

MOST_MEASURED = 8
"""Mappings of one group that a measurer is asked for."""

Way = Point | AttentionMapping
"""How a group runs."""


class MeasuredGroups:
    """Answers of a measurer about ways to run groups; equal groups share theirs.

    What was not measured is expected to take as much longer than a search says as what was measured does in the median:
    layers first, which are many, so that one group that is slower than all else is the only one that is.

    Args:
        ratios: Measured cycles of layers over those expected of them.

    Attributes:
        is_all: Whether groups run in ways that were measured or not at all.
        limits: Why groups were not measured of which some gain was expected; empty if there are none.
        failures: Names of layers of groups whose measurement failed, each with the reason, in order.
    """

    def __init__(self, ratios: Sequence[float]) -> None:
        self._ratios = list(ratios)
        self._scale = 1.0
        self._answers: dict[Hashable, dict[Way, Cost | None]] = {}
        self.is_all = False
        self.limits: tuple[str, ...] = ()
        self.failures: list[tuple[tuple[str, ...], str]] = []
        self.learn()

    def __len__(self) -> int:
        return sum(len(found) for found in self._answers.values())

    def knows(self, group: Hashable, way: Way) -> bool:
        """Whether a way was measured, with or without success."""
        return way in self._answers.get(group, {})

    def is_closed(self, group: Hashable) -> bool:
        """Whether no further way of a group is to be measured."""
        return self.is_all or len(self._answers.get(group, {})) >= MOST_MEASURED

    def costs(self, group: Hashable) -> dict[Way, Cost]:
        """Of the ways that were measured with success."""
        return {way: cost for way, cost in self._answers.get(group, {}).items() if cost is not None}

    def add(self, group: Hashable, way: Way, cost: Cost | None, expected_cycles: int) -> None:
        """An answer.

        Args:
            group: Equal for equal ones.
            way: What was measured.
            cost: Of it; None if the measurement failed.
            expected_cycles: By the search that found it.
        """
        self._answers.setdefault(group, {})[way] = cost
        if cost is not None:
            self._ratios.append(cost.cycles / expected_cycles)

    def learn(self) -> None:
        """Expect of others what the answers so far show; changes what a plan costs."""
        self._scale = statistics.median(self._ratios) if self._ratios else 1.0

    def expected(self, cycles: int) -> int:
        """What takes so many cycles by the search, as measurements let it be expected."""
        return cycles if self._scale == 1.0 else max(1, round(cycles * self._scale))
