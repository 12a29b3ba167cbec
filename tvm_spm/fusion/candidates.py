"""What a search of group mappings tries: cores, tiles, kept overlap and channels at a time, without the array."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cost_model.fused.flat import (
    BITS,
    FIRST_ACCESS,
    IS_CONST,
    IS_MAC,
    K_LOOP,
    LAYER,
    NUM_TERMS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    STOP_ACCESS,
    TERMS,
    WEIGHT,
    FlatGroup,
)
from tvm_spm.group import Group
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES

PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 28, 56)
"""In how many tiles a core's rows are cut."""

FEW_PARTS = (1, 2, 4, 8)
"""The same of columns and channels."""

WEIGHT_SHARES = (1, 2, 4, 8, 16, 32)
"""Layers keep weights of up to the scratchpad over one of these; of larger weights such a piece is held at a time."""


FEWEST_CHANNELS = 4
"""Fewer at a time would leave most of the array idle."""


class Candidate(NamedTuple):
    """A mapping but for the array, and for the buffers' number."""

    cores: tuple[int, ...]
    tile: tuple[int, ...]
    kept: tuple[int, ...]
    k_tile: tuple[int, ...]


class Axes(NamedTuple):
    """The sink's axes by what they are; every axis is in one of the first four.

    Attributes:
        rows: Outer spatial axes.
        cols: Inner spatial axes.
        channels: Output channels.
        batch: Everything else.
        halo: Along which neighbouring tiles need the same input.
        shared: Along which tiles share all of some tensor of the group.
    """

    rows: tuple[int, ...]
    cols: tuple[int, ...]
    channels: tuple[int, ...]
    batch: tuple[int, ...]
    halo: tuple[int, ...]
    shared: tuple[int, ...]


def axes_of(group: Group, flat: FlatGroup) -> Axes:
    """Name the axes by the loops of the last multiply-accumulate layer they move."""
    rank = int(flat.layer[-1, RANK])
    names: dict[int, str] = {}
    for local in range(flat.num_layers - 1, -1, -1):
        layer = group.graph.layers[group.layers[local]]
        if layer.workload is None:
            continue
        for place, affine in enumerate(layer.out_axes):
            dims = {dim for dim, _ in affine.terms}
            grouped = "G" in dims and layer.workload.kind == "conv2d"
            name = "channels" if "K" in dims or grouped else {"OY": "rows", "OX": "cols"}.get(min(dims, default=""))
            for sink_axis in range(rank):
                if flat.moves[local, place] >> sink_axis & 1:
                    names.setdefault(sink_axis, name or "batch")
    for axis, name in enumerate(("batch", "channels", "rows", "cols") if rank == 4 else ["batch"] * rank):
        names.setdefault(axis, name)
    if "rows" not in names.values():
        names = {axis: "rows" if name == "cols" else name for axis, name in names.items()}
    inside = flat.read[:, PRODUCER] >= 0
    shared = tuple(
        axis for axis in range(rank)
        if any(not (flat.read_moves[read] >> axis & 1).any() for read in np.flatnonzero(inside))
    )  # fmt: skip
    by_name = {
        name: tuple(axis for axis in range(rank) if names[axis] == name)
        for name in ("rows", "cols", "channels", "batch")
    }  # fmt: skip
    return Axes(
        by_name["rows"], by_name["cols"], by_name["channels"], by_name["batch"],
        tuple(axis for axis in range(rank) if _has_halo(flat, axis)), shared,
    )  # fmt: skip


def _has_halo(flat: FlatGroup, sink_axis: int) -> bool:
    """Whether a window that moves with the axis is larger than its stride."""
    for read in range(len(flat.read)):
        if flat.read[read, IS_CONST] or flat.read[read, ROLE] == WEIGHT:
            continue
        layer = int(flat.read[read, LAYER])
        for axis in range(int(flat.read[read, READ_RANK])):
            if not flat.read_moves[read, axis] >> sink_axis & 1:
                continue
            if flat.read[read, STOP_ACCESS] - flat.read[read, FIRST_ACCESS] > 1:
                return True
            row = flat.access[flat.read[read, FIRST_ACCESS], axis].tolist()
            terms = [(row[TERMS + 2 * t], row[TERMS + 2 * t + 1]) for t in range(row[NUM_TERMS])]
            moved = _moved_loops(flat, layer, sink_axis)
            strides = [stride for loop, stride in terms if loop in moved]
            span = 1 + sum(s * (int(flat.loops[layer, loop]) - 1) for loop, s in terms if loop not in moved)
            if strides and span > min(strides):
                return True
    return False


def _moved_loops(flat: FlatGroup, layer: int, sink_axis: int) -> set[int]:
    return {
        int(flat.out_axes[layer, axis, TERMS + 2 * term])
        for axis in range(int(flat.layer[layer, RANK]))
        if flat.moves[layer, axis] >> sink_axis & 1
        for term in range(int(flat.out_axes[layer, axis, NUM_TERMS]))
    }


def core_splits(shape: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """All splits of at most two axes over exactly ``count`` cores, none of them idle."""
    found = []
    for first in range(len(shape)):
        for second in range(first, len(shape)):
            for parts in range(1, count + 1):
                if count % parts or (second == first and parts != count):
                    continue
                cores = [1] * len(shape)
                cores[first] *= parts
                cores[second] *= count // parts if second != first else 1
                if all(_is_busy(extent, part) for extent, part in zip(shape, cores, strict=True)):
                    found.append(tuple(cores))
    return list(dict.fromkeys(found))


def _is_busy(extent: int, parts: int) -> bool:
    return parts <= extent and ceil_div(extent, ceil_div(extent, parts)) == parts


def tiles(flat: FlatGroup, axes: Axes, chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Tiles of a core's share, each with the axes along which overlap may stay."""
    options = []
    for axis, extent in enumerate(chunk):
        if axis in axes.rows:
            sizes = {ceil_div(extent, parts) for parts in PARTS if parts <= extent} | {1, min(2, extent)}
        elif axis in axes.cols or (axis in axes.channels and axis not in axes.shared):
            sizes = {ceil_div(extent, parts) for parts in FEW_PARTS if parts <= extent}
        else:
            sizes = {1, extent} if axis in axes.batch else {extent}
        options.append(sorted(sizes, reverse=True))
    for tile in itertools.product(*options):
        cut = [axis for axis in range(len(tile)) if tile[axis] < chunk[axis]]
        yield tile, ()
        rows = tuple(axis for axis in cut if axis in axes.halo and axis in axes.rows)
        both = tuple(axis for axis in cut if axis in axes.halo)
        if rows:
            yield tile, rows
        if both and both != rows:
            yield tile, both


def channel_tiles(flat: FlatGroup, capacity_bytes: int) -> list[tuple[int, ...]]:
    """Channels at a time per layer: all weights whole, then ever smaller pieces of the largest ones."""
    levels = []
    for share in (None, *WEIGHT_SHARES):
        level = []
        for layer in range(flat.num_layers):
            channels = int(flat.loops[layer, K_LOOP]) if flat.layer[layer, IS_MAC] else 1
            if flat.layer[layer, IS_MAC] and share is not None:
                weights = [read for read in range(len(flat.read)) if flat.read[read, LAYER] == layer]
                bits = max(
                    int(np.prod(flat.read_shape[read])) * int(flat.read[read, BITS])
                    for read in weights if flat.read[read, ROLE] == WEIGHT
                )  # fmt: skip
                groups = int(flat.loops[layer, DIM_NAMES.index("G")])
                most = max(
                    min(channels, FEWEST_CHANNELS), capacity_bytes * 8 // share * channels // max(1, bits // groups)
                )
                channels = ceil_div(channels, ceil_div(channels, min(most, channels)))
            level.append(channels)
        levels.append(tuple(level))
    return list(dict.fromkeys(levels))


def held_weight_bytes(flat: FlatGroup, level: Sequence[int], bank_bytes: int) -> int:
    """Scratchpad that weights take at least."""
    total = 0
    for read in range(len(flat.read)):
        layer = int(flat.read[read, LAYER])
        if flat.read[read, ROLE] == WEIGHT and flat.read[read, PRODUCER] < 0 and layer in _ungrouped(flat):
            elems = int(np.prod(flat.read_shape[read])) // int(flat.loops[layer, K_LOOP]) * level[layer]
            total += ceil_div(ceil_div(elems * int(flat.read[read, BITS]), 8), bank_bytes) * bank_bytes
    return total


def _ungrouped(flat: FlatGroup) -> list[int]:
    groups = DIM_NAMES.index("G")
    return [layer for layer in range(flat.num_layers) if flat.layer[layer, IS_MAC] and flat.loops[layer, groups] == 1]
