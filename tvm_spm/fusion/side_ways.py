"""How units run on fewer cores, and what several of them cost at the same time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from cost_model.fused import group_key
from cost_model.side_by_side import Job, finish_together
from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.errors import NoMappingError
from tvm_spm.exact import exact_search
from tvm_spm.fusion.network_plan import FusedGroup
from tvm_spm.fusion.proof import prove_group
from tvm_spm.fusion.search import core_counts
from tvm_spm.fusion.sides import SideBySide, Unit, Way, place_sides
from tvm_spm.graph import LayerGraph
from tvm_spm.group import GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case

SHARES = (1, 2, 4, 6)
"""Eighths of all cores that mappings of a unit are searched for, and at least one core."""

SEARCH_STEPS = 40
"""Of the exact search, for one layer on one number of cores."""

GROUP_STEPS = 100
"""Of the search of mappings of a group, for some numbers of cores."""

MOST_TIMED = 12
"""Ways to run some units at the same time that are timed, of those that promise most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """What a cycle and a unit of energy are worth to a network."""

    cycle: float
    pj: float

    def value(self, cycles: float, energy_pj: float) -> float:
        """Of a step."""
        return self.cycle * cycles + self.pj * energy_pj


class SideWays:
    """Mappings of units on fewer cores, searched when they are asked for, and costs of units that run together.

    Args:
        graph: The layers.
        arch: The accelerator.
        objective: Of the network.
        exchange: Near the plan.
        mappings: Per layer, how it runs by itself; None for vector work and on the host.
        should_stop: Once true, nothing more is searched.
    """

    def __init__(
        self, graph: LayerGraph, arch: Arch, objective: Objective, exchange: Exchange,
        mappings: Sequence[Mapping | None], should_stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._graph, self._arch, self._objective, self.exchange = graph, arch, objective, exchange
        self._mappings, self._should_stop = mappings, should_stop
        self._ways: dict[tuple[Hashable, Hashable], list[Way]] = {}
        self._together: dict[tuple[tuple[Hashable, Hashable], ...], list[SideBySide]] = {}
        self._refused: set[tuple[Hashable, Hashable]] = set()
        self.num_unsearched = 0
        """Sets of units that nobody timed, as there was no time."""

    @property
    def num_sets(self) -> int:
        """Different sets of units that were timed at the same time."""
        return sum(bool(found) for found in self._together.values())

    def counts(self) -> tuple[int, ...]:
        """Numbers of cores that a unit may have beside others."""
        return tuple(sorted({max(1, eighths * self._arch.cores.count // 8) for eighths in SHARES}))

    def refuse(self, unit: Unit, mapping: GroupMapping | AttentionMapping | Mapping) -> None:
        """Do without one way to run a unit and all equal ones."""
        what = self._what(unit)
        self._refused.add((what, mapping))
        self._together = {
            name: found for name, found in self._together.items() if what not in (each for each, _ in name)
        }  # fmt: skip

    def is_refused(self, unit: Unit) -> bool:
        """Whether a group cannot run by itself."""
        return unit.group is not None and (self._what(unit), unit.group.mapping) in self._refused

    def _what(self, unit: Unit) -> Hashable:
        """What equal units share, however they run."""
        return self._graph.layers[unit.layers[0]].workload if unit.group is None else group_key(unit.group.group)

    def _key(self, unit: Unit) -> tuple[Hashable, Hashable]:
        """Units of equal keys run alike alone, and so beside others."""
        how = self._mappings[unit.layers[0]] if unit.group is None else unit.group.mapping
        return self._what(unit), how

    def together(self, units: Sequence[Unit], serial: float) -> list[SideBySide]:
        """The timed ways to run units at the same time; none if they cannot or none promises less.

        Args:
            units: None of which reads anything of another.
            serial: What they are worth one after the other.
        """
        name = tuple(self._key(unit) for unit in units)
        if name not in self._together:
            if self._should_stop():
                self.num_unsearched += 1
                return []
            self._together[name] = self._time(units, serial)
        return [found.of(units) for found in self._together[name]]

    def _time(self, units: Sequence[Unit], serial: float) -> list[SideBySide]:
        value, promising = self.exchange.value, []
        for ways in itertools.product(*(self._ways_of(unit) for unit in units)):
            if sum(way.job.num_cores for way in ways) <= self._arch.cores.count:
                promise = value(self._least_cycles(ways), sum(way.cost.energy_pj for way in ways))
                promising.append((promise, ways))
        found: list[SideBySide] = []
        best = serial
        for promise, ways in sorted(promising, key=lambda pair: pair[0])[:MOST_TIMED]:
            if promise >= best:
                break
            found.append(place_sides(self._arch, ways, finish_together(self._arch, [way.job for way in ways])))
            best = min(best, value(found[-1].cost.cycles, found[-1].cost.energy_pj))
        return found

    def _least_cycles(self, ways: Sequence[Way]) -> int:
        """Units at the same time are no faster than the slowest alone, nor than all channels move their bytes."""
        arch = self._arch
        num_bytes = sum(sum(way.cost.dram_bytes) for way in ways)
        moving = int(num_bytes / (arch.dma_bytes_per_cycle * arch.levels.DRAM.channels))
        return max(arch.cores.launch_cycles + moving, *(way.cost.cycles for way in ways))

    def _ways_of(self, unit: Unit) -> list[Way]:
        """Different ways to run a unit on fewer than all cores.

        As it was planned or might have been, where that leaves cores; and on fewer cores than these and than the answer
        to the same question for more cores, as a search says.
        """
        key = self._key(unit)
        if key not in self._ways:
            known = [self._planned(unit), *(self._group_way(unit, group) for group in unit.others)]
            ways = [way for way in dict.fromkeys(known) if way.job.num_cores < self._arch.cores.count]
            fewest = min(way.job.num_cores for way in known)
            search = self._search_layer if unit.group is None else self._search_group
            for count in reversed(self.counts()):
                if count < fewest and (found := search(unit, count)) is not None:
                    ways.append(found)
                    fewest = found.job.num_cores
            self._ways[key] = ways
        return [way for way in self._ways[key] if (key[0], way.job.mapping) not in self._refused]

    def _planned(self, unit: Unit) -> Way:
        if unit.group is not None:
            return self._group_way(unit, unit.group)
        return self._layer_way(unit, self._mappings[unit.layers[0]])

    def _layer_way(self, unit: Unit, mapping: Mapping | None) -> Way:
        workload = self._graph.layers[unit.layers[0]].workload
        assert workload is not None
        assert mapping is not None
        return Way(unit, Job(work=workload, mapping=mapping), SimulatorModel().cost(workload, self._arch, mapping))

    def _group_way(self, unit: Unit, group: FusedGroup) -> Way:
        assert isinstance(group.mapping, GroupMapping)
        unit = Unit(layers=unit.layers, group=group)
        return Way(unit, Job(work=group.group, mapping=group.mapping), group.cost)

    def _search_layer(self, unit: Unit, num_cores: int) -> Way | None:
        workload, arch = self._graph.layers[unit.layers[0]].workload, self._arch
        assert workload is not None
        smaller = replace(arch, cores=replace(arch.cores, count=num_cores))
        case = Case(workload=workload, arch=smaller, objective=self._objective)
        try:
            found = exact_search(case, most_steps=SEARCH_STEPS, should_stop=self._should_stop)
        except NoMappingError:
            return None
        return self._layer_way(unit, found.mapping)

    def _search_group(self, unit: Unit, num_cores: int) -> Way | None:
        planned = unit.group
        assert planned is not None
        cores = [count for count in core_counts(self._arch) if count <= num_cores]
        found = prove_group(
            planned.group, self._arch, objective=self._objective.value, cores=cores, most_steps=GROUP_STEPS,
            should_stop=self._should_stop,
        )  # fmt: skip
        if found.mapping is None or found.cost is None:
            return None
        return self._group_way(unit, FusedGroup.of(planned.group, found.mapping, found.cost))
