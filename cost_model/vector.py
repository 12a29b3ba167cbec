"""Cycles and energy of work on the vector unit; one answer for every model."""

from __future__ import annotations

import math

from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy, dma_channels
from tvm_spm.units import ceil_div
from tvm_spm.workload import Operand, VectorWork


def spm_stream_burst_bytes(arch: Arch) -> int:
    """Largest burst of a stream through SPM: half of one core's whole capacity, so that two bursts alternate.

    It is cut to whole bursts of memory where there is room for one.
    """
    spm = arch.levels.SPM
    total = sum(spm.capacity_of(operand) for operand in Operand) if spm.is_split else spm.capacity_of(Operand.I)
    least = arch.levels.DRAM.burst_bytes
    return max(1, total // 2 // least * least or total // 2)


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
    read_cycles, read_bytes = _streams(work.read_bytes, arch)
    write_cycles, write_bytes = _streams(work.write_bytes, arch)
    dma_cycles = read_cycles + write_cycles
    ops_cycles = math.ceil(ceil_div(work.num_ops, cores) / arch.vector.ops_per_cycle)
    streaming_cycles = max(ops_cycles, dma_cycles * ceil_div(cores, arch.levels.DRAM.channels))
    words = (work.read_bytes + work.write_bytes) * 8 / arch.word_bits
    unused_bytes = read_bytes + write_bytes - work.read_bytes - work.write_bytes
    return Cost(
        cycles=arch.cores.launch_cycles + streaming_cycles,
        energy=Energy(
            spm_pj=words * arch.levels.SPM.access_pj,
            dram_pj=(words + unused_bytes * 8 / arch.word_bits) * arch.levels.DRAM.access_pj,
            vector_pj=work.num_ops * arch.vector.op_pj,
        ),
        model=model,
        macs=0,
        utilization=0.0,
        compute_cycles=ops_cycles,
        noc_stall_cycles=0,
        dma_stall_cycles=streaming_cycles - ops_cycles,
        overhead_cycles=arch.cores.launch_cycles,
        dram_bytes=(read_bytes, 0, write_bytes, 0),
        dram_unused_bytes=unused_bytes,
        dma_busy_cycles=dma_cycles * cores,
        dma_channels=dma_channels(arch),
    )


def _streams(num_bytes: int, arch: Arch) -> tuple[int, int]:
    """(cycles of one core, bytes moved by all cores) of streams that hold ``num_bytes`` together."""
    share = ceil_div(num_bytes, arch.cores.count)
    cycles, moved_bytes = _stream(share, arch)
    if share == 0:
        return 0, 0
    num_full, rest = divmod(num_bytes, share)
    return cycles, num_full * moved_bytes + _stream(rest, arch)[1]


def _stream(num_bytes: int, arch: Arch) -> tuple[int, int]:
    """(cycles, bytes moved) of one core's stream."""
    burst_bytes, least = spm_stream_burst_bytes(arch), arch.levels.DRAM.burst_bytes
    num_full, rest = divmod(num_bytes, burst_bytes)
    moved_bytes = (num_full * ceil_div(burst_bytes, least) + ceil_div(rest, least)) * least
    bursts = num_full + (1 if rest else 0)
    return math.ceil(bursts * arch.burst_startup_cycles + moved_bytes / arch.dma_bytes_per_cycle), moved_bytes
