"""A picture of a fusion plan: the layers of a network, which of them run as one, and on how many cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_spm.errors import SpmError
from tvm_spm.graph import Layer, LayerGraph
from tvm_spm.report.output_file import check_picture
from tvm_spm.terminal import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_ROW = 14
"""Layers of a path side by side before the picture goes on below."""

MIN_WIDTH = 5
"""Width of a picture in layers, however few there are: the title needs it."""

_BOX = (0.82, 0.46)
"""Width and height of a layer; the distance between two layers is 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnGroup:
    """One group of a plan.

    Attributes:
        layers: Indices, rising.
        num_cores: Cores it runs on.
    """

    layers: tuple[int, ...]
    num_cores: int


def draw_plan(graph: LayerGraph, groups: Sequence[DrawnGroup], path: str | Path, *, title: str) -> None:
    """Draw a plan into an ``.svg`` or ``.png`` file.

    Layers with the same number of layers before them stand above each other. Layers of one group share a frame, which
    names the cores; a layer that runs alone has a white box.

    Raises:
        SpmError: As ``check_picture``, or the file cannot be written.
    """
    check_picture(path)
    import matplotlib as mpl

    # A name between dollar signs is a name and no formula.
    with mpl.rc_context({"text.parse_math": False}):
        figure = _drawn(graph, groups, one_line(title))
    try:
        figure.savefig(path, metadata={"Date": None} if Path(path).suffix == ".svg" else None, dpi=110)
    except OSError as error:
        raise SpmError(f"{path}: cannot write: {error.strerror}") from error


def _drawn(graph: LayerGraph, groups: Sequence[DrawnGroup], title: str) -> Figure:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    places = _places(graph)
    width = max(MIN_WIDTH, 1 + max(x for x, _ in places))
    height = 1 - min(y for _, y in places)
    figure = Figure(figsize=(1.25 * width + 0.4, 0.95 * height + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlim(-0.7, width - 0.3)
    axes.set_ylim(-height + 0.3, 0.8)
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=10)
    _draw_edges(axes, graph, places)
    colormap = mpl.colormaps["tab20"]
    for position, group in enumerate(groups):
        _draw_group(axes, graph, group, places, colormap(position % colormap.N)[:3])
    return figure


def _places(graph: LayerGraph) -> list[tuple[float, float]]:
    """Left to right by the longest path to a layer, rows below each other, parallel layers above each other."""
    depths: list[int] = []
    for layer in graph.layers:
        producers = [graph.tensors[read.tensor].producer for read in layer.reads]
        depths.append(1 + max((depths[p] for p in producers if p is not None), default=-1))
    lanes: dict[int, int] = {}
    lane_of = []
    for depth in depths:
        lane_of.append(lanes.get(depth, 0))
        lanes[depth] = lane_of[-1] + 1
    tops, top = [], 0.0
    for row in range(max(depths) // PER_ROW + 1):
        tops.append(top)
        tallest = max(lanes[depth] for depth in lanes if depth // PER_ROW == row)
        top -= 0.75 * tallest + 0.55
    return [
        (float(depth % PER_ROW), tops[depth // PER_ROW] - 0.75 * lane)
        for depth, lane in zip(depths, lane_of, strict=True)
    ]


def _draw_edges(axes: Axes, graph: LayerGraph, places: list[tuple[float, float]]) -> None:
    for index, layer in enumerate(graph.layers):
        for read in layer.reads:
            producer = graph.tensors[read.tensor].producer
            if producer is None:
                continue
            (x0, y0), (x1, y1) = places[producer], places[index]
            adjacent = x1 == x0 + 1 and abs(y1 - y0) < 3
            axes.annotate(
                "",
                xy=(x1 - _BOX[0] / 2, y1),
                xytext=(x0 + _BOX[0] / 2, y0),
                arrowprops={
                    "arrowstyle": "-|>",
                    "color": "0.35" if adjacent else "0.75",
                    "linewidth": 0.8,
                    "connectionstyle": "arc3,rad=0" if adjacent or x1 <= x0 else "arc3,rad=-0.28",
                    "shrinkA": 0,
                    "shrinkB": 0,
                },
                zorder=1,
            )


def _draw_group(
    axes: Axes,
    graph: LayerGraph,
    group: DrawnGroup,
    places: list[tuple[float, float]],
    color: tuple[float, float, float],
) -> None:
    from matplotlib.patches import FancyBboxPatch

    fused = len(group.layers) > 1
    inside = [places[index] for index in group.layers]
    if fused:
        # A group that goes on in the next row of the picture has one frame in each.
        for row in _rows(inside):
            left, right = min(x for x, _ in row) - 0.46, max(x for x, _ in row) + 0.46
            bottom, top = min(y for _, y in row) - 0.28, max(y for _, y in row) + 0.28
            frame = FancyBboxPatch(
                (left, bottom), right - left, top - bottom, boxstyle="round,pad=0,rounding_size=0.08",
                facecolor=(*color, 0.3), edgecolor=color, linewidth=1.4, zorder=0,
            )  # fmt: skip
            axes.add_patch(frame)
            axes.text(left + 0.03, top + 0.02, f"{group.num_cores} cores" if group.num_cores > 1 else "1 core",
                      fontsize=6, color="0.2", va="bottom")  # fmt: skip
    for index in group.layers:
        x, y = places[index]
        box = FancyBboxPatch(
            (x - _BOX[0] / 2, y - _BOX[1] / 2), *_BOX, boxstyle="round,pad=0,rounding_size=0.05",
            facecolor=_paler(color) if fused else "white", edgecolor="0.3", linewidth=0.7, zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        text = _label(graph.layers[index])
        if not fused and group.num_cores > 1:
            text += f"\n{group.num_cores} cores"
        axes.text(x, y, text, fontsize=5.5, ha="center", va="center", zorder=3)


def _paler(color: tuple[float, float, float]) -> tuple[float, float, float]:
    """Half way to white, so that text stays readable."""
    red, green, blue = color
    return (1 + red) / 2, (1 + green) / 2, (1 + blue) / 2


def _rows(places: list[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Places of a group by the row of the picture: where the next layer stands further left, a new row begins."""
    rows: list[list[tuple[float, float]]] = []
    for place in places:
        if rows and place[0] >= rows[-1][-1][0] - PER_ROW / 2 and place[0] - rows[-1][-1][0] <= PER_ROW / 2:
            rows[-1].append(place)
        else:
            rows.append([place])
    return rows


def _label(layer: Layer) -> str:
    work = layer.workload
    if work is None:
        return one_line(layer.name.removeprefix("fused_")[:14])
    dims = work.dims
    if work.kind == "matmul":
        return f"matmul\n{dims.OX}x{dims.C}x{dims.K}"
    depthwise = " dw" if dims.G > 1 and dims.C == 1 else ""
    channels = f"{dims.G * dims.C}>{dims.G * dims.K}"
    return f"{dims.FY}x{dims.FX}{depthwise} @{dims.OY}\n{channels}"
