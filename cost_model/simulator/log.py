"""What a run writes down for a report: cycles by what they went into, per core, and the events themselves.

A log that nobody asked for has length 0, and then nothing is written. What is noted is one of the numbers below; the
tables beside them say which unit is at work, or why the PE array is not.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import lean, small
from tvm_spm.space.mapping_batch import NUM_DIMS

Ints = NDArray[np.int64]

TRANSFERS = ("load I", "load W", "read back O", "spill O", "store O")
"""What a DMA engine does, by the number of its transfers; partial sums are spilled and read back."""

LOAD, READ_BACK, SPILL, STORE = 0, 2, 3, 4
"""Numbers of transfers: loads are ``LOAD`` and the operand."""

NETWORKS = ("NoC I", "NoC W", "NoC O in", "NoC O out")

DMA, WAIT, CHANNEL, VECTOR = 0, 5, 10, 15
"""Notes of a transfer, each and the number of the transfer: the engine moves it, waits for a channel to, holds the
channel; and the vector unit works on it."""

CROSSING, MULTIPLY, PIPELINE, FIRST_UNDRAWN = 20, 24, 25, 26
"""Notes of the array: a tile crosses a network, PEs multiply, the last products leave their pipeline. What follows is
counted and not drawn."""

FILL, DRAIN, NETWORK, REGISTERS, PORT = 26, 27, 28, 32, 35
"""Why the array waits inside a pass; for the network it waits for, or the operand without a second RF buffer."""

FIRST_LOAD, BESIDE, BETWEEN, LAST_STORE, ARBITRATION, VECTOR_UNIT = 36, 40, 44, 48, 52, 53
"""Why it waits between passes; the first four each and I, W, O in or O out."""

NUM_NOTES = 54

CYCLES, AMOUNT = 0, 1
"""Columns of an account: cycles, and bytes moved or multiply-accumulates done meanwhile."""

START, END, NOTE, CORE, PASS, MOVED, CHANNEL_NUMBER, EVENT_FIELDS = range(8)
"""Columns of an event: cycles, what is noted, whose and of which pass, its amount, and the DRAM channel."""

PASS_CORE, PASS_NUMBER, PASS_START, PASS_END, ENTERS, LEAVES = range(6)
PASS_FIRST, PASS_TILE, PASS_ROW_FIELDS = 6, 6 + NUM_DIMS, 6 + 2 * NUM_DIMS
"""Columns of a pass: where it runs, when (0 if it has not), which SPM tiles are new (bits) and whether O leaves; first
index and elements per dim."""

(
    AT_CORE, AT_PASS, AT_TIME, AT_REPEATS, PASS_REPEATS, NUM_EVENTS, NUM_PASSES, MOST_EVENTS, HORIZON, IS_FULL,
    AT_FIELDS,
) = range(11)  # fmt: skip
"""Where a run stands: whose event of which pass is noted, when, and how often it happens (0: nothing is noted). About
``MOST_EVENTS`` events are written, 0 if none are wanted; all that start before ``HORIZON`` are there, -1 if that is not
known yet. Once a pass has come to twice as many, the log is full for it."""


class Log(NamedTuple):
    """Of one run; with no rows in ``account`` nothing is written.

    Attributes:
        account: Per core and note, cycles and amount.
        events: In the order in which they became known; as many as there is room for, ``at`` counts all.
        passes: Likewise.
        at: ``AT_FIELDS`` numbers.
    """

    account: Ints
    events: Ints
    passes: Ints
    at: Ints


def new_log(num_cores: int = 0, *, most_events: int = 0, room: int = 0) -> Log:
    """An empty log.

    Args:
        num_cores: That keep accounts; 0 for a log that nobody asked for.
        most_events: About as many are written.
        room: Rows for events, and for passes.
    """
    at = np.zeros(AT_FIELDS, np.int64)
    at[MOST_EVENTS], at[HORIZON] = most_events, -1
    return Log(
        account=np.zeros((num_cores, NUM_NOTES, 2), np.int64),
        events=np.empty((room, EVENT_FIELDS), np.int64),
        passes=np.empty((room, PASS_ROW_FIELDS), np.int64),
        at=at,
    )


@lean
def note(log: Log, what: int, start: int, end: int, amount: int, channel: int) -> None:
    """Count what takes from ``start`` to ``end``, and write it down if events are wanted and it takes any time."""
    at = log.at
    log.account[at[AT_CORE], what, CYCLES] += at[AT_REPEATS] * (end - start)
    log.account[at[AT_CORE], what, AMOUNT] += at[AT_REPEATS] * amount
    if at[MOST_EVENTS] == 0 or at[IS_FULL] or what >= FIRST_UNDRAWN or end <= start:
        return
    row = at[NUM_EVENTS]
    at[NUM_EVENTS] += 1
    if row < len(log.events):
        event = log.events[row]
        event[START], event[END], event[NOTE], event[CORE] = start, end, what, at[AT_CORE]
        event[PASS], event[MOVED], event[CHANNEL_NUMBER] = at[AT_PASS], amount, channel
    if what >= CROSSING and row >= 2 * at[MOST_EVENTS]:
        at[IS_FULL] = 1
        end_at(log, start)


@lean
def end_at(log: Log, time: int) -> None:
    """What starts from ``time`` on may be missing."""
    log.at[HORIZON] = time if log.at[HORIZON] < 0 else min(time, log.at[HORIZON])


@small
def should_stop(log: Log, time: int, launch_cycles: int) -> bool:
    """Whether a run that has come to ``time`` need not go on, as there are events enough."""
    if log.at[MOST_EVENTS] == 0:
        return False
    if log.at[NUM_EVENTS] >= log.at[MOST_EVENTS] and time > launch_cycles:
        end_at(log, time)
    return 0 <= log.at[HORIZON] <= time
