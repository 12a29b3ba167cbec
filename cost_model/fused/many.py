"""Walks and queues of many mappings of one group at a time: what ``cost.group_cost`` does for one, in compiled loops.

A *row* is a mapping but for the array. ``survey`` walks the kinds of core of row after row into one arena, ``finish``
runs them against the DRAM channels once the passes of their shapes are known; ``pricing`` puts both together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.capacity import peak_bytes
from cost_model.fused.flat import FIRST_READ, IS_MAC, K_LOOP, RANK, STOP_READ, FlatGroup, Ints
from cost_model.fused.kinds import fill_signatures
from cost_model.fused.probe import ALL_CHUNKS, clear_walk
from cost_model.fused.queues import CORE_FIELDS, NEVER, Orders, State, run_cores
from cost_model.fused.state import (
    COUNTERS,
    LOAD_FIELDS,
    MOVED_ELEMS,
    NUM_SHAPES,
    NUM_STAGE_LOADS,
    NUM_STAGES,
    READ_TOTALS,
    SHAPE,
    SHAPE_DIMS,
    SHAPE_FIELDS,
    SHAPE_LAYER,
    SHAPE_STAGES,
    STAGE_FIELDS,
    STORED_UNUSED_BITS,
    UNUSED_BITS,
    USED_ELEMS,
    VECTOR_CYCLES,
    CorePart,
    Machine,
    Walk,
    WalkRoom,
)
from cost_model.fused.walk import walk_core
from tvm_spm.jit import entry, kernel, lean
from tvm_spm.space.mapping_batch import NUM_DIMS

KIND_ROW, KIND_STAGE, KIND_STAGES, KIND_LOAD, KIND_SHAPE, KIND_SHAPES, KIND_CORES, KIND_FIELDS = range(8)
"""Columns of a kind of core: its row, first stage and number, first load, first shape and number, cores of the kind."""

USED_STAGES, USED_LOADS, USED_SHAPES, USED_KINDS, FILLED = range(5)
"""How much of an arena is in use."""

MOST_SHAPES = 4_096
"""Of one kind of core."""

_SPAN = 3
"""Columns of the spans of ``queues.run_cores``: first stage, stages, first load."""


class Choices(NamedTuple):
    """Mappings of a group but for the array, one per row.

    Attributes:
        cores: ``(rows, axes)`` parts of the sink's output.
        tile: ``(rows, axes)``.
        kept: ``(rows, axes)``, 1 where overlap stays.
        k_tile: ``(rows, layers)``.
        double: ``(rows,)``.
    """

    cores: Ints
    tile: Ints
    kept: Ints
    k_tile: Ints
    double: Ints

    def take(self, rows: Ints) -> Choices:
        """Some of them."""
        return Choices._make(column[rows] for column in self)


class Arena(NamedTuple):
    """What rows do, one behind the other; see ``KIND_FIELDS``, ``state.Walk`` and ``FILLED``."""

    stages: Ints
    loads: Ints
    shapes: Ints
    kinds: Ints
    used: Ints


class Survey(NamedTuple):
    """What a walk of each row found.

    Attributes:
        spm_bytes: Most that a core holds.
        kind: ``(rows, cores)``, rows of ``Arena.kinds``.
        totals: ``(rows, ...)`` over all cores: elements that layers write, that reads move, and that stages use of
            them; and bits that whole bursts bring along.
        main: ``(rows, layers, dims)``, the stage with most of the work; 0 for vector work.
    """

    spm_bytes: Ints
    kind: Ints
    totals: NDArray[np.float64]
    main: Ints


def empty_arena(flat: FlatGroup, num_stages: int, num_kinds: int) -> Arena:
    """Room for so many stages and kinds of core."""
    most_loads = max(1, int(np.max(flat.layer[:, STOP_READ] - flat.layer[:, FIRST_READ])))
    return Arena(
        np.zeros((num_stages, STAGE_FIELDS), np.int64), np.zeros((num_stages * most_loads, LOAD_FIELDS), np.int64),
        np.zeros((num_kinds * 64 + MOST_SHAPES, SHAPE_FIELDS), np.int64), np.zeros((num_kinds, KIND_FIELDS), np.int64),
        np.zeros(FILLED, np.int64),
    )  # fmt: skip


def empty_survey(flat: FlatGroup, num_rows: int, num_cores: int) -> Survey:
    """Room for so many rows."""
    return Survey(
        np.zeros(num_rows, np.int64), np.zeros((num_rows, num_cores), np.int64),
        np.zeros((num_rows, flat.num_layers + 2 * len(flat.read) + 1)),
        np.zeros((num_rows, flat.num_layers, NUM_DIMS), np.int64),
    )  # fmt: skip


def most_stages_of(flat: FlatGroup, shape: tuple[int, ...], choices: Choices) -> Ints:
    """Per row, stages that no core exceeds."""
    chunk = -(-np.array(shape, np.int64) // choices.cores)
    tiles = np.prod(-(-chunk // choices.tile), axis=1)
    chunks = np.where(flat.layer[:, IS_MAC] == 1, -(-flat.loops[:, K_LOOP] // choices.k_tile), 1)
    return np.asarray(tiles * chunks.sum(axis=1))


@lean
def _fill_chunks(flat: FlatGroup, cores: Ints, chunks: Ints) -> None:
    """Shares of all cores, row-major."""
    sink = len(flat.layer) - 1
    for core in range(len(chunks)):
        left = core
        for axis in range(flat.layer[sink, RANK] - 1, -1, -1):
            extent = flat.shape[sink, axis]
            share = -(-extent // cores[axis])
            chunks[core, axis, 0] = (left % cores[axis]) * share
            chunks[core, axis, 1] = min(extent, chunks[core, axis, 0] + share)
            left //= cores[axis]


@kernel
def _number_kinds(flat: FlatGroup, chunks: Ints, kind: Ints, first: Ints) -> int:
    """Set which kind every core is of, and the first core of each; returns how many there are."""
    rank, num_layers, num_kinds = flat.shape.shape[1], len(flat.layer), 0
    signatures = np.zeros((len(chunks), rank * (1 + 3 * num_layers + 2 * len(flat.access))), np.int64)
    boxes = np.zeros((num_layers + 1, rank, 2), np.int64)
    if len(chunks) > 1:
        fill_signatures(flat, chunks, boxes, np.zeros((flat.loops.shape[1], 2), np.int64), signatures)
    for core in range(len(chunks)):
        kind[core] = -1
        for known in range(num_kinds):
            is_equal = True
            for place in range(signatures.shape[1]):
                if signatures[core, place] != signatures[first[known], place]:
                    is_equal = False
                    break
            if is_equal:
                kind[core] = known
                break
        if kind[core] < 0:
            kind[core], first[num_kinds] = num_kinds, core
            num_kinds += 1
    return num_kinds


@entry
def survey(
    flat: FlatGroup, machine: Machine, choices: Choices, start: int, arena: Arena, room: WalkRoom, found: Survey
) -> int:
    """Walk row after row from ``start`` until the arena is full; returns the first row that is not walked.

    Args:
        flat: The group.
        machine: The accelerator.
        choices: The rows.
        start: First of them.
        arena: Emptied, and filled.
        room: Scratch.
        found: Filled for the rows that are walked.
    """
    num_layers, rank = len(flat.layer), flat.shape.shape[1]
    arena.used[:] = 0
    rounds = np.full(rank, 2, np.int64)
    shape_totals = np.zeros(len(arena.shapes), np.float64)
    for row in range(start, len(choices.double)):
        num_cores = 1
        for axis in range(choices.cores.shape[1]):
            num_cores *= choices.cores[row, axis]
        chunks, first = np.zeros((num_cores, choices.cores.shape[1], 2), np.int64), np.zeros(num_cores, np.int64)
        kind = found.kind[row]
        _fill_chunks(flat, choices.cores[row], chunks)
        num_kinds = _number_kinds(flat, chunks, kind[:num_cores], first)
        if arena.used[USED_KINDS] + num_kinds > len(arena.kinds):
            return row
        found.totals[row] = 0.0
        found.spm_bytes[row] = 0
        first_kind, first_shape = arena.used[USED_KINDS], arena.used[USED_SHAPES]
        first_stage, first_load, is_full = arena.used[USED_STAGES], arena.used[USED_LOADS], False
        for number in range(num_kinds):
            at_stage, at_load, at_shape = arena.used[USED_STAGES], arena.used[USED_LOADS], arena.used[USED_SHAPES]
            walk = Walk(
                arena.stages[at_stage:], arena.loads[at_load:], arena.shapes[at_shape:],
                np.zeros(COUNTERS, np.int64), np.zeros((len(flat.read), READ_TOTALS), np.int64),
                np.zeros(num_layers, np.int64), np.zeros(flat.shape.shape, np.int64),
                np.zeros((len(flat.shape), rank, 2), np.int64), np.zeros(flat.shape.shape, np.int64),
            )  # fmt: skip
            clear_walk(walk)
            part = CorePart(
                chunks[first[number]], choices.tile[row], choices.kept[row], choices.k_tile[row],
                choices.double[row : row + 1],
            )  # fmt: skip
            part = CorePart(part.chunk, part.tile, _cut_kept(part), part.k_tile, part.double)
            if walk_core(flat, machine, part, ALL_CHUNKS, walk, room) < 0:
                is_full = True
                break
            count = 0
            for core in range(num_cores):
                if kind[core] == number:
                    count += 1
            outermost = -1
            for axis in range(len(part.kept) - 1, -1, -1):
                outermost = axis if part.kept[axis] == 1 else outermost
            held = peak_bytes(flat, walk, outermost, choices.double[row], rounds, machine.bank_bytes)
            found.spm_bytes[row] = max(found.spm_bytes[row], held)
            _add_totals(flat, walk, count, found.totals[row])
            entry_of = arena.kinds[first_kind + number]
            entry_of[KIND_ROW], entry_of[KIND_CORES] = row, count
            entry_of[KIND_STAGE], entry_of[KIND_STAGES] = at_stage, walk.counters[NUM_STAGES]
            entry_of[KIND_LOAD] = at_load
            entry_of[KIND_SHAPE], entry_of[KIND_SHAPES] = at_shape, walk.counters[NUM_SHAPES]
            arena.used[USED_STAGES] += walk.counters[NUM_STAGES]
            arena.used[USED_LOADS] += walk.counters[NUM_STAGE_LOADS]
            arena.used[USED_SHAPES] += walk.counters[NUM_SHAPES]
        if is_full:
            # what was walked of the row is forgotten
            arena.used[USED_STAGES], arena.used[USED_LOADS] = first_stage, first_load
            arena.used[USED_SHAPES] = first_shape
            return row
        for core in range(num_cores):
            kind[core] += first_kind
        arena.used[USED_KINDS] += num_kinds
        _find_main(arena, first_kind, first_shape, shape_totals, found.main[row])
    return len(choices.double)


@kernel
def _cut_kept(part: CorePart) -> Ints:
    """Axes along which overlap stays and that have more than one tile."""
    kept = np.zeros(len(part.kept), np.int64)
    for axis in range(len(part.kept)):
        if part.kept[axis] == 1 and part.chunk[axis, 1] - part.chunk[axis, 0] > part.tile[axis]:
            kept[axis] = 1
    return kept


@lean
def _add_totals(flat: FlatGroup, walk: Walk, count: int, totals: NDArray[np.float64]) -> None:
    num_layers, num_reads = len(flat.layer), len(flat.read)
    unused = walk.counters[STORED_UNUSED_BITS]
    for layer in range(num_layers):
        totals[layer] += count * walk.written[layer]
    for read in range(num_reads):
        totals[num_layers + read] += count * walk.reads[read, MOVED_ELEMS]
        totals[num_layers + num_reads + read] += count * walk.reads[read, USED_ELEMS]
        unused += walk.reads[read, UNUSED_BITS]
    totals[num_layers + 2 * num_reads] += count * unused


@lean
def _find_main(arena: Arena, first_kind: int, first_shape: int, work: NDArray[np.float64], main: Ints) -> None:
    """Per layer the shape of most multiply-accumulates over all cores; of equal ones the largest extents."""
    last = arena.used[USED_SHAPES]
    main[:] = 0
    for layer in range(len(main)):
        best = -1.0
        for shape in range(first_shape, last):
            work[shape] = -1.0
        for number in range(first_kind, arena.used[USED_KINDS]):
            row = arena.kinds[number]
            for shape in range(row[KIND_SHAPE], row[KIND_SHAPE] + row[KIND_SHAPES]):
                if arena.shapes[shape, SHAPE_LAYER] != layer:
                    continue
                macs = float(row[KIND_CORES] * arena.shapes[shape, SHAPE_STAGES])
                for d in range(NUM_DIMS):
                    macs *= arena.shapes[shape, SHAPE_DIMS + d]
                at = shape
                for other in range(first_shape, row[KIND_SHAPE]):
                    if work[other] >= 0 and _is_equal(arena.shapes[other], arena.shapes[shape]):
                        at = other
                        break
                work[at] = macs if at == shape else work[at] + macs
        for shape in range(first_shape, last):
            if work[shape] < best or work[shape] < 0:
                continue
            is_larger = work[shape] > best
            for d in range(NUM_DIMS):
                if is_larger or arena.shapes[shape, SHAPE_DIMS + d] != main[layer, d]:
                    is_larger = is_larger or arena.shapes[shape, SHAPE_DIMS + d] > main[layer, d]
                    break
            if is_larger:
                best = work[shape]
                for d in range(NUM_DIMS):
                    main[layer, d] = arena.shapes[shape, SHAPE_DIMS + d]


@lean
def _is_equal(shape: Ints, other: Ints) -> bool:
    for d in range(NUM_DIMS):
        if shape[SHAPE_DIMS + d] != other[SHAPE_DIMS + d]:
            return False
    return shape[SHAPE_LAYER] == other[SHAPE_LAYER]


@entry
def finish(
    choices: Choices, rows: tuple[int, int], arena: Arena, kind: Ints, pass_cycles: Ints, machine: tuple[int, int],
    cycles: Ints,
) -> None:  # fmt: skip
    """Set the cycles of each row of ``rows`` from the queues of its cores.

    Args:
        choices: The rows.
        rows: First and stop, as ``survey`` walked them.
        arena: Filled by it.
        kind: ``Survey.kind``.
        pass_cycles: Per shape of the arena; below 0 if the array cannot run it.
        machine: DRAM channels, and cycles before everything.
        cycles: Per row; below 0 where the array cannot run a stage.
    """
    channels, launch_cycles = machine
    stage_cycles = np.zeros(arena.used[USED_STAGES], np.int64)
    for number in range(arena.used[USED_KINDS]):
        row = arena.kinds[number]
        for stage in range(row[KIND_STAGE], row[KIND_STAGE] + row[KIND_STAGES]):
            shape = arena.stages[stage, SHAPE]
            stage_cycles[stage] = arena.stages[stage, VECTOR_CYCLES]
            if shape >= 0:
                stage_cycles[stage] += pass_cycles[row[KIND_SHAPE] + shape]
    orders = Orders(arena.stages, arena.loads, stage_cycles)
    for row in range(rows[0], rows[1]):
        num_cores, most, can_run = 1, 1, True
        for axis in range(choices.cores.shape[1]):
            num_cores *= choices.cores[row, axis]
        spans = np.zeros((num_cores, _SPAN), np.int64)
        for core in range(num_cores):
            found = arena.kinds[kind[row, core]]
            spans[core, 0], spans[core, 1], spans[core, 2] = found[KIND_STAGE], found[KIND_STAGES], found[KIND_LOAD]
            most = max(most, found[KIND_STAGES])
            for shape in range(found[KIND_SHAPE], found[KIND_SHAPE] + found[KIND_SHAPES]):
                can_run = can_run and pass_cycles[shape] >= 0
        cycles[row] = -1
        if can_run:
            state = State(
                np.zeros((num_cores, CORE_FIELDS), np.int64), np.zeros((3, num_cores, most), np.int64),
                np.full(num_cores, NEVER, np.int64), np.full(min(channels, num_cores), launch_cycles, np.int64),
            )  # fmt: skip
            finished = np.zeros(num_cores, np.int64)
            run_cores(orders, spans, launch_cycles, choices.double[row], state, finished)
            cycles[row] = finished.max()
