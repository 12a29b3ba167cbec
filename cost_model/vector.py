"""Cycles and energy of work on the vector unit; one answer for every model."""

from __future__ import annotations

import math

from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.units import ceil_div
from tvm_spm.workload import Operand, VectorWork


def spm_stream_burst_bytes(arch: Arch) -> int:
    """Largest burst of a stream through SPM: half of one core's whole capacity, so that two bursts alternate."""
    spm = arch.levels.SPM
    total = sum(spm.capacity_of(operand) for operand in Operand) if spm.is_split else spm.capacity_of(Operand.I)
    return max(1, total // 2)


def vector_cost(work: VectorWork, arch: Arch, *, model: str) -> Cost:
    """Cost of streaming ``work`` through the vector units of all cores.

    Bytes and operations are split evenly; every core reads, computes and writes at once, and cores beyond the number
    of DRAM channels take turns.

    Args:
        work: Bytes and operations; no locality is assumed.
        arch: The accelerator.
        model: Named in the result.
    """
    cores = arch.cores.count
    dma_cycles = sum(
        _stream_cycles(ceil_div(num_bytes, cores), arch) for num_bytes in (work.read_bytes, work.write_bytes)
    )
    ops_cycles = math.ceil(ceil_div(work.num_ops, cores) / arch.vector.ops_per_cycle)
    streaming_cycles = max(ops_cycles, dma_cycles * ceil_div(cores, arch.levels.DRAM.channels))
    words = (work.read_bytes + work.write_bytes) * 8 / arch.word_bits
    return Cost(
        cycles=arch.cores.launch_cycles + streaming_cycles,
        energy=Energy(
            spm_pj=words * arch.levels.SPM.access_pj,
            dram_pj=words * arch.levels.DRAM.access_pj,
            vector_pj=work.num_ops * arch.vector.op_pj,
        ),
        model=model,
        macs=0,
        utilization=0.0,
        compute_cycles=ops_cycles,
        noc_stall_cycles=0,
        dma_stall_cycles=streaming_cycles - ops_cycles,
        overhead_cycles=arch.cores.launch_cycles,
        dram_bytes=(work.read_bytes, 0, work.write_bytes, 0),
        dma_busy_cycles=dma_cycles * cores,
    )


def _stream_cycles(num_bytes: int, arch: Arch) -> int:
    bursts = ceil_div(num_bytes, spm_stream_burst_bytes(arch))
    return math.ceil(bursts * arch.burst_startup_cycles + num_bytes / arch.dma_bytes_per_cycle)


__all__ = ["spm_stream_burst_bytes", "vector_cost"]
