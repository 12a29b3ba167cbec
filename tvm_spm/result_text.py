"""The result of tuning a network as a table and a few lines, for a terminal."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.table import Table

from tvm_spm.tuning_result import TaskResult, TuningResult
from tvm_spm.units import format_capacity, format_energy, format_seconds, format_si


def print_result(result: TuningResult) -> None:
    """Print the table of tasks, the sums over the network, and what was left out."""
    table = Table(title=f"{result.arch}", title_justify="left")
    for heading, justify in _COLUMNS:
        table.add_column(heading, justify=justify, overflow="fold")
    for task in result.tasks:
        verdict = {True: "yes", False: "NO", None: "not run"}[task.verified]
        table.add_row(
            task.task.name,
            _count_text(result, task),
            "vector unit" if task.mapping is None else task.mapping.brief(),
            f"{task.cost.cycles:,}",
            f"{task.cost.utilization:.0%}",
            task.cost.bound_by,
            format_energy(task.cost.energy_pj),
            f"{task.cost.edp_pj_cycles:.3g}",
            f"{task.gain(result.objective):.2f}x",
            "network" if task.mapping is None else verdict,
        )
    console().print(table)
    if result.groups:
        _print_groups(result)
    total, default = result.cost, result.default_cost
    verdict = {True: "yes", False: "NO", None: "not finished"}[result.verified]
    lines = [
        f"network: {format_si(total.cycles, 'cycles')} "
        f"({format_seconds(total.cycles / result.arch.clock_hz)} at {format_si(result.arch.clock_hz, 'Hz')}), "
        f"{format_energy(total.energy_pj)}, EDP {total.edp_pj_cycles:.4g} pJ x cycles, "
        f"utilization {total.utilization:.0%}",
        f"against the default mappings: {result.speedup_over('default'):.2f}x faster, "
        f"{default.energy_pj / total.energy_pj:.2f}x less energy, "
        f"{default.edp_pj_cycles / total.edp_pj_cycles:.2f}x lower EDP",
        f"fusion: {_fusion_text(result)}",
        f"verified against the untuned module: {verdict}",
    ]
    if result.verification is not None:
        lines.append(f"  whole network: {result.verification}")
    lines += [f"  {task.task.name}: {task.verification}" for task in result.tasks if task.verified is False]
    lines += [f"  {' > '.join(g.names)}: {g.verification}" for g in result.groups if g.verified is False]
    if result.plan is not None:
        lines += [f"not fused: {' > '.join(r.names)}: {r.reason}" for r in result.plan.unscheduled]
        counts = [f"{count:,} by {kind}" for kind, count in result.plan.num_refused().items()]
        lines += [f"different groups that cannot run: {', '.join(counts)}"] if counts else []
    lines += [f"left on the host: {call.name}: {call.reason}" for call in result.host_calls]
    lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in result.seconds))
    console().print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def _count_text(result: TuningResult, task: TaskResult) -> str:
    """Occurrences, and how many of them run alone where some are in groups."""
    alone = result.count_alone(task)
    return str(task.task.count) if alone == task.task.count else f"{task.task.count} ({alone} alone)"


def _print_groups(result: TuningResult) -> None:
    table = Table(title="layers that run as one", title_justify="left")
    for heading, justify in _GROUP_COLUMNS:
        table.add_column(heading, justify=justify, overflow="fold")
    for group in result.groups:
        table.add_row(
            " > ".join(group.names),
            str(group.count),
            str(group.mapping.num_cores),
            group.tile,
            group.overlap,
            format_capacity(group.spm_bytes),
            f"{group.recompute_share:.1%}",
            f"{group.cost.cycles:,}",
            f"{group.cost.utilization:.0%}",
            format_energy(group.cost.energy_pj),
            f"{group.gain(result.objective):.2f}x",
            {True: "yes", False: "NO", None: "not run"}[group.verified],
        )
    console().print(table)


def _fusion_text(result: TuningResult) -> str:
    if not result.groups:
        return "every layer runs alone"
    total, unfused = result.cost, result.unfused_cost
    num_groups = sum(group.count for group in result.groups)
    fused = sum(group.count * len(group.names) for group in result.groups)
    before, after = sum(unfused.dram_bytes), sum(total.dram_bytes)
    return (
        f"{fused} layers in {num_groups} group{'' if num_groups == 1 else 's'}; against layer by layer "
        f"{unfused.cycles / total.cycles:.2f}x faster, {unfused.energy_pj / total.energy_pj:.2f}x less energy, "
        f"{unfused.edp_pj_cycles / total.edp_pj_cycles:.2f}x lower EDP, {after / before - 1:+.0%} DRAM bytes"
    )


_GROUP_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("layers", "left"),
    ("count", "right"),
    ("cores", "right"),
    ("tile", "left"),
    ("overlap", "left"),
    ("SPM", "right"),
    ("recomputed", "right"),
    ("cycles", "right"),
    ("util.", "right"),
    ("energy", "right"),
    ("gain", "right"),
    ("verified", "left"),
)

_COLUMNS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("task", "left"),
    ("count", "right"),
    ("mapping (DRAM order | SPM tile | PE rows x cols | RF tile)", "left"),
    ("cycles", "right"),
    ("util.", "right"),
    ("bound by", "left"),
    ("energy", "right"),
    ("EDP", "right"),
    ("gain", "right"),
    ("verified", "left"),
)


def console() -> Console:
    """Standard output; wide enough for the tables where it is no terminal."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=160)
