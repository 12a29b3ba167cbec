"""The passes of one core in order, each with its tile and what the loops around it do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Operand, Workload

_SUMMED = tuple(DIM_NAMES.index(name) for name in REDUCTION_DIMS)


@dataclass(frozen=True, slots=True, kw_only=True)
class OuterLoops:
    """The DRAM loops of one core.

    Attributes:
        dims: Index of the dim of each, outermost first.
        counts: Iterations of each.
        positions: Per operand, the innermost loop it depends on; -1 for none.
        first: First index per dim of the core's share.
        share: Elements per dim.
        spm: Elements per dim of a full tile.
    """

    dims: tuple[int, ...]
    counts: tuple[int, ...]
    positions: tuple[int, int, int]
    first: tuple[int, ...]
    share: tuple[int, ...]
    spm: tuple[int, ...]

    @property
    def num_passes(self) -> int:
        """Product of all iterations."""
        return math.prod(self.counts)

    @property
    def spills(self) -> bool:
        """Whether a partial sum leaves SPM: a loop over sums iterates around one that makes another output tile."""
        around = zip(self.dims[: self.positions[Operand.O.value] + 1], self.counts, strict=False)
        return any(d in _SUMMED and count > 1 for d, count in around)


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePass:
    """One pass.

    Attributes:
        number: From 0.
        first: First loop index per dim.
        tile: Elements per dim.
        moved: Innermost loop that is not at its first index, -1 for none.
        moves: Innermost loop that is not at its last, -1 for none.
        starts_sums: No summed loop has moved: no partial sums are there yet.
        ends_sums: All summed loops are at their last index.
    """

    number: int
    first: tuple[int, ...]
    tile: tuple[int, ...]
    moved: int
    moves: int
    starts_sums: bool
    ends_sums: bool


def outer_loops(workload: Workload, mapping: Mapping, core: int) -> OuterLoops:
    """The DRAM loops of a core; cores are numbered row-major over the dims."""
    tiles, extents = mapping.core_tile(workload.dims), workload.dims
    first, share = [0] * len(DIM_NAMES), [0] * len(DIM_NAMES)
    for d in reversed(range(len(DIM_NAMES))):
        name = DIM_NAMES[d]
        first[d] = core % mapping.cores[name] * tiles[name]
        core //= mapping.cores[name]
        share[d] = min(tiles[name], extents[name] - first[d])
    # a loop counts even where this core's share has one iteration of it: the others decide what moves when
    looping = [name for name in mapping.dram_order if tiles[name] > mapping.spm[name]]
    positions = [
        max((at for at, name in enumerate(looping) if name in workload.projection(o).relevant_dims), default=-1)
        for o in Operand
    ]
    dims = tuple(DIM_NAMES.index(name) for name in looping)
    spm = mapping.spm.as_tuple()
    return OuterLoops(
        dims=dims, counts=tuple(-(-share[d] // spm[d]) for d in dims),
        positions=(positions[0], positions[1], positions[2]), first=tuple(first), share=tuple(share), spm=spm,
    )  # fmt: skip


def passes(loops: OuterLoops) -> Iterator[TilePass]:
    """All passes in order."""
    index, number = [0] * len(loops.dims), 0
    while True:
        first, tile = list(loops.first), [min(*pair) for pair in zip(loops.spm, loops.share, strict=True)]
        moved = moves = -1
        starts, ends = True, True
        for at, (d, i, count) in enumerate(zip(loops.dims, index, loops.counts, strict=True)):
            first[d] += i * loops.spm[d]
            tile[d] = min(loops.spm[d], loops.share[d] - i * loops.spm[d])
            if i > 0:
                moved, starts = at, starts and d not in _SUMMED
            if i < count - 1:
                moves, ends = at, ends and d not in _SUMMED
        yield TilePass(
            number=number, first=tuple(first), tile=tuple(tile), moved=moved, moves=moves, starts_sums=starts,
            ends_sums=ends,
        )  # fmt: skip
        number += 1
        at = len(index) - 1
        while at >= 0 and index[at] == loops.counts[at] - 1:
            index[at] = 0
            at -= 1
        if at < 0:
            return
        index[at] += 1
