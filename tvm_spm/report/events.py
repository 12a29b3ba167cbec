"""Writes down what a walk reports: events of every resource, and tiles that take room in SPM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm_spm.report.nest import Nest, Pass
from tvm_spm.report.steps import Crossing, PassWalk
from tvm_spm.report.transfers import Transfer
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Dims, Operand


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something takes from ``start`` to ``end``, in cycles.

    Attributes:
        start: First cycle.
        end: One beyond the last.
        resource: One of ``RESOURCES``, or ``DRAM channel`` and its number.
        core: The core that does it, or for which a channel works.
        label: Such as ``load W 3x64x16``.
        operand: ``I``, ``W``, ``O``, or empty.
        pass_number: The pass of that core that it belongs to.
        num_bytes: Moved; 0 for work.
        is_waiting: The resource only waits, for a DRAM channel.
    """

    start: int
    end: int
    resource: str
    core: int
    label: str
    operand: str
    pass_number: int
    num_bytes: int = 0
    is_waiting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """A tile takes room in a core's SPM, in whole banks, from ``start`` to ``end``."""

    start: int
    end: int
    core: int
    operand: str
    num_bytes: int


class Recorder:
    """Events until there are enough of them; nothing that starts before ``horizon`` is missing."""

    def __init__(self, nest: Nest, max_events: int) -> None:
        """Prepare for a run of ``nest``."""
        self._nest, self._max_events = nest, max_events
        self.events: list[Event] = []
        self.horizon: int | None = None
        self._open: dict[tuple[int, Operand], list[Residency]] = {}
        self._closed: list[Residency] = []
        self._entered: dict[tuple[int, Operand], int] = {}
        self._outputs_left: dict[int, bool] = {}

    def should_stop(self, time: int) -> bool:
        """Whether a run that has come to ``time`` need not go on."""
        if len(self.events) >= self._max_events and time > self._nest.arch.cores.launch_cycles:
            self._end_at(time)
        return self.horizon is not None and time >= self.horizon

    def residencies(self, cycles: int) -> Iterator[Residency]:
        """All tiles that come before ``cycles``; those that stay end there."""
        still = [tile for tiles in self._open.values() for tile in tiles]
        for tile in self._closed + still:
            if tile.start < cycles:
                yield replace(tile, end=min(tile.end, cycles) if tile.end else cycles)

    def on_transfer(self, core: int, channel: int, transfer: Transfer, request: int, grant: int) -> None:
        """Events of the DMA engine, its channel and the vector unit; room for what comes, and after what went."""
        label = transfer.label
        event = Event(
            start=request, end=grant, resource="DMA", core=core, label=f"wait for a channel: {label}",
            operand=transfer.operand.name, pass_number=transfer.pass_number, is_waiting=True,
        )  # fmt: skip
        moved, finished = grant + transfer.channel_cycles, grant + transfer.vector_cycles
        self._add(event)
        event = replace(event, start=grant, is_waiting=False, num_bytes=transfer.num_bytes)
        self._add(replace(event, end=grant + transfer.engine_cycles, label=label))
        self._add(replace(event, end=moved, resource=f"DRAM channel {channel}", label=f"{label}, core {core}"))
        self._add(replace(event, end=finished, resource="vector unit", label=f"epilogue of {label}", num_bytes=0))
        if transfer.kind in ("store", "spill"):
            self._leave(core, Operand.O, grant + transfer.engine_cycles)
        else:
            self._enter(core, transfer.operand, transfer.pass_number, transfer.tile, request)

    def on_pass(self, core: int, one: Pass, following: Pass | None, start: int, end: int) -> None:
        """Events of the array and its networks; room for new outputs, and after inputs that are not used again."""
        if self.horizon is not None and start >= self.horizon:
            return
        new: set[Operand] = {Operand.I, Operand.W} & set(one.loads)
        if self._outputs_left.get(core, True):
            new.add(Operand.O)
        for operand in new:
            if self._entered.get((core, operand)) != one.number:
                self._enter(core, operand, one.number, one.shape.tile, start)
        self._outputs_left[core] = one.leaves
        for event in self._array_events(core, one, start):
            self._add(event)
            if len(self.events) > 2 * self._max_events:
                self._end_at(event.start)
                break
        for operand in (Operand.I, Operand.W):
            if following is None or operand in following.loads:
                self._leave(core, operand, end)

    def _array_events(self, core: int, one: Pass, start: int) -> Iterator[Event]:
        walk = PassWalk(self._nest, one.shape)
        array = Event(
            start=0, end=0, resource="PE array", core=core, label="multiply", operand="", pass_number=one.number
        )
        time = start
        yield from _crossing_events(array, walk.fill, time)
        time += walk.fill_cycles
        for step in walk.steps(fold=False):
            yield replace(array, start=time, end=time + step.mac_cycles, label=f"{step.macs:,} MACs")
            yield from _crossing_events(array, step.hidden, time)
            time += step.hidden_cycles
            yield from _crossing_events(array, step.shown, time, in_turn=True)
            time += step.shown_cycles
        yield replace(array, start=time, end=time + walk.pipeline_cycles, label="MAC pipeline")
        time += walk.pipeline_cycles
        yield from _crossing_events(array, walk.drain, time)

    def _add(self, event: Event) -> None:
        if event.end > event.start:
            self.events.append(event)

    def _end_at(self, time: int) -> None:
        self.horizon = time if self.horizon is None else min(time, self.horizon)

    def _enter(self, core: int, operand: Operand, number: int, tile: Dims, start: int) -> None:
        workload, bank = self._nest.workload, self._nest.arch.levels.SPM.bank_bytes
        projection = workload.projection(operand)
        bits = max(projection.elem_bits, workload.out_bits) if operand is Operand.O else projection.elem_bits
        num_bytes = ceil_div(bits_to_bytes(projection.tile_elems(tile) * bits), bank) * bank
        self._entered[core, operand] = number
        self._open.setdefault((core, operand), []).append(
            Residency(start=start, end=0, core=core, operand=operand.name, num_bytes=num_bytes)
        )

    def _leave(self, core: int, operand: Operand, end: int) -> None:
        self._closed.append(replace(self._open[core, operand].pop(0), end=end))


def _crossing_events(
    like: Event, crossings: tuple[Crossing, ...], start: int, *, in_turn: bool = False
) -> Iterator[Event]:
    """Crossings that start together, but those of O with ``in_turn``: the old outputs leave, then others come."""
    time = {crossing.operand: start for crossing in crossings}
    for crossing in crossings:
        begin = time[crossing.operand]
        verb = "take" if crossing.network == "NoC O out" else "give"
        yield replace(
            like, start=begin, end=begin + crossing.cycles, resource=crossing.network, operand=crossing.operand.name,
            label=f"{verb} {crossing.operand.name} {crossing.num_bytes:,} B", num_bytes=crossing.num_bytes,
        )  # fmt: skip
        if in_turn:
            time[crossing.operand] += crossing.cycles
