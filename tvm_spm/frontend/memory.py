"""How much memory a model asks for, before any of it is allocated."""

from __future__ import annotations

import math

import psutil
import tvm
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.units import bits_to_bytes, format_capacity

COPIES = 4
"""A run holds a weight about so many times: in the file, in the module, and in the executables that are compared."""


def default_memory_bytes() -> int:
    """What the tensors of a model may need, each once: the memory of this machine over ``COPIES``."""
    return int(psutil.virtual_memory().total) // COPIES


def require_memory(needed_bytes: int, max_memory_bytes: int, origin: str, what: str) -> None:
    """Refuse what is too large, before it is allocated.

    Raises:
        ModelError: States both numbers.
    """
    if needed_bytes > max_memory_bytes:
        raise ModelError(
            f"{origin}: its {what} need {format_capacity(needed_bytes)}: must be <= "
            f"{format_capacity(max_memory_bytes)}; give its inputs smaller shapes, or raise --max-memory "
            "(max_memory_bytes) if the machine has more"
        )


def module_bytes(mod: tvm.IRModule) -> int:
    """Bytes of all tensors of a module: its parameters, its constants, and every value between, each once.

    Values whose shape is not known count nothing.
    """
    constants: list[tvm.ir.Constant] = []

    def visit(node: relax.Expr) -> None:
        if isinstance(node, tvm.ir.Constant):
            constants.append(node)

    total = 0
    for _, function in mod.functions_items():
        if not isinstance(function, relax.Function):
            continue
        total += sum(_type_bytes(param.ty) for param in function.params)
        if not isinstance(function.body, relax.SeqExpr):
            continue
        for block in function.body.blocks:
            for binding in block.bindings:
                total += _type_bytes(binding.var.ty)
        relax.analysis.post_order_visit(function.body, visit)
    return total + sum(_type_bytes(constant.ty) for constant in constants)


def _type_bytes(ty: tvm.ir.Type) -> int:
    if isinstance(ty, relax.TupleType):
        return sum(_type_bytes(part) for part in ty.fields)
    if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
        return 0
    extents = [int(extent) for extent in ty.shape.values if isinstance(extent, tvm.tirx.IntImm)]
    if len(extents) < len(ty.shape.values):
        return 0
    dtype = tvm.DataType(str(ty.dtype)) if ty.dtype else None
    return bits_to_bytes(math.prod(extents) * (dtype.bits * dtype.lanes if dtype is not None else 32))
