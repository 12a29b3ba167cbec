"""What surrounds every search of a run: its seed, its log, who measures, where progress shows, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from tvm_spm.interrupt import StopRequest
from tvm_spm.progress import ProgressBar
from tvm_spm.tuning.group_memory import GroupMemory
from tvm_spm.tuning.measurer import Measurer, identity_of
from tvm_spm.tuning.run_log import RunLog
from tvm_spm.tuning.store import Store
from tvm_spm.tuning.task_memory import Origin, TaskMemory, key_of
from tvm_spm.workers import Workers
from tvm_spm.workload import Workload


def _hidden() -> ProgressBar:
    return ProgressBar(0, enabled=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One value for all that a search needs beside its question and its budget.

    Attributes:
        seed: Same seed, same trials: what is tried follows from it, the number of the batch, and the answers.
        log: Answers of earlier runs, which are not measured again, and keeper of the new ones; none are kept if None.
        measurer: Says how long a mapping takes; the simulator if None.
        store: What other runs measured on the same machine, and keeper of the new answers; None without one.
        workers: Run measurements and searches that do not depend on each other.
        progress: Told how far the work is.
        should_stop: Asked between steps.
    """

    seed: int = 0
    log: RunLog | None = None
    measurer: Measurer | None = None
    store: Store | None = None
    workers: Workers = field(default_factory=Workers)
    progress: ProgressBar = field(default_factory=_hidden)
    should_stop: StopRequest = field(default_factory=StopRequest)

    def memory(self, workload: Workload) -> TaskMemory:
        """What is known of a workload."""
        if self.log is not None:
            memory = self.log.memory(workload)
        else:
            memory = TaskMemory(Origin(task=key_of(workload), measurer=identity_of(self.measurer), seed=self.seed))
        if self.store is not None:
            memory.lend(self.store.answers(workload), partial(self.store.keep, workload))
        return memory

    def group_memory(self) -> GroupMemory:
        """What is known of groups."""
        memory = GroupMemory(identity_of(self.measurer)) if self.log is None else self.log.group_memory()
        if self.store is not None:
            memory.lend(self.store.group_answers, self.store.keep_groups)
        return memory
