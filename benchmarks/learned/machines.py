"""Machines to tune for: those that the formula describes, and four that it does not.

``parameters`` and, of four cores, ``quad-other`` differ in numbers that their file does not say. ``conflicts`` has
banks besides, of which several PEs may want the same one. ``queues`` is another machine altogether, written for this
benchmark alone: it shares nothing with the formula or the simulator but the mapping; DMA works ahead by more than two
tiles, and writes are posted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cost_model.simulator import simulate_batch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.tuning.measurer import Measurement, MeasureRequest
from tvm_spm.workload import DIM_NAMES, Operand, Workload


class Machine(Protocol):
    """Something that runs mappings."""

    declared: Arch
    """What its file says."""

    def cycles(self, workload: Workload, mappings: Sequence[Mapping]) -> NDArray[np.float64]:
        """What mappings take."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The simulator of the declared accelerator."""

    declared: Arch

    def cycles(self, workload: Workload, mappings: Sequence[Mapping]) -> NDArray[np.float64]:
        """By the simulator."""
        return np.array([cost.cycles for cost in simulate_batch(workload, self.declared, list(mappings))], dtype=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherNumbers:
    """The simulator of another accelerator than the declared one.

    Attributes:
        declared: What the file says.
        true: What is built.
        num_banks: Of SPM; several PEs that read rows which start in the same bank wait for each other. None do if 0.
    """

    declared: Arch
    true: Arch
    num_banks: int = 0

    def cycles(self, workload: Workload, mappings: Sequence[Mapping]) -> NDArray[np.float64]:
        """By the simulator; what the array does takes longer by its conflicts."""
        costs = simulate_batch(workload, self.true, list(mappings))
        slower = [self._conflicts(workload, mapping) for mapping in mappings]
        return np.array([
            round(cost.cycles + (cost.compute_cycles + cost.noc_stall_cycles) * (factor - 1))
            for cost, factor in zip(costs, slower, strict=True)
        ], dtype=float)  # fmt: skip

    def _conflicts(self, workload: Workload, mapping: Mapping) -> float:
        """PEs along a side that meet in one bank, as rows of input and weight tiles follow each other in SPM."""
        if not self.num_banks:
            return 1.0
        factor = 1.0
        for operand in (Operand.I, Operand.W):
            projection = workload.projection(operand)
            stride = projection.axes[-1].tile_elems(mapping.spm) * projection.elem_bits // 8 // 4
            side = max(mapping.rows.product(), mapping.cols.product())
            same = math.gcd(max(1, stride), self.num_banks)
            factor += 0.25 * (min(side, same) - 1) / 8
        return factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """An event-driven machine: one queue of loads, so many tiles ahead, posted writes, latency before every tile.

    Attributes:
        declared: What the file says.
        depth: Tiles of a doubled operand that may wait in SPM or on their way.
        latency: Cycles before the first byte of a tile.
        bytes_per_cycle: Of the DMA engine.
        elems_per_cycle: Of all networks together.
    """

    declared: Arch
    depth: int = 4
    latency: float = 150.0
    bytes_per_cycle: float = 20.0
    elems_per_cycle: float = 40.0

    def cycles(self, workload: Workload, mappings: Sequence[Mapping]) -> NDArray[np.float64]:
        """Event by event, a pass of the array at a time."""
        return np.array([self._run(workload, mapping) for mapping in mappings])

    def _run(self, workload: Workload, mapping: Mapping) -> float:
        factors = mapping.dram_factors(workload.dims)
        inner = mapping.spm_factors()
        steps = math.prod(inner)
        order = [DIM_NAMES.index(name) for name in mapping.dram_order]
        relevant = np.zeros((3, len(DIM_NAMES)), dtype=np.bool_)
        loads, crossing = np.zeros(3), 0.0
        for operand in Operand:
            projection = workload.projection(operand)
            relevant[operand.value] = [name in projection.relevant_dims for name in DIM_NAMES]
            loads[operand.value] = projection.tile_elems(mapping.spm) * projection.elem_bits / 8
            reused = 1
            for name in reversed(mapping.spm_order):
                if name in projection.relevant_dims:
                    break
                reused *= inner[name]
            crossing += steps / reused * projection.tile_elems(mapping.array)
        work = max(steps * mapping.rf.product(), crossing / self.elems_per_cycle) + mapping.rf.product()
        ahead = np.array([self.depth if operand in mapping.spm_double else 1 for operand in Operand])
        return float(
            _events(
                np.array(factors.as_tuple(), dtype=np.int64), np.array(order, dtype=np.int64), relevant, loads,
                (work, self.latency, self.bytes_per_cycle), ahead,
            )
        )  # fmt: skip


@njit
def _events(factors, order, relevant, loads, rates, ahead):  # noqa: ANN001, ANN202 (compiled)
    work, latency, rate = rates
    total = 1
    for d in order:
        total *= factors[d]
    at = np.zeros(8, dtype=np.int64)
    free = np.zeros((3, 16))  # when each slot of an operand may be filled again
    slot = np.zeros(3, dtype=np.int64)
    arrived = np.zeros(3)
    dma, done, writes = 0.0, 0.0, 0.0
    changed = np.ones(3, dtype=np.bool_)
    for number in range(total):
        for operand in range(2):
            if changed[operand]:
                start = max(dma, free[operand, slot[operand] % ahead[operand]])
                dma = start + latency + loads[operand] / rate
                arrived[operand] = dma
                slot[operand] += 1
        begin = max(done, max(arrived[0], arrived[1]))
        if changed[2]:
            begin = max(begin, free[2, slot[2] % ahead[2]])
        done = begin + work
        for operand in range(2):
            free[operand, (slot[operand] - 1) % ahead[operand]] = done
        # the next point of the loops, and whose tiles it changes
        changed[:] = False
        for place in range(len(order) - 1, -1, -1):
            d = order[place]
            at[d] += 1
            if at[d] < factors[d]:
                for operand in range(3):
                    changed[operand] |= relevant[operand, d]
                break
            at[d] = 0
            if factors[d] > 1:
                for operand in range(3):
                    changed[operand] |= relevant[operand, d]
        if changed[2] or number == total - 1:
            writes = max(writes, done) + latency / 2 + loads[2] / rate
            free[2, slot[2] % ahead[2]] = writes
            slot[2] += 1
    return max(done, writes)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineMeasurer:
    """A machine as what ``tvm_spm.tune`` takes for a board.

    Attributes:
        machine: Who runs.
        name: Named in logs.
    """

    machine: Machine
    name: str

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """One request after the other."""
        return [
            Measurement(cycles=int(self.machine.cycles(request.workload, [request.mapping])[0])) for request in requests
        ]


def machines() -> dict[str, Machine]:
    """By name: (a) one core and (b) several, as declared; (c) foreign ones, three of one core and one of four."""
    edge, quad = load_arch("edge-256"), load_arch("quad-edge")
    other, quad_other = (
        replace(
            arch, dma=replace(arch.dma, startup_cycles=198.0, cycles_per_byte=0.4),
            noc=replace(arch.noc, elems_per_cycle=12.0), pe=replace(arch.pe, mac_stages=3),
        )
        for arch in (edge, quad)
    )  # fmt: skip
    return {
        "edge-256": Known(declared=edge),
        "quad-edge": Known(declared=quad),
        "mlu100-32": Known(declared=load_arch("mlu100-32")),
        "parameters": OtherNumbers(declared=edge, true=other),
        "conflicts": OtherNumbers(declared=edge, true=other, num_banks=32),
        "queues": Queues(declared=edge),
        "quad-other": OtherNumbers(declared=quad, true=quad_other),
    }
