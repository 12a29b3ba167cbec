"""A breakdown as a table of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tvm_spm.units import format_capacity, format_energy

if TYPE_CHECKING:
    from tvm_spm.report.breakdown import Breakdown


def breakdown_text(breakdown: Breakdown) -> str:
    """Cycles by reason, use of resources, bytes and energy by level, roofline."""
    return "\n\n".join(
        (_cycles(breakdown), _resources(breakdown), _levels(breakdown), f"roofline: {breakdown.roofline}")
    )


def _cycles(breakdown: Breakdown) -> str:
    cycles = breakdown.cost.cycles
    of = f" of core {breakdown.core}, the last of {breakdown.num_cores}" if breakdown.num_cores > 1 else ""
    rows = [
        (str(reason), f"{reason.cycles:,}", f"{reason.cycles / cycles:.1%}")
        for reason in breakdown.reasons
        if reason.cycles
    ]
    pe = breakdown.pe
    shares = ", ".join(f"{name} {part / pe.total:.1%}" for name, part in (
        ("multiplying", pe.macs), ("idle at edge tiles", pe.edge), ("left out", pe.unmapped), ("waiting", pe.stalled),
    ))  # fmt: skip
    return table(("cycles" + of, "cycles", "share"), [*rows, ("all", f"{cycles:,}", "100.0%")]) + f"\nPEs: {shares}"


def _resources(breakdown: Breakdown) -> str:
    rows = [
        (
            use.resource if use.count == 1 else f"{use.count} {use.resource}",
            f"{use.busy_cycles:,}",
            f"{use.stalled_cycles:,}",
            f"{use.idle_cycles:,}",
            f"{use.busy_share:.1%}",
        )
        for use in breakdown.resources
    ]
    return table(("resource", "busy", "stalled", "idle cycles", "busy"), rows)


def _levels(breakdown: Breakdown) -> str:
    cost = breakdown.cost
    rows = [
        (f"{use.level} {use.operand}", f"{use.num_bytes:,}", format_capacity(use.num_bytes),
         format_energy(use.energy_pj), f"{_share(use.energy_pj, cost.energy_pj)}")
        for use in breakdown.levels
        if use.num_bytes
    ]  # fmt: skip
    for name, energy_pj in (("MACs", cost.energy.mac_pj), ("vector unit", cost.energy.vector_pj)):
        if energy_pj:
            rows.append((name, "", "", format_energy(energy_pj), f"{_share(energy_pj, cost.energy_pj)}"))
    rows.append(("all", "", "", format_energy(cost.energy_pj), "100.0%"))
    lines = [table(("level", "bytes", "", "energy", "share"), rows)]
    if cost.dram_unused_bytes:
        moved, unused = sum(cost.dram_bytes), cost.dram_unused_bytes
        lines.append(f"whole bursts: {unused:,} B of the {moved:,} B of DRAM belong to no tile ({unused / moved:.1%})")
    if breakdown.blocks:
        blocks, misses = breakdown.blocks, breakdown.misses
        lines.append(f"open pages: runs come to {blocks:,} blocks of a bank, {misses:,} miss ({misses / blocks:.1%})")
    return "\n".join(lines)


def _share(part: float, whole: float) -> str:
    return f"{part / whole if whole else 0.0:.1%}"


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    lines = [heading, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heading))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
