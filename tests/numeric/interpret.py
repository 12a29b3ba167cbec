"""Walks scheduled code iteration by iteration and counts what it takes from each tensor; no numbers are computed."""

from __future__ import annotations

import operator
from collections import Counter

import tvm
import tvm_ffi
from tvm import s_tir, tirx

_OPERATIONS = {
    tirx.Add: operator.add, tirx.Sub: operator.sub, tirx.Mul: operator.mul, tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod, tirx.Min: min, tirx.Max: max, tirx.LT: operator.lt, tirx.LE: operator.le,
    tirx.GT: operator.gt, tirx.GE: operator.ge, tirx.EQ: operator.eq, tirx.NE: operator.ne,
    tirx.And: lambda a, b: a and b, tirx.Or: lambda a, b: a or b,
}  # fmt: skip


def elements_read(func: tirx.PrimFunc) -> Counter[str]:
    """Per parameter, how often an element of it is read; those that a test for padding excludes are not."""
    names = {param: str(param.name) for param in func.params}
    found: Counter[str] = Counter()

    def walk(stmt: tirx.Stmt, env: dict) -> None:
        if isinstance(stmt, tirx.SeqStmt):
            for inner in stmt.seq:
                walk(inner, env)
        elif isinstance(stmt, tirx.For):
            for index in range(int(value(stmt.extent, env))):
                walk(stmt.body, {**env, stmt.loop_var: index})
        elif isinstance(stmt, s_tir.SBlockRealize):
            if value(stmt.predicate, env):
                bound = zip(stmt.block.iter_vars, stmt.iter_values, strict=True)
                inside = {**env, **{var.var: value(expr, env) for var, expr in bound}}
                walk(stmt.block.body, inside)
        elif isinstance(stmt, tirx.BufferStore):
            loads(stmt.value, env)

    def value(expr: tirx.PrimExpr, env: dict) -> int:
        if isinstance(expr, tvm.ir.Var):
            return env[expr]
        if isinstance(expr, tirx.IntImm):
            return int(expr)
        if isinstance(expr, tirx.Cast):
            return value(expr.value, env)
        return _OPERATIONS[type(expr)](value(expr.a, env), value(expr.b, env))

    def loads(expr: tirx.PrimExpr, env: dict) -> None:
        if isinstance(expr, tvm.ir.Call) and expr.op.name.endswith("if_then_else"):
            if value(expr.args[0], env):
                loads(expr.args[1], env)
            return
        read: list = []
        tvm_ffi.structural_walk(expr, (tvm.ir.TensorLoad, read.append), order="post")
        found.update(names[load.source] for load in read if load.source in names)

    walk(func.body, {})
    return found
