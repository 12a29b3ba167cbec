"""Scratchpad of one core for a group: which buffers are live while each layer runs, in whole banks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cost_model.fused.flat import (
    BITS,
    IS_MAC,
    LAST_READER,
    LAYER,
    OUT_BITS,
    PRODUCER,
    RANK,
    READ_RANK,
    ROLE,
    SUM_BITS,
    FlatGroup,
)
from cost_model.fused.flat import EXTRA as EXTRA_ROLE
from cost_model.fused.state import NUM_TRANSFERS, Share, Walk
from tvm_spm.units import bits_to_bytes, ceil_div

Terms = tuple[tuple[str, int], ...]
"""Names of buffers and their bytes, in whole banks."""


def peak_terms(
    flat: FlatGroup, share: Share, walk: Walk, bank_bytes: int, names: Sequence[str], read_names: Sequence[str]
) -> tuple[int, Terms]:
    """The layer during which most is live, and every buffer that is live then."""
    held = _held(flat, share, walk, bank_bytes, names, read_names)
    peaks = []
    for layer in range(flat.num_layers):
        live = list(held)
        for other in range(flat.num_layers - 1):
            is_live = len(share.kept) > 0 or other <= layer <= flat.layer[other, LAST_READER]
            if is_live and walk.written[other]:
                bits = int(flat.layer[other, OUT_BITS])
                if other == layer:
                    bits = max(bits, int(flat.layer[other, SUM_BITS]))
                extents = _held_extents(
                    share, flat.layer_moves[other].tolist(), walk.layer_extents[other].tolist(),
                    walk.layer_spans[other].tolist(), int(flat.layer[other, RANK]),
                )  # fmt: skip
                live.append((names[other], _banks(math.prod(extents) * bits, bank_bytes)))
        peaks.append((sum(value for _, value in live), -layer, tuple(live)))
    _, layer, terms = max(peaks)
    return -layer, terms


def _held(
    flat: FlatGroup, share: Share, walk: Walk, bank_bytes: int, names: Sequence[str], read_names: Sequence[str]
) -> list[tuple[str, int]]:
    """Buffers of external tensors and of the sink, which stay from the first stage to the last."""
    copies, sink, held = 2 if share.is_double else 1, flat.num_layers - 1, []
    for read in range(len(flat.read)):
        row, rank = flat.read[read].tolist(), int(flat.read[read, READ_RANK])
        is_streamed = row[LAYER] == sink and flat.layer[sink, IS_MAC] and row[ROLE] == EXTRA_ROLE
        loads = int(walk.reads[read, NUM_TRANSFERS])
        if row[PRODUCER] >= 0 or is_streamed or loads == 0:
            continue
        extents = _held_extents(
            share, flat.read_moves[read].tolist(), walk.read_extents[read].tolist(), walk.read_spans[read].tolist(),
            rank,
        )  # fmt: skip
        one = _banks(math.prod(extents) * row[BITS], bank_bytes)
        if loads == 1:
            total = one
        elif len(share.kept) and share.is_double and any(flat.read_moves[read]):
            total = one + _banks(math.prod(walk.read_new[read, :rank].tolist()) * row[BITS], bank_bytes)
        else:
            total = copies * one
        held.append((read_names[read], total))
    bits = max(int(flat.layer[sink, OUT_BITS]), int(flat.layer[sink, SUM_BITS]))
    store_elems = math.prod(walk.store_extents[: int(flat.layer[sink, RANK])].tolist())
    held.append((names[sink], copies * _banks(store_elems * bits, bank_bytes)))
    return held


def _held_extents(share: Share, moves: list[int], extents: list[int], spans: list[list[int]], rank: int) -> list[int]:
    """Extents of a buffer: with kept overlap, whole where tiles come and go between two uses of it."""
    if len(share.kept) == 0:
        return extents[:rank]
    inside = -1 << (int(share.kept[0]) + 1)
    return [
        max(extents[axis], spans[axis][1] - spans[axis][0]) if moves[axis] & inside else extents[axis]
        for axis in range(rank)
    ]  # fmt: skip


def _banks(bits: int, bank_bytes: int) -> int:
    return ceil_div(bits_to_bytes(bits), bank_bytes) * bank_bytes
