"""The result of tuning a network as a table and a few lines, for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.table import Table

from tvm_spm.cost import Cost
from tvm_spm.objective import Objective
from tvm_spm.terminal import console, one_line, printable
from tvm_spm.tuning.baselines import SEEDS
from tvm_spm.tuning.parts import TaskResult
from tvm_spm.tuning.result import TuningResult
from tvm_spm.units import format_capacity, format_energy, format_seconds, format_si, ratio

FOLDED = 22
"""Characters that a column of text gets at least; what is longer goes on in the next line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table.

    Attributes:
        heading: Its first line.
        justify: Text stands left, numbers stand right.
        folds: Whether long text goes on in the next line; a number never does.
        rank: Columns of the highest rank are left out first where the terminal is narrow; rank 0 always stays.
    """

    heading: str
    justify: Literal["left", "right"] = "right"
    folds: bool = False
    rank: int = 0


def choose_columns(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indices of the columns that fit in so many characters, in their order."""
    needed = []
    for index, column in enumerate(columns):
        longest = max(len(text) for text in (column.heading, *(row[index] for row in rows)))
        needed.append(min(longest, FOLDED) if column.folds else longest)
    shown = list(range(len(columns)))
    # A column has a blank and a line at its left and a blank at its right; the table ends with a line.
    while 1 + sum(needed[index] + 3 for index in shown) > width:
        last = max(shown, key=lambda index: columns[index].rank)
        if columns[last].rank == 0:
            break
        shown.remove(last)
    return shown


def print_result(result: TuningResult) -> None:
    """Print the table of tasks, the sums over the network, and what was left out."""
    rows = []
    headline = "default" if all(task.baselines is None for task in result.tasks) else "dataflow"
    for task in result.tasks:
        verdict = {True: "yes", False: "NO", None: "not run"}[task.verified]
        rows.append(
            (
                one_line(task.task.name),
                _count_text(result, task),
                "vector unit" if task.mapping is None else task.mapping.brief(),
                f"{task.cost.cycles:,}",
                f"{task.cost.utilization:.0%}",
                task.cost.bound_by,
                task.of_roof_text(result.machine),
                "-" if task.bound is None else str(task.bound),
                format_energy(task.cost.energy_pj),
                f"{task.cost.edp_pj_cycles:.3g}",
                _gain_text(task, result.objective, headline),
                "network" if task.mapping is None else verdict,
            )
        )
    if rows:
        gain = replace(_GAIN, heading="gain on default" if headline == "default" else _GAIN.heading)
        _print_table(f"{result.arch}", [gain if each is _GAIN else each for each in _COLUMNS], rows)
    if result.groups:
        _print_groups(result)
    if result.together:
        _print_together(result)
    total = result.cost
    verdict = {True: "yes", False: "NO", None: "not finished"}[result.verified]
    if total.cycles == 0:
        lines = ["network: no layer runs on the accelerator"]
    else:
        lines = [
            f"network: {format_si(total.cycles, 'cycles')} "
            f"({format_seconds(total.cycles / result.arch.clock_hz)} at {format_si(result.arch.clock_hz, 'Hz')}), "
            f"{format_energy(total.energy_pj)}, EDP {total.edp_pj_cycles:.4g} pJ x cycles, "
            f"utilization {total.utilization:.0%}",
            *_against_lines(result),
            f"fusion: {_fusion_text(result)}",
            *_side_by_side_lines(result),
        ]
    if result.fitted is not None:
        lines += [str(result.fitted)]
    above = [task for task in result.tasks if task.is_above_roof(result.machine)]
    if above:
        whose = "that were fitted" if result.fitted is not None and result.fitted.numbers else f"of {result.arch.name}"
        lines.append(
            f"of roof: {len(above)} of {len(result.tasks)} tasks took fewer cycles than the numbers {whose} allow; the "
            "machine has others"
        )
    if result.chosen_dtype is not None:
        words = f"as wide as a word of {result.arch.name} ({result.arch.word_bits} bits)"
        lines.insert(0, f"numbers: {result.chosen_dtype}, {words}; --dtype takes others")
    lines += _optimal_lines(result)
    lines.append(f"verified against the untuned module: {verdict}")
    if result.verification is not None:
        lines.append(f"  whole network: {result.verification}")
    lines += [f"  {task.task.name}: {task.verification}" for task in result.tasks if task.verified is False]
    lines += [f"  {' > '.join(g.names)}: {g.verification}" for g in result.groups if g.verified is False]
    lines += [
        f"  {' > '.join(side.names)}: {side.verification}"
        for step in result.together for side in step.sides if not side.verification.passed
    ]  # fmt: skip
    if result.plan is not None:
        lines += [f"not fused: {' > '.join(r.names)}: {r.reason}" for r in result.plan.unscheduled]
        counts = [f"{count:,} by {kind}" for kind, count in result.plan.num_refused().items()]
        lines += [f"groups that do not fit or cannot run: {', '.join(counts)}"] if counts else []
        order = "one after the other, " if result.together else ""
        lines.append(f"plan: {order}{result.plan.optimality}")
    lines += [
        f"failed measurements: {task.task.name}: {len(task.failures)} of {task.num_trials} trials, the last with: "
        f"{task.failures[-1]}"
        for task in result.tasks
        if task.failures
    ]
    if result.plan is not None:
        lines += [
            f"failed measurements: {' > '.join(names)}: {reason}" for names, reason in result.plan.failed_measurements
        ]
    for (name, reason), times in Counter((call.name, call.reason) for call in result.host_calls).items():
        lines.append(f"left on the host: {name}{f' ({times} of them)' if times > 1 else ''}: {reason}")
    lines += [f"not modelled: {each}" for each in result.not_modelled]
    lines += _stopped_lines(result)
    lines.append("seconds: " + ", ".join(f"{name} {value:.1f}" for name, value in result.seconds))
    console().print("\n".join(one_line(line) for line in lines), soft_wrap=True)


def _gain_text(task: TaskResult, objective: Objective, baseline: str) -> str:
    gain = task.gain(objective, baseline)
    name = task.baselines.dataflow if baseline == "dataflow" and task.baselines is not None else ""
    return "?" if gain is None else f"{gain:.2f}x {name}".rstrip()


def _against_lines(result: TuningResult) -> list[str]:
    """What the network gains over each baseline, which all run layer by layer; the first one counts most."""
    lines = []
    if any(task.baselines is not None for task in result.tasks):
        counts = sorted({task.baselines.num_random for task in result.tasks if task.baselines and task.mapping})
        most = " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
        for name, what in (
            ("dataflow", "the best dataflow of each layer (OS, WS, RS or MC, each optimised)"),
            ("random", f"random search ({f'{most} mappings a layer, ' if most else ''}median of {SEEDS})"),
        ):
            known = result.baseline_cost(name)
            text = "unknown, not all were found in time" if known is None else changes_text(known, result.cost)
            lines.append(f"against {what}: {text}")
    default = result.default_cost
    text = "unknown, one of them could not be measured" if default is None else changes_text(default, result.cost)
    return [*lines, f"against the default mappings: {text}"]


def changes_text(before: Cost, after: Cost) -> str:
    """How many times faster or slower, with how much less or more energy, and at how much lower or higher EDP."""
    return ", ".join(
        (
            _change_text(before.cycles, after.cycles, "faster", "slower"),
            _change_text(before.energy_pj, after.energy_pj, "less energy", "more energy"),
            _change_text(before.edp_pj_cycles, after.edp_pj_cycles, "lower EDP", "higher EDP"),
        )
    )


def _change_text(before: float, after: float, better: str, worse: str) -> str:
    """A factor of at least 1 and its direction; what rounds to 1.00 keeps the word of no loss."""
    better_by, worse_by = ratio(before, after), ratio(after, before)
    loss = f"{worse_by:.2f}"
    return f"{better_by:.2f}x {better}" if better_by >= 1 else f"{loss}x {better if loss == '1.00' else worse}"


def _optimal_lines(result: TuningResult) -> list[str]:
    """Per space of which bounds speak, how many layers are proved to be best in it."""
    found = []
    for space in dict.fromkeys(task.bound.space for task in result.tasks if task.bound is not None):
        bounds = [task.bound for task in result.tasks if task.bound is not None and task.bound.space == space]
        proved = sum(bound.gap == 0 for bound in bounds)
        found.append(f"optimal: {proved} of {len(bounds)} proved, each alone among {space}")
    return found


def _stopped_lines(result: TuningResult) -> list[str]:
    """What ended the search early, and what was left out for it; nothing if it ended by itself."""
    if result.stopped_by is None:
        return []
    limit = f" of {result.time_limit_s:g} s" if result.stopped_by == "time limit" else ""
    trials = [each for each in result.left_out if each.what == "trials"]
    parts = []
    if trials:
        done, asked = sum(each.num_done for each in trials), sum(each.num_asked for each in trials)
        tasks = f"{len(trials)} task{'' if len(trials) == 1 else 's'}"
        parts.append(f"{asked - done:,} of {asked:,} trials of {tasks}")
    for each in result.left_out:
        if each.what != "trials":
            parts.append(f"{each.num_asked - each.num_done:,} of {each.num_asked:,} {each.what}")
    verifying = dict(result.seconds).get("verify", 0.0)
    on_top = f"; verification, which no limit cuts, took {verifying:.1f} s more" if limit else ""
    by = f"{'a ' if limit else ''}{result.stopped_by}{limit}"
    return [f"the search was ended by {by}; left out: {', '.join(parts)}{on_top}"]


def _count_text(result: TuningResult, task: TaskResult) -> str:
    """Occurrences, and how many of them run alone where some are in groups."""
    alone = result.count_alone(task)
    return str(task.task.count) if alone == task.task.count else f"{task.task.count} ({alone} alone)"


def _print_groups(result: TuningResult) -> None:
    rows = [
        (
            "\n> ".join(one_line(name) for name in group.names),
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
        for group in result.groups
    ]
    _print_table("layers that run as one", _GROUP_COLUMNS, rows)


def _print_together(result: TuningResult) -> None:
    rows = []
    for step in result.together:
        for number, side in enumerate(step.sides):
            last = number == len(step.sides) - 1
            rows.append(
                (
                    "\n> ".join(one_line(name) for name in side.names),
                    str(step.count),
                    cores_text(side.cores),
                    f"{side.finish_cycles:,}",
                    f"{step.cost.cycles:,}" if last else "",
                    f"{step.serial_cost.cycles:,}" if last else "",
                    f"{step.cost.utilization:.0%}" if last else "",
                    format_energy(step.cost.energy_pj) if last else "",
                    f"{step.gain(result.objective):.2f}x" if last else "",
                    "yes" if side.verification.passed else "NO",
                )
            )
    _print_table("side by side", _TOGETHER_COLUMNS, rows)


def cores_text(cores: range) -> str:
    """Numbers of neighbouring cores, such as ``0`` or ``1-3``."""
    return str(cores.start) if len(cores) == 1 else f"{cores.start}-{cores.stop - 1}"


def _side_by_side_lines(result: TuningResult) -> list[str]:
    """What running branches at the same time gives; nothing where it cannot."""
    plan = result.side_plan
    if plan is None:
        return []
    lines = []
    if result.together:
        num_steps = sum(step.count for step in result.together)
        num_layers = sum(step.count * step.num_layers for step in result.together)
        edp = ratio(plan.serial_cycles * plan.serial_energy_pj, plan.cycles * plan.energy_pj)
        lines.append(
            f"side by side: {num_layers} layers in {num_steps} step{'' if num_steps == 1 else 's'}; against one after "
            f"the other {ratio(plan.serial_cycles, plan.cycles):.2f}x faster, {edp:.2f}x lower EDP"
        )
    elif plan.num_sets:
        lines.append(f"side by side: nothing gains by it, of {plan.num_sets:,} sets that were timed")
    lines += [f"side by side: {limit}" for limit in plan.limits]
    return lines + [f"not side by side: {names}: {reason}" for names, reason in plan.refused]


def _print_table(title: str, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """A table as wide as the terminal; what it leaves out there stands under it."""
    out = console()
    shown = choose_columns(columns, rows, out.width)
    table = Table(title=title, title_justify="left")
    for index in shown:
        column = columns[index]
        table.add_column(column.heading, justify=column.justify, overflow="fold", no_wrap=not column.folds)
    for row in rows:
        table.add_row(*(printable(row[index]) for index in shown))
    out.print(table)
    hidden = [column.heading for index, column in enumerate(columns) if index not in shown]
    if hidden:
        out.print(f"in a wider terminal and with --json also: {', '.join(hidden)}")


def _fusion_text(result: TuningResult) -> str:
    groups = [(group.count, len(group.names)) for group in result.groups]
    groups += [(step.count, len(side.names)) for step in result.together for side in step.sides if len(side.names) > 1]
    if not groups:
        return "no layers run as one" if result.together else "every layer runs alone"
    total, unfused = result.cost, result.unfused_cost
    num_groups = sum(count for count, _ in groups)
    fused = sum(count * num_layers for count, num_layers in groups)
    included = ", side by side included" if result.together else ""
    before, after = sum(unfused.dram_bytes), sum(total.dram_bytes)
    return (
        f"{fused} layers in {num_groups} group{'' if num_groups == 1 else 's'}; against layer by layer"
        f"{included} {changes_text(unfused, total)}, {ratio(after, before) - 1:+.0%} DRAM bytes"
    )


_GAIN = Column(heading="gain on dataflow")
"""Over the best of the four, which the cell names."""

_GROUP_COLUMNS = (
    Column(heading="layers", justify="left", folds=True),
    Column(heading="count"),
    Column(heading="cores"),
    Column(heading="tile", justify="left"),
    Column(heading="overlap", justify="left", folds=True, rank=1),
    Column(heading="SPM", rank=3),
    Column(heading="recomputed", rank=4),
    Column(heading="cycles"),
    Column(heading="util.", rank=2),
    Column(heading="energy"),
    Column(heading="gain on alone"),
    Column(heading="verified", justify="left"),
)

_TOGETHER_COLUMNS = (
    Column(heading="layers", justify="left", folds=True),
    Column(heading="count"),
    Column(heading="cores", justify="left"),
    Column(heading="done after"),
    Column(heading="cycles"),
    Column(heading="one by one"),
    Column(heading="util.", rank=2),
    Column(heading="energy", rank=1),
    Column(heading="gain"),
    Column(heading="verified", justify="left"),
)

_COLUMNS = (
    Column(heading="task", justify="left", folds=True),
    Column(heading="count"),
    Column(heading="mapping (DRAM order | SPM tile | PE rows x cols | RF tile)", justify="left", folds=True),
    Column(heading="cycles"),
    Column(heading="util.", rank=2),
    Column(heading="bound by", justify="left", rank=3),
    Column(heading="of roof", justify="left", rank=5),
    Column(heading="optimal", justify="left", rank=1),
    Column(heading="energy", rank=1),
    Column(heading="EDP", rank=4),
    _GAIN,
    Column(heading="verified", justify="left"),
)
