"""Everything the engine keeps: records with fixed fields, which compiled code reads and writes in place."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from tvm_spm.space.mapping_batch import NUM_DIMS

I, W, O, FIRST_EXTRA = 0, 1, 2, 3  # noqa: E741 (the operands' own letters)

IN_CORE, IN_PE, NUM_LEVELS = range(3)
"""Memories that tiles are loaded into, by who has one each, outermost first."""

Ints = NDArray[np.int64]

CHANNEL_CYCLES, ENGINE_CYCLES, VECTOR_CYCLES, NUM_BYTES, KIND, OF_PASS, TRANSFER_FIELDS = range(7)
"""Columns of a transfer: how long it holds a DRAM channel, the DMA engine (0 if it moves nothing) and the vector unit;
bytes in whole bursts; its number among ``log.TRANSFERS`` and its pass, for a log only."""

STORES, NUM_STORES, MAX_QUEUED = 3, 4, 8
"""Transfers of a core: the loads of I W O before the next pass, then the stores of passes in turn, a power of two."""


STEP_FIELDS = 12
"""Columns of what a log is told of a step, see ``pe_array``."""


def _record(of: type, **shapes: int | tuple[int, ...] | np.dtype[np.void]) -> np.dtype[np.void]:
    """A record with the fields of a protocol, arrays in these shapes, and records of these kinds."""
    kinds = {"int": np.int64, "Ints": np.int64, "float": np.float64}
    fields: list[tuple[object, ...]] = []
    for name, kind in of.__annotations__.items():
        shape = shapes.get(name, ())
        fields.append((name, shape) if isinstance(shape, np.dtype) else (name, kinds[kind], shape))
    return np.dtype(fields)


class Problem(Protocol):
    """A record of ``PROBLEM_FIELDS``: the numbers of a workload and an accelerator that decide about time.

    ``port_bytes_per_cycle`` is 0 where the SPM does not limit the networks.
    """

    launch_cycles: int
    mac_stages: int
    num_channels: int
    out_bits: int
    num_ops_per_elem: int
    burst_bits: int
    dims: Ints
    is_reduction: Ints
    is_relevant: Ints
    noc_elems_per_cycle: float
    port_bytes_per_cycle: float
    burst_startup_cycles: float
    dma_bytes_per_cycle: float
    vector_ops_per_cycle: float


PROBLEM_FIELDS = _record(Problem, dims=NUM_DIMS, is_reduction=NUM_DIMS, is_relevant=(3, NUM_DIMS))


class Odometer(Protocol):
    """A record of ``ODOMETER_FIELDS``: the SPM loops that iterate in one pass, outer to inner.

    Attributes:
        num_loops: Of them.
        num_kinds: Combinations of loops at a smaller last tile.
        dim: Per loop.
        loop_count: Per loop.
        loop_index: Per loop.
        edge_bit: Per loop, its bit in the number of a kind, 0 if the last tile is full.
        position: Per operand, the innermost of these loops that is not inside its load position.
        size: Room for the tile of a step, per dim.
        step: Room for what a log is told of a step.
    """

    num_loops: int
    num_kinds: int
    dim: Ints
    loop_count: Ints
    loop_index: Ints
    edge_bit: Ints
    position: Ints
    size: Ints
    step: Ints


ODOMETER_FIELDS = _record(
    Odometer, dim=NUM_DIMS, loop_count=NUM_DIMS, loop_index=NUM_DIMS, edge_bit=NUM_DIMS, position=3, size=NUM_DIMS,
    step=STEP_FIELDS,
)  # fmt: skip


class Nest(Protocol):
    """A record of ``NEST_FIELDS``: one mapping, ready to walk.

    ``loops`` holds the DRAM loops, then the SPM loops, outer to inner, only those that iterate in a full tile. Per
    memory and operand, ``position`` is the innermost loop outside of it that the operand depends on, -1 for none, and
    ``double`` says whether it has two buffers there. With ``fold``, repetition is counted instead of walked.
    ``odometer`` is room for the loops of one pass.
    """

    num_dram_loops: int
    num_loops: int
    hop_cycles: int
    fold: int
    cores: Ints
    core_tile: Ints
    spm: Ints
    array: Ints
    rf: Ints
    loops: Ints
    position: Ints
    double: Ints
    odometer: Odometer


NEST_FIELDS = _record(
    Nest, cores=NUM_DIMS, core_tile=NUM_DIMS, spm=NUM_DIMS, array=NUM_DIMS, rf=NUM_DIMS, loops=2 * NUM_DIMS,
    position=(NUM_LEVELS, 3), double=(NUM_LEVELS, 3), odometer=ODOMETER_FIELDS,
)  # fmt: skip


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
    loop_index: Ints
    loop_count: Ints
    like_first: Ints
    like_last: Ints
    slot_index: Ints
    transfer: Ints
    queue: Ints


CORE_FIELDS = _record(
    Core, first=NUM_DIMS, tile=NUM_DIMS, chunk_first=NUM_DIMS, chunk=NUM_DIMS, edge_kind=NUM_DIMS,
    loop_index=NUM_DIMS, loop_count=NUM_DIMS, like_first=NUM_DIMS, like_last=NUM_DIMS, slot_index=NUM_DIMS,
    transfer=(STORES + NUM_STORES, TRANSFER_FIELDS), queue=MAX_QUEUED,
)  # fmt: skip


def pack_problem(workload: WorkloadArrays, arch: ArchArrays) -> NDArray[np.void]:
    """One record of ``PROBLEM_FIELDS``, as an array of length 1."""
    problem = np.zeros(1, dtype=PROBLEM_FIELDS)
    numbers = {
        "launch_cycles": arch.launch_cycles,
        "mac_stages": arch.mac_stages,
        "num_channels": arch.dram_channels,
        "out_bits": workload.out_bits,
        "num_ops_per_elem": workload.num_ops_per_elem,
        "burst_bits": arch.burst_bits,
        "dims": workload.dims,
        "is_reduction": workload.is_reduction,
        "is_relevant": workload.is_relevant[:FIRST_EXTRA],
        "noc_elems_per_cycle": arch.noc_elems_per_cycle,
        "port_bytes_per_cycle": arch.spm_bytes_per_cycle,
        "burst_startup_cycles": arch.burst_startup_cycles,
        "dma_bytes_per_cycle": arch.dma_bytes_per_cycle,
        "vector_ops_per_cycle": arch.vector_ops_per_cycle,
    }
    for field, value in numbers.items():
        problem[field] = value
    return problem
