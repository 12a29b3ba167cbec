"""The first cycles of a timeline as a picture: who works when, and what fills the SPM meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tvm_spm.errors import SpmError
from tvm_spm.units import KIB
from tvm_spm.workload import Operand

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from tvm_spm.report.timeline import Event, Timeline

_COLOURS = {"I": "#0072b2", "W": "#e69f00", "O": "#009e73", "": "#4d4d4d"}
"""Told apart with any colour vision."""

_NAMES = {"I": "inputs I", "W": "weights W", "O": "outputs O", "": "multiply-accumulate"}
_WAITING = "#d9d9d9"
_ROWS = ("DMA", "NoC I", "NoC W", "NoC O in", "NoC O out", "PE array", "vector unit")
_PASSES_SHOWN = 4
_MAX_CORES = 4
_GAP_SHARE = 1 / 400
"""Of the width; bars without a visible gap between them are drawn as one."""


def plot_timeline(timeline: Timeline, path: str | Path, *, until: int | None = None) -> None:
    """Draw the first cycles.

    Args:
        timeline: What happened.
        path: An ``.svg`` or ``.png`` file; the first four cores are drawn.
        until: Last cycle shown; default: the first four passes and what belongs to them.

    Raises:
        SpmError: The suffix is another one, or the file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    suffix = Path(path).suffix
    if suffix not in (".svg", ".png"):
        raise SpmError(f"{path}: cannot draw {suffix or 'a file without suffix'}; choose .svg or .png")
    last = _last_cycle(timeline) if until is None else min(until, timeline.cycles)
    cores = range(min(timeline.num_cores, _MAX_CORES))
    rows = [(core, name) for core in cores for name in _ROWS if _has(timeline, core, name, last)]
    heights = [0.32 * len(rows) + 0.3, *(1.1 if len(cores) > 1 else 1.5 for _ in cores)]
    figure = Figure(figsize=(11, sum(heights) + 1.5), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    _draw_events(axes[0], timeline, rows, last)
    for core, below in zip(cores, axes[1:], strict=True):
        _draw_occupancy(below, timeline, core, last)
    axes[-1].set_xlabel(f"cycles ({timeline.clock_hz / 1e6:g} MHz)")
    axes[-1].set_xlim(0, last)
    axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    shown = "" if len(cores) == timeline.num_cores else f", cores 0-{len(cores) - 1} of {timeline.num_cores}"
    known = f"of {timeline.cycles:,} cycles" if timeline.is_complete else "cycles"
    axes[0].set_title(f"first {last:,} {known}{shown}", loc="left", fontsize=10)
    figure.legend(handles=_legend(timeline, last), loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    try:
        with mpl.rc_context({"svg.hashsalt": "timeline", "svg.fonttype": "none"}):
            figure.savefig(path, dpi=130, metadata={"Date": None} if suffix == ".svg" else None)
    except OSError as error:
        raise SpmError(f"{path}: cannot write: {error.strerror}; choose another file") from error


def _last_cycle(timeline: Timeline) -> int:
    """End of the first passes on every core, stores included."""
    first = [event.end for event in timeline.events if event.pass_number < _PASSES_SHOWN and event.core < _MAX_CORES]
    return min(timeline.cycles, max(first, default=timeline.cycles))


def _has(timeline: Timeline, core: int, resource: str, last: int) -> bool:
    return any(e.core == core and e.resource == resource and e.start < last for e in timeline.events)


def _draw_events(axes: Axes, timeline: Timeline, rows: list[tuple[int, str]], last: int) -> None:
    gap = last * _GAP_SHARE
    places = {row: at for at, row in enumerate(rows)}
    for event_row, at in places.items():
        events = [e for e in timeline.events if (e.core, e.resource) == event_row and e.start < last]
        for kind in sorted({(event.operand, event.is_waiting) for event in events}):
            bars = _merge([e for e in events if (e.operand, e.is_waiting) == kind], last)
            operand, is_waiting = kind
            colour = _WAITING if is_waiting else _COLOURS[operand]
            edges = ["white" if width > 4 * gap else colour for _, width in bars]
            axes.broken_barh(
                bars, (at - 0.4, 0.8), facecolors=colour, edgecolors=edges, linewidth=0.4,
                hatch="////" if is_waiting else None,
            )  # fmt: skip
    labels = [name if timeline.num_cores == 1 else f"core {core}  {name}" for core, name in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    for at, (core, _) in enumerate(rows):
        if at and core != rows[at - 1][0]:
            axes.axhline(at - 0.5, color="black", linewidth=0.8)
    axes.grid(axis="x", linewidth=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelbottom=False)


def _merge(events: list[Event], last: int) -> list[tuple[int, int]]:
    """Bars as (start, width); a crowd too dense to tell apart becomes one bar."""
    bars: list[tuple[int, int]] = []
    gap = last * _GAP_SHARE
    for event in sorted(events, key=lambda event: event.start):
        if bars and event.end - event.start < gap and event.start - sum(bars[-1]) < gap / 4:
            bars[-1] = (bars[-1][0], max(event.end, sum(bars[-1])) - bars[-1][0])
        else:
            bars.append((event.start, event.end - event.start))
    return bars


def _draw_occupancy(axes: Axes, timeline: Timeline, core: int, last: int) -> None:
    changes = [(time, amounts) for time, amounts in timeline.occupancy(core) if time <= last]
    times = [time for time, _ in changes] + [last]
    layers = [[amounts[o.value] / KIB for _, amounts in changes] + [changes[-1][1][o.value] / KIB] for o in Operand]
    axes.stackplot(times, layers, step="post", colors=[_COLOURS[o.name] for o in Operand], alpha=0.75, linewidth=0)
    axes.axhline(timeline.spm_bytes / KIB, color="#cc3311", linewidth=1.2, linestyle="--")
    axes.set_ylim(0, 1.12 * timeline.spm_bytes / KIB)
    axes.set_ylabel("SPM (KiB)" if timeline.num_cores == 1 else f"core {core}\nSPM (KiB)", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="x", linewidth=0.3)


def _legend(timeline: Timeline, last: int) -> list[object]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[object] = [Patch(facecolor=colour, label=_NAMES[name]) for name, colour in _COLOURS.items()]
    if any(event.is_waiting and event.start < last for event in timeline.events):
        handles.append(Patch(facecolor=_WAITING, hatch="////", edgecolor="white", label="waits for a DRAM channel"))
    handles.append(Line2D([], [], color="#cc3311", linestyle="--", label="SPM capacity"))
    return handles
