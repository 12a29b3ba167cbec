"""All tasks of a network: one after the other, or together where measurements of one teach about all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from cost_model.calibration import FittedArch
from tvm_spm.arch import Arch
from tvm_spm.deploy.task_code import make_schedule
from tvm_spm.errors import NoMappingError, SpmError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.space.countable import is_countable
from tvm_spm.tuning.ahead import FindsStarts, searches_ahead
from tvm_spm.tuning.effort import shares_of, stake_of, trials_of
from tvm_spm.tuning.exact_starts import Starts
from tvm_spm.tuning.guided import Guide, GuidedTask, experience_of, search_together
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.parts import LeftOut
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.task import start_of, tune_workload, will_search
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
        fitted: The accelerator as a measurer showed it; None with the simulator.
    """

    outcomes: dict[int, SearchResult]
    hosted: tuple[HostCall, ...]
    left_out: tuple[LeftOut, ...]
    fitted: FittedArch | None = None

    def machine(self, declared: Arch) -> Arch:
        """The accelerator as it is known: with fitted numbers, if there are any."""
        return declared if self.fitted is None else self.fitted.arch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A task that is no other's twin: they may differ only in their element-wise code.

    Attributes:
        index: Of the first of its twins.
        name: Of it.
        case: What is searched.
        count: How often the network runs it, all twins together.
    """

    index: int
    name: str
    case: Case
    count: int


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
        NoMappingError: Not one task can be mapped, or measured.
    """
    tunable = [
        (index, task.name, task.work, task.count)
        for index, task in enumerate(extraction.graph.tasks) if isinstance(task.work, Workload)
    ]  # fmt: skip
    tasks: dict[Workload, _Task] = {}
    for index, name, work, count in tunable:
        case = Case(workload=work, arch=arch, objective=objective)
        known = tasks.get(work, _Task(index=index, name=name, case=case, count=0))
        tasks[work] = replace(known, count=known.count + count)
    search = _one_by_one if run.measurer is None else _together
    found, left_out, fitted = search(extraction, list(tasks.values()), options, run)
    by_workload = dict(zip(tasks, found, strict=True))
    outcomes: dict[int, SearchResult] = {}
    hosted: list[HostCall] = []
    for index, name, work, _ in tunable:
        outcome = by_workload[work]
        if isinstance(outcome, SearchResult):
            outcomes[index] = outcome
        else:
            hosted.append(HostCall(name=name, reason=str(outcome)))
    if tunable and not outcomes and not any(isinstance(each, WorkloadError) for each in found):
        what = "measured" if all(isinstance(each, NoMeasurementError) for each in found) else "mapped"
        raise NoMappingError(f"no task of the model can be {what}; {hosted[0].name}: {hosted[0].reason}")
    return Tuned(outcomes=outcomes, hosted=tuple(hosted), left_out=tuple(left_out), fitted=fitted)


def _one_by_one(
    extraction: Extraction, tasks: list[_Task], options: TunerOptions, run: Run
) -> tuple[list[SearchResult | SpmError], list[LeftOut], None]:
    """With the simulator, which the formula describes: each task gets the effort that it is worth."""
    found: dict[int, SearchResult | SpmError] = {}
    left_out: list[LeftOut] = []
    # What is left of a time limit is shared as tasks end, so that one begins when the other has ended.
    is_ahead = run.should_stop.is_endless and not run.workers.are_others
    ahead = [
        start_of(task.case, options, run) for task in tasks
        if is_ahead and options.trials > 1 and is_countable(task.case.workload, task.case.arch)
    ]  # fmt: skip
    # Without a log nothing is known, so that all are searched.
    with searches_ahead(ahead, run.should_stop, begins=run.log is None) as finds_ahead:
        stakes = [stake_of(task.case.workload, task.count, task.case.arch) for task in tasks]
        shares = shares_of(stakes, tasks[0].case.objective) if tasks else []
        trials = trials_of(shares, options.trials, options.batch)
        share_left = 1.0
        order = list(range(len(tasks)))
        if not run.should_stop.is_endless:
            order.sort(key=lambda at: -shares[at])
        finder: FindsStarts = finds_ahead
        if run.workers.are_others:
            finder = _search_beforehand([(tasks[at], replace(options, trials=trials[at])) for at in order], run)
        for position, at in enumerate(order):
            task, num_asked = tasks[at], trials[at]
            run.progress.phase(f"{task.name} ({position + 1}/{len(tasks)})", total=num_asked, unit="trials")
            until = run.should_stop.share(max(1.0, share_left / shares[at]))
            share_left -= shares[at]
            try:
                result = tune_workload(
                    task.case, replace(options, trials=num_asked), replace(_run_of(run, task), should_stop=until),
                    program_of=partial(_program_of, extraction, task.index), starts=finder,
                )  # fmt: skip
            except (NoMappingError, NoMeasurementError, WorkloadError) as error:
                found[at] = error
                continue
            found[at] = result
            num_done = result.num_evaluated
            if num_done < num_asked and not result.certified and until():
                left_out.append(LeftOut(what="trials", task=task.name, num_done=num_done, num_asked=num_asked))
    return [found[at] for at in range(len(tasks))], left_out, None


def _search_beforehand(tasks: Sequence[tuple[_Task, TunerOptions]], run: Run) -> Starts:
    """What the exact searches of all tasks find, where there are workers for them; they get half of the time."""
    starts = [
        start_of(task.case, options, run) for task, options in tasks
        if will_search(task.case, options, _run_of(run, task))
    ]  # fmt: skip
    if starts:
        run.progress.phase("exact searches", total=len(starts), unit="tasks")
    return Starts(starts, run.workers, run.should_stop.share(2), partial(run.progress.step, "exact searches"))


def _together(
    extraction: Extraction, tasks: list[_Task], options: TunerOptions, run: Run
) -> tuple[list[SearchResult | SpmError], list[LeftOut], FittedArch | None]:
    """With a measurer: what it says of one task is learned for all, and measurements go where they promise most."""
    found: list[SearchResult | SpmError | None] = []
    guided: list[GuidedTask] = []
    for task in tasks:
        try:
            guided.append(
                GuidedTask(
                    task.case, options, _run_of(run, task), proposer=EXACT, count=task.count,
                    program_of=partial(_program_of, extraction, task.index),
                )
            )  # fmt: skip
            found.append(None)
        except (NoMappingError, WorkloadError) as error:
            found.append(error)
    run.progress.phase(f"{len(guided)} tasks", total=options.trials * len(guided), unit="trials")
    arch = tasks[0].case.arch if tasks else None
    if arch is None or not guided:
        return [each for each in found if each is not None], [], None
    before = [] if run.store is None else experience_of(run.store.experience())
    guide, failed = search_together(guided, Guide(declared=arch, before=tuple(before)), options, run, calibrates=True)
    results = iter(failed.get(at) or task.result() for at, task in enumerate(guided))
    left_out = [
        LeftOut(what="trials", task=task.name, num_done=done.path.num_trials, num_asked=options.trials)
        for task, done in zip((t for t, each in zip(tasks, found, strict=True) if each is None), guided, strict=True)
        if run.should_stop() and done.path.num_trials < options.trials
    ]
    return [next(results) if each is None else each for each in found], left_out, guide.fitted


def _run_of(run: Run, task: _Task) -> Run:
    return replace(run, seed=_seed_of(run.seed, key_of(task.case.workload)))


def _program_of(extraction: Extraction, index: int, mapping: Mapping) -> str | None:
    """The scheduled function of a task as text; None where no schedule can be made."""
    name = next(name for name, task in extraction.functions if task == index)
    made = make_schedule(extraction.mod[name], extraction.nests[index], mapping)
    return None if isinstance(made, str) else str(made.mod["main"].script())


def _seed_of(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4], "big")
