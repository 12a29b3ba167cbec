"""A floor under every mapping: each MAC is done once and each touched word crosses each level once."""

from __future__ import annotations

import itertools
import math

from tvm_spm.arch import Arch
from tvm_spm.objective import Objective
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Axis, Dims, Operand, Projection, Workload


def touched_elems(projection: Projection, extents: Dims) -> int:
    """Distinct elements of a tensor that the whole nest touches; padding and holes of a stride do not count."""
    return math.prod(_touched(axis, extents) for axis in projection.axes)


def lower_bound(workload: Workload, arch: Arch, objective: str) -> float:
    """No execution of a workload has a smaller ``edp``, ``energy`` or ``latency``.

    Energy counts the MACs with their four RF accesses, and for every touched word one DRAM access, two SPM accesses,
    one crossing of the NoC and one delivery. Cycles are the larger of MACs at the peak rate and DRAM bytes at the
    peak rate; with open pages, those bytes lie in rows that are opened once at least. No mapping need reach either.

    Source: the floor that mappers are compared with in the literature, extended to any element width.
    """
    return Objective.of(objective).value_of(float(_cycles(workload, arch)), _energy_pj(workload, arch))


def _touched(axis: Axis, extents: Dims) -> int:
    ranges = [range(0, coefficient * extents[name], coefficient) for name, coefficient in axis.terms]
    indices = {axis.offset + sum(parts) for parts in itertools.product(*ranges)}
    return sum(0 <= index < axis.extent for index in indices)


def _moved(workload: Workload) -> list[Projection]:
    return [workload.I, workload.W, workload.final_projection(), *workload.epilogue.extras]


def _cycles(workload: Workload, arch: Arch) -> int:
    num_bytes = sum(bits_to_bytes(touched_elems(p, workload.dims) * p.elem_bits) for p in _moved(workload))
    channels, pages = min(arch.levels.DRAM.channels, arch.cores.count), arch.levels.DRAM.pages
    rate = arch.dma_bytes_per_cycle * channels
    waits = 0 if pages is None else ceil_div(num_bytes, pages.row_bytes) * (pages.miss_cycles - pages.hit_cycles)
    return arch.cores.launch_cycles + max(
        ceil_div(workload.macs, arch.peak_macs_per_cycle), math.ceil(num_bytes / rate + waits / channels)
    )


def _energy_pj(workload: Workload, arch: Arch) -> float:
    words = {operand: workload.projection(operand).elem_bits / arch.word_bits for operand in Operand}
    levels, noc = arch.levels, arch.noc
    rf_words = words[Operand.I] + words[Operand.W] + 2 * words[Operand.O]
    total = workload.macs * (arch.mac.op_pj + rf_words * levels.RF.access_pj)
    for operand in Operand:
        elems = touched_elems(workload.projection(operand), workload.dims)
        on_chip = 2 * levels.SPM.access_pj + noc.elem_pj + noc.delivery_pj + levels.RF.fill_pj
        total += elems * words[operand] * on_chip
    for projection in _moved(workload):
        elems = touched_elems(projection, workload.dims)
        total += elems * projection.elem_bits / arch.word_bits * levels.DRAM.access_pj
    outputs = touched_elems(workload.O, workload.dims)
    return total + outputs * workload.epilogue.num_ops_per_elem * arch.vector.op_pj
