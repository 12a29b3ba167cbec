"""Operators that move, repeat, pick or make elements and compute none."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.operators.elementwise import binary, cast, where
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor, Value


def known(tensor: Tensor, what: str) -> Array:
    """Numbers that must be known when the network is imported.

    Raises:
        ModelError: They depend on the inputs.
    """
    if tensor.array is None:
        raise ModelError(f"{what} depends on the inputs; only a constant can be imported")
    return tensor.array


def new_shape(shape: tuple[int, ...], codes: tuple[int, ...], *, allow_zero: bool = False) -> tuple[int, ...]:
    """The shape that ``reshape`` codes ask for: 0 copy, -1 infer, -2 copy the rest, -3 merge two, -4 split in two."""
    found: list[int] = []
    at, index, inferred = 0, 0, None
    while index < len(codes):
        code = codes[index]
        index += 1
        if code > 0 or (code == 0 and allow_zero):
            found.append(code)
            at += 1
        elif code == -1:
            if inferred is not None:
                raise ModelError(f"newshape {list(codes)}: more than one -1")
            inferred = len(found)
            found.append(1)
            at += 1
        elif code == -2:
            found += shape[at:]
            at = len(shape)
        elif code in (0, -3, -4):
            needed = 2 if code == -3 else 1
            if at + needed > len(shape) or (code == -4 and index + 2 > len(codes)):
                raise ModelError(f"newshape {list(codes)} of a tensor {list(shape)}: code {code} finds no axis")
            if code == -4:
                parts = _split_extent(shape[at], codes[index : index + 2])
                index += 2
                found += parts
            else:
                found.append(shape[at] if code == 0 else shape[at] * shape[at + 1])
            at += needed
        else:
            raise ModelError(f"newshape {list(codes)}: unknown code {code}")
    if inferred is not None:
        known_elems = math.prod(found)
        found[inferred] = math.prod(shape) // known_elems if known_elems else 0
    return tuple(found)


def _split_extent(extent: int, parts: tuple[int, ...]) -> tuple[int, int]:
    first, second = parts
    first = extent // second if first == -1 else first
    return first, extent // first if second == -1 else second


@operator("reshape contrib_reverse_reshape", "data", role="map", newshape=REQUIRED, allowzero=False)
def _reshape(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.reshape(data, new_shape(data.shape, a.integers("newshape"), allow_zero=a.flag("allowzero")))


@operator("dyn.reshape", "data newshape", role="map", newshape=(), allowzero=False)
def _dyn_reshape(b: Builder, a: Attrs, data: Tensor, newshape: Tensor) -> Tensor:
    codes = tuple(int(code) for code in known(newshape, "newshape").reshape(-1))
    return b.reshape(data, new_shape(data.shape, codes, allow_zero=a.flag("allowzero")))


@operator("reshape_like", "data shape_like", role="map", lhs_begin=0, lhs_end=None, rhs_begin=0, rhs_end=None)
def _reshape_like(b: Builder, a: Attrs, data: Tensor, like: Tensor) -> Tensor:
    if a.integer("lhs_begin") or a.integer("rhs_begin") or a.given("lhs_end") or a.given("rhs_end"):
        raise ModelError("only whole shapes can be imported")
    return b.reshape(data, like.shape)


@operator("transpose", "data", role="map", axes=None)
def _transpose(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axes = a.integers("axes") if a.given("axes") else ()
    return b.permute(data, axes or tuple(reversed(range(data.rank))))


@operator("layout_transform", "data", role="map", src_layout=REQUIRED, dst_layout=REQUIRED)
def _layout_transform(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.seen_as(b.plain(data, a.text("src_layout")), a.text("dst_layout"))


@operator("squeeze", "data", role="map", axis=None)
def _squeeze(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    if a.given("axis"):
        dropped = {data.axis(axis) for axis in a.integers("axis")}
    else:
        dropped = {axis for axis, extent in enumerate(data.shape) if extent == 1}
    wide = [axis for axis in dropped if data.shape[axis] != 1]
    if wide:
        raise ModelError(f"axis {wide[0]} of {list(data.shape)} has extent {data.shape[wide[0]]} > 1")
    return b.reshape(data, [extent for axis, extent in enumerate(data.shape) if axis not in dropped])


@operator("expand_dims", "data", role="map", axis=REQUIRED, num_newaxis=1)
def _expand_dims(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis = a.integer("axis")
    at = axis if axis >= 0 else data.rank + 1 + axis
    if not 0 <= at <= data.rank:
        raise ModelError(f"axis {axis} of a tensor with {data.rank} axes")
    return b.reshape(data, (*data.shape[:at], *(1,) * a.integer("num_newaxis"), *data.shape[at:]))


def concatenate(b: Builder, parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Tensors one after the other along an axis."""
    if not parts:
        raise ModelError("no tensor to concatenate")
    at = parts[0].axis(axis)
    if all(part.array is not None for part in parts):
        b.reserve(sum(math.prod(part.shape) for part in parts), parts[0].dtype)
        return b.const(np.concatenate([known(part, "") for part in parts], at))
    view = parts[0].view
    stored = b.stored_axes(parts[0])
    if view is not None and stored is not None and all(part.view == view for part in parts):
        plain = [b.expr(b.plain(part, view)) for part in parts]
        return b.seen_as(b.emit(relax.op.concat(plain, stored[at])), view)
    return b.emit(relax.op.concat([b.expr(part) for part in parts], at))


def tensors_of(value: Value, what: str) -> tuple[Tensor, ...]:
    """A tuple of tensors.

    Raises:
        ModelError: It is something else.
    """
    fields = value if isinstance(value, tuple) else (value,)
    found = tuple(part for part in fields if isinstance(part, Tensor))
    if len(found) < len(fields):
        raise ModelError(f"{what} holds a tuple inside a tuple")
    return found


@operator("concatenate", "*data", axis=0)
def _concatenate(b: Builder, a: Attrs, data: Value) -> Tensor:
    return concatenate(b, tensors_of(data, "data"), a.integer("axis"))


@operator("stack", "*data", axis=0)
def _stack(b: Builder, a: Attrs, data: Value) -> Tensor:
    parts = tensors_of(data, "data")
    rank = parts[0].rank + 1 if parts else 1
    axis = a.integer("axis") % rank
    lifted = tuple(b.reshape(part, (*part.shape[:axis], 1, *part.shape[axis:])) for part in parts)
    return concatenate(b, lifted, axis)


def slice_(b: Builder, data: Tensor, ranges: list[tuple[int, int, int]]) -> Tensor:
    """A range (begin, end, stride) of every axis; an end of -1 behind a negative stride means past the beginning."""
    if all(r == (0, extent, 1) for r, extent in zip(ranges, data.shape, strict=True)):
        return data
    if data.array is not None:
        cut = tuple(slice(begin, None if end < 0 else end, stride) for begin, end, stride in ranges)
        return b.const(np.ascontiguousarray(data.array[cut]))

    def make(expr: relax.Expr, stored: list[int]) -> relax.Expr:
        used = [axis for axis, r in enumerate(ranges) if r != (0, data.shape[axis], 1)]
        begins, ends, strides = ([ranges[axis][part] for axis in used] for part in range(3))
        # Relax counts a negative end from the back; this one must lie in front of the first element.
        ends = [end if end >= 0 else -data.shape[axis] - 1 for axis, end in zip(used, ends, strict=True)]
        return relax.op.strided_slice(expr, [stored[axis] for axis in used], begins, ends, strides)

    return b.along_axes(data, make)


@operator("split", "data", indices_or_sections=REQUIRED, axis=0)
def _split(b: Builder, a: Attrs, data: Tensor) -> Value:
    axis = data.axis(a.integer("axis"))
    extent = data.shape[axis]
    cuts = a.integers("indices_or_sections")
    if not isinstance(a.raw("indices_or_sections"), tuple):
        if cuts[0] < 1 or extent % cuts[0]:
            raise ModelError(f"{cuts[0]} equal sections of an axis of {extent}")
        cuts = tuple(range(extent // cuts[0], extent, extent // cuts[0]))
    whole = [(0, dim, 1) for dim in data.shape]
    edges = [0, *(min(cut, extent) for cut in cuts), extent]
    return tuple(
        slice_(b, data, [*whole[:axis], (begin, end, 1), *whole[axis + 1 :]])
        for begin, end in zip(edges, edges[1:], strict=False)
    )


@operator("strided_slice dyn.strided_slice", "data", begin=REQUIRED, end=REQUIRED, strides=(1,), axes=None,
          slice_mode="end")  # fmt: skip
def _strided_slice(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    begins, ends = a.integers("begin"), a.integers("end")
    axes = a.integers("axes") if a.given("axes") else tuple(range(len(begins)))
    strides = a.integers("strides") if a.given("strides") else (1,)
    strides = strides * len(axes) if len(strides) == 1 else strides
    if not len(begins) == len(ends) == len(axes) <= len(strides):
        raise ModelError(f"{len(begins)} begins, {len(ends)} ends, {len(axes)} axes")
    ranges = [(0, dim, 1) for dim in data.shape]
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=False):
        extent = data.shape[data.axis(axis)]
        if a.text("slice_mode") == "size":
            begin = begin + extent if begin < 0 else begin
            end, stride = extent if end < 0 else begin + end, 1
        if stride == 0:
            raise ModelError("stride 0")
        ranges[data.axis(axis)] = _range(begin, end, stride, extent)
    return slice_(b, data, ranges)


def _range(begin: int, end: int, stride: int, extent: int) -> tuple[int, int, int]:
    first, last, step = slice(begin, end, stride).indices(extent)
    return first, last, step


@operator("take", "data indices", weights=(0,), batch_dims=0, axis=None, mode="clip")
def _take(b: Builder, a: Attrs, data: Tensor, indices: Tensor) -> Tensor:
    if a.integer("batch_dims"):
        raise ModelError(f"batch_dims = {a.integer('batch_dims')}: only 0 can be imported")
    axis = data.axis(a.integer("axis")) if a.given("axis") else 0
    source = data if a.given("axis") else b.reshape(data, (math.prod(data.shape),))
    mode = a.text("mode")
    if source.array is not None and indices.array is not None:
        how = {"clip": "clip", "wrap": "wrap", "fast": "raise"}
        return b.const(np.take(source.array, indices.array.astype(np.int64), axis, mode=how[mode]))  # type: ignore[call-overload]
    return b.emit(relax.op.take(b.expr(source), b.expr(indices), axis=axis, mode=mode))


@operator("gather", "data indices", axis=0)
def _gather(b: Builder, a: Attrs, data: Tensor, indices: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    return b.emit(relax.op.gather_elements(b.expr(data), b.expr(cast(b, indices, "int64")), axis=axis))


@operator("gather_nd", "data indices", batch_dims=0, index_rank=None)
def _gather_nd(b: Builder, a: Attrs, data: Tensor, indices: Tensor) -> Tensor:
    # Relay keeps the coordinates of one element along the first axis, Relax along the last.
    moved = b.permute(b.bare(indices), (*range(1, indices.rank), 0))
    batch_dims = a.integer("batch_dims")
    return b.emit(relax.op.gather_nd(b.expr(data), b.expr(cast(b, moved, "int64")), batch_dims=batch_dims))


@operator("repeat", "data", repeats=REQUIRED, axis=None)
def _repeat(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis")) if a.given("axis") else None
    if data.array is not None:
        b.reserve(data.array.size * a.integer("repeats"), data.dtype)
        return b.const(np.repeat(data.array, a.integer("repeats"), axis))
    return b.emit(relax.op.repeat(b.expr(data), a.integer("repeats"), axis))


@operator("tile", "data", reps=REQUIRED)
def _tile(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    if data.array is not None:
        b.reserve(data.array.size * math.prod(a.integers("reps")), data.dtype)
        return b.const(np.tile(data.array, a.integers("reps")))
    return b.emit(relax.op.tile(b.expr(data), list(a.integers("reps"))))


@operator("reverse", "data", axis=REQUIRED)
def _reverse(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.emit(relax.op.flip(b.expr(data), data.axis(a.integer("axis"))))


def broadcast(b: Builder, data: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A tensor repeated to a shape."""
    if data.array is not None:
        return b.const(np.broadcast_to(data.array, shape))
    return data if data.shape == shape else b.emit(relax.op.broadcast_to(b.expr(data), shape))


@operator("broadcast_to", "data", shape=REQUIRED, dtype="")
def _broadcast_to(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return broadcast(b, data, a.integers("shape"))


@operator("broadcast_to_like", "data like")
def _broadcast_to_like(b: Builder, a: Attrs, data: Tensor, like: Tensor) -> Tensor:
    return broadcast(b, data, like.shape)


@operator("full", "fill_value", shape=REQUIRED, dtype="")
def _full(b: Builder, a: Attrs, fill_value: Tensor) -> Tensor:
    return broadcast(b, cast(b, fill_value, a.text("dtype") or fill_value.dtype), a.integers("shape"))


@operator("full_like", "data fill_value")
def _full_like(b: Builder, a: Attrs, data: Tensor, fill_value: Tensor) -> Tensor:
    return broadcast(b, cast(b, fill_value, data.dtype), data.shape)


@operator("zeros", "", shape=REQUIRED, dtype="float32")
def _zeros(b: Builder, a: Attrs) -> Tensor:
    return b.filled(0, a.integers("shape"), a.text("dtype") or "float32")


@operator("ones", "", shape=REQUIRED, dtype="float32")
def _ones(b: Builder, a: Attrs) -> Tensor:
    return b.filled(1, a.integers("shape"), a.text("dtype") or "float32")


@operator("arange", "start stop step", start=None, stop=None, step=None, dtype=REQUIRED)
def _arange(b: Builder, a: Attrs, start: Tensor, stop: Tensor, step: Tensor) -> Tensor:
    bounds = [known(tensor, what).reshape(()) for tensor, what in ((start, "start"), (stop, "stop"), (step, "step"))]
    first, last, step_by = (bound.item() for bound in bounds)
    if step_by == 0:
        raise ModelError("step 0")
    b.reserve(max(math.ceil((last - first) / step_by), 0), "float64")
    return b.const(np.arange(first, last, step_by), a.text("dtype"))


@operator("shape_of", "data", dtype="int32")
def _shape_of(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.const(np.array(data.shape), a.text("dtype") or "int32")


@operator("one_hot", "indices on_value off_value", depth=REQUIRED, axis=-1, dtype="float32")
def _one_hot(b: Builder, a: Attrs, indices: Tensor, on_value: Tensor, off_value: Tensor) -> Tensor:
    axis = a.integer("axis") % (indices.rank + 1)
    lifted = b.reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    b.reserve(a.integer("depth"), "int64")
    classes = np.arange(a.integer("depth")).reshape((-1,) + (1,) * (indices.rank - axis))
    hit = binary(b, "equal", lifted, b.const(classes, indices.dtype))
    dtype = a.text("dtype") or on_value.dtype
    return where(b, hit, cast(b, on_value, dtype), cast(b, off_value, dtype))


@operator("topk", "data", k=1, axis=-1, ret_type="both", is_ascend=False, dtype="int32")
def _topk(b: Builder, a: Attrs, data: Tensor) -> Value:
    axis = data.axis(a.integer("axis"))
    count = a.integer("k") if a.given("k") and a.integer("k") > 0 else data.shape[axis]
    call = relax.op.topk(
        b.expr(data), count, axis, "both", largest=not a.flag("is_ascend"), dtype=a.text("dtype") or "int32"
    )
    values, indices = b.emit_tuple(call)
    kind = a.text("ret_type")
    return (values, indices) if kind == "both" else values if kind == "values" else indices


@operator("argsort", "data", axis=-1, is_ascend=True, dtype="int32")
def _argsort(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    dtype = a.text("dtype") or "int32"
    return b.emit(relax.op.argsort(b.expr(data), axis, not a.flag("is_ascend"), dtype))
