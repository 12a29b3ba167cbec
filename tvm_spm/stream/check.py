"""One check of what a stream says as a whole, for everybody who executes it; fields alone are checked where they stand.

A stream that was edited by hand has fields that fit, and may still set up a dim twice or reach beyond a memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np

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
    num_sources,
)
from tvm_spm.units import format_bytes

DIMS = ("N", "G", "K", "C", "OY", "OX", "FY", "FX")
OPERANDS = ("I", "W", "O")

MOST_ELEMS = 1 << 28
"""Of one box: a damaged stream could ask for any number of them."""


def require_program(stream: Stream) -> None:
    """Refuse instructions that make no sense together.

    Raises:
        StreamError: Set-up is missing, twice or late, a number is out of its range, or a tile leaves its memory; names
            the instruction and the bound.
    """
    head, what = stream.head, f"core {stream.head.core}"
    if head.core >= head.num_cores:
        raise StreamError(f"{what} of num_cores {head.num_cores}: must be < num_cores")
    nest, dims = _set_up(stream, what)
    read = _extras_read(stream, what)
    sizes = head.spm_bytes if head.is_split else (head.spm_bytes[0],) * 3
    brought: list[StreamExtra] = []
    for each in stream.instructions:
        if isinstance(each, LoadTile):
            _load(each, head, sizes)
        elif isinstance(each, StreamExtra):
            if each.extra in [other.extra for other in brought]:
                raise StreamError(f"{what}, pass {each.number}: extra {each.extra} is brought twice for one store")
            brought.append(each)
            at = f"{what}, pass {each.number}: extra {each.extra}"
            size = np.dtype(each.dtype).itemsize
            require_inside(head.dram_bytes, size, each.dram, each.counts, each.dram_strides, f"{at} in DRAM")
            require_inside(
                head.buffer_bytes, size, each.buffer, each.counts, each.buffer_strides, f"{at} in its buffer"
            )
        elif isinstance(each, StoreTile):
            _store(each, head, sizes[2], nest, brought)
            missing = read - {extra.extra for extra in brought} if each.is_final else set()
            if missing:
                raise StreamError(f"{what}, pass {each.number}: extra {min(missing)} is read and was not brought")
            brought = []
        elif isinstance(each, RunPass):
            _run(each, nest, dims, sizes)
    if brought:
        raise StreamError(f"{what}: an extra is brought, and no store follows")


def require_inside(
    num_bytes: int, size: int, address: int, counts: Sequence[int], strides: Sequence[int], what: str
) -> None:
    """Refuse a box that leaves its memory.

    Args:
        num_bytes: Of the memory.
        size: Bytes of an element.
        address: Of the first element.
        counts: Elements per axis.
        strides: Bytes per axis.
        what: Begins the text of an error.

    Raises:
        StreamError: The box has too many elements, or reaches beyond the memory.
    """
    most = math.prod(max(1, count) for count in counts)
    if most > MOST_ELEMS:
        raise StreamError(f"{what}: {most:,} elements: must be <= {MOST_ELEMS:,}")
    if all(counts):
        _require_reach(num_bytes, size, address, counts, strides, what)


def _require_reach(
    num_bytes: int, size: int, address: int, counts: Sequence[int], strides: Sequence[int], what: str
) -> None:
    end = address + size + sum((count - 1) * stride for count, stride in zip(counts, strides, strict=True))
    if end > num_bytes:
        raise StreamError(
            f"{what}: reaches byte {end:,}: the memory image has {format_bytes(num_bytes)}, too small by "
            f"{format_bytes(end - num_bytes)}"
        )


def _set_up(stream: Stream, what: str) -> tuple[NestSetup, list[DimSetup]]:
    """The set-up, in its order: the nest, every dim once, axes, steps of the vector unit; then none of them."""
    order = (NestSetup, DimSetup, AxisSetup, VectorStep)
    ranks = [order.index(type(each)) if type(each) in order else len(order) for each in stream.instructions]
    for at, (rank, following) in enumerate(zip(ranks, ranks[1:], strict=False), 1):
        if following < rank:
            name = type(stream.instructions[at]).__name__
            raise StreamError(f"{what}, instruction {at:,} ({name}): must stand before what is set up after it")
    nests = [each for each in stream.instructions if isinstance(each, NestSetup)]
    dims = [each for each in stream.instructions if isinstance(each, DimSetup)]
    if len(nests) != 1:
        raise StreamError(f"{what}: {len(nests)} 'nest' instructions: must be 1, the first")
    if tuple(each.dim for each in dims) != DIMS:
        raise StreamError(
            f"{what}: dims {' '.join(each.dim for each in dims)} are set up: must be {' '.join(DIMS)}, each once"
        )
    for each in dims:
        if min(each.array, each.rows, each.cols, each.rf) < 1 or each.array != each.rows * each.cols * each.rf:
            raise StreamError(
                f"{what}, dim {each.dim}: array {each.array:,}: must be rows {each.rows:,} * cols {each.cols:,} * rf "
                f"{each.rf:,}, and all >= 1"
            )
    nest = nests[0]
    if len(set(nest.loops)) != len(nest.loops):
        raise StreamError(f"{what}: loops {','.join(nest.loops)}: each dim may stand there once")
    if max(nest.depths) > len(nest.loops):
        raise StreamError(f"{what}: depths {nest.depths}: must be <= {len(nest.loops)}, the number of loops")
    if min(nest.reducing) < 1:
        raise StreamError(f"{what}: reducing {nest.reducing}: must be >= 1")
    num_runs = sum(isinstance(each, RunPass) for each in stream.instructions)
    num_steps = sum(isinstance(each, VectorStep) for each in stream.instructions)
    for name, said, there in (
        ("num_passes", nest.num_passes, num_runs),
        ("num_vector_steps", nest.num_vector_steps, num_steps),
    ):
        if said != there:
            raise StreamError(f"{what}: {name} = {said:,}: must be {there:,}, which the stream has")
    _axes(stream, what)
    return nest, dims


def _axes(stream: Stream, what: str) -> None:
    numbers = dict.fromkeys(OPERANDS, 0)
    for axis in stream.instructions:
        if not isinstance(axis, AxisSetup):
            continue
        at = f"{what}, axis {axis.axis} of {axis.operand}"
        if axis.axis != numbers[axis.operand]:
            raise StreamError(f"{at}: must be number {numbers[axis.operand]}, axes stand in their order")
        numbers[axis.operand] += 1
        if len(set(axis.dims)) != len(axis.dims) or not all(axis.coefficients):
            raise StreamError(f"{at}: dims {axis.dims} by {axis.coefficients}: dims must differ, numbers be >= 1")


def _extras_read(stream: Stream, what: str) -> set[int]:
    """The extras that steps of the vector unit read; none of them reads an empty register."""
    known: set[int] = {0}
    read: set[int] = set()
    steps = [each for each in stream.instructions if isinstance(each, VectorStep)]
    for number, step in enumerate(steps):
        for register in step.sources[: num_sources(step.operation)]:
            if register not in known:
                raise StreamError(
                    f"{what}, vector step {number}: {step.operation} reads register {register}, which is empty"
                )
        if step.operation == "extra":
            read.add(step.immediate)
        known.add(step.target)
    return read


def _load(load: LoadTile, head: StreamHead, sizes: Sequence[int]) -> None:
    what = f"core {head.core}, pass {load.number}: load of {load.operand}"
    size = np.dtype(load.dtype).itemsize
    boxes = [sum(parts) for parts in zip(load.fronts, load.counts, load.backs, strict=True)]
    memory = sizes[OPERANDS.index(load.operand)]
    require_inside(memory, size, load.spm, boxes, load.spm_strides, f"{what} in SPM")
    require_inside(head.dram_bytes, size, load.dram, load.counts, load.dram_strides, f"{what} in DRAM")


def _store(store: StoreTile, head: StreamHead, spm_bytes: int, nest: NestSetup, extras: Sequence[StreamExtra]) -> None:
    what = f"core {head.core}, pass {store.number}: store of O"
    if store.operand != "O":
        raise StreamError(f"core {head.core}, pass {store.number}: store of {store.operand}: must be of O")
    sums, outputs = (np.dtype(dtype).itemsize for dtype in (nest.dtypes[2], store.dtype))
    require_inside(spm_bytes, sums, store.spm, store.counts, store.spm_strides, f"{what} in SPM")
    require_inside(head.dram_bytes, outputs, store.dram, store.counts, store.dram_strides, f"{what} in DRAM")
    for period in store.periods:
        if period < 1:
            raise StreamError(f"{what}: period {period}: must be >= 1")
    for extra in extras:
        if len(extra.steps) != len(store.counts):
            raise StreamError(
                f"{what}: steps of extra {extra.extra} have {len(extra.steps)} axes: must be {len(store.counts)}, as "
                "the store has"
            )


def _run(run: RunPass, nest: NestSetup, dims: Sequence[DimSetup], sizes: Sequence[int]) -> None:
    if any(count < 1 or last < 1 for count, last in zip(run.counts, run.lasts, strict=True)):
        raise StreamError(f"pass {run.number}: counts {run.counts} and lasts {run.lasts}: must be >= 1")
    if any(last > each.array for last, each in zip(run.lasts, dims, strict=True)):
        arrays = tuple(each.array for each in dims)
        raise StreamError(f"pass {run.number}: lasts {run.lasts}: must be <= {arrays}, which the array holds")
    if any(count > 1 and each.dim not in nest.loops for count, each in zip(run.counts, dims, strict=True)):
        raise StreamError(f"pass {run.number}: counts {run.counts}: dims that do not loop must have 1")
    tile = [(count - 1) * each.array + last for count, last, each in zip(run.counts, run.lasts, dims, strict=True)]
    for operand, name in enumerate(OPERANDS):
        _require_reach(
            sizes[operand], np.dtype(nest.dtypes[operand]).itemsize, run.spm[operand], tile,
            [each.spm_steps[operand] for each in dims], f"pass {run.number}: tile of {name} in SPM",
        )  # fmt: skip
