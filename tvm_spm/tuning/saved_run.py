"""What a work directory holds besides its log, all of it made from the log or by the last run: which network was tuned
last, and the plan of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.errors import SpmError, WorkdirError, did_you_mean
from tvm_spm.trial import Trial
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.trial_log import read_log
from tvm_spm.units import format_energy, format_si
from tvm_spm.workload import Workload

WORKLOADS_NAME = "workloads.json"
PLAN_NAME = "plan.json"
LOG_NAME = "trials.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedGroup:
    """Layers that run as one, or a single layer.

    Attributes:
        layers: Their names.
        num_cores: Cores in use.
        mapping: How they run, as text; ``vector unit`` or ``host`` for a layer without a mapping.
        cycles: Of the group; beside others, when it has finished.
        energy_pj: Of the group.
        together: Groups of equal numbers run at the same time; None for one that runs alone.
        first_core: The lowest of its cores, where others have cores too.
    """

    layers: tuple[str, ...]
    num_cores: int
    mapping: str
    cycles: int
    energy_pj: float
    together: int | None = None
    first_core: int = 0

    def __str__(self) -> str:
        cores = "1 core" if self.num_cores == 1 else f"{self.num_cores} cores"
        if self.together is not None:
            cores += f" from {self.first_core} on (step {self.together})"
        return (
            f"{' > '.join(self.layers)}: {cores}, {format_si(self.cycles, 'cycles')}, {format_energy(self.energy_pj)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where a network comes from, so that it can be read again.

    Attributes:
        model: Path of a file, or name of a built-in network.
        params: Path of the weights of a Relay text.
        shapes: Of inputs whose dims the model leaves open.
        values: Of inputs that are fixed.
        dtype: Of the numbers of a built-in network.
        max_memory_bytes: Of its tensors; the default of ``frontend.load_model`` if None.
    """

    model: str
    params: str | None = None
    shapes: dict[str, tuple[int, ...]] | None = None
    values: dict[str, list[float]] | None = None
    dtype: str | None = None
    max_memory_bytes: int | None = None


def load_source(workdir: Path, model: str | None = None) -> ModelSource:
    """The network that was tuned last.

    Args:
        workdir: That was tuned into.
        model: Where the network is now; what the work directory says if None.

    Raises:
        WorkdirError: It came from memory, or the work directory does not say.
    """
    path = workdir / WORKLOADS_NAME
    data = durable.read_file(path)
    try:
        found = TypeAdapter(ModelSource | None).validate_python(json.loads(data or b"{}").get("source"))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WorkdirError(f"{path}: damaged; tune into this directory again to rewrite it") from error
    if model is not None:
        return replace(found or ModelSource(model=model), model=model)
    if found is None:
        raise WorkdirError(
            f"{path}: does not say where the network is, which was tuned from memory or by an earlier version; give "
            "--model, or use TuningResult.export"
        )
    return found


def save_last_run(workdir: Path, arch: Arch, run: RunStart, source: ModelSource | None = None) -> None:
    """Write which run was the last; of several in one directory this is the one to show.

    Args:
        workdir: Where.
        arch: The accelerator.
        run: That begins.
        source: Where its network can be read again; None if that is not known.

    Raises:
        WorkdirError: The file cannot be written.
    """
    content = {
        "source": None if source is None else asdict(source),
        "model": run.model,
        "measurer": run.measurer,
        "arch": asdict(arch),
        "tasks": [{"name": name, "key": key, "workload": asdict(workload)} for name, key, workload in run.tasks],
    }
    durable.write_file(workdir / WORKLOADS_NAME, json.dumps(content).encode() + b"\n")


def save_plan(workdir: Path, groups: Sequence[SavedGroup]) -> None:
    """Write how a network was cut into groups; without any, remove what an earlier run wrote.

    Raises:
        WorkdirError: The file cannot be written.
    """
    if not groups:
        durable.remove(workdir / PLAN_NAME)
        return
    content = json.dumps([asdict(group) for group in groups], indent=1)
    durable.write_file(workdir / PLAN_NAME, content.encode() + b"\n")


def load_plan(workdir: Path) -> tuple[SavedGroup, ...]:
    """What ``save_plan`` wrote; empty if the network was tuned without fusion.

    Raises:
        WorkdirError: The file is damaged.
    """
    path = workdir / PLAN_NAME
    data = durable.read_file(path)
    if data is None:
        return ()
    try:
        return tuple(TypeAdapter(list[SavedGroup]).validate_json(data))
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path}: damaged; tune into this directory again to rewrite it") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRun:
    """The run whose tasks are shown.

    Attributes:
        arch: The accelerator.
        measurer: Whose trials count; everybody's if empty, as format 1 did not say.
        tasks: Per task its name, the key of its trials, and its workload.
    """

    arch: Arch
    measurer: str
    tasks: tuple[tuple[str, str, Workload], ...]


def load_last_run(workdir: Path) -> LastRun:
    """The last run of a work directory; from the log if its own file is missing or damaged.

    Raises:
        WorkdirError: The directory was not filled by ``tune``, or its log cannot be read.
    """
    data = durable.read_file(workdir / WORKLOADS_NAME)
    found = None if data is None else _last_run_from_json(data)
    if found is not None:
        return found
    content = read_log(workdir / LOG_NAME)
    if content.header is None:
        raise WorkdirError(f"{workdir / LOG_NAME}: no such log; give a directory that `tune --workdir` filled")
    if content.header.arch is None or not content.runs:
        raise WorkdirError(f"{workdir / WORKLOADS_NAME}: damaged; tune into this directory again to rewrite it")
    last = content.runs[-1]
    return LastRun(arch=content.header.arch, measurer=last.measurer, tasks=last.tasks)


def _last_run_from_json(data: bytes) -> LastRun | None:
    """None if it is damaged."""
    try:
        content = json.loads(data)
        adapter = TypeAdapter(Workload)
        return LastRun(
            arch=TypeAdapter(Arch).validate_python(content["arch"]),
            measurer=str(content.get("measurer", "")),
            tasks=tuple(
                (str(task["name"]), str(task["key"]), adapter.validate_python(task["workload"]))
                for task in content["tasks"]
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SpmError):
        return None


def best_trials(workdir: Path, objective: str) -> list[tuple[str, Workload, Arch, Trial]]:
    """Per task of the last run, the trial that measured best; tasks without one are left out.

    Raises:
        WorkdirError: The directory was not filled by ``tune``, or its log cannot be read.
    """
    run = load_last_run(workdir)
    trials = read_log(workdir / LOG_NAME).trials
    found = []
    for name, key, workload in run.tasks:
        measured = [
            trial
            for trial in trials
            if trial.task == key and trial.cost is not None and run.measurer in ("", trial.measurer)
        ]
        if measured:
            best = min(measured, key=lambda trial: _score(trial, objective))
            found.append((name, workload, run.arch, best))
    return found


def best_trial(workdir: Path, task: str | None, objective: str) -> tuple[str, Workload, Arch, Trial]:
    """The best trial of one task by name; of the first task if no name is given.

    Raises:
        SpmError: No such task.
        WorkdirError: The directory holds no trial, or a file in it is damaged.
    """
    found = best_trials(workdir, objective)
    if not found:
        raise WorkdirError(f"{workdir}: no measured trial; tune into this directory first")
    if task is None:
        return found[0]
    for each in found:
        if each[0] == task:
            return each
    raise SpmError(f"unknown task {task!r}: {did_you_mean(task, [name for name, _, _, _ in found])}")


def _score(trial: Trial, objective: str) -> tuple[float, str]:
    assert trial.cost is not None
    return trial.cost.objective(objective), trial.mapping.line()
