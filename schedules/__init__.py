"""From a Mapping to a TIR schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tvm_spm.errors import SpmError

if TYPE_CHECKING:
    from tvm import s_tir, tirx

    from schedules.nest import Nest as Nest
    from tvm_spm.mapping import Mapping
    from tvm_spm.rejection import Rejection
    from tvm_spm.workload import Workload


class ScheduleError(SpmError):
    """A function that no template can turn into a schedule, although its workload is understood."""


class ScheduleTemplate(Protocol):
    """Turns mappings of one kind of workload into schedules."""

    def schedule(self, func: tirx.PrimFunc, nest: Nest, mapping: Mapping) -> s_tir.Schedule:
        """Rewrite a function so that it runs as a mapping says; the function itself stays as it is.

        Args:
            nest: Of ``func``, as ``read_nest`` gives it.
            mapping: Legal for the nest's workload, and not refused.

        Raises:
            ScheduleError: The mapping is refused, or a block behind the sum cannot be merged into the last one.
        """
        ...

    def refuse(self, workload: Workload, mapping: Mapping) -> Rejection | None:
        """Why no schedule can be generated for a mapping, or ``None``; a legal one is never refused."""
        ...


def template_for(workload: Workload) -> ScheduleTemplate:
    """The template of a workload's kind; grouped and depthwise convolutions are convolutions."""
    from schedules.conv2d import Conv2dTemplate
    from schedules.matmul import MatmulTemplate

    templates: dict[str, type[ScheduleTemplate]] = {"conv2d": Conv2dTemplate, "matmul": MatmulTemplate}
    return templates[workload.kind]()


def schedule(func: tirx.PrimFunc, nest: Nest, mapping: Mapping) -> s_tir.Schedule:
    """``template_for(nest.workload).schedule(...)``."""
    return template_for(nest.workload).schedule(func, nest, mapping)


def refuse(workload: Workload, mapping: Mapping) -> Rejection | None:
    """``template_for(workload).refuse(...)``."""
    return template_for(workload).refuse(workload, mapping)


def check_timed_is_executed(func: tirx.PrimFunc, nest: Nest, mapping: Mapping) -> str | None:
    """``schedules.program.check_timed_is_executed``."""
    from schedules.program import check_timed_is_executed

    return check_timed_is_executed(func, nest, mapping)
