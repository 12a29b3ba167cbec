"""A search's question as arrays, with everything that does not depend on the mapping worked out once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.objective import objective_value
from tvm_spm.errors import WorkloadError
from tvm_spm.jit import lean
from tvm_spm.space.case import Case
from tvm_spm.space.constraints_batch import RF, rules_of
from tvm_spm.space.legality_batch import Limits, fits_spm, limits_of
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.workload import DIM_NAMES

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

I, W, O, NONE, SINGLE_STEP = 0, 1, 2, 3, 4  # noqa: E741 (the operands' own letters)
"""The operand that the innermost SPM loop leaves in place; ``NONE`` if all depend on it, ``SINGLE_STEP`` if there is no
such loop, so that all stay."""

ALL_DOUBLE = 7
"""Bits of the operands with two buffers: all."""

TOLERANCE = 1e-12
"""Objectives that differ by less than this share are equal: energies are sums that may be added up in any order."""


class CaseArrays(NamedTuple):
    """A workload on an arch, and what is wanted.

    Attributes:
        workload: Its arrays.
        arch: Its arrays.
        limits: For capacities.
        is_clipped: Per axis, whether any tile reaches out of the tensor.
        kind: Per dim the one operand that does not depend on it, ``NONE`` if all do.
        objective: Code of the objective.
        energy_cap_pj: No mapping may need more.
        constant_pj: Energy of every mapping: MACs, RF accesses, vector unit.
        words: Words per element of I, W, partial O and finished O, then of the extras.
        least_rf: Per dim the least RF tile that the constraints allow.
        most_rf: Per dim the largest.
        outside: ``(2, 8, 8)``, DRAM and SPM: the constraints want the loop over the first dim outside the second's.
        rf_double: Bits of the operands that they give two RF buffers, ``ANY_BUFFERS`` if free.
    """

    workload: WorkloadArrays
    arch: ArchArrays
    limits: Limits
    is_clipped: NDArray[np.bool_]
    kind: Ints
    objective: int
    energy_cap_pj: float
    constant_pj: float
    words: Floats
    least_rf: Ints
    most_rf: Ints
    outside: NDArray[np.bool_]
    rf_double: int


def arrays_of(case: Case, energy_cap_pj: float) -> CaseArrays:
    """Flatten a case.

    Raises:
        WorkloadError: Two operands do not depend on one dim, or outputs on a summed one, so that loop orders have no
            classes by the operand they keep.
    """
    workload = case.workload
    tensors, machine = WorkloadArrays.of(workload), ArchArrays.of(case.arch)
    kind = np.full(NUM_DIMS, NONE, dtype=np.int64)
    for d, name in enumerate(DIM_NAMES):
        free = [operand for operand in range(3) if not tensors.is_relevant[operand, d]]
        if tensors.dims[d] > 1 and (len(free) > 1 or (O in free) != bool(tensors.is_reduction[d])):
            raise WorkloadError(
                f"{workload.kind}: dim {name}: exact search needs every dim to index at least two of I, W, O, "
                f"and O exactly if it is not summed over"
            )
        if tensors.dims[d] > 1 and free:
            kind[d] = free[0]
    axes = [a for p in (workload.I, workload.W, workload.O, *workload.epilogue.extras) for a in p.axes]
    reach = [axis.offset + sum(c * (workload.dims[name] - 1) for name, c in axis.terms) for axis in axes]
    bits = [*tensors.elem_bits[:3].tolist(), tensors.out_bits, *tensors.elem_bits[3:].tolist()]
    rules = rules_of(case.constraints, workload)
    words = np.array(bits, dtype=np.float64) / machine.word_bits
    rf_words = float(words[I] + words[W] + 2 * words[O])
    vector_ops = workload.O.tensor_elems() * tensors.num_ops_per_elem
    return CaseArrays(
        workload=tensors,
        arch=machine,
        limits=limits_of(workload, case.arch),
        is_clipped=np.array([axis.offset < 0 or end >= axis.extent for axis, end in zip(axes, reach, strict=True)]),
        kind=kind,
        objective=case.objective.code,
        energy_cap_pj=energy_cap_pj,
        constant_pj=workload.macs * (machine.mac_op_pj + rf_words * machine.rf_access_pj)
        + vector_ops * machine.vector_op_pj,
        words=words,
        least_rf=rules.low[RF].copy(),
        most_rf=rules.high[RF].copy(),
        outside=rules.outside,
        rf_double=int(rules.double[1]),
    )


@lean
def fitting_of(case: CaseArrays, tile: Ints) -> int:
    """Bit ``b`` is set if an SPM tile fits when the operands with the bits ``b`` have two buffers."""
    if fits_spm(case.limits, tile, ALL_DOUBLE):
        return (1 << (ALL_DOUBLE + 1)) - 1
    fitting = 0
    for double in range(ALL_DOUBLE):
        if fits_spm(case.limits, tile, double):
            fitting |= 1 << double
    return fitting


@lean
def objective_of(case: CaseArrays, energy_pj: float, cycles: float) -> float:
    """What is minimised; infinite above the energy cap, but for rounding."""
    if energy_pj > case.energy_cap_pj * (1.0 + TOLERANCE):
        return np.inf
    return objective_value(case.objective, float(cycles), energy_pj)
