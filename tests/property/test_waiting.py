"""Mappings that wait stand in the order of a stable sort, however they come and go, and none changes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_spm.exact.any_factors.waiting import FIRST_ROOM, Waiting
from tvm_spm.space.mapping_batch import MappingBatch
from tvm_spm.space.repair import empty_batch

MOST = FIRST_ROOM + 300


def numbered(start: int, number: int) -> MappingBatch:
    """Rows that can be told apart by every column that holds enough."""
    rows = empty_batch(number)
    for column in rows:
        if column.dtype == np.int64:
            column[:] = np.arange(start, start + number)[:, np.newaxis]
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_a_line_is_a_stable_sort(seed: int):
    rng, line = np.random.default_rng(seed), Waiting(MOST)
    known: list[tuple[float, int]] = []  # bound and number of the row, in order
    least_dropped, num_added, num_lost, num_reused = math.inf, 0, 0, 0
    for _ in range(60):
        # few different bounds, so that many are equal
        bounds = np.sort(rng.integers(0, 40, rng.integers(0, 400)).astype(float))
        line.add(numbered(num_added, len(bounds)), bounds, bounds * 3)
        known += zip(bounds.tolist(), range(num_added, num_added + len(bounds)), strict=True)
        known.sort(key=lambda entry: entry[0])
        num_added += len(bounds)
        if len(known) > MOST:
            least_dropped = min(least_dropped, known[MOST][0])
            num_lost += len(known) - MOST
            del known[MOST:]
        number = min(int(rng.integers(0, 50)), len(known))
        front = line.first(number)
        for column in front:
            if column.dtype == np.int64:
                assert column[:, 0].tolist() == [row for _, row in known[:number]]
        limit = float(rng.integers(25, 60))
        line.leave(number, limit)
        known = [entry for entry in known[number:] if entry[0] < limit]
        num_reused += number
        assert line.bounds.tolist() == [bound for bound, _ in known]
        assert line.energy_pj.tolist() == [3 * bound for bound, _ in known]
        assert line.least_dropped == least_dropped
    assert num_lost > 0
    assert num_reused > 0
    assert num_added > 2 * MOST
