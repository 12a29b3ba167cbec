"""The values a tile or a factor may take: per number of iterations, the smallest tile that needs no more of them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from tvm_spm.jit import entry, lean


@lean
def _root(n: int) -> int:
    root = int(np.sqrt(n))
    while root * root > n:
        root -= 1
    while (root + 1) * (root + 1) <= n:
        root += 1
    return root


@entry
def num_tiles(extent: int) -> int:
    """How many distinct ``ceil(extent / factor)`` there are."""
    n = extent - 1
    if n == 0:
        return 1
    root = _root(n)
    return 2 * root + (0 if n // root == root else 1)


@entry
def tile_at(extent: int, index: int) -> int:
    """The tile with rank ``index``, from 0, among the distinct ``ceil(extent / factor)``, ascending.

    ``ceil(extent / f) = 1 + floor((extent - 1) / f)``, and the floors below the square root are all integers there.
    """
    n = extent - 1
    if index == 0:
        return 1
    if index <= _root(n):
        return 1 + index
    return 1 + n // (num_tiles(extent) - index)


@lean
def _rank(extent: int, tile: int) -> int:
    n, v = extent - 1, tile - 1
    if v <= _root(n):
        return v
    return num_tiles(extent) - n // v


@entry
def is_tile(extent: int, tile: int, step: int, perfect: bool) -> bool:
    """Whether ``tile`` is one of the choices; perfect ones divide the extent and are multiples of ``step``."""
    if tile < step or tile > extent:
        return False
    if perfect:
        return extent % tile == 0 and tile % step == 0
    return tile == 1 or 1 + (extent - 1) // ((extent - 1) // (tile - 1)) == tile


@entry
def snap_tile(extent: int, wanted: int, step: int, perfect: bool) -> int:
    """The largest choice that is at most ``wanted``, or the smallest one there is.

    Args:
        extent: What the tile is cut from.
        wanted: Any positive number.
        step: The least tile; perfect tiles are multiples of it, and it must divide the extent then.
        perfect: Whether tiles divide the extent.
    """
    wanted = min(wanted, extent)
    if wanted <= step and perfect:
        return step
    if perfect:
        tile = wanted // step * step
        while extent % tile:
            tile -= step
        return tile
    n = extent - 1
    tile = 1 if wanted <= 1 else 1 + n // (n // wanted + 1)
    if tile >= step:
        return tile
    return 1 + n // (n // (step - 1))


@entry
def tile_below(extent: int, tile: int, step: int, perfect: bool) -> int:
    """The next smaller choice, or 0 if there is none."""
    if tile <= step:
        return 0
    below = snap_tile(extent, tile - 1, step, perfect)
    return below if below < tile else 0


@entry
def tile_above(extent: int, tile: int, step: int, perfect: bool) -> int:
    """The next larger choice, or ``tile`` if there is none."""
    if tile >= extent:
        return tile
    if perfect:
        tile += step
        while extent % tile:
            tile += step
        return tile
    return snap_tile(extent, tile, tile + 1, perfect)


@lean
def random_tile(rng: Generator, extent: int, step: int, perfect: bool) -> int:
    """One of the choices, each equally likely."""
    if not perfect:
        first = _rank(extent, snap_tile(extent, step, step, perfect))
        return tile_at(extent, first + int(rng.random() * (num_tiles(extent) - first)))
    quotient, seen, chosen = extent // step, 0, 1
    i = 1
    while i * i <= quotient:
        if quotient % i == 0:
            seen += 1
            if rng.random() * seen < 1.0:
                chosen = i
            if i * i < quotient:
                seen += 1
                if rng.random() * seen < 1.0:
                    chosen = quotient // i
        i += 1
    return chosen * step


@entry
def snap_factor(extent: int, wanted: int, perfect: bool) -> int:
    """The largest factor up to ``wanted`` that leaves none of its parts without work."""
    factor = min(extent, wanted)
    if not perfect:
        return -(-extent // -(-extent // factor))
    while extent % factor:
        factor -= 1
    return factor


@entry
def snap_rf(spm: int, num_pes: int, wanted: int, perfect: bool) -> int:
    """The largest RF tile up to ``wanted``; at least 1.

    Choices are the distinct ``ceil(spm / (num_pes * factor))`` that give each of the PEs at least one element.
    """
    share = -(-spm // num_pes)
    tile = snap_tile(share, wanted, 1, perfect)
    if tile * (num_pes - 1) >= spm:
        tile = tile_below(share, tile, 1, perfect)
    return tile


@entry
def is_rf(spm: int, num_pes: int, tile: int, perfect: bool) -> bool:
    """Whether an RF tile is one of the choices."""
    return is_tile(-(-spm // num_pes), tile, 1, perfect) and tile * (num_pes - 1) < spm


@lean
def random_rf(rng: Generator, spm: int, num_pes: int, perfect: bool) -> int:
    """One of the RF tiles."""
    return snap_rf(spm, num_pes, random_tile(rng, -(-spm // num_pes), 1, perfect), perfect)
