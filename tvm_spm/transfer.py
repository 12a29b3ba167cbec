"""The rule of a transfer between DRAM and SPM: what it moves and how long it takes; plain Python that also compiles.

Every engine calls it: the formula, the simulators of layers, groups and attention, the exact search, and the reports.
"""

from __future__ import annotations

import math


def transfer(
    elems: int, bursts: int, elem_bits: int, burst_bits: int, startup_cycles: float, bytes_per_cycle: float
) -> tuple[int, int]:
    """(cycles, bits) of moving a box of a tensor in bursts of equal length, each of whole ``burst_bits``.

    A burst is a contiguous run of the box in DRAM and starts at an aligned address. A box without elements moves
    nothing and takes no time.

    Args:
        elems: Of the box.
        bursts: Contiguous runs of the box.
        elem_bits: Width of an element while it moves.
        burst_bits: See ``Arch.burst_bits``; with 1, whole bytes of the box are moved.
        startup_cycles: Before the first byte of a burst.
        bytes_per_cycle: Once a burst runs.
    """
    if elems == 0:
        return 0, 0
    moved_bits = bursts * (-(-(elems // bursts * elem_bits) // burst_bits) * burst_bits)
    return int(math.ceil(bursts * startup_cycles + ((moved_bits + 7) >> 3) / bytes_per_cycle)), moved_bits
