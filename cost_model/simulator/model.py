"""The simulator as a ``CostModel``: results of the engine as cycles, energy and their breakdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cost_model.nest import NEST_FIELDS
from cost_model.problem import Ints, problem_of
from cost_model.simulator.banks import BLOCKS, MISSES, banks_of
from cost_model.simulator.events import (
    COUNTS,
    CYCLES,
    LAST_CORE,
    MAC_CYCLES,
    PASS_CYCLES_SUM,
    RESULT_FIELDS,
    TOTALS,
    RunRoom,
    simulate_rows,
)
from cost_model.simulator.ledger import BUSY_CYCLES, DRAM_BYTES, FINAL_ELEMS, MOVED, UNUSED_BITS
from cost_model.simulator.log import NUM_EVENTS, NUM_PASSES, Log, new_log
from cost_model.simulator.pe_array import CROSSED, DELIVERED, LEFT_ELEMS
from cost_model.simulator.state import CORE_FIELDS, ODOMETER_FIELDS
from cost_model.vector import vector_cost
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy, dma_channels
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import MappingBatch, encode
from tvm_spm.threads import in_threads, num_threads_of
from tvm_spm.workload import REDUCTION_DIMS, Operand, VectorWork, Workload

MODEL_NAME = "simulator"

_ROWS_PER_THREAD = 16
"""Fewer are not worth a thread."""

_FIRST_EVENTS, _SPARE_EVENTS = 1 << 16, 1 << 10
"""Room for events at first, and beyond twice what was asked for: other cores' events until the run ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCounts:
    """What moved during one run, over all cores, in elements; operands in the order I W O.

    Attributes:
        crossed: Between SPM and the array, each element once per crossing.
        delivered: Arrivals at PEs; for O, elements that entered or left the array.
        left: Outputs that left the array.
        moved: Between DRAM and SPM as operands; for O, partial sums out and back.
        final: Finished outputs stored.
        extras: Read per extra of the epilogue.
        unused_bits: Moved between DRAM and SPM because bursts are whole, of I, W, O and extras; bits, not elements.
        blocks: With open pages, blocks of single banks that runs reached: each is a hit or a miss.
        misses: Of them, those whose row had to be opened.
    """

    crossed: tuple[int, int, int]
    delivered: tuple[int, int, int]
    left: int
    moved: tuple[int, int, int]
    final: int
    extras: tuple[int, ...]
    unused_bits: tuple[int, int, int, int]
    blocks: int = 0
    misses: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Account:
    """Where cycles and energy of one run go.

    Attributes:
        cost: Of the run.
        counts: What its energy counts.
        last_core: The one that finishes last.
        notes: Of a ``Log``: per core and note, cycles and amount.
    """

    cost: Cost
    counts: EventCounts
    last_core: int
    notes: Ints


class SimulatorModel:
    """Events of DMA, NoC and PE array on every core, with contention for DRAM channels; what ``tune`` measures with.

    It walks the lockstep rule that the analytical model sums up. That both agree on one core checks the counting, not
    whether a machine behaves like that; what neither models is in the README.
    """

    def cost(self, workload: Workload, arch: Arch, mapping: Mapping) -> Cost:
        """Cycles and energy of a legal mapping."""
        return simulate_batch(workload, arch, [mapping])[0]

    def vector_cost(self, work: VectorWork, arch: Arch) -> Cost:
        """Cycles and energy of work on the vector unit."""
        return vector_cost(work, arch, model=MODEL_NAME)


def simulate_batch(
    workload: Workload,
    arch: Arch,
    mappings: Sequence[Mapping],
    *,
    num_threads: int | None = None,
    fold: bool = True,
) -> list[Cost]:
    """Simulate many mappings of one workload.

    Args:
        workload: What is computed.
        arch: The accelerator.
        mappings: Legal for ``workload`` on ``arch``; not checked again here.
        num_threads: At most so many; default one per CPU. Results do not depend on it.
        fold: Count repetitions instead of walking them; the same integers, only faster.

    Returns:
        Costs in the order of ``mappings``.
    """
    room = _run(workload, arch, encode(mappings), num_threads=num_threads, fold=fold)
    return [_cost(workload, arch, mapping, room, row) for row, mapping in enumerate(mappings)]


def simulate_cycles(workload: Workload, arch: Arch, batch: MappingBatch) -> Ints:
    """Cycles of many legal mappings of one workload, one per row: what ``simulate_batch`` says, and nothing else."""
    return _run(workload, arch, batch, num_threads=None, fold=True).results[:, CYCLES]


def account(workload: Workload, arch: Arch, mapping: Mapping, *, fold: bool = True) -> Account:
    """Simulate a legal mapping and count what its cycles and its energy go into; ``fold`` as for ``simulate_batch``."""
    batch, log = encode([mapping]), new_log(mapping.cores.product())
    room = _room(workload, arch, batch)
    simulate_rows(problem_of(workload, arch), batch, fold, room, log)
    cost, counts = _cost(workload, arch, mapping, room, 0), _counts(room, 0)
    return Account(cost=cost, counts=counts, last_core=int(room.results[0, LAST_CORE]), notes=log.account)


def record(workload: Workload, arch: Arch, mapping: Mapping, *, most_events: int) -> tuple[int, Log]:
    """Cycles of a legal mapping and its events, in a log cut to what there is.

    Args:
        workload: What is computed.
        arch: The accelerator.
        mapping: Legal; not checked again here.
        most_events: The run ends when there are about as many; then cycles are those of the part that ran.
    """
    batch, problem, num_cores = encode([mapping]), problem_of(workload, arch), mapping.cores.product()
    room_for = min(2 * most_events + _SPARE_EVENTS, _FIRST_EVENTS)
    while True:
        room, log = _room(workload, arch, batch), new_log(num_cores, most_events=most_events, room=room_for)
        simulate_rows(problem, batch, True, room, log)
        num_events, num_passes = int(log.at[NUM_EVENTS]), int(log.at[NUM_PASSES])
        if max(num_events, num_passes) <= room_for:
            return int(room.results[0, CYCLES]), log._replace(
                events=log.events[:num_events], passes=log.passes[:num_passes]
            )
        room_for = max(num_events, num_passes)


def _run(workload: Workload, arch: Arch, batch: MappingBatch, *, num_threads: int | None, fold: bool) -> RunRoom:
    """Results of the engine and elements per extra, one row per mapping."""
    problem, log, num = problem_of(workload, arch), new_log(), batch.num_mappings
    room = _room(workload, arch, batch)

    def run(rows: slice) -> None:
        part = batch.take(rows)
        own = _room(workload, arch, part)._replace(
            results=room.results[rows], extra_elems=room.extra_elems[rows], rows_met=room.rows_met[rows]
        )
        simulate_rows(problem, part, fold, own, log)

    threads = min(num_threads_of(num_threads), num // _ROWS_PER_THREAD)
    if threads > 1:
        parts = [slice(i, i + _ROWS_PER_THREAD) for i in range(0, num, _ROWS_PER_THREAD)]
        in_threads(run, parts, num_threads)
    elif num:
        run(slice(None))
    return room


def _room(workload: Workload, arch: Arch, batch: MappingBatch) -> RunRoom:
    most_cores = int(batch.cores.prod(axis=1).max(initial=1))
    return RunRoom(
        nests=np.zeros(1, dtype=NEST_FIELDS),
        odometers=np.zeros(1, dtype=ODOMETER_FIELDS),
        cores=np.zeros(most_cores, dtype=CORE_FIELDS),
        results=np.zeros((batch.num_mappings, RESULT_FIELDS), dtype=np.int64),
        extra_elems=np.zeros((batch.num_mappings, len(workload.epilogue.extras)), dtype=np.int64),
        banks=banks_of(workload, arch),
        rows_met=np.zeros((batch.num_mappings, 2), dtype=np.int64),
    )


def _counts(room: RunRoom, row: int) -> EventCounts:
    result = room.results[row].tolist()
    totals, counts = result[TOTALS:COUNTS], result[COUNTS:]
    return EventCounts(
        crossed=(counts[CROSSED], counts[CROSSED + 1], counts[CROSSED + 2]),
        delivered=(counts[DELIVERED], counts[DELIVERED + 1], counts[DELIVERED + 2]),
        left=counts[LEFT_ELEMS],
        moved=(totals[MOVED], totals[MOVED + 1], totals[MOVED + 2]),
        final=totals[FINAL_ELEMS],
        extras=tuple(room.extra_elems[row].tolist()),
        unused_bits=(totals[UNUSED_BITS], totals[UNUSED_BITS + 1], totals[UNUSED_BITS + 2], totals[UNUSED_BITS + 3]),
        blocks=int(room.rows_met[row, BLOCKS]),
        misses=int(room.rows_met[row, MISSES]),
    )


def _cost(workload: Workload, arch: Arch, mapping: Mapping, room: RunRoom, row: int) -> Cost:
    result, counts = room.results[row].tolist(), _counts(room, row)
    totals, cycles = result[TOTALS:COUNTS], result[CYCLES]
    launch_cycles, pass_cycles, mac_cycles = arch.cores.launch_cycles, result[PASS_CYCLES_SUM], result[MAC_CYCLES]
    i_bytes, w_bytes, o_bytes, extras_bytes = totals[DRAM_BYTES : DRAM_BYTES + 4]
    return Cost(
        cycles=cycles,
        energy=_energy(workload, arch, mapping, counts),
        model=MODEL_NAME,
        macs=workload.macs,
        utilization=workload.macs / (cycles * arch.peak_macs_per_cycle),
        compute_cycles=mac_cycles,
        noc_stall_cycles=pass_cycles - mac_cycles,
        dma_stall_cycles=cycles - launch_cycles - pass_cycles,
        overhead_cycles=launch_cycles,
        dram_bytes=(i_bytes, w_bytes, o_bytes, extras_bytes),
        dma_busy_cycles=totals[BUSY_CYCLES],
        dram_unused_bytes=sum(counts.unused_bits) // 8,
        dma_channels=dma_channels(arch),
    )


def _energy(workload: Workload, arch: Arch, mapping: Mapping, counts: EventCounts) -> Energy:
    """Energy of what was counted; every word of another width than ``word_bits`` is scaled linearly."""
    scales = [workload.projection(operand).elem_bits / arch.word_bits for operand in Operand]
    i_scale, w_scale, o_scale = scales
    crossed_words, delivered_words, moved_words = (
        sum(elems * scale for elems, scale in zip(columns, scales, strict=True))
        for columns in (counts.crossed, counts.delivered, counts.moved)
    )
    extra_words = sum(
        elems * extra.elem_bits / arch.word_bits
        for elems, extra in zip(counts.extras, workload.epilogue.extras, strict=True)
    )
    unused_words = sum(counts.unused_bits) / arch.word_bits
    reduction_pes = math.prod(mapping.rows[name] * mapping.cols[name] for name in REDUCTION_DIMS)
    hop_words = counts.left * (reduction_pes - 1) * o_scale
    rf, spm, dram, noc = arch.levels.RF, arch.levels.SPM, arch.levels.DRAM, arch.noc
    return Energy(
        mac_pj=workload.macs * arch.mac.op_pj,
        rf_pj=workload.macs * rf.access_pj * (i_scale + w_scale + 2 * o_scale) + delivered_words * rf.fill_pj,
        noc_pj=crossed_words * noc.elem_pj + delivered_words * noc.delivery_pj + hop_words * noc.reduction_hop_pj,
        spm_pj=(crossed_words + moved_words + counts.final * o_scale) * spm.access_pj,
        dram_pj=(moved_words + counts.final * workload.out_bits / arch.word_bits + extra_words + unused_words)
        * dram.access_pj,
        vector_pj=workload.O.tensor_elems() * workload.epilogue.num_ops_per_elem * arch.vector.op_pj,
    )
