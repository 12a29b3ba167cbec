"""A rough count of cycles, only good enough to pick the untuned baseline; no cost model and no lower bound."""

from __future__ import annotations

import math

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.transfer import transfer
from tvm_spm.units import ceil_div
from tvm_spm.workload import Dims, Operand, Projection, Workload

SERIAL_SHARE = 0.1
"""How much of the shorter ones of DMA, NoC and compute is assumed not to overlap; it also breaks ties."""


def rough_cycles(workload: Workload, arch: Arch, mapping: Mapping) -> float:
    """DMA, NoC and compute side by side; tiles count as full and padding as data.

    Args:
        workload: What is computed.
        arch: On what.
        mapping: Its orders need not name loops; one that is not named counts as innermost.
    """
    dram, spm = mapping.dram_factors(workload.dims), mapping.spm_factors()
    outer = [(name, dram[name]) for name in mapping.dram_order if dram[name] > 1]
    loops = outer + [(name, spm[name]) for name in mapping.spm_order if spm[name] > 1]
    waiting = ceil_div(mapping.cores.product(), arch.levels.DRAM.channels)
    dma, noc, array = 0.0, 0.0, mapping.array.combine(mapping.spm, min)
    for operand in Operand:
        projection = workload.projection(operand)
        relevant = projection.relevant_dims
        dma += waiting * _fetches(outer, relevant) * _transfer_cycles(projection, arch, mapping.spm)
        crossing = _fetches(loops, relevant) * projection.tile_elems(array) / arch.noc.elems_per_cycle
        noc = max(noc, crossing)
    compute = float(dram.product() * spm.product() * mapping.rf.product())
    longest = max(dma, noc, compute)
    return longest + SERIAL_SHARE * (dma + noc + compute - longest)


def _fetches(loops: list[tuple[str, int]], relevant: tuple[str, ...]) -> int:
    """Iterations from the outermost loop down to the innermost relevant one."""
    last = max((i for i, (name, _) in enumerate(loops) if name in relevant), default=-1)
    return math.prod(factor for _, factor in loops[: last + 1])


def _transfer_cycles(projection: Projection, arch: Arch, tile: Dims) -> float:
    run, bursts, is_contiguous = 1, 1, True
    for axis in reversed(projection.axes):
        elems = min(axis.tile_elems(tile), axis.extent)
        if is_contiguous:
            run *= elems
        else:
            bursts *= elems
        is_contiguous = is_contiguous and elems == axis.extent
    rate = arch.dma_bytes_per_cycle
    _, bits = transfer(bursts * run, bursts, projection.elem_bits, arch.burst_bits, arch.burst_startup_cycles, rate)
    return bursts * arch.burst_startup_cycles + bits / 8 / rate
