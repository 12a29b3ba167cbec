"""Index expressions and guards of scheduled code as numbers, over all iterations of some loops at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx

from tvm_spm.errors import ScheduleError

Ints = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.bool_)
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Grid:
    """All iterations of some loops, outer to inner; ``extents`` holds the iterations of each."""

    extents: dict[tirx.Var, int]

    def only(self, loops: Sequence[tirx.Var]) -> Grid:
        """The grid of some of the loops."""
        return Grid({var: self.extents[var] for var in loops})

    def with_loops(self, extents: Mapping[tirx.Var, int]) -> Grid:
        """The grid with more loops, inside the others."""
        return Grid({**self.extents, **extents})

    def index(self, loop: tirx.Var) -> Ints:
        """The index of one loop, shaped to combine with those of the others; 0 for a loop that is not in the grid."""
        if loop not in self.extents:
            return np.zeros(1, dtype=np.int64)
        position = list(self.extents).index(loop)
        shape = [1] * len(self.extents)
        shape[position] = self.extents[loop]
        return np.arange(self.extents[loop], dtype=np.int64).reshape(shape)

    def full(self, values: NDArray[Number]) -> NDArray[Number]:
        """One value per iteration."""
        return np.broadcast_to(values, tuple(self.extents.values()) or (1,))

    def slope(self, value: IndexValue, loop: tirx.Var) -> int:
        """What one iteration of a loop adds, the others at their first."""
        ends = Grid({loop: 2})
        first, second = ends.full(value.at(ends))
        return int(second) - int(first)


@dataclass(frozen=True, slots=True, eq=False)
class IndexValue:
    """An expression of loop variables; ``at`` gives it for all iterations of a grid, other loops at their first."""

    loops: frozenset[tirx.Var]
    at: Callable[[Grid], Ints]


def loop_value(loop: tirx.Var) -> IndexValue:
    """A loop variable itself."""
    return IndexValue(frozenset((loop,)), lambda grid: grid.index(loop))


def less(left: IndexValue, right: IndexValue) -> IndexValue:
    """Whether one value is less than another."""
    return IndexValue(left.loops | right.loops, lambda grid: np.less(left.at(grid), right.at(grid)))


Operations = dict[type, Callable[[Any, Any], Any]]

OPERATIONS: Operations = {
    tirx.Add: operator.add, tirx.Sub: operator.sub, tirx.Mul: operator.mul, tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod, tirx.LT: operator.lt, tirx.LE: operator.le, tirx.GT: operator.gt, tirx.GE: operator.ge,
    tirx.EQ: operator.eq, tirx.NE: operator.ne, tirx.And: operator.and_, tirx.Or: operator.or_,
}  # fmt: skip
"""What expressions of two operands are, of numbers and of arrays of them; truths are 0 and 1."""

_OF_ARRAYS: Operations = {**OPERATIONS, tirx.Min: np.minimum, tirx.Max: np.maximum}


def value_of(expr: tirx.PrimExpr, bound: Mapping[tirx.Var, IndexValue]) -> IndexValue:
    """Translate an expression once, so that it can be evaluated often.

    Args:
        expr: Of integers and booleans.
        bound: Variables that stand for expressions; all others are loops.

    Raises:
        ScheduleError: An operation is not understood.
    """
    if isinstance(expr, tvm.ir.Var):
        return bound[expr] if expr in bound else loop_value(expr)
    if isinstance(expr, tirx.IntImm):
        number = np.full(1, int(expr), dtype=np.int64)
        return IndexValue(frozenset(), lambda grid: number)
    if isinstance(expr, tirx.Cast):
        return value_of(expr.value, bound)
    operation = _OF_ARRAYS.get(type(expr))
    if operation is None:
        raise ScheduleError(f"index or guard {expr}: a {type(expr).__name__} is not understood")
    left, right = value_of(expr.a, bound), value_of(expr.b, bound)
    return IndexValue(left.loops | right.loops, lambda grid: operation(left.at(grid), right.at(grid)))


def constant_of(expr: tirx.PrimExpr) -> int:
    """The number an expression is."""
    return int(expr)
