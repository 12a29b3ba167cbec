"""Tune a whole network: its tasks one by one, then schedules, database, and the check that they compute the same."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Hashable, Iterator
from collections.abc import Mapping as StringMapping
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cost_model.fused import group_key
from cost_model.simulator import SimulatorModel
from tvm_spm import frontend
from tvm_spm.arch import Arch
from tvm_spm.deploy import database
from tvm_spm.deploy.groups import FusedNetwork, GroupScheduler, attention_groups
from tvm_spm.deploy.network import ScheduledNetwork, make_schedule, schedule_network, verify_function
from tvm_spm.deploy.verify import process as verify_process
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import NoMappingError, WorkloadError
from tvm_spm.fusion.network import Alone, NetworkPlan, num_intervals, plan_network
from tvm_spm.interrupt import StopRequest
from tvm_spm.lowering.target import target_of
from tvm_spm.mapping import Mapping
from tvm_spm.progress import ProgressBar
from tvm_spm.tuning.attention import plan_attention
from tvm_spm.tuning.measurer import Measurer, identity_of
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.result import GroupResult, LeftOut, TaskResult, TuningResult, total_cost
from tvm_spm.tuning.run_log import RunLog, own
from tvm_spm.tuning.saved_run import save_last_run
from tvm_spm.tuning.task import TaskOutcome, TunerOptions, tune_workload
from tvm_spm.tuning.trial_log import RunStart
from tvm_spm.tuning.warm_up import NOTICE, Compilation, is_compiled
from tvm_spm.workload import HostCall, VectorWork, Workload

if TYPE_CHECKING:
    import onnx
    import tvm

    from tvm_spm.frontend import Extraction, NetworkLayers
    from tvm_spm.frontend.relay import ParamsLike, RelayModule


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkOptions:
    """How a network is tuned.

    Attributes:
        objective: ``edp``, ``energy`` or ``latency``, of each task.
        task: Budget of one task.
        seed: Same seed, same result.
        workdir: Where trials and schedules are kept; nowhere if None.
        fusion: Whether layers may run as one.
        max_memory_bytes: Of the tensors of the model; the default of ``frontend.load_model`` if None.
        params: Weights of a model that is a Relay text.
        time_limit_s: Until the end of the search, for the result; what stops the work is a ``StopRequest``.
    """

    objective: str
    task: TunerOptions
    seed: int
    workdir: Path | None
    fusion: bool = True
    max_memory_bytes: int | None = None
    params: ParamsLike = None
    time_limit_s: float | None = None


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


def tune_network(
    mod: tvm.IRModule | onnx.ModelProto | RelayModule | str | Path,
    arch: Arch,
    options: NetworkOptions,
    *,
    shapes: StringMapping[str, tuple[int, ...]] | None,
    executor: Executor | None,
    measurer: Measurer | None,
    progress: ProgressBar,
    should_stop: StopRequest,
) -> TuningResult:
    """What ``tvm_spm.tune`` does, with everything resolved.

    Raises:
        SpmError: As ``tvm_spm.tune``.
    """
    with own(options.workdir):
        return _tune_owned(mod, arch, options, shapes, executor, measurer, progress, should_stop)


def _tune_owned(
    mod: tvm.IRModule | onnx.ModelProto | str | Path,
    arch: Arch,
    options: NetworkOptions,
    shapes: StringMapping[str, tuple[int, ...]] | None,
    executor: Executor | None,
    measurer: Measurer | None,
    progress: ProgressBar,
    should_stop: StopRequest,
) -> TuningResult:
    clock = Clock()
    # Its imports take seconds, which pass beside the search.
    verify_process.start_early()
    with clock.phase("import"):
        extraction = frontend.extract(
            frontend.load_model(mod, shapes=shapes, params=options.params, max_memory_bytes=options.max_memory_bytes)
        )
    run = RunStart(
        model=_name_of(mod), model_sha256=_hash_of(extraction), objective=options.objective, seed=options.seed,
        measurer=identity_of(measurer), tasks=tuple(_named_workloads(extraction)),
    )  # fmt: skip
    log = RunLog.open(options.workdir, arch, run)
    if options.workdir is not None:
        database.check(options.workdir, arch)
        save_last_run(options.workdir, arch, run)
    # A measurer cannot time groups, and costs of different sources cannot be compared.
    is_fused = options.fusion and measurer is None and bool(extraction.graph.nodes)
    plan, scheduler = None, None
    left_out: list[LeftOut] = []
    with ExitStack() as until_planned:
        compilation = None if is_compiled() else until_planned.enter_context(Compilation())
        if compilation is not None:
            with clock.phase("compile"):
                progress.phase(NOTICE, total=2, unit="parts")
                compilation.finish_search(progress.step)
        should_stop.keep()
        with clock.phase("search"):
            until = should_stop.share(TIME_PARTS) if is_fused else should_stop
            outcomes, hosted = _tune_tasks(
                extraction, arch, options, log, executor, measurer, progress, until, left_out
            )  # fmt: skip
        if is_fused:
            if compilation is not None:
                with clock.phase("compile"):
                    progress.phase("compiling what prices groups", total=1, unit="parts")
                    compilation.finish_groups(should_stop)
            with clock.phase("fusion"):
                plan, scheduler = _plan(extraction, arch, options, outcomes, progress, should_stop, left_out)
    mappings = {index: outcome.best.mapping for index, outcome in outcomes.items()}
    with clock.phase("schedule"):
        fused = scheduler.fuse(plan.groups) if plan and scheduler else FusedNetwork.unfused(extraction)
    network = schedule_network(
        extraction, arch, mappings, fused,
        cycles={index: outcome.best.measured_cost.cycles for index, outcome in outcomes.items()},
        seed=options.seed, workdir=options.workdir, phase=clock.phase, progress=progress,
    )  # fmt: skip
    graph = replace(extraction.graph, host_calls=extraction.graph.host_calls + hosted + network.host_calls)
    result = TuningResult(
        tasks=_task_results(extraction, arch, outcomes, network),
        groups=_group_results(plan, arch, network) if plan else (),
        arch=arch,
        objective=options.objective,
        graph=graph,
        module=network.module,
        reference=extraction.mod,
        verification=network.verification,
        plan=plan,
        seconds=clock.seconds(),
        interrupted=should_stop.interrupted,
        time_limit_s=options.time_limit_s,
        stopped_by=(should_stop.signal_name or "time limit") if left_out else None,
        left_out=tuple(left_out),
    )
    if options.workdir is not None:
        result.save(options.workdir)
    return result


def _tune_tasks(
    extraction: Extraction,
    arch: Arch,
    options: NetworkOptions,
    log: RunLog,
    executor: Executor | None,
    measurer: Measurer | None,
    progress: ProgressBar,
    should_stop: StopRequest,
    left_out: list[LeftOut],
) -> tuple[dict[int, TaskOutcome], tuple[HostCall, ...]]:
    """The outcome of every task that can be mapped, by index, and the tasks that cannot."""
    tunable = [(index, task) for index, task in enumerate(extraction.graph.tasks) if isinstance(task.work, Workload)]
    outcomes: dict[int, TaskOutcome] = {}
    by_workload: dict[Workload, TaskOutcome] = {}
    hosted: list[HostCall] = []
    is_unmappable = True
    for position, (index, task) in enumerate(tunable):
        assert isinstance(task.work, Workload)
        # Tasks may differ only in their element-wise code; the mapping and its cost are the same then.
        if task.work not in by_workload:
            label = f"{task.name} ({position + 1}/{len(tunable)})"
            progress.phase(label, total=options.task.trials, unit="trials")
            key = _key_of(task.work)
            until = should_stop.share(len(tunable) - position)
            try:
                by_workload[task.work] = tune_workload(
                    task.work,
                    arch,
                    objective=options.objective,
                    options=options.task,
                    seed=_seed_of(options.seed, key),
                    memory=log.memory(key, task.work),
                    executor=executor,
                    measurer=measurer,
                    program_of=partial(_program_of, extraction, index),
                    report=partial(progress.trials, label),
                    should_stop=until,
                )
            except (NoMappingError, NoMeasurementError, WorkloadError) as error:
                hosted.append(HostCall(name=task.name, reason=str(error)))
                is_unmappable = is_unmappable and not isinstance(error, WorkloadError)
                continue
            num_trials = by_workload[task.work].num_trials
            if num_trials < options.task.trials and until():
                left_out.append(
                    LeftOut(what="trials", task=task.name, num_done=num_trials, num_asked=options.task.trials)
                )
        outcomes[index] = by_workload[task.work]
    if tunable and not outcomes and is_unmappable:
        raise NoMappingError(f"no task of the model can be mapped; {hosted[0].name}: {hosted[0].reason}")
    return outcomes, tuple(hosted)


def _plan(
    extraction: Extraction,
    arch: Arch,
    options: NetworkOptions,
    outcomes: dict[int, TaskOutcome],
    progress: ProgressBar,
    should_stop: StopRequest,
    left_out: list[LeftOut],
) -> tuple[NetworkPlan, GroupScheduler]:
    """The best way to cut the network into groups, by the tuned costs of its layers and the costs of groups."""
    progress.phase("fusion", total=1, unit="groups")
    attention, num_skipped = plan_attention(
        extraction.mod, arch, objective=options.objective, should_stop=should_stop
    )  # fmt: skip
    sites = [replacement.site for replacement in attention]
    # Scores and probabilities right before what reads them, so that the three calls of an attention are neighbours.
    layers = frontend.layer_graph(extraction, late={var for site in sites for var in site.bindings[:2]})
    target, numbers = target_of(arch), itertools.count()

    def verify_group(plain: tvm.tirx.PrimFunc, scheduled: tvm.tirx.PrimFunc) -> Verification:
        rng = np.random.default_rng([options.seed, next(numbers)])
        return verify_function(plain, scheduled, rng=rng, target=target)

    scheduler = GroupScheduler(extraction, layers, sites, verify_group)
    progress.phase("price groups of layers", total=num_intervals(len(layers.graph.layers)), unit="groups")
    plan = plan_network(
        layers.graph, arch, options.objective, _alone(extraction, layers, arch, outcomes),
        known=attention_groups(layers, arch, attention), why_not=scheduler.why_not, should_stop=should_stop,
        report=partial(progress.step, "price groups of layers"),
    )  # fmt: skip
    for what, num_done, num_left in (
        ("attentions searched", len(attention), num_skipped),
        ("groups priced", plan.num_priced, plan.num_unpriced),
        ("groups refined", len(plan.groups) - plan.num_unrefined, plan.num_unrefined),
    ):
        if num_left:
            left_out.append(LeftOut(what=what, num_done=num_done, num_asked=num_done + num_left))
    return plan, scheduler


def _alone(extraction: Extraction, layers: NetworkLayers, arch: Arch, outcomes: dict[int, TaskOutcome]) -> list[Alone]:
    simulator = SimulatorModel()
    found = []
    for node in layers.node_of_layer:
        index = extraction.graph.nodes[node].task
        work = extraction.graph.tasks[index].work
        if isinstance(work, VectorWork):
            found.append(Alone(task=index, cost=simulator.vector_cost(work, arch), num_cores=arch.cores.count))
        elif index in outcomes:
            best = outcomes[index].best
            found.append(Alone(task=index, cost=best.measured_cost, num_cores=best.mapping.cores.product()))
        else:
            found.append(Alone(task=index, cost=None, num_cores=0))
    return found


def _group_results(plan: NetworkPlan, arch: Arch, network: ScheduledNetwork) -> tuple[GroupResult, ...]:
    """Equal groups that run the same way are one result."""
    found: dict[Hashable, GroupResult] = {}
    for fused, verification in zip(plan.groups, network.group_verifications, strict=True):
        key = (group_key(fused.group), fused.mapping)
        if key in found:
            found[key] = replace(found[key], count=found[key].count + 1)
            continue
        alone = [plan.alone[index] for index in fused.group.layers]
        found[key] = GroupResult(
            names=tuple(plan.graph.layers[index].name for index in fused.group.layers),
            tasks=tuple(each.task for each in alone),
            count=1,
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
    extraction: Extraction, arch: Arch, outcomes: dict[int, TaskOutcome], network: ScheduledNetwork
) -> tuple[TaskResult, ...]:
    simulator = SimulatorModel()
    results = []
    for index, task in enumerate(extraction.graph.tasks):
        if isinstance(task.work, VectorWork):
            cost = simulator.vector_cost(task.work, arch)
            results.append(TaskResult(task=task, mapping=None, cost=cost, default_cost=cost))
        elif index in outcomes and index not in network.refused:
            outcome = outcomes[index]
            results.append(
                TaskResult(
                    task=task,
                    mapping=outcome.best.mapping,
                    cost=outcome.best.measured_cost,
                    default_cost=None if outcome.default is None else outcome.default.cost,
                    verification=network.task_verifications.get(index),
                    num_trials=outcome.num_trials,
                    rejected=outcome.rejected,
                    failures=outcome.failures,
                )
            )
    return tuple(results)


def _named_workloads(extraction: Extraction) -> list[tuple[str, str, Workload]]:
    return [
        (task.name, _key_of(task.work), task.work) for task in extraction.graph.tasks if isinstance(task.work, Workload)
    ]


def _program_of(extraction: Extraction, index: int, mapping: Mapping) -> str | None:
    """The scheduled function of a task as text; None where no schedule can be made."""
    name = next(name for name, task in extraction.functions if task == index)
    made = make_schedule(extraction.mod[name], extraction.nests[index], mapping)
    return None if isinstance(made, str) else str(made.mod["main"].script())


def _key_of(workload: Workload) -> str:
    return f"{workload} {hashlib.sha256(repr(workload).encode()).hexdigest()[:12]}"


def _seed_of(seed: int, key: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {key}".encode()).digest()[:4], "big")


def _name_of(mod: tvm.IRModule | onnx.ModelProto | RelayModule | str | Path) -> str:
    if isinstance(mod, str) and "\n" in mod:
        return "text"
    return Path(mod).name if isinstance(mod, (str, Path)) else type(mod).__name__


def _hash_of(extraction: Extraction) -> str:
    """What the trials depend on: the tasks, not the weights."""
    works = "\n".join(repr(task.work) for task in extraction.graph.tasks)
    return hashlib.sha256(works.encode()).hexdigest()
