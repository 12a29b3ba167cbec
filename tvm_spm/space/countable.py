"""Whether everything the models count for a workload on an accelerator fits 64 bits, whatever the mapping."""

from __future__ import annotations

import math

from tvm_spm.arch import Arch
from tvm_spm.errors import NoMappingError
from tvm_spm.units import bits_to_bytes, ceil_div, shown
from tvm_spm.workload import MAX_ELEM_BITS, Projection, Workload

MOST_COUNTED = 2**62
"""Compiled models count in signed 64-bit integers; one bit stays free for sums of two."""

_MARGIN = 8
"""The three operands, outputs that come back as partial sums, and one more of each for extras and for rounding up."""


def require_countable(workload: Workload, arch: Arch) -> None:
    """Refuse a pair for which some mapping would take more cycles, bytes or elements than the models can count.

    Raises:
        NoMappingError: States the largest number that could occur.
    """
    most = most_counted(workload, arch)
    if most > MOST_COUNTED:
        raise NoMappingError(
            f"{workload} on {arch.name}: a mapping could take {shown(most)} cycles: the models count up to "
            f"{shown(MOST_COUNTED)}; split the layer, or use an accelerator with less start-up time per burst"
        )


def is_countable(workload: Workload, arch: Arch) -> bool:
    """Whether ``require_countable`` lets a pair pass."""
    return most_counted(workload, arch) <= MOST_COUNTED


def most_counted(workload: Workload, arch: Arch) -> int:
    """An upper bound of every number that a model counts.

    Each tile, at each level, does at least one multiply-accumulate of its own and spans at most as many elements of a
    tensor as its multiply-accumulates times the largest step of each axis. The worst mapping moves each of those
    elements as a whole burst of its own, at the slowest rate, and waits for each, and for two rows of memory.
    """
    spread = max(_spread(p) for p in (workload.I, workload.W, workload.O, *workload.epilogue.extras))
    elem_bytes, least = bits_to_bytes(MAX_ELEM_BITS), arch.levels.DRAM.burst_bytes
    burst_bytes = ceil_div(elem_bytes, least) * least
    port, pages = arch.levels.SPM.bytes_per_cycle, arch.levels.DRAM.pages
    cycles_per_elem = (
        arch.burst_startup_cycles
        + burst_bytes / arch.dma_bytes_per_cycle
        + 1 / arch.noc.elems_per_cycle
        + (elem_bytes / port if port is not None else 0.0)
        + (1 + workload.epilogue.num_ops_per_elem) / arch.vector.ops_per_cycle
        + arch.pe.mac_stages
        + arch.pe.rows
        + arch.pe.cols
        + 8 * burst_bytes
        + (0 if pages is None else ceil_div(elem_bytes + pages.block_bytes, pages.block_bytes) * pages.miss_cycles)
    )
    num_operands = _MARGIN + len(workload.epilogue.extras)
    return workload.macs * spread * num_operands * math.ceil(cycles_per_elem) + arch.cores.launch_cycles


def _spread(projection: Projection) -> int:
    """Elements of a tile's bounding box per index of the loops that reach it, at most."""
    return math.prod(max((step for _, step in axis.terms), default=1) for axis in projection.axes)
