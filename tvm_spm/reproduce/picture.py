"""Bar charts; drawing needs no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_RATIO_COLOURS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#aa3377", "#228833")
_TICKS = (1, 2, 5, 10, 20, 50)


def grouped_bars(
    groups: Sequence[str], panels: Sequence[tuple[str, Mapping[str, Sequence[float]]]], *, label: str, title: str
) -> Figure:
    """One panel per entry of ``panels``, sharing a logarithmic axis of ratios; each bar carries its value.

    Args:
        groups: Names below the bars.
        panels: Title, and one value per group for each series.
        label: Of the value axis.
        title: Of the whole picture.
    """
    figure = Figure(figsize=(11, 3.4 * len(panels)), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(panels), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axis, (panel_title, series) in zip(axes, panels, strict=True):
        width = 0.8 / len(series)
        positions = np.arange(len(groups))
        for index, (name, values) in enumerate(series.items()):
            offset = (index - (len(series) - 1) / 2) * width
            # On a logarithmic axis a bar has to start at the value that means "equal".
            above = np.asarray(values) - 1
            bars = axis.bar(positions + offset, above, width * 0.92, bottom=1, label=name, color=_COLOURS[index])
            axis.bar_label(bars, [f"{value:.2f}" if value < 10 else f"{value:.1f}" for value in values], fontsize=7)
        axis.set_yscale("log")
        axis.set_ylim(0.8, 1.6 * max(max(values) for _, each in panels for values in each.values()))
        axis.set_yticks(_TICKS, [f"{tick}x" for tick in _TICKS])
        axis.minorticks_off()
        axis.axhline(1.0, color="black", linewidth=0.8)
        axis.set_xticks(positions, groups)
        axis.set_ylabel(label)
        axis.set_title(panel_title, fontsize=10, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(ncols=len(panels[0][1]), frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.09))
    return figure


def ratio_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    label: str,
    title: str,
    band: tuple[float, float, str] | None = None,
) -> Figure:
    """One group of bars per name; each bar carries its value.

    Args:
        groups: Names below the bars.
        series: One value per group.
        label: Of the value axis.
        title: Of the picture.
        band: Least and most of a range reported elsewhere, and by whom.
    """
    figure = Figure(figsize=(max(5.0, 1.9 * len(groups) + 1.5), 4.0), layout="constrained")
    axis = figure.subplots()
    width, positions = 0.84 / len(series), np.arange(len(groups))
    if band is not None:
        axis.axhspan(band[0], band[1], color="0.92", label=band[2], zorder=0)
    for index, (name, values) in enumerate(series.items()):
        offset = (index - (len(series) - 1) / 2) * width
        bars = axis.bar(positions + offset, values, width * 0.94, label=name, color=_RATIO_COLOURS[index], zorder=2)
        axis.bar_label(bars, [f"{value:.2f}" for value in values], fontsize=6.5)
    axis.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    top = max([*(max(values) for values in series.values()), band[1] if band else 0.0])
    axis.set_ylim(0, 1.12 * top)
    axis.set_xticks(positions, groups)
    axis.set_ylabel(label)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    return figure


def save(figure: Figure, out_dir: Path, name: str) -> list[Path]:
    """Writes ``name.svg`` and ``name.png``; the same picture gives the same file."""
    paths = [out_dir / f"{name}.svg", out_dir / f"{name}.png"]
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150, metadata={"Software": None})
    return paths
