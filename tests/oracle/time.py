"""Cycles of one pass and of one core, from the kinds of steps and passes that occur."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from tests.oracle.boxes import clipped_box, num_elems, num_parts, spanned_elems, whole_bytes
from tests.oracle.reuse import Levels, LoopNest, box_transfer, loop_nest
from tests.oracle.slots import Index, Slot, index_runs, representative_slots
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Operand, Projection, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class PassKind:
    """All that the time of a pass depends on.

    Attributes:
        tile: Elements in SPM.
        enters: Operands whose RF tile may change at the first step, because the DRAM loops inside allow it.
        leaves: Whether outputs leave RF after the last step.
        accumulates: Whether a DRAM reduction loop is beyond its first index, so that outputs start as partial sums.
    """

    tile: Dims
    enters: tuple[bool, bool, bool]
    leaves: bool
    accumulates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Cycles of one step: its MACs, per operand the array tile's way in, outputs' way out; and elements per dim."""

    compute_cycles: int
    in_cycles: tuple[int, ...]
    out_cycles: int
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTime:
    """Cycles of one pass, and those of them in which the PEs multiply."""

    cycles: int
    compute_cycles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreTime:
    """Timeline of one core on its own.

    ``channel_cycles`` hold a DRAM channel; ``engine_cycles`` keep the DMA engine, longer where the vector unit is
    slower than the store. ``prologue_cycles`` pass before the first pass, ``epilogue_cycles`` after the last.
    """

    cycles: int
    compute_cycles: int
    pass_cycles: int
    engine_cycles: int
    channel_cycles: int
    prologue_cycles: int
    epilogue_cycles: int


@dataclass(frozen=True, kw_only=True)
class TimeModel:
    """Times of one mapping; remembers the kinds of passes and transfers it has seen."""

    workload: Workload
    arch: Arch
    mapping: Mapping

    @cached_property
    def levels(self) -> Levels:
        """The mapping by memory level."""
        return self.mapping.levels(self.workload.dims)

    @cached_property
    def nest(self) -> LoopNest:
        """The loops that iterate."""
        return loop_nest(self.levels)

    @cached_property
    def positions(self) -> tuple[tuple[int, ...], ...]:
        """Per level, load positions of I, W, O in its memory, counted over the loops of all levels."""
        projections = [self.workload.projection(x) for x in Operand]
        return tuple(tuple(self.nest.load_position(p, memory) for p in projections) for memory in range(3))

    @cached_property
    def _pass_times(self) -> dict[PassKind, PassTime]:
        return {}

    @cached_property
    def _transfers(self) -> dict[tuple[Projection, tuple[int, ...]], int]:
        return {}

    def pass_time(self, kind: PassKind) -> PassTime:
        """Time of one pass."""
        if kind not in self._pass_times:
            self._pass_times[kind] = _PassWalk(model=self, kind=kind).time()
        return self._pass_times[kind]

    @cached_property
    def _step_times(self) -> dict[tuple[int, ...], StepTime]:
        return {}

    def step_time(self, sizes: tuple[int, ...]) -> StepTime:
        """Time of one step over an array tile of these sizes."""
        if sizes not in self._step_times:
            tile, mapping = Dims.of(sizes), self.mapping
            projections = [self.workload.projection(x) for x in Operand]
            elems = [spanned_elems(projection.axes, tile) for projection in projections]
            rate, port = self.arch.noc.elems_per_cycle, self.arch.levels.SPM.bytes_per_cycle or math.inf
            in_cycles = tuple(
                max(math.ceil(n / rate), math.ceil(whole_bytes(n * p.elem_bits) / port))
                for n, p in zip(elems, projections, strict=True)
            )
            hops = sum(math.prod(axis[name] for name in REDUCTION_DIMS) - 1 for axis in (mapping.rows, mapping.cols))
            self._step_times[sizes] = StepTime(
                compute_cycles=tile.combine(mapping.rf, min).product(), in_cycles=in_cycles,
                out_cycles=in_cycles[Operand.O.value] + hops, sizes=sizes,
            )  # fmt: skip
        return self._step_times[sizes]

    def transfer_cycles(self, projection: Projection, first: dict[str, int], tile: Dims) -> int:
        """DMA cycles of one tile between DRAM and SPM; nothing for a tile wholly in padding."""
        box = tuple(stop - start for start, stop in clipped_box(projection.axes, first, tile))
        key = projection, box
        if key not in self._transfers:
            self._transfers[key] = box_transfer(projection, box, self.arch)[0]
        return self._transfers[key]


@dataclass(frozen=True, kw_only=True)
class _PassWalk:
    """Steps of one pass."""

    model: TimeModel
    kind: PassKind

    @cached_property
    def loops(self) -> tuple[str, ...]:
        return self.model.nest.dims(1)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        array = self.model.mapping.array
        return tuple(num_parts(self.kind.tile[name], array[name]) for name in self.loops)

    def time(self) -> PassTime:
        cycles = self._fill_cycles() + self.model.arch.pe.mac_stages - 1
        compute = 0
        runs = []
        for name, count in zip(self.loops, self.counts, strict=True):
            cuts = [count - 1] if self.kind.tile[name] % self.model.mapping.array[name] else []
            runs.append(index_runs(count, [1, *cuts] if name in REDUCTION_DIMS else cuts))
        for slot in representative_slots(runs):
            cycles += slot.weight * self._slot_cycles(slot)
            compute += slot.weight * self._step(slot.at).compute_cycles
            if slot.after is None and self._leaves(slot.at):
                cycles += self._step(slot.at).out_cycles
        return PassTime(cycles=cycles, compute_cycles=compute)

    def _fill_cycles(self) -> int:
        first = (0,) * len(self.loops)
        moved = [x for x in (Operand.I, Operand.W) if self._enters(x, first)]
        return self._together([*moved, *([Operand.O] if self._reads_back(first) else [])], first)

    def _together(self, operands: list[Operand], step: Index) -> int:
        """Cycles until all are across; a port with a limit serves one after the other."""
        cycles = [self._step(step).in_cycles[x.value] for x in operands]
        return max(cycles, default=0) if self._is_alone else sum(cycles)

    @property
    def _is_alone(self) -> bool:
        return self.model.arch.levels.SPM.bytes_per_cycle is None

    def _slot_cycles(self, slot: Slot) -> int:
        """One step, and what must move before the next: hidden behind it if double-buffered, else after it."""
        doubled, after = self.model.levels[2].double, slot.after
        loads = [x for x in (Operand.I, Operand.W) if after is not None and self._enters(x, after)]
        beside = self._together([x for x in loads if x in doubled], after or slot.at)
        behind = self._together([x for x in loads if x not in doubled], after or slot.at)
        hides_out = Operand.O in doubled and slot.before is not None and self._swaps(slot.before, slot.at)
        hides_in = Operand.O in doubled and after is not None and self._swaps(slot.at, after)
        hidden = max(self._step(slot.at).compute_cycles, beside)
        gone = 0
        if hides_out and self._leaves(slot.before):
            gone = self._empty(beside) + self._step(slot.before).out_cycles
            hidden = max(hidden, gone)
        if hides_in and self._reads_back(after):
            begin = 0 if self._is_alone else beside
            if gone:
                follows = self._is_alone and not self._cross(slot.before, after)
                begin = self._empty(0) if follows else gone
            hidden = max(hidden, begin + self._step(after).in_cycles[Operand.O.value])
        if after is None or hides_in or not self._leaves(slot.at):
            return hidden + behind
        gone = self._empty(behind) + self._step(slot.at).out_cycles
        return hidden + max(behind, gone + self._reads_back(after) * self._step(after).in_cycles[Operand.O.value])

    def _empty(self, loaded: int) -> int:
        """When sums start to leave: the pipelines are empty, and a port with a limit has no loads left."""
        empty = self.model.arch.pe.mac_stages - 1
        return empty if self._is_alone else max(empty, loaded)

    def _swaps(self, step: Index, after: Index) -> bool:
        """Whether two steps work on different outputs."""
        pairs = zip(self.loops, step, after, strict=True)
        return any(a != b for name, a, b in pairs if name not in REDUCTION_DIMS)

    def _cross(self, step: Index, other: Index) -> bool:
        """Whether output tiles are longer one way and shorter another."""
        pairs = zip(DIM_NAMES, self._step(step).sizes, self._step(other).sizes, strict=True)
        signs = {(a > b) - (a < b) for name, a, b in pairs if name not in REDUCTION_DIMS}
        return {1, -1} <= signs

    def _inside(self, operand: Operand, step: Index) -> list[tuple[int, int]]:
        """(index, count) of the SPM loops strictly inside an operand's load position."""
        skip = max(0, self.model.positions[2][operand.value] + 1 - len(self.model.nest.dims(0)))
        return list(zip(step, self.counts, strict=True))[skip:]

    def _enters(self, operand: Operand, step: Index) -> bool:
        return self.kind.enters[operand.value] and all(index == 0 for index, _ in self._inside(operand, step))

    def _leaves(self, step: Index) -> bool:
        return self.kind.leaves and all(index == count - 1 for index, count in self._inside(Operand.O, step))

    def _reads_back(self, step: Index) -> bool:
        partial = self.kind.accumulates or any(
            index for name, index in zip(self.loops, step, strict=True) if name in REDUCTION_DIMS
        )
        return partial and self._enters(Operand.O, step)

    @cached_property
    def _steps(self) -> dict[Index, StepTime]:
        return {}

    def _step(self, step: Index) -> StepTime:
        """What one step takes."""
        if step not in self._steps:
            array, spm = self.model.mapping.array, self.kind.tile
            at = dict(zip(self.loops, step, strict=True))
            sizes = (min(array[name], spm[name] - at.get(name, 0) * array[name]) for name in DIM_NAMES)
            self._steps[step] = self.model.step_time(tuple(sizes))
        return self._steps[step]


@dataclass(frozen=True, kw_only=True)
class CoreWalk:
    """Passes of one core, which owns ``extent`` elements from ``first`` on along each dim."""

    model: TimeModel
    first: dict[str, int]
    extent: dict[str, int]

    @cached_property
    def loops(self) -> tuple[str, ...]:
        """DRAM loops, outer to inner."""
        return self.model.nest.dims(0)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Iterations of the loops on this core."""
        return tuple(num_parts(self.extent[name], self.model.mapping.spm[name]) for name in self.loops)

    def time(self) -> CoreTime:
        """Prologue, passes with the DMA work beside and behind them, and the last store."""
        doubled, launch = self.model.levels[1].double, self.model.arch.cores.launch_cycles
        first = (0,) * len(self.loops)
        prologue = sum(self._loads(first, operand) for operand in Operand)
        cycles = launch + prologue
        engine = channel = prologue
        compute = passes = epilogue = 0
        for slot in representative_slots(self._runs()):
            one = self.model.pass_time(self._kind(slot.at))
            store_channel, store_engine = self._store(slot.at)
            beside = behind = 0
            if slot.before is not None and Operand.O in doubled:
                beside += self._store(slot.before)[1]
            if Operand.O not in doubled:
                behind += store_engine
            if slot.after is not None:
                for operand in Operand:
                    load = self._loads(slot.after, operand)
                    beside, behind = (beside + load, behind) if operand in doubled else (beside, behind + load)
                    engine += slot.weight * load
                    channel += slot.weight * load
            else:
                epilogue = store_engine
                cycles += store_engine if Operand.O in doubled else 0
            cycles += slot.weight * (max(one.cycles, beside) + behind)
            compute += slot.weight * one.compute_cycles
            passes += slot.weight * one.cycles
            engine += slot.weight * store_engine
            channel += slot.weight * store_channel
        return CoreTime(
            cycles=cycles, compute_cycles=compute, pass_cycles=passes, engine_cycles=engine, channel_cycles=channel,
            prologue_cycles=prologue, epilogue_cycles=epilogue,
        )  # fmt: skip

    def _runs(self) -> list[tuple[range, ...]]:
        """Indices of each loop in runs in which all tiles are clipped alike and accumulate alike."""
        runs = []
        for name, count in zip(self.loops, self.counts, strict=True):
            cuts = {1, count - 1} if name in REDUCTION_DIMS else set()
            cuts |= clip_cuts(
                self.model.workload, name, first=self.first[name], extent=self.extent[name],
                tile=self.model.mapping.spm[name],
            )  # fmt: skip
            runs.append(index_runs(count, cuts))
        return runs

    @cached_property
    def _places(self) -> dict[Index, tuple[dict[str, int], Dims]]:
        return {}

    def _place(self, index: Index) -> tuple[dict[str, int], Dims]:
        """(first index per dim, tile) of one pass."""
        if index not in self._places:
            spm, at = self.model.mapping.spm, dict(zip(self.loops, index, strict=True))
            offset = {name: at.get(name, 0) * spm[name] for name in DIM_NAMES}
            tile = Dims.of([min(spm[name], self.extent[name] - offset[name]) for name in DIM_NAMES])
            self._places[index] = {name: self.first[name] + offset[name] for name in DIM_NAMES}, tile
        return self._places[index]

    def _at_first(self, position: int, index: Index) -> bool:
        return all(i == 0 for i in index[position + 1 :])

    def _at_last(self, position: int, index: Index) -> bool:
        return all(i == count - 1 for i, count in list(zip(index, self.counts, strict=True))[position + 1 :])

    def _reduction(self, index: Index) -> list[tuple[int, int]]:
        """(index, count) of the loops that are summed over."""
        found = zip(self.loops, index, self.counts, strict=True)
        return [(i, count) for name, i, count in found if name in REDUCTION_DIMS]

    def _kind(self, index: Index) -> PassKind:
        i, w, o = (self._at_first(position, index) for position in self.model.positions[2])
        return PassKind(
            tile=self._place(index)[1], enters=(i, w, o),
            leaves=self._at_last(self.model.positions[2][Operand.O.value], index),
            accumulates=any(i for i, _ in self._reduction(index)),
        )  # fmt: skip

    def _loads(self, index: Index, operand: Operand) -> int:
        """DMA cycles to load one operand before a pass."""
        if not self._at_first(self.model.positions[1][operand.value], index):
            return 0
        if operand is Operand.O and not any(i for i, _ in self._reduction(index)):
            return 0
        return self.model.transfer_cycles(self.model.workload.projection(operand), *self._place(index))

    def _store(self, index: Index) -> tuple[int, int]:
        """(channel cycles, engine cycles) to store outputs after a pass."""
        if not self._at_last(self.model.positions[1][Operand.O.value], index):
            return 0, 0
        workload, place = self.model.workload, self._place(index)
        if any(i < count - 1 for i, count in self._reduction(index)):
            cycles = self.model.transfer_cycles(workload.O, *place)
            return cycles, cycles
        cycles = self.model.transfer_cycles(workload.final_projection(), *place)
        elems = num_elems(clipped_box(workload.O.axes, *place))
        ops_cycles = math.ceil(elems * workload.epilogue.num_ops_per_elem / self.model.arch.vector.ops_per_cycle)
        extras_cycles = sum(self.model.transfer_cycles(extra, *place) for extra in workload.epilogue.extras)
        return extras_cycles + cycles, extras_cycles + max(cycles, ops_cycles)


def clip_cuts(workload: Workload, name: str, *, first: int, extent: int, tile: int) -> set[int]:
    """Indices in front of which the tiles of a dim change: in size, or in what padding they touch."""
    cuts: set[int] = set()
    count = num_parts(extent, tile)
    for projection in (workload.I, workload.W, workload.O, *workload.epilogue.extras):
        for axis in projection.axes:
            coefficient = dict(axis.terms).get(name)
            if coefficient is None:
                continue
            others = sum(c * (workload.dims[d] - 1) for d, c in axis.terms if d != name)
            inner = unclipped_tiles(axis, coefficient, others, first=first, extent=extent, tile=tile)
            cuts |= {*range(min(inner.start, count) + 1), *range(inner.stop, count)}
    return cuts


def unclipped_tiles(axis: Axis, coefficient: int, others: int, *, first: int, extent: int, tile: int) -> range:
    """Indices of the full tiles of ``[first, first + extent)`` that stay inside the tensor wherever the other dims are.

    Args:
        axis: The tensor's axis.
        coefficient: Of the dim that is cut.
        others: The farthest that the other dims of the axis reach.
        first: Loop index where the cut part begins.
        extent: Elements of the part.
        tile: Elements of a full tile.
    """
    low = max(0, _ceil_div(_ceil_div(-axis.offset, coefficient) - first, tile))
    elems_before_end = (axis.extent - 1 - axis.offset - others) // coefficient - first + 1
    return range(low, max(low, min(extent, elems_before_end) // tile))


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
