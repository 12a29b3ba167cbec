"""Tune a whole network: its tasks one by one, then schedules, database, and the check that they compute the same."""

from __future__ import annotations

import hashlib
import threading
import time
import uuid
from collections.abc import Hashable, Iterator
from collections.abc import Mapping as StringMapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cost_model.fused import group_key
from cost_model.simulator import SimulatorModel
from tvm_spm import frontend
from tvm_spm.arch import Arch
from tvm_spm.deploy import database
from tvm_spm.deploy.groups import FusedNetwork
from tvm_spm.deploy.network import ScheduledNetwork, schedule_network
from tvm_spm.deploy.task_checks import TaskChecks
from tvm_spm.deploy.verify import process as verify_process
from tvm_spm.deploy.verify.compare import NetworkCheck
from tvm_spm.frontend.models import dtype_of_word, models
from tvm_spm.lowering.target import target_of
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.tuning.baselines import Compared, compare_beside
from tvm_spm.tuning.groups import Planned, plan_beside, plan_groups
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.measurer import identity_of, times_groups
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.parts import Baselines, GroupResult, LeastValue, LeftOut, TaskResult, total_cost
from tvm_spm.tuning.result import TuningResult
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.run_log import RunLog, own
from tvm_spm.tuning.saved_run import ModelSource, save_last_run
from tvm_spm.tuning.side_by_side import together_results
from tvm_spm.tuning.store import store_of
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.tuning.tasks import Tuned, tune_tasks
from tvm_spm.tuning.warm_up import NOTICE, Compilation, is_compiled, parts_of_tune
from tvm_spm.workload import VectorWork, Workload

if TYPE_CHECKING:
    from tvm_spm.frontend import Extraction
    from tvm_spm.frontend.load import Model
    from tvm_spm.frontend.pinned import Values
    from tvm_spm.frontend.relay import ParamsLike
    from tvm_spm.frontend.torch.source import ExampleInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """How a network is tuned.

    Attributes:
        objective: Of each task, and of the network where layers are fused.
        task: Budget of one task.
        workdir: Where trials and schedules are kept; nowhere if None.
        store: Where answers of a measurer are kept for all networks; ``store.default_store`` if None.
        fusion: Whether layers may run as one.
        shapes: Of inputs whose dims the model leaves open.
        values: Of inputs that are fixed before import.
        params: Weights of a model that is a Relay text.
        example_inputs: What a module of PyTorch is called with.
        dtype: Of the numbers of a built-in network; as wide as a word of the accelerator if None.
        max_memory_bytes: Of the tensors of the model; the default of ``frontend.load_model`` if None.
        baselines: Whether to find out what results are compared with.
        time_limit_s: Until the end of the search, for the result; what stops the work is a ``StopRequest``.
    """

    objective: Objective
    task: TunerOptions
    workdir: Path | None
    store: str | Path | None = None
    fusion: bool = True
    shapes: StringMapping[str, tuple[int, ...]] | None = None
    values: Values | None = None
    params: ParamsLike = None
    example_inputs: ExampleInputs = None
    dtype: str | None = None
    max_memory_bytes: int | None = None
    baselines: bool = True
    time_limit_s: float | None = None


_IMPORTS = threading.Lock()
"""TVM's builders of modules keep their state for the whole process: two threads would read each other's."""

TIME_PARTS = 2
"""A time limit is cut in so many equal parts: one for the mappings of layers; what that leaves is for fusion."""


class Clock:
    """Wall time by phase, in order of first use."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a phase."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start

    def seconds(self) -> tuple[tuple[str, float], ...]:
        """All phases so far."""
        return tuple(self._seconds.items())


def tune_network(mod: Model, arch: Arch, options: NetworkOptions, run: Run) -> TuningResult:
    """What ``tvm_spm.tune`` does, with everything resolved.

    Args:
        mod: The network.
        arch: The accelerator.
        options: How it is tuned.
        run: Whose trials these are; its log is that of the work directory.

    Raises:
        SpmError: As ``tvm_spm.tune``.
    """
    with own(options.workdir), ExitStack() as ending:
        return _tune_owned(mod, arch, options, run, ending)


def _tune_owned(mod: Model, arch: Arch, options: NetworkOptions, run: Run, ending: ExitStack) -> TuningResult:
    clock = Clock()
    is_open = options.dtype is None and isinstance(mod, (str, Path)) and str(mod) in models()
    chosen_dtype = dtype_of_word(arch.word_bits) if is_open else None
    with clock.phase("import"), _IMPORTS:
        extraction = frontend.extract(
            frontend.load_model(
                mod,
                shapes=options.shapes,
                values=options.values,
                params=options.params,
                example_inputs=options.example_inputs,
                dtype=options.dtype or chosen_dtype,
                max_memory_bytes=options.max_memory_bytes,
            )
        )
    if run.measurer is not None:
        origin = uuid.uuid4().hex if options.workdir is None else str(options.workdir.resolve())
        run = replace(run, store=store_of(options.store, arch, identity_of(run.measurer), origin))
    run = replace(run, log=_open_log(replace(options, dtype=options.dtype or chosen_dtype), arch, run, mod, extraction))
    # What the untuned network computes is found out beside the search, which leaves a processor idle.
    check = NetworkCheck(extraction.mod, target=target_of(arch), seed=run.seed)
    ending.callback(check.end)
    verify_process.start_early(2)
    with ExitStack() as until_compared:
        searched = _search(extraction, arch, options, run, clock, check, until_compared)
        tuned, planned, comparing = searched.tuned, searched.planned, searched.comparing
        with clock.phase("schedule"):
            fused = FusedNetwork.unfused(extraction) if planned is None else planned.fuse()
        network = schedule_network(
            extraction, arch, tuned.outcomes, searched.checks, fused,
            workdir=options.workdir, phase=clock.phase, progress=run.progress,
        )  # fmt: skip
        compared = None
        if comparing is not None:
            with clock.phase("baselines"):
                compared = comparing.result()
    host_calls = extraction.graph.host_calls + tuned.hosted + network.host_calls
    sides = None if planned is None else planned.sides
    left_out = tuned.left_out + (() if planned is None else planned.left_out)
    if compared is not None and len(compared.found) < compared.num_asked:
        left_out += (LeftOut(what="baselines", num_done=len(compared.found), num_asked=compared.num_asked),)
    result = TuningResult(
        tasks=_task_results(
            extraction, tuned.machine(arch), tuned.outcomes, network, compared, is_simulated=run.measurer is None
        ),
        groups=() if planned is None else _group_results(planned, arch, network),
        together=() if planned is None or sides is None else together_results(sides, planned.plan, arch, fused),
        arch=arch,
        objective=options.objective,
        graph=replace(extraction.graph, host_calls=host_calls),
        module=network.module,
        reference=extraction.mod,
        verification=network.verification,
        plan=None if planned is None else planned.plan,
        side_plan=None if sides is None else sides.plan,
        seconds=clock.seconds(),
        interrupted=run.should_stop.interrupted,
        time_limit_s=options.time_limit_s,
        chosen_dtype=chosen_dtype,
        fitted=tuned.fitted,
        stopped_by=(run.should_stop.signal_name or "time limit") if left_out else None,
        left_out=left_out,
    )
    if options.workdir is not None:
        result.save(options.workdir)
    return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Searched:
    """What a search gives.

    Attributes:
        tuned: Mappings of tasks.
        checks: Of their code; begun or not.
        planned: The plan of groups; None if nobody wants one.
        comparing: What they will be compared with; None if nobody wants it.
    """

    tuned: Tuned
    checks: TaskChecks
    planned: Planned | None
    comparing: Future[Compared] | None


def _search(
    extraction: Extraction,
    arch: Arch,
    options: NetworkOptions,
    run: Run,
    clock: Clock,
    check: NetworkCheck,
    until_compared: ExitStack,
) -> _Searched:
    """Mappings, the plan of groups, and what they will be compared with."""
    # Nobody times waits of groups for rows of DRAM; costs of different kinds do not compare.
    can_time = times_groups(run.measurer) and arch.levels.DRAM.pages is None
    is_fused = options.fusion and can_time and bool(extraction.graph.nodes)
    needed = parts_of_tune(measures=run.measurer is None or is_fused, fuses=is_fused)
    planned: Planned | None = None
    comparing: Future[Compared] | None = None
    with ExitStack() as until_planned:
        compilation = None if is_compiled(needed) else until_planned.enter_context(Compilation(needed))
        if compilation is not None:
            with clock.phase("compile"):
                run.progress.phase(NOTICE, total=2, unit="parts")
                compilation.finish_search(run.progress.step)
        run.should_stop.keep()
        with clock.phase("search"):
            until = run.should_stop.share(TIME_PARTS) if is_fused else run.should_stop
            tuned = tune_tasks(extraction, arch, options.objective, options.task, replace(run, should_stop=until))
        if is_fused and compilation is not None:
            with clock.phase("compile"):
                run.progress.phase("compiling what prices groups", total=1, unit="parts")
                compilation.finish_groups(run.should_stop)
        checks = until_compared.enter_context(TaskChecks(extraction, arch, tuned.outcomes, check))
        # Beside fusion, which keeps one processor busy, but not at the cost of fusion's time.
        if run.should_stop.is_endless:
            checks.begin()
        if is_fused:
            with clock.phase("fusion"):
                planned = plan_groups(
                    extraction, arch, options.objective, tuned.outcomes, checks, run, machine=tuned.machine(arch),
                    most_measured=options.task.trials * len(tuned.outcomes),
                )  # fmt: skip
            # A measurer is asked for one layer or group at a time.
            if run.measurer is None:
                with clock.phase("side by side"):
                    planned = plan_beside(planned, extraction, arch, tuned.outcomes, run)
    # Costs of another measurer are not those of the simulator.
    if options.baselines and run.measurer is None:
        # Beside the comparison of the network, which keeps one processor busy.
        comparing = until_compared.enter_context(_compare(extraction, arch, options, tuned, run))
    return _Searched(tuned=tuned, checks=checks, planned=planned, comparing=comparing)


def _compare(
    extraction: Extraction, arch: Arch, options: NetworkOptions, tuned: Tuned, run: Run
) -> AbstractContextManager[Future[Compared]]:
    """What the result is compared with, found beside other work."""
    works = {
        task.work: max(options.task.trials, tuned.outcomes[index].num_evaluated)
        for index, task in enumerate(extraction.graph.tasks)
        if isinstance(task.work, Workload) and index in tuned.outcomes
    }
    return compare_beside(list(works.items()), arch, options.objective, run.seed, run.should_stop)


def _open_log(options: NetworkOptions, arch: Arch, run: Run, mod: Model, extraction: Extraction) -> RunLog | None:
    """The log of the work directory, once the directory is known to be one of this accelerator."""
    if options.workdir is None:
        return None
    works = "\n".join(repr(task.work) for task in extraction.graph.tasks)
    start = RunStart(
        model=_name_of(mod),
        # What the trials depend on: the tasks, not the weights.
        model_sha256=hashlib.sha256(works.encode()).hexdigest(),
        objective=str(options.objective), seed=run.seed, measurer=identity_of(run.measurer),
        tasks=tuple(
            (task.name, key_of(task.work), task.work)
            for task in extraction.graph.tasks if isinstance(task.work, Workload)
        ),
    )  # fmt: skip
    log = RunLog(options.workdir, arch, start)
    database.check(options.workdir, arch)
    save_last_run(options.workdir, arch, start, _source_of(mod, options))
    return log


def _group_results(planned: Planned, arch: Arch, network: ScheduledNetwork) -> tuple[GroupResult, ...]:
    """Equal groups that run the same way are one result; those beside others, behind these, are none."""
    plan, found = planned.plan, dict[Hashable, GroupResult]()
    groups = plan.groups if planned.sides is None else planned.sides.plan.groups
    for fused, verification in zip(groups, network.group_verifications, strict=False):
        key = (group_key(fused.group), fused.mapping)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + fused.times)
            continue
        alone = [plan.alone[index] for index in fused.group.layers]
        found[key] = GroupResult(
            names=tuple(plan.graph.layers[index].name for index in fused.group.layers),
            tasks=tuple(each.task for each in alone),
            count=fused.times,
            mapping=fused.mapping,
            tile=fused.tile,
            overlap=fused.overlap,
            cost=fused.cost,
            alone_cost=total_cost([(each.cost, 1) for each in alone if each.cost is not None], arch),
            spm_bytes=fused.spm_bytes,
            recompute_share=fused.recompute_share,
            verification=verification,
        )
    return tuple(found.values())


def _task_results(
    extraction: Extraction,
    arch: Arch,
    outcomes: dict[int, SearchResult],
    network: ScheduledNetwork,
    compared: Compared | None,
    *,
    is_simulated: bool,
) -> tuple[TaskResult, ...]:
    simulator = SimulatorModel()
    results = []
    for index, task in enumerate(extraction.graph.tasks):
        if isinstance(task.work, VectorWork):
            cost = simulator.vector_cost(task.work, arch)
            same = None if compared is None else Baselines.same(cost)
            results.append(TaskResult(task=task, mapping=None, cost=cost, default_cost=cost, baselines=same))
        elif index in outcomes and index not in network.refused:
            outcome = outcomes[index]
            results.append(
                TaskResult(
                    task=task,
                    mapping=outcome.mapping,
                    cost=outcome.cost,
                    default_cost=outcome.default_cost,
                    baselines=compared.found.get(task.work) if compared and isinstance(task.work, Workload) else None,
                    verification=network.task_verifications.get(index),
                    num_trials=outcome.num_evaluated,
                    rejected=outcome.rejected,
                    failures=outcome.failures,
                    bound=_bound_of(outcome) if is_simulated else None,
                )
            )
    return tuple(results)


def _bound_of(outcome: SearchResult) -> LeastValue:
    gap = 0.0 if outcome.certified else outcome.gap
    return LeastValue(value=outcome.lower_bound, gap=gap, space=outcome.space)


def _name_of(mod: Model) -> str:
    if isinstance(mod, str) and "\n" in mod:
        return "text"
    return Path(mod).name if isinstance(mod, (str, Path)) else type(mod).__name__


def _source_of(mod: Model, options: NetworkOptions) -> ModelSource | None:
    """Where a network can be read again; None for one in memory."""
    params = options.params
    if not isinstance(mod, (str, Path)) or (isinstance(mod, str) and "\n" in mod):
        return None
    if not (params is None or isinstance(params, (str, Path))) or options.example_inputs is not None:
        return None
    return ModelSource(
        model=str(mod) if str(mod) in models() else str(Path(mod).resolve()),
        params=None if params is None else str(Path(params).resolve()),
        shapes=dict(options.shapes or {}),
        values={name: np.asarray(value, float).ravel().tolist() for name, value in (options.values or {}).items()},
        dtype=options.dtype,
        max_memory_bytes=options.max_memory_bytes,
    )
