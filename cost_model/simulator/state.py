"""Everything the engine keeps: records with fixed fields, which compiled code reads and writes in place."""

from __future__ import annotations

from typing import Protocol

from cost_model.problem import Ints
from cost_model.record import record
from tvm_spm.space.mapping_batch import NUM_DIMS

FIRST_EXTRA = 3
"""Number of the first tensor behind I W O."""

CHANNEL_CYCLES, ENGINE_CYCLES, VECTOR_START, VECTOR_CYCLES, NUM_BYTES, KIND, OF_PASS, TRANSFER_FIELDS = range(8)
"""Columns of a transfer: how long it holds a DRAM channel and the DMA engine (0 if it moves nothing); when the vector
unit starts, and how long it works; bytes in whole bursts; its number among ``log.TRANSFERS`` and its pass, for a log
only."""

STORES, NUM_STORES, MAX_QUEUED = 3, 4, 8
"""Transfers of a core: the loads of I W O before the next pass, then the stores of passes in turn, a power of two."""


STEP_FIELDS = 20
"""Columns of what a log is told of a step, see ``pe_array``."""


class Odometer(Protocol):
    """A record of ``ODOMETER_FIELDS``: the SPM loops that iterate in one pass, outer to inner.

    Attributes:
        fold: Whether repetition is counted instead of walked.
        num_loops: Of them.
        num_kinds: Combinations of loops at a smaller last tile.
        dim: Per loop.
        loop_count: Per loop.
        loop_index: Per loop.
        edge_bit: Per loop, its bit in the number of a kind, 0 if the last tile is full.
        over_outputs: The innermost of these loops that is over outputs, or -1.
        position: Per operand, the innermost of these loops that is not inside its load position.
        size: Room for the tile of a step, per dim.
        step: Room for what a log is told of a step.
    """

    fold: int
    num_loops: int
    num_kinds: int
    over_outputs: int
    dim: Ints
    loop_count: Ints
    loop_index: Ints
    edge_bit: Ints
    position: Ints
    size: Ints
    step: Ints


ODOMETER_FIELDS = record(Odometer, {
    "dim": NUM_DIMS, "loop_count": NUM_DIMS, "loop_index": NUM_DIMS, "edge_bit": NUM_DIMS, "position": 3,
    "size": NUM_DIMS, "step": STEP_FIELDS,
})  # fmt: skip


class Core(Protocol):
    """A record of ``CORE_FIELDS``: where one core stands.

    A slot is a pass and the transfers that belong to it: the first ``num_beside`` of ``num_queued`` run beside the
    pass, the others after both. The slot before the first pass and the one after the last have no pass.

    Attributes:
        number: Of the core.
        repeats: Passes that the one looked at stands for.
        pass_number: Of the one looked at.
        moved: Innermost DRAM loop that is not at its first index, -1 for none.
        moves: Innermost DRAM loop that is not at its last index, -1 for none.
        is_first_sum: No reduction loop has moved yet: there are no partial sums to read.
        is_last_sum: All reduction loops are at their last index: the outputs are finished.
        size_kind: Which tiles are smaller than a full one, as a multiple of ``EDGE_FLAGS``.
        stale: Outermost DRAM loop whose index is not the one that ``tile`` stands for.
        edges: What happens before and after the pass last worked on, bits as in ``pe_array``.
        clock: When the last thing finished.
        pass_end: When the pass of this slot finishes.
        pass_cycles: Of the pass last entered.
        num_beside: Transfers that run beside the pass.
        num_queued: Transfers of the slot.
        num_served: Transfers finished.
        passes_left: Not yet entered.
        slots_left: Not yet opened.
        after_note: What the array waits for while transfers run after the pass.
        row: Of the pass last looked at in the log.
        sum_pass_cycles: Of all passes entered.
        sum_mac_cycles: Of them, cycles in which PEs multiply.
        first: First loop index of the tile looked at, per dim.
        tile: Its elements, per dim.
        chunk_first: First loop index of the core's share, per dim.
        chunk: Its elements, per dim.
        edge_kind: Per dim, which of the sizes of a smaller last tile occurs here, 0 for none.
        size: Per dim, which of its sizes the tile looked at has, 0 for a full one.
        first_tile: Per dim, SPM tiles of all cores before the core's first one.
        box: Per dim, the number of the tile looked at, see ``boxes``.
        loop_index: Per DRAM loop.
        loop_count: Per DRAM loop.
        like_first: Per DRAM loop, the first of its iterations that are alike, see ``undisturbed``.
        like_last: The last.
        slot_index: Per DRAM loop, where slots stand that are counted instead of walked.
        transfer: One row per transfer that is prepared, see ``STORES``.
        queue: Rows of the transfers of the slot.
    """

    number: int
    repeats: int
    pass_number: int
    moved: int
    moves: int
    is_first_sum: int
    is_last_sum: int
    size_kind: int
    stale: int
    edges: int
    clock: int
    pass_end: int
    pass_cycles: int
    num_beside: int
    num_queued: int
    num_served: int
    passes_left: int
    slots_left: int
    after_note: int
    row: int
    sum_pass_cycles: int
    sum_mac_cycles: int
    first: Ints
    tile: Ints
    chunk_first: Ints
    chunk: Ints
    edge_kind: Ints
    size: Ints
    first_tile: Ints
    box: Ints
    loop_index: Ints
    loop_count: Ints
    like_first: Ints
    like_last: Ints
    slot_index: Ints
    transfer: Ints
    queue: Ints


CORE_FIELDS = record(Core, {
    "first": NUM_DIMS, "tile": NUM_DIMS, "chunk_first": NUM_DIMS, "chunk": NUM_DIMS, "edge_kind": NUM_DIMS,
    "size": NUM_DIMS, "first_tile": NUM_DIMS, "box": NUM_DIMS,
    "loop_index": NUM_DIMS, "loop_count": NUM_DIMS, "like_first": NUM_DIMS, "like_last": NUM_DIMS,
    "slot_index": NUM_DIMS, "transfer": (STORES + NUM_STORES, TRANSFER_FIELDS), "queue": MAX_QUEUED,
})  # fmt: skip
