"""Numbers per channel that follow a layer go into its weights: batch normalisation of inference, scales and shifts.

Before, where ``gamma``, ``beta``, ``mean`` and ``variance`` are constants::

    y = conv(x, W) + b
    z = (y - mean) / sqrt(variance + epsilon) * gamma + beta

After::

    z = conv(x, W * scale) + (b * scale + shift)
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

Array = NDArray[np.generic]

_CONVOLUTIONS = ("relax.nn.conv1d", "relax.nn.conv2d", "relax.nn.conv3d")
_TRANSPOSED = ("relax.nn.conv1d_transpose", "relax.nn.conv2d_transpose", "relax.nn.conv3d_transpose")
_FACTORS, _SHIFTS = ("relax.multiply", "relax.divide"), ("relax.add", "relax.subtract")
_VIEWS = ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


class _Layer(NamedTuple):
    """A convolution or a matrix product with weights of its own, and what is added to it per channel.

    Attributes:
        call: What computes it.
        weight: As it is stored.
        axis: The channels of the result.
        weight_axes: Of the weights, the axis of those channels, and for a transposed convolution that of its inputs.
        bias: What is added, in a shape that spreads over the result; ``None`` for nothing.
    """

    call: relax.Call
    weight: Array
    axis: int
    weight_axes: tuple[int, ...]
    bias: Array | None = None


@mutator
class ChannelScales(PyExprMutator):
    """Folds factors and shifts per channel, each rounded once from float64, into the layer right before them.

    A layer or a weight that something else reads, too, stays as it is.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._old_uses: Counter[relax.Var] = Counter()
        self._uses: Counter[relax.Var] = Counter()
        """How often a variable is read: those of the old functions, and those of the new ones."""
        self._constant_uses: Counter[tvm.ir.GenericConst] = Counter()
        self._normalised: dict[relax.Var, relax.Expr] = {}
        for _, func in mod.functions_items():
            if isinstance(func, relax.Function):
                tvm_ffi.structural_walk(
                    func.body,
                    (tvm.ir.GenericConst, lambda constant: self._constant_uses.update([constant])),
                    with_def_region_kind=(relax.Var, self._count),
                )

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Keep count of the readers of what is bound."""
        super().visit_var_binding_(binding)
        self._uses[self.visit_expr(binding.var)] += self._old_uses[binding.var]

    def visit_tuple_getitem_(self, item: relax.TupleGetItem) -> relax.Expr:
        """The first result of a batch normalisation of inference is a factor and a shift."""
        item = self.visit_expr_post_order(item)
        whole = item.tuple_value
        if item.index != 0 or not isinstance(whole, relax.Var):
            return item
        if whole not in self._normalised:
            made = self._normalisation(self.lookup_binding(whole))
            self._normalised[whole] = item if made is None else made
        return self._normalised[whole]

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A factor or a shift of its own; a difference becomes a sum, which later ones join."""
        call = self.visit_expr_post_order(call)
        name = _name(call)
        if name not in _FACTORS + _SHIFTS:
            return call
        left, right = call.args
        number = self._array(right)
        if number is None and name in ("relax.multiply", "relax.add"):
            left, number = right, self._array(left)
        if number is None or not _is_same(left.ty, call.ty):
            return call
        value = number.astype("float64")
        if name in _FACTORS:
            if name == "relax.divide" and not value.all():
                return call
            scaled = self._times(left, value if name == "relax.multiply" else 1 / value)
            return call if scaled is None else scaled
        found = self._layer(left)
        if found is None or (found.bias is None and name == "relax.add"):
            return call
        return self._plus(left, value if name == "relax.add" else -value)

    def _count(self, var: relax.Var, kind: tvm_ffi.DefRegionKind) -> None:
        self._old_uses[var] += kind == tvm_ffi.DefRegionKind.NONE

    def _normalisation(self, norm: relax.Expr) -> relax.Expr | None:
        if _name(norm) != "relax.nn.batch_norm" or norm.attrs.training:
            return None
        data, statistics = norm.args[0], [self._array(arg) for arg in norm.args[1:]]
        if str(data.ty.dtype) not in _FLOATS or any(array is None for array in statistics):
            return None
        gamma, beta, mean, variance = (array.astype("float64") for array in statistics if array is not None)
        scale = (gamma if norm.attrs.scale else 1) / np.sqrt(variance + float(norm.attrs.epsilon))
        shift = (beta if norm.attrs.center else 0) - mean * scale
        shape = [1] * data.ty.ndim
        shape[int(norm.attrs.axis) % data.ty.ndim] = len(scale)
        scaled = self._times(data, scale.reshape(shape))
        if scaled is None:
            scaled = relax.op.multiply(data, _constant(scale.reshape(shape), data))
        return self._plus(self._emit(scaled), shift.reshape(shape))

    def _times(self, data: relax.Expr, factor: NDArray[np.float64]) -> relax.Expr | None:
        """The layer behind ``data`` with other weights, or ``None`` if there is none or they would leave their type."""
        found = self._layer(data)
        per_channel = None if found is None else _per_channel(factor, data, found.axis)
        if found is None or per_channel is None:
            return None
        with np.errstate(over="ignore"):
            weight = (found.weight.astype("float64") * _factors(found, per_channel)).astype(found.weight.dtype)
        bias = None if found.bias is None else found.bias.astype("float64") * factor
        if not np.isfinite(weight.astype("float64")).all():
            return None
        made = self._with_weight(found.call, relax.const(weight, str(found.weight.dtype)))
        return made if bias is None else relax.op.add(self._emit(made), _constant(bias, data))

    def _plus(self, data: relax.Expr, shift: NDArray[np.float64]) -> relax.Expr:
        """The sum, as one addition if ``data`` is a layer that something per channel was added to."""
        found = self._layer(data)
        if found is None or found.bias is None:
            return relax.op.add(data, _constant(shift, data))
        source = self.lookup_binding(data)
        layer = source.args[0] if self._array(source.args[0]) is None else source.args[1]
        return relax.op.add(layer, _constant(found.bias.astype("float64") + shift, data))

    def _layer(self, data: relax.Expr) -> _Layer | None:
        """What computes ``data`` if nothing else reads it, nor its weights."""
        if not isinstance(data, relax.Var) or self._uses[data] > 1:
            return None
        value = self.lookup_binding(data)
        if _name(value) == "relax.add":
            for layer, other in (value.args, reversed(value.args)):
                bias = self._array(other)
                if bias is not None and _is_same(layer.ty, data.ty):
                    found = self._layer(layer)
                    return found if found is None or found.bias is not None else found._replace(bias=bias)
        return self._weighted(value)

    def _weighted(self, call: relax.Expr) -> _Layer | None:
        name = _name(call)
        if name not in (*_CONVOLUTIONS, *_TRANSPOSED, "relax.matmul"):
            return None
        source = self._stored(call.args[1])
        if source is None or self._constant_uses[source] > 1:
            return None
        weight = source.value.numpy()
        if str(source.ty.dtype) not in _FLOATS or source.ty.dtype != call.ty.dtype:
            return None
        if name == "relax.matmul":
            if weight.ndim < 2:
                return None
            is_swapped = not source.same_as(call.args[1])
            return _Layer(call, weight, call.ty.ndim - 1, (weight.ndim - 1 - is_swapped,))
        layouts = [str(call.attrs.out_layout or call.attrs.data_layout), str(call.attrs.kernel_layout)]
        if not all(layout.isalpha() and layout.isupper() for layout in layouts) or not source.same_as(call.args[1]):
            return None
        axes = (layouts[1].index("O"), *([layouts[1].index("I")] if name in _TRANSPOSED else []))
        return _Layer(call, weight, layouts[0].index("C"), axes)

    def _stored(self, weight: relax.Expr) -> tvm.ir.GenericConst | None:
        """The constant that a layer reads, or reads with its last two axes exchanged."""
        if isinstance(weight, tvm.ir.GenericConst):
            return weight
        value: relax.Expr = (
            self.lookup_binding(weight) if isinstance(weight, relax.Var) and self._uses[weight] <= 1 else None
        )
        is_swap = _name(value) == "relax.permute_dims" and _swaps(value)
        return value.args[0] if is_swap and isinstance(value.args[0], tvm.ir.GenericConst) else None

    def _with_weight(self, call: relax.Call, weight: relax.Expr) -> relax.Call:
        if not isinstance(call.args[1], tvm.ir.GenericConst):
            moved = self.lookup_binding(call.args[1])
            weight = self._emit(relax.Call(moved.op, [weight], moved.attrs))
        return relax.Call(call.op, [call.args[0], weight], call.attrs)

    def _emit(self, expr: relax.Expr) -> relax.Var:
        """Bind what is read once."""
        var = self.builder_.emit(expr)
        self._uses[var] = 1
        return var

    def _array(self, expr: relax.Expr) -> Array | None:
        """The numbers of a float constant, or of one seen in another shape."""
        if isinstance(expr, relax.Var):
            value = self.lookup_binding(expr)
            if _name(value) not in _VIEWS:
                return None
            array = self._array(value.args[0])
            return None if array is None else array.reshape([int(extent) for extent in value.ty.shape.values])
        is_known = isinstance(expr, tvm.ir.GenericConst) and str(expr.ty.dtype) in _FLOATS
        return expr.value.numpy() if is_known else None


def _name(expr: relax.Expr) -> str:
    return str(expr.op.name) if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op) else ""


def _is_same(first: relax.Type, second: relax.Type) -> bool:
    return bool(tvm_ffi.structural_equal(first, second))


def _swaps(call: relax.Call) -> bool:
    rank = call.args[0].ty.ndim
    axes = list(range(rank))[::-1] if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]
    return rank >= 2 and axes == [*range(rank - 2), rank - 1, rank - 2]


def _constant(array: Array, like: relax.Expr) -> tvm.ir.GenericConst:
    dtype = str(like.ty.dtype)
    return relax.const(array.astype(dtype), dtype)


def _per_channel(factor: Array, data: relax.Expr, axis: int) -> Array | None:
    """One factor per channel, if a factor follows nothing but the channels."""
    rank = data.ty.ndim
    shape = [1] * (rank - factor.ndim) + list(factor.shape)
    if any(extent != 1 for position, extent in enumerate(shape) if position != axis):
        return None
    return np.broadcast_to(factor.reshape(-1), (int(data.ty.shape.values[axis]),))


def _factors(layer: _Layer, per_channel: Array) -> Array:
    """The factors in a shape that spreads over the weights."""
    shape = [1] * layer.weight.ndim
    if len(layer.weight_axes) == 1:
        shape[layer.weight_axes[0]] = len(per_channel)
        return per_channel.reshape(shape)
    # The filters of a transposed convolution hold the channels of a group, and a group is a range of its inputs.
    out_axis, in_axis = layer.weight_axes
    groups = int(layer.call.attrs.groups)
    table = np.repeat(per_channel.reshape(groups, -1), layer.weight.shape[in_axis] // groups, axis=0)
    shape[out_axis], shape[in_axis] = table.shape[1], table.shape[0]
    return (table if in_axis < out_axis else table.T).reshape(shape)
