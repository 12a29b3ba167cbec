"""What a Relay text says, as plain values; nothing here knows TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

AttrValue: TypeAlias = "bool | int | float | str | None | tuple[AttrValue, ...] | dict[str, AttrValue] | Meta"
"""Value of one ``key=value``; lists are tuples."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorType:
    """``Tensor[(1, ?), float32]``; a scalar has no dims, an unknown dim is ``None``."""

    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class TupleType:
    """A type of several fields; a field that is no tensor and no tuple is ``None``."""

    fields: tuple[Type, ...]


Type: TypeAlias = "TensorType | TupleType | None"


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A number or a truth value."""

    at: int
    value: bool | int | float
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Local:
    """``%name`` or ``%12``, without the percent sign."""

    at: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """``@name``."""

    at: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """``nn.conv2d`` where an expression is expected."""

    at: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Meta:
    """``meta[relay.Constant][3]``."""

    at: int
    key: str
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class TupleOf:
    """``(%0, %1)``."""

    at: int
    fields: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False)
class TupleItem:
    """``%5.1``."""

    at: int
    source: Expr
    index: int


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A call of an operator, a function or any other expression; ``attrs`` are the ``key=value`` at its end."""

    at: int
    callee: Expr
    args: tuple[Expr, ...]
    attrs: dict[str, AttrValue]


@dataclass(frozen=True, slots=True, eq=False)
class Param:
    """One parameter of a function."""

    at: int
    name: str
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """``fn (...) { ... }`` or the right side of a ``def``."""

    at: int
    params: tuple[Param, ...]
    attrs: dict[str, AttrValue]
    body: Expr


@dataclass(frozen=True, slots=True, eq=False)
class If:
    """Both branches are values: Relay has no side effects here."""

    at: int
    condition: Expr
    then: Expr
    otherwise: Expr


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One line of a sequence: ``%3 = ...;``, ``let %x = ...;``, ``free_var %x: T;`` (no value) or a bare expression."""

    at: int
    name: str | None
    value: Expr | None
    type: Type


@dataclass(frozen=True, slots=True, eq=False)
class Sequence:
    """Lines and, behind them, what they are for."""

    at: int
    steps: tuple[Line, ...]
    result: Expr


Expr: TypeAlias = "Literal | Local | Global | Operator | Meta | TupleOf | TupleItem | Call | Function | If | Sequence"


@dataclass(frozen=True, slots=True, eq=False)
class ParsedText:
    """All functions of a text by name; a text that is one expression has the name ``main`` for it."""

    functions: dict[str, Function]
