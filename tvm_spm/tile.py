"""The rule of a tile on one axis of a tensor: what it spans, and what of that lies inside; plain Python that compiles.

An axis is indexed by ``offset + sum(coefficient * loop dim)`` over its terms. ``Axis`` uses the rule as it is, with the
names of dims, and every engine compiled, with their numbers (``tvm_spm.space.tensors``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# ruff: noqa: ANN401 (what is compiled has no one type)


def spanned_elems(dims: Any, coefficients: Any, terms: Iterable[int], tile: Any) -> Any:
    """Elements of an axis that a tile spans, padding and holes of a stride included.

    Args:
        dims: Dim of each term.
        coefficients: Of each term.
        terms: Those of the axis.
        tile: Elements per dim: numbers, or arrays of the tiles of many mappings.
    """
    elems = 1
    for term in terms:
        elems = elems + coefficients[term] * (tile[dims[term]] - 1)
    return elems


def span_at(dims: Any, coefficients: Any, terms: Iterable[int], first: Any, tile: Any) -> tuple[int, int]:
    """(first index on the axis, its offset left out, and ``spanned_elems``) of a tile at given loop indices.

    Args:
        dims: Dim of each term.
        coefficients: Of each term.
        terms: Those of the axis.
        first: First loop index per dim.
        tile: Elements per dim.
    """
    index, elems = 0, 1
    for term in terms:
        index += coefficients[term] * first[dims[term]]
        elems += coefficients[term] * (tile[dims[term]] - 1)
    return index, elems


def clip(extent: int, first: int, stop: int) -> tuple[int, int]:
    """What of the indices from ``first`` up to ``stop`` lies inside the tensor: again first and stop."""
    return max(0, first), min(extent, stop)
