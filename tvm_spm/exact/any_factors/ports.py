"""How fast tiles cross between SPM and the PEs."""

from __future__ import annotations

from cost_model.arrays import UNBOUNDED
from cost_model.crossing import crossing_cycles
from tvm_spm.exact.case_arrays import CaseArrays
from tvm_spm.jit import lean


@lean
def is_shared(case: CaseArrays) -> bool:
    """Whether a port of SPM with a limit serves one network after the other."""
    return case.arch.spm_bytes_per_cycle != UNBOUNDED


@lean
def across(one_by_one: bool, cycles: float, more: float) -> float:
    """Cycles of networks that start together, given those of the others and of one more."""
    return cycles + more if one_by_one else max(cycles, more)


@lean
def crossing_rate(case: CaseArrays, operand: int) -> float:
    """Elements that cross a network in a cycle, if no other needs the port of SPM."""
    if not is_shared(case):
        return case.arch.noc_elems_per_cycle
    return min(case.arch.noc_elems_per_cycle, 8.0 * case.arch.spm_bytes_per_cycle / case.workload.elem_bits[operand])


@lean
def tile_cycles(case: CaseArrays, operand: int, elems: int) -> int:
    """Cycles in which a tile crosses, if no other needs the port of SPM."""
    arch = case.arch
    return crossing_cycles(elems, case.workload.elem_bits[operand], arch.noc_elems_per_cycle, arch.spm_bytes_per_cycle)
