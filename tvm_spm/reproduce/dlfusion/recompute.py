"""What is computed more than once when the output of a chain of layers is cut into parts that share nothing."""

from __future__ import annotations

from fractions import Fraction
from math import prod

from tvm_spm.graph import Box, LayerGraph, Range, box_elems


def needed_boxes(graph: LayerGraph, first: int, stop: int, box: Box) -> dict[int, Box]:
    """What layers must compute so that the last of them gets a box of its output done.

    Args:
        graph: The network.
        first: First layer.
        stop: The layer behind the last.
        box: Of the output of the last layer.

    Returns:
        Per layer a box of its output, over all that read it; layers that the box does not need are left out.
    """
    producers = {graph.layers[index].output: index for index in range(first, stop)}
    needed = {stop - 1: box}
    for index in range(stop - 1, first - 1, -1):
        if index not in needed:
            continue
        layer = graph.layers[index]
        loops = layer.loop_ranges(needed[index])
        for read in layer.reads:
            producer = producers.get(read.tensor)
            part = read.box(loops)
            if producer is not None and box_elems(part):
                needed[producer] = hull(needed[producer], part) if producer in needed else part
    return needed


def hull(left: Box, right: Box) -> Box:
    """The smallest box around two that are not empty."""
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(left, right, strict=True))


def balanced_parts(extent: int, parts: int) -> tuple[Range, ...]:
    """Part k of n is ``[k * extent // n, (k + 1) * extent // n)``; empty ones are left out."""
    bounds = [part * extent // parts for part in range(parts + 1)]
    return tuple((begin, end) for begin, end in zip(bounds, bounds[1:], strict=False) if begin < end)


def recompute_factor(graph: LayerGraph, first: int, stop: int, *, axis: int, parts: tuple[Range, ...]) -> Fraction:
    """Multiply-accumulates executed over those needed, when parts of the last output do not exchange anything.

    Args:
        graph: The network.
        first: First layer.
        stop: The layer behind the last; at least one layer has a multiply-accumulate nest.
        axis: Of the last output.
        parts: How the axis is cut, for example by ``balanced_parts``.
    """
    whole = tuple((0, extent) for extent in graph.tensors[graph.layers[stop - 1].output].shape)
    executed = 0
    for part in parts:
        box = (*whole[:axis], part, *whole[axis + 1 :])
        executed += sum(_macs(graph, index, needed) for index, needed in needed_boxes(graph, first, stop, box).items())
    works = [graph.layers[index].workload for index in range(first, stop)]
    return Fraction(executed, sum(work.macs for work in works if work is not None))


def _macs(graph: LayerGraph, index: int, box: Box) -> int:
    layer = graph.layers[index]
    if layer.workload is None:
        return 0
    return layer.workload.macs // prod(graph.tensors[layer.output].shape) * box_elems(box)
