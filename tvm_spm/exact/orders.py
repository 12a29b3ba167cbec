"""Orders of loops and choices of buffers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.case_arrays import Ints
from tvm_spm.jit import lean


@lean
def next_order(order: Ints, low: int, high: int) -> bool:
    """The next permutation of ``order[low:high]`` in lexicographic order; after the last one the first."""
    pivot = high - 2
    while pivot >= low and order[pivot] >= order[pivot + 1]:
        pivot -= 1
    if pivot >= low:
        other = high - 1
        while order[other] <= order[pivot]:
            other -= 1
        order[pivot], order[other] = order[other], order[pivot]
    left, right = pivot + 1 if pivot >= low else low, high - 1
    while left < right:
        order[left], order[right] = order[right], order[left]
        left, right = left + 1, right - 1
    return pivot >= low


@lean
def is_ordered(outside: NDArray[np.bool_], order: Ints, num_loops: int) -> bool:
    """Whether an order, outer to inner, is as the constraints ask."""
    for inner in range(1, num_loops):
        for outer in range(inner):
            if outside[order[inner], order[outer]]:
                return False
    return True


@lean
def is_maximal(fitting: int, double: int) -> bool:
    """Whether no further operand can have two buffers.

    On one core a second SPM buffer never costs cycles: a pass's slot is ``max(pass, beside) + behind``, a load that
    moves from behind to beside adds at most itself to the maximum, and a store moves to the next pass's beside alike
    (``_slot_cycles`` of ``cost_model.analytical.core``).
    """
    for operand in range(3):
        more = double | 1 << operand
        if more != double and fitting >> more & 1:
            return False
    return True
