"""Exact integers of one mapping: loops, load positions, trips, and elements moved per operand and level.

Nothing here walks the nest. Along one dim a level cuts its parent into equal tiles and at most one smaller edge tile,
so everything that is summed over tiles is a product over axes of sums over one axis.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

from tests.oracle.boxes import num_parts, whole_bytes
from tests.oracle.levels import core_tile, loops
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Projection, Workload

ROOT = -1
"""The load position of an operand that no loop changes."""

Box = tuple[int, ...]
"""Elements per axis of one tile, outermost axis first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopNest:
    """The temporal loops of a full tile that iterate more than once, outer to inner: DRAM loops, then SPM loops."""

    dims: tuple[str, ...]
    num_dram: int

    def load_position(self, projection: Projection, level: str) -> int:
        """Index of the innermost loop that changes the tile held at ``SPM`` or ``RF``; ``ROOT`` if none does."""
        loops = self.dims[: self.num_dram] if level == "SPM" else self.dims
        relevant = projection.relevant_dims
        return max((index for index, name in enumerate(loops) if name in relevant), default=ROOT)

    def repeats(self, name: str, position: int) -> tuple[bool, bool]:
        """Whether the DRAM loop and the SPM loop over a dim lie outside a load position (or are that loop)."""
        outside = self.dims[: position + 1]
        return name in outside[: self.num_dram], name in outside[self.num_dram :]


def loop_nest(workload: Workload, mapping: Mapping) -> LoopNest:
    """The loops whose factor for a full tile exceeds 1."""
    kept = loops(workload, mapping)
    return LoopNest(dims=tuple(name for _, name in kept), num_dram=sum(level == "DRAM" for level, _ in kept))


def split(extent: int, tile: int) -> tuple[tuple[int, int], ...]:
    """Cut an extent into tiles.

    Returns:
        (tile, how many) of the full tiles and of the edge tile; those that occur.
    """
    full, edge = divmod(extent, tile)
    return tuple(run for run in ((tile, full), (edge, 1)) if run[0] and run[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class DimTrips:
    """How often one dim is cut, summed over the cores: into SPM tiles, array tiles and pieces of one PE."""

    num_spm_tiles: int
    num_array_tiles: int
    num_pe_tiles: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DimCut:
    """One dim: its extent, and the full tile of each level."""

    extent: int
    core: int
    spm: int
    array: int
    rf: int

    def trips(self, *, all_dram: bool, all_spm: bool) -> DimTrips:
        """Count the tiles of all cores.

        Args:
            all_dram: Count all SPM tiles of a core; otherwise only its first.
            all_spm: Count all array tiles of an SPM tile; otherwise only its first.
        """
        num_spm = num_array = num_pe = 0
        for chunk, chunks in split(self.extent, self.core):
            for tile, tiles in split(chunk, self.spm) if all_dram else ((min(chunk, self.spm), 1),):
                num_spm += chunks * tiles
                for piece, pieces in split(tile, self.array) if all_spm else ((min(tile, self.array), 1),):
                    num_array += chunks * tiles * pieces
                    num_pe += chunks * tiles * pieces * num_parts(piece, self.rf)
        return DimTrips(num_spm_tiles=num_spm, num_array_tiles=num_array, num_pe_tiles=num_pe)


Cuts = dict[str, DimCut]


def cut_dims(workload: Workload, mapping: Mapping) -> Cuts:
    """All dims with their tiles."""
    extents, spm, array, rf = workload.dims, mapping.spm, mapping.array, mapping.rf
    core = core_tile(workload, mapping)
    return {
        name: DimCut(extent=extents[name], core=core[name], spm=spm[name], array=array[name], rf=rf[name])
        for name in DIM_NAMES
    }


def summed_tile_elems(axis: Axis, extents: dict[str, int], trips: dict[str, int]) -> int:
    """Elements that an axis spans, summed over all tiles: per dim ``trips`` tiles that add up to ``extents``.

    A tile spans ``1 + sum(c * (tile - 1))`` elements, which is linear in each tile.
    """
    all_tiles = math.prod(trips[name] for name, _ in axis.terms)
    spans = sum(c * (extents[name] - trips[name]) * (all_tiles // trips[name]) for name, c in axis.terms)
    return all_tiles + spans


def clipped_sizes(cuts: Cuts, axis: Axis) -> Counter[int]:
    """Elements inside the tensor that the SPM tiles of all cores span on one axis, and how many tiles span so many."""
    reach = sum(c * (cuts[name].extent - 1) for name, c in axis.terms)
    sizes: Counter[int] = Counter()
    runs = (_axis_tiles(cuts[name], axis, c, reach - c * (cuts[name].extent - 1)) for name, c in axis.terms)
    for tiles in product(*runs):
        start = axis.offset + sum(c * tile.first for (_, c), tile in zip(axis.terms, tiles, strict=True))
        span = 1 + sum(c * (tile.size - 1) for (_, c), tile in zip(axis.terms, tiles, strict=True))
        inside = max(0, min(axis.extent, start + span) - max(0, start))
        sizes[inside] += math.prod(tile.count for tile in tiles)
    return sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tile:
    """``count`` tiles of one dim that are clipped alike; ``first`` is the first index of one of them."""

    first: int
    size: int
    count: int


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
    low = max(0, num_parts(num_parts(-axis.offset, coefficient) - first, tile))
    elems_before_end = (axis.extent - 1 - axis.offset - others) // coefficient - first + 1
    return range(low, max(low, min(extent, elems_before_end) // tile))


def _axis_tiles(cut: DimCut, axis: Axis, coefficient: int, others: int) -> list[_Tile]:
    """SPM tiles of one dim over all cores; those that are clipped nowhere are one run."""
    tiles: list[_Tile] = []
    num_inner = inner_first = 0
    for first in range(0, cut.extent, cut.core):
        extent = min(cut.core, cut.extent - first)
        inner = unclipped_tiles(axis, coefficient, others, first=first, extent=extent, tile=cut.spm)
        num_tiles = num_parts(extent, cut.spm)
        for index in chain(range(min(inner.start, num_tiles)), range(inner.stop, num_tiles)):
            start = index * cut.spm
            tiles.append(_Tile(first=first + start, size=min(cut.spm, extent - start), count=1))
        if inner:
            num_inner += len(inner)
            inner_first = first + inner.start * cut.spm
    return [*tiles, _Tile(first=inner_first, size=cut.spm, count=num_inner)] if num_inner else tiles


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
class DramTraffic:
    """Transfers between DRAM and SPM of one tensor, as (clipped tile, how many) over all cores."""

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
class RfTraffic:
    """Transfers between SPM and the register files of one operand, over all cores.

    ``num_elems`` cross the network once; ``num_deliveries`` counts an element for each PE that receives it.
    """

    num_transfers: int = 0
    num_elems: int = 0
    num_deliveries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """All that moves. Outputs come in as partial sums; they go to DRAM as spills, and once as results."""

    dram_in: tuple[DramTraffic, DramTraffic, DramTraffic]
    dram_spill: DramTraffic
    dram_final: DramTraffic
    dram_extras: tuple[DramTraffic, ...]
    rf_in: tuple[RfTraffic, RfTraffic, RfTraffic]
    rf_out: RfTraffic
    num_reduction_hops: int

    @property
    def dram(self) -> tuple[DramTraffic, ...]:
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
    nest, cuts = loop_nest(workload, mapping), cut_dims(workload, mapping)
    repeats_i, repeats_w, repeats_o = (
        _dram_repeats(nest, cuts, projection) for projection in (workload.I, workload.W, workload.O)
    )
    partial = _dram_traffic(cuts, workload.O, repeats_o - 1)
    rf_out = _rf_out(nest, cuts, workload)
    reduction_pes = math.prod(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS)
    return Reuse(
        dram_in=(_dram_traffic(cuts, workload.I, repeats_i), _dram_traffic(cuts, workload.W, repeats_w), partial),
        dram_spill=partial,
        dram_final=_dram_traffic(cuts, workload.final_projection(), 1),
        dram_extras=tuple(
            _dram_traffic(cuts, extra, _num_final_stores(cuts, workload.O, extra)) for extra in workload.epilogue.extras
        ),
        rf_in=(
            _rf_traffic(nest, cuts, workload.I),
            _rf_traffic(nest, cuts, workload.W),
            _rf_read_back(cuts, workload, rf_out),
        ),
        rf_out=rf_out,
        num_reduction_hops=rf_out.num_elems * (reduction_pes - 1),
    )


def _irrelevant(projection: Projection) -> Iterator[str]:
    relevant = projection.relevant_dims
    return (name for name in DIM_NAMES if name not in relevant)


def _dram_repeats(nest: LoopNest, cuts: Cuts, projection: Projection) -> int:
    """How often each tile passes between DRAM and SPM: trips of the irrelevant loops outside its load position."""
    position = nest.load_position(projection, "SPM")
    return math.prod(
        cuts[name].trips(all_dram=nest.repeats(name, position)[0], all_spm=False).num_spm_tiles
        for name in _irrelevant(projection)
    )


def _num_final_stores(cuts: Cuts, outputs: Projection, extra: Projection) -> int:
    """Final stores that stream the same tile of an extra: output tiles along the dims it does not depend on."""
    names = (name for name in outputs.relevant_dims if name not in extra.relevant_dims)
    return math.prod(cuts[name].trips(all_dram=True, all_spm=False).num_spm_tiles for name in names)


def _dram_traffic(cuts: Cuts, projection: Projection, repeats: int) -> DramTraffic:
    if repeats == 0:
        return DramTraffic(projection=projection, boxes=())
    sizes = [clipped_sizes(cuts, axis).items() for axis in projection.axes]
    boxes = (
        (tuple(size for size, _ in combination), repeats * math.prod(count for _, count in combination))
        for combination in product(*sizes)
    )
    return DramTraffic(projection=projection, boxes=tuple(boxes))


def _rf_traffic(nest: LoopNest, cuts: Cuts, projection: Projection) -> RfTraffic:
    """Tiles that enter the register files: one whenever a loop up to the load position ticks."""
    position = nest.load_position(projection, "RF")
    repeats = active_pes = 1
    for name in _irrelevant(projection):
        all_dram, all_spm = nest.repeats(name, position)
        trips = cuts[name].trips(all_dram=all_dram, all_spm=all_spm)
        repeats *= trips.num_array_tiles
        active_pes *= trips.num_pe_tiles
    extents = {name: cuts[name].extent for name in projection.relevant_dims}
    all_trips = {name: cuts[name].trips(all_dram=True, all_spm=True) for name in projection.relevant_dims}
    array_trips = {name: trips.num_array_tiles for name, trips in all_trips.items()}
    pe_trips = {name: trips.num_pe_tiles for name, trips in all_trips.items()}
    return RfTraffic(
        num_transfers=repeats * math.prod(array_trips.values()),
        num_elems=repeats * math.prod(summed_tile_elems(axis, extents, array_trips) for axis in projection.axes),
        num_deliveries=active_pes * math.prod(summed_tile_elems(axis, extents, pe_trips) for axis in projection.axes),
    )


def _rf_out(nest: LoopNest, cuts: Cuts, workload: Workload) -> RfTraffic:
    """Outputs leave as often as they enter, summed by the reduction network: one delivery each."""
    entered = _rf_traffic(nest, cuts, workload.O)
    return RfTraffic(num_transfers=entered.num_transfers, num_elems=entered.num_elems, num_deliveries=entered.num_elems)


def _rf_read_back(cuts: Cuts, workload: Workload, rf_out: RfTraffic) -> RfTraffic:
    """Every entry but the first of each output tile reads a partial sum back."""
    first = _rf_traffic(LoopNest(dims=(), num_dram=0), cuts, workload.O)
    num_elems = rf_out.num_elems - first.num_elems
    return RfTraffic(
        num_transfers=rf_out.num_transfers - first.num_transfers, num_elems=num_elems, num_deliveries=num_elems
    )
