"""A plain fast schedule for host processors, by which unscheduled functions serve as reference."""

from __future__ import annotations

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from tvm_spm.frontend.tir.blocks import Block, loads_of, read_blocks

_MIN_PARALLEL_ITERATIONS = 1 << 14
"""Below this many iterations, starting threads takes longer than the work."""


def schedule_for_host(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Run every block on all host threads, a sum with its last spatial loop innermost; numbers keep their meaning.

    Only the order of summation changes. A function that is not made of simple blocks is returned as it is.

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
