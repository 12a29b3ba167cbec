"""All cores against the shared DRAM channels: requests in the order of time, then core number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from cost_model.simulator.core import TOTAL_FIELDS, advance, open_ledger, place_cores, serve
from cost_model.simulator.nest import build_nest
from cost_model.simulator.pe_array import PASS_CYCLES, PASS_FIELDS

CYCLES, MAC_CYCLES, PASS_CYCLES_SUM, TOTALS, COUNTS = 0, 1, 2, 3, 3 + TOTAL_FIELDS
"""Columns of a result: cycles, MAC and pass cycles of the core that finishes last, totals, and summed pass records."""

RESULT_FIELDS = COUNTS + PASS_FIELDS

_NO_REQUEST = np.iinfo(np.int64).max


@njit  # type: ignore[misc]
def _sift_down(heap, size):  # type: ignore[no-untyped-def]
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


@njit  # type: ignore[misc]
def _run_shared(workload, arch, nest, cores, ledger, fold):  # type: ignore[no-untyped-def]
    """Serve requests first come, first served, each on the channel that is free earliest."""
    num_cores = len(cores.clock)
    waiting = np.full(num_cores, _NO_REQUEST, dtype=np.int64)
    for core in range(num_cores):
        if advance(workload, arch, nest, cores, ledger, core, fold):
            waiting[core] = cores.clock[core] * num_cores + core
    waiting.sort()
    free = np.zeros(arch.dram_channels, dtype=np.int64)
    while waiting[0] != _NO_REQUEST:
        request, core = waiting[0] // num_cores, waiting[0] % num_cores
        free[0] = serve(cores, ledger, core, max(request, free[0]))
        _sift_down(free, len(free))
        waiting[0] = _NO_REQUEST
        if advance(workload, arch, nest, cores, ledger, core, fold):
            if cores.clock[core] < request:
                raise RuntimeError("a core went back in time")
            waiting[0] = cores.clock[core] * num_cores + core
        _sift_down(waiting, num_cores)


@njit  # type: ignore[misc]
def _run_alone(workload, arch, nest, cores, ledger, fold):  # type: ignore[no-untyped-def]
    """With a channel for every core nobody waits."""
    for core in range(len(cores.clock)):
        while advance(workload, arch, nest, cores, ledger, core, fold):
            serve(cores, ledger, core, cores.clock[core])


@njit  # type: ignore[misc]
def _simulate(workload, arch, batch, row, fold, result, extra_elems):  # type: ignore[no-untyped-def]
    nest = build_nest(workload, batch, row)
    ledger = open_ledger(workload, nest)
    cores = place_cores(workload, arch, nest)
    if len(cores.clock) <= arch.dram_channels:
        _run_alone(workload, arch, nest, cores, ledger, fold)
    else:
        _run_shared(workload, arch, nest, cores, ledger, fold)
    last = np.argmax(cores.clock)
    result[CYCLES] = cores.clock[last]
    result[MAC_CYCLES] = cores.sum_mac_cycles[last]
    result[PASS_CYCLES_SUM] = cores.sum_pass_cycles[last]
    result[TOTALS:COUNTS] = ledger.totals
    result[COUNTS:] = 0
    for kind in range(len(ledger.num_passes)):
        if ledger.num_passes[kind] > 0:
            for column in range(PASS_FIELDS):
                result[COUNTS + column] += ledger.num_passes[kind] * ledger.records[kind, column]
    extra_elems[:] = ledger.extra_elems


def _compile(source_hash: str) -> Callable[..., None]:
    """Compile the engine. The hash is part of the key of numba's cache, which watches only the file of this function."""

    @njit(cache=True, nogil=True)  # type: ignore[misc]
    def simulate_rows(workload, arch, batch, fold, results, extra_elems):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
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
    "COUNTS", "CYCLES", "MAC_CYCLES", "PASS_CYCLES", "PASS_CYCLES_SUM", "RESULT_FIELDS", "TOTALS", "simulate_rows",
]  # fmt: skip
