"""Boxes that change from tile to tile: what loops write, what reads need, and boxes around boxes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from schedules.group.dual import Condition, Dual, choose, dual, largest, least, less
from tvm_spm.graph import Layer, Read
from tvm_spm.workload import Axis

Span = tuple[Dual, Dual]
"""First index and the one behind the last."""

Region = tuple[Span, ...]
"""One span per axis of a tensor."""


def loop_spans(layer: Layer, region: Region) -> dict[str, Span]:
    """``Layer.loop_ranges`` of what changes from tile to tile."""
    spans: dict[str, Span] = {name: (dual(0), dual(extent)) for name, extent in layer.loops}
    for axis, (first, stop) in zip(layer.out_axes, region, strict=True):
        first, stop = first - axis.offset, stop - axis.offset
        terms = sorted(axis.terms, key=lambda term: -term[1])
        one: Condition | None = None
        for name, stride in terms:
            low, high = first // stride, (stop - 1) // stride + 1
            whole = spans[name]
            spans[name] = (low, high) if one is None else (choose(one, low, whole[0]), choose(one, high, whole[1]))
            alone = less(high - low, dual(2))
            one = alone if one is None else one & alone
            first, stop = first - low * stride, stop - low * stride
    return spans


def read_region(read: Read, spans: dict[str, Span]) -> Region:
    """``Read.box`` of what changes from tile to tile."""
    accesses = [tuple(_axis_span(axis, spans) for axis in access) for access in read.accesses]
    return tuple(
        (_fold(least, [first for first, _ in found]), _fold(largest, [stop for _, stop in found]))
        for found in zip(*accesses, strict=True)
    )


def _axis_span(axis: Axis, spans: dict[str, Span]) -> Span:
    first = stop = dual(axis.offset)
    for name, stride in axis.terms:
        first, stop = first + spans[name][0] * stride, stop + (spans[name][1] - 1) * stride
    return largest(first, 0).simplified(), least(stop + 1, axis.extent).simplified()


def _fold(pick: Callable[[Dual, Dual], Dual], found: Sequence[Dual]) -> Dual:
    result = found[0]
    for other in found[1:]:
        if other is not result:
            result = pick(result, other)
    return result


def is_not_empty(region: Region) -> Condition:
    """Whether a box has elements."""
    found = [less(first, stop) for first, stop in region]
    if not found:
        # A tensor without axes holds one number.
        return Condition(tirx.IntImm("bool", 1), np.ones(1, dtype=np.bool_))
    changing = [condition for condition in found if not condition.always] or found[:1]
    result = changing[0]
    for other in changing[1:]:
        result = result & other
    return result


def union(wanted: Sequence[tuple[Condition, Region]], shape: tuple[int, ...]) -> Region:
    """The bounding box of what is not empty."""
    if len(wanted) == 1:
        is_wanted, region = wanted[0]
        if not (is_not_empty(region).values & ~is_wanted.values).any():
            return region
        if not region:
            return region
        at = max(range(len(region)), key=lambda axis: region[axis][1].constant is None)
        first, stop = region[at]
        return (*region[:at], (first, choose(is_wanted, stop, dual(0))), *region[at + 1 :])
    parts = [
        tuple(
            (choose(is_wanted, first, dual(extent)), choose(is_wanted, stop, dual(0)))
            for (first, stop), extent in zip(region, shape, strict=True)
        )
        for is_wanted, region in wanted
    ]
    return tuple(
        (_fold(least, [first for first, _ in spans]), _fold(largest, [stop for _, stop in spans]))
        for spans in zip(*parts, strict=True)
    )
