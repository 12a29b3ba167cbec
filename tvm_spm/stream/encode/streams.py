"""Streams of all cores: set-up, then slots of a pass and its transfers, in the order that the simulator times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality import require
from tvm_spm.stream.encode.passes import OuterLoops, TilePass, outer_loops, passes
from tvm_spm.stream.encode.places import Pattern, Place, moved, patterns, steps
from tvm_spm.stream.encode.setup import Buffers, Places, place_buffers, place_tensors, setups
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import (
    MOST_INSTRUCTIONS,
    End,
    Instruction,
    LoadTile,
    NestSetup,
    RunPass,
    StoreTile,
    Stream,
    StreamExtra,
    StreamHead,
    Sync,
    VectorStep,
)
from tvm_spm.stream.layout import LAYOUTS, require_fields
from tvm_spm.stream.memory import MemoryMap, memory_map
from tvm_spm.stream.vector import require_vector
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Operand, Workload

_O = Operand.O.value


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStreams:
    """One layer as streams.

    Attributes:
        streams: One per core.
        memory: Where its tensors lie, for all cores.
    """

    streams: tuple[Stream, ...]
    memory: MemoryMap


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What the passes of one core are made with.

    Attributes:
        number: Of the core.
        loops: Around its passes.
        array: Elements per dim that all PEs hold.
        in_spm: Per operand, whether array tiles of it change inside a pass.
        doubles: Per operand, whether SPM has two buffers for it.
        dtypes: Of I and W, of a sum, and of a finished output.
        places: Of all tensors.
        buffers: Of all tiles.
    """

    number: int
    loops: OuterLoops
    array: tuple[int, ...]
    in_spm: tuple[bool, ...]
    doubles: tuple[bool, ...]
    places: Places
    buffers: Buffers


def encode(workload: Workload, arch: Arch, mapping: Mapping, vector: tuple[VectorStep, ...] = ()) -> LayerStreams:
    """What every core executes for one layer.

    Args:
        workload: What is computed.
        arch: The accelerator.
        mapping: How.
        vector: The epilogue of the workload, step by step; empty if there is none.

    Raises:
        MappingError: The mapping is not legal.
        StreamError: Instructions cannot express it: names the field and its bound.
    """
    require(workload, arch, mapping)
    require_vector(workload, vector)
    mapping = mapping.canonical(workload)
    loops = [outer_loops(workload, mapping, core) for core in range(mapping.cores.product())]
    for number, each in enumerate(loops):
        if 2 * each.num_passes > MOST_INSTRUCTIONS:
            raise StreamError(
                f"{workload} on core {number}: {each.num_passes:,} passes, each of 2 or more instructions: a stream "
                f"has <= {MOST_INSTRUCTIONS:,} instructions; larger SPM tiles make fewer passes"
            )
    spills = any(each.spills for each in loops)
    memory = memory_map(workload, spills=spills)
    places = place_tensors(workload, mapping, memory, spills=spills)
    buffers = place_buffers(workload, arch, mapping)
    setup = tuple(setups(workload, mapping, places, vector, spills=spills))
    inner = mapping.spm_factors()
    in_spm = tuple(
        any(inner[d] > 1 and d in workload.projection(operand).relevant_dims for d in DIM_NAMES) for operand in Operand
    )
    streams = []
    for number, each in enumerate(loops):
        core = _Core(
            number=number, loops=each, array=mapping.array.as_tuple(), in_spm=in_spm,
            doubles=tuple(mapping.num_buffers("SPM", operand) == 2 for operand in Operand), places=places,
            buffers=buffers,
        )  # fmt: skip
        nest = setup[0]
        assert isinstance(nest, NestSetup)
        nest = replace(nest, num_passes=each.num_passes)
        head = StreamHead(
            core=number, num_cores=len(loops), arch=int(arch.sha256()[:8], 16), dram_bytes=memory.num_bytes,
            spm_bytes=buffers.spm_bytes, is_split=int(buffers.is_split), rf_bytes=nest.rf_bytes,
            buffer_bytes=buffers.extra_bytes,
        )  # fmt: skip
        body = tuple(chain((nest,), setup[1:], _body(core), (End(),)))
        for at, instruction in enumerate(body):
            layout = LAYOUTS[type(instruction)]
            require_fields(instruction, layout.fields, f"core {number}, instruction {at:,} ({layout.name})")
        streams.append(Stream(head=head, instructions=body))
    return LayerStreams(streams=tuple(streams), memory=memory)


def _body(core: _Core) -> Iterator[Instruction]:
    """Slots: loads before the first pass; then a pass, what moves beside it, and what moves after both."""
    doubles, buffers = core.doubles, (0, 0, 0)
    running: TilePass | None = None
    left: list[Instruction] = []
    for following in chain(passes(core.loops), (None,)):
        loads: list[list[Instruction]] = [[], [], []]
        next_buffers = buffers
        if following is not None:
            if running is not None:
                next_buffers = _turned(core, running, following, buffers)
            into = list(next_buffers)
            if running is not None and _sums_stay(core, running, following):
                into[_O] = 1 - into[_O]
            loads = [_load(core, following, operand, into[operand.value]) for operand in Operand]
        beside = list(left) if doubles[_O] else []
        after: list[Instruction] = []
        stores = [] if running is None else _store(core, running, buffers[_O])
        if doubles[_O]:
            left = stores
        else:
            after += stores
        for operand in range(3):
            (beside if running is not None and doubles[operand] else after).extend(loads[operand])
        if running is not None:
            yield _run(core, running, buffers)
            yield from beside
            yield Sync()
        if after:
            yield from after
            yield Sync()
        running, buffers = following, next_buffers
    if left:
        yield from left
        yield Sync()


def _turned(core: _Core, running: TilePass, following: TilePass, buffers: tuple[int, int, int]) -> tuple[int, int, int]:
    """The buffers of the pass that follows: a new tile takes the other one, if there are two; sums that stay do not."""
    turned = [
        1 - buffer if double and following.moved <= position else buffer
        for buffer, double, position in zip(buffers, core.doubles, core.loops.positions, strict=True)
    ]
    return turned[0], turned[1], buffers[_O] if _sums_stay(core, running, following) else turned[2]


def _sums_stay(core: _Core, running: TilePass, following: TilePass) -> bool:
    """Whether partial sums are timed as coming back beside the pass that still adds to them.

    The share of this core has a single tile of outputs, where those of others have several. It goes on where the sums
    are, and what is timed moves all the same: a store that nobody reads, and a load into the buffer that nobody uses.
    """
    position = core.loops.positions[_O]
    if not core.doubles[_O] or running.moves > position or following.starts_sums:
        return False
    summed = {d for axis in core.places.operands[_O].axes for d, _ in (*axis.terms, *axis.others)}
    return all(running.first[d] == following.first[d] for d in summed)


def _load(core: _Core, following: TilePass, operand: Operand, buffer: int) -> list[Instruction]:
    """The load of one operand for a pass, if its tile is a new one; of outputs, if they were there before."""
    o = operand.value
    if following.moved > core.loops.positions[o] or (operand is Operand.O and following.starts_sums):
        return []
    place = core.places.partial if operand is Operand.O else core.places.operands[o]
    part = moved(place, following.first, following.tile)
    return [
        LoadTile(
            operand=operand.name, buffer=buffer, dtype=place.dtype, number=following.number, dram=part.dram,
            spm=core.buffers.spm[o][buffer], num_bursts=part.num_bursts, burst_bytes=part.burst_bytes,
            counts=part.counts, dram_strides=tuple(axis.dram_stride for axis in place.kept),
            spm_strides=tuple(axis.tile_stride for axis in place.kept), fronts=part.fronts, backs=part.backs,
        )
    ]  # fmt: skip


def _store(core: _Core, running: TilePass, buffer: int) -> list[Instruction]:
    """The store of a pass, if its outputs leave, with what the vector unit reads meanwhile."""
    if running.moves > core.loops.positions[_O]:
        return []
    place = core.places.operands[_O] if running.ends_sums else core.places.partial
    part = moved(place, running.first, running.tile)
    if any(part.fronts) or any(part.backs):
        raise StreamError(f"core {core.number}, pass {running.number}: outputs lie outside of their tensor")
    pattern = patterns(place, running.tile)
    store = StoreTile(
        operand="O", buffer=buffer, is_final=int(running.ends_sums), dtype=place.dtype, number=running.number,
        dram=part.dram, spm=core.buffers.spm[_O][buffer], num_bursts=part.num_bursts, burst_bytes=part.burst_bytes,
        counts=part.counts, dram_strides=tuple(axis.dram_stride for axis in place.kept),
        spm_strides=tuple(axis.tile_stride for axis in place.kept), 
        periods=tuple(axis.period for axis in pattern), runs=tuple(axis.run for axis in pattern),
    )  # fmt: skip
    extras = core.places.extras if running.ends_sums else ()
    return [*(_extra(core, running, number, pattern, extra) for number, extra in enumerate(extras)), store]


def _extra(
    core: _Core, running: TilePass, number: int, pattern: tuple[Pattern, ...], extra: Place
) -> StreamExtra:  # fmt: skip
    """What the vector unit reads of one extra for the outputs of a pass."""
    part, per_dim = moved(extra, running.first, running.tile), steps(extra)
    if any(part.fronts) or any(part.backs):
        raise StreamError(f"core {core.number}, pass {running.number}: {extra.name} is read outside of its tensor")
    return StreamExtra(
        extra=number, dtype=extra.dtype, number=running.number, dram=part.dram, buffer=core.buffers.extras[number],
        num_bursts=part.num_bursts, burst_bytes=part.burst_bytes, counts=part.counts,
        dram_strides=tuple(axis.dram_stride for axis in extra.kept),
        buffer_strides=tuple(axis.tile_stride for axis in extra.kept),
        steps=tuple(0 if axis.inner is None else per_dim[axis.inner] for axis in pattern),
        period_steps=tuple(0 if axis.outer is None else per_dim[axis.outer] for axis in pattern),
    )  # fmt: skip


def _run(core: _Core, running: TilePass, buffers: tuple[int, int, int]) -> RunPass:
    """The pass itself."""
    enters = [
        running.moved <= position or in_spm for position, in_spm in zip(core.loops.positions, core.in_spm, strict=True)
    ]
    counts = tuple(ceil_div(tile, array) for tile, array in zip(running.tile, core.array, strict=True))
    lasts = tuple(
        tile - (count - 1) * array for tile, count, array in zip(running.tile, counts, core.array, strict=True)
    )
    i, w, o = (core.buffers.spm[at][buffer] for at, buffer in enumerate(buffers))
    return RunPass(
        number=running.number, loads_i=int(enters[0]), loads_w=int(enters[1]),
        reads_o=int(enters[_O] and not running.starts_sums), clears_o=int(enters[_O] and running.starts_sums),
        o_leaves=int(running.moves <= core.loops.positions[_O] or core.in_spm[_O]), buffers=buffers, spm=(i, w, o),
        counts=counts, lasts=lasts,
    )  # fmt: skip
