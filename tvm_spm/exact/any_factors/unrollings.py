"""Any factors across cores and across the PE array."""

from __future__ import annotations

import itertools
import math

import numpy as np

from tvm_spm.exact.any_factors.array_list import Unrollings
from tvm_spm.exact.case_arrays import Ints
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.space.constraints_batch import COLS, CORES, ROWS, Rules
from tvm_spm.space.mapping_batch import NUM_DIMS
from tvm_spm.space.tiles import snap_factor
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS


def core_factors(case: Case, rules: Rules) -> list[tuple[int, ...]]:
    """Factors across cores that some tile realises, the most cores first."""
    most, low, high = case.arch.cores.count, rules.low[CORES].tolist(), rules.high[CORES].tolist()
    choices = []
    for d, (name, extent) in enumerate(zip(DIM_NAMES, case.workload.dims, strict=True)):
        limit = 1 if name in REDUCTION_DIMS else min(extent, most, high[d])
        factors = range(max(1, low[d]), limit + 1)
        choices.append([f for f in factors if snap_factor(extent, f, False) == f])
    found = [factors for factors in itertools.product(*choices) if math.prod(factors) <= most]
    return sorted(found, key=lambda factors: (-math.prod(factors), factors))


def list_unrollings(case: Case, rules: Rules, share: Ints, limits: tuple[float, float, float, float]) -> Unrollings:
    """Rows and columns that may multiply fast enough, the most PEs first, as they are likely to be the fastest.

    Of equal products, only the first with the least hops on one core; several cores keep every number of hops, as their
    waiting for each other is not monotonic.

    Args:
        case: What is searched.
        rules: Limits of the factors.
        share: Elements of one core.
        limits: What the objective must be below; the least energy and cycles of all but the passes, and theirs.
    """
    limit, least_pj, least_once, least_cross = limits
    rows, cols = (
        _factors(share.tolist(), (most, rules.low[axis], rules.high[axis]))
        for axis, most in ((ROWS, case.arch.pe.rows), (COLS, case.arch.pe.cols))
    )
    reduction = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])
    found, hops = [np.zeros((0, 2, NUM_DIMS), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    col_hops = np.prod(cols[:, reduction], axis=1) - 1
    for row in rows:
        products = row * cols
        is_fast = (products <= share).all(axis=1)
        if case.objective is not Objective.ENERGY:
            cycles = least_once + np.maximum(np.prod(-(-share // products), axis=1), least_cross)
            is_fast &= cycles * (least_pj if case.objective is Objective.EDP else 1.0) < limit
        pairs = np.empty((int(is_fast.sum()), 2, NUM_DIMS), dtype=np.int64)
        pairs[:, 0], pairs[:, 1] = row, cols[is_fast]
        found.append(pairs)
        hops.append(np.prod(row[reduction]) - 1 + col_hops[is_fast])
    pairs, all_hops = np.concatenate(found), np.concatenate(hops)
    pes = pairs[:, 0] * pairs[:, 1]
    order = np.lexsort((all_hops, *pes.T[::-1], -np.prod(pes, axis=1)))
    pairs, all_hops, pes = pairs[order], all_hops[order], pes[order]
    is_new = np.ones(len(pes), dtype=np.bool_)
    is_new[1:] = (pes[1:] != pes[:-1]).any(axis=1)
    if case.arch.cores.count > 1:
        is_new[1:] |= all_hops[1:] != all_hops[:-1]
    pairs, all_hops, pes = pairs[is_new], all_hops[is_new], pes[is_new]
    return Unrollings(pairs, pes, all_hops, np.prod(pes[:, reduction], axis=1))


def _factors(extents: list[int], limits: tuple[int, Ints, Ints]) -> Ints:
    """All vectors of factors up to the extents, with a product up to a limit, from a least to a largest vector."""
    limit, low, high = limits
    vectors: list[tuple[int, ...]] = [()]
    for extent, least, most in zip(extents, low.tolist(), high.tolist(), strict=True):
        vectors = [
            (*vector, f) for vector in vectors for f in range(least, min(extent, most, limit // math.prod(vector)) + 1)
        ]
    return np.array(vectors, dtype=np.int64).reshape(-1, NUM_DIMS)
