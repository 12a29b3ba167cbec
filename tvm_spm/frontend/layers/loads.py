"""Every tensor element that a block reads, those in indices and at the start of a sum included."""

from __future__ import annotations

import tvm

from tvm_spm.errors import ModelError
from tvm_spm.frontend.tir.blocks import Block, constant


def block_loads(block: Block) -> list[tvm.ir.TensorLoad]:
    """Everything a block reads, indices and the start of a sum included."""
    found = expr_loads(block.store.value)
    for index in block.store.indices:
        found += expr_loads(index)
    if block.has_init:
        found += expr_loads(block.sblock.init.value)
    return found


def expr_loads(expr: tvm.ir.Expr) -> list[tvm.ir.TensorLoad]:
    """Every load in an expression, those in indices of others included.

    Raises:
        ModelError: The expression has parts that are not known here.
    """
    if isinstance(expr, tvm.ir.TensorLoad):
        parts = list(expr.indices)
    elif isinstance(expr, tvm.ir.Call):
        parts = list(expr.args)
    elif isinstance(expr, tvm.tirx.Select):
        parts = [expr.condition, expr.true_value, expr.false_value]
    elif isinstance(expr, tvm.tirx.Let):
        parts = [expr.value, expr.body]
    elif isinstance(expr, tvm.tirx.Cast):
        parts = [expr.value]
    elif hasattr(expr, "a"):
        parts = [expr.a, expr.b] if hasattr(expr, "b") else [expr.a]
    elif constant(expr) is not None or isinstance(expr, str):
        parts = []
    elif isinstance(expr, tvm.ir.Var) and not hasattr(expr, "shape"):
        parts = []
    else:
        raise ModelError(f"expression {expr} is not understood")
    return [expr] * isinstance(expr, tvm.ir.TensorLoad) + [load for part in parts for load in expr_loads(part)]
