"""The way of least cycles, energy or their product to run a stage on the array, each looked for once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.energy import pass_pj, pass_prices
from cost_model.fused.flat import Ints
from cost_model.fused.inner import (
    COLS,
    DOUBLE,
    MOST_WAYS,
    ORDER,
    RF,
    ROWS,
    WAY_FIELDS,
    Aim,
    empty_unrolling_room,
    list_ways,
)
from cost_model.fused.passes import CYCLES, pass_problem, pass_records
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.space.mapping_batch import NO_DIM, NUM_DIMS, MappingBatch
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Dims, Operand, Workload

Shape = tuple[int, ...]
"""Extents of a stage's dims."""

_REDUCES = np.array([name in REDUCTION_DIMS for name in DIM_NAMES])


class InnerMapper:
    """Finds array mappings for stages; keeps what it has found.

    Args:
        arch: The accelerator.
        objective: ``edp``, ``energy`` or ``latency`` of the pass.
    """

    def __init__(self, arch: Arch, objective: str) -> None:
        self.arch = arch
        self._objective = Objective.of(objective)
        self._numbers: dict[Workload, int] = {}
        self._problems: list[NDArray[np.void]] = []
        self._aims: list[Aim] = []
        self._choices: dict[tuple[int, Shape], Ints | None] = {}
        self._records: dict[tuple[int, Shape, Shape], Ints] = {}

    def number(self, workload: Workload) -> int:
        """What the other methods call a workload."""
        number = self._numbers.setdefault(workload, len(self._problems))
        if number == len(self._problems):
            arch = self.arch
            prices = pass_prices(workload, arch)
            self._problems.append(pass_problem(workload, arch))
            self._aims.append(
                Aim(arch.pe.rows, arch.pe.cols, arch.levels.RF.capacity_bytes, prices, self._objective.code)
            )
        return number

    def has_choice(self, number: int, shape: Shape) -> bool:
        """Whether even one element per operand fits an RF."""
        return self.choose(number, [shape])[0] is not None

    def choose(self, number: int, shapes: Sequence[Shape]) -> list[Ints | None]:
        """The best way for each shape, a row of ``WAY_FIELDS``."""
        wanted = [shape for shape in dict.fromkeys(shapes) if (number, shape) not in self._choices]
        if wanted:
            for shape, choice in zip(wanted, self._search(number, np.array(wanted, np.int64)), strict=True):
                self._choices[number, shape] = choice
        return [self._choices[number, shape] for shape in shapes]

    def _search(self, number: int, dims: Ints) -> list[Ints | None]:
        problem, aim = self._problems[number], self._aims[number]
        ways = np.empty((len(dims), MOST_WAYS, WAY_FIELDS), np.int64)
        counts = np.zeros(len(dims), np.int64)
        list_ways(problem, aim, dims, empty_unrolling_room(), np.zeros((4, NUM_DIMS), np.int64), ways, counts)
        listed = ways[np.arange(MOST_WAYS) < counts[:, None]]
        tiles = np.repeat(dims, counts, axis=0)
        records = pass_records(problem, _batch(listed, tiles), np.arange(len(listed)), tiles)
        energy_pj = pass_pj(records, aim.prices, tiles.prod(axis=1), _reduction_pes(listed))
        values = self._objective.value_of(records[:, CYCLES].astype(np.float64), energy_pj)
        ends = np.cumsum(counts)
        return [
            listed[first + int(np.argmin(values[first:end]))] if end > first else None
            for first, end in zip((ends - counts).tolist(), ends.tolist(), strict=True)
        ]

    def _choice(self, number: int, main: Shape) -> Ints:
        choice = self.choose(number, [main])[0]
        assert choice is not None, "asked for a way that does not exist"
        return choice

    def records(self, number: int, main: Shape, shapes: Sequence[Shape]) -> list[Ints]:
        """Passes over ``shapes`` with the choice for ``main``."""
        wanted = [shape for shape in shapes if (number, main, shape) not in self._records]
        if wanted:
            dims = np.array(wanted, np.int64)
            batch = _batch(self._choice(number, main)[None], np.maximum(dims.max(axis=0), main)[None])
            found = pass_records(self._problems[number], batch, np.zeros(len(dims), np.int64), dims)
            for shape, record in zip(wanted, found, strict=True):
                self._records[number, main, shape] = record
        return [self._records[number, main, shape] for shape in shapes]

    def passes(self, number: int, mains: Sequence[Shape], main: Ints, dims: Ints) -> tuple[Ints, NDArray[np.float64]]:
        """Cycles, below 0 where nothing fits an RF, and energy in pJ of passes.

        Args:
            number: Of the workload.
            mains: Shapes whose choices are taken.
            main: Per pass its place among them.
            dims: ``(passes, dims)`` extents.
        """
        choices = self.choose(number, mains)
        can_run = np.array([choice is not None for choice in choices], np.bool_)[main]
        cycles, energy_pj = np.full(len(dims), -1, np.int64), np.zeros(len(dims))
        rows = np.flatnonzero(can_run)
        if len(rows):
            blank = np.zeros(WAY_FIELDS, np.int64)
            ways = np.stack([blank if choice is None else choice for choice in choices])
            spm, tiles, owner = np.array(mains, np.int64), dims[rows], main[rows]
            np.maximum.at(spm, owner, tiles)
            records = pass_records(self._problems[number], _batch(ways, spm), owner, tiles)
            cycles[rows] = records[:, CYCLES]
            prices = self._aims[number].prices
            energy_pj[rows] = pass_pj(records, prices, tiles.prod(axis=1), _reduction_pes(ways)[owner])
        return cycles, energy_pj

    def reduction_pes(self, number: int, main: Shape) -> int:
        """PEs that add up one output."""
        return int(_reduction_pes(self._choice(number, main)[None])[0])

    def mapping(self, number: int, main: Shape, largest: Shape) -> Mapping:
        """The choice for ``main`` as a mapping whose SPM tile is ``largest``."""
        choice = self._choice(number, main)
        rows, cols, rf = (Dims.of(choice[first : first + NUM_DIMS].tolist()) for first in (ROWS, COLS, RF))
        mapping = Mapping(
            spm=Dims.of(largest), rows=rows, cols=cols, rf=rf,
            rf_double=tuple(o for o in Operand if choice[DOUBLE] >> o.value & 1),
        )  # fmt: skip
        factors, order = mapping.spm_factors(), _full_orders(choice[None])[0].tolist()
        return replace(mapping, spm_order=tuple(DIM_NAMES[d] for d in order if factors[DIM_NAMES[d]] > 1))


def _reduction_pes(ways: Ints) -> Ints:
    factors: Ints = ways[:, ROWS:COLS] * ways[:, COLS:RF]
    return factors[:, _REDUCES].prod(axis=1)


def _full_orders(ways: Ints) -> NDArray[np.int8]:
    """All dims: those that an order does not name outermost, so that they disturb nothing inside."""
    orders = ways[:, ORDER:DOUBLE]
    place = np.zeros((len(ways), NUM_DIMS), np.int64)
    rows, slots = np.nonzero(orders >= 0)
    place[rows, orders[rows, slots]] = slots + 1
    return np.argsort(place, axis=1, kind="stable").astype(np.int8)


def _batch(ways: Ints, spm: Ints) -> MappingBatch:
    num = len(ways)
    nothing = np.zeros(num, np.int8)
    return MappingBatch(
        cores=np.ones((num, NUM_DIMS), np.int64), spm=spm, rows=ways[:, ROWS:COLS].copy(),
        cols=ways[:, COLS:RF].copy(), rf=ways[:, RF:ORDER].copy(),
        dram_order=np.full((num, NUM_DIMS), NO_DIM, np.int8), spm_order=_full_orders(ways), spm_double=nothing,
        rf_double=ways[:, DOUBLE].astype(np.int8), spill=nothing.astype(np.bool_),
    )  # fmt: skip
