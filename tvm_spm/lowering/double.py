"""Lowering of double buffering: tiles that are loaded one after another alternate between two buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import sym, tirx

from tvm_spm.lowering.blocks import Placed, Redirected, placed_blocks, redirected
from tvm_spm.lowering.partial import DOUBLE
from tvm_spm.units import ceil_div


@dataclass(frozen=True, slots=True)
class _TileLoop:
    """A loop over tiles: its variable, level and dim, and the elements of the dim that one iteration covers."""

    var: tirx.Var
    level: str
    dim: str
    tile: int


def two_buffers(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Give every staged operand that the mapping buffers twice a buffer with an axis of 2 in front.

    Before, where the copy is annotated ``spm.double``::

        for k in range(4): for c in range(3):
            W_spm[...] = W[tile k c]
            for ...: mac[...] += W_spm[...] * ...

    After::

        for k in range(4): for c in range(3):
            W_spm[(k + c) % 2, ...] = W[tile k c]
            for ...: mac[...] += W_spm[(k + c) % 2, ...] * ...

    Iterations that the guards leave out do not count, so two tiles that follow each other never share a buffer. The
    host that runs the code has no DMA beside it: its lowering keeps the one buffer that an iteration uses.

    Args:
        func: Its partial sums are staged, and its tiles are exact.
    """
    placed = list(placed_blocks(func.body))
    marked = [block for block in placed if DOUBLE in block.block.annotations and block.copied_operand]
    if not marked:
        return func
    # Where a step is a single product, the start of its sum stands as deep, but not in the sum.
    plain = [block for block in placed if not block.copied_operand]
    mac = max(plain, key=lambda block: (len(_annotated(block)), len(block.block.iter_vars)))
    loops, extents = _tile_loops(mac)
    doubled: dict[tirx.Buffer, Redirected] = {}
    for block in marked:
        staged = staged_buffer(block)
        if staged in doubled:
            continue
        turn = _turn(loops[: len(_annotated(block))], extents)
        pair = tirx.decl_buffer([2, *staged.shape], staged.dtype, staged.name, scope=staged.scope(), layout=None)

        def at(indices: Sequence[tirx.PrimExpr], turn: tirx.PrimExpr = turn) -> list[tirx.PrimExpr]:
            return [turn, *indices]

        doubled[staged] = Redirected(pair, at)
    return func.with_body(redirected(func.body, doubled))


def staged_buffer(block: Placed) -> tirx.Buffer:
    """The buffer of a copy that may be there twice: in SPM of a copy by DMA, in RF of one over the NoC."""
    scope = "global.spm" if "spm.dma" in block.block.annotations else "global.rf"
    regions = [*block.block.writes, *block.block.reads]
    return next(region.source for region in regions if region.source.scope() == scope)


def _annotated(block: Placed) -> list[tirx.For]:
    return [loop for loop in block.loops if "spm.level" in loop.annotations]


def _tile_loops(mac: Placed) -> tuple[list[_TileLoop], dict[str, int]]:
    """The loops around the multiply-accumulates, and the extent of every dim they loop over."""
    found, extents = [], {}
    for loop in _annotated(mac):
        for iter_var, value in zip(mac.block.iter_vars, mac.realize.iter_values, strict=True):
            factor, _ = sym.detect_linear_equation(value, [loop.loop_var])
            if int(factor):
                dim = str(loop.annotations["spm.dim"])
                found.append(_TileLoop(loop.loop_var, str(loop.annotations["spm.level"]), dim, int(factor)))
                extents[dim] = int(iter_var.dom.extent)
    return found, extents


def _turn(loops: Sequence[_TileLoop], extents: dict[str, int]) -> tirx.PrimExpr:
    """Which buffer an iteration uses: the number of iterations before it that have work, modulo 2.

    Tiles before the last one of a dim are full. So a loop over SPM tiles has as many iterations inside for each of
    them, and the sum over all tiles before is a product.
    """
    dims = {loop.dim: [other for other in loops if other.dim == loop.dim] for loop in loops}
    before: int | tirx.PrimExpr = 0
    around: int | tirx.PrimExpr = 1
    for loop in (loop for loop in loops if loop.level == "dram"):
        share = _share(dims[loop.dim], extents[loop.dim])
        inner = next((other for other in dims[loop.dim] if other.level == "spm"), None)
        full = ceil_div(loop.tile, inner.tile) if inner else 1
        num_tiles = _ceil(share, loop.tile)
        last = _ceil(_size(loop, share, num_tiles - 1), inner.tile) if inner else 1
        total = _parity_sum(_parity_product(num_tiles - 1, full), last)
        here = _ceil(_size(loop, share, loop.var), inner.tile) if inner else 1
        before = _parity_sum(_parity_product(before, total), _parity_product(around, _parity_product(loop.var, full)))
        around = _parity_product(around, here)
    inside: int | tirx.PrimExpr = 0
    for loop in (loop for loop in loops if loop.level == "spm"):
        outer = next((other for other in dims[loop.dim] if other.level == "dram"), None)
        share = _share(dims[loop.dim], extents[loop.dim])
        count = _ceil(_size(outer, share, outer.var) if outer else share, loop.tile)
        before = _parity_product(before, count) if outer is None else before
        inside = _parity_sum(_parity_product(inside, count), loop.var)
    total = _parity_sum(before, inside)
    return tirx.const(total % 2, "int32") if isinstance(total, int) else tirx.floormod(total, 2)


def _share(loops: Sequence[_TileLoop], extent: int) -> int | tirx.PrimExpr:
    """Elements of a dim that a core works on."""
    core = next((loop for loop in loops if loop.level == "cores"), None)
    return extent if core is None else _size(core, extent, core.var)


def _size(loop: _TileLoop, share: int | tirx.PrimExpr, index: int | tirx.PrimExpr) -> int | tirx.PrimExpr:
    """Elements of one tile."""
    if isinstance(share, int) and share % loop.tile == 0:
        return loop.tile
    if isinstance(share, int) and isinstance(index, int):
        return min(loop.tile, share - index * loop.tile)
    return tirx.min(share - index * loop.tile, loop.tile)


def _ceil(size: int | tirx.PrimExpr, tile: int) -> int | tirx.PrimExpr:
    """Tiles that a size is cut into."""
    if isinstance(size, int):
        return ceil_div(size, tile)
    return size if tile == 1 else tirx.floordiv(size + (tile - 1), tile)


def _parity_sum(left: int | tirx.PrimExpr, right: int | tirx.PrimExpr) -> int | tirx.PrimExpr:
    """A sum, up to multiples of 2."""
    if isinstance(left, int) and isinstance(right, int):
        return (left + right) % 2
    if isinstance(left, int):
        left, right = right, left
    return left if isinstance(right, int) and right % 2 == 0 else left + right


def _parity_product(left: int | tirx.PrimExpr, right: int | tirx.PrimExpr) -> int | tirx.PrimExpr:
    """A product, up to multiples of 2."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, int):
            return other if one % 2 else 0
    return left * right
