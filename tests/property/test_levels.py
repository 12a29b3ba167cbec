"""A toy machine with four memory levels: what moves over each link against a walk of all its loops."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator

from tests.analytical_cases import draw_tile, draw_workload
from tests.oracle.boxes import num_parts, spanned_elems
from tests.oracle.reuse import count_levels
from tvm_spm.arch import MemoryLevel, Scratchpad, load_arch
from tvm_spm.mapping import Mapping, MappingLevel
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

PRESET = load_arch("edge-256")

CLUSTER = MemoryLevel(
    "L2", Scratchpad(capacity_bytes=1 << 20, bank_bytes=1, access_pj=20.0), PRESET.dma, 4 * PRESET.num_pes
)
"""A memory that four cores share, between DRAM and their scratchpads."""

TOY = (PRESET.memory_levels[0], CLUSTER, *PRESET.memory_levels[1:])

Loop = tuple[int, str]
Part = dict[str, tuple[int, int]]
"""First index and elements per dim."""


def draw_levels(rng: Generator, workload: Workload) -> tuple[MappingLevel, ...]:
    """Random tiles, orders, and parallel factors between any two levels; no partial sums in different memories."""
    tile = {name: workload.dims[name] for name in DIM_NAMES}
    levels = []
    for at, memory in enumerate(TOY[:-1]):
        shares, unrolled, inner = dict.fromkeys(DIM_NAMES, 1), dict.fromkeys(DIM_NAMES, 1), {}
        for name in DIM_NAMES:
            is_free = name not in REDUCTION_DIMS
            shares[name] = int(rng.integers(1, 3)) if is_free and tile[name] > 1 and rng.random() < 0.2 else 1
            rest = num_parts(tile[name], shares[name])
            step = draw_tile(rng, rest, perfect=False)
            if (is_free or at == len(TOY) - 2) and rng.random() < 0.3:
                unrolled[name] = int(rng.integers(1, step + 1))
            inner[name] = num_parts(step, unrolled[name])
        order = tuple(str(name) for name in rng.permutation(DIM_NAMES))
        levels.append(
            MappingLevel(
                name=memory.name, tile=Dims(**tile), shares=Dims(**shares), order=order, unrolled=Dims(**unrolled)
            )
        )
        tile = inner
    return (*levels, MappingLevel(name=TOY[-1].name, tile=Dims(**tile)))


def num_walked(levels: tuple[MappingLevel, ...]) -> int:
    """A bound on the iterations of the walk."""
    total = 1
    for outer, inner in zip(levels, levels[1:], strict=False):
        for name in DIM_NAMES:
            total *= outer.shares[name] * outer.unrolled[name]
            total *= num_parts(num_parts(outer.tile[name], outer.shares[name]), inner.tile[name] * outer.unrolled[name])
    return total


def cut(part: Part, size: Dims) -> list[Part]:
    """All parts of at most ``size``, in the order of their indices."""
    starts = [range(first, first + extent, size[name]) for name, (first, extent) in part.items()]
    return [
        {n: (at, min(size[n], part[n][0] + part[n][1] - at)) for n, at in zip(part, corner, strict=True)}
        for corner in product(*starts)
    ]


class Walk:
    """All levels executed, memory by memory; elements that move are added to ``counts`` by (memory, what)."""

    def __init__(self, workload: Workload, levels: tuple[MappingLevel, ...]) -> None:
        self.workload, self.levels = workload, levels
        self.counts: Counter[tuple[int, str]] = Counter()
        self.loops: list[Loop] = []
        for at, level in enumerate(levels[:-1]):
            covered = self.step(at)
            for name in level.order:
                if num_parts(self.share(at)[name], covered[name]) > 1:
                    self.loops.append((at, name))
        self.run(0, {name: (0, workload.dims[name]) for name in DIM_NAMES}, {}, {})

    def share(self, at: int) -> Dims:
        level = self.levels[at]
        return Dims.of([num_parts(level.tile[name], level.shares[name]) for name in DIM_NAMES])

    def step(self, at: int) -> Dims:
        inner, unrolled = self.levels[at + 1].tile, self.levels[at].unrolled
        return Dims.of([inner[name] * unrolled[name] for name in DIM_NAMES])

    def run(self, at: int, tile: Part, index: dict[Loop, int], last: dict[Loop, int]) -> None:
        """The loops of one level over the tile that one of its memories holds."""
        if at == len(self.levels) - 1:
            return
        for share in cut(tile, self.share(at)):
            order, covered = self.levels[at].order, self.step(at)
            counts = [num_parts(share[name][1], covered[name]) for name in order]
            for point in product(*map(range, counts)):
                here = index | {(at, name): i for name, i in zip(order, point, strict=True)}
                ends = last | {(at, name): n - 1 for name, n in zip(order, counts, strict=True)}
                first = {name: share[name][0] + here[at, name] * covered[name] for name in DIM_NAMES}
                side_by_side = {
                    name: (first[name], min(covered[name], sum(share[name]) - first[name])) for name in DIM_NAMES
                }
                self.move(at + 1, side_by_side, here, ends)
                for piece in cut(side_by_side, self.levels[at + 1].tile):
                    self.run(at + 1, piece, here, ends)

    def move(self, memory: int, part: Part, index: dict[Loop, int], last: dict[Loop, int]) -> None:
        """What crosses the link above the memories that hold a part together, before and after one iteration."""
        for operand in Operand:
            projection = self.workload.projection(operand)
            above = [loop for loop in self.loops if loop[0] < memory]
            changing = [i for i, (_, name) in enumerate(above) if name in projection.relevant_dims]
            inside = above[max(changing, default=-1) + 1 :]
            elems = spanned_elems(projection.axes, Dims(**{name: size for name, (_, size) in part.items()}))
            pieces = cut(part, self.levels[memory].tile)
            received = sum(
                spanned_elems(projection.axes, Dims(**{name: size for name, (_, size) in one.items()}))
                for one in pieces
            )
            enters, leaves = all(index[loop] == 0 for loop in inside), all(index[x] == last[x] for x in inside)
            if operand is Operand.O:
                is_partial = any(index[loop] for loop in above if loop[1] in REDUCTION_DIMS)
                self.counts[memory, "O back"] += elems if enters and is_partial else 0
                self.counts[memory, "O left"] += elems if leaves else 0
            elif enters:
                self.counts[memory, f"{operand.name} loads"] += 1
                self.counts[memory, f"{operand.name} crossed"] += elems
                self.counts[memory, f"{operand.name} received"] += received


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_four_levels_move_what_a_walk_of_their_loops_moves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    workload = draw_workload(rng, most=4)
    levels = draw_levels(rng, workload)
    while num_walked(levels) > 400:
        workload = draw_workload(rng, most=4)
        levels = draw_levels(rng, workload)
    walk, links = Walk(workload, levels).counts, count_levels(workload, levels).links
    assert len(links) == len(TOY) - 1
    for memory, link in enumerate(links, start=1):
        for name, traffic in zip("IW", link.into, strict=False):
            assert traffic.num_transfers == walk[memory, f"{name} loads"], (memory, name)
            assert traffic.num_elems == walk[memory, f"{name} crossed"], (memory, name)
            assert traffic.num_deliveries == walk[memory, f"{name} received"], (memory, name)
        assert link.into[2].num_elems == walk[memory, "O back"], memory
        assert link.out.num_elems == walk[memory, "O left"], memory


def test_four_levels_by_arithmetic() -> None:
    workload = Workload.matmul(m=8, k=6, n=4)
    whole, half, quarter = Dims(OX=8, C=6, K=4), Dims(OX=4, C=6, K=4), Dims(OX=4, C=3, K=2)
    levels = (
        MappingLevel(name="DRAM", tile=whole, order=("OX",)),
        MappingLevel(name="L2", tile=half, order=("C",), unrolled=Dims(K=2)),
        MappingLevel(name="SPM", tile=quarter, order=("K",), unrolled=Dims(OX=4)),
        MappingLevel(name="RF", tile=Dims(OX=1, C=3, K=1)),
    )
    from_dram, from_l2, from_spm = count_levels(workload, levels).links
    # each half of 4 rows: 4 x 6 inputs; all 6 x 4 weights once, as no loop over rows changes them
    assert [traffic.num_elems for traffic in from_dram.into] == [48, 24, 0]
    # per half and half of C: 4 x 3 inputs, each for both scratchpads; 3 x 4 weights, of which each takes half
    assert [traffic.num_elems for traffic in from_l2.into] == [48, 48, 0]
    assert [traffic.num_deliveries for traffic in from_l2.into] == [96, 48, 0]
    # outputs stay in a scratchpad while C changes: 8 x 4 leave once
    assert from_l2.out.num_elems == 32
    # per scratchpad tile: 4 x 3 inputs once for both K; 3 weights per K, each for all 4 PEs
    assert [traffic.num_deliveries for traffic in from_spm.into][:2] == [8 * 12, 8 * 2 * 3 * 4]
    # but K changes inside C, so that they leave the PEs for each half of C, and come back for the second
    assert (from_spm.out.num_elems, from_spm.into[2].num_elems) == (64, 32)


@pytest.mark.parametrize("name", ["edge-256", "quad-edge", "eyeriss-168"])
def test_levels_of_a_mapping_are_those_of_its_machine(name: str) -> None:
    arch, mapping = load_arch(name), Mapping(spm=Dims(K=4), rf=Dims(K=1), rows=Dims(K=2), cols=Dims(K=2))
    levels = mapping.levels(Dims(K=8))
    assert [level.name for level in levels] == [level.name for level in arch.memory_levels]
    # all PEs share the outermost memory, those of a core its scratchpad, and none its registers
    assert [level.num_sharers for level in arch.memory_levels] == [
        arch.cores.count * arch.pe.rows * arch.pe.cols, arch.pe.rows * arch.pe.cols, 1,
    ]  # fmt: skip
    assert [link is None for _, _, link, _ in arch.memory_levels] == [True, False, False]
    assert [level.tile["K"] for level in levels] == [8, 4, 1]
    assert math.prod(levels[1].unrolled) == 4
