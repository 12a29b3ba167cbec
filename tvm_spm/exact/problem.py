"""A workload on an arch, with everything that does not depend on the mapping worked out once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from tvm_spm.arch import Arch
from tvm_spm.errors import WorkloadError
from tvm_spm.exact.pass_time import NONE, Ints, O
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.constraints_batch import RF, rules_of
from tvm_spm.space.legality_batch import Limits, limits_of
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.workload import DIM_NAMES, Workload

EDP, ENERGY, LATENCY = 0, 1, 2
ANYTHING = Constraints()


class Wanted(NamedTuple):
    """Constraints that tiles and loops are held against one by one; the others shorten the lists of tiles.

    Attributes:
        least_rf: Per dim the least RF tile.
        most_rf: Per dim the largest.
        outside: ``(2, 8, 8)``, DRAM and SPM: the loop over the first dim runs outside that over the second.
        rf_double: Bits of the operands with two RF buffers, ``ANY_BUFFERS`` if free.
    """

    least_rf: Ints
    most_rf: Ints
    outside: NDArray[np.bool_]
    rf_double: int


class Problem(NamedTuple):
    """A workload on an arch, and what is wanted.

    Attributes:
        workload: Its arrays.
        arch: Its arrays.
        limits: For capacities.
        kind: Per dim the one operand that does not depend on it, ``NONE`` if all do.
        is_clipped: Per axis, whether any tile reaches out of the tensor.
        objective: ``EDP``, ``ENERGY`` or ``LATENCY``.
        energy_cap_pj: No mapping may need more.
        constant_pj: Energy of every mapping: MACs, RF accesses, vector unit.
        words: Words per element of I, W, partial O and finished O, then of the extras.
        wanted: Constraints on RF tiles, orders and buffers.
    """

    workload: WorkloadArrays
    arch: ArchArrays
    limits: Limits
    kind: Ints
    is_clipped: NDArray[np.bool_]
    objective: int
    energy_cap_pj: float
    constant_pj: float
    words: NDArray[np.float64]
    wanted: Wanted


def make_problem(
    workload: Workload, arch: Arch, objective: int, energy_cap_pj: float, constraints: Constraints = ANYTHING
) -> Problem:
    """Flatten a workload and an arch.

    Raises:
        WorkloadError: Two operands do not depend on one dim, or outputs on a summed one, so that loop orders have no
            classes by the operand they keep.
    """
    tensors, machine = WorkloadArrays.of(workload), ArchArrays.of(arch)
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
    rules = rules_of(constraints, workload)
    words = np.array(bits, dtype=np.float64) / machine.word_bits
    return Problem(
        workload=tensors,
        arch=machine,
        limits=limits_of(workload, arch),
        kind=kind,
        is_clipped=np.array([axis.offset < 0 or end >= axis.extent for axis, end in zip(axes, reach, strict=True)]),
        objective=objective,
        energy_cap_pj=energy_cap_pj,
        constant_pj=workload.macs
        * (machine.mac_op_pj + float(words[0] + words[1] + 2 * words[2]) * machine.rf_access_pj)
        + workload.O.tensor_elems() * tensors.num_ops_per_elem * machine.vector_op_pj,
        words=words,
        wanted=Wanted(
            least_rf=rules.low[RF].copy(),
            most_rf=rules.high[RF].copy(),
            outside=rules.outside,
            rf_double=int(rules.double[1]),
        ),
    )
