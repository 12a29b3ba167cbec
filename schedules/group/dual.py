"""Numbers that change from tile to tile: an expression of the code, and its value at every tile of every core."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tvm import sym, tirx

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_ANALYZER = sym.Analyzer()


@dataclass(frozen=True, slots=True, eq=False)
class Dual:
    """An integer.

    Attributes:
        expr: In terms of the loops over cores and tiles.
        values: At every core and tile; an axis of extent 1 stands for all of them.
    """

    expr: tirx.PrimExpr
    values: Ints

    def __add__(self, other: Dual | int) -> Dual:
        right = dual(other)
        return Dual(self.expr + right.expr, self.values + right.values)

    def __sub__(self, other: Dual | int) -> Dual:
        right = dual(other)
        return Dual(self.expr - right.expr, self.values - right.values)

    def __mul__(self, factor: int) -> Dual:
        return self if factor == 1 else Dual(self.expr * factor, self.values * factor)

    def __floordiv__(self, divisor: int) -> Dual:
        return self if divisor == 1 else Dual(tirx.floordiv(self.expr, divisor), self.values // divisor)

    def __mod__(self, divisor: int) -> Dual:
        return Dual(tirx.floormod(self.expr, divisor), self.values % divisor)

    def simplified(self) -> Dual:
        """The same with a shorter expression; a number if it never changes."""
        if self.values.size and (self.values == self.values.flat[0]).all():
            return dual(int(self.values.flat[0]))
        return Dual(_ANALYZER.simplify(self.expr), self.values)

    @property
    def constant(self) -> int | None:
        """The number, if it is one."""
        return int(self.expr) if isinstance(self.expr, tirx.IntImm) else None


def dual(value: Dual | int) -> Dual:
    """A number that never changes."""
    if isinstance(value, Dual):
        return value
    return Dual(tirx.IntImm("int32", value), np.full(1, value, dtype=np.int64))


def least(left: Dual, right: Dual | int) -> Dual:
    """The smaller of two."""
    other = dual(right)
    if (left.values <= other.values).all():
        return left
    if (other.values <= left.values).all():
        return other
    return Dual(tirx.min(left.expr, other.expr), np.minimum(left.values, other.values))


def largest(left: Dual, right: Dual | int) -> Dual:
    """The larger of two."""
    other = dual(right)
    if (left.values >= other.values).all():
        return left
    if (other.values >= left.values).all():
        return other
    return Dual(tirx.max(left.expr, other.expr), np.maximum(left.values, other.values))


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A truth, as an expression and at every tile."""

    expr: tirx.PrimExpr
    values: Bools

    def __and__(self, other: Condition) -> Condition:
        if self.always or other.always:
            return other if self.always else self
        return Condition(tirx.all(self.expr, other.expr), self.values & other.values)

    @property
    def always(self) -> bool:
        """Whether it holds at every tile."""
        return bool(self.values.all())


def less(left: Dual, right: Dual) -> Condition:
    """Whether one is less than another."""
    return Condition(left.expr < right.expr, left.values < right.values)


def choose(condition: Condition, yes: Dual, no: Dual) -> Dual:
    """One of two numbers."""
    if condition.always or not condition.values.any():
        return yes if condition.always else no
    return Dual(tirx.Select(condition.expr, yes.expr, no.expr), np.where(condition.values, yes.values, no.values))
