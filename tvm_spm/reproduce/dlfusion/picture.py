"""Bars of ratios from zero, with the range that others report behind them; drawing needs no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

_COLOURS = ("#4477aa", "#66ccee", "#ccbb44", "#ee6677", "#aa3377", "#228833")


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
        bars = axis.bar(positions + offset, values, width * 0.94, label=name, color=_COLOURS[index], zorder=2)
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
