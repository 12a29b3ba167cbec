"""What is known about one task: answers to measurements, and searches that came to their end.

A search asks here before it measures. So a run that is started again takes the very same path, measures only what is
missing, and ends with the same log; and what was measured for another objective or another network is not measured
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.trial import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One mapping, what the analytical model said, and what the measurer said: a cost, or why there is none."""

    mapping: Mapping
    predicted: Prediction | None = None
    cost: Cost | None = None
    failure: str = ""

    def __post_init__(self) -> None:
        if (self.cost is None) == (not self.failure):
            raise ValueError("a measurement has either a cost or a failure")

    @property
    def measured_cost(self) -> Cost:
        """The cost of a measurement that did not fail."""
        if self.cost is None:
            raise ValueError(f"no cost: {self.failure}")
        return self.cost


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchName:
    """Everything but the seed that decides which mappings a search tries.

    Attributes:
        objective: What is minimised.
        settings: Searcher, budget and constraints, as text.
    """

    objective: str
    settings: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedSearch:
    """What is left to tell of a search that ended, beside its measurements.

    Attributes:
        num_trials: Mappings tried.
        rejected: Mappings refused, by reason.
        failures: Why measurements failed, in order.
    """

    num_trials: int
    rejected: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()


class TaskMemory:
    """Answers to one measurer on one task, and its ended searches with one seed."""

    def __init__(
        self,
        known: Iterable[Measured] = (),
        ended: Iterable[tuple[SearchName, EndedSearch]] = (),
        *,
        keep: Callable[[Sequence[Measured]], None] = lambda measured: None,
        keep_end: Callable[[SearchName, EndedSearch], None] = lambda search, end: None,
    ) -> None:
        """A memory that begins with what earlier runs left.

        Args:
            known: Earlier answers, in order; of several to one mapping the first success counts.
            ended: Earlier searches.
            keep: Called with new answers, in order, before they can be recalled.
            keep_end: Called with a search that ended.
        """
        self._answers: dict[Mapping, Measured] = {}
        self._failures: set[tuple[Mapping, str]] = set()
        self._ended = dict(ended)
        self._keep, self._keep_end = keep, keep_end
        for measured in known:
            self._remember(measured)

    def recall(self, mapping: Mapping) -> Measured | None:
        """The answer to a mapping; None if it has none, or only failures of earlier runs, which are tried again."""
        return self._answers.get(mapping)

    def succeeded(self) -> list[Measured]:
        """All answers with a cost, those to searches for other objectives included."""
        return [measured for measured in self._answers.values() if measured.cost is not None]

    def record(self, found: Sequence[Measured]) -> None:
        """Keep new answers; a failure that an earlier run kept with the same reason is not kept twice."""
        new = [each for each in found if (each.mapping, each.failure) not in self._failures]
        if new:
            self._keep(new)
        for measured in found:
            self._remember(measured)

    def ended(self, search: SearchName) -> EndedSearch | None:
        """What an earlier run left of the same search, if it came to its end."""
        return self._ended.get(search)

    def end(self, search: SearchName, found: EndedSearch) -> None:
        """Keep that a search came to its end."""
        if self._ended.get(search) != found:
            self._keep_end(search, found)
            self._ended[search] = found

    def _remember(self, measured: Measured) -> None:
        if measured.failure:
            self._failures.add((measured.mapping, measured.failure))
        else:
            self._answers.setdefault(measured.mapping, measured)
