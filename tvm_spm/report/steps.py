"""Inside a pass: steps of the PE array, what crosses the networks beside and between them, and why the array waits."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tvm_spm.report.nest import Index, Nest, PassShape, neighbour
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand

NETWORKS = ("NoC I", "NoC W", "NoC O in", "NoC O out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """One tile on its way between SPM and the PEs."""

    network: str
    operand: Operand
    cycles: int
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step and what follows it, ``repeats`` times.

    Attributes:
        repeats: Equal steps that this one stands for.
        mac_cycles: The array works.
        macs: Multiply-accumulates of all PEs.
        hidden: Crossings beside the work.
        hidden_cycles: Until work and crossings are done, the SPM port regarded.
        shown: Crossings after it, of operands with one RF buffer; those of O follow each other.
        shown_cycles: Until they are done.
    """

    repeats: int
    mac_cycles: int
    macs: int
    hidden: tuple[Crossing, ...]
    hidden_cycles: int
    shown: tuple[Crossing, ...]
    shown_cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    mac_cycles: int
    macs: int
    crossings: tuple[Crossing, ...]


class PassWalk:
    """The array's work on one pass: ``fill``, ``steps()``, the MAC pipeline and ``drain``."""

    def __init__(self, nest: Nest, shape: PassShape) -> None:
        """Look at a pass of ``shape``."""
        self._nest, self._shape, self._mapping = nest, shape, nest.mapping
        self._array = nest.mapping.array
        self._counts = tuple(ceil_div(shape.tile[name], self._array[name]) for name in nest.spm_loops)
        self._inside = tuple(max(0, at + 1 - len(nest.dram_loops)) for at in nest.rf_position)
        self._is_moving = tuple(at >= len(nest.dram_loops) for at in nest.rf_position)
        self._tiles: dict[tuple[int, ...], _Tile] = {}
        start = (0,) * len(self._counts)
        entering = self._tile(start).crossings
        group = [entering[i] for i in range(2) if shape.loads[i]]
        group += [entering[2]] if shape.enters and shape.summed else []
        self.fill = tuple(group)
        self.fill_cycles = max([self._port(group), *(crossing.cycles for crossing in group)])
        end = tuple(count - 1 for count in self._counts)
        self.drain = (self._tile(end).crossings[3],) if shape.leaves else ()
        self.drain_cycles = max([self._port(list(self.drain)), *(crossing.cycles for crossing in self.drain)])
        self.pipeline_cycles = nest.arch.pe.mac_stages - 1

    def steps(self, *, fold: bool) -> Iterator[Step]:
        """All steps in order; with ``fold``, equal neighbours are one step with repeats."""
        loops = [self._segments(loop) if fold else [(at, 1) for at in range(n)] for loop, n in enumerate(self._counts)]
        for chosen in itertools.product(*loops):
            yield self._step(tuple(at for at, _ in chosen), math.prod(repeats for _, repeats in chosen))

    def _segments(self, loop: int) -> list[tuple[int, int]]:
        """First index and length of each run of iterations that are alike, as are their neighbours."""
        count, name = self._counts[loop], self._nest.spm_loops[loop]
        is_ragged = self._shape.tile[name] % self._array[name] != 0
        run = max(1, count - (3 if is_ragged else 2))
        return [(0, 1), *([(1, run)] if count > 1 else []), *((at, 1) for at in range(1 + run, count))]

    def _step(self, index: Index, repeats: int) -> Step:
        tile = self._tile(index)
        after, before = neighbour(index, self._counts, 1), neighbour(index, self._counts, -1)
        hidden: list[Crossing] = []
        shown: list[Crossing] = []
        for operand in (Operand.I, Operand.W):
            if after is not None and self._enters(operand, after):
                group = hidden if self._nest.is_double("RF", operand) else shown
                group.append(self._tile(after).crossings[operand.value])
        turn: list[Crossing] = []
        returns = after is not None and self._enters(Operand.O, after) and self._is_summed(after)
        if self._nest.is_double("RF", Operand.O):
            if before is not None and self._leaves(before):
                hidden.append(self._tile(before).crossings[3])
            if after is not None and returns:
                hidden.append(self._tile(after).crossings[2])
        else:
            if after is not None and self._leaves(index):
                turn.append(tile.crossings[3])
            if after is not None and returns:
                turn.append(self._tile(after).crossings[2])
        return Step(
            repeats=repeats,
            mac_cycles=tile.mac_cycles,
            macs=tile.macs,
            hidden=tuple(hidden),
            hidden_cycles=max([tile.mac_cycles, self._port(hidden), *(crossing.cycles for crossing in hidden)]),
            shown=tuple(shown + turn),
            shown_cycles=max(
                [self._port(shown + turn), sum(one.cycles for one in turn), *(one.cycles for one in shown)]
            ),
        )

    def _enters(self, operand: Operand, index: Index) -> bool:
        """Whether an operand's tile changes before a step that is not the first."""
        return self._is_moving[operand.value] and not any(index[self._inside[operand.value] :])

    def _leaves(self, index: Index) -> bool:
        """Whether O leaves the RF after a step that is not the last."""
        inside = self._inside[Operand.O.value]
        return self._is_moving[Operand.O.value] and index[inside:] == tuple(n - 1 for n in self._counts[inside:])

    def _is_summed(self, index: Index) -> bool:
        loops = zip(self._nest.spm_loops, index, strict=True)
        return self._shape.summed or any(at > 0 and name in REDUCTION_DIMS for name, at in loops)

    def _tile(self, index: Index) -> _Tile:
        at = dict(zip(self._nest.spm_loops, index, strict=True))
        tile = self._shape.tile
        size = tuple(min(self._array[d], tile[d] - at.get(d, 0) * self._array[d]) for d in DIM_NAMES)
        if size not in self._tiles:
            self._tiles[size] = self._measure(Dims.of(size))
        return self._tiles[size]

    def _measure(self, size: Dims) -> _Tile:
        workload, arch = self._nest.workload, self._nest.arch
        rows, cols = (math.prod(along[d] for d in REDUCTION_DIMS) for along in (self._mapping.rows, self._mapping.cols))
        crossings = []
        for network, operand in zip(NETWORKS, (*Operand, Operand.O), strict=True):
            projection = workload.projection(operand)
            elems = projection.tile_elems(size)
            hops = rows - 1 + cols - 1 if network == "NoC O out" else 0
            crossings.append(
                Crossing(
                    network=network, operand=operand, cycles=math.ceil(elems / arch.noc.elems_per_cycle) + hops,
                    num_bytes=bits_to_bytes(elems * projection.elem_bits),
                )
            )  # fmt: skip
        mac_cycles = math.prod(min(piece, along) for piece, along in zip(self._mapping.rf, size, strict=True))
        return _Tile(mac_cycles=mac_cycles, macs=size.product(), crossings=tuple(crossings))

    def _port(self, group: list[Crossing]) -> int:
        rate = self._nest.arch.levels.SPM.bytes_per_cycle
        return 0 if rate is None else math.ceil(sum(crossing.num_bytes for crossing in group) / rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class PassAccount:
    """Where the cycles of one pass go.

    Attributes:
        cycles: All of them.
        reasons: Cycles by (reason, operand); they add up to ``cycles``.
        busy: Cycles by resource.
        macs: Multiply-accumulates.
    """

    cycles: int
    reasons: Counter[tuple[str, str]]
    busy: Counter[str]
    macs: int


def account_pass(nest: Nest, shape: PassShape) -> PassAccount:
    """Add up one pass."""
    walk = PassWalk(nest, shape)
    reasons: Counter[tuple[str, str]] = Counter()
    busy: Counter[str] = Counter()
    macs = 0
    reasons["fill", ""] += walk.fill_cycles
    reasons["drain", ""] += walk.drain_cycles
    reasons["MAC pipeline", ""] += walk.pipeline_cycles
    for crossing in (*walk.fill, *walk.drain):
        busy[crossing.network] += crossing.cycles
    for step in walk.steps(fold=True):
        macs += step.repeats * step.macs
        reasons["compute", ""] += step.repeats * step.mac_cycles
        busy["PE array"] += step.repeats * step.mac_cycles
        for crossing in (*step.hidden, *step.shown):
            busy[crossing.network] += step.repeats * crossing.cycles
        _charge(reasons, "network", step.hidden, step.mac_cycles, step.hidden_cycles, step.repeats)
        _charge(reasons, "RF buffer", step.shown, 0, step.shown_cycles, step.repeats)
    reasons = Counter({key: cycles for key, cycles in reasons.items() if cycles})
    return PassAccount(cycles=reasons.total(), reasons=reasons, busy=busy, macs=macs)


def _charge(
    reasons: Counter[tuple[str, str]], reason: str, group: tuple[Crossing, ...], since: int, until: int, repeats: int
) -> None:
    """Charge the wait between ``since`` and ``until`` to the slowest crossing, and what exceeds it to the SPM port."""
    if until <= since:
        return
    waits: Counter[str] = Counter()
    for crossing in group:
        name = crossing.network.removeprefix("NoC ")
        waits["O" if reason == "RF buffer" and crossing.operand is Operand.O else name] += crossing.cycles
    slowest, cycles = max(waits.items(), key=lambda item: item[1])
    if cycles > since:
        reasons[reason, slowest] += repeats * (cycles - since)
    if until > max(cycles, since):
        reasons["SPM port", ""] += repeats * (until - max(cycles, since))
