"""Exact integers of one mapping: loops, load positions, and elements moved per operand and link, for any levels.

A mapping is a tuple of levels, outermost first (``Mapping.levels``). Along one dim all tiles of a level are listed; as
dims are cut independently of each other, what is summed over tiles is a product over axes of sums over one axis.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import product

from tests.oracle.boxes import num_parts, whole_bytes
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping, MappingLevel
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Projection, Workload

ROOT = -1
"""The load position of an operand that no loop changes."""

Levels = tuple[MappingLevel, ...]

Part = tuple[int, int]
"""First index and number of elements along one dim."""

Box = tuple[int, ...]
"""Elements per axis of one tile, outermost axis first."""


def axis_elems(axis: Axis, tile: Dims) -> int:
    """What a tile spans on an axis, padding and holes of a stride included."""
    return 1 + sum(c * (tile[name] - 1) for name, c in axis.terms)


def clipped_elems(axis: Axis, first: dict[str, int], tile: Dims) -> int:
    """What of it lies in the tensor."""
    start = axis.offset + sum(c * first[name] for name, c in axis.terms)
    return max(0, min(axis.extent, start + axis_elems(axis, tile)) - max(0, start))


def cut(part: Part, step: int) -> list[Part]:
    """Full tiles, and at most one smaller one at the end."""
    first, size = part
    return [(first + at, min(step, size - at)) for at in range(0, size, step)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopNest:
    """The temporal loops of a full tile that iterate more than once, outer to inner, each with its level."""

    loops: tuple[tuple[int, str], ...]

    def dims(self, level: int) -> tuple[str, ...]:
        """Dims of the loops of one level."""
        return tuple(name for at, name in self.loops if at == level)

    def load_position(self, projection: Projection, memory: int) -> int:
        """Index of the innermost loop that changes the tile held in the memory of a level; ``ROOT`` if none does."""
        changing = (i for i, (at, name) in enumerate(self.loops) if at < memory and name in projection.relevant_dims)
        return max(changing, default=ROOT)


def step(levels: Levels, level: int, name: str) -> int:
    """Elements that one iteration of a level's loop covers: a tile of each memory that works side by side."""
    return levels[level + 1].tile[name] * levels[level].unrolled[name]


def share(levels: Levels, level: int, name: str) -> int:
    """Elements that one of those who divide a full tile of a level among them works on."""
    return num_parts(levels[level].tile[name], levels[level].shares[name])


def loop_nest(levels: Levels) -> LoopNest:
    """The loops whose factor for a full tile exceeds 1."""
    loops = [
        (at, name)
        for at, level in enumerate(levels[:-1])
        for name in level.order
        if share(levels, at, name) > step(levels, at, name)
    ]
    return LoopNest(loops=tuple(loops))


def parts_moved(levels: Levels, name: str, repeated: list[bool]) -> list[Part]:
    """Parts of a dim that cross a link, all tiles side by side as one.

    Args:
        levels: Of the mapping.
        name: Of the dim.
        repeated: Per level above the link, whether its loop over the dim iterates; else it stays at its first index.
    """
    parts = [(0, levels[0].tile[name])]
    for at, iterates in enumerate(repeated):
        shares = [one for part in parts for one in cut(part, share(levels, at, name))]
        moved = [cut(one, step(levels, at, name)) for one in shares]
        parts = [one for tiles in moved for one in (tiles if iterates else tiles[:1])]
        if at + 1 < len(repeated):
            parts = [one for part in parts for one in cut(part, levels[at + 1].tile[name])]
    return parts


def summed_elems(axis: Axis, parts: dict[str, list[Part]]) -> int:
    """Elements that an axis spans, padding included, summed over all combinations of parts."""
    sizes = (Counter(size for _, size in parts[name]).items() for name, _ in axis.terms)
    total = 0
    for combination in product(*sizes):
        span = 1 + sum(c * (size - 1) for (_, c), (size, _) in zip(axis.terms, combination, strict=True))
        total += span * math.prod(count for _, count in combination)
    return total


def clipped_sizes(axis: Axis, parts: dict[str, list[Part]]) -> Counter[int]:
    """Elements inside the tensor that tiles span on one axis, and how many tiles span so many."""
    sizes: Counter[int] = Counter()
    for combination in product(*(parts[name] for name, _ in axis.terms)):
        names = [name for name, _ in axis.terms]
        first = {name: at for name, (at, _) in zip(names, combination, strict=True)}
        tile = Dims(**{name: size for name, (_, size) in zip(names, combination, strict=True)})
        sizes[clipped_elems(axis, first, tile)] += 1
    return sizes


def num_bursts(projection: Projection, box: Box) -> int:
    """Contiguous runs of one tile in the tensor's DRAM layout; 0 for an empty tile."""
    if math.prod(box) == 0:
        return 0
    for inner in range(len(box) - 1, -1, -1):
        if box[inner] < projection.axes[inner].extent:
            return math.prod(box[:inner])
    return 1


def box_transfer(projection: Projection, box: Box, arch: Arch) -> tuple[int, int]:
    """(cycles, bits) of moving one tile of a tensor in bursts of equal length, each of whole ``burst_bytes``."""
    bursts = num_bursts(projection, box)
    if bursts == 0:
        return 0, 0
    burst_bytes = arch.levels.DRAM.burst_bytes
    bits = math.prod(box) // bursts * projection.elem_bits
    if burst_bytes > 1:
        bits = num_parts(bits, 8 * burst_bytes) * 8 * burst_bytes
    moving_cycles = whole_bytes(bursts * bits) / arch.dma_bytes_per_cycle
    return math.ceil(bursts * arch.burst_startup_cycles + moving_cycles), bursts * bits


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTraffic:
    """Transfers over the outermost link of one tensor, as (clipped tile, how many) over all cores."""

    projection: Projection
    boxes: tuple[tuple[Box, int], ...]

    @property
    def num_transfers(self) -> int:
        """Tiles moved, those wholly in padding included."""
        return sum(count for _, count in self.boxes)

    @property
    def num_elems(self) -> int:
        """Elements moved, padding excluded."""
        return sum(count * math.prod(box) for box, count in self.boxes)

    def num_bytes(self, arch: Arch) -> int:
        """Bytes moved, in whole bursts; every transfer moves whole bytes."""
        return sum(count * whole_bytes(box_transfer(self.projection, box, arch)[1]) for box, count in self.boxes)

    def unused_bits(self, arch: Arch) -> int:
        """What the whole bursts bring along beyond the elements."""
        moved = sum(count * box_transfer(self.projection, box, arch)[1] for box, count in self.boxes)
        return moved - self.num_elems * self.projection.elem_bits

    @property
    def num_bursts(self) -> int:
        """Contiguous runs moved."""
        return sum(count * num_bursts(self.projection, box) for box, count in self.boxes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Transfers over a link of one operand, over all that have such a link; padding counts.

    ``num_elems`` cross the link once; ``num_deliveries`` counts an element for each memory that receives it.
    """

    num_transfers: int
    num_elems: int
    num_deliveries: int

    def __sub__(self, other: Traffic) -> Traffic:
        return Traffic(
            num_transfers=self.num_transfers - other.num_transfers,
            num_elems=self.num_elems - other.num_elems,
            num_deliveries=self.num_deliveries - other.num_deliveries,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTraffic:
    """All that crosses the link above one memory: I, W and partial sums in; outputs, summed on their way, out."""

    into: tuple[Traffic, Traffic, Traffic]
    out: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """All that moves. Outputs come in as partial sums; they go to the outermost memory as spills, and once as results.

    ``dram_*`` are the boxes that the outermost link moves; ``links`` counts every link, outermost first.
    """

    dram_in: tuple[BoxTraffic, BoxTraffic, BoxTraffic]
    dram_spill: BoxTraffic
    dram_final: BoxTraffic
    dram_extras: tuple[BoxTraffic, ...]
    links: tuple[LinkTraffic, ...]
    num_reduction_hops: int

    @property
    def rf_in(self) -> tuple[Traffic, Traffic, Traffic]:
        """Into the innermost memories."""
        return self.links[-1].into

    @property
    def rf_out(self) -> Traffic:
        """Out of the innermost memories."""
        return self.links[-1].out

    @property
    def dram(self) -> tuple[BoxTraffic, ...]:
        """All traffic with DRAM."""
        return (*self.dram_in, self.dram_spill, self.dram_final, *self.dram_extras)

    def dram_bytes(self, arch: Arch) -> tuple[int, int, int, int]:
        """Bytes moved per I, W, O and extras, in whole bursts."""
        in_i, in_w, in_o, spill, final, *extras = (traffic.num_bytes(arch) for traffic in self.dram)
        return in_i, in_w, in_o + spill + final, sum(extras)

    def unused_bits(self, arch: Arch) -> int:
        """Of those, what no tile asked for."""
        return sum(traffic.unused_bits(arch) for traffic in self.dram)


def count_reuse(workload: Workload, mapping: Mapping) -> Reuse:
    """Count all transfers of a legal mapping over all cores."""
    return count_levels(workload, mapping.levels(workload.dims))


def count_levels(workload: Workload, levels: Levels) -> Reuse:
    """The same for levels of any number, of which the first holds the tensors."""
    nest = loop_nest(levels)
    repeats_i, repeats_w, repeats_o = (
        math.prod(
            len(parts_moved(levels, name, _repeated(nest, projection, 1, name))) for name in _irrelevant(projection)
        )
        for projection in (workload.I, workload.W, workload.O)
    )
    partial = _box_traffic(levels, workload.O, repeats_o - 1)
    links = tuple(_link(workload, levels, nest, memory) for memory in range(1, len(levels)))
    summed_side_by_side = math.prod(levels[-2].unrolled[name] for name in REDUCTION_DIMS)
    return Reuse(
        dram_in=(_box_traffic(levels, workload.I, repeats_i), _box_traffic(levels, workload.W, repeats_w), partial),
        dram_spill=partial,
        dram_final=_box_traffic(levels, workload.final_projection(), 1),
        dram_extras=tuple(
            _box_traffic(levels, extra, _num_final_stores(levels, workload.O, extra))
            for extra in workload.epilogue.extras
        ),
        links=links,
        num_reduction_hops=links[-1].out.num_elems * (summed_side_by_side - 1),
    )


def _irrelevant(projection: Projection) -> list[str]:
    return [name for name in DIM_NAMES if name not in projection.relevant_dims]


def _repeated(nest: LoopNest, projection: Projection, memory: int, name: str) -> list[bool]:
    """Per level above a memory, whether its loop over a dim brings a tile in again."""
    outside = nest.loops[: nest.load_position(projection, memory) + 1]
    return [(level, name) in outside for level in range(memory)]


def _num_final_stores(levels: Levels, outputs: Projection, extra: Projection) -> int:
    """Final stores that stream the same tile of an extra: output tiles along the dims it does not depend on."""
    names = (name for name in outputs.relevant_dims if name not in extra.relevant_dims)
    return math.prod(len(parts_moved(levels, name, [True])) for name in names)


def _box_traffic(levels: Levels, projection: Projection, repeats: int) -> BoxTraffic:
    if repeats == 0:
        return BoxTraffic(projection=projection, boxes=())
    parts = {name: parts_moved(levels, name, [True]) for name in projection.relevant_dims}
    sizes = [clipped_sizes(axis, parts).items() for axis in projection.axes]
    boxes = (
        (tuple(size for size, _ in combination), repeats * math.prod(count for _, count in combination))
        for combination in product(*sizes)
    )
    return BoxTraffic(projection=projection, boxes=tuple(boxes))


def _link(workload: Workload, levels: Levels, nest: LoopNest, memory: int) -> LinkTraffic:
    """Outputs leave as often as they enter, one delivery each; every entry but the first reads a partial sum back."""
    i, w, o = (_entering(levels, nest, p, memory) for p in (workload.I, workload.W, workload.O))
    first = _entering(levels, LoopNest(loops=()), workload.O, memory)
    out, once = (
        Traffic(num_transfers=t.num_transfers, num_elems=t.num_elems, num_deliveries=t.num_elems) for t in (o, first)
    )
    return LinkTraffic(into=(i, w, out - once), out=out)


def _entering(levels: Levels, nest: LoopNest, projection: Projection, memory: int) -> Traffic:
    """Tiles that enter the memories of a level: one whenever a loop up to the load position ticks."""
    parts, pieces = {}, {}
    for name in DIM_NAMES:
        is_relevant = name in projection.relevant_dims
        repeated = [True] * memory if is_relevant else _repeated(nest, projection, memory, name)
        parts[name] = parts_moved(levels, name, repeated)
        pieces[name] = [one for part in parts[name] for one in cut(part, levels[memory].tile[name])]
    again = math.prod(len(parts[name]) for name in _irrelevant(projection))
    receivers = math.prod(len(pieces[name]) for name in _irrelevant(projection))
    return Traffic(
        num_transfers=again * math.prod(len(parts[name]) for name in projection.relevant_dims),
        num_elems=again * math.prod(summed_elems(axis, parts) for axis in projection.axes),
        num_deliveries=receivers * math.prod(summed_elems(axis, pieces) for axis in projection.axes),
    )
