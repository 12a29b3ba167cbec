"""The queue of requests for DRAM channels: a binary heap of whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import kernel


@kernel
def sift_down(heap: NDArray[np.int64], size: int) -> None:
    """Restore the order of a binary heap whose root has grown."""
    item, at = heap[0], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item
