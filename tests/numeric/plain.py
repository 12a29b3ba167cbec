"""The plain TIR function of a workload, built from its projections alone."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import te, tirx

from schedules.layer.axes import needs_padding, outer_first, overhang
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.workload import REDUCTION_DIMS, Axis, Dims, Projection, Workload

PAD_BLOCK = "pad"
MAC_BLOCK = "mac"
EPILOGUE_BLOCK = "epilogue"


def prim_func(workload: Workload) -> tirx.PrimFunc:
    """The unscheduled function of a workload: padding, multiply-accumulate, epilogue, one block each.

    A block whose work is nothing is left out. Parameters are the input, the weight, the extras of the epilogue in
    order, and the output. The epilogue adds every extra to the sum and casts the result to ``workload.out_dtype``.

    Args:
        workload: Any affine nest; the names and order of all loops follow from it.
    """
    data = _placeholder("I", workload.I)
    weight = _placeholder("W", workload.W)
    extras = [_placeholder(f"E{i}", extra) for i, extra in enumerate(workload.epilogue.extras)]
    source, shift = data, [0] * len(workload.I.axes)
    if needs_padding(workload):
        source, shift = _pad(workload.I, workload.dims, data)
    summed = _reduction(workload)
    reduce = {name: te.reduce_axis((0, workload.dims[name]), name=name) for name in summed}
    accumulate = workload.O.dtype

    def multiply(*indices: tirx.PrimExpr) -> tirx.PrimExpr:
        at = {**_dims_at(workload.O, indices), **reduce}
        moved = [_index(axis, at) + offset for axis, offset in zip(workload.I.axes, shift, strict=True)]
        taps = [_index(axis, at) for axis in workload.W.axes]
        product = source[tuple(moved)].astype(accumulate) * weight[tuple(taps)].astype(accumulate)
        return te.sum(product, axis=list(reduce.values())) if reduce else product

    result = te.compute(_shape(workload.O), multiply, name=MAC_BLOCK)
    if extras or workload.out_dtype != accumulate:
        result = _finish(workload, result, extras)
    return te.create_prim_func([data, weight, *extras, result]).with_attr("global_symbol", workload.kind)


def nest(workload: Workload) -> TirNest:
    """How the blocks of ``prim_func(workload)`` stand for the workload."""
    spatial = tuple(tuple(name for name, _ in outer_first(axis)) for axis in workload.O.axes)
    has_epilogue = bool(workload.epilogue.extras) or workload.out_dtype != workload.O.dtype
    return TirNest(
        workload=workload,
        block=MAC_BLOCK,
        iter_dims=spatial + tuple((name,) for name in _reduction(workload)),
        input_read=0,
        weight_read=1,
        pad_block=PAD_BLOCK if needs_padding(workload) else None,
        prologue=(),
        epilogue=(EPILOGUE_BLOCK,) if has_epilogue else (),
        extra_params=tuple(range(2, 2 + len(workload.epilogue.extras))),
    )


def _pad(projection: Projection, dims: Dims, data: te.Tensor) -> tuple[te.Tensor, list[int]]:
    outside = overhang(projection, dims)
    axes = projection.axes
    shape = [before + axis.extent + after for axis, (before, after) in zip(axes, outside, strict=True)]

    def padded(*indices: tirx.PrimExpr) -> tirx.PrimExpr:
        at, inside = [], []
        for index, axis, (before, after) in zip(indices, axes, outside, strict=True):
            at.append(index - before if before else index)
            if before:
                inside.append(index >= before)
            if after:
                inside.append(index < before + axis.extent)
        zero = tirx.const(0, projection.dtype)
        return tirx.if_then_else(tirx.all(*inside), data[tuple(at)], zero)

    return te.compute(shape, padded, name=PAD_BLOCK), [
        before + axis.offset for axis, (before, _) in zip(axes, outside, strict=True)
    ]


def _finish(workload: Workload, total: te.Tensor, extras: list[te.Tensor]) -> te.Tensor:
    def add(*indices: tirx.PrimExpr) -> tirx.PrimExpr:
        at = _dims_at(workload.O, indices)
        value = total[indices]
        for extra, projection in zip(extras, workload.epilogue.extras, strict=True):
            value = value + extra[tuple(_index(axis, at) for axis in projection.axes)].astype(workload.O.dtype)
        return value.astype(workload.out_dtype)

    return te.compute(_shape(workload.O), add, name=EPILOGUE_BLOCK)


def _placeholder(name: str, projection: Projection) -> te.Tensor:
    return te.placeholder(_shape(projection), dtype=projection.dtype, name=name)


def _shape(projection: Projection) -> list[int]:
    return [axis.extent for axis in projection.axes]


def _reduction(workload: Workload) -> list[str]:
    """Reduction dims that index an operand, also those of extent 1, in canonical order."""
    used = set(workload.I.relevant_dims) | set(workload.W.relevant_dims)
    return [name for name in REDUCTION_DIMS if name in used]


def _dims_at(projection: Projection, indices: Sequence[tirx.PrimExpr]) -> dict[str, tirx.PrimExpr]:
    """Loop dims at one element of the output, whose axes hold their dims like digits of a number."""
    at: dict[str, tirx.PrimExpr] = {}
    for axis, index in zip(projection.axes, indices, strict=True):
        terms = outer_first(axis)
        for position, (name, coefficient) in enumerate(terms):
            digit = index // coefficient if coefficient > 1 else index
            at[name] = digit % (terms[position - 1][1] // coefficient) if position else digit
    return at


def _index(axis: Axis, at: dict[str, tirx.PrimExpr]) -> tirx.PrimExpr:
    parts = [at[name] * coefficient if coefficient != 1 else at[name] for name, coefficient in axis.terms if name in at]
    if not parts:
        return tirx.const(0, "int32")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
