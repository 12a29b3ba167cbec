"""Boxes in a memory, as views that never reach beyond it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
from numpy.typing import NDArray

from tvm_spm.stream.errors import StreamError
from tvm_spm.units import format_bytes

MOST_ELEMS = 1 << 28
"""Of one view: a damaged stream could ask for any number of them."""


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
    size = np.dtype(dtype).itemsize
    elems = math.prod(counts)
    if elems > MOST_ELEMS:
        raise StreamError(f"{what}: {elems:,} elements: must be <= {MOST_ELEMS:,}")
    end = address + size + sum((count - 1) * stride for count, stride in zip(counts, strides, strict=True))
    if elems and end > len(memory):
        raise StreamError(
            f"{what}: reaches byte {end:,}: the memory image has {format_bytes(len(memory))}, too small by "
            f"{format_bytes(end - len(memory))}"
        )
    if not elems:
        return np.empty(tuple(counts), dtype)
    return np.ndarray(tuple(counts), dtype, memory, address, tuple(strides))
