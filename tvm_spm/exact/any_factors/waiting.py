"""Mappings that wait to be priced, in order of their bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tvm_spm.exact.case_arrays import Floats
from tvm_spm.space.mapping_batch import MappingBatch, concat
from tvm_spm.space.repair import empty_batch

FIRST_ROOM = 1 << 10
"""Rows for which there is room at first."""


class Waiting:
    """A line that the best bound leads; of equal ones, who came first.

    Rows stay where they were put, since moving them takes longer than all else; only their places are in order.

    Args:
        most: Mappings that may wait; those of the largest bounds are let go.

    Attributes:
        bounds: Of those that wait, in order.
        energy_pj: The same.
        least_dropped: The least bound of those that were let go; infinite if none was.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows = empty_batch(0)
        self._free = np.zeros(0, np.int64)
        self._places = np.zeros(0, np.int64)
        self.bounds, self.energy_pj = np.zeros(0), np.zeros(0)
        self.least_dropped = math.inf

    def add(self, rows: MappingBatch, bounds: Floats, energy_pj: Floats) -> None:
        """Let mappings wait; their bounds are in order."""
        at = np.searchsorted(self.bounds, bounds, side="right")
        self._places = np.insert(self._places, at, self._put(rows))
        self.bounds, self.energy_pj = np.insert(self.bounds, at, bounds), np.insert(self.energy_pj, at, energy_pj)
        if len(self.bounds) > self._most:
            self.least_dropped = min(self.least_dropped, float(self.bounds[self._most]))
            self._keep(slice(0, self._most))

    def first(self, number: int) -> MappingBatch:
        """Those in front."""
        return self._rows.take(self._places[:number])

    def leave(self, number: int, limit: float) -> None:
        """Let those in front go, and those whose bound is a limit or more."""
        self._keep(slice(number, max(number, int(np.searchsorted(self.bounds, limit)))))

    def _put(self, rows: MappingBatch) -> NDArray[np.int64]:
        """Places of rows, which are written there."""
        missing = rows.num_mappings - len(self._free)
        if missing > 0:
            room = self._rows.num_mappings
            more = max(FIRST_ROOM, room, missing)
            self._rows = concat([self._rows, empty_batch(more)])
            self._free = np.concatenate([self._free, np.arange(room, room + more)])
        places, self._free = self._free[: rows.num_mappings], self._free[rows.num_mappings :]
        columns: tuple[NDArray[Any], ...] = self._rows
        for column, new in zip(columns, rows, strict=True):
            column[places] = new
        return places

    def _keep(self, kept: slice) -> None:
        start, stop, _ = kept.indices(len(self._places))
        self._free = np.concatenate([self._free, self._places[:start], self._places[stop:]])
        self._places, self.bounds, self.energy_pj = self._places[kept], self.bounds[kept], self.energy_pj[kept]
