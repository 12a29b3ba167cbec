"""The rule of a transfer (``tvm_spm.transfer``): compiled once for every engine that is, and for a tile of a tensor."""

from __future__ import annotations

import math

from tvm_spm.arch import Arch
from tvm_spm.jit import lean
from tvm_spm.transfer import transfer as _transfer
from tvm_spm.workload import Projection

transfer = lean(_transfer)
"""(cycles, bits) of a box: ``(elems, bursts, elem_bits, burst_bits, startup_cycles, bytes_per_cycle)``."""


def box_transfer(projection: Projection, box: tuple[int, ...], arch: Arch) -> tuple[int, int]:
    """(cycles, bits) of moving a tile of a tensor that spans ``box`` elements per axis, outermost axis first."""
    bursts = 1
    for inner in range(len(box) - 1, -1, -1):
        if box[inner] < projection.axes[inner].extent:
            bursts = math.prod(box[:inner])
            break
    return _transfer(
        math.prod(box), bursts, projection.elem_bits, arch.burst_bits, arch.burst_startup_cycles,
        arch.dma_bytes_per_cycle,
    )  # fmt: skip


__all__ = ["box_transfer", "transfer"]
