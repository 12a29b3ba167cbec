"""How loop dims index the tensors of a workload, as arrays, and the rule of tiles (``tvm_spm.tile``) compiled."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tvm_spm import tile as rule
from tvm_spm.jit import lean, small
from tvm_spm.workload import DIM_NAMES, Workload

Ints = NDArray[np.int64]


class Indexing(Protocol):
    """``Tensors``, or another record that has its fields about axes and terms."""

    @property
    def axis_start(self) -> Ints: ...  # noqa: D102
    @property
    def axis_extent(self) -> Ints: ...  # noqa: D102
    @property
    def axis_offset(self) -> Ints: ...  # noqa: D102
    @property
    def term_start(self) -> Ints: ...  # noqa: D102
    @property
    def term_dim(self) -> Ints: ...  # noqa: D102
    @property
    def term_coefficient(self) -> Ints: ...  # noqa: D102


class Tensors(NamedTuple):
    """The tensors of a workload: I = 0, W = 1, O = 2, then the extras of the epilogue.

    Attributes:
        elem_bits: Per tensor; that of O is the width of a partial sum.
        axis_start: Axes of tensor ``p`` are ``axis_start[p]:axis_start[p + 1]``, outermost first.
        axis_extent: Per axis.
        axis_offset: Per axis, minus the padding in front.
        term_start: Terms of axis ``a`` are ``term_start[a]:term_start[a + 1]``.
        term_dim: Per term, an index into ``DIM_NAMES``.
        term_coefficient: Per term.
    """

    elem_bits: Ints
    axis_start: Ints
    axis_extent: Ints
    axis_offset: Ints
    term_start: Ints
    term_dim: Ints
    term_coefficient: Ints

    @classmethod
    def of(cls, workload: Workload) -> Tensors:
        """Flatten the projections of a workload."""
        projections = (workload.I, workload.W, workload.O, *workload.epilogue.extras)
        axes = [axis for projection in projections for axis in projection.axes]
        terms = [term for axis in axes for term in axis.terms]
        return cls(
            elem_bits=_ints([projection.elem_bits for projection in projections]),
            axis_start=_starts([len(projection.axes) for projection in projections]),
            axis_extent=_ints([axis.extent for axis in axes]),
            axis_offset=_ints([axis.offset for axis in axes]),
            term_start=_starts([len(axis.terms) for axis in axes]),
            term_dim=_ints([DIM_NAMES.index(name) for name, _ in terms]),
            term_coefficient=_ints([coefficient for _, coefficient in terms]),
        )


clip = small(rule.clip)
"""What of indices lies inside a tensor: ``(extent, first, stop)``."""

_spanned_elems, _span_at = small(rule.spanned_elems), small(rule.span_at)


@small
def elems_inside(extent: int, first: int, elems: int) -> int:
    """How many of the ``elems`` indices from ``first`` on lie inside a tensor."""
    low, high = clip(extent, first, first + elems)
    return max(0, high - low)


@small
def terms_of(tensors: Indexing, axis: int) -> range:
    """Terms of one axis."""
    return range(tensors.term_start[axis], tensors.term_start[axis + 1])


@small
def axis_elems(tensors: Indexing, axis: int, tile: Ints) -> int:
    """Elements of one axis that a tile spans, padding included."""
    return int(_spanned_elems(tensors.term_dim, tensors.term_coefficient, terms_of(tensors, axis), tile))


@lean
def tile_elems(tensors: Indexing, projection: int, tile: Ints) -> int:
    """Elements of the bounding box of a tile, padding included."""
    elems = 1
    for axis in range(tensors.axis_start[projection], tensors.axis_start[projection + 1]):
        elems *= axis_elems(tensors, axis, tile)
    return elems


@lean
def inside_elems(tensors: Indexing, axis: int, first: Ints, tile: Ints) -> int:
    """Elements of one axis inside the tensor that a tile spans which starts at loop indices ``first``."""
    start, elems = _span_at(tensors.term_dim, tensors.term_coefficient, terms_of(tensors, axis), first, tile)
    return elems_inside(tensors.axis_extent[axis], tensors.axis_offset[axis] + start, elems)


def _ints(values: list[int]) -> Ints:
    return np.array(values, dtype=np.int64)


def _starts(counts: list[int]) -> Ints:
    return np.concatenate([_ints([0]), np.cumsum(_ints(counts))])
