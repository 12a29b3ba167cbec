"""Cores that wait for each other's transfers fall into a rhythm: its beats are counted instead of walked.

Along a DRAM loop whose iterations are alike (``undisturbed``), what all cores do next depends on where they stand
relative to each other alone: clocks, passes, prepared transfers, and when channels are free. If all of that is as it
was one iteration before, so is the next iteration, and every one after it until a core comes to one that is not alike.
One more is walked, its counts standing for all that are left out, and then all clocks are set forward.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.nest import Nest
from cost_model.problem import Ints, Problem
from cost_model.simulator.heap import bits_of
from cost_model.simulator.state import (
    CHANNEL_CYCLES,
    ENGINE_CYCLES,
    MAX_QUEUED,
    NUM_STORES,
    STORES,
    TRANSFER_FIELDS,
    Core,
)
from cost_model.simulator.undisturbed import alike
from tvm_spm.jit import kernel, lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS

_LOOPS, _QUEUE = 8, 8 + NUM_DIMS
_TRANSFERS = _QUEUE + MAX_QUEUED
_CORE_FIELDS = _TRANSFERS + 2 * (STORES + NUM_STORES)
"""Numbers that tell where a core stands relative to the first one, and where parts of them begin."""

_WORTH = 3
"""Iterations ahead, below which nobody listens for a rhythm."""

_NOBODY = -1

NO_REQUEST = np.iinfo(np.int64).max
"""Stands for a core that has finished, in the heap of requests."""


class Rhythm(NamedTuple):
    """What is remembered of a run.

    Attributes:
        known: Per DRAM loop, where cores and channels stood when the first core last came to a new iteration.
        began: Per DRAM loop, the first core's clock and pass then; -1 for nothing known.
        walked: Pass of the first core, the loop whose rhythm is walked a last time or -1, and iterations to leave out.
        frees: Room for when channels are free.
    """

    known: Ints
    began: Ints
    walked: Ints
    frees: Ints


@kernel
def listen(problem: Problem, nest: Nest, cores: NDArray[np.void]) -> Rhythm:
    """Of a run that has not begun; finds which iterations are alike."""
    num_loops, size = nest.num_loops[0], len(cores) * _CORE_FIELDS + problem.dram_channels
    for number in range(len(cores)):
        core = cores[number]
        for loop in range(num_loops):
            core.like_first[loop], core.like_last[loop] = alike(problem, nest, core, loop)
    walked, frees = np.zeros(3, dtype=np.int64), np.empty(problem.dram_channels, dtype=np.int64)
    walked[0], walked[1] = -1, _NOBODY
    began = np.full((num_loops, 2), -1, dtype=np.int64)
    return Rhythm(np.empty((num_loops, size), dtype=np.int64), began, walked, frees)


@lean
def keep_time(
    nest: Nest, cores: NDArray[np.void], rhythm: Rhythm, free: Ints, waiting: Ints, time: int, bits: int
) -> None:
    """Once the first core has come to a new pass: if it begins an iteration, leave out what repeats.

    Args:
        nest: The mapping.
        cores: Between two requests.
        rhythm: What is remembered.
        free: Heap of when channels are free, shifted by ``bits``.
        waiting: Heap of requests, shifted by ``bits_of(len(cores))``.
        time: Of the next request.
        bits: Of the number of a channel.
    """
    first, walked = cores[0], rhythm.walked
    walked[0], loop = first.pass_number, first.moved
    if loop < 0:
        return
    # iterations of the loops inside begin anew
    for inner in range(loop + 1, nest.num_loops[0]):
        rhythm.began[inner, 0] = -1
    if walked[1] != _NOBODY:
        if loop <= walked[1]:
            is_again = _stand_again(nest, cores, loop, rhythm, free, time, bits)
            if loop < walked[1] or not is_again:
                raise RuntimeError("a rhythm broke off")
            _leave_out(cores, rhythm, free, waiting, bits)
        return
    if first.like_last[loop] - first.loop_index[loop] < _WORTH:
        return
    is_again = _stand_again(nest, cores, loop, rhythm, free, time, bits)
    if is_again and rhythm.began[loop, 0] >= 0:
        beats = _beats(cores, loop)
        if beats > 0:
            walked[1], walked[2] = loop, beats
            for number in range(len(cores)):
                cores[number].repeats = beats + 1
    rhythm.began[loop, 0], rhythm.began[loop, 1] = first.clock, first.pass_number


@small
def _beats(cores: NDArray[np.void], loop: int) -> int:
    """Iterations that may be left out after the next one."""
    beats = np.iinfo(np.int64).max
    for number in range(len(cores)):
        core = cores[number]
        if _is_running(core):
            # the one that was compared with must be alike too
            if core.loop_index[loop] - 1 < core.like_first[loop]:
                return 0
            beats = min(beats, core.like_last[loop] - core.loop_index[loop] - 1)
    return beats


@small
def _is_running(core: Core) -> bool:
    return core.slots_left > 0 or core.num_served < core.num_queued


@lean
def _stand_again(
    nest: Nest, cores: NDArray[np.void], loop: int, rhythm: Rhythm, free: Ints, time: int, bits: int
) -> bool:
    """Write where all cores and channels stand, relative to the first core and to its iteration of a loop.

    Returns:
        Whether that is as it was one iteration before, if it was written then.
    """
    first, known, at, changed = cores[0], rhythm.known[loop], 0, 0
    for number in range(len(cores)):
        core = cores[number]
        is_running = _is_running(core)
        changed |= _replace(known, at, is_running)
        if is_running:
            changed |= _replace(known, at + 1, core.clock - first.clock)
            changed |= _replace(known, at + 2, max(0, core.pass_end - core.clock))
            changed |= _replace(known, at + 3, core.num_beside)
            changed |= _replace(known, at + 4, core.num_queued)
            changed |= _replace(known, at + 5, core.num_served)
            changed |= _replace(known, at + 6, core.pass_number - first.pass_number)
            changed |= _replace(known, at + 7, core.pass_cycles)
            for each in range(nest.num_loops[0]):
                since = first.loop_index[loop] if each == loop else 0
                changed |= _replace(known, at + _LOOPS + each, core.loop_index[each] - since)
            for place in range(core.num_served, core.num_queued):
                row = core.queue[place]
                since = STORES + (row - STORES - core.pass_number & NUM_STORES - 1) if row >= STORES else row
                changed |= _replace(known, at + _QUEUE + place, since)
            # the oldest store has been served
            for row in range(STORES + NUM_STORES - 1):
                place = STORES + (core.pass_number - (row - STORES) & NUM_STORES - 1) if row >= STORES else row
                engine_cycles = core.transfer[place, ENGINE_CYCLES]
                channel_cycles = core.transfer[place, CHANNEL_CYCLES] if engine_cycles > 0 else 0
                changed |= _replace(known, at + _TRANSFERS + 2 * row, engine_cycles)
                changed |= _replace(known, at + _TRANSFERS + 2 * row + 1, channel_cycles)
        at += _CORE_FIELDS
    # nobody asks earlier than ``time``: which channel is free since when before that makes no difference
    frees = rhythm.frees
    for channel in range(len(free)):
        item, place = max(free[channel] >> bits, time) - first.clock, channel
        while place > 0 and frees[place - 1] > item:
            frees[place] = frees[place - 1]
            place -= 1
        frees[place] = item
    for channel in range(len(free)):
        changed |= _replace(known, at + channel, frees[channel])
    return changed == 0


@small
def _replace(known: Ints, at: int, number: int) -> int:
    """Write a number, and return 0 if it was there before."""
    was = known[at]
    known[at] = number
    return was ^ number


@lean
def _leave_out(cores: NDArray[np.void], rhythm: Rhythm, free: Ints, waiting: Ints, bits: int) -> None:
    """Set everything forward by the iterations that were counted along."""
    first, loop, beats = cores[0], rhythm.walked[1], rhythm.walked[2]
    cycles = beats * (first.clock - rhythm.began[loop, 0])
    passes = beats * (first.pass_number - rhythm.began[loop, 1])
    for number in range(len(cores)):
        core = cores[number]
        core.repeats = 1
        if _is_running(core):
            core.clock += cycles
            core.pass_end += cycles
            core.pass_number += passes
            core.passes_left -= passes
            core.slots_left -= passes
            core.loop_index[loop] += beats
            core.stale = min(core.stale, loop)
            for _ in range(passes & NUM_STORES - 1):
                _turn_stores(core)
    for place in range(len(waiting)):
        if waiting[place] != NO_REQUEST:
            waiting[place] += cycles << bits_of(len(cores))
    for channel in range(len(free)):
        free[channel] += cycles << bits
    rhythm.walked[0], rhythm.walked[1] = first.pass_number, _NOBODY
    rhythm.began[loop, 0] = -1


@small
def _turn_stores(core: Core) -> None:
    """Let the stores of each pass be those of the next one."""
    for column in range(TRANSFER_FIELDS):
        last = core.transfer[STORES + NUM_STORES - 1, column]
        for row in range(STORES + NUM_STORES - 1, STORES, -1):
            core.transfer[row, column] = core.transfer[row - 1, column]
        core.transfer[STORES, column] = last
    for place in range(core.num_queued):
        row = core.queue[place]
        if row >= STORES:
            core.queue[place] = STORES + (row - STORES + 1 & NUM_STORES - 1)
