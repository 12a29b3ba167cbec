"""Sums of floats of 16 bits, added up in float32 and rounded once.

TVM adds up in the type of what it sums: a mean of 4,096 numbers around 50 passes the largest float16 on the way, and
ones added to 2,048 no longer change it. Layers keep the type of their result, which is that of partial sums in PEs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from tvm_spm.attention import sum_dtype
from tvm_spm.frontend.tir.blocks import count_ops, loads_of
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.blocks import sequence, with_loop_body
from tvm_spm.lowering.root_block import has_root_block

_NEVER_SHORT = ("acos", "acosh", "asin", "asinh", "atan", "cosh", "sinh")
"""Functions of a number."""

_Wide = Mapping[tvm.ir.Var, tvm.ir.Var]
"""By tensor, what holds its elements in float32 instead."""


def sum_in_float32(given: Sequence[str]) -> tvm.transform.Pass:
    """``sum_wide`` of all functions, and those of a float that LLVM has in no 16 bits; what each is fused with stays.

    Args:
        given: Functions that stay as they are, since their author wrote their loops.
    """

    @tvm.transform.module_pass(opt_level=0, name="tvm_spm.SumInFloat32")
    def widen(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        for var, func in mod.functions_items():
            if isinstance(func, tirx.PrimFunc) and str(var.name_hint) not in given:
                mod.update_func(var, _with_known_calls(sum_wide(func)))
        return mod

    return widen


def _with_known_calls(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function in which what TVM cannot compile for floats of 16 bits is called with wider ones."""

    def widened(call: tvm.ir.Call) -> tvm.ir.Expr:
        name = str(getattr(call.op, "name", "")).rpartition(".")[2]
        if name not in _NEVER_SHORT or not _is_short(call):
            return call
        wide = sum_dtype(_dtype(call))
        return tvm.ir.Call(call.op, [arg.astype(wide) for arg in call.args], ret_ty=wide).astype(_dtype(call))

    body = tvm_ffi.structural_map(func.body, (tvm.ir.Call, widened), order="post")
    return func if body.same_as(func.body) else func.with_body(body)


def sum_wide(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """A function whose sums, and what is computed on the way to and from them, are float32.

    Before, where all tensors are float16::

        for i, k: total[i] += x[i, k]
        for i: mean[i] = total[i] / 4096

    After, where ``total`` is float32::

        for i, k: total[i] += float32(x[i, k])
        for i: mean[i] = float16(total[i] / 4096)

    Args:
        func: Not scheduled, lowered from one operator.

    Returns:
        The same function if it adds up no such numbers, or multiplies the pairs that it adds up.
    """
    if not has_root_block(func):
        return func
    stores = list(_leaves(func.body))
    if not all(isinstance(store, tirx.BufferStore) for store in stores) or not any(map(_adds_up, stores)):
        return func
    nest = read_nest(func)
    if isinstance(nest, TirNest) or nest.has_macs:
        return func
    wide = _wide_tensors(func, stores)
    rounded = [param for param in func.params if param in wide]
    root = func.body.block
    buffers = [wide.get(buffer, buffer) for buffer in root.alloc_buffers] + [wide[param] for param in rounded]
    body = sequence([_with_wide(root.body, wide), *(_rounding(wide[param], param) for param in rounded)])
    block = s_tir.SBlock([], [], [], root.name_hint, body, None, buffers, root.match_buffers, root.annotations)
    made = tirx.PrimFunc(func.params, s_tir.SBlockRealize([], tirx.const(True, "bool"), block), attrs=func.attrs)
    return s_tir.renew_defs(made)


def _leaves(stmt: tirx.Stmt) -> Iterator[tirx.Stmt]:
    """What stands in loops and blocks."""
    if isinstance(stmt, tirx.SeqStmt):
        for inner in stmt.seq:
            yield from _leaves(inner)
    elif isinstance(stmt, tirx.For):
        yield from _leaves(stmt.body)
    elif isinstance(stmt, s_tir.SBlockRealize):
        yield from _leaves(stmt.block.body)
    else:
        yield stmt


def _dtype(node: tvm.ir.Expr) -> str:
    """Of an expression, or of the elements of a tensor."""
    return str(node.dtype if hasattr(node, "shape") else node.ty.dtype)


def _is_short(node: tvm.ir.Expr) -> bool:
    return sum_dtype(_dtype(node)) != _dtype(node)


def _adds_up(store: tirx.BufferStore) -> bool:
    """Whether a store adds to, or multiplies, what its tensor holds."""
    value = store.value
    return (
        _is_short(store.buffer)
        and isinstance(value, (tirx.Add, tirx.Mul))
        and any(load.source.same_as(store.buffer) for load in loads_of(value))
    )


def _wide_tensors(func: tirx.PrimFunc, stores: Sequence[tirx.BufferStore]) -> _Wide:
    """Sums, and the tensors between parameters that come of arithmetic; copies and maxima lose nothing as they are."""
    found = {store.buffer for store in stores if _adds_up(store)}
    inner = [store for store in stores if _is_short(store.buffer) and store.buffer not in set(func.params)]
    found |= {store.buffer for store in inner if not _only_chooses(store.value)}
    while more := {store.buffer for store in inner if _reads(store.value, found)} - found:
        found |= more
    return {
        buffer: tirx.decl_buffer(buffer.shape, sum_dtype(_dtype(buffer)), f"{buffer.name}_wide") for buffer in found
    }


def _only_chooses(value: tvm.ir.Expr) -> bool:
    """Whether a value is an element of a tensor, maybe the largest of some."""
    if isinstance(value, (tirx.Max, tirx.Min)):
        return _only_chooses(value.a) and _only_chooses(value.b)
    return count_ops(value) == 0


def _reads(value: tvm.ir.Expr, tensors: set[tvm.ir.Var]) -> bool:
    return any(load.source in tensors for load in loads_of(value))


def _with_wide(stmt: tirx.Stmt, wide: _Wide) -> tirx.Stmt:
    """A statement that finds some tensors in wide ones."""
    if isinstance(stmt, tirx.SeqStmt):
        return sequence([_with_wide(inner, wide) for inner in stmt.seq])
    if isinstance(stmt, tirx.For):
        return with_loop_body(stmt, _with_wide(stmt.body, wide))
    if isinstance(stmt, s_tir.SBlockRealize):
        return _block(stmt, wide)
    assert isinstance(stmt, tirx.BufferStore)
    target, value = wide.get(stmt.buffer, stmt.buffer), stmt.value
    if target.same_as(stmt.buffer) and not _reads(value, set(wide)):
        return stmt
    value = _widened(value, wide)
    return tirx.BufferStore(target, value.astype(str(target.dtype)), stmt.indices)


def _block(realize: s_tir.SBlockRealize, wide: _Wide) -> s_tir.SBlockRealize:
    block = realize.block

    def region(of: tvm.ir.TensorRegion) -> tvm.ir.TensorRegion:
        return tirx.BufferRegion(wide[of.source], of.region) if of.source in wide else of

    made = s_tir.SBlock(
        block.iter_vars, list(map(region, block.reads)), list(map(region, block.writes)), block.name_hint,
        _with_wide(block.body, wide), None if block.init is None else _with_wide(block.init, wide),
        block.alloc_buffers, block.match_buffers, block.annotations,
    )  # fmt: skip
    return s_tir.SBlockRealize(realize.iter_values, realize.predicate, made)


def _widened(value: tvm.ir.Expr, wide: _Wide) -> tvm.ir.Expr:
    """The same expression, where every float of 16 bits is one of 32."""
    if isinstance(value, tvm.ir.TensorLoad):
        if value.source in wide:
            return tirx.BufferLoad(wide[value.source], value.indices)
        return value.astype(sum_dtype(_dtype(value)))
    if isinstance(value, tirx.FloatImm):
        return tirx.const(value.value, sum_dtype(_dtype(value)))
    if isinstance(value, tirx.Cast):
        return _widened(value.value, wide).astype(sum_dtype(_dtype(value)))
    if isinstance(value, tirx.Select):
        return tirx.Select(*(_widened(part, wide) for part in (value.condition, value.true_value, value.false_value)))
    if isinstance(value, tvm.ir.Call):
        args = [_widened(arg, wide) for arg in value.args]
        return tvm.ir.Call(value.op, args, value.attrs, ret_ty=sum_dtype(_dtype(value)))
    if isinstance(value, tirx.Not):
        return tirx.Not(_widened(value.a, wide))
    if hasattr(value, "a") and hasattr(value, "b"):
        return type(value)(_widened(value.a, wide), _widened(value.b, wide))
    return value


def _rounding(source: tvm.ir.Var, target: tvm.ir.Var) -> tirx.Stmt:
    """Loops that round every element of a tensor."""
    dtypes = [str(extent.ty.dtype) for extent in target.shape]
    loops = [tirx.Var(f"ax{axis}", dtype) for axis, dtype in enumerate(dtypes)]
    at = [tirx.Var(f"v_ax{axis}", dtype) for axis, dtype in enumerate(dtypes)]
    element = [tvm.ir.Range.from_min_extent(var, 1) for var in at]
    ranges = [tvm.ir.Range.from_min_extent(0, extent) for extent in target.shape]
    block = s_tir.SBlock(
        [tirx.IterVar(extents, var, tirx.IterVar.DataPar) for extents, var in zip(ranges, at, strict=True)],
        [tirx.BufferRegion(source, element)], [tirx.BufferRegion(target, element)], f"{target.name}_rounded",
        tirx.BufferStore(target, tirx.BufferLoad(source, at).astype(str(target.dtype)), at),
    )  # fmt: skip
    stmt: tirx.Stmt = s_tir.SBlockRealize(loops, tirx.const(True, "bool"), block)
    for var, extent in reversed(list(zip(loops, target.shape, strict=True))):
        stmt = tirx.For(var, tirx.const(0, str(var.ty.dtype)), extent, tirx.ForKind.SERIAL, stmt)
    return stmt
