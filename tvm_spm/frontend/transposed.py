"""Transposed convolutions as the dense convolutions that they consist of.

A transposed convolution of stride s writes every s-th output of a row from the same taps of its filter. All outputs of
one residue are a plain convolution of the input with those taps, which multiplies no inserted zero. Neighbouring
residues whose taps meet the same inputs share one convolution, as more output channels: the input is read once for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax, te, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.units import ceil_div

_LAYOUTS = {"relax.nn.conv1d_transpose": ("NCW", "IOW"), "relax.nn.conv2d_transpose": ("NCHW", "IOHW")}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResidueRun:
    """Neighbouring residues of one axis whose outputs see equally many taps at the same inputs.

    Attributes:
        first: The least residue; output ``residue + stride * j`` is element ``j`` of its residue.
        taps: Per residue, the taps of the filter in the order in which the input grows; none where the outputs are 0.
        outputs: Elements of each residue.
        start: Input element that the first tap meets at output 0; negative in the padding.
        dilation: Input elements from one tap to the next.
    """

    first: int
    taps: tuple[tuple[int, ...], ...]
    outputs: int
    start: int
    dilation: int


def runs_of(outputs: int, taps: int, stride: int, dilation: int, before: int) -> tuple[ResidueRun, ...]:
    """The residues of one axis, in order.

    Output ``y`` sums tap ``f`` of input ``i`` wherever ``y + before = stride * i + dilation * f``.

    Args:
        outputs: Extent of the result.
        taps: Extent of the filter.
        stride: Of the layer.
        dilation: Of the filter.
        before: Outputs cut off in front.
    """
    step = math.gcd(stride, dilation)
    found: list[ResidueRun] = []
    for residue in range(min(stride, outputs)):
        at = residue + before
        mine = [tap for tap in range(taps) if (at - tap * dilation) % stride == 0][::-1]
        run = ResidueRun(
            first=residue,
            taps=(tuple(mine),),
            outputs=ceil_div(outputs - residue, stride),
            start=(at - mine[0] * dilation) // stride if mine else 0,
            dilation=dilation // step if len(mine) > 1 else 1,
        )
        last = found[-1] if found else None
        if last is not None and _geometry(last) == _geometry(run):
            found[-1] = ResidueRun(
                first=last.first, taps=(*last.taps, *run.taps), outputs=last.outputs, start=last.start,
                dilation=last.dilation,
            )  # fmt: skip
        else:
            found.append(run)
    return tuple(found)


def _geometry(run: ResidueRun) -> tuple[int, int, int, int]:
    return len(run.taps[0]), run.outputs, run.start, run.dilation


@mutator
class TransposedConvolutions(PyExprMutator):
    """Splits every transposed convolution along one or two axes."""

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Replace a transposed convolution of a layout that TVM lowers, too."""
        call = self.visit_expr_post_order(call)
        name = call.op.name if isinstance(call.op, tvm.ir.Op) else ""
        if name not in _LAYOUTS or not _is_split(call, _LAYOUTS[name]):
            return call
        attrs = call.attrs
        data, weight = call.args
        shape = [int(extent) for extent in call.ty.shape.values]
        spatial = len(shape) - 2
        filter_shape = [int(extent) for extent in weight.ty.shape.values]
        runs = [
            runs_of(
                shape[2 + axis], filter_shape[2 + axis], int(attrs.strides[axis]), int(attrs.dilation[axis]),
                int(attrs.padding[axis]),
            )
            for axis in range(spatial)
        ]  # fmt: skip
        parts, computed = [], []
        for place in product(*runs):
            if all(run.taps[0] for run in place):
                filters = self._filters(weight, place, int(attrs.groups))
                dense = partial(_dense, place=place, groups=int(attrs.groups), dtype=str(call.ty.dtype))
                hint = name.removeprefix("relax.nn.")
                part = self.builder_.call_te(dense, data, filters, primfunc_name_hint=hint)
                parts.append(self.builder_.emit(part))
                computed.append(place)
        if all(int(stride) == 1 for stride in attrs.strides):
            return parts[0]
        strides = [int(stride) for stride in attrs.strides]
        interleave = partial(_interleave, places=computed, shape=shape, strides=strides, dtype=str(call.ty.dtype))
        return self.builder_.call_te(interleave, parts, primfunc_name_hint="interleave")

    def _filters(self, weight: relax.Expr, place: Sequence[ResidueRun], groups: int) -> relax.Expr:
        """Filters of one convolution, (K, C, taps): constant if the layer's are."""
        source = self.lookup_binding(weight) if isinstance(weight, relax.Var) else weight
        if isinstance(source, tvm.ir.GenericConst):
            return relax.const(_take(source.value.numpy(), place, groups), str(weight.ty.dtype))
        take = partial(_take_te, place=place, groups=groups)
        return self.builder_.emit(self.builder_.call_te(take, weight, primfunc_name_hint="filters_of_residues"))


def _is_split(call: relax.Call, layouts: tuple[str, str]) -> bool:
    attrs = call.attrs
    shapes = [expr.ty.shape for expr in (call, *call.args) if isinstance(expr.ty, relax.TensorType)]
    extents = [extent for shape in shapes if isinstance(shape, relax.ShapeExpr) for extent in shape.values]
    known = len(extents) == 3 * int(call.ty.ndim) and all(isinstance(e, tirx.IntImm) and int(e) > 0 for e in extents)
    wanted = (attrs.data_layout, attrs.kernel_layout, attrs.out_layout or attrs.data_layout)
    return known and wanted == (*layouts, layouts[0])


def _take(weight: NDArray[np.generic], place: Sequence[ResidueRun], groups: int) -> NDArray[np.generic]:
    """(C, K / groups, taps of the layer) as (K * residues, C / groups, taps of a residue)."""
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    for axis, run in enumerate(place):
        # Every axis becomes one of residues and one of taps.
        grouped = np.take(grouped, np.array(run.taps), axis=3 + 2 * axis)
    spatial = len(place)
    residues, taps = [3 + 2 * axis for axis in range(spatial)], [4 + 2 * axis for axis in range(spatial)]
    moved = grouped.transpose(0, 2, *residues, 1, *taps)
    lead = math.prod(moved.shape[: 2 + spatial])
    return np.ascontiguousarray(moved.reshape(lead, *moved.shape[2 + spatial :]))


def _take_te(weight: te.Tensor, place: Sequence[ResidueRun], groups: int) -> te.Tensor:
    """The same for filters that are not known before the network runs."""
    channels, per_group = (int(extent) for extent in weight.shape[:2])
    residues = [len(run.taps) for run in place]
    together = math.prod(residues)
    taps = [len(run.taps[0]) for run in place]

    def element(k: tirx.PrimExpr, c: tirx.PrimExpr, *at: tirx.PrimExpr) -> tirx.PrimExpr:
        group, rest = k // (per_group * together), k % (per_group * together)
        picked, number = [], rest % together
        for axis, run in enumerate(place):
            residue = number // math.prod(residues[axis + 1 :]) % residues[axis]
            picked.append(_tap(run, residue, at[axis]))
        return weight(group * (channels // groups) + c, rest // together, *picked)

    return te.compute((groups * per_group * together, channels // groups, *taps), element, name="filters")


def _tap(run: ResidueRun, residue: tirx.PrimExpr, number: tirx.PrimExpr) -> tirx.PrimExpr:
    """Which tap of the layer's filter is tap ``number`` of a residue."""
    chosen = _linear(run.taps[0], number)
    for index, taps in enumerate(run.taps[1:], 1):
        chosen = tirx.Select(residue >= index, _linear(taps, number), chosen)
    return chosen


def _linear(taps: Sequence[int], number: tirx.PrimExpr) -> tirx.PrimExpr:
    """Taps of a residue are evenly spaced."""
    step = taps[1] - taps[0] if len(taps) > 1 else 0
    return taps[0] + number * step


def _dense(data: te.Tensor, filters: te.Tensor, place: Sequence[ResidueRun], groups: int, dtype: str) -> te.Tensor:
    """A convolution of stride 1 whose outputs are those of some residues; zeros stand for what is beyond the input."""
    extents = [int(extent) for extent in data.shape]
    lasts = [run.start + run.outputs - 1 + (len(run.taps[0]) - 1) * run.dilation for run in place]
    source, offsets = data, [run.start for run in place]
    if any(start < 0 or last >= extent for start, last, extent in zip(offsets, lasts, extents[2:], strict=True)):
        source, offsets = _padded(data, offsets, lasts), [0] * len(place)
    num_out, per_group = int(filters.shape[0]), int(filters.shape[1])
    summed = [te.reduce_axis((0, per_group), name="rc")]
    summed += [te.reduce_axis((0, len(run.taps[0])), name=f"r{axis}") for axis, run in enumerate(place)]

    def element(n: tirx.PrimExpr, k: tirx.PrimExpr, *at: tirx.PrimExpr) -> tirx.PrimExpr:
        channel, *taps = summed
        read = k // (num_out // groups) * per_group + channel if groups > 1 else channel
        where = [o + tap * run.dilation + offset for o, tap, run, offset in zip(at, taps, place, offsets, strict=True)]
        return te.sum(source(n, read, *where).astype(dtype) * filters(k, channel, *taps).astype(dtype), axis=summed)

    shape = (extents[0], num_out, *(run.outputs for run in place))
    return te.compute(shape, element, name="conv_transpose")


def _padded(data: te.Tensor, starts: Sequence[int], lasts: Sequence[int]) -> te.Tensor:
    extents = [int(extent) for extent in data.shape]

    def element(n: tirx.PrimExpr, c: tirx.PrimExpr, *at: tirx.PrimExpr) -> tirx.PrimExpr:
        where = [index + start if start else index for index, start in zip(at, starts, strict=True)]
        inside = []
        for index, position, start, last, extent in zip(at, where, starts, lasts, extents[2:], strict=True):
            inside += [index >= -start] if start < 0 else []
            inside += [position < extent] if last >= extent else []
        return tirx.if_then_else(tirx.all(*inside), data(n, c, *where), tirx.const(0, data.dtype))

    shape = (*extents[:2], *(last - start + 1 for start, last in zip(starts, lasts, strict=True)))
    return te.compute(shape, element, name="pad_temp")


def _interleave(
    parts: Sequence[te.Tensor],
    places: Sequence[Sequence[ResidueRun]],
    shape: Sequence[int],
    strides: Sequence[int],
    dtype: str,
) -> te.Tensor:
    """Put the outputs of all residues where they belong; those without taps are 0."""

    def element(n: tirx.PrimExpr, k: tirx.PrimExpr, *at: tirx.PrimExpr) -> tirx.PrimExpr:
        quotients = [index // stride if stride > 1 else index for index, stride in zip(at, strides, strict=True)]
        residues = [index % stride if stride > 1 else 0 for index, stride in zip(at, strides, strict=True)]
        value = None
        is_covered = sum(math.prod(len(run.taps) for run in place) for place in places) == math.prod(
            min(stride, extent) for stride, extent in zip(strides, shape[2:], strict=True)
        )
        if not is_covered:
            value = tirx.const(0, dtype)
        for part, place in zip(parts, places, strict=True):
            channel = k
            inside = []
            for residue, run, stride, extent in zip(residues, place, strides, shape[2:], strict=True):
                count = len(run.taps)
                channel = channel * count + (residue - run.first) if count > 1 else channel
                inside += [residue >= run.first] if run.first > 0 else []
                inside += [residue < run.first + count] if run.first + count < min(stride, extent) else []
            mine = part(n, channel, *quotients)
            value = mine if value is None else tirx.if_then_else(tirx.all(*inside), mine, value)
        return value

    return te.compute(tuple(shape), element, name="interleave")
