"""Names of layouts such as ``NHWC`` and ``NCHW16c``, and how to get from one to the plain order and back."""

from __future__ import annotations

import re
from dataclasses import dataclass

_AXIS = re.compile(r"([A-Z])|(\d+)([a-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacking:
    """How a tensor becomes plain: axes are moved, then neighbours are merged by a reshape.

    Attributes:
        axes: Permutation of the axes as stored.
        merged: Per plain axis how many axes of the permuted tensor it consists of, outer to inner.
    """

    axes: tuple[int, ...]
    merged: tuple[int, ...]


def axes_of(layout: str) -> list[tuple[str, int | None]]:
    """Letters in storage order; a lower-case one is the inner part of its axis and has a fixed extent.

    Raises:
        ValueError: This is no layout.
    """
    found = list(_AXIS.finditer(layout))
    if not found or "".join(match.group() for match in found) != layout:
        raise ValueError(f"{layout!r} is no layout")
    axes = [(match.group(1) or match.group(3), int(match.group(2)) if match.group(2) else None) for match in found]
    outer = [letter for letter, _ in axes if letter.isupper()]
    if len(set(outer)) < len(outer) or any(letter.upper() not in outer for letter, _ in axes):
        raise ValueError(f"{layout!r}: every axis needs one upper-case letter")
    return axes


def plain_order(layout: str, order: str) -> str:
    """The letters of a layout in a given order, those it lacks left out.

    Raises:
        ValueError: The layout has a letter that the order has not.
    """
    letters = {letter.upper() for letter, _ in axes_of(layout)}
    if not letters <= set(order):
        raise ValueError(f"{layout!r}: only axes of {order} are known here")
    return "".join(letter for letter in order if letter in letters)


def unpacking(layout: str, order: str) -> Unpacking:
    """How to get from ``layout`` to the plain ``order``, for example from ``NCHW16c`` to ``NCHW``."""
    axes = axes_of(layout)
    groups = [[i for i, (letter, _) in enumerate(axes) if letter.upper() == wanted] for wanted in order]
    for group in groups:
        group.sort(key=lambda i: (axes[i][0].islower(), i))
    return Unpacking(axes=tuple(i for group in groups for i in group), merged=tuple(len(group) for group in groups))


def packed_shape(shape: tuple[int, ...], layout: str, order: str) -> tuple[int, ...]:
    """Shape in ``layout`` of a tensor whose shape in the plain ``order`` is given.

    Raises:
        ValueError: A packed axis is no multiple of its block.
    """
    extents = dict(zip(order, shape, strict=True))
    axes = axes_of(layout)
    for letter, block in axes:
        if block is not None and extents[letter.upper()] % block:
            raise ValueError(
                f"{layout!r}: axis {letter.upper()} of {extents[letter.upper()]} is no multiple of {block}"
            )
        if block is not None:
            extents[letter.upper()] //= block
    return tuple(extents[letter] if block is None else block for letter, block in axes)
