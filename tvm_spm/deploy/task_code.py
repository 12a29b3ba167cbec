"""The scheduled code of one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tvm

from schedules import layer
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.mapping import Mapping

if TYPE_CHECKING:
    from tvm_spm.frontend.tir.nest import TirNest


def make_schedule(func: tvm.tirx.PrimFunc, nest: TirNest | None, mapping: Mapping) -> tvm.s_tir.Schedule | str:
    """A schedule, or why there is none."""
    if nest is None:
        return "not a multiply-accumulate nest"
    rejection = layer.refuse(nest.workload, mapping)
    if rejection is not None:
        return str(rejection)
    try:
        made = layer.schedule(func, nest, mapping)
    except ScheduleError as error:
        return str(error)
    except TVM_ERRORS as error:
        return f"TVM cannot make its code: {first_line(error)}"
    difference = layer.check_timed_is_executed(made.mod["main"], nest, mapping)
    return made if difference is None else f"the code does not do what was timed: {difference}"
