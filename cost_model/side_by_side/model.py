"""When layers and groups that run at the same time have finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_model.fused.cost import group_work, orders_of
from cost_model.fused.flat import flatten
from cost_model.fused.queues import Orders, State, queue_up
from cost_model.fused.state import LOAD_FIELDS, STAGE_FIELDS
from cost_model.nest import NEST_FIELDS
from cost_model.problem import PROBLEM_FIELDS, Ints, problem_of
from cost_model.side_by_side.engine import (
    FINISHED,
    GROUP,
    LAYER,
    MAC_CYCLES,
    OWNER_FIELDS,
    PASS_CYCLES,
    PLACE,
    RESULT_FIELDS,
    GroupRuns,
    LayerRuns,
    run_together,
)
from cost_model.simulator.log import new_log
from cost_model.simulator.state import CORE_FIELDS, ODOMETER_FIELDS
from tvm_spm.arch import Arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One layer or one group, and how it runs on cores of its own.

    Attributes:
        work: A layer, or layers that run as one.
        mapping: Of the layer, or of the group.
    """

    work: Workload | Group
    mapping: Mapping | GroupMapping

    @property
    def num_cores(self) -> int:
        """Cores in use."""
        return self.mapping.num_cores if isinstance(self.mapping, GroupMapping) else self.mapping.cores.product()


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnd:
    """When a job has finished, and what its core that finishes last did until then.

    Attributes:
        cycles: From the launch of all jobs on.
        pass_cycles: Cycles in which the array works, its networks included.
        compute_cycles: Of them, cycles in which PEs multiply or the vector unit works on a group.
    """

    cycles: int
    pass_cycles: int
    compute_cycles: int


def finish_together(arch: Arch, jobs: Sequence[Job]) -> tuple[JobEnd, ...]:
    """When each of several jobs has finished that are launched at once.

    Cores are numbered job by job; of requests for a DRAM channel at the same time, that of the lower core comes first.

    Args:
        arch: The accelerator; it has no open pages.
        jobs: Mappings are legal, and their cores together no more than there are; not checked again here.
    """
    log, launch_cycles = new_log(), arch.cores.launch_cycles
    num_cores = sum(job.num_cores for job in jobs)
    owners, room = np.full((num_cores, OWNER_FIELDS), -1, np.int64), np.zeros((num_cores, RESULT_FIELDS), np.int64)
    layers = [(job.work, job.mapping) for job in jobs if isinstance(job.work, Workload)]
    problems = [problem_of(work, arch) for work, _ in layers]
    layer_runs = LayerRuns(
        problems=np.concatenate([np.zeros(0, PROBLEM_FIELDS), *problems]),
        batch=encode([mapping for _, mapping in layers if isinstance(mapping, Mapping)]),
        nests=np.zeros(len(layers), NEST_FIELDS), odometers=np.zeros(len(layers), ODOMETER_FIELDS),
        cores=np.zeros(num_cores, CORE_FIELDS),
    )  # fmt: skip
    groups = _Groups(arch)
    first = layer = 0
    for job in jobs:
        own = owners[first : first + job.num_cores]
        if isinstance(job.work, Workload):
            own[:, LAYER], own[:, PLACE] = layer, range(job.num_cores)
            layer += 1
        else:
            assert isinstance(job.mapping, GroupMapping)
            own[:, GROUP], own[:, PLACE] = groups.add(job.work, job.mapping, room[first : first + job.num_cores])
        first += job.num_cores
    run_together(owners, layer_runs, groups.runs(num_cores), launch_cycles, log, room)
    return _ends(jobs, room)


def _ends(jobs: Sequence[Job], room: Ints) -> tuple[JobEnd, ...]:
    found, first = [], 0
    for job in jobs:
        rows = room[first : first + job.num_cores]
        last = rows[int(np.argmax(rows[:, FINISHED]))].tolist()
        found.append(JobEnd(cycles=last[FINISHED], pass_cycles=last[PASS_CYCLES], compute_cycles=last[MAC_CYCLES]))
        first += job.num_cores
    return tuple(found)


class _Groups:
    """Orders of the cores of all groups, one group behind the other."""

    def __init__(self, arch: Arch) -> None:
        self._arch = arch
        self._kinds: list[Orders] = []
        self._kind: list[int] = []
        self._depth: list[int] = []

    def add(self, group: Group, mapping: GroupMapping, room: Ints) -> tuple[int, range]:
        """Add a group; sets what its cores compute, and returns its number and its places among all cores."""
        work = group_work(group, flatten(group), self._arch, mapping)
        kinds = [orders_of(walk, record) for walk, record in zip(work.walks, work.records, strict=True)]
        for row, kind in zip(room, work.kind.tolist(), strict=True):
            _, row[PASS_CYCLES], row[MAC_CYCLES] = kinds[kind]
        first = len(self._kind)
        self._kind += [len(self._kinds) + kind for kind in work.kind.tolist()]
        self._kinds += [orders for orders, _, _ in kinds]
        self._depth.append(int(work.double))
        return len(self._depth) - 1, range(first, len(self._kind))

    def runs(self, num_cores: int) -> GroupRuns:
        """Everything for the engine, with channels for so many cores."""
        if self._kinds:
            orders, spans, state = queue_up(self._arch, self._kinds, np.array(self._kind, np.int64))
        else:
            orders = Orders(np.zeros((0, STAGE_FIELDS), np.int64), np.zeros((0, LOAD_FIELDS), np.int64), _NOTHING)
            spans, state = (
                np.zeros((0, 3), np.int64),
                State(*(np.zeros((0,) * rank, np.int64) for rank in (2, 3, 1, 1))),
            )
        channels = min(self._arch.levels.DRAM.channels, num_cores)
        free = np.full(channels, self._arch.cores.launch_cycles, np.int64)
        return GroupRuns(orders, spans, np.array(self._depth, np.int64), state._replace(free=free))


_NOTHING = np.zeros(0, np.int64)
