"""Sums, means and the like over some axes."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax

from tvm_spm.frontend.relay.operators.elementwise import binary, cast, scalar
from tvm_spm.frontend.relay.operators.registry import Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.relay.tree import AttrValue

_ATTRS: dict[str, AttrValue] = {"axis": None, "keepdims": False, "exclude": False}
_Make = Callable[[relax.Expr, "list[int]", bool], relax.Expr]
_MAKERS: dict[str, _Make] = {
    "sum": relax.op.sum, "mean": relax.op.mean, "max": relax.op.max, "min": relax.op.min, "prod": relax.op.prod,
}  # fmt: skip


def _axes(a: Attrs, data: Tensor) -> list[int]:
    """Axes that go; none given means all."""
    given = a.integers("axis") if a.given("axis") else ()
    named = {data.axis(axis) for axis in given} if data.rank else set()
    if a.flag("exclude"):
        return [axis for axis in range(data.rank) if axis not in named]
    return sorted(named) if given else list(range(data.rank))


def reduce(b: Builder, a: Attrs, data: Tensor, make: _Make) -> Tensor:
    """A reduction over the axes that the attributes name."""
    axes = _axes(a, data)
    if not axes:
        return data
    kept = b.along_axes(data, lambda expr, stored: make(expr, [stored[axis] for axis in axes], True))
    if a.flag("keepdims"):
        return kept
    return b.reshape(kept, [extent for axis, extent in enumerate(data.shape) if axis not in axes])


def _register() -> None:
    def enter(name: str, make: _Make) -> None:
        @operator(name, "data", common=_ATTRS)
        def reduced(b: Builder, a: Attrs, data: Tensor) -> Tensor:
            return reduce(b, a, data, make)

    for name, make in _MAKERS.items():
        enter(name, make)


_register()


@operator("all", "data", common=_ATTRS)
def _all(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    # TVM has no smallest truth value to begin with.
    return cast(b, reduce(b, a, cast(b, data, "int8"), relax.op.min), "bool")


@operator("any", "data", common=_ATTRS)
def _any(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return cast(b, reduce(b, a, cast(b, data, "int8"), relax.op.max), "bool")


@operator("variance", "data mean", unbiased=False, common=_ATTRS)
def _variance(b: Builder, a: Attrs, data: Tensor, mean: Tensor) -> Tensor:
    axes = _axes(a, data)
    if mean.rank < data.rank:
        mean = b.reshape(mean, [1 if axis in axes else extent for axis, extent in enumerate(data.shape)])
    centred = binary(b, "subtract", data, mean)
    total = reduce(b, a, binary(b, "multiply", centred, centred), relax.op.sum)
    count = math.prod(data.shape[axis] for axis in axes) - (1 if a.flag("unbiased") else 0)
    return binary(b, "divide", total, scalar(b, count, total))


def _arg(b: Builder, a: Attrs, data: Tensor, make: Callable[..., relax.Expr]) -> Tensor:
    axes, source = _axes(a, data), b.bare(data)
    kept = [axis for axis in range(data.rank) if axis not in axes]
    num_elems = math.prod(data.shape[axis] for axis in axes)
    flat = b.reshape(b.permute(source, (*kept, *axes)), [*(data.shape[axis] for axis in kept), num_elems])
    is_last = a.flag("select_last_index")
    expr = relax.op.flip(b.expr(flat), len(kept)) if is_last else b.expr(flat)
    found = cast(b, b.emit(make(b.relax.normalize(expr), len(kept), False)), "int32")
    if is_last:
        found = binary(b, "subtract", scalar(b, num_elems - 1, found), found)
    if a.flag("keepdims"):
        return b.reshape(found, [1 if axis in axes else extent for axis, extent in enumerate(data.shape)])
    return found


@operator("argmax", "data", select_last_index=False, common=_ATTRS)
def _argmax(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _arg(b, a, data, relax.op.argmax)


@operator("argmin", "data", select_last_index=False, common=_ATTRS)
def _argmin(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _arg(b, a, data, relax.op.argmin)
