"""How long tiles take between SPM and the array, over networks that share a port of SPM if it has a limit."""

from __future__ import annotations

import math

from cost_model.arrays import UNBOUNDED
from tvm_spm.jit import small


@small
def crossing_cycles(elems: int, elem_bits: int, elems_per_cycle: float, port_bytes_per_cycle: float) -> int:
    """Cycles in which a tile crosses its network while no other needs the port.

    Args:
        elems: Of the tile.
        elem_bits: Of an element.
        elems_per_cycle: Of the network.
        port_bytes_per_cycle: Of the port, ``UNBOUNDED`` if it has no limit.
    """
    cycles = int(math.ceil(elems / elems_per_cycle))
    if port_bytes_per_cycle == UNBOUNDED:
        return cycles
    return max(cycles, int(math.ceil(((elems * elem_bits + 7) >> 3) / port_bytes_per_cycle)))
