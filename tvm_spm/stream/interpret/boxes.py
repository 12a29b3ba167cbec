"""Boxes in a memory, as views that never reach beyond it."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
from numpy.typing import NDArray

from tvm_spm.stream.check import require_inside


def view(
    memory: bytearray, dtype: str, address: int, counts: Sequence[int], strides: Sequence[int], what: str
) -> NDArray[np.generic]:
    """Elements of a memory.

    Args:
        memory: Which.
        dtype: Of an element.
        address: Of the first element, in bytes.
        counts: Elements per axis.
        strides: Bytes per axis.
        what: Begins the text of an error.

    Raises:
        StreamError: The memory is too small.
    """
    require_inside(len(memory), np.dtype(dtype).itemsize, address, counts, strides, what)
    if not all(counts):
        return np.empty(tuple(counts), dtype)
    return np.ndarray(tuple(counts), dtype, memory, address, tuple(strides))
