"""What the vector unit does to finished outputs, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import VectorStep, num_sources
from tvm_spm.workload import Workload

NUM_REGISTERS = 32

MOST_EXTRAS = 16
"""Tensors that one epilogue may read."""

UNTIMED = ("const", "extra")
"""Operations that bring a value and take no time."""


def bits_of(value: float, dtype: str) -> int:
    """The bits of a number, as the immediate of a step holds them."""
    return int.from_bytes(np.array(value, dtype).tobytes(), "little")


def num_timed(steps: Sequence[VectorStep]) -> int:
    """Operations that take time."""
    return sum(step.operation not in UNTIMED for step in steps)


def require_vector(workload: Workload, steps: Sequence[VectorStep]) -> None:
    """Refuse steps that are not the epilogue of a workload.

    Raises:
        StreamError: They are missing, take more operations than are timed, read what is not there, or end in another
            type.
    """
    epilogue, name = workload.epilogue, f"epilogue of {workload}"
    if len(epilogue.extras) > MOST_EXTRAS:
        raise StreamError(f"{name}: reads {len(epilogue.extras)} tensors: must be <= {MOST_EXTRAS}")
    if not steps:
        if epilogue.extras or epilogue.num_ops_per_elem:
            raise StreamError(
                f"{name}: {epilogue.num_ops_per_elem} operations and {len(epilogue.extras)} tensors are timed, and "
                "nothing says what they compute; give the steps of the vector unit"
            )
        return
    if num_timed(steps) > epilogue.num_ops_per_elem:
        raise StreamError(
            f"{name}: {num_timed(steps)} operations: must be <= {epilogue.num_ops_per_elem} that are timed"
        )
    known = {0}
    for number, step in enumerate(steps):
        taken = step.sources[: num_sources(step.operation)]
        missing = [register for register in taken if register not in known]
        if missing:
            raise StreamError(f"{name}: step {number} ({step.operation}) reads register {missing[0]}, which is empty")
        if step.operation == "extra" and step.immediate >= len(epilogue.extras):
            raise StreamError(f"{name}: step {number} reads extra {step.immediate}: must be < {len(epilogue.extras)}")
        known.add(step.target)
    if steps[-1].dtype != workload.out_dtype:
        raise StreamError(f"{name}: the last step gives {steps[-1].dtype}: must be {workload.out_dtype}")
