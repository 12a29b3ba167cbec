"""Values of a network on their way into Relax: constants as arrays, tensors that remember their layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import tvm
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.layout import Unpacking, axes_of, packed_shape, plain_order, unpacking

ORDERS = {"O": "OIDHW", "N": "NCDHW"}
"""Plain orders of kernels and of data; letters that a layout lacks are left out."""


@dataclass(slots=True, eq=False, kw_only=True)
class Tensor:
    """One tensor.

    A tensor in ``NHWC`` or packed layout is kept in plain order (``NCHW``) and only seen in its own: what lies between
    two layers works on the plain one, so that no layout is ever made for real.

    Attributes:
        shape: As the text sees it.
        dtype: Of an element.
        array: Its numbers if they are known; in the order the text sees.
        expr: The Relax value; in plain order if there is a ``view``. Made from ``array`` when first needed.
        view: The layout that the text sees, if it is not the plain one.
        order: Plain order that belongs to ``view``.
        params: Parameters of ``main`` that this is made from by moving data only; see ``ParamUses``.
        dequantised: The integers that these numbers stand for, if that is known.
    """

    shape: tuple[int, ...]
    dtype: str
    array: Array | None = None
    expr: relax.Expr | None = None
    view: str | None = None
    order: str = ""
    params: frozenset[str] = frozenset()
    seen: relax.Expr | None = None
    dequantised: Dequantised | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def axis(self, axis: int) -> int:
        """An axis counted from 0.

        Raises:
            ModelError: There is no such axis.
        """
        if not -self.rank <= axis < max(self.rank, 1):
            raise ModelError(f"axis {axis} of a tensor with {self.rank} axes")
        return axis % max(self.rank, 1)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Dequantised:
    """``(data - zero_point) * scale``.

    Attributes:
        data: Integers.
        scale: Known; one, or one per index of ``axis``.
        zero_point: Known; likewise.
        axis: Of ``data``.
    """

    data: Tensor
    scale: Tensor
    zero_point: Tensor
    axis: int


Value: TypeAlias = "Tensor | tuple[Value, ...]"


@dataclass(slots=True)
class ParamUses:
    """Which parameters operators take as weights (the kernel of a convolution, a bias), and which as anything else."""

    weights: set[str] = field(default_factory=set)
    data: set[str] = field(default_factory=set)


class Builder:
    """Emits Relax bindings; the only place that knows how a ``Tensor`` is stored."""

    def __init__(self, max_memory_bytes: int, *, block_builder: relax.BlockBuilder | None = None) -> None:
        self.relax = relax.BlockBuilder() if block_builder is None else block_builder
        self.roles = ParamUses()
        self._max_memory_bytes = max_memory_bytes

    def reserve(self, num_elems: int, dtype: str) -> None:
        """Refuse a constant that is too large, before it is computed.

        Raises:
            ModelError: It needs more memory than allowed.
        """
        needed_bytes = num_elems * np.dtype(dtype).itemsize
        if needed_bytes > self._max_memory_bytes:
            raise ModelError(f"a constant of {needed_bytes:,} B > {self._max_memory_bytes:,} B that are allowed")

    def filled(self, value: float, shape: Sequence[int], dtype: str) -> Tensor:
        """One number everywhere; takes no memory until it is used."""
        return self.const(np.broadcast_to(np.array(value).astype(dtype), tuple(shape)))

    def emit(self, expr: relax.Expr) -> Tensor:
        """The result of an operator with one output."""
        var = self.relax.emit(expr)
        return Tensor(shape=_shape(var.ty), dtype=str(var.ty.dtype), expr=var)

    def emit_tuple(self, expr: relax.Expr) -> tuple[Tensor, ...]:
        """The results of an operator with several."""
        var = self.relax.emit(expr)
        return tuple(self.emit(relax.TupleGetItem(var, i)) for i in range(len(var.ty.fields)))

    def const(self, array: Array, dtype: str | None = None) -> Tensor:
        """Known numbers."""
        array = np.asarray(array) if dtype is None else np.asarray(array).astype(dtype)
        return Tensor(shape=array.shape, dtype=str(array.dtype), array=array)

    def expr(self, tensor: Tensor) -> relax.Expr:
        """A tensor as the text sees it; a layout is made for real here."""
        if tensor.view is None:
            return self._stored(tensor)
        if tensor.seen is None:
            tensor.seen = self._packed(tensor)
        return tensor.seen

    def _stored(self, tensor: Tensor) -> relax.Expr:
        if tensor.expr is None:
            assert tensor.array is not None
            self.reserve(tensor.array.size, tensor.dtype)
            tensor.expr = relax.const(tensor.array, tensor.dtype)
        return tensor.expr

    def _packed(self, tensor: Tensor) -> relax.Expr:
        assert tensor.view is not None
        recipe = unpacking(tensor.view, tensor.order)
        split = tuple(tensor.shape[axis] for axis in recipe.axes)
        expr = self._stored(tensor)
        if any(count > 1 for count in recipe.merged):
            expr = self.relax.emit(relax.op.reshape(expr, split))
        inverse = [recipe.axes.index(axis) for axis in range(len(recipe.axes))]
        return self.relax.emit(relax.op.permute_dims(expr, inverse)) if inverse != sorted(inverse) else expr

    def plain(self, tensor: Tensor, layout: str) -> Tensor:
        """A tensor that is seen in ``layout``, in plain order.

        Raises:
            ModelError: The layout is none, or does not fit the tensor.
        """
        order, recipe = _recipe(layout)
        if layout == order:
            return tensor if tensor.view is None else self.bare(tensor)
        if len(recipe.axes) != tensor.rank:
            raise ModelError(f"layout {layout!r} for a tensor with {tensor.rank} axes")
        if tensor.view == layout:
            return Tensor(shape=_shape(self._stored(tensor).ty), dtype=tensor.dtype, expr=self._stored(tensor))
        merged, at = [], 0
        for count in recipe.merged:
            merged.append(math.prod(tensor.shape[axis] for axis in recipe.axes[at : at + count]))
            at += count
        if tensor.array is not None:
            found = self.const(np.ascontiguousarray(tensor.array.transpose(recipe.axes)).reshape(merged))
        else:
            expr = self.expr(tensor)
            if list(recipe.axes) != sorted(recipe.axes):
                expr = self.relax.emit(relax.op.permute_dims(expr, list(recipe.axes)))
            found = self.emit(relax.op.reshape(expr, merged)) if len(merged) < tensor.rank else self.emit(expr)
        found.params = tensor.params
        return found

    def bare(self, tensor: Tensor) -> Tensor:
        """The same tensor without a view."""
        if tensor.view is None:
            return tensor
        return Tensor(shape=tensor.shape, dtype=tensor.dtype, expr=self.expr(tensor), params=tensor.params)

    def seen_as(self, tensor: Tensor, layout: str) -> Tensor:
        """A tensor in plain order, seen in ``layout``.

        Raises:
            ModelError: The layout is none, or does not fit the tensor.
        """
        order, recipe = _recipe(layout)
        if layout == order:
            return tensor
        try:
            shape = packed_shape(tensor.shape, layout, order)
        except ValueError as error:
            raise ModelError(f"layout {error}") from None
        if tensor.array is not None:
            inverse = [recipe.axes.index(axis) for axis in range(len(recipe.axes))]
            split = tensor.array.reshape([shape[axis] for axis in recipe.axes])
            return self.const(np.ascontiguousarray(split.transpose(inverse)))
        return Tensor(
            shape=shape, dtype=tensor.dtype, expr=self._stored(tensor), view=layout, order=order, params=tensor.params
        )

    def elementwise(
        self, make: Callable[..., relax.Expr], *operands: Tensor, fold: Callable[..., Array] | None = None
    ) -> Tensor:
        """An operator that works element by element, with broadcasting.

        Args:
            make: From Relax values to the Relax call.
            operands: What it reads.
            fold: The same on arrays, if it computes exactly the same; used where all operands are known.
        """
        arrays = [operand.array for operand in operands]
        if fold is not None and all(array is not None for array in arrays):
            shape = np.broadcast_shapes(*(operand.shape for operand in operands))
            self.reserve(math.prod(shape), "float64")
            with np.errstate(all="ignore"):
                return self.const(np.asarray(fold(*arrays)))
        views = {operand.view for operand in operands if operand.view is not None}
        if len(views) == 1:
            view = views.pop()
            assert view is not None
            stored = [self._under(operand, view) for operand in operands]
            if all(expr is not None for expr in stored):
                return self.seen_as(self.emit(make(*stored)), view)
        return self.emit(make(*(self.expr(operand) for operand in operands)))

    def _under(self, tensor: Tensor, view: str) -> relax.Expr | None:
        """A tensor as it is stored under a view; ``None`` if only part of a packed axis is broadcast."""
        if tensor.view == view or tensor.rank == 0:
            return self._stored(tensor)
        recipe = _recipe(view)[1]
        num_axes = len(recipe.axes)
        if tensor.rank > num_axes:
            return None
        shape = (1,) * (num_axes - tensor.rank) + tensor.shape
        at = 0
        for count in recipe.merged:
            extents = [shape[axis] for axis in recipe.axes[at : at + count]]
            at += count
            if count > 1 and 1 in extents and max(extents) > 1:
                return None
        return self._stored(self.plain(self.reshape(tensor, shape), view))

    def stored_axes(self, tensor: Tensor) -> list[int] | None:
        """Per axis that the text sees, the one it is stored at; ``None`` if an axis is packed."""
        if tensor.view is None:
            return list(range(tensor.rank))
        letters = [letter for letter, _ in axes_of(tensor.view)]
        return None if len(letters) > len(tensor.order) else [tensor.order.index(letter) for letter in letters]

    def along_axes(self, tensor: Tensor, make: Callable[[relax.Expr, list[int]], relax.Expr]) -> Tensor:
        """An operator that keeps the axes of a tensor; nothing is moved for a layout.

        Args:
            tensor: What it reads.
            make: From the stored value, and where each axis that the text sees is stored, to the Relax call.
        """
        stored = self.stored_axes(tensor)
        if tensor.view is None or stored is None:
            return self.emit(make(self.expr(tensor), list(range(tensor.rank))))
        return self.seen_as(self.emit(make(self._stored(tensor), stored)), tensor.view)

    def reshape(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in another shape."""
        wanted = tuple(int(extent) for extent in shape)
        if math.prod(wanted) != math.prod(tensor.shape):
            raise ModelError(f"reshape of {list(tensor.shape)} to {list(wanted)}: "
                             f"{math.prod(tensor.shape)} elements != {math.prod(wanted)}")  # fmt: skip
        if wanted == tensor.shape:
            return tensor
        if tensor.array is not None:
            found = self.const(tensor.array.reshape(wanted))
        else:
            source = self._stored(tensor) if self._keeps_order(tensor) else self.expr(tensor)
            found = self.emit(relax.op.reshape(source, wanted))
        found.params = tensor.params
        before = tensor.dequantised
        if before is not None and not before.scale.rank and not before.zero_point.rank:
            found.dequantised = replace(before, data=self.reshape(before.data, wanted))
        return found

    def _keeps_order(self, tensor: Tensor) -> bool:
        """Whether elements are stored in the order that the text sees: only axes of extent 1 are elsewhere."""
        stored = self.stored_axes(tensor)
        if stored is None:
            return False
        wide = [at for at, extent in zip(stored, tensor.shape, strict=True) if extent > 1]
        return wide == sorted(wide)

    def permute(self, tensor: Tensor, axes: Sequence[int]) -> Tensor:
        """Axes in another order; on a tensor with a view only the view changes."""
        order = [tensor.axis(axis) for axis in axes]
        if sorted(order) != list(range(tensor.rank)):
            raise ModelError(f"axes {list(axes)} of a tensor with {tensor.rank} axes")
        if order == sorted(order):
            return tensor
        shape = tuple(tensor.shape[axis] for axis in order)
        if tensor.array is not None:
            found = self.const(np.ascontiguousarray(tensor.array.transpose(order)))
        elif tensor.view is not None:
            letters = [letter + ("" if block is None else str(block)) for letter, block in axes_of(tensor.view)]
            view = "".join(_spelled(letters[axis]) for axis in order)
            is_plain = view == tensor.order
            found = Tensor(
                shape=shape, dtype=tensor.dtype, expr=tensor.expr, view=None if is_plain else view, order=tensor.order
            )
        elif len(order) in _IMAGE_MOVES and order == _IMAGE_MOVES[len(order)][0]:
            found = self.seen_as(tensor, _IMAGE_MOVES[len(order)][1])
        else:
            found = self.emit(relax.op.permute_dims(self.expr(tensor), order))
        found.params = tensor.params
        before = tensor.dequantised
        if before is not None:
            axis = order.index(tensor.axis(before.axis)) if before.scale.rank or before.zero_point.rank else 0
            found.dequantised = replace(before, data=self.permute(before.data, order), axis=axis)
        return found


_IMAGE_MOVES = {4: ([0, 2, 3, 1], "NHWC"), 3: ([0, 2, 1], "NWC")}
"""A plain tensor whose channels move to the end: most likely a layout, so it is seen in it and not moved."""


def _spelled(letter: str) -> str:
    return letter if len(letter) == 1 else letter[1:] + letter[0]


def _recipe(layout: str) -> tuple[str, Unpacking]:
    """The plain order that belongs to a layout, and how to get there."""
    try:
        order = plain_order(layout, ORDERS["O" if "O" in layout else "N"])
        return order, unpacking(layout, order)
    except ValueError as error:
        raise ModelError(f"layout {error}") from None


def _shape(ty: relax.TensorType) -> tuple[int, ...]:
    shape = getattr(ty, "shape", None)
    extents = [] if shape is None else [extent for extent in shape.values if isinstance(extent, tvm.tirx.IntImm)]
    if shape is None or len(extents) != len(shape.values):
        raise ModelError(f"shape {shape} depends on data")
    return tuple(int(extent) for extent in extents)
