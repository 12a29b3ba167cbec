"""Times candidates of one group with the array mappings that suit their stages, and keeps the Pareto front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_model.fused.cost import GroupCost, price, walk_kinds
from cost_model.fused.flat import FlatGroup, Ints
from cost_model.fused.inner_mapper import InnerMapper, Shape
from cost_model.fused.kinds import kinds_of
from cost_model.fused.passes import RECORD_FIELDS
from cost_model.fused.state import (
    NUM_SHAPES,
    PEAK_BYTES,
    SHAPE_DIMS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    Walk,
    Work,
    most_stages,
    parts_of,
)
from tvm_spm.arch import Arch
from tvm_spm.fusion.candidates import Candidate
from tvm_spm.group import Group, GroupMapping
from tvm_spm.workload import Operand

MOST_STAGES = 16_384
"""Of one core; mappings with more are left out."""


@dataclass(frozen=True, slots=True)
class _Point:
    cycles: int
    energy_pj: float
    candidate: Candidate
    is_double: bool
    stages: tuple[tuple[int, Shape, Shape] | None, ...]
    cost: GroupCost


class Timer:
    """Times candidates of a group.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        mapper: For its stages.
        most_stages: Of one core; candidates with more are refused.
    """

    def __init__(
        self, group: Group, flat: FlatGroup, arch: Arch, mapper: InnerMapper, *,
        most_stages: int = MOST_STAGES,
    ) -> None:  # fmt: skip
        self._group, self._flat, self._arch, self._mapper = group, flat, arch, mapper
        self._most_stages = most_stages
        self._numbers = [
            -1 if (work := group.graph.layers[index].workload) is None else mapper.number(work)
            for index in group.layers
        ]
        self._points: list[_Point] = []
        self.num_timed = 0

    def time(self, candidate: Candidate, is_double: bool) -> str:
        """Time one candidate; returns the reason to refuse it, or an empty text."""
        blank = GroupMapping(
            cores=candidate.cores, tile=candidate.tile, kept=candidate.kept, k_tile=candidate.k_tile,
            inner=(None,) * self._flat.num_layers, double=is_double,
        )  # fmt: skip
        parts, kind = kinds_of(self._flat, parts_of(blank, self._group.sink_shape))
        if any(most_stages(self._flat, parts.row(number)) > self._most_stages for number in range(len(parts.chunk))):
            return "stages"
        walks = walk_kinds(self._flat, self._arch, parts)
        capacity_bytes = self._arch.levels.SPM.capacity_of(Operand.I)
        if any(walk.counters[PEAK_BYTES] > capacity_bytes for walk in walks):
            return "spm-capacity"
        stages = self._main_stages(walks, np.bincount(kind).tolist())
        for chosen in stages:
            if chosen is not None and not self._mapper.has_choice(chosen[0], chosen[1]):
                return "rf-capacity"
        records = [self._records(walk, stages) for walk in walks]
        reduction_pes = [1 if s is None else self._mapper.reduction_pes(s[0], s[1]) for s in stages]
        work = Work(reduction_pes, walks, records, kind, double=is_double)
        cost = price(self._group, self._flat, self._arch, work)
        self.num_timed += 1
        self._insert(_Point(cost.cost.cycles, cost.cost.energy_pj, candidate, is_double, stages, cost))
        return ""

    def _main_stages(self, walks: list[Walk], times: list[int]) -> tuple[tuple[int, Shape, Shape] | None, ...]:
        """Per layer: workload, the stage with most of the work, and the largest extents."""
        work: list[dict[Shape, int]] = [{} for _ in self._numbers]
        for walk, count in zip(walks, times, strict=True):
            for row in walk.shapes[: int(walk.counters[NUM_SHAPES])].tolist():
                shape, macs = tuple(row[SHAPE_DIMS:]), count * row[SHAPE_STAGES]
                for extent in shape:
                    macs *= extent
                found = work[row[SHAPE_LAYER]]
                found[shape] = found.get(shape, 0) + macs
        return tuple(
            (number, max(found, key=lambda s: (found[s], s)), tuple(map(max, zip(*found, strict=True))))
            if found else None
            for number, found in zip(self._numbers, work, strict=True)
        )  # fmt: skip

    def _records(self, walk: Walk, stages: tuple[tuple[int, Shape, Shape] | None, ...]) -> Ints:
        rows = walk.shapes[: int(walk.counters[NUM_SHAPES])].tolist()
        records = np.zeros((len(rows), RECORD_FIELDS), np.int64)
        for layer, chosen in enumerate(stages):
            own = [place for place, row in enumerate(rows) if row[SHAPE_LAYER] == layer]
            if chosen is not None and own:
                records[own] = self._mapper.records(chosen[0], chosen[1], [tuple(rows[p][SHAPE_DIMS:]) for p in own])
        return records

    def _insert(self, point: _Point) -> None:
        """Keep a point that no other beats, and drop those that it beats."""
        if any(p.cycles <= point.cycles and p.energy_pj <= point.energy_pj for p in self._points):
            return
        self._points = [
            p for p in self._points if p.cycles < point.cycles or p.energy_pj < point.energy_pj
        ] + [point]  # fmt: skip

    def front(self) -> tuple[tuple[GroupMapping, GroupCost], ...]:
        """By rising cycles."""
        return tuple(
            (self._mapping(point), point.cost) for point in sorted(self._points, key=lambda p: (p.cycles, p.energy_pj))
        )  # fmt: skip

    def _mapping(self, point: _Point) -> GroupMapping:
        candidate = point.candidate
        return GroupMapping(
            cores=candidate.cores, tile=candidate.tile, kept=candidate.kept, k_tile=candidate.k_tile,
            inner=tuple(None if stage is None else self._mapper.mapping(*stage) for stage in point.stages),
            double=point.is_double,
        )  # fmt: skip
