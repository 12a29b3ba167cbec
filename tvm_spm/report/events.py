"""The events that the simulator wrote down, with names: of every resource, and of tiles that take room in SPM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from cost_model.simulator import log
from tvm_spm.units import bits_to_bytes, ceil_div
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload

Row = list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something takes from ``start`` to ``end``, in cycles.

    Attributes:
        start: First cycle.
        end: One beyond the last.
        resource: One of ``RESOURCES``, or ``DRAM channel`` and its number.
        core: The core that does it, or for which a channel works.
        label: Such as ``load W 3x64x16``.
        operand: ``I``, ``W``, ``O``, or empty.
        pass_number: The pass of that core that it belongs to.
        num_bytes: Moved; 0 for work.
        is_waiting: The resource only waits, for a DRAM channel.
    """

    start: int
    end: int
    resource: str
    core: int
    label: str
    operand: str
    pass_number: int
    num_bytes: int = 0
    is_waiting: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """A tile takes room in a core's SPM, in whole banks, from ``start`` to ``end``."""

    start: int
    end: int
    core: int
    operand: str
    num_bytes: int


def events_of(workload: Workload, run: log.Log) -> Iterator[Event]:
    """Everything that is drawn, in the order of the log."""
    passes = {(row[log.PASS_CORE], row[log.PASS_NUMBER]): row for row in run.passes.tolist()}
    for start, end, note, core, number, moved, channel in run.events.tolist():
        num_bytes, is_waiting = moved, False
        if note >= log.MULTIPLY:
            resource, operand, num_bytes = "PE array", "", 0
            label = f"{moved:,} MACs" if note == log.MULTIPLY else "MAC pipeline"
        elif note >= log.CROSSING:
            resource = log.NETWORKS[note - log.CROSSING]
            operand = resource[4]
            label = f"{'take' if resource == 'NoC O out' else 'give'} {operand} {moved:,} B"
        else:
            kind = note % len(log.TRANSFERS)
            label, operand = _label(workload, kind, passes[core, number]), log.TRANSFERS[kind][-1]
            resource, label, is_waiting = {
                log.DMA: ("DMA", label, False),
                log.WAIT: ("DMA", f"wait for a channel: {label}", True),
                log.CHANNEL: (f"DRAM channel {channel}", f"{label}, core {core}", False),
                log.VECTOR: ("vector unit", f"epilogue of {label}", False),
            }[note - kind]
        yield Event(
            start=start, end=end, resource=resource, core=core, label=label, operand=operand, pass_number=number,
            num_bytes=num_bytes, is_waiting=is_waiting,
        )  # fmt: skip


def _label(workload: Workload, kind: int, row: Row) -> str:
    """Such as ``load W 3x64x16``: the box that moves, padding excluded; axes of one element are left out."""
    projection = workload.final_projection() if kind == log.STORE else workload.projection(_operand(kind))
    first, tile = dict(zip(DIM_NAMES, row[log.PASS_FIRST : log.PASS_TILE], strict=True)), Dims.of(row[log.PASS_TILE :])
    box = [axis.clipped_elems(first, tile) for axis in projection.axes]
    return f"{log.TRANSFERS[kind]} {'x'.join(str(elems) for elems in box if elems > 1) or '1'}"


def _operand(kind: int) -> Operand:
    return Operand(min(kind, log.READ_BACK))


def residencies_of(workload: Workload, bank_bytes: int, run: log.Log, cycles: int) -> Iterator[Residency]:
    """All tiles that come before ``cycles``; those that stay end there.

    A tile takes room from the request of its load, or without one from the start of its pass; inputs until the last
    pass that uses them ends, outputs until they are stored.
    """
    requests: dict[tuple[int, int, int], int] = {}
    stored: dict[tuple[int, int], int] = {}
    for start, end, note, core, number, _, _ in run.events.tolist():
        if note < log.CHANNEL:
            kind = note % len(log.TRANSFERS)
            requests.setdefault((core, number, kind), start)
            if kind in (log.SPILL, log.STORE) and note < log.WAIT:
                stored[core, number] = end
    # a core's passes are in their order, but mixed with those of the others
    rows = sorted(run.passes.tolist(), key=lambda row: row[log.PASS_CORE])
    for core, own in groupby(rows, key=lambda row: row[log.PASS_CORE]):
        passes = list(own)
        for operand in Operand:
            for first, last in _stays(passes, operand):
                load = requests.get((core, first[log.PASS_NUMBER], operand.value))
                start = first[log.PASS_START] if load is None else load
                if operand is Operand.O:
                    end = stored.get((core, last[log.PASS_NUMBER]), cycles) if last[log.LEAVES] else cycles
                else:
                    end = last[log.PASS_END] if last[log.PASS_END] >= 0 else cycles
                if 0 <= start < cycles:
                    num_bytes = _room_bytes(workload, operand, Dims.of(first[log.PASS_TILE :]), bank_bytes)
                    yield Residency(
                        start=start, end=min(end, cycles), core=core, operand=operand.name, num_bytes=num_bytes
                    )


def _stays(passes: list[Row], operand: Operand) -> Iterator[tuple[Row, Row]]:
    """First and last pass that share a tile of an operand."""
    first = None
    for before, row in zip([None, *passes], passes, strict=False):
        is_new = before is None or (
            before[log.LEAVES] if operand is Operand.O else row[log.ENTERS] >> operand.value & 1
        )
        if is_new:
            if first is not None and before is not None:
                yield first, before
            first = row
    if first is not None:
        yield first, passes[-1]


def _room_bytes(workload: Workload, operand: Operand, tile: Dims, bank_bytes: int) -> int:
    projection = workload.projection(operand)
    bits = max(projection.elem_bits, workload.out_bits) if operand is Operand.O else projection.elem_bits
    return ceil_div(bits_to_bytes(projection.tile_elems(tile) * bits), bank_bytes) * bank_bytes
