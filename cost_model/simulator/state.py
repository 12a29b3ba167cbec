"""Everything the engine keeps: records with fixed fields, which compiled code reads and writes in place."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from tvm_spm.space.mapping_batch import NUM_DIMS

I, W, O, FIRST_EXTRA = 0, 1, 2, 3  # noqa: E741 (the operands' own letters)

Ints = NDArray[np.int64]

MAX_TRANSFERS = 8
"""A slot has at most a store, a load of each operand beside the pass, and the same after it."""

EDGE_FLAGS = 16
"""Kinds of pass with equal tiles: what is loaded before the first step and what leaves after the last."""

MOVED, FINAL_ELEMS, DRAM_BYTES, UNUSED_BITS, BUSY_CYCLES, TOTAL_FIELDS = 0, 3, 4, 8, 12, 13
"""Columns of the totals over all cores: elements of I W O moved as operands, finished outputs, DRAM bytes of I W O and
extras, bits of those that whole bursts bring along, DMA time."""

_NUMBERS = {
    "problem": ("launch_cycles", "mac_stages", "num_channels", "out_bits", "num_ops_per_elem", "burst_bits"),
    "nest": ("num_dram_loops", "num_loops", "hop_cycles", "fold"),
    "core": (
        "repeats", "moved", "moves", "is_first_sum", "is_last_sum", "size_kind",
        "clock", "pass_end", "pass_cycles", "num_beside", "num_transfers", "num_served", "passes_left", "slots_left",
        "sum_pass_cycles", "sum_mac_cycles",
    ),
}  # fmt: skip


def _record(name: str, **arrays: int | tuple[int, ...]) -> np.dtype[np.void]:
    fields = [(field, np.int64) for field in _NUMBERS[name]]
    return np.dtype([*fields, *((field, np.int64, shape) for field, shape in arrays.items())])


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


_RATES = (
    "noc_elems_per_cycle", "port_bytes_per_cycle", "burst_startup_cycles", "dma_bytes_per_cycle",
    "vector_ops_per_cycle",
)  # fmt: skip
PROBLEM_FIELDS = np.dtype(
    [
        *_record("problem", dims=NUM_DIMS, is_reduction=NUM_DIMS, is_relevant=(3, NUM_DIMS)).descr,
        *((rate, np.float64) for rate in _RATES),
    ]
)


class Nest(Protocol):
    """A record of ``NEST_FIELDS``: one mapping, ready to walk.

    ``loops`` holds the DRAM loops, then the SPM loops, outer to inner, only those that iterate in a full tile;
    ``spm_position`` and ``rf_position`` are the innermost loop an operand depends on, -1 for none. With ``fold``,
    repetition is counted instead of walked.
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
    spm_position: Ints
    rf_position: Ints
    spm_double: Ints
    rf_double: Ints


NEST_FIELDS = _record(
    "nest", cores=NUM_DIMS, core_tile=NUM_DIMS, spm=NUM_DIMS, array=NUM_DIMS, rf=NUM_DIMS, loops=2 * NUM_DIMS,
    spm_position=3, rf_position=3, spm_double=3, rf_double=3,
)  # fmt: skip


class Odometer(NamedTuple):
    """The SPM loops that iterate in one pass, outer to inner.

    Attributes:
        num_loops: Of them.
        num_kinds: Combinations of loops at a smaller last tile.
        dim: Per loop.
        loop_count: Per loop.
        loop_index: Per loop.
        edge_bit: Per loop, its bit in the number of a kind, 0 if the last tile is full.
        position: Per operand, the innermost of these loops that is not inside its load position.
    """

    num_loops: int
    num_kinds: int
    dim: Ints
    loop_count: Ints
    loop_index: Ints
    edge_bit: Ints
    position: Ints


class Core(Protocol):
    """A record of ``CORE_FIELDS``: where one core stands.

    A slot is a pass and the transfers that belong to it: the first ``num_beside`` of ``num_transfers`` run beside the
    pass, the others after both. The slot before the first pass and the one after the last have no pass.

    Attributes:
        repeats: Passes that the one looked at stands for.
        moved: Innermost DRAM loop that is not at its first index, -1 for none.
        moves: Innermost DRAM loop that is not at its last index, -1 for none.
        is_first_sum: No reduction loop has moved yet: there are no partial sums to read.
        is_last_sum: All reduction loops are at their last index: the outputs are finished.
        size_kind: Which tiles are smaller than a full one, as a multiple of ``EDGE_FLAGS``.
        clock: When the last thing finished.
        pass_end: When the pass of this slot finishes.
        pass_cycles: Of the pass last entered.
        num_beside: Transfers that run beside the pass.
        num_transfers: Transfers of the slot.
        num_served: Transfers finished.
        passes_left: Not yet entered.
        slots_left: Not yet opened.
        sum_pass_cycles: Over all passes so far.
        sum_mac_cycles: Over all passes so far.
        first: First loop index per dim of the pass looked at.
        tile: Elements per dim of that pass.
        loads: DMA cycles of that pass's loads of I W O, 0 for none.
        store: Channel and engine cycles of that pass's store, 0 if the outputs stay.
        pending: Those of a finished double-buffered tile.
        chunk_first: First loop index per dim of the core's share.
        chunk: Elements per dim of the core's share.
        edge_kind: Per dim, which size of tile the last one is: 0 if it is full.
        loop_index: Per DRAM loop, of the pass looked at.
        loop_count: Per DRAM loop.
        channel_cycles: Per transfer of the slot.
        engine_cycles: Per transfer of the slot.
    """

    repeats: int
    moved: int
    moves: int
    is_first_sum: int
    is_last_sum: int
    size_kind: int
    clock: int
    pass_end: int
    pass_cycles: int
    num_beside: int
    num_transfers: int
    num_served: int
    passes_left: int
    slots_left: int
    sum_pass_cycles: int
    sum_mac_cycles: int
    first: Ints
    tile: Ints
    loads: Ints
    store: Ints
    pending: Ints
    chunk_first: Ints
    chunk: Ints
    edge_kind: Ints
    loop_index: Ints
    loop_count: Ints
    channel_cycles: Ints
    engine_cycles: Ints


CORE_FIELDS = _record(
    "core", first=NUM_DIMS, tile=NUM_DIMS, loads=3, store=2, pending=2, chunk_first=NUM_DIMS, chunk=NUM_DIMS,
    edge_kind=NUM_DIMS, loop_index=NUM_DIMS, loop_count=NUM_DIMS, channel_cycles=MAX_TRANSFERS,
    engine_cycles=MAX_TRANSFERS,
)  # fmt: skip


class Ledger(NamedTuple):
    """What all cores share.

    Attributes:
        kind_stride: Per dim, what a smaller tile adds to the kind of a pass.
        records: One record per kind of pass.
        num_passes: Passes of each kind.
        totals: What was moved, ``TOTAL_FIELDS`` numbers.
        extra_elems: Elements moved per extra.
    """

    kind_stride: Ints
    records: Ints
    num_passes: Ints
    totals: Ints
    extra_elems: Ints


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
