"""Streams of a tuned network in a directory, of a result or of what a work directory holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_spm.arch import Arch
from tvm_spm.deploy.programs import calls_of, drawn_weights, streams_of
from tvm_spm.errors import MappingError, NoMappingError, SpmError, WorkdirError, did_you_mean
from tvm_spm.frontend import extract, load_model
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.export import ExportedLayer, write_export
from tvm_spm.tuning.saved_run import SavedGroup, best_trials, load_plan, load_source
from tvm_spm.units import shown
from tvm_spm.workload import TaskGraph, Workload

if TYPE_CHECKING:
    import tvm

    from tvm_spm.stream.encode import LayerStreams
    from tvm_spm.tuning.result import TuningResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        directories: One per layer.
        left_out: Names of layers without streams, and why.
    """

    directories: tuple[Path, ...]
    left_out: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedTask:
    """A task and how it runs.

    Attributes:
        name: Of the task.
        workload: What it computes.
        mapping: How.
        functions: Of the network that are it.
        groups: Of the plan in which calls of it run as one with other layers.
    """

    name: str
    workload: Workload
    mapping: Mapping
    functions: tuple[str, ...]
    groups: tuple[str, ...] = ()


def export_tasks(mod: tvm.IRModule, arch: Arch, tasks: Sequence[MappedTask], directory: Path) -> Exported:
    """Write the streams of tasks; those that have none are named with the reason.

    Args:
        mod: The network as ``frontend.extract`` gives it.
        arch: The accelerator.
        tasks: To write.
        directory: Made if it is missing.

    Raises:
        NoMappingError: Not one has streams.
        WorkdirError: The directory cannot be written.
    """
    layers, left_out = [], []
    weights = drawn_weights(mod)
    for task in tasks:
        try:
            streams = streams_of(mod[task.functions[0]], arch, task.mapping)
        except (StreamError, MappingError) as error:
            left_out.append((task.name, str(error)))
            continue
        calls = calls_of(mod, task.functions, weights)
        layers.append(
            ExportedLayer(
                name=task.name, what=f"{task.workload} on {arch.name}", mapping=task.mapping.line(), streams=streams,
                constants=tuple(call.constants for call in calls), sources=tuple(call.sources for call in calls),
                groups=task.groups,
            )
        )  # fmt: skip
    if not layers:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out) or "it has no layer with a mapping"
        raise NoMappingError(f"nothing to export: {reasons}")
    return Exported(directories=write_export(directory, layers, left_out), left_out=tuple(left_out))


def export_workdir(
    workdir: Path, directory: Path, *, objective: Objective, task: str | None = None, model: str | None = None
) -> Exported:
    """Write the streams of what was tuned last into a work directory.

    Args:
        workdir: That ``tune`` filled.
        directory: Made if it is missing.
        objective: Whose best mappings are taken.
        task: Only this one; all if None.
        model: Where the network is; what the work directory says if None.

    Raises:
        NoMappingError: Not one task has streams.
        WorkdirError: The directory was not filled by ``tune`` or names no model.
        SpmError: No such task, or the model cannot be read or is another one.
    """
    found = best_trials(workdir, objective)
    if not found:
        raise WorkdirError(f"{workdir}: no measured trial; tune into this directory first")
    if task is not None and task not in [name for name, _, _, _ in found]:
        raise SpmError(f"unknown task {task!r}: {did_you_mean(task, [name for name, _, _, _ in found])}")
    source = load_source(workdir, model)
    extraction = extract(
        load_model(
            source.model, shapes=source.shapes, values=source.values, params=source.params, dtype=source.dtype,
            max_memory_bytes=source.max_memory_bytes,
        )
    )  # fmt: skip
    functions = dict(_functions(extraction.graph))
    tasks, arch, plan = [], found[0][2], load_plan(workdir)
    for name, workload, _, trial in found:
        if task not in (None, name):
            continue
        if functions.get(name, (None, ()))[0] != workload:
            raise SpmError(f"{source.model}: its task {name} is not the one that was tuned into {workdir}; tune again")
        names = functions[name][1]
        tasks.append(
            MappedTask(
                name=name, workload=workload, mapping=trial.mapping, functions=names, groups=groups_of(plan, names)
            )
        )  # fmt: skip
    return export_tasks(extraction.mod, arch, tasks, directory)


def mapped_tasks(result: TuningResult) -> dict[str, MappedTask]:
    """The tasks of a result that run on the array, by name."""
    found, plan = {}, result.plan_groups()
    for index, task in enumerate(result.graph.tasks):
        mapping = next((each.mapping for each in result.tasks if each.task == task), None)
        if mapping is not None and isinstance(task.work, Workload):
            functions = functions_of(result.graph, index)
            found[task.name] = MappedTask(
                name=task.name, workload=task.work, mapping=mapping, functions=functions,
                groups=groups_of(plan, functions),
            )  # fmt: skip
    return found


def program_of(result: TuningResult, task: str) -> LayerStreams:
    """What every core executes for one task of a result, run alone.

    Raises:
        SpmError: No such task, or it runs on the vector unit.
        StreamError: Instructions cannot express its mapping or what follows its sum.
    """
    mapped = mapped_tasks(result)
    if task not in mapped:
        if task in {each.task.name for each in result.tasks}:
            raise SpmError(f"task {task!r} runs on the vector unit and has no stream; {', '.join(mapped)} have")
        raise SpmError(f"unknown task {shown(task)}: {did_you_mean(str(task), mapped)}")
    return streams_of(result.reference[mapped[task].functions[0]], result.arch, mapped[task].mapping)


def functions_of(graph: TaskGraph, task: int) -> tuple[str, ...]:
    """Names of the functions of one task, in order of their calls."""
    return tuple(dict.fromkeys(node.name for node in graph.nodes if node.task == task))


def groups_of(plan: Sequence[SavedGroup], functions: Sequence[str]) -> tuple[str, ...]:
    """Groups of a plan in which calls of some functions run as one with other layers, as text."""
    return tuple(
        " > ".join(group.layers)
        for group in plan
        if len(group.layers) > 1 and any(_function_of(layer, functions) for layer in group.layers)
    )


def _function_of(layer: str, functions: Sequence[str]) -> bool:
    """Whether a layer, whose name was made unique, is a call of one of some functions."""
    made_unique = re.fullmatch(r"(.+)_\d+", layer)
    return layer in functions or (made_unique is not None and made_unique[1] in functions)


def _functions(graph: TaskGraph) -> Iterator[tuple[str, tuple[Workload, tuple[str, ...]]]]:
    for index, task in enumerate(graph.tasks):
        if isinstance(task.work, Workload):
            yield task.name, (task.work, functions_of(graph, index))
