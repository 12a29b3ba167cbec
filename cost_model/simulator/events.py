"""All cores against the shared DRAM channels: requests in the order of time, then core number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.nest import Nest, build_nest
from cost_model.problem import Ints, Problem
from cost_model.simulator.banks import Banks, wait_for_rows
from cost_model.simulator.core import advance, serve
from cost_model.simulator.heap import bits_of, sift_down
from cost_model.simulator.ledger import TOTAL_FIELDS, Ledger, open_ledger
from cost_model.simulator.log import MOST_EVENTS, Log, should_stop
from cost_model.simulator.pe_array import PASS_FIELDS
from cost_model.simulator.placement import place_core
from cost_model.simulator.rhythm import NO_REQUEST, keep_time, listen
from cost_model.simulator.undisturbed import run_undisturbed
from tvm_spm.jit import entry, kernel
from tvm_spm.space.mapping_batch import MappingBatch

CYCLES, MAC_CYCLES, PASS_CYCLES_SUM, LAST_CORE, TOTALS, COUNTS = 0, 1, 2, 3, 4, 4 + TOTAL_FIELDS
"""Columns of a result: cycles, MAC and pass cycles of the core that finishes last, its number, totals, and summed pass
records."""

RESULT_FIELDS = COUNTS + PASS_FIELDS

_LONG = 16
"""Passes of a core below which nobody listens for a rhythm."""


class RunRoom(NamedTuple):
    """Where runs work; the caller holds it while its views are in use.

    Attributes:
        nests: One record of ``NEST_FIELDS``.
        odometers: One of ``ODOMETER_FIELDS``.
        cores: Records of ``CORE_FIELDS``, at least as many as a mapping uses cores.
        results: One row per mapping, ``RESULT_FIELDS`` numbers.
        extra_elems: One row per mapping, elements moved per extra of the epilogue.
        banks: Of the memory.
        rows_met: One row per mapping, see ``banks.BLOCKS``.
    """

    nests: NDArray[np.void]
    odometers: NDArray[np.void]
    cores: NDArray[np.void]
    results: Ints
    extra_elems: Ints
    banks: Banks
    rows_met: Ints


@kernel
def _run_cores(
    problem: Problem, nest: Nest, cores: NDArray[np.void], ledger: Ledger, log: Log, banks: Banks, rows_met: Ints
) -> None:
    """Serve requests first come, first served, each on the channel that is free earliest, which has its rows open."""
    # what a transfer waits for rows depends on all before it: no two passes are alike
    listens = ledger.odometers[0].fold and banks.memory[0].banks == 0 and len(log.account) == 0
    listens = listens and cores[0].passes_left >= _LONG
    rhythm = listen(problem, nest, cores[: len(cores) if listens else 0])
    memory, open_rows = banks.memory[0], banks.open_rows
    open_rows[:] = -1
    num_cores, num_channels = len(cores), problem.dram_channels
    core_bits, bits = bits_of(num_cores), bits_of(num_channels)
    # a time and whose it is, as one number: of equal times the one with the lowest number comes first
    free = np.empty(num_channels, dtype=np.int64)
    waiting = np.empty(num_cores, dtype=np.int64)
    for channel in range(num_channels):
        free[channel] = channel
    for number in range(num_cores):
        waiting[number] = number
    while waiting[0] != NO_REQUEST:
        if listens and cores[0].pass_number != rhythm.walked[0]:
            keep_time(nest, cores, rhythm, free, waiting, waiting[0] >> core_bits, bits)
        time, number = waiting[0] >> core_bits, waiting[0] & (1 << core_bits) - 1
        core = cores[number]
        if core.num_served < core.num_queued:
            if should_stop(log, time, problem.launch_cycles):
                break
            channel = free[0] & (1 << bits) - 1
            if memory.banks > 0:
                wait_for_rows(problem, nest, core, memory, open_rows[channel], rows_met)
            free[0] = serve(core, ledger, log, max(time, free[0] >> bits), channel) << bits | channel
            sift_down(free, num_channels)
        is_waiting = advance(problem, nest, core, ledger, log)
        if core.clock < time:
            raise RuntimeError("a core went back in time")
        waiting[0] = core.clock << core_bits | number if is_waiting else NO_REQUEST
        sift_down(waiting, num_cores)


@entry
def simulate_rows(problems: NDArray[np.void], batch: MappingBatch, fold: bool, room: RunRoom, log: Log) -> None:
    """Simulate every row of a batch.

    Args:
        problems: One record of ``PROBLEM_FIELDS``.
        batch: Legal mappings.
        fold: Count repetition instead of walking it.
        room: Its results are filled.
        log: Of one mapping, or an empty one.
    """
    problem, nest = problems[0], room.nests[0]
    room.odometers[0].fold = fold
    for row in range(len(room.results)):
        result = room.results[row]
        build_nest(problem, batch, row, nest)
        num_cores = nest.num_cores
        # what a transfer waits for rows depends on all before it: no two passes are alike
        is_alike = room.banks.memory[0].banks == 0
        is_counted = fold and is_alike and num_cores <= problem.dram_channels and log.at[MOST_EVENTS] == 0
        ledger = open_ledger(problem, nest, room.odometers, not is_counted)
        cores = room.cores[:num_cores]
        for number in range(num_cores):
            place_core(problem, nest, ledger, number, cores[number])
        room.rows_met[row] = 0
        if is_counted:
            for number in range(num_cores):
                run_undisturbed(problem, nest, cores[number], ledger, log)
        else:
            _run_cores(problem, nest, cores, ledger, log, room.banks, room.rows_met[row])
        last = 0
        for number in range(num_cores):
            if cores[number].clock > cores[last].clock:
                last = number
        result[CYCLES], result[LAST_CORE] = cores[last].clock, last
        result[MAC_CYCLES], result[PASS_CYCLES_SUM] = cores[last].sum_mac_cycles, cores[last].sum_pass_cycles
        for column in range(TOTAL_FIELDS):
            result[TOTALS + column] = ledger.totals[column]
        for column in range(PASS_FIELDS):
            result[COUNTS + column] = 0
        for kind in range(len(ledger.num_passes)):
            if ledger.num_passes[kind] > 0:
                for column in range(PASS_FIELDS):
                    result[COUNTS + column] += ledger.num_passes[kind] * ledger.records[kind, column]
        for extra in range(len(ledger.extra_elems)):
            room.extra_elems[row, extra] = ledger.extra_elems[extra]
