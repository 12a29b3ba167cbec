"""Small rewrites of a TIR schedule: tile the nest by a mapping, stage operands in SPM and RF, mark loops."""

from __future__ import annotations

import collections.abc
import math
from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from schedules.layer.axes import outer_first
from schedules.layer.footprint import LEVELS, Loop
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

SPM_SCOPE = "global.spm"
RF_SCOPE = "global.rf"
VECTOR_SCOPE = "global.vector"
"""What the vector unit holds of an extra that streams by; no part of the SPM."""

Loops = dict[Loop, LoopRV]
"""The loops of one block by level and dim; only those that iterate."""


def separate_dims(
    sch: s_tir.Schedule, block: SBlockRV, iter_dims: Sequence[tuple[str, ...]], extents: Dims
) -> tuple[dict[str, LoopRV], list[LoopRV]]:
    """Give every dim a loop of its own, also where one index of a tensor holds two dims.

    Before, with ``iter_dims = (("N",), ("G", "K"))``::

        for n, channel in grid(N, G * K):
            mac[n, channel] = ...

    After::

        for n, g, k in grid(N, G, K):
            mac[n, g * K + k] = ...

    Args:
        iter_dims: Per loop of the block, the dims it stands for, outer to inner; empty for a unit loop.

    Returns:
        The loop of each dim that iterates, and all other loops.
    """
    if any(len(dims) > 1 for dims in iter_dims):
        index_dtype = str(sch.get(sch.get_loops(block)[0]).loop_var.ty.dtype)
        sch.transform_block_layout(block, _digits(iter_dims, extents, index_dtype))
    names = [name for dims in iter_dims for name in (dims or ("",))]
    loops = list(zip(names, sch.get_loops(block), strict=True))
    iterating = {name: loop for name, loop in loops if name and extents[name] > 1}
    return iterating, [loop for name, loop in loops if name not in iterating]


def _digits(iter_dims: Sequence[tuple[str, ...]], extents: Dims, index_dtype: str) -> tirx.IndexMap:
    def separate(*indices: tirx.Var) -> list[tirx.PrimExpr]:
        parts: list[tirx.PrimExpr] = []
        for index, dims in zip(indices, iter_dims, strict=True):
            inner = [math.prod(extents[name] for name in dims[position + 1 :]) for position in range(len(dims))]
            for position, (name, below) in enumerate(zip(dims, inner, strict=True)):
                digit = index // below if below > 1 else index
                parts.append(digit % extents[name] if position else digit)
            parts += [] if dims else [index]
        return parts

    return tirx.IndexMap.from_func(separate, ndim=len(iter_dims), index_dtype=index_dtype)


def tile_dims(
    sch: s_tir.Schedule,
    loops: collections.abc.Mapping[str, LoopRV],
    mapping: Mapping,
    extents: Dims,
    deepest: str = "rf",
) -> Loops:
    """Split the loop of every dim by the levels of a mapping; guards keep the edges exact.

    Before::

        for k in range(K):
            mac[k] = ...

    After, with ``deepest="dram"``::

        for core, tile in grid(cores, ceil(core_tile / spm)):
            for k in range(spm):
                where core * core_tile + tile * spm + k < K and tile * spm + k < core_tile
                mac[...] = ...

    Args:
        deepest: Level below which a dim is not split further.

    Returns:
        The loops of all levels down to ``deepest``, and as level ``rest`` what is left below it; a level without
        iterations has none.
    """
    wanted = LEVELS[: LEVELS.index(deepest) + 1]
    core_tile, dram, spm = mapping.core_tile(extents), mapping.dram_factors(extents), mapping.spm_factors()
    array = mapping.array
    found: Loops = {}
    for name, rest in loops.items():
        steps = [
            ("cores", mapping.cores[name], core_tile[name]),
            ("dram", dram[name], mapping.spm[name]),
            ("spm", spm[name], array[name]),
            ("rows", mapping.rows[name], mapping.cols[name] * mapping.rf[name]),
            ("cols", mapping.cols[name], mapping.rf[name]),
            ("rf", mapping.rf[name], 1),
        ]
        for level, factor, tile in steps:
            if level not in wanted or factor == 1:
                continue
            if tile == 1:
                found[level, name] = rest
                break
            found[level, name], rest = sch.split(rest, [factor, tile])
        else:
            found["rest", name] = rest
    return found


def order_loops(
    sch: s_tir.Schedule, loops: Loops, workload: Workload, mapping: Mapping, others: Sequence[LoopRV]
) -> list[Loop]:
    """Put the loops in the order of the mapping, those of no level innermost.

    The order inside a step is no decision of a mapping: sums stand outside, and neighbours in the output innermost.

    Before::

        for k_dram, k_spm, c_dram, c_spm in grid(...):
            mac[...] = ...

    After, with DRAM order ``C K`` and SPM order ``K C``::

        for c_dram, k_dram, k_spm, c_spm in grid(...):
            mac[...] = ...

    Returns:
        The loops that iterate, outer to inner.
    """
    order = [("cores", name) for name in DIM_NAMES]
    order += [("dram", name) for name in mapping.dram_order] + [("spm", name) for name in mapping.spm_order]
    outputs = [name for axis in workload.O.axes for name, _ in outer_first(axis)]
    order += [(level, name) for name in (*REDUCTION_DIMS, *outputs) for level in ("rows", "cols", "rf")]
    present = [loop for loop in order if loop in loops]
    everything = [loops[loop] for loop in present] + list(others)
    if len(everything) > 1:
        sch.reorder(*everything)
    return present


def lift_loops(sch: s_tir.Schedule, shared: Sequence[Loop], loops: Loops, others: Sequence[LoopRV]) -> None:
    """Put some loops outermost, in their order.

    Before::

        for k, i, y, j in grid(...):
            store[...] = ...

    After, with ``shared = [y, k]``::

        for y, k, i, j in grid(...):
            store[...] = ...
    """
    inner = [loop for key, loop in loops.items() if key not in shared]
    everything = [loops[key] for key in shared] + inner + list(others)
    if len(everything) > 1:
        sch.reorder(*everything)


def merge_loops(sch: s_tir.Schedule, shared: Sequence[Loop], nests: Sequence[Loops]) -> None:
    """Run several blocks under the same outer loops; guards stay, so each touches exactly its own tile.

    Before::

        for k, i in grid(tiles, inner): mac[...] = ...
        for k, i in grid(tiles, inner): store[...] = ...

    After, with ``shared = [k]``::

        for k in range(tiles):
            for i in range(inner): mac[...] = ...
            for i in range(inner): store[...] = ...

    Args:
        shared: Outer to inner; every nest starts with these loops, of equal extents.
        nests: In the order of their work; their entries of ``shared`` become the merged loops.
    """
    if len(nests) < 2:
        return
    for loop in shared:
        merged = sch.merge(*(nest[loop] for nest in nests))
        for nest in nests:
            nest[loop] = merged


def stage_input(
    sch: s_tir.Schedule, mac: SBlockRV, read_index: int, operand: Operand, spm_at: LoopRV | None, rf_at: LoopRV | None
) -> tuple[SBlockRV, SBlockRV]:
    """Copy an operand from DRAM to SPM at one loop and from SPM to RF at another.

    Before::

        for k in ...:
            for c in ...: mac[...] += I[...] * W[...]

    After, with ``spm_at = k`` and ``rf_at = c``::

        for k in ...:
            I_spm[tile] = I[tile]
            for c in ...: I_rf[tile] = I_spm[tile]; mac[...] += I_rf[...] * W[...]

    Args:
        read_index: Of the operand in the block's reads.
        spm_at: ``None`` copies the whole operand before all loops.
        rf_at: At ``spm_at`` or inside it.

    Returns:
        The blocks that copy to SPM, annotated ``spm.dma``, and to RF, annotated ``spm.noc``.
    """
    spm = sch.cache_read(mac, read_index, SPM_SCOPE, consumer_blocks=[mac])
    rf = sch.cache_read(mac, read_index, RF_SCOPE)
    for block, loop in ((rf, rf_at), (spm, spm_at)):
        if loop is not None:
            sch.compute_at(block, loop)
    sch.annotate(spm, "spm.dma", operand.name)
    sch.annotate(rf, "spm.noc", operand.name)
    return spm, rf


def compute_in_copy(sch: s_tir.Schedule, block: str) -> None:
    """Let the copy to SPM produce padding, or take numbers out of bytes, so that no such tensor exists in DRAM.

    Before::

        for y in range(IY + 2): padded[y] = I[y - 1] if 1 <= y <= IY else 0
        for ...: I_spm[y] = padded[y]

    After::

        for ...: I_spm[y] = I[y - 1] if 1 <= y <= IY else 0
    """
    sch.compute_inline(sch.get_sblock(block))


def stage_output(sch: s_tir.Schedule, mac: SBlockRV, last: SBlockRV | None) -> SBlockRV:
    """Keep the sum in SPM; one block stores it to DRAM, with the epilogue on the way.

    Before::

        mac[...] += ...
        O[...] = relu(mac[...])

    After, with ``mac_spm`` in scope ``global.spm``::

        mac_spm[...] += ...
        O[...] = relu(mac_spm[...])

    Args:
        last: The only block behind the sum; ``None`` if the sum is the output.

    Returns:
        The block that stores to DRAM, annotated ``spm.dma``.
    """
    if last is None:
        last = sch.cache_write(mac, 0, SPM_SCOPE)
    else:
        sch.set_scope(mac, 0, SPM_SCOPE)
    sch.annotate(last, "spm.dma", Operand.O.name)
    return last


def stream_extra(sch: s_tir.Schedule, store: SBlockRV, param: tirx.Buffer, number: int, at: LoopRV | None) -> SBlockRV:
    """Read an extra of the epilogue from DRAM once per tile that leaves, however often its elements are used.

    Before::

        for k in ...:
            for y in ...: O[k, y] = mac_spm[k, y] + E[k]

    After, with ``at = k`` and ``E_vector`` in scope ``global.vector``::

        for k in ...:
            E_vector[k] = E[k]
            for y in ...: O[k, y] = mac_spm[k, y] + E_vector[k]

    Args:
        store: The block that stores to DRAM.
        param: The tensor.
        number: Of the extra in the epilogue.
        at: ``None`` reads all of it before all loops.

    Returns:
        The block that reads, annotated ``spm.dma`` with ``E`` and the number.
    """
    reads = sch.get(store).reads
    index = next(i for i, region in enumerate(reads) if region.source.same_as(param))
    block = sch.cache_read(store, index, VECTOR_SCOPE, consumer_blocks=[store])
    if at is not None:
        sch.compute_at(block, at)
    sch.annotate(block, "spm.dma", f"E{number}")
    return block


def accumulate_in_rf(sch: s_tir.Schedule, mac: SBlockRV) -> SBlockRV:
    """Sum up in RF and write the finished tile to SPM.

    Before::

        mac_spm[...] += ...

    After::

        mac_rf[...] += ...
        mac_spm[...] = mac_rf[...]

    Returns:
        The block that writes to SPM, annotated ``spm.noc``.
    """
    block = sch.cache_write(mac, 0, RF_SCOPE)
    sch.annotate(block, "spm.noc", Operand.O.name)
    return block


def accumulate_outside_rf(sch: s_tir.Schedule, mac: SBlockRV, level: str) -> None:
    """Say how far sums go that leave RF before their last addition.

    The block is annotated ``spm.accumulate`` with the level; lowering for the accelerator then makes the copies of
    partial sums, because an unfinished sum cannot be staged while its block is scheduled.

    Before and after::

        for c in ...:
            for k in ...:
                mac_spm[k] += ...

    Args:
        level: ``SPM``, or ``DRAM`` if they leave SPM too.
    """
    sch.annotate(mac, "spm.accumulate", level)


def mark_double(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Say that what a block writes has two buffers on the accelerator, so that copies run beside the work.

    Before and after::

        for k in ...:
            W_spm[tile] = W[tile]
            for ...: mac[...] += W_spm[...] * ...
    """
    sch.annotate(block, "spm.double", 1)


def annotate_loops(sch: s_tir.Schedule, loops: Loops) -> None:
    """Say of every loop which level and dim it is.

    Before::

        for k0 in range(2):
            for k1 in range(8): ...

    After::

        for k0 in serial(2, annotations={"spm.level": "cores", "spm.dim": "K"}):
            for k1 in serial(8, annotations={"spm.level": "rf", "spm.dim": "K"}): ...
    """
    for (level, name), loop in loops.items():
        sch.annotate(loop, "spm.level", level)
        sch.annotate(loop, "spm.dim", name)
