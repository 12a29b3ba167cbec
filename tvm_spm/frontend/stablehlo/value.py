"""Tensors while a program is read: an expression, and copies along axes that are not written yet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import relax


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """A tensor.

    Attributes:
        expr: Its numbers; axes along which it only repeats have extent 1.
        shape: Its shape.
    """

    expr: relax.Expr
    shape: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Type of its elements."""
        return str(self.expr.ty.dtype)

    @property
    def stored(self) -> tuple[int, ...]:
        """Shape of the expression."""
        return tuple(int(extent) for extent in self.expr.ty.shape.values)

    @property
    def array(self) -> NDArray[np.generic] | None:
        """The numbers of a constant, in the stored shape."""
        found = getattr(self.expr, "value", None)
        return None if found is None or isinstance(self.expr, relax.Var) else found.numpy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitter:
    """Writes expressions into the function being built."""

    builder: relax.BlockBuilder

    def emit(self, expr: relax.Expr) -> Value:
        """Bind an expression."""
        var = self.builder.emit(expr)
        return Value(expr=var, shape=tuple(int(extent) for extent in var.ty.shape.values))

    def whole(self, value: Value) -> relax.Expr:
        """The expression with all its copies."""
        if value.stored == value.shape:
            return value.expr
        return self.builder.emit(relax.op.broadcast_to(value.expr, value.shape))
