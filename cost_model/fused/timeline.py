"""All cores against the shared DRAM channels: an in-order DMA queue and an in-order compute unit per core."""

from __future__ import annotations

import numpy as np

from cost_model.fused.flat import Ints
from cost_model.fused.state import LOAD_CYCLES, LOAD_WAIT, NUM_LOADS, STORE_CHANNEL, STORE_ENGINE
from cost_model.simulator.heap import sift_down
from tvm_spm.jit import kernel, part

STEP, PLACE, FIRST_LOAD, DMA_END, NEXT_STAGE, NEXT_SINK, STORED, WAIT, CHANNEL, ENGINE, IS_STORE, CORE_FIELDS = range(
    12
)
"""Entries of a core.

The queue stands at ``STEP``: first the store that belongs there (``PLACE`` -1), then the loads of stage ``STEP + 1``,
which start at ``FIRST_LOAD``. ``NEXT_STAGE`` and ``NEXT_SINK`` have not computed yet; ``STORED`` stores are done.
"""

_NEVER = 1 << 62


@kernel
def _next_transfer(core: Ints, stages: Ints, loads: Ints, num_stages: int, first: int, depth: int) -> bool:
    """Find the head of a core's queue; False if it is empty. ``depth`` is 1 if double-buffered, else 0."""
    while core[STEP] < num_stages + depth:
        store = core[STEP] - depth
        if core[PLACE] < 0:
            core[PLACE] = 0
            if store >= 0 and stages[first + store, STORE_CHANNEL] > 0:
                core[WAIT], core[IS_STORE] = store, 1
                core[CHANNEL] = stages[first + store, STORE_CHANNEL]
                core[ENGINE] = stages[first + store, STORE_ENGINE]
                return True
        load = core[STEP] + 1
        if load < num_stages:
            if core[PLACE] < stages[first + load, NUM_LOADS]:
                row = loads[core[FIRST_LOAD] + core[PLACE]]
                core[PLACE] += 1
                core[WAIT], core[IS_STORE] = row[LOAD_WAIT], 0
                core[CHANNEL] = core[ENGINE] = row[LOAD_CYCLES]
                return True
            core[FIRST_LOAD] += stages[first + load, NUM_LOADS]
        core[STEP] += 1
        core[PLACE] = -1
    return False


@kernel
def _compute(
    core: Ints, stages: Ints, cycles: Ints, first: int, upto: int, launch_cycles: int, depth: int,
    ends: Ints, loaded: Ints, stored: Ints,
) -> None:  # fmt: skip
    """Set the ends of the stages up to one; all their loads are done."""
    for stage in range(core[NEXT_STAGE], upto + 1):
        start = max(launch_cycles if stage == 0 else ends[stage - 1], loaded[stage])
        if stages[first + stage, STORE_CHANNEL] > 0:
            free = core[NEXT_SINK] - 1 - depth
            if free >= 0:
                start = max(start, stored[free])
            core[NEXT_SINK] += 1
        ends[stage] = start + cycles[first + stage]
    core[NEXT_STAGE] = max(core[NEXT_STAGE], upto + 1)


@part
def run_cores(
    stages: Ints, loads: Ints, cycles: Ints, spans: Ints, kind: Ints, launch_cycles: int, num_channels: int,
    is_double: bool, finished: Ints,
) -> None:  # fmt: skip
    """Set when each core has finished everything.

    Args:
        stages: Of all kinds of core, one kind after the other.
        loads: The same.
        cycles: Per stage.
        spans: Per kind: first stage, stages, first load.
        kind: Per core.
        launch_cycles: Before everything.
        num_channels: Of the DRAM.
        is_double: Whether external tensors have two buffers.
        finished: Per core, set.
    """
    num_cores, depth = len(kind), 1 if is_double else 0
    most = 1
    for row in range(len(spans)):
        most = max(most, spans[row, 1])
    ends = np.zeros((num_cores, most), np.int64)
    loaded = np.zeros((num_cores, most), np.int64)
    stored = np.zeros((num_cores, most), np.int64)
    cores = np.zeros((num_cores, CORE_FIELDS), np.int64)
    free = np.full(min(num_channels, num_cores), launch_cycles, np.int64)
    waiting = np.full(num_cores, _NEVER, np.int64)
    for number in range(num_cores):
        core = cores[number]
        core[STEP] = core[PLACE] = -1
        core[FIRST_LOAD], core[DMA_END] = spans[kind[number], 2], launch_cycles
        row = spans[kind[number]]
        _next_transfer(core, stages, loads, row[1], row[0], depth)
        ready = launch_cycles
        if core[WAIT] >= 0:
            _compute(
                core, stages, cycles, row[0], core[WAIT], launch_cycles, depth,
                ends[number], loaded[number], stored[number],
            )  # fmt: skip
            ready = ends[number, core[WAIT]]
        waiting[number] = ready * num_cores + number
    waiting.sort()
    while waiting[0] != _NEVER:
        time, number = waiting[0] // num_cores, waiting[0] % num_cores
        core, row = cores[number], spans[kind[number]]
        grant = max(time, free[0])
        free[0] = grant + core[CHANNEL]
        sift_down(free, len(free))
        core[DMA_END] = grant + core[ENGINE]
        if core[IS_STORE]:
            stored[number, core[STORED]] = core[DMA_END]
            core[STORED] += 1
        else:
            loaded[number, core[STEP] + 1] = core[DMA_END]
        if _next_transfer(core, stages, loads, row[1], row[0], depth):
            ready = core[DMA_END]
            if core[WAIT] >= 0:
                _compute(
                    core, stages, cycles, row[0], core[WAIT], launch_cycles, depth,
                    ends[number], loaded[number], stored[number],
                )  # fmt: skip
                ready = max(ready, ends[number, core[WAIT]])
            waiting[0] = ready * num_cores + number
        else:
            waiting[0] = _NEVER
            _compute(
                core, stages, cycles, row[0], row[1] - 1, launch_cycles, depth,
                ends[number], loaded[number], stored[number],
            )  # fmt: skip
            finished[number] = max(core[DMA_END], ends[number, row[1] - 1])
        sift_down(waiting, num_cores)
