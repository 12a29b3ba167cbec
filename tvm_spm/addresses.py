"""Where the tensors of a layer lie in the memory that all cores share: one after the other, row-major."""

from __future__ import annotations

from typing import NamedTuple

from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import Projection, Workload

ALIGNMENT_BYTES = 64
"""Every tensor begins at a multiple of it."""

PARTIAL = "P"
"""The name of partial sums that leave SPM."""


class Located(NamedTuple):
    """A tensor and the address of its first byte.

    Attributes:
        name: ``I``, ``W``, ``O``; ``P`` for partial sums that leave SPM; ``E0``, ``E1``, ... for what epilogues read.
        projection: How loops index it; its elements as wide as they are in memory.
        address: In bytes.
        num_bytes: Of all elements.
    """

    name: str
    projection: Projection
    address: int
    num_bytes: int


def locate(workload: Workload, *, spills: bool) -> tuple[Located, ...]:
    """All tensors of a layer, from address 0 on.

    Args:
        workload: Whose.
        spills: Whether partial sums leave SPM and need a place.
    """
    tensors = [("I", workload.I), ("W", workload.W), ("O", workload.final_projection())]
    tensors += [(PARTIAL, workload.O)] if spills else []
    tensors += [(f"E{number}", extra) for number, extra in enumerate(workload.epilogue.extras)]
    found, address = [], 0
    for name, projection in tensors:
        num_bytes = bits_to_bytes(projection.tensor_elems() * projection.elem_bits)
        found.append(Located(name, projection, address, num_bytes))
        address += ceil_div(num_bytes, ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return tuple(found)
