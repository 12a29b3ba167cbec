"""The instructions of one core, executed one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.stream.check import DIMS, OPERANDS, require_program
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import (
    AxisSetup,
    DimSetup,
    LoadTile,
    NestSetup,
    RunPass,
    StoreTile,
    Stream,
    StreamExtra,
    StreamHead,
    VectorStep,
)
from tvm_spm.stream.interpret.array import Elems, PeArrayState, Traffic, run_pass
from tvm_spm.stream.interpret.boxes import view
from tvm_spm.stream.interpret.vector import finished
from tvm_spm.units import format_bytes

MARK = 0xA5
"""What fresh memory holds: who reads what nobody wrote gets this, not zeros."""

MOST_MEMORY_BYTES = 1 << 32


class Burst(NamedTuple):
    """Contiguous runs of equal length in DRAM: how many, and the useful bytes of each."""

    num_runs: int
    num_bytes: int


class Transferred(NamedTuple):
    """One transfer of a DMA engine.

    Attributes:
        core: Whose.
        number: Pass it belongs to.
        kind: ``load I``, ``load W``, ``read back O``, ``spill O`` or ``store O``.
        bursts: Of the tile, then of what the vector unit reads meanwhile.
        num_elems: Of the tile in DRAM, gaps included; of a store also its vector work.
    """

    core: int
    number: int
    kind: str
    bursts: tuple[Burst, ...]
    num_elems: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What streams did.

    Attributes:
        transfers: Of all cores, in the order of each.
        traffic: Per core.
    """

    transfers: tuple[Transferred, ...]
    traffic: tuple[Traffic, ...]


@dataclass(slots=True)
class _Core:
    """One core at work.

    Attributes:
        head: Of its stream.
        spm: Memory of I, W and O; the same one if it is not split.
        buffer: Of the vector unit.
        vector: Its steps.
        nest: Set up first.
        dims: Then all of them.
        axes: Likewise.
        state: Of the array, from the first pass on.
        brought: Extras for the next store.
        transfers: So far.
        traffic: So far.
    """

    head: StreamHead
    spm: list[bytearray]
    buffer: bytearray
    vector: list[VectorStep] = field(default_factory=list)
    nest: NestSetup | None = None
    dims: list[DimSetup] = field(default_factory=list)
    axes: list[AxisSetup] = field(default_factory=list)
    state: PeArrayState | None = None
    brought: list[StreamExtra] = field(default_factory=list)
    transfers: list[Transferred] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)


def interpret(streams: Sequence[Stream], image: bytearray) -> Execution:
    """Execute the streams of a layer, core after core.

    Args:
        streams: One per core.
        image: Of DRAM; outputs are written into it.

    Raises:
        StreamError: The image is too small, or an instruction makes no sense where it stands.
    """
    cores = []
    for stream in streams:
        require_program(stream)
        head = stream.head
        if len(image) < head.dram_bytes:
            raise StreamError(
                f"memory image of {format_bytes(len(image))}: must be >= {format_bytes(head.dram_bytes)}, the head of "
                f"core {head.core} says"
            )
        core = _Core(head=head, spm=_memories(head), buffer=_fresh(head.buffer_bytes))
        for instruction in stream.instructions:
            _execute(core, instruction, image)
        if core.brought:
            raise StreamError(f"core {head.core}: an extra is brought, and no store follows")
        cores.append(core)
    return Execution(
        transfers=tuple(each for core in cores for each in core.transfers), traffic=tuple(c.traffic for c in cores)
    )


def _fresh(num_bytes: int) -> bytearray:
    if num_bytes > MOST_MEMORY_BYTES:
        raise StreamError(f"memory of {format_bytes(num_bytes)}: must be <= {format_bytes(MOST_MEMORY_BYTES)}")
    try:
        memory = bytearray(num_bytes)
    except MemoryError:
        raise StreamError(f"memory of {format_bytes(num_bytes)}: this machine has not as much free") from None
    np.frombuffer(memory, np.uint8)[:] = MARK
    return memory


def _memories(head: StreamHead) -> list[bytearray]:
    if head.is_split:
        return [_fresh(num_bytes) for num_bytes in head.spm_bytes]
    return [_fresh(head.spm_bytes[0])] * 3


def _execute(core: _Core, instruction: object, image: bytearray) -> None:
    """Execute one instruction; that units wait for each other decides about time alone."""
    match instruction:
        case NestSetup():
            core.nest = instruction
        case DimSetup():
            core.dims.append(instruction)
        case AxisSetup():
            core.axes.append(instruction)
        case VectorStep():
            core.vector.append(instruction)
        case LoadTile():
            _load(core, instruction, image)
        case StreamExtra():
            core.brought.append(instruction)
            _bring(core, instruction, image)
        case StoreTile():
            _store(core, instruction, image)
        case RunPass():
            if core.state is None:
                if core.nest is None or tuple(each.dim for each in core.dims) != DIMS:
                    raise StreamError(f"core {core.head.core}: a pass runs before the loops and all dims are set up")
                core.state = PeArrayState(nest=core.nest, dims=core.dims, axes=core.axes)
            run_pass(core.state, instruction, core.spm, core.traffic)


def _load(core: _Core, load: LoadTile, image: bytearray) -> None:
    what = f"core {core.head.core}, pass {load.number}: load of {load.operand}"
    boxes = [sum(parts) for parts in zip(load.fronts, load.counts, load.backs, strict=True)]
    box = view(core.spm[OPERANDS.index(load.operand)], load.dtype, load.spm, boxes, load.spm_strides, f"{what} in SPM")
    elems = view(image, load.dtype, load.dram, load.counts, load.dram_strides, f"{what} in DRAM")
    box[...] = 0
    if load.num_bursts == 0:
        return
    inside = tuple(slice(front, front + count) for front, count in zip(load.fronts, load.counts, strict=True))
    box[inside] = elems
    kind = "read back O" if load.operand == "O" else f"load {load.operand}"
    bursts = (Burst(load.num_bursts, load.burst_bytes),)
    core.transfers.append(Transferred(core.head.core, load.number, kind, bursts, elems.size))
    _require_bursts(elems, bursts[0], what)


def _bring(core: _Core, extra: StreamExtra, image: bytearray) -> None:
    what = f"core {core.head.core}, pass {extra.number}: extra {extra.extra}"
    elems = view(image, extra.dtype, extra.dram, extra.counts, extra.dram_strides, f"{what} in DRAM")
    box = view(core.buffer, extra.dtype, extra.buffer, extra.counts, extra.buffer_strides, f"{what} in its buffer")
    box[...] = elems
    _require_bursts(elems, Burst(extra.num_bursts, extra.burst_bytes), what)


def _store(core: _Core, store: StoreTile, image: bytearray) -> None:
    what = f"core {core.head.core}, pass {store.number}: store of O"
    if core.nest is None:
        raise StreamError(f"{what}: before the loops are set up")
    sum_dtype = core.nest.dtypes[2]
    sums = view(core.spm[2], sum_dtype, store.spm, store.counts, store.spm_strides, f"{what} in SPM")
    outputs = view(image, store.dtype, store.dram, store.counts, store.dram_strides, f"{what} in DRAM")
    brought, core.brought = core.brought, []
    own = []
    for count, period, run in zip(store.counts, store.periods, store.runs, strict=True):
        at = np.arange(count)
        own.append(at[at % period < run])
    where = np.ix_(*own) if own else ()
    results = sums[where]
    if store.is_final:
        extras = {extra.extra: _walked(core, extra, store, own) for extra in brought}
        results = np.broadcast_to(finished(core.vector, results, extras, store.dtype), results.shape)
    outputs[where] = results.astype(store.dtype)
    bursts = (Burst(store.num_bursts, store.burst_bytes), *(Burst(e.num_bursts, e.burst_bytes) for e in brought))
    kind = "store O" if store.is_final else "spill O"
    core.transfers.append(Transferred(core.head.core, store.number, kind, bursts, outputs.size))
    _require_bursts(outputs, bursts[0], what)


def _walked(core: _Core, extra: StreamExtra, store: StoreTile, own: Sequence[NDArray[np.int64]]) -> Elems:
    """The value of an extra for each output of a store that is written."""
    what = f"core {core.head.core}, pass {store.number}: extra {extra.extra} in its buffer"
    size, at = np.dtype(extra.dtype).itemsize, np.zeros((1,) * len(own), np.int64)
    for axis, (positions, period, step, period_step) in enumerate(
        zip(own, store.periods, extra.steps, extra.period_steps, strict=True)
    ):
        advance = positions // period * period_step + positions % period * step
        at = at + advance.reshape([-1 if other == axis else 1 for other in range(len(own))])
    if at.size == 0:
        return np.empty(at.shape, extra.dtype)
    held = view(core.buffer, extra.dtype, extra.buffer, (int(at.max()) // size + 1,), (size,), what)
    return np.asarray(held[at // size])


def _require_bursts(elems: Elems, burst: Burst, what: str) -> None:
    """The bursts of an instruction are the contiguous runs of its box in DRAM, none shorter and none longer."""
    run = elems.itemsize
    for count, stride in zip(reversed(elems.shape), reversed(elems.strides), strict=True):
        if count == 1:
            continue
        if stride != run:
            break
        run *= count
    if burst != (elems.size * elems.itemsize // run, run):
        raise StreamError(
            f"{what}: {burst.num_runs} bursts of {burst.num_bytes} B: its box has {elems.size * elems.itemsize // run} "
            f"contiguous runs of {run} B"
        )
