"""Matrix products, batched ones included; the copy to SPM also reads an input that another block only rearranges."""

from __future__ import annotations

from tvm import s_tir, tirx

from schedules.nest import Nest
from schedules.template import refuse_spill, schedule_nest
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.workload import Workload


class MatmulTemplate:
    """A matrix product with its epilogue behind."""

    def schedule(self, func: tirx.PrimFunc, nest: Nest, mapping: Mapping) -> s_tir.Schedule:
        """See ``ScheduleTemplate``."""
        return schedule_nest(func, nest, mapping)

    def refuse(self, workload: Workload, mapping: Mapping) -> Rejection | None:
        """See ``ScheduleTemplate``."""
        return refuse_spill(workload, mapping)
