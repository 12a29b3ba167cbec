"""Operators that spread a layer's small result over a large tensor, or cut it, do not belong to that layer.

A squeeze-excite block multiplies an image by one number per channel, which a 1x1 convolution makes. TVM fuses that
product into the convolution, whose function then has two shapes of outputs and is no layer any more.

Nor do joins of many tensors belong to what makes them: TVM would put hundreds of steps into one function.
"""

from __future__ import annotations

import math

import tvm
from tvm import relax, tirx

from tvm_spm.frontend.tir.nest import TirNest, read_nest

_PATTERN = "op_pattern"
_BROADCAST, _INJECTIVE, _LAYER, _OPAQUE = 1, 2, 4, 8
"""TVM's kinds of functions (``OpPatternKind``)."""


_MOST_TENSORS = 16
"""Of a function that is fused with others."""


@tvm.transform.module_pass(opt_level=0, name="tvm_spm.KeepBroadcastsApart")
def keep_broadcasts_apart(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Let ``FuseOps`` not fuse what changes the size of a layer's result; what follows it may still join it."""
    apart: dict[str, tirx.PrimFunc] = {}
    for var, func in mod.functions_items():
        if isinstance(func, relax.Function) and isinstance(func.body, relax.SeqExpr):
            apart |= _resizing(mod, func)
        if isinstance(func, tirx.PrimFunc) and len(func.params) > _MOST_TENSORS:
            mod.update_func(var, func.with_attr(_PATTERN, _OPAQUE))
    for name, func in apart.items():
        mod.update_func(mod.get_global_var(name), func.with_attr(_PATTERN, _INJECTIVE))
    return mod


def _resizing(mod: tvm.IRModule, func: relax.Function) -> dict[str, tirx.PrimFunc]:
    found: dict[str, tirx.PrimFunc] = {}
    of_layer: dict[relax.Var, int] = {}
    """Elements of what a layer made, element-wise work on it included."""
    for block in func.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if not _is_call_tir(call):
                continue
            name = call.args[0].name_hint
            made = mod[name]
            pattern, num_elems = _pattern_of(made), _num_elems(binding.var)
            sources = [arg for arg in call.args[1].fields if isinstance(arg, relax.Var) and arg in of_layer]
            if pattern <= _BROADCAST and any(of_layer[arg] != num_elems for arg in sources):
                found[name] = made
            elif (pattern == _LAYER and _multiplies(made)) or (pattern <= _BROADCAST and sources):
                of_layer[binding.var] = num_elems
    return found


def _is_call_tir(expr: relax.Expr) -> bool:
    if not isinstance(expr, relax.Call) or not isinstance(expr.op, tvm.ir.Op) or expr.op.name != "relax.call_tir":
        return False
    return isinstance(expr.args[1], relax.Tuple)


def _pattern_of(func: tirx.PrimFunc) -> int:
    return int(func.attrs[_PATTERN]) if func.attrs and _PATTERN in func.attrs else _LAYER + 1


def _multiplies(func: tirx.PrimFunc) -> bool:
    nest = read_nest(func)
    return isinstance(nest, TirNest) or nest.has_macs


def _num_elems(var: relax.Var) -> int:
    shape = getattr(var.ty, "shape", None)
    if not isinstance(shape, relax.ShapeExpr) or not all(isinstance(dim, tirx.IntImm) for dim in shape.values):
        return 0
    return math.prod(int(dim) for dim in shape.values)
