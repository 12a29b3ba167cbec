"""Perfect factors across the PE array."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tvm_spm.arch import Arch
from tvm_spm.exact.case_arrays import Ints
from tvm_spm.space.constraints_batch import COLS, ROWS, Rules
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Workload


def unrollings(workload: Workload, arch: Arch, rules: Rules) -> tuple[Ints, Ints]:
    """All perfect factors over PEs that some split into rows and columns realises.

    Args:
        workload: What is computed.
        arch: On what.
        rules: Limits of the factors.

    Returns:
        ``(n, 2, 8)`` rows and columns, and their hops. Of equal products, only the first with the least hops on one
        core; several cores keep every number of hops, as their waiting for each other is not monotonic.
    """
    rows, cols = (
        _factors(workload, limit, rules.low[axis], rules.high[axis])
        for axis, limit in ((ROWS, arch.pe.rows), (COLS, arch.pe.cols))
    )
    reduction = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])
    extents = np.array(workload.dims.as_tuple(), dtype=np.int64)
    found: dict[tuple[int, ...], tuple[int, int, int]] = {}
    col_hops = np.prod(cols[:, reduction], axis=1) - 1
    for r, row in enumerate(rows):
        products = row * cols
        hops = int(np.prod(row[reduction])) - 1 + col_hops
        for c in np.flatnonzero((extents % products == 0).all(axis=1)).tolist():
            key = tuple(products[c].tolist())
            if arch.cores.count > 1:
                key = (*key, int(hops[c]))
            if key not in found or hops[c] < found[key][0]:
                found[key] = (int(hops[c]), r, c)
    chosen = sorted(found.items())
    pairs = np.array([[rows[r], cols[c]] for _, (_, r, c) in chosen], dtype=np.int64).reshape(-1, 2, len(DIM_NAMES))
    return pairs, np.array([hops for _, (hops, _, _) in chosen], dtype=np.int64)


def divisors_of(value: int) -> list[int]:
    """Ascending."""
    small = [d for d in range(1, math.isqrt(value) + 1) if value % d == 0]
    return small + [value // d for d in reversed(small) if d * d != value]


def _factors(workload: Workload, limit: int, low: Ints, high: Ints) -> Ints:
    """All vectors of divisors of the extents from ``low`` to ``high`` with a product up to a limit."""
    vectors: list[tuple[int, ...]] = [()]
    for extent, least, most in zip(workload.dims, low.tolist(), high.tolist(), strict=True):
        vectors = [
            (*vector, d)
            for vector, d in itertools.product(vectors, divisors_of(extent))
            if math.prod(vector) * d <= limit and least <= d <= most
        ]
    return np.array(vectors, dtype=np.int64).reshape(-1, len(DIM_NAMES))
