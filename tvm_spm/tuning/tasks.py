"""All tasks of a network, one after the other, each with the effort that it is worth."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from tvm_spm.arch import Arch
from tvm_spm.deploy.network import make_schedule
from tvm_spm.errors import NoMappingError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.tuning.effort import shares_of, stake_of, trials_of
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.parts import LeftOut
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.task import tune_workload
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.workload import HostCall, Workload

if TYPE_CHECKING:
    from tvm_spm.frontend import Extraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What became of the tasks of a network.

    Attributes:
        outcomes: Per index of a task that can be mapped, what was found.
        hosted: The tasks that cannot.
        left_out: What there was no time for.
    """

    outcomes: dict[int, SearchResult]
    hosted: tuple[HostCall, ...]
    left_out: tuple[LeftOut, ...]


def tune_tasks(extraction: Extraction, arch: Arch, objective: Objective, options: TunerOptions, run: Run) -> Tuned:
    """Tune every task of a network that can be mapped; equal ones once.

    Under a time limit those come first by which the network can gain most, and each gets as much of the time left. Of
    the trials, too, tasks of little weight get fewer.

    Args:
        extraction: The network.
        arch: The accelerator.
        objective: Of each task.
        options: Budget of one task, at most.
        run: Whose trials these are; each task gets its share of the time left.

    Raises:
        NoMappingError: Not one task can be mapped.
    """
    tunable = [
        (index, task.name, task.work)
        for index, task in enumerate(extraction.graph.tasks) if isinstance(task.work, Workload)
    ]  # fmt: skip
    worth = _worth(extraction, arch, objective, options)
    if not run.should_stop.is_endless:
        tunable.sort(key=lambda each: -worth[each[2]].share)
    outcomes: dict[int, SearchResult] = {}
    by_workload: dict[Workload, SearchResult] = {}
    share_left = 1.0
    hosted: list[HostCall] = []
    left_out: list[LeftOut] = []
    is_unmappable = True
    for position, (index, name, work) in enumerate(tunable):
        # Tasks may differ only in their element-wise code; the mapping and its cost are the same then.
        if work not in by_workload:
            share, num_asked = worth[work].share, worth[work].num_trials
            run.progress.phase(f"{name} ({position + 1}/{len(tunable)})", total=num_asked, unit="trials")
            until = run.should_stop.share(max(1.0, share_left / share))
            share_left -= share
            try:
                by_workload[work] = tune_workload(
                    Case(workload=work, arch=arch, objective=objective), replace(options, trials=num_asked),
                    replace(run, seed=_seed_of(run.seed, key_of(work)), should_stop=until),
                    program_of=partial(_program_of, extraction, index),
                )  # fmt: skip
            except (NoMappingError, NoMeasurementError, WorkloadError) as error:
                hosted.append(HostCall(name=name, reason=str(error)))
                is_unmappable = is_unmappable and not isinstance(error, WorkloadError)
                continue
            num_done = by_workload[work].num_evaluated
            if num_done < num_asked and until():
                left_out.append(LeftOut(what="trials", task=name, num_done=num_done, num_asked=num_asked))
        outcomes[index] = by_workload[work]
    if tunable and not outcomes and is_unmappable:
        raise NoMappingError(f"no task of the model can be mapped; {hosted[0].name}: {hosted[0].reason}")
    return Tuned(outcomes=outcomes, hosted=tuple(hosted), left_out=tuple(left_out))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worth:
    """What a workload is worth: its share of the effort, and the mappings to measure."""

    share: float
    num_trials: int


def _worth(extraction: Extraction, arch: Arch, objective: Objective, options: TunerOptions) -> dict[Workload, _Worth]:
    counts: dict[Workload, int] = {}
    for task in extraction.graph.tasks:
        if isinstance(task.work, Workload):
            counts[task.work] = counts.get(task.work, 0) + task.count
    shares = shares_of([stake_of(work, count, arch) for work, count in counts.items()], objective)
    trials = trials_of(shares, options.trials, options.batch)
    return {
        work: _Worth(share=share, num_trials=num_trials)
        for work, share, num_trials in zip(counts, shares, trials, strict=True)
    }


def _program_of(extraction: Extraction, index: int, mapping: Mapping) -> str | None:
    """The scheduled function of a task as text; None where no schedule can be made."""
    name = next(name for name, task in extraction.functions if task == index)
    made = make_schedule(extraction.mod[name], extraction.nests[index], mapping)
    return None if isinstance(made, str) else str(made.mod["main"].script())


def _seed_of(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4], "big")
