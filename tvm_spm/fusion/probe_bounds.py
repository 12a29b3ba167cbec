"""At least what tiles of a group take of a scratchpad, for many tiles at once and without their overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.cost import walk_part
from cost_model.fused.flat import (
    BITS,
    EXTRA,
    IS_MAC,
    K_LOOP,
    LAST_READER,
    LAYER,
    LEAVES,
    OUT_BITS,
    PRODUCER,
    ROLE,
    WEIGHT,
    FlatGroup,
    Ints,
)
from cost_model.fused.state import CorePart
from tvm_spm.arch import Arch


class Footprints:
    """How buffers grow with the tile: one element and two elements along each axis of the sink are walked.

    Args:
        flat: The group.
        arch: The accelerator.
        shape: Of the sink.
    """

    def __init__(self, flat: FlatGroup, arch: Arch, shape: tuple[int, ...]) -> None:
        self._flat, self._bank_bytes = flat, arch.levels.SPM.bank_bytes
        sink, reads = flat.num_layers - 1, flat.read
        streams = (reads[:, LAYER] == sink) & (reads[:, ROLE] == EXTRA) & bool(flat.layer[sink, IS_MAC])
        self._reads = np.flatnonzero((reads[:, PRODUCER] < 0) & (reads[:, ROLE] != WEIGHT) & ~streams)
        one = self._extents(arch, shape, -1)
        self._slopes = np.stack([self._extents(arch, shape, axis) - one for axis in range(len(shape))])
        self._fixed = np.where((self._slopes == 0).all(axis=0), one, 1)
        self._most = np.concatenate([flat.shape[: flat.num_layers], flat.read_shape[self._reads]])
        self._bits = np.concatenate([flat.layer[:, OUT_BITS], reads[self._reads, BITS]])
        self._live = np.zeros((flat.num_layers, len(self._bits)))
        for tensor in range(flat.num_layers - 1):
            self._live[tensor : flat.layer[tensor, LAST_READER] + 1, tensor] = 1
            self._live[:, tensor] += flat.layer[tensor, LEAVES] * (1 - self._live[:, tensor])
        self._live[:, flat.num_layers - 1 :] = 1

    def _extents(self, arch: Arch, shape: tuple[int, ...], longer: int) -> Ints:
        size = [min(2, extent) if axis == longer else 1 for axis, extent in enumerate(shape)]
        first = [max(0, (extent - 2) // 2) for extent in shape]
        chunk = np.array([[(f, f + s) for f, s in zip(first, size, strict=True)]], np.int64)
        tile = np.array([size], np.int64)
        channels = self._flat.loops[None, :, K_LOOP].copy()
        part = CorePart(chunk, tile, np.zeros_like(tile), channels, np.zeros(1, np.int64))
        walk = walk_part(self._flat, arch, part)
        return walk.extents[[*range(self._flat.num_layers), *(self._flat.num_layers + self._reads)]]

    def least_bytes(self, tile: Ints, k_tile: tuple[int, ...]) -> NDArray[np.float64]:
        """Per tile, without weights and with one buffer each."""
        sink = self._flat.num_layers - 1
        grown = np.tensordot(tile - 1, self._slopes, axes=1) + self._fixed[None]
        elems = np.minimum(grown, self._most[None]).prod(axis=2).astype(np.float64)
        if self._flat.layer[sink, IS_MAC]:
            elems[:, sink] *= k_tile[sink] / self._flat.loops[sink, K_LOOP]
        num_bytes = np.maximum(1, np.ceil(elems * self._bits / 8 / self._bank_bytes)) * self._bank_bytes
        return (num_bytes @ self._live.T).max(axis=1)
