"""All cores against the shared DRAM channels: requests in the order of time, then core number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.arrays import ArchArrays, WorkloadArrays
from cost_model.simulator.core import CORE_FIELDS, TOTAL_FIELDS, Ledger, advance, open_ledger, place_core, serve
from cost_model.simulator.nest import NEST_FIELDS, Ints, Nest, build_nest
from cost_model.simulator.pe_array import PASS_FIELDS
from tvm_spm.mapping_batch import NUM_DIMS, MappingBatch

CYCLES, MAC_CYCLES, PASS_CYCLES_SUM, TOTALS, COUNTS = 0, 1, 2, 3, 3 + TOTAL_FIELDS
"""Columns of a result: cycles, MAC and pass cycles of the core that finishes last, totals, and summed pass records."""

RESULT_FIELDS = COUNTS + PASS_FIELDS

_NO_REQUEST = np.iinfo(np.int64).max


@njit(error_model="numpy")
def _sift_down(heap: Ints, size: int) -> None:
    """Restore the order of a binary heap whose root has grown."""
    item, at = heap[0], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@njit(error_model="numpy")
def _run_cores(
    workload: WorkloadArrays, arch: ArchArrays, nest: Nest, cores: NDArray[np.void], ledger: Ledger, fold: bool
) -> None:
    """Serve requests first come, first served, each on the channel that is free earliest."""
    num_cores = len(cores)
    free = np.zeros(min(num_cores, arch.dram_channels), dtype=np.int64)
    waiting = np.zeros(num_cores, dtype=np.int64)
    for number in range(num_cores):
        place_core(workload, arch, nest, number, cores[number])
        waiting[number] = number
    while waiting[0] != _NO_REQUEST:
        time, number = waiting[0] // num_cores, waiting[0] % num_cores
        core = cores[number]
        if core.num_served < core.num_transfers:
            free[0] = serve(core, ledger, max(time, free[0]))
            _sift_down(free, len(free))
        is_waiting = advance(workload, arch, nest, core, ledger, fold)
        if core.clock < time:
            raise RuntimeError("a core went back in time")
        waiting[0] = core.clock * num_cores + number if is_waiting else _NO_REQUEST
        _sift_down(waiting, num_cores)


@njit(error_model="numpy")
def _simulate(
    workload: WorkloadArrays,
    arch: ArchArrays,
    batch: MappingBatch,
    row: int,
    fold: bool,
    result: Ints,
    extra_elems: Ints,
) -> None:
    nest = np.empty(1, dtype=NEST_FIELDS)[0]
    build_nest(workload, batch, row, nest)
    ledger = open_ledger(workload, nest)
    num_cores = 1
    for d in range(NUM_DIMS):
        num_cores *= nest.cores[d]
    cores = np.empty(num_cores, dtype=CORE_FIELDS)
    _run_cores(workload, arch, nest, cores, ledger, fold)
    last = 0
    for number in range(num_cores):
        if cores[number].clock > cores[last].clock:
            last = number
    result[CYCLES] = cores[last].clock
    result[MAC_CYCLES] = cores[last].sum_mac_cycles
    result[PASS_CYCLES_SUM] = cores[last].sum_pass_cycles
    result[TOTALS:COUNTS] = ledger.totals
    result[COUNTS:] = 0
    for kind in range(len(ledger.num_passes)):
        if ledger.num_passes[kind] > 0:
            for column in range(PASS_FIELDS):
                result[COUNTS + column] += ledger.num_passes[kind] * ledger.records[kind, column]
    extra_elems[:] = ledger.extra_elems


def _compile(source_hash: str) -> Callable[..., None]:
    """Compile the engine; the hash joins the key of numba's cache, which watches only the file of this function."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def simulate_rows(
        workload: WorkloadArrays, arch: ArchArrays, batch: MappingBatch, fold: bool, results: Ints, extra_elems: Ints
    ) -> None:
        if len(source_hash) == 0:
            raise RuntimeError("no source")
        for row in range(len(results)):
            _simulate(workload, arch, batch, row, fold, results[row], extra_elems[row])

    compiled: Callable[..., Any] = simulate_rows
    return compiled


def _source_hash() -> str:
    sources = sorted(Path(__file__).parent.glob("*.py")) + [Path(__file__).parent.parent / "arrays.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


simulate_rows = _compile(_source_hash())
"""Simulate every row of a batch: ``(workload, arch, batch, fold, results, extra_elems)``; fills the last two."""

__all__ = [
    "COUNTS", "CYCLES", "MAC_CYCLES", "PASS_CYCLES_SUM", "RESULT_FIELDS", "TOTALS", "simulate_rows",
]  # fmt: skip
