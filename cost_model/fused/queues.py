"""All cores against the shared DRAM channels: an in-order DMA queue and an in-order compute unit per core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cost_model.fused.flat import Ints
from cost_model.fused.state import LOAD_CYCLES, LOAD_WAIT, NUM_LOADS, STORE_CHANNEL, STORE_ENGINE, STORE_WAIT
from cost_model.simulator.heap import grant, push, sift_down
from tvm_spm.arch import Arch
from tvm_spm.jit import entry, lean

STEP, PLACE, FIRST_LOAD, DMA_END, NEXT_STAGE, STORED, WAIT, CHANNEL, ENGINE, IS_STORE, CORE_FIELDS = range(11)
"""Entries of a core.

The queue stands at ``STEP``: first the store that belongs there (``PLACE`` -1), then the loads of stage ``STEP + 1``,
which start at ``FIRST_LOAD``. ``NEXT_STAGE`` has not computed yet; ``STORED`` stores are done.
"""

_FIRST_STAGE, _NUM_STAGES, _START = range(3)
"""Columns of ``Orders.spans``."""

_ENDS, _LOADED, _STORES = range(3)
"""Tables of ``State.times``: of stages, of their loads, of stores."""

NEVER = 1 << 62


class Orders(NamedTuple):
    """What cores of one kind do in order, or those of all kinds one behind the other.

    Attributes:
        stages: See ``state.STAGE_FIELDS``.
        loads: See ``state.LOAD_FIELDS``, by stage.
        cycles: Per stage, of the array and the vector unit.
    """

    stages: Ints
    loads: Ints
    cycles: Ints


class State(NamedTuple):
    """Where cores stand, when each stage ended and each transfer was done, and two heaps: of requests and channels."""

    cores: Ints
    times: Ints
    waiting: Ints
    free: Ints


def finish_times(arch: Arch, kinds: Sequence[Orders], kind: Ints, *, double: bool) -> Ints:
    """When each core has finished everything.

    Args:
        arch: The accelerator.
        kinds: Per kind of core.
        kind: Per core.
        double: Whether external tensors have two buffers.
    """
    launch_cycles, finished = arch.cores.launch_cycles, np.zeros(len(kind), np.int64)
    orders, spans, state = queue_up(arch, kinds, kind)
    run_cores(orders, spans, launch_cycles, int(double), state, finished)
    return finished


def queue_up(arch: Arch, kinds: Sequence[Orders], kind: Ints) -> tuple[Orders, Ints, State]:
    """Orders of all kinds of core, one behind the other, the span of every core in them, and a state to run them in."""
    num_cores = len(kind)
    num_stages, num_loads = ([len(getattr(orders, table)) for orders in kinds] for table in ("stages", "loads"))
    spans = np.array(
        [np.cumsum([0, *num_stages])[:-1], num_stages, np.cumsum([0, *num_loads])[:-1]], np.int64
    ).T[kind]  # fmt: skip
    state = State(
        np.zeros((num_cores, CORE_FIELDS), np.int64), np.zeros((3, num_cores, max(1, *num_stages)), np.int64),
        np.full(num_cores, NEVER, np.int64),
        np.full(min(arch.levels.DRAM.channels, num_cores), arch.cores.launch_cycles, np.int64),
    )  # fmt: skip
    return Orders._make(np.concatenate(tables) for tables in zip(*kinds, strict=True)), spans, state


@lean
def _next_transfer(core: Ints, orders: Orders, span: Ints, depth: int) -> bool:
    """Find the head of a core's queue; False if it is empty. ``depth`` is 1 if double-buffered, else 0."""
    stages, first, num_stages = orders.stages, span[_FIRST_STAGE], span[_NUM_STAGES]
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
                row = orders.loads[core[FIRST_LOAD] + core[PLACE]]
                core[PLACE] += 1
                core[WAIT], core[IS_STORE] = row[LOAD_WAIT], 0
                core[CHANNEL] = core[ENGINE] = row[LOAD_CYCLES]
                return True
            core[FIRST_LOAD] += stages[first + load, NUM_LOADS]
        core[STEP] += 1
        core[PLACE] = -1
    return False


@lean
def _compute(core: Ints, orders: Orders, span: Ints, upto: int, times: Ints, number: int) -> int:
    """Set the ends of the stages up to one, all of whose loads are done; returns the last end."""
    ends, first = times[_ENDS, number], span[_FIRST_STAGE]
    for stage in range(core[NEXT_STAGE], upto + 1):
        start = max(ends[stage - 1] if stage > 0 else 0, times[_LOADED, number, stage])
        if orders.stages[first + stage, STORE_WAIT] >= 0:
            start = max(start, times[_STORES, number, orders.stages[first + stage, STORE_WAIT]])
        ends[stage] = start + orders.cycles[first + stage]
    core[NEXT_STAGE] = max(core[NEXT_STAGE], upto + 1)
    return ends[upto]


@lean
def open_core(orders: Orders, span: Ints, launch_cycles: int, depth: int, state: State, number: int) -> int:
    """Put a core before its first transfer; returns when it asks for a channel."""
    core = state.cores[number]
    core[STEP] = core[PLACE] = -1
    core[FIRST_LOAD], core[DMA_END] = span[_START], launch_cycles
    # a stage starts at the launch or later, whether anything is loaded for it or not
    state.times[_LOADED, number, 0] = launch_cycles
    _next_transfer(core, orders, span, depth)
    if core[WAIT] >= 0:
        return _compute(core, orders, span, core[WAIT], state.times, number)
    return launch_cycles


@lean
def serve_core(orders: Orders, span: Ints, depth: int, state: State, number: int, start: int) -> int:
    """Run the transfer that a core asked for, from ``start`` on; returns when it asks for the next.

    ``NEVER`` if there is none: the core has then finished everything at ``DMA_END``.
    """
    core = state.cores[number]
    core[DMA_END] = start + core[ENGINE]
    if core[IS_STORE]:
        state.times[_STORES, number, core[STORED]] = core[DMA_END]
        core[STORED] += 1
    else:
        state.times[_LOADED, number, core[STEP] + 1] = core[DMA_END]
    if not _next_transfer(core, orders, span, depth):
        end = _compute(core, orders, span, span[_NUM_STAGES] - 1, state.times, number)
        core[DMA_END] = max(core[DMA_END], end)
        return NEVER
    if core[WAIT] >= 0:
        return max(core[DMA_END], _compute(core, orders, span, core[WAIT], state.times, number))
    return core[DMA_END]


@entry
def run_cores(orders: Orders, spans: Ints, launch_cycles: int, depth: int, state: State, finished: Ints) -> None:
    """Set when each core has finished everything.

    Args:
        orders: Of all kinds of core, one kind after the other.
        spans: Per core: first stage, stages, first load.
        launch_cycles: Before everything.
        depth: 1 if external tensors have two buffers, else 0.
        state: Scratch; channels are free when cores are launched.
        finished: Per core, set.
    """
    num_cores, waiting = len(spans), state.waiting
    for number in range(num_cores):
        ready = open_core(orders, spans[number], launch_cycles, depth, state, number)
        push(waiting, number, ready * num_cores + number)
    while waiting[0] != NEVER:
        time, number = waiting[0] // num_cores, waiting[0] % num_cores
        start = grant(state.free, time, state.cores[number, CHANNEL])
        ready = serve_core(orders, spans[number], depth, state, number, start)
        if ready == NEVER:
            finished[number] = state.cores[number, DMA_END]
            waiting[0] = NEVER
        else:
            waiting[0] = ready * num_cores + number
        sift_down(waiting, num_cores)
