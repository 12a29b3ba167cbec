"""What is known about one task: answers to measurements, and searches that came to their end.

A search asks here before it measures. So a run that is started again takes the very same path, measures only what is
missing, and ends with the same log; and what was measured for another objective or another network is not measured
twice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.trial import Prediction, Trial
from tvm_spm.tuning.log_lines import SearchEnd
from tvm_spm.workload import Workload


def key_of(workload: Workload) -> str:
    """Under which name the trials of a workload are kept."""
    return f"{workload} {hashlib.sha256(repr(workload).encode()).hexdigest()[:12]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What all trials of a task in a run have in common.

    Attributes:
        task: Key of the task.
        measurer: Who measures, with version or settings.
        model: Name of the network; empty for a search of one layer.
        arch_sha256: Start of the hash of the accelerator.
        seed: Of the run.
    """

    task: str
    measurer: str
    model: str = ""
    arch_sha256: str = ""
    seed: int = 0


class TaskMemory:
    """Answers to one measurer on one task, and its ended searches with one seed."""

    def __init__(
        self,
        origin: Origin,
        *,
        known: Iterable[Trial] = (),
        ended: Iterable[SearchEnd] = (),
        num_logged: int = 0,
        append: Callable[..., None] = lambda *lines: None,
    ) -> None:
        """A memory that begins with what earlier runs left.

        Args:
            origin: Of the trials to come.
            known: Earlier answers of the same measurer, in order; of several to one mapping the first success counts.
            ended: Earlier searches with the same seed and measurer.
            num_logged: Trials of the task in the log, of other measurers too.
            append: Keeps trials and the end of a search, before they can be recalled.
        """
        self.origin = origin
        self._origin: dict[str, Any] = asdict(origin)
        self._answers: dict[Mapping, Trial] = {}
        self._failures: set[tuple[Mapping, str]] = set()
        self._ended = {(end.objective, end.settings): end for end in ended}
        self._num_logged, self._append = num_logged, append
        self._lent: dict[Mapping, Trial] = {}
        self._keep: Callable[[Sequence[Trial]], None] = lambda trials: None
        for trial in known:
            self._remember(trial)

    def lend(self, trials: Iterable[Trial], keep: Callable[[Sequence[Trial]], None]) -> None:
        """Let answers that other runs of the same measurer left count, too.

        Args:
            trials: Those answers; one becomes a trial of this run when somebody asks for its mapping.
            keep: Told the new answers of this run.
        """
        self._lent = {trial.mapping: trial for trial in trials if trial.cost is not None}
        self._keep = keep

    def recall(self, mapping: Mapping) -> Trial | None:
        """The answer to a mapping; None if it has none, or only failures of earlier runs, which are tried again."""
        lent = self._lent.pop(mapping, None)
        if lent is not None and lent.cost is not None and mapping not in self._answers:
            (predicted,) = lent.predicted
            self.record([(mapping, lent.cost, predicted)])
        return self._answers.get(mapping)

    def succeeded(self) -> list[Trial]:
        """All answers with a cost, those to searches for other objectives included."""
        return list(self._answers.values())

    def record(self, found: Sequence[tuple[Mapping, Cost | str, Prediction]]) -> list[Trial]:
        """Keep new answers; a failure that an earlier run kept with the same reason is not kept twice.

        Args:
            found: Mappings, each with its cost or why there is none, and with what the analytical model said.
        """
        trials: list[Trial] = []
        new: list[Trial] = []
        for mapping, answer, predicted in found:
            failure = answer if isinstance(answer, str) else ""
            trial = Trial(
                index=self._num_logged + len(new), mapping=mapping, predicted=(predicted,),
                cost=None if isinstance(answer, str) else answer, failure=failure, **self._origin,
            )  # fmt: skip
            trials.append(trial)
            if (mapping, failure) not in self._failures:
                new.append(trial)
        if new:
            self._append(*new)
            self._keep(new)
            self._num_logged += len(new)
        for trial in trials:
            self._remember(trial)
        return trials

    def ended(self, objective: str, settings: str) -> SearchEnd | None:
        """What an earlier run left of the same search, if it came to its end."""
        return self._ended.get((objective, settings))

    def end(self, search: SearchEnd) -> None:
        """Keep that a search came to its end."""
        if self.ended(search.objective, search.settings) != search:
            self._append(search)
            self._ended[search.objective, search.settings] = search

    def _remember(self, trial: Trial) -> None:
        if trial.failure:
            self._failures.add((trial.mapping, trial.failure))
        else:
            self._answers.setdefault(trial.mapping, trial)
