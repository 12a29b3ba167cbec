"""The PE array: what it holds, one pass over the tiles in SPM, and counts of what crosses the networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_spm.stream.check import DIMS, MOST_ELEMS, OPERANDS
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import AxisSetup, DimSetup, NestSetup, RunPass
from tvm_spm.stream.interpret.boxes import view

SUMMED = tuple(DIMS.index(name) for name in ("C", "FY", "FX"))

Elems = NDArray[Any]
Sizes = tuple[int, ...]


@dataclass(slots=True)
class Traffic:
    """Elements that crossed between SPM and the array, per operand.

    Attributes:
        crossed: Once per crossing.
        delivered: Arrivals at PEs; for O, elements that entered or left.
        left: Outputs that left.
        steps: Of the array.
        macs: Of all PEs.
    """

    crossed: list[int] = field(default_factory=lambda: [0, 0, 0])
    delivered: list[int] = field(default_factory=lambda: [0, 0, 0])
    left: int = 0
    steps: int = 0
    macs: int = 0


@dataclass(slots=True)
class PeArrayState:
    """What is set up, and what the PEs hold: a tile per operand, all PEs together.

    Attributes:
        nest: Loops of a pass.
        dims: In the order of ``DIMS``.
        axes: Of all operands.
        held: Per operand, the tile that entered last, one axis per dim (of one element if it does not depend on it).
    """

    nest: NestSetup
    dims: list[DimSetup]
    axes: list[AxisSetup]
    held: list[Elems | None] = field(default_factory=lambda: [None, None, None])


def run_pass(state: PeArrayState, run: RunPass, spm: list[bytearray], traffic: Traffic) -> None:
    """Run one pass.

    Args:
        state: Of the array.
        run: Which.
        spm: Memory of I, W and O.
        traffic: Counted on.

    Raises:
        StreamError: It reaches beyond the memory, or uses tiles that are not in the array.
    """
    nest, loops = state.nest, [DIMS.index(name) for name in state.nest.loops]
    enters = [bool(run.loads_i), bool(run.loads_w)]
    reads, clears = bool(run.reads_o), bool(run.clears_o)
    for index, moves in _steps(loops, run.counts):
        first = [i * each.array for i, each in zip(index, state.dims, strict=True)]
        sizes = tuple(
            last if i == count - 1 else each.array
            for i, count, last, each in zip(index, run.counts, run.lasts, state.dims, strict=True)
        )
        if math.prod(sizes) > MOST_ELEMS:
            raise StreamError(f"pass {run.number}: a step of {math.prod(sizes):,} products: must be <= {MOST_ELEMS:,}")
        for operand in (0, 1):
            if enters[operand]:
                state.held[operand] = _tile(state, run, spm, operand, first, sizes).copy()
                _count(state, operand, sizes, traffic)
        sums = _tile(state, run, spm, 2, first, sizes)
        if reads:
            state.held[2] = sums.copy()
            _count(state, 2, sizes, traffic)
        elif clears:
            state.held[2] = np.zeros(sums.shape, sums.dtype)
        _multiply(state, sizes, run)
        traffic.steps += 1
        traffic.macs += math.prod(sizes)
        leaves = moves < nest.depths[2] if moves is not None else bool(run.o_leaves)
        if leaves:
            sums[...] = state.held[2]
            _count(state, 2, sizes, traffic)
            traffic.left += _box(state, 2, sizes)
        if moves is not None:
            following = _following(loops, run.counts, index)
            enters = [moves < nest.depths[0], moves < nest.depths[1]]
            is_new = moves < nest.depths[2]
            has_sums = bool(run.reads_o) or any(following[d] > 0 for d in SUMMED)
            reads, clears = is_new and has_sums, is_new and not has_sums


def _steps(loops: list[int], counts: Sizes) -> Iterator[tuple[Sizes, int | None]]:
    """Indices of all steps in order, and which loop moves after each; None after the last."""
    index = [0] * len(DIMS)
    while True:
        moves = next((at for at in reversed(range(len(loops))) if index[loops[at]] < counts[loops[at]] - 1), None)
        yield tuple(index), moves
        if moves is None:
            return
        index = list(_following(loops, counts, tuple(index)))


def _following(loops: list[int], counts: Sizes, index: Sizes) -> Sizes:
    """The index after one."""
    following = list(index)
    for d in reversed(loops):
        if following[d] < counts[d] - 1:
            following[d] += 1
            break
        following[d] = 0
    return tuple(following)


def _tile(
    state: PeArrayState, run: RunPass, spm: list[bytearray], operand: int, first: list[int], sizes: Sizes
) -> Elems:
    """An array tile of an operand in SPM, one axis per dim; of one element where it does not depend on it."""
    steps = [each.spm_steps[operand] for each in state.dims]
    shape = [size if step else 1 for size, step in zip(sizes, steps, strict=True)]
    address = run.spm[operand] + sum(i * step for i, step in zip(first, steps, strict=True))
    what = f"pass {run.number}: tile of {OPERANDS[operand]} in SPM"
    return view(spm[operand], state.nest.dtypes[operand], address, shape, steps, what)


def _multiply(state: PeArrayState, sizes: Sizes, run: RunPass) -> None:
    """Add the products of one step to the sums."""
    tiles = []
    for operand in range(3):
        held = state.held[operand]
        shape = tuple(size if each.spm_steps[operand] else 1 for size, each in zip(sizes, state.dims, strict=True))
        if held is None or held.shape != shape:
            holds = "nothing" if held is None else f"a tile of {held.shape}"
            raise StreamError(f"pass {run.number}: the array holds {holds} of {OPERANDS[operand]}: must be {shape}")
        tiles.append(held)
    dtype = np.dtype(state.nest.dtypes[2])
    inputs, weights, sums = tiles
    axes = tuple(d for d, size in enumerate(sums.shape) if size == 1)
    with np.errstate(all="ignore"):
        products = inputs.astype(dtype) * weights.astype(dtype)
        # dims that neither depends on repeat the product
        repeats = math.prod(size for d, size in enumerate(sizes) if d in axes and products.shape[d] == 1)
        sums += products.sum(axis=axes, keepdims=True, dtype=dtype) * dtype.type(repeats)


def _box(state: PeArrayState, operand: int, sizes: Sizes) -> int:
    """Elements of the bounding box of a tile."""
    elems = 1
    for axis in state.axes:
        if axis.operand == OPERANDS[operand]:
            elems *= 1 + sum(c * (sizes[DIMS.index(d)] - 1) for d, c in zip(axis.dims, axis.coefficients, strict=True))
    return elems


def _count(state: PeArrayState, operand: int, sizes: Sizes, traffic: Traffic) -> None:
    """Count a crossing of an array tile, and the PEs that hear it, each the box of its own piece."""
    elems = _box(state, operand, sizes)
    traffic.crossed[operand] += elems
    if operand == 2:
        traffic.delivered[2] += elems
        return
    along = [-(-size // each.rf) for size, each in zip(sizes, state.dims, strict=True)]
    used: set[int] = set()
    heard = 1
    for axis in state.axes:
        if axis.operand != OPERANDS[operand]:
            continue
        terms = [(DIMS.index(d), c) for d, c in zip(axis.dims, axis.coefficients, strict=True)]
        used |= {d for d, _ in terms}
        active = math.prod(along[d] for d, _ in terms)
        heard *= active + sum(c * (sizes[d] - along[d]) * (active // along[d]) for d, c in terms)
    idle = math.prod(along[d] for d in range(len(DIMS)) if d not in used)
    traffic.delivered[operand] += heard * idle
