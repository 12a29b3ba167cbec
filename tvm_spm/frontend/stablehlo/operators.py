"""StableHLO operators in Relax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
from tvm import relax

from tvm_spm.frontend.stablehlo.value import Emitter, Value

Convert: TypeAlias = Callable[[Emitter, Any, list[Value]], Value]
"""What an operation makes of its operands."""

DTYPES = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "i1": "bool", "i8": "int8",
    "i16": "int16", "i32": "int32", "i64": "int64", "ui8": "uint8", "ui16": "uint16", "ui32": "uint32",
    "ui64": "uint64",
}  # fmt: skip


def kind_of(value: Any) -> tuple[tuple[int, ...], str]:  # noqa: ANN401 (MLIR's values have no types)
    """Shape and type of the elements of a value.

    Raises:
        NotImplementedError: It is no tensor of known shape, or of another type.
    """
    kind = value.type
    if not isinstance(kind, ir.RankedTensorType) or not kind.has_static_shape or str(kind.element_type) not in DTYPES:
        raise NotImplementedError(f"{kind} is no tensor of known shape and plain numbers")
    return tuple(kind.shape), DTYPES[str(kind.element_type)]


def _integers(operation: Any, name: str, default: Sequence[int] = ()) -> list[int]:  # noqa: ANN401 (as above)
    attributes = operation.attributes
    return [int(each) for each in np.array(attributes[name]).reshape(-1)] if name in attributes else list(default)


def _integer(operation: Any, name: str, default: int) -> int:  # noqa: ANN401 (as above)
    return int(operation.attributes[name].value) if name in operation.attributes else default


def _folded(name: str, operation: Any, operands: list[Value]) -> Value | None:  # noqa: ANN401 (as above)
    """What numpy makes of constants, such as the mask of a causal attention."""
    arrays = [each.array for each in operands]
    if name not in _NUMPY or not operands or any(array is None for array in arrays):
        return None
    shape, dtype = kind_of(operation.results[0])
    array = np.asarray(_NUMPY[name](*arrays)).astype(dtype)
    return Value(expr=relax.const(array, dtype), shape=shape) if array.ndim == len(shape) else None


_NUMPY: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "add": np.add, "and": np.logical_and, "divide": np.true_divide, "equal": np.equal,
    "greater": np.greater, "greater_equal": np.greater_equal, "less": np.less, "less_equal": np.less_equal,
    "maximum": np.maximum, "minimum": np.minimum, "multiply": np.multiply, "negative": np.negative,
    "not": np.logical_not, "not_equal": np.not_equal, "or": np.logical_or, "sqrt": np.sqrt, "subtract": np.subtract,
    "where": np.where,
}  # fmt: skip
"""What constants are computed with; divisions and logic only where they mean the same."""


def _unary(op: Callable[[relax.Expr], relax.Expr], emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    known = _folded(op.__name__, operation, operands)
    if known is not None:
        return known
    made = emitter.emit(op(operands[0].expr))
    return Value(expr=made.expr, shape=operands[0].shape)


def _elementwise(op: Callable[..., relax.Expr], emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    shape, dtype = kind_of(operation.results[0])
    whole_quotient = op is relax.op.divide and "int" in dtype
    known = None if whole_quotient else _folded(op.__name__, operation, operands)
    if known is not None:
        return known
    made = emitter.emit(op(*(each.expr for each in operands)))
    return Value(expr=made.expr, shape=shape)


def _logical(name: str, emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    """Of truths, or of the bits of integers."""
    kind = "logical" if operands[0].dtype == "bool" else "bitwise"
    known = _folded(name, operation, operands) if kind == "logical" else None
    if known is not None:
        return known
    return _elementwise(getattr(relax.op, f"{kind}_{name}"), emitter, operation, operands)


def _compare(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    names = {"EQ": relax.op.equal, "NE": relax.op.not_equal, "LT": relax.op.less, "LE": relax.op.less_equal,
             "GT": relax.op.greater, "GE": relax.op.greater_equal}  # fmt: skip
    direction = str(operation.attributes["comparison_direction"]).rstrip(">").split()[-1]
    return _elementwise(names[direction], emitter, operation, operands)


def _clamp(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    least, data, most = operands
    raised = emitter.emit(relax.op.maximum(data.expr, least.expr))
    made = emitter.emit(relax.op.minimum(raised.expr, most.expr))
    return Value(expr=made.expr, shape=kind_of(operation.results[0])[0])


def _convert(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    dtype = kind_of(operation.results[0])[1]
    array = operands[0].array
    if array is not None:
        return Value(expr=relax.const(array.astype(dtype), dtype), shape=operands[0].shape)
    made = emitter.emit(relax.op.astype(operands[0].expr, dtype))
    return Value(expr=made.expr, shape=operands[0].shape)


def _constant(_writer: Emitter, operation: Any, _operands: list[Value]) -> Value:  # noqa: ANN401
    shape, dtype = kind_of(operation.results[0])
    array = np.array(operation.attributes["value"])
    stored = (1,) * len(shape) if array.size == 1 else shape
    array = np.ascontiguousarray(array.reshape(-1)[:1] if array.size == 1 else array).reshape(stored)
    return Value(expr=relax.const(array.astype(dtype), dtype), shape=shape)


def _iota(_writer: Emitter, operation: Any, _operands: list[Value]) -> Value:  # noqa: ANN401
    shape, dtype = kind_of(operation.results[0])
    axis = _integer(operation, "iota_dimension", 0)
    stored = [shape[axis] if each == axis else 1 for each in range(len(shape))]
    return Value(expr=relax.const(np.arange(shape[axis]).astype(dtype).reshape(stored), dtype), shape=shape)


def _broadcast(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    shape, _ = kind_of(operation.results[0])
    axes = _integers(operation, "broadcast_dimensions")
    source = operands[0]
    if axes != sorted(axes):
        raise NotImplementedError(f"broadcast along {axes}, which exchanges axes")
    stored = [1] * len(shape)
    for axis, extent in zip(axes, source.stored, strict=True):
        stored[axis] = extent
    if tuple(stored) == source.stored:
        return Value(expr=source.expr, shape=shape)
    if source.array is not None:
        return Value(expr=relax.const(source.array.reshape(stored), source.dtype), shape=shape)
    return Value(expr=emitter.emit(relax.op.reshape(source.expr, stored)).expr, shape=shape)


def _reshape(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    return emitter.emit(relax.op.reshape(emitter.whole(operands[0]), kind_of(operation.results[0])[0]))


def _transpose(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    axes = _integers(operation, "permutation")
    made = emitter.emit(relax.op.permute_dims(operands[0].expr, axes))
    return Value(expr=made.expr, shape=tuple(operands[0].shape[axis] for axis in axes))


def _slice(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    begin, end = _integers(operation, "start_indices"), _integers(operation, "limit_indices")
    strides = _integers(operation, "strides")
    data = emitter.whole(operands[0])
    return emitter.emit(relax.op.strided_slice(data, list(range(len(begin))), begin, end, strides))


def _concatenate(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    return emitter.emit(
        relax.op.concat([emitter.whole(each) for each in operands], _integer(operation, "dimension", 0))
    )


def _pad(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    low, high = _integers(operation, "edge_padding_low"), _integers(operation, "edge_padding_high")
    if any(_integers(operation, "interior_padding")) or min(low + high) < 0 or operands[1].array is None:
        raise NotImplementedError("padding between elements, of less than none, or with a number that is computed")
    widths = [each for pair in zip(low, high, strict=True) for each in pair]
    return emitter.emit(relax.op.nn.pad(emitter.whole(operands[0]), widths, pad_value=float(operands[1].array.item())))


def _arranged(emitter: Emitter, data: Value, axes: Sequence[int], shape: Sequence[int]) -> relax.Expr:
    """Axes in another order, then joined."""
    expr = emitter.whole(data)
    if list(axes) != sorted(axes):
        expr = emitter.emit(relax.op.permute_dims(expr, list(axes))).expr
    current = tuple(int(extent) for extent in expr.ty.shape.values)
    return expr if current == tuple(shape) else emitter.emit(relax.op.reshape(expr, list(shape))).expr


def _dot(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    """Batch axes first, then those of the left operand, then those of the right one."""
    shape, dtype = kind_of(operation.results[0])
    numbers = stablehlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
    left, right = operands
    batches = (list(numbers.lhs_batching_dimensions), list(numbers.rhs_batching_dimensions))
    summed = (list(numbers.lhs_contracting_dimensions), list(numbers.rhs_contracting_dimensions))
    free = [
        [axis for axis in range(len(each.shape)) if axis not in (*batch, *sums)]
        for each, batch, sums in zip(operands, batches, summed, strict=True)
    ]
    batch = [left.shape[axis] for axis in batches[0]]
    terms = prod(left.shape[axis] for axis in summed[0])
    rows = [left.shape[axis] for axis in free[0]]
    columns = [right.shape[axis] for axis in free[1]]
    # Without a batch, the rows keep their axes, so that a linear layer stays one.
    kept = rows if not batch and rows else [prod(rows)]
    first = _arranged(emitter, left, [*batches[0], *free[0], *summed[0]], [*batch, *kept, terms])
    second = _arranged(emitter, right, [*batches[1], *summed[1], *free[1]], [*batch, terms, prod(columns)])
    made = emitter.emit(relax.op.matmul(first, second, out_dtype=dtype))
    return made if made.shape == shape else emitter.emit(relax.op.reshape(made.expr, shape))


def _convolution(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    numbers = stablehlo.ConvDimensionNumbers(operation.attributes["dimension_numbers"])
    spatial = list(numbers.input_spatial_dimensions)
    ones = [1] * len(spatial)
    if _integers(operation, "lhs_dilation", ones) != ones or _integer(operation, "batch_group_count", 1) != 1:
        raise NotImplementedError("a convolution of an input with gaps (transposed), or in groups of the batch")
    if len(spatial) not in (1, 2, 3):
        raise NotImplementedError(f"a convolution over {len(spatial)} axes")
    data_axes = [numbers.input_batch_dimension, numbers.input_feature_dimension, *spatial]
    filter_axes = [
        numbers.kernel_output_feature_dimension, numbers.kernel_input_feature_dimension,
        *numbers.kernel_spatial_dimensions,
    ]  # fmt: skip
    data, weight = (
        _arranged(emitter, each, axes, [each.shape[axis] for axis in axes])
        for each, axes in zip(operands, (data_axes, filter_axes), strict=True)
    )
    pads = _integers(operation, "padding", [0] * 2 * len(spatial))
    op = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}[len(spatial)]
    made = emitter.emit(
        op(
            data, weight, strides=_integers(operation, "window_strides", ones), padding=pads[0::2] + pads[1::2],
            dilation=_integers(operation, "rhs_dilation", ones), groups=_integer(operation, "feature_group_count", 1),
            out_dtype=kind_of(operation.results[0])[1],
        )
    )  # fmt: skip
    out_axes = [numbers.output_batch_dimension, numbers.output_feature_dimension, *numbers.output_spatial_dimensions]
    back = [out_axes.index(axis) for axis in range(len(out_axes))]
    return made if back == sorted(back) else emitter.emit(relax.op.permute_dims(made.expr, back))


def _gather(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    """Rows of a table by their number; numbers outside are those of the first or last row."""
    numbers = stablehlo.GatherDimensionNumbers(operation.attributes["dimension_numbers"])
    table, indices = operands
    rank, sizes = len(table.shape), _integers(operation, "slice_sizes")
    last = len(indices.shape) - 1
    is_lookup = (
        list(numbers.collapsed_slice_dims) == list(numbers.start_index_map) == [0]
        and not list(numbers.operand_batching_dims)
        and numbers.index_vector_dim == last
        and indices.shape[-1:] == (1,)
        and list(numbers.offset_dims) == list(range(last, last + rank - 1))
        and sizes == [1, *table.shape[1:]]
    )
    if not is_lookup:
        raise NotImplementedError("a gather of other slices than whole rows of a table")
    flat = emitter.emit(relax.op.reshape(emitter.whole(indices), indices.shape[:-1]))
    return emitter.emit(relax.op.take(emitter.whole(table), flat.expr, axis=0, mode="clip"))


_IDENTITIES = {"add": 0.0, "maximum": -np.inf, "minimum": np.inf, "multiply": 1.0, "or": 0.0, "and": 1.0}
_REDUCTIONS = {
    "add": relax.op.sum, "maximum": relax.op.max, "minimum": relax.op.min, "multiply": relax.op.prod,
    "or": relax.op.max, "and": relax.op.min,
}  # fmt: skip


def _combined_by(operation: Any, start: Value) -> str:  # noqa: ANN401
    """The operator that a reduction applies, started with what changes nothing.

    Raises:
        NotImplementedError: It applies another, or starts with another number.
    """
    inside = [each.operation.name for each in operation.regions[0].blocks[0].operations]
    name = inside[0].removeprefix("stablehlo.")
    if len(inside) != 2 or name not in _IDENTITIES or len(operation.results) != 1:
        raise NotImplementedError(f"a reduction by {' and '.join(inside[:-1])} of {len(operation.results)} tensors")
    wanted: float = _IDENTITIES[name]
    if np.isinf(wanted) and start.dtype.startswith(("int", "uint")):
        limits = np.iinfo(start.dtype)
        wanted = float(limits.min if wanted < 0 else limits.max)
    if start.array is None or float(start.array.item()) != wanted:
        raise NotImplementedError(f"a reduction by {name} that does not start with {wanted}")
    return name


def _reduce(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    name = _combined_by(operation, operands[1])
    data, axes = emitter.whole(operands[0]), _integers(operation, "dimensions")
    if name in ("or", "and"):
        made = emitter.emit(_REDUCTIONS[name](emitter.emit(relax.op.astype(data, "int8")).expr, axes))
        return emitter.emit(relax.op.astype(made.expr, operands[0].dtype))
    return emitter.emit(_REDUCTIONS[name](data, axes))


def _reduce_window(emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401
    """Pooling; the two axes of windows come last meanwhile."""
    name = _combined_by(operation, operands[1])
    rank = len(operands[0].shape)
    ones = [1] * rank
    window, strides = (_integers(operation, key, ones) for key in ("window_dimensions", "window_strides"))
    pads = _integers(operation, "padding", [0] * 2 * rank)
    dilations = [*_integers(operation, "base_dilations", ones), *_integers(operation, "window_dilations", ones)]
    over = [
        axis for axis in range(rank) if (window[axis], strides[axis]) != (1, 1) or any(pads[2 * axis : 2 * axis + 2])
    ]
    if rank != 4 or len(over) > 2 or set(dilations) != {1} or name not in ("add", "maximum"):
        raise NotImplementedError(f"windows {window} by {name}: only two axes of four, by add or maximum")
    over = sorted({*over, *[axis for axis in (2, 1, 3) if axis not in over][: 2 - len(over)]})
    order = [axis for axis in range(rank) if axis not in over] + over
    data = _arranged(emitter, operands[0], order, [operands[0].shape[axis] for axis in order])
    options: dict[str, Any] = {
        "pool_size": [window[axis] for axis in over],
        "strides": [strides[axis] for axis in over],
        "padding": [pads[2 * axis] for axis in over] + [pads[2 * axis + 1] for axis in over],
    }
    if name == "maximum":
        made = emitter.emit(relax.op.nn.max_pool2d(data, **options))
    else:
        mean = emitter.emit(relax.op.nn.avg_pool2d(data, count_include_pad=True, **options))
        area = relax.const(prod(options["pool_size"]), operands[0].dtype)
        made = emitter.emit(relax.op.multiply(mean.expr, area))
    back = [order.index(axis) for axis in range(rank)]
    return made if back == sorted(back) else emitter.emit(relax.op.permute_dims(made.expr, back))


_UNARY: dict[str, Callable[[relax.Expr], relax.Expr]] = {
    "abs": relax.op.abs, "ceil": relax.op.ceil, "cosine": relax.op.cos, "exponential": relax.op.exp,
    "floor": relax.op.floor, "is_finite": relax.op.isfinite, "log": relax.op.log, "logistic": relax.op.sigmoid,
    "negate": relax.op.negative, "optimization_barrier": lambda x: x,
    "round_nearest_even": relax.op.round, "rsqrt": relax.op.rsqrt, "sign": relax.op.sign, "sine": relax.op.sin,
    "sqrt": relax.op.sqrt, "tan": relax.op.tan, "tanh": relax.op.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., relax.Expr]] = {
    "add": relax.op.add, "atan2": relax.op.atan2, "divide": relax.op.divide, "maximum": relax.op.maximum,
    "minimum": relax.op.minimum, "multiply": relax.op.multiply, "power": relax.op.power, "select": relax.op.where,
    "subtract": relax.op.subtract,
}  # fmt: skip

OPERATORS: dict[str, Convert] = {
    **{f"stablehlo.{name}": partial(_unary, op) for name, op in _UNARY.items()},
    **{f"stablehlo.{name}": partial(_elementwise, op) for name, op in _BINARY.items()},
    **{f"stablehlo.{name}": partial(_logical, name) for name in ("and", "not", "or", "xor")},
    "chlo.erf": partial(_unary, relax.op.erf),
    "chlo.square": partial(_unary, relax.op.square),
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.clamp": _clamp,
    "stablehlo.compare": _compare,
    "stablehlo.concatenate": _concatenate,
    "stablehlo.constant": _constant,
    "stablehlo.convert": _convert,
    "stablehlo.convolution": _convolution,
    "stablehlo.dot_general": _dot,
    "stablehlo.gather": _gather,
    "stablehlo.iota": _iota,
    "stablehlo.pad": _pad,
    "stablehlo.reduce": _reduce,
    "stablehlo.reduce_window": _reduce_window,
    "stablehlo.reshape": _reshape,
    "stablehlo.slice": _slice,
    "stablehlo.transpose": _transpose,
}
"""By name."""
