"""What a mapping makes the accelerator do, as one tree: the simulator times it, and the schedule executes it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Projection, Workload

MOMENTS = ("always", "revisit", "unfinished", "finished")
"""When a copy of outputs happens: on every visit of its tile, on all but the first, all but the last, the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A tile that moves, at the edges exactly what is left of it.

    Attributes:
        path: ``DMA`` between DRAM and SPM, ``NoC`` between SPM and RF.
        operand: Whose tile.
        direction: ``in`` towards the array, ``out`` away from it.
        when: One of ``MOMENTS``.
        tile_elems: Of a full tile's bounding box, per axis of the operand, padding included.
        is_double: Whether the level it goes to has two buffers for the operand.
    """

    path: str
    operand: Operand
    direction: str
    when: str
    tile_elems: tuple[int, ...]
    is_double: bool

    def __str__(self) -> str:
        moment = "" if self.when == "always" else f" {self.when}"
        size = "x".join(str(elems) for elems in self.tile_elems)
        return f"{self.path} {self.operand.name} {self.direction}{moment}: {size}{', double' if self.is_double else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """The epilogue of one output tile, on the vector unit, while the tile leaves SPM.

    Attributes:
        when: As the last copy of the tile.
        num_ops_per_elem: Operations for one output.
        streams: Per extra, the elements of the box that is read from DRAM once, per axis, of a full tile.
    """

    when: str
    num_ops_per_elem: int
    streams: tuple[tuple[int, ...], ...]

    def __str__(self) -> str:
        moment = "" if self.when == "always" else f" {self.when}"
        read = ["x".join(str(elems) for elems in box) or "1" for box in self.streams]
        return f"vector{moment}: {self.num_ops_per_elem} operations{', reads ' if read else ''}{', '.join(read)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """One step of the PE array: factors along rows and columns, and the tile of one PE."""

    rows: Dims
    cols: Dims
    rf: Dims

    def __str__(self) -> str:
        return f"step of rows {self.rows} | cols {self.cols} | RF {self.rf}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A loop over tiles of one dim.

    Attributes:
        level: ``cores``, ``dram`` or ``spm``.
        dim: One of ``DIM_NAMES``.
        trip_counts: That occur, largest first; a cut-off tile outside may leave fewer.
        tile: Elements of the dim that one iteration covers, fewer at the edges.
        body: In order.
    """

    level: str
    dim: str
    trip_counts: tuple[int, ...]
    tile: int
    body: tuple[Node, ...]

    def __str__(self) -> str:
        counts = " or ".join(str(count) for count in self.trip_counts)
        return f"for {self.dim} in {self.level} by {self.tile}: {counts} iterations"


Node = Loop | Copy | Finish | Compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """What one operand takes of an SPM.

    Attributes:
        operand: Whose tile.
        extents: Per axis of the operand.
        elem_bits: Of one element.
        count: 2 if it is double-buffered.
    """

    operand: Operand
    extents: tuple[int, ...]
    elem_bits: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Everything that one workload makes every core do; two equal programs take equal time.

    Attributes:
        extents: Of the workload.
        buffers: In SPM, in the order I W O.
        body: In order.
    """

    extents: Dims
    buffers: tuple[Buffer, ...]
    body: tuple[Node, ...]

    def __str__(self) -> str:
        lines = [f"extents {self.extents}"]
        for buffer in self.buffers:
            shape = "x".join(str(extent) for extent in buffer.extents)
            lines.append(f"SPM holds {buffer.count} x {buffer.operand.name} {shape} of {buffer.elem_bits} bits")
        return "\n".join([*lines, *_lines(self.body)])


def _lines(body: Iterable[Node], depth: int = 0) -> list[str]:
    found = []
    for node in body:
        found.append("  " * depth + str(node))
        found += _lines(node.body, depth + 1) if isinstance(node, Loop) else []
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TileLoop:
    """A loop before its place in the tree is known."""

    level: str
    dim: str
    tile: int


def assemble(
    extents: Dims,
    buffers: Sequence[Buffer],
    loops: Sequence[TileLoop],
    copies: Sequence[tuple[int, Copy]],
    compute: Compute,
    finish: Finish | None = None,
) -> Program:
    """Make the tree of its parts.

    Args:
        extents: Of the workload.
        buffers: In any order.
        loops: Outer to inner.
        copies: Each with the number of loops around it; those at one place may stand in any order.
        compute: Inside all loops.
        finish: Happens before outputs go to DRAM; None without an epilogue.
    """
    body: tuple[Node, ...] = (compute,)
    for depth in range(len(loops), -1, -1):
        here = [copy for outside, copy in copies if outside == depth]
        before = sorted((copy for copy in here if copy.direction == "in"), key=_sort_key)
        after = sorted((copy for copy in here if copy.direction == "out"), key=_sort_key, reverse=True)
        to_spm, to_dram = ([copy for copy in after if copy.path == path] for path in ("NoC", "DMA"))
        finished = [finish] if finish is not None and any(_is_final(copy) for copy in to_dram) else []
        body = (*before, *body, *to_spm, *finished, *to_dram)
        if depth:
            loop = loops[depth - 1]
            counts = _trip_counts(
                extents[loop.dim], [o.tile for o in loops[: depth - 1] if o.dim == loop.dim], loop.tile
            )
            body = (Loop(level=loop.level, dim=loop.dim, trip_counts=counts, tile=loop.tile, body=body),)
    ordered = tuple(sorted(buffers, key=lambda buffer: buffer.operand.value))
    return Program(extents=extents, buffers=ordered, body=body)


def _is_final(copy: Copy) -> bool:
    return copy.path == "DMA" and copy.when != "unfinished"


def _sort_key(copy: Copy) -> tuple[str, int, int]:
    return copy.path, copy.operand.value, -MOMENTS.index(copy.when)


def _trip_counts(extent: int, outer_tiles: Sequence[int], tile: int) -> tuple[int, ...]:
    sizes = {extent}
    for outer in outer_tiles:
        sizes = {min(outer, size) for size in sizes} | {size % outer for size in sizes if size % outer}
    return tuple(sorted({ceil_div(size, tile) for size in sizes}, reverse=True))


def program_of(workload: Workload, mapping: Mapping) -> Program:
    """What a mapping asks for.

    Args:
        workload: What is computed.
        mapping: Legal for ``workload``; not checked again here.
    """
    extents = workload.dims
    core_tile, dram, spm = mapping.core_tile(extents), mapping.dram_factors(extents), mapping.spm_factors()
    loops = [TileLoop(level="cores", dim=d, tile=core_tile[d]) for d in DIM_NAMES if mapping.cores[d] > 1]
    num_cores = len(loops)
    loops += [TileLoop(level="dram", dim=d, tile=mapping.spm[d]) for d in mapping.dram_order if dram[d] > 1]
    num_dram = len(loops)
    loops += [TileLoop(level="spm", dim=d, tile=mapping.array[d]) for d in mapping.spm_order if spm[d] > 1]
    spm_tile = mapping.spm.combine(core_tile, min)
    array_tile = mapping.array.combine(spm_tile, min)
    copies: list[tuple[int, Copy]] = []
    buffers = []
    for operand in Operand:
        projection = workload.projection(operand)
        for path, level, last, tile in (("DMA", "SPM", num_dram, spm_tile), ("NoC", "RF", len(loops), array_tile)):
            relevant = [i + 1 for i in range(num_cores, last) if loops[i].dim in projection.relevant_dims]
            depth = max(relevant, default=num_cores)
            is_interrupted = any(loop.dim in REDUCTION_DIMS for loop in loops[:depth])
            for direction, when in _moments(operand, path, is_interrupted=is_interrupted):
                copy = Copy(
                    path=path, operand=operand, direction=direction, when=when, tile_elems=box_of(projection, tile),
                    is_double=mapping.num_buffers(level, operand) == 2,
                )  # fmt: skip
                copies.append((depth, copy))
        count = mapping.num_buffers("SPM", operand)
        extents_of_tile = box_of(projection, spm_tile)
        buffers.append(Buffer(operand=operand, extents=extents_of_tile, elem_bits=projection.elem_bits, count=count))
    compute = Compute(rows=mapping.rows, cols=mapping.cols, rf=mapping.rf)
    final = next(
        copy for _, copy in copies if copy.operand is Operand.O and copy.direction == "out" and _is_final(copy)
    )
    streams = tuple(box_of(extra, spm_tile) for extra in workload.epilogue.extras)
    return assemble(extents, buffers, loops, copies, compute, finish_of(workload, final.when, streams))


def finish_of(workload: Workload, when: str, streams: tuple[tuple[int, ...], ...]) -> Finish | None:
    """What happens to finished tiles of a workload; None if they are stored as they are."""
    epilogue = workload.epilogue
    if not epilogue.num_ops_per_elem and not epilogue.extras:
        return None
    return Finish(when=when, num_ops_per_elem=epilogue.num_ops_per_elem, streams=streams)


def _moments(operand: Operand, path: str, *, is_interrupted: bool) -> list[tuple[str, str]]:
    """Directions and moments of the copies of one operand on one path."""
    if operand is not Operand.O:
        return [("in", "always")]
    if not is_interrupted:
        return [("out", "always")]
    if path == "NoC":
        return [("in", "revisit"), ("out", "always")]
    return [("in", "revisit"), ("out", "unfinished"), ("out", "finished")]


def box_of(projection: Projection, tile: Dims) -> tuple[int, ...]:
    """Bounding box of a tile, per axis, padding included."""
    return tuple(axis.tile_elems(tile) for axis in projection.axes)
