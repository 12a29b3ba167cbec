"""What Relax expressions are, read off their bindings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax


def op_name(expr: relax.Expr) -> str:
    """The operator of a call, without ``relax.``; nothing for other expressions."""
    is_operator = isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op)
    return str(expr.op.name).removeprefix("relax.") if is_operator else ""


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """Static extents; nothing where they are not known."""
    shape = getattr(getattr(expr, "ty", None), "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(each, tvm.tirx.IntImm) for each in shape.values):
        return ()
    return tuple(int(extent) for extent in shape.values)


def number_of(expr: relax.Expr) -> float | None:
    """The number that a constant of one element is."""
    array = array_of(expr)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def array_of(expr: relax.Expr) -> NDArray[np.generic] | None:
    """The numbers of a constant."""
    return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def swaps_last_axes(call: relax.Expr) -> bool:
    """Whether a call exchanges the last two axes and nothing else."""
    if op_name(call) != "permute_dims":
        return False
    rank = call.args[0].ty.ndim
    axes = list(range(rank))[::-1] if call.attrs.axes is None else [int(axis) % rank for axis in call.attrs.axes]
    return rank >= 2 and axes == [*range(rank - 2), rank - 1, rank - 2]


def uses_of(mod: tvm.IRModule) -> Counter[relax.Var]:
    """How often every variable of a module is read."""
    found: Counter[relax.Var] = Counter()

    def count(var: relax.Var, kind: tvm_ffi.DefRegionKind) -> None:
        found[var] += kind == tvm_ffi.DefRegionKind.NONE

    for _, func in mod.functions_items():
        if isinstance(func, relax.Function):
            tvm_ffi.structural_walk(func.body, with_def_region_kind=(relax.Var, count))
    return found
