"""Runs a Relay program on tensors that are only named: what it computes becomes Relax bindings.

Functions disappear on the way: those called by name, those bound to a variable and the ``Primitive`` ones that
``FuseOps`` made. Expressions wait for their parts on a stack of their own, so that no text nests too deep.
"""

from __future__ import annotations

import collections.abc
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

import numpy as np

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.relay import tree
from tvm_spm.frontend.relay.metadata import Constants
from tvm_spm.frontend.relay.operators import apply, find
from tvm_spm.frontend.relay.operators.elementwise import where
from tvm_spm.frontend.relay.source import Source
from tvm_spm.frontend.relay.tensors import Builder, Tensor, Value

MAX_TUPLE_DEPTH = 64
"""Of the result, and of what an ``if`` chooses."""

MAX_CALLS = 1_000
"""Functions that wait for each other; more of them is a recursion that a network does not have."""


class Scope:
    """Names that are visible at one place; the numbered nodes of a function are visible in all of it."""

    __slots__ = ("outer", "values")

    def __init__(self, outer: Scope | None = None) -> None:
        self.outer = outer
        self.values: dict[str, Bound] = {}

    def find(self, name: str) -> Bound | None:
        """The innermost value of a name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.outer
        return None

    def names(self) -> set[str]:
        """All visible names."""
        found: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            found |= set(scope.values)
            scope = scope.outer
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Closure:
    """A function and what is visible where it stands."""

    function: tree.Function
    scope: Scope
    name: str


Bound: TypeAlias = "Value | Closure"
_Evaluation: TypeAlias = Generator[tuple[tree.Expr, Scope], Bound, Bound]


@dataclass(slots=True, kw_only=True)
class Evaluator:
    """One run of a program.

    Attributes:
        source: For the places in errors.
        program: All functions.
        constants: What ``meta[relay.Constant][i]`` means.
        builder: Receives the operators.
    """

    source: Source
    program: tree.ParsedText
    constants: Constants
    builder: Builder
    _num_calls: int = field(default=0)

    def run(self, name: str, args: collections.abc.Sequence[Value]) -> Value:
        """Call a function.

        Raises:
            ModelError: The program means nothing, or something that cannot be imported; says where.
        """
        function = self.program.functions[name]
        stack: list[_Evaluation] = [
            self._call_closure(Closure(function, Scope(), f"@{name}"), tuple(args), function.at)
        ]
        value: Bound | None = None
        while stack:
            try:
                # A generator that has just been made can only be sent None.
                expr, scope = stack[-1].send(value)  # type: ignore[arg-type]
            except StopIteration as done:
                stack.pop()
                value = done.value
                continue
            stack.append(self._evaluate(expr, scope))
            value = None
        return self._value(value, function.at)

    def _evaluate(self, expr: tree.Expr, scope: Scope) -> _Evaluation:
        if isinstance(expr, tree.Sequence):
            return (yield from self._sequence(expr, scope))
        if isinstance(expr, tree.Call):
            return (yield from self._call(expr, scope))
        if isinstance(expr, tree.TupleOf):
            fields: list[Value] = []
            for part in expr.fields:
                fields.append(self._value((yield part, scope), part.at))
            return tuple(fields)
        if isinstance(expr, tree.TupleItem):
            return self._project(expr, (yield expr.source, scope))
        if isinstance(expr, tree.If):
            return (yield from self._branch(expr, scope))
        return self._leaf(expr, scope)

    def _leaf(self, expr: tree.Expr, scope: Scope) -> Bound:
        if isinstance(expr, tree.Literal):
            return self.builder.const(np.array(expr.value), expr.dtype)
        if isinstance(expr, tree.Local):
            found = scope.find(expr.name)
            if found is None:
                self._unknown(expr, scope)
            return found
        if isinstance(expr, tree.Meta):
            return self.builder.const(self.constants.array(expr))
        if isinstance(expr, tree.Function):
            return Closure(expr, scope, "fn")
        if isinstance(expr, tree.Global):
            if expr.name not in self.program.functions:
                self.source.refuse(
                    expr.at, f"unknown function @{expr.name}: {did_you_mean(expr.name, self.program.functions)}"
                )
            return Closure(self.program.functions[expr.name], Scope(), f"@{expr.name}")
        assert isinstance(expr, tree.Operator)
        self.source.refuse(expr.at, f"operator {expr.name!r} is not called: it is no value")

    def _unknown(self, expr: tree.Local, scope: Scope) -> NoReturn:
        names = scope.names()
        hint = did_you_mean(expr.name, names) if names else "nothing is defined here"
        self.source.refuse(expr.at, f"%{expr.name} is not defined: {hint if len(hint) < 300 else 'check its spelling'}")

    def _sequence(self, expr: tree.Sequence, scope: Scope) -> _Evaluation:
        inner = Scope(scope)
        for step in expr.steps:
            if step.value is None:
                continue
            value = yield step.value, inner
            if step.name is not None:
                # Numbered nodes are shared by a whole function, wherever the printer came across them first.
                home = inner
                while step.name.isdigit() and home.outer is not None and home.outer.outer is not None:
                    home = home.outer
                home.values[step.name] = value
                inner.values[step.name] = value
        return (yield expr.result, inner)

    def _call(self, expr: tree.Call, scope: Scope) -> _Evaluation:
        callee: Bound | None = None
        if not isinstance(expr.callee, tree.Operator):
            callee = yield expr.callee, scope
        args: list[Value] = []
        for arg in expr.args:
            args.append(self._value((yield arg, scope), arg.at))
        if isinstance(expr.callee, tree.Operator):
            return self._operator(expr, expr.callee.name, tuple(args))
        if not isinstance(callee, Closure):
            self.source.refuse(expr.at, "only operators and functions can be called")
        return (yield from self._call_closure(callee, tuple(args), expr.at))

    def _call_closure(self, closure: Closure, args: tuple[Value, ...], at: int) -> _Evaluation:
        params = closure.function.params
        if len(args) != len(params):
            self.source.refuse(
                at, f"{closure.name} is called with {len(args)} arguments, it has {len(params)} parameters"
            )
        if self._num_calls >= MAX_CALLS:
            self.source.refuse(at, f"{self._num_calls} calls wait for each other, at most {MAX_CALLS}: recursion")
        scope = Scope(closure.scope)
        for param, arg in zip(params, args, strict=True):
            self._check_type(param, arg, at)
            scope.values[param.name] = arg
        self._num_calls += 1
        value = yield closure.function.body, scope
        self._num_calls -= 1
        return value

    def _check_type(self, param: tree.Param, arg: Value, at: int) -> None:
        if not isinstance(param.type, tree.TensorType) or not isinstance(arg, Tensor):
            return
        shape, dtype = param.type.shape, param.type.dtype
        same_rank = len(shape) == arg.rank
        if (
            not same_rank
            or any(d not in (None, e) for d, e in zip(shape, arg.shape, strict=True))
            or dtype != arg.dtype
        ):
            declared = ", ".join("?" if extent is None else str(extent) for extent in shape)
            self.source.refuse(
                at,
                f"%{param.name} is declared {dtype} ({declared}), given {arg.dtype} ({', '.join(map(str, arg.shape))})",
            )

    def _operator(self, expr: tree.Call, name: str, args: tuple[Value, ...]) -> Value:
        try:
            return apply(self.builder, find(name), args, expr.attrs)
        except ModelError as error:
            text = str(error)
            self.source.refuse(expr.at, text if text.startswith("unknown operator") else f"{name}: {text}")
        except TVM_ERRORS as error:
            self.source.refuse(expr.at, f"{name}: {first_line(error)}")

    def _project(self, expr: tree.TupleItem, value: Bound) -> Bound:
        if not isinstance(value, tuple):
            self.source.refuse(expr.at, f"field .{expr.index} of something that is no tuple")
        if expr.index >= len(value):
            self.source.refuse(expr.at, f"field .{expr.index} of a tuple of {len(value)}")
        return value[expr.index]

    def _branch(self, expr: tree.If, scope: Scope) -> _Evaluation:
        """Both branches are computed and one is chosen: nothing in Relay has side effects."""
        condition = yield expr.condition, scope
        if not isinstance(condition, Tensor) or condition.dtype != "bool" or condition.shape != ():
            self.source.refuse(expr.at, "the condition of an if must be one truth value")
        if condition.array is not None:
            return (yield expr.then if condition.array else expr.otherwise, scope)
        then = self._value((yield expr.then, Scope(scope)), expr.at)
        otherwise = self._value((yield expr.otherwise, Scope(scope)), expr.at)
        return self._choose(expr, condition, then, otherwise)

    def _choose(self, expr: tree.If, condition: Tensor, then: Value, otherwise: Value, depth: int = 0) -> Value:
        if depth > MAX_TUPLE_DEPTH:
            self.source.refuse(expr.at, f"the branches of an if are tuples inside {MAX_TUPLE_DEPTH} tuples")
        if isinstance(then, tuple) and isinstance(otherwise, tuple) and len(then) == len(otherwise):
            pairs = zip(then, otherwise, strict=True)
            return tuple(self._choose(expr, condition, *pair, depth + 1) for pair in pairs)
        if not isinstance(then, Tensor) or not isinstance(otherwise, Tensor):
            self.source.refuse(expr.at, "the branches of an if must have one type")
        if (then.shape, then.dtype) != (otherwise.shape, otherwise.dtype):
            self.source.refuse(
                expr.at, f"the branches of an if differ: {then.dtype} {list(then.shape)}, "
                f"{otherwise.dtype} {list(otherwise.shape)}",
            )  # fmt: skip
        return where(self.builder, condition, then, otherwise)

    def _value(self, value: Bound | None, at: int) -> Value:
        if value is None or isinstance(value, Closure):
            self.source.refuse(at, "a function where a tensor is needed")
        return value
