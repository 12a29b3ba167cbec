"""Layers and groups side by side, walked literally: every core of every job asks one list of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass

from tests import fused_reference, simulator_reference
from tests.oracle import levels
from tests.oracle.boxes import num_parts
from tvm_spm.arch import Arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Workload


@dataclass(slots=True)
class Running:
    """One core: what it asks for next, and what it is told when that is granted."""

    job: int
    process: Generator[object, int, int]
    answer: Callable[[object, int], tuple[int, int]]
    """Of a request and the cycle in which it is granted: until when the channel is held, and what the core is told."""
    request: object = None
    asks_at: int = 0
    end: int | None = None

    def resume(self, told: int | None) -> None:
        """Let the core go on until it asks again."""
        try:
            self.request = next(self.process) if told is None else self.process.send(told)
        except StopIteration as stop:
            self.end = stop.value
            return
        request = self.request
        self.asks_at = request.t if isinstance(request, simulator_reference.Request) else request[0]  # type: ignore[index]


def layer_cores(job: int, workload: Workload, arch: Arch, mapping: Mapping) -> list[Running]:
    """The cores of a layer."""
    walk, nest = simulator_reference.Walk(), simulator_reference.Nest(workload, arch, mapping)
    passes = [simulator_reference.core_passes(nest, *share, walk) for share in levels.shares(workload, mapping)]
    places = simulator_reference.tensor_places(workload, spills=True)

    def answer(request: object, grant: int) -> tuple[int, int]:
        assert isinstance(request, simulator_reference.Request)
        extras, held = request.extras_channel, request.channel
        return grant + extras + held, grant + extras + max(request.vector, held)

    return [
        Running(job, simulator_reference.core_process(nest, own, places, walk), answer) for own in passes
    ]  # fmt: skip


def group_cores(job: int, group: Group, arch: Arch, mapping: GroupMapping) -> list[Running]:
    """The cores of a group."""
    chunk = [num_parts(extent, parts) for extent, parts in zip(group.sink_shape, mapping.cores, strict=True)]
    found = []
    for index in itertools.product(*map(range, mapping.cores)):
        box = tuple(
            (k * c, min(e, (k + 1) * c)) for k, c, e in zip(index, chunk, group.sink_shape, strict=True)
        )  # fmt: skip
        core, totals = fused_reference.Core(group, arch, mapping, box), fused_reference.Totals()
        for stage in core.stages:
            fused_reference.time_stage(core, stage, totals)
        process = fused_reference.core_process(core, totals)
        found.append(Running(job, process, lambda request, grant: (grant + request[1], grant)))  # type: ignore[index]
    return found


def finish_together(arch: Arch, jobs: list[tuple[Workload | Group, Mapping | GroupMapping]]) -> list[int]:
    """When each job has finished."""
    cores: list[Running] = []
    for number, (work, mapping) in enumerate(jobs):
        if isinstance(work, Workload):
            assert isinstance(mapping, Mapping)
            cores += layer_cores(number, work, arch, mapping)
        else:
            assert isinstance(mapping, GroupMapping)
            cores += group_cores(number, work, arch, mapping)
    for core in cores:
        core.resume(None)
    free = [0] * arch.levels.DRAM.channels
    while any(core.end is None for core in cores):
        first = min((core.asks_at, number) for number, core in enumerate(cores) if core.end is None)[1]
        channel = free.index(min(free))
        grant = max(cores[first].asks_at, free[channel])
        free[channel], told = cores[first].answer(cores[first].request, grant)
        cores[first].resume(told)
    ends = [-math.inf] * len(jobs)
    for core in cores:
        assert core.end is not None
        ends[core.job] = max(ends[core.job], core.end)
    return [int(end) for end in ends]
