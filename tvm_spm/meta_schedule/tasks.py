"""What MetaSchedule's tasks are to the accelerator: a nest with a map space, vector work, or nothing it can run."""

from __future__ import annotations

from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from schedules import layer
from tvm_spm.arch import Arch
from tvm_spm.errors import ModelError, NoMappingError, ScheduleError
from tvm_spm.frontend.extract import understand
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.mapping import Mapping
from tvm_spm.space.countable import require_countable
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import VectorWork

MAPPING = "spm.mapping"
"""Annotation of a function's outermost block: the mapping that its code is, or is to be, scheduled by."""

TASK = "spm.task"
"""Annotation beside it: the key of the task that the mapping is of."""

_KEY_BITS = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NestTask:
    """A multiply-accumulate nest, which is scheduled by mappings.

    Attributes:
        key: Names it; of equal functions the same in every process.
        mod: The unscheduled function, alone in a module.
        nest: Of the function.
        space: The mappings to choose from.
        default: The one of an untuned network.
    """

    key: str
    mod: tvm.IRModule
    nest: TirNest
    space: MapSpace
    default: Mapping

    def sketch(self, mapping: Mapping) -> s_tir.Schedule:
        """A schedule that says by which mapping it is to be realised, and does nothing yet."""
        sch = s_tir.Schedule(self.mod)
        root = sch.get_sblock("root")
        sch.annotate(root, TASK, self.key)
        sch.annotate(root, MAPPING, mapping.line())
        return sch

    def realised(self, mapping: Mapping) -> s_tir.Schedule | str:
        """The schedule of a mapping, or why TVM cannot make it."""
        sch = self.sketch(mapping)
        sch.enter_postproc()
        return realise(sch, self, mapping) or sch


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorTask:
    """Work of the vector unit, about which there is nothing to choose.

    Attributes:
        key: Names it.
        mod: The function, alone in a module.
        work: What it moves and computes.
    """

    key: str
    mod: tvm.IRModule
    work: VectorWork


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HostTask:
    """A function that stays on the host.

    Attributes:
        key: Names it.
        mod: The function, alone in a module.
        reason: Why.
    """

    key: str
    mod: tvm.IRModule
    reason: str


TirTask = NestTask | VectorTask | HostTask


class TaskTable:
    """The tasks of one accelerator, each understood once.

    Args:
        arch: The accelerator.
    """

    def __init__(self, arch: Arch) -> None:
        self.arch = arch
        self._tasks: dict[str, TirTask] = {}

    def of(self, mod: tvm.IRModule) -> TirTask:
        """The task of a module with one unscheduled function, or of what was scheduled from one.

        Raises:
            ModelError: The module carries a mapping of a task that is not in this table.
        """
        key = annotation_of(mod, TASK)
        if key is not None:
            return self.keyed(key)
        key = f"{tvm_ffi.structural_hash(_only_function(mod)) & _KEY_BITS:016x}"
        if key not in self._tasks:
            self._tasks[key] = _understood(mod, self.arch, key)
        return self._tasks[key]

    def keyed(self, key: str) -> TirTask:
        """The task of a key.

        Raises:
            ModelError: It is not in this table.
        """
        if key not in self._tasks:
            raise ModelError(
                f"the function carries a mapping of task {key}, which these parts of MetaSchedule have not seen: take "
                "space, strategy, builder, runner and cost model from one call of tvm_spm.meta_schedule.parts"
            )
        return self._tasks[key]

    def mapped(self, mod: tvm.IRModule) -> NestTask | None:
        """The task of a module, if it is one with mappings."""
        task = self.of(mod)
        return task if isinstance(task, NestTask) else None


def realise(sch: s_tir.Schedule, task: NestTask, mapping: Mapping) -> str:
    """Schedule what is a sketch so far; returns why that cannot be done, or nothing."""
    try:
        layer.rewrite(sch, task.nest, mapping)
    except ScheduleError as error:
        return str(error)
    except TVM_ERRORS as error:
        return f"TVM cannot make its code: {first_line(error)}"
    return ""


def mapping_of(mod: tvm.IRModule) -> Mapping | None:
    """The mapping that a function carries, if it carries one.

    Raises:
        MappingError: It carries another text.
    """
    text = annotation_of(mod, MAPPING)
    return None if text is None else Mapping.parse(text)


def annotation_of(mod: tvm.IRModule, name: str) -> str | None:
    """What the outermost block of the only function is annotated with."""
    body = _only_function(mod).body
    if not isinstance(body, s_tir.SBlockRealize):
        return None
    found = body.block.annotations.get(name, None)
    return None if found is None else str(found)


def _only_function(mod: tvm.IRModule) -> tirx.PrimFunc:
    (func,) = mod.functions.values()
    return func


def _understood(mod: tvm.IRModule, arch: Arch, key: str) -> TirTask:
    nest = understand(_only_function(mod), "task")
    if isinstance(nest, str):
        return HostTask(key=key, mod=mod, reason=nest)
    if isinstance(nest, VectorWork):
        return VectorTask(key=key, mod=mod, work=nest)
    space = MapSpace(workload=nest.workload, arch=arch)
    try:
        require_countable(nest.workload, arch)
        default = space.require_default()
    except NoMappingError as error:
        return HostTask(key=key, mod=mod, reason=str(error))
    task = NestTask(key=key, mod=mod, nest=nest, space=space, default=default)
    made = task.realised(default)
    return HostTask(key=key, mod=mod, reason=made) if isinstance(made, str) else task
