"""Transfers between DRAM and SPM: what they move, how long they hold the DMA engine and a DRAM channel."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cost_model.transfer import box_transfer
from tvm_spm.report.nest import Nest, Pass
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import Dims, Operand, Projection


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """One request of a DMA engine.

    Attributes:
        kind: ``load``, ``read back`` (partial sums), ``spill`` (partial sums) or ``store`` (finished outputs).
        operand: Whose tile.
        pass_number: The pass it is for, or comes from.
        tile: Its extents.
        box: Elements along each axis, padding excluded.
        num_bytes: Across the DRAM channel in whole bursts, extras of the epilogue included.
        channel_cycles: How long it holds a channel.
        vector_cycles: Of the vector unit, through which a finished tile streams.
    """

    kind: str
    operand: Operand
    pass_number: int
    tile: Dims
    box: tuple[int, ...]
    num_bytes: int
    channel_cycles: int
    vector_cycles: int = 0

    @property
    def engine_cycles(self) -> int:
        """How long it holds the DMA engine: until the slower of channel and vector unit is done."""
        return max(self.channel_cycles, self.vector_cycles)

    @property
    def label(self) -> str:
        """Such as ``load W 3x64x16``; axes of one element are left out."""
        shown = "x".join(str(extent) for extent in self.box if extent > 1) or "1"
        return f"{self.kind} {self.operand.name} {shown}"


def load_transfers(nest: Nest, one: Pass) -> list[Transfer]:
    """What DMA brings before a pass, in the order I W O; tiles wholly in padding are not moved."""
    found = []
    for operand in one.loads:
        box, num_bytes, cycles = _move(nest, nest.workload.projection(operand), one)
        if cycles:
            kind = "read back" if operand is Operand.O else "load"
            found.append(
                Transfer(
                    kind=kind, operand=operand, pass_number=one.number, tile=one.shape.tile, box=box,
                    num_bytes=num_bytes, channel_cycles=cycles,
                )
            )  # fmt: skip
    return found


def store_transfers(nest: Nest, one: Pass) -> list[Transfer]:
    """What leaves after a pass: nothing, a finished tile with the extras it needs, or partial sums."""
    if not one.leaves:
        return []
    workload = nest.workload
    if not one.complete:
        box, num_bytes, cycles = _move(nest, workload.O, one)
        spill = Transfer(
            kind="spill", operand=Operand.O, pass_number=one.number, tile=one.shape.tile, box=box, num_bytes=num_bytes,
            channel_cycles=cycles,
        )  # fmt: skip
        return [spill]
    box, num_bytes, cycles = _move(nest, workload.final_projection(), one)
    for extra in workload.epilogue.extras:
        _, extra_bytes, extra_cycles = _move(nest, extra, one)
        num_bytes, cycles = num_bytes + extra_bytes, cycles + extra_cycles
    num_ops = math.prod(box) * workload.epilogue.num_ops_per_elem
    store = Transfer(
        kind="store", operand=Operand.O, pass_number=one.number, tile=one.shape.tile, box=box, num_bytes=num_bytes,
        channel_cycles=cycles, vector_cycles=math.ceil(num_ops / nest.arch.vector.ops_per_cycle),
    )  # fmt: skip
    return [store]


def _move(nest: Nest, projection: Projection, one: Pass) -> tuple[tuple[int, ...], int, int]:
    """(box, bytes, cycles) of one tensor's tile; a burst ends where the tile leaves out elements of an axis."""
    box = tuple(axis.clipped_elems(one.first, one.shape.tile) for axis in projection.axes)
    cycles, moved_bits = box_transfer(projection, box, nest.arch)
    return box, bits_to_bytes(moved_bits), cycles
