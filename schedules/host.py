"""A plain fast schedule for host processors, by which unscheduled functions serve as reference."""

from __future__ import annotations

import tvm
from tvm import s_tir, sym, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_spm.frontend.tir.blocks import Block, loads_of, read_blocks
from tvm_spm.lowering.blocks import substitute

_MIN_PARALLEL_ITERATIONS = 1 << 14
"""Below this many iterations, starting threads takes longer than the work."""

_MIN_LANES, _MAX_LANES = 4, 32
"""Partial sums side by side: fewer are hardly faster, more do not fit registers."""

_PIECE = 64
"""Neighbours of a result made for all rows before the next ones, so that what they read stays in a cache."""


def schedule_for_host(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Run every block on all host threads, its innermost loop over neighbours in memory; numbers keep their meaning.

    Those are elements of the result, or terms of a sum where a weight matrix has these side by side. Only the order of
    summation changes. A function that is not made of simple blocks is returned as it is.

    Args:
        func: Not scheduled.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        return func
    sch = s_tir.Schedule(func)
    for block in blocks:
        if block.num_iterations >= _MIN_PARALLEL_ITERATIONS:
            _schedule_block(sch, block)
    return sch.mod["main"]


def _schedule_block(sch: s_tir.Schedule, block: Block) -> None:
    handle = sch.get_sblock(block.name)
    loops = sch.get_loops(handle)
    if len(loops) != len(block.iters):
        return
    spatial = [loop for loop, (_, _, reduces) in zip(loops, block.iters, strict=True) if not reduces]
    summed = [loop for loop, (_, _, reduces) in zip(loops, block.iters, strict=True) if reduces]
    if not block.has_init:
        if spatial and not summed:
            sch.parallel(sch.fuse(*spatial[:-1]) if len(spatial) > 1 else spatial[0])
        return
    if spatial and summed:
        _schedule_sum(sch, block, handle, spatial, summed)


def _schedule_sum(
    sch: s_tir.Schedule, block: Block, handle: SBlockRV, spatial: list[LoopRV], summed: list[LoopRV]
) -> None:
    last_var, last_extent, _ = [entry for entry in block.iters if not entry[2]][-1]
    outer = spatial
    if last_extent > 1 and len(spatial) > 1 and _is_contiguous(block, last_var):
        outer = spatial[:-1]
        sch.reorder(*outer, *summed, spatial[-1])
    elif lanes := _terms_side_by_side(block):
        _sum_in_lanes(sch, handle, spatial, summed, lanes)
        return
    else:
        sch.reorder(*outer, *summed)
    if len(outer) < len(spatial) and _extent(sch, outer) == 1:
        # A vector times a matrix: the only loop left to share out is the innermost one.
        pieces, piece = sch.split(spatial[-1], [None, 64])
        sch.reorder(*outer, pieces, *summed, piece)
        outer = [*outer, pieces]
    fused = sch.fuse(*outer) if len(outer) > 1 else outer[0]
    sch.parallel(fused)
    sch.decompose_reduction(handle, summed[0])


def _sum_in_lanes(
    sch: s_tir.Schedule, handle: SBlockRV, spatial: list[LoopRV], summed: list[LoopRV], lanes: int
) -> None:
    """Every lane sums terms of its own, as vectors; the sums of all lanes are added up at the end."""
    sch.reorder(*spatial, *summed)
    _, lane = sch.split(summed[-1], [None, lanes])
    try:
        partial = sch.rfactor(lane, len(spatial))
    except s_tir.ScheduleError:  # partial results cannot be put together by an operation that TVM knows
        return
    loops = sch.get_loops(partial)
    spatial, (*terms, lane) = loops[: len(spatial)], loops[len(spatial) :]
    pieces, piece = sch.split(spatial[-1], [None, _divisor(_extent(sch, spatial[-1:]), _PIECE)])
    rows = spatial[-2:-1]
    sch.reorder(*spatial[:-2], pieces, *rows, piece, *terms, lane)
    sch.vectorize(lane)
    sch.parallel(sch.fuse(*spatial[:-2], pieces) if len(spatial) > 2 else pieces)
    sch.decompose_reduction(partial, terms[0])
    sch.reverse_compute_at(handle, piece)


def _terms_side_by_side(block: Block) -> int:
    """How many terms of a sum can be read as neighbours from every tensor that they are read from; 0 if too few."""
    summed = [(var, extent) for var, extent, reduces in block.iters if reduces]
    var, extent = summed[-1]
    analyzer = sym.Analyzer()
    for other, size, _ in block.iters:
        analyzer.bind(other, tvm.ir.Range(0, size))
    loads = [load for load in loads_of(block.store.value) if any(_depends(index, var) for index in load.indices)]
    # sums of one tensor, as in norms, are cheap: they keep their order, in which the network computes them too
    if len({load.source for load in loads}) < 2:
        return 0
    for lanes in range(min(_MAX_LANES, extent), _MIN_LANES - 1, -1):
        if extent % lanes:
            continue
        group, lane = (tirx.Var(name, var.ty) for name in ("group", "lane"))
        analyzer.bind(group, tvm.ir.Range(0, extent // lanes))
        analyzer.bind(lane, tvm.ir.Range(0, lanes))
        term = {var: group * lanes + lane}
        found = [[analyzer.simplify(substitute(index, term)) for index in load.indices] for load in loads]
        if all(
            not any(_depends(index, lane) for index in outer) and not _depends(analyzer.simplify(last - lane), lane)
            for *outer, last in found
        ):
            return lanes
    return 0


def _divisor(extent: int, most: int) -> int:
    """The largest divisor that is no larger than ``most``."""
    return next(size for size in range(min(extent, most), 0, -1) if extent % size == 0)


def _extent(sch: s_tir.Schedule, loops: list[LoopRV]) -> int:
    total = 1
    for loop in loops:
        total *= int(sch.get(loop).extent)
    return total


def _is_contiguous(block: Block, var: tirx.Var) -> bool:
    """Whether neighbours along ``var`` are neighbours in every tensor that depends on it."""
    for load in [block.store, *loads_of(block.store.value)]:
        outer = list(load.indices)[:-1]
        if any(_depends(index, var) for index in outer):
            return False
    return True


def _depends(index: tirx.PrimExpr, var: tirx.Var) -> bool:
    return any(used.same_as(var) for used in tirx.analysis.undefined_vars(index))
