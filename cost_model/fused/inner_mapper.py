"""Choices of ``inner`` for many stages, each looked for once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.compiled import choose_inners, pass_records
from cost_model.fused.cost import packed
from cost_model.fused.flat import Ints
from cost_model.fused.inner import (
    CROSS_PJ,
    DELIVER_PJ,
    HOP_PJ,
    INNER_COLS,
    INNER_DOUBLE,
    INNER_FIELDS,
    INNER_ORDER,
    INNER_RF,
    INNER_ROWS,
    MAC_PJ,
    PRICES,
)
from cost_model.simulator.pe_array import PASS_FIELDS
from cost_model.simulator.state import NEST_FIELDS
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

OBJECTIVES = ("latency", "energy", "edp")

Shape = tuple[int, ...]
"""Extents of a stage's dims."""

_REDUCES = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])


class InnerMapper:
    """Finds array mappings for stages; keeps what it has found.

    Args:
        arch: The accelerator.
        objective: ``latency``, ``energy`` or ``edp`` of the pass.
    """

    def __init__(self, arch: Arch, objective: str) -> None:
        self.arch = arch
        self._objective = OBJECTIVES.index(objective)
        self._numbers: dict[Workload, int] = {}
        self._prices: list[NDArray[np.float64]] = []
        self._workloads: list[Workload] = []
        self._choices: dict[tuple[int, Shape], Ints] = {}
        self._records: dict[tuple[int, Shape, Shape], Ints] = {}

    def number(self, workload: Workload) -> int:
        """What the other methods call a workload."""
        number = self._numbers.setdefault(workload, len(self._workloads))
        if number == len(self._workloads):
            self._workloads.append(workload)
            self._prices.append(_prices(workload, self.arch))
        return number

    def choose(self, number: int, shapes: Sequence[Shape]) -> list[Ints]:
        """One choice per shape, a row of ``INNER_FIELDS``."""
        wanted = [shape for shape in dict.fromkeys(shapes) if (number, shape) not in self._choices]
        if wanted:
            problem, tensors = packed(self._workloads[number], self.arch)
            choices = np.empty((len(wanted), INNER_FIELDS), np.int64)
            choose_inners(
                problem, tensors, self.arch.pe.rows, self.arch.pe.cols, self.arch.levels.RF.capacity_bytes,
                self._prices[number], self._objective, np.zeros(1, NEST_FIELDS), np.array(wanted, np.int64), choices,
            )  # fmt: skip
            for shape, choice in zip(wanted, choices, strict=True):
                self._choices[number, shape] = choice
        return [self._choices[number, shape] for shape in shapes]

    def has_choice(self, number: int, shape: Shape) -> bool:
        """Whether even one element per operand fits an RF."""
        return int(self.choose(number, [shape])[0][INNER_ROWS]) > 0

    def records(self, number: int, main: Shape, shapes: Sequence[Shape]) -> list[Ints]:
        """Passes over ``shapes`` with the choice for ``main``."""
        wanted = [shape for shape in shapes if (number, main, shape) not in self._records]
        if wanted:
            problem, tensors = packed(self._workloads[number], self.arch)
            found = np.zeros((len(wanted), PASS_FIELDS), np.int64)
            choice = self.choose(number, [main])[0]
            dims = np.array(wanted, np.int64)
            largest = np.maximum(dims.max(axis=0), main)
            pass_records(problem, tensors, _batch(choice, largest), 0, np.zeros(1, NEST_FIELDS), dims, found)
            for shape, record in zip(wanted, found, strict=True):
                self._records[number, main, shape] = record
        return [self._records[number, main, shape] for shape in shapes]

    def reduction_pes(self, number: int, main: Shape) -> int:
        """PEs that add up one output."""
        choice = self.choose(number, [main])[0]
        factors = choice[INNER_ROWS:INNER_COLS] * choice[INNER_COLS:INNER_RF]
        return int(np.prod(factors[_REDUCES]))

    def prices(self, number: int) -> NDArray[np.float64]:
        """What a pass of the workload costs per event; see ``inner.PRICES``."""
        return self._prices[number]

    def mapping(self, number: int, main: Shape, largest: Shape) -> Mapping:
        """The choice for ``main`` as a mapping whose SPM tile is ``largest``."""
        choice = self.choose(number, [main])[0].tolist()
        rows, cols, rf = (
            Dims.of(choice[first : first + NUM_DIMS]) for first in (INNER_ROWS, INNER_COLS, INNER_RF)
        )  # fmt: skip
        order = _full_order(choice[INNER_ORDER : INNER_ORDER + NUM_DIMS])
        mapping = Mapping(
            spm=Dims.of(largest), rows=rows, cols=cols, rf=rf,
            rf_double=tuple(o for o in Operand if choice[INNER_DOUBLE] >> o.value & 1),
        )  # fmt: skip
        factors = mapping.spm_factors()
        return Mapping(
            spm=mapping.spm, rows=rows, cols=cols, rf=rf, rf_double=mapping.rf_double,
            spm_order=tuple(DIM_NAMES[d] for d in order if factors[DIM_NAMES[d]] > 1),
        )  # fmt: skip


def _full_order(order: Sequence[int]) -> list[int]:
    """All dims: those that an order does not name outermost, so that they disturb nothing inside."""
    named = [d for d in order if d >= 0]
    return [d for d in range(NUM_DIMS) if d not in named] + named


def _batch(choice: Ints, largest: Ints) -> MappingBatch:
    ones = np.ones((1, NUM_DIMS), np.int64)
    order = np.array([_full_order(choice[INNER_ORDER : INNER_ORDER + NUM_DIMS].tolist())], np.int8)
    return MappingBatch(
        cores=ones,
        spm=np.ascontiguousarray(largest[None, :]),
        rows=choice[None, INNER_ROWS:INNER_COLS].copy(),
        cols=choice[None, INNER_COLS:INNER_RF].copy(),
        rf=choice[None, INNER_RF:INNER_ORDER].copy(),
        dram_order=np.full((1, NUM_DIMS), NO_DIM, np.int8),
        spm_order=order,
        spm_double=np.zeros(1, np.int8),
        rf_double=choice[INNER_DOUBLE : INNER_DOUBLE + 1].astype(np.int8),
        spill=np.zeros(1, np.bool_),
    )


def _prices(workload: Workload, arch: Arch) -> NDArray[np.float64]:
    scales = [workload.projection(operand).elem_bits / arch.word_bits for operand in Operand]
    rf, noc, spm = arch.levels.RF, arch.noc, arch.levels.SPM
    prices = np.zeros(PRICES)
    for operand, scale in enumerate(scales):
        prices[CROSS_PJ + operand] = scale * (noc.elem_pj + spm.access_pj)
        prices[DELIVER_PJ + operand] = scale * (rf.fill_pj + noc.delivery_pj)
    prices[HOP_PJ] = scales[2] * noc.reduction_hop_pj
    prices[MAC_PJ] = arch.mac.op_pj + rf.access_pj * (scales[0] + scales[1] + 2 * scales[2])
    return prices
