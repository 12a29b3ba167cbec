"""What is known about groups: answers of one measurer, by key of the group and text of the mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tvm_spm.cost import Cost
from tvm_spm.trial import GroupTrial


class GroupMemory:
    """Answers of one measurer.

    Args:
        measurer: Who it is, with version or settings.
        known: What earlier runs left; failures are tried again.
        append: Keeps trials, before they can be recalled.
    """

    def __init__(
        self, measurer: str, *, known: Iterable[GroupTrial] = (), append: Callable[..., None] = lambda *lines: None
    ) -> None:
        self.measurer = measurer
        self._costs: dict[tuple[str, str], Cost] = {}
        self._failures: set[tuple[str, str, str]] = set()
        self._append = append
        self._lent: Callable[[str], Sequence[GroupTrial]] = lambda group: ()
        self._keep: Callable[[Sequence[GroupTrial]], None] = lambda trials: None
        for trial in known:
            self._remember(trial)

    def lend(
        self, answers: Callable[[str], Sequence[GroupTrial]], keep: Callable[[Sequence[GroupTrial]], None]
    ) -> None:
        """Let answers that other runs of the same measurer left count, too.

        Args:
            answers: Those of a group, by its key.
            keep: Told the new answers of this run.
        """
        self._lent, self._keep = answers, keep

    def recall(self, group: str, mapping: str) -> Cost | None:
        """The answer to a mapping; None if there is none, or only failures of earlier runs."""
        if (group, mapping) not in self._costs:
            for trial in self._lent(group):
                if trial.mapping == mapping and trial.cost is not None:
                    self._append(trial)
                    self._remember(trial)
        return self._costs.get((group, mapping))

    def record(self, trial: GroupTrial) -> None:
        """Keep a new answer; a failure that an earlier run kept with the same reason is not kept twice."""
        if (trial.group, trial.mapping, trial.failure) not in self._failures:
            self._append(trial)
            self._keep([trial])
        self._remember(trial)

    def _remember(self, trial: GroupTrial) -> None:
        if trial.cost is None:
            self._failures.add((trial.group, trial.mapping, trial.failure))
        else:
            self._costs.setdefault((trial.group, trial.mapping), trial.cost)
