"""All cores of one mapping, and how many cycles they take together (compiled)."""

from __future__ import annotations

from typing import NamedTuple

from cost_model.analytical.core import core_times
from cost_model.analytical.transfers import Scratch
from cost_model.nest import SHARE, Nest, clipped_range
from cost_model.problem import Ints, Problem
from tvm_spm.jit import small
from tvm_spm.space.mapping_batch import NUM_DIMS

PASS_CYCLES, ENGINE_CYCLES = 1, 2
"""Columns of counts: cycles of all passes of the slowest core; of all cores, cycles that keep the DMA engines."""


class CoreSums(NamedTuple):
    """Cores as if each were alone, all cycles.

    Attributes:
        slowest: Until the last store of the core that takes longest.
        slowest_prologue: Of that core: its first loads.
        prologues: First loads of all cores.
        held: All cores together hold the channels.
        early: Of that, before the last pass of each core but for a store beside it.
        least_rest: Of some core, from its first pass on.
        least_late: Of some core, from its last pass on.
    """

    slowest: int
    slowest_prologue: int
    prologues: int
    held: int
    early: int
    least_rest: int
    least_late: int


@small
def sum_cores(problem: Problem, nest: Nest, scratch: Scratch, counts: Ints) -> CoreSums:
    """Sum up all kinds of cores.

    Fills ``counts`` of passes and engines, and ``places[5]`` with the extents of the core that takes longest.
    """
    places = scratch.places
    first, extent, low, high, at, longest = places[0], places[1], places[2], places[3], places[4], places[5]
    # the cores of a dim in [low, high) are alike, the others are kinds of their own
    at[:] = 0
    for d in range(NUM_DIMS):
        low[d], high[d] = 0, 1
        if nest.cores[d] > 1:
            low[d], high[d] = clipped_range(problem, d, 0, problem.dims[d], nest.tile[SHARE, d])
    slowest, slowest_prologue, prologues, held, early, least_rest, least_late = -1, 0, 0, 0, 0, 0, 0
    counts[ENGINE_CYCLES] = 0
    while True:
        count = 1
        for d in range(NUM_DIMS):
            first[d] = at[d] * nest.tile[SHARE, d]
            extent[d] = min(nest.tile[SHARE, d], problem.dims[d] - first[d])
            if low[d] == at[d] and at[d] < high[d]:
                count *= high[d] - low[d]
        times, prologue = core_times(problem, nest, first, extent, scratch)
        rest = times.cycles - problem.launch_cycles - prologue
        least_rest = rest if slowest < 0 else min(least_rest, rest)
        least_late = times.late if slowest < 0 else min(least_late, times.late)
        if times.cycles > slowest:
            slowest, slowest_prologue, counts[PASS_CYCLES] = times.cycles, prologue, times.passes
            for d in range(NUM_DIMS):
                longest[d] = extent[d]
        counts[ENGINE_CYCLES] += times.engine * count
        prologues += prologue * count
        held += times.channel * count
        early += (times.channel - times.late_channel) * count
        d = NUM_DIMS - 1
        while d >= 0:
            at[d] = max(at[d] + 1, high[d]) if at[d] == low[d] else at[d] + 1
            if at[d] < nest.cores[d]:
                break
            at[d] = 0
            d -= 1
        if d < 0:
            break
    return CoreSums(slowest, slowest_prologue, prologues, held, early, least_rest, least_late)


@small
def contended_cycles(problem: Problem, nest: Nest, cores: CoreSums) -> int:
    """The formula: an estimate of the cycles until the last core is done.

    Cores with a channel each do not wait. Otherwise two waits are likely: all cores ask for their first tiles at once,
    so that the last one starts when the channels have served all of them; and the channels must serve all transfers.
    """
    channels = problem.dram_channels
    if nest.num_cores <= channels:
        return cores.slowest
    late_start = cores.slowest + max(0, -(-cores.prologues // channels) - cores.slowest_prologue)
    return max(late_start, problem.launch_cycles + -(-cores.held // channels))


@small
def least_cycles(problem: Problem, nest: Nest, cores: CoreSums) -> int:
    """What the simulator's cycles are never below; equal to them if no cores share a channel.

    Waiting for a channel never lets a core finish earlier than it does alone. The channels serve no faster than all at
    once: some core has its first tiles last, and then still has all its passes before it; and some core is the last
    to have done all that precedes its last pass, and then still has that pass and its store before it.
    """
    channels = problem.dram_channels
    if nest.num_cores <= channels:
        return cores.slowest
    after = max(-(-cores.prologues // channels) + cores.least_rest, -(-cores.early // channels) + cores.least_late)
    return max(cores.slowest, problem.launch_cycles + max(after, -(-cores.held // channels)))
