"""Many mappings as a structure of arrays, for code that must not loop over mappings in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, Dims, Operand

NUM_DIMS = len(DIM_NAMES)
NO_DIM = -1
"""Fills the tail of an order."""


class MappingBatch(NamedTuple):
    """``n`` mappings. Dims are columns in the order of ``DIM_NAMES``.

    Tiles and factors are int64 ``(n, 8)``; orders are int8 ``(n, 8)`` dim indices, outer to inner, then ``NO_DIM``;
    double-buffered operands are int8 ``(n,)`` with bit ``Operand.value`` set; ``spill`` is bool ``(n,)``.
    """

    cores: NDArray[np.int64]
    spm: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    rf: NDArray[np.int64]
    dram_order: NDArray[np.int8]
    spm_order: NDArray[np.int8]
    spm_double: NDArray[np.int8]
    rf_double: NDArray[np.int8]
    spill: NDArray[np.bool_]

    @property
    def num_mappings(self) -> int:
        """Rows of the batch."""
        return int(self.cores.shape[0])

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_] | slice) -> MappingBatch:
        """The rows an index selects."""
        return MappingBatch._make(column[index] for column in self)


def encode(mappings: Sequence[Mapping]) -> MappingBatch:
    """Pack mappings into arrays."""

    def dims(pick: str) -> NDArray[np.int64]:
        rows = [getattr(m, pick).as_tuple() for m in mappings]
        return np.array(rows, dtype=np.int64).reshape(len(rows), NUM_DIMS)

    def order(pick: str) -> NDArray[np.int8]:
        table = np.full((len(mappings), NUM_DIMS), NO_DIM, dtype=np.int8)
        for row, mapping in enumerate(mappings):
            names = getattr(mapping, pick)
            table[row, : len(names)] = [DIM_NAMES.index(name) for name in names]
        return table

    def bits(pick: str) -> NDArray[np.int8]:
        return np.array([sum(1 << o.value for o in getattr(m, pick)) for m in mappings], dtype=np.int8)

    return MappingBatch(
        dims("cores"), dims("spm"), dims("rows"), dims("cols"), dims("rf"), order("dram_order"), order("spm_order"),
        bits("spm_double"), bits("rf_double"), np.array([m.spill for m in mappings], dtype=np.bool_),
    )  # fmt: skip


def concat(batches: Sequence[MappingBatch]) -> MappingBatch:
    """One batch after the other."""
    return MappingBatch._make(np.concatenate(columns) for columns in zip(*batches, strict=True))


def decode(batch: MappingBatch, row: int) -> Mapping:
    """One row as a ``Mapping``."""

    def order(table: NDArray[np.int8]) -> tuple[str, ...]:
        return tuple(DIM_NAMES[i] for i in table[row] if i != NO_DIM)

    def operands(bits: NDArray[np.int8]) -> tuple[Operand, ...]:
        return tuple(o for o in Operand if int(bits[row]) >> o.value & 1)

    return Mapping(
        cores=Dims.of(batch.cores[row].tolist()), spm=Dims.of(batch.spm[row].tolist()),
        rows=Dims.of(batch.rows[row].tolist()), cols=Dims.of(batch.cols[row].tolist()),
        rf=Dims.of(batch.rf[row].tolist()),
        dram_order=order(batch.dram_order), spm_order=order(batch.spm_order),
        spm_double=operands(batch.spm_double), rf_double=operands(batch.rf_double), spill=bool(batch.spill[row]),
    )  # fmt: skip
