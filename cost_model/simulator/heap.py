"""The queue of requests for DRAM channels: a binary heap of whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import lean, small


@lean
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


@small
def bits_of(count: int) -> int:
    """Bits that hold any number below ``count``."""
    bits = 0
    while 1 << bits < count:
        bits += 1
    return bits


@lean
def push(heap: NDArray[np.int64], size: int, item: int) -> None:
    """Add an item behind the first ``size``, and restore the order."""
    at = size
    while at > 0 and heap[(at - 1) >> 1] > item:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = item


@lean
def grant(free: NDArray[np.int64], time: int, channel_cycles: int) -> int:
    """When a request of ``time`` runs: on the channel that is free first, which it then holds for so long.

    Args:
        free: Heap of when each channel is free.
        time: Of the request.
        channel_cycles: Held.
    """
    start = max(time, free[0])
    free[0] = start + channel_cycles
    sift_down(free, len(free))
    return start
