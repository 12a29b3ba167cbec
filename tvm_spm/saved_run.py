"""What a work directory remembers besides its trials: the workloads, so that the log can be read without the model, and
the plan of the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tvm_spm.arch import Arch
from tvm_spm.errors import SpmError, WorkdirError, did_you_mean
from tvm_spm.trial import Trial, read_log
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
        cycles: Of the group.
        energy_pj: Of the group.
    """

    layers: tuple[str, ...]
    num_cores: int
    mapping: str
    cycles: int
    energy_pj: float

    def __str__(self) -> str:
        cores = "1 core" if self.num_cores == 1 else f"{self.num_cores} cores"
        return (
            f"{' > '.join(self.layers)}: {cores}, {format_si(self.cycles, 'cycles')}, {format_energy(self.energy_pj)}"
        )


def save_workloads(workdir: Path, arch: Arch, workloads: Sequence[tuple[str, str, Workload]]) -> None:
    """Write the accelerator and, per task, its name, the key its trials carry, and its workload.

    Raises:
        WorkdirError: The file cannot be written.
    """
    content = {
        "arch": asdict(arch),
        "tasks": [{"name": name, "key": key, "workload": asdict(workload)} for name, key, workload in workloads],
    }
    try:
        (workdir / WORKLOADS_NAME).write_text(json.dumps(content), encoding="utf-8")
    except OSError as error:
        raise WorkdirError(f"{workdir / WORKLOADS_NAME}: cannot write: {error.strerror}") from error


def save_plan(workdir: Path, groups: Sequence[SavedGroup]) -> None:
    """Write how a network was cut into groups; without any, remove what an earlier run wrote.

    Raises:
        OSError: The file cannot be written.
    """
    if not groups:
        (workdir / PLAN_NAME).unlink(missing_ok=True)
        return
    content = json.dumps([asdict(group) for group in groups], indent=1)
    (workdir / PLAN_NAME).write_text(content + "\n", encoding="utf-8")


def load_plan(workdir: Path) -> tuple[SavedGroup, ...]:
    """What ``save_plan`` wrote; empty if the network was tuned without fusion.

    Raises:
        WorkdirError: The file is damaged.
    """
    path = workdir / PLAN_NAME
    if not path.exists():
        return ()
    try:
        return tuple(TypeAdapter(list[SavedGroup]).validate_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise WorkdirError(f"{path}: damaged; tune into this directory again to rewrite it") from error


def load_workloads(workdir: Path) -> tuple[Arch, dict[str, tuple[str, Workload]]]:
    """The accelerator, and by task name the key of its trials and its workload.

    Raises:
        WorkdirError: There is no such file, or it is damaged.
    """
    path = workdir / WORKLOADS_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        arch = TypeAdapter(Arch).validate_python(content["arch"])
        adapter = TypeAdapter(Workload)
        tasks = {
            task["name"]: (str(task["key"]), adapter.validate_python(task["workload"])) for task in content["tasks"]
        }
    except OSError as error:
        reason = error.strerror
        raise WorkdirError(f"{path}: cannot read: {reason}; give a directory that `tune --workdir` filled") from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise WorkdirError(f"{path}: damaged; tune into this directory again to rewrite it") from error
    return arch, tasks


def best_trials(workdir: Path, objective: str) -> list[tuple[str, Workload, Arch, Trial]]:
    """Per task of a work directory, the trial that measured best; tasks without one are left out.

    Raises:
        WorkdirError: The directory was not filled by ``tune``, or a file in it is damaged.
    """
    arch, tasks = load_workloads(workdir)
    trials = read_log(workdir / LOG_NAME).trials
    found = []
    for name, (key, workload) in tasks.items():
        measured = [trial for trial in trials if trial.task == key and trial.cost is not None]
        if measured:
            best = min(measured, key=lambda trial: _score(trial, objective))
            found.append((name, workload, arch, best))
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
