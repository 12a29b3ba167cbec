"""Cycles and energy of a mapping in closed form, for one mapping or a batch.

Assumptions, and what follows from them:

- Energy and traffic of every legal mapping equal those of a walk of its nest: they are products of trip counts.
- One core has the DRAM channels for itself: its cycles equal those of the walk too, which is the simulator's rule.
  Padding, edge tiles, fill, drain and both kinds of buffering are counted, not averaged.
- Several cores: each is timed as if alone but for its first tiles, for which all cores queue; and the DRAM channels
  must serve all transfers. The larger of the two counts. Other waiting for a channel is left out, so the cycles are
  mostly too few (``tests/property/test_analytical.py`` bounds the error both ways on its cases).

The same formula stands in ``tests/oracle``, readable and without compiled code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.analytical.core import mac_cycles
from cost_model.analytical.cores import ENGINE_CYCLES, PASS_CYCLES, contended_cycles, least_cycles, sum_cores
from cost_model.analytical.energy import NUM_PARTS, energy_pj
from cost_model.analytical.passes import LOOP_FIELDS, MAX_KINDS, PASS_FIELDS, STEP_FIELDS
from cost_model.analytical.traffic import DRAM_BYTES, NUM_COUNTS, UNUSED_BITS
from cost_model.analytical.transfers import Scratch
from cost_model.nest import NEST_FIELDS, build_nest
from cost_model.problem import Floats, Ints, num_cut_indices, problem_of
from cost_model.vector import vector_cost
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy, dma_channels
from tvm_spm.jit import entry, small
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import NUM_DIMS, MappingBatch, encode
from tvm_spm.threads import in_threads, num_threads_of
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, VectorWork, Workload

MODEL_NAME = "analytical"

_MIN_ROWS_PER_THREAD = 512
"""Fewer are not worth a thread."""

MAC_CYCLES = 0
"""Column of counts before those of ``cores``: of the slowest core, cycles in which its PEs multiply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticalModel:
    """The cost model that needs no simulation."""

    def cost(self, workload: Workload, arch: Arch, mapping: Mapping) -> Cost:
        """Cycles and energy of a legal mapping."""
        return evaluate(workload, arch, [mapping])[0]

    def vector_cost(self, work: VectorWork, arch: Arch) -> Cost:
        """Cycles and energy of work on the vector unit."""
        return vector_cost(work, arch, model=MODEL_NAME)


class BatchCost(NamedTuple):
    """Costs in the order of the batch."""

    cycles: NDArray[np.int64]
    energy_pj: NDArray[np.float64]


class BatchBreakdown(NamedTuple):
    """Where cycles and energy go, in the order of the batch; without rows where nobody asks.

    Attributes:
        energy_pj: ``(n, NUM_PARTS)``, in the order of ``Energy``.
        counts: ``(n, NUM_COUNTS)``, see ``MAC_CYCLES``, ``cores.PASS_CYCLES`` and ``traffic.UNUSED_BITS``.
    """

    energy_pj: Floats
    counts: Ints

    @classmethod
    def empty(cls, num_rows: int) -> BatchBreakdown:
        """Room for so many mappings."""
        return cls(np.zeros((num_rows, NUM_PARTS)), np.zeros((num_rows, NUM_COUNTS), dtype=np.int64))


def evaluate_batch(workload: Workload, arch: Arch, batch: MappingBatch, *, num_threads: int | None = None) -> BatchCost:
    """Cycles and energy of many legal mappings.

    Args:
        workload: What is computed.
        arch: The accelerator.
        batch: Legal mappings; not checked again here.
        num_threads: At most so many; default one per CPU. Results do not depend on it.
    """
    return _evaluate(workload, arch, batch, BatchBreakdown.empty(0), num_threads)


def bound_batch(workload: Workload, arch: Arch, batch: MappingBatch, *, num_threads: int | None = None) -> BatchCost:
    """Cycles that the simulator's are never below, and the energy, of many legal mappings; see ``least_cycles``.

    Where no cores of a mapping share a channel of DRAM they are the simulator's.
    """
    return _in_threads(workload, arch, batch, least_rows, num_threads)


def evaluate(workload: Workload, arch: Arch, mappings: Sequence[Mapping]) -> list[Cost]:
    """Cycles, energy and their breakdown of legal mappings, in their order."""
    breakdown = BatchBreakdown.empty(len(mappings))
    batch_cost = _evaluate(workload, arch, encode(mappings), breakdown, None)
    rows = zip(batch_cost.cycles.tolist(), breakdown.energy_pj.tolist(), breakdown.counts.tolist(), strict=True)
    return [_cost(workload, arch, *row) for row in rows]


def _cost(workload: Workload, arch: Arch, cycles: int, parts_pj: list[float], counts: list[int]) -> Cost:
    mac_pj, rf_pj, noc_pj, spm_pj, dram_pj, vector_pj = parts_pj
    i_bytes, w_bytes, o_bytes, extras_bytes = counts[DRAM_BYTES:]
    launch_cycles = arch.cores.launch_cycles
    return Cost(
        cycles=cycles,
        energy=Energy(mac_pj=mac_pj, rf_pj=rf_pj, noc_pj=noc_pj, spm_pj=spm_pj, dram_pj=dram_pj, vector_pj=vector_pj),
        model=MODEL_NAME,
        macs=workload.macs,
        utilization=workload.macs / (cycles * arch.peak_macs_per_cycle),
        compute_cycles=counts[MAC_CYCLES],
        noc_stall_cycles=counts[PASS_CYCLES] - counts[MAC_CYCLES],
        dma_stall_cycles=cycles - counts[PASS_CYCLES] - launch_cycles,
        overhead_cycles=launch_cycles,
        dram_bytes=(i_bytes, w_bytes, o_bytes, extras_bytes),
        dram_unused_bytes=counts[UNUSED_BITS] // 8,
        dma_channels=dma_channels(arch),
        dma_busy_cycles=counts[ENGINE_CYCLES],
    )


def _evaluate(
    workload: Workload, arch: Arch, batch: MappingBatch, breakdown: BatchBreakdown, num_threads: int | None
) -> BatchCost:
    def price(formula: Formula, rows: MappingBatch, part: tuple[int, int], cost: BatchCost) -> None:
        evaluate_rows(formula, rows, part, cost, breakdown)

    return _in_threads(workload, arch, batch, price, num_threads)


def _in_threads(
    workload: Workload, arch: Arch, batch: MappingBatch, price: PriceRows, num_threads: int | None
) -> BatchCost:
    columns: list[NDArray[Any]] = [np.require(column, requirements=("C", "W")) for column in batch]
    rows = MappingBatch(*columns)
    count = batch.num_mappings
    result = BatchCost(np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float64))

    def run(begin: int, end: int) -> None:
        price(formula_of(workload, arch), rows, (begin, end), result)

    threads = max(1, min(num_threads_of(num_threads), count // _MIN_ROWS_PER_THREAD))
    # threads take turns: mappings differ in work, and later rows of a search tend to be alike
    step = max(_MIN_ROWS_PER_THREAD, ceil_div(count, 8 * threads))
    parts = [(begin, min(count, begin + step)) for begin in range(0, count, step)]
    if threads == 1:
        run(0, count)
    else:
        in_threads(lambda part: run(*part), parts, num_threads)
    return result


class _Room(NamedTuple):
    """How much scratch the mappings of a workload need at most: numbers of runs, kinds and tiles along one dim, of
    combined tiles of an axis, and of all kinds and all states."""

    runs: int
    tiles: int
    codes: int
    states: int


@lru_cache(maxsize=256)
def _room(workload: Workload, num_cores: int) -> _Room:
    cut = [num_cut_indices(workload, name) for name in DIM_NAMES]
    # the rest in one run, and its first and last index and the edge tile apart
    num_runs = [min(extent, indices + 4) for extent, indices in zip(workload.dims, cut, strict=True)]
    num_kinds = [min(extent, indices + 2) for extent, indices in zip(workload.dims, cut, strict=True)]
    num_tiles = [indices + 2 * min(num_cores, e) + 2 for indices, e in zip(cut, workload.dims, strict=True)]
    combined = max(
        math.prod(num_tiles[DIM_NAMES.index(name)] for name, _ in axis.terms)
        for projection in (workload.I, workload.W, workload.O, *workload.epilogue.extras)
        for axis in projection.axes
    )
    return _Room(
        runs=max(num_runs), tiles=max(8, combined, *num_tiles), codes=math.prod(num_kinds), states=math.prod(num_runs)
    )


def _scratch(workload: Workload, arch: Arch) -> Scratch:
    """Room for any mapping of a workload."""
    room = _room(workload, arch.cores.count)
    return Scratch(
        runs=np.zeros((4, NUM_DIMS, room.runs), dtype=np.int64),
        spans=np.zeros((2, room.codes), dtype=np.int64),
        boxes=np.zeros((3, room.codes), dtype=np.int64),
        transfers=np.zeros((6, room.codes), dtype=np.int64),
        states=np.zeros((room.states, 7), dtype=np.int64),
        places=np.zeros((6, NUM_DIMS), dtype=np.int64),
        counts=np.zeros(NUM_COUNTS, dtype=np.int64),
        parts_pj=np.zeros(NUM_PARTS),
        loops=np.zeros(2, dtype=LOOP_FIELDS),
        passes=np.zeros(MAX_KINDS, dtype=PASS_FIELDS),
        steps=np.zeros(MAX_KINDS, dtype=STEP_FIELDS),
        ways=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        ending=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        starting=np.zeros((MAX_KINDS, 2), dtype=np.int64),
        moved_elems=np.zeros(4, dtype=np.int64),
        tiles=np.zeros((3, 3, room.tiles), dtype=np.int64),
    )


class Formula(NamedTuple):
    """What compiled code needs to price mappings: arrays of one record of the question and of a nest, and scratch."""

    problems: NDArray[np.void]
    nests: NDArray[np.void]
    scratch: Scratch


PriceRows = Callable[[Formula, MappingBatch, tuple[int, int], BatchCost], None]
"""Fills the last argument for the rows from the first to before the second."""


def formula_of(workload: Workload, arch: Arch) -> Formula:
    """For one workload on one arch; not to be shared between threads."""
    return Formula(problem_of(workload, arch), np.zeros(1, dtype=NEST_FIELDS), _scratch(workload, arch))


@small
def price_row(formula: Formula, batch: MappingBatch, row: int) -> tuple[int, float]:
    """(cycles, pJ) of one legal mapping of a batch; its breakdown is left in the scratch."""
    problem, nest, scratch = formula.problems[0], formula.nests[0], formula.scratch
    build_nest(problem, batch, row, nest)
    total_pj = energy_pj(problem, nest, scratch)
    return contended_cycles(problem, nest, sum_cores(problem, nest, scratch, scratch.counts)), total_pj


@entry
def evaluate_rows(
    formula: Formula, batch: MappingBatch, rows: tuple[int, int], cost: BatchCost, breakdown: BatchBreakdown
) -> None:
    """Fills the last two arguments for the rows from the first to before the second."""
    counts, parts_pj = formula.scratch.counts, formula.scratch.parts_pj
    for row in range(rows[0], rows[1]):
        cost.cycles[row], cost.energy_pj[row] = price_row(formula, batch, row)
        if len(breakdown.counts) > 0:
            counts[MAC_CYCLES] = mac_cycles(formula.nests[0], formula.scratch.places[5])
            for column in range(NUM_PARTS):
                breakdown.energy_pj[row, column] = parts_pj[column]
            for column in range(NUM_COUNTS):
                breakdown.counts[row, column] = counts[column]


@entry
def least_rows(formula: Formula, batch: MappingBatch, rows: tuple[int, int], cost: BatchCost) -> None:
    """Fills the last argument for the rows from the first to before the second, cycles with ``least_cycles``."""
    problem, nest, scratch = formula.problems[0], formula.nests[0], formula.scratch
    for row in range(rows[0], rows[1]):
        build_nest(problem, batch, row, nest)
        cost.energy_pj[row] = energy_pj(problem, nest, scratch)
        cost.cycles[row] = least_cycles(problem, nest, sum_cores(problem, nest, scratch, scratch.counts))
