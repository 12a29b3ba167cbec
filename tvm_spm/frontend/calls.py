"""Which Relax functions a network runs, and how often: ``main``, and those that it calls once or many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import tvm
from tvm import relax

ENTRY = "main"
"""The function that is tuned."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalledFunction:
    """A Relax function that runs with the network.

    Attributes:
        name: In the module.
        func: The function.
        times: How often it runs when the network runs once.
    """

    name: str
    func: relax.Function
    times: int


def called_functions(mod: tvm.IRModule) -> tuple[CalledFunction, ...]:
    """``main`` and all functions that it calls, callers first.

    What calls itself is left out, as the data decides how often it runs; so are functions of other compilers, and what
    is called in a branch only.
    """
    funcs = {str(var.name_hint): func for var, func in mod.functions_items() if _is_followed(func)}
    named = {name: functions_named(func) & set(funcs) for name, func in funcs.items()}
    endless = {name for name in funcs if name in _reached(named, named[name])}
    calls = {
        name: Counter(callee for callee, _ in function_calls(func) if callee in funcs and callee not in endless)
        for name, func in funcs.items()
    }
    order = _callers_first(calls)
    times = Counter({ENTRY: 1})
    for name in order:
        for callee, num_calls in calls[name].items():
            times[callee] += times[name] * num_calls
    return tuple(CalledFunction(name=name, func=funcs[name], times=times[name]) for name in order)


def function_calls(func: relax.Function) -> Iterator[tuple[str, relax.Binding]]:
    """Calls of other Relax functions outside of branches: names, and the bindings."""
    for block in func.body.blocks:
        for binding in block.bindings:
            name = callee_of(binding.value)
            if name is not None:
                yield name, binding


def callee_of(value: relax.Expr) -> str | None:
    """The Relax function that an expression calls."""
    is_call = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
    return str(value.op.name_hint) if is_call else None


def functions_named(func: relax.Function) -> set[str]:
    """All functions that a function names, in branches too."""
    found: set[str] = set()

    def visit(node: relax.Expr) -> None:
        if isinstance(node, tvm.ir.GlobalVar):
            found.add(str(node.name_hint))

    relax.analysis.post_order_visit(func.body, visit)
    return found


def _is_followed(func: object) -> bool:
    if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
        return False
    return not (func.attrs is not None and "Codegen" in func.attrs)


def _reached(named: Mapping[str, Iterable[str]], first: Iterable[str]) -> set[str]:
    found: set[str] = set()
    pending = list(first)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += named[name]
    return found


def _callers_first(calls: Mapping[str, Iterable[str]]) -> list[str]:
    """``main`` and what it reaches; no function reaches itself."""
    done: dict[str, None] = {}

    def visit(name: str) -> None:
        for callee in calls[name]:
            if callee not in done:
                visit(callee)
        done[name] = None

    if ENTRY in calls:
        visit(ENTRY)
    return list(done)[::-1]
