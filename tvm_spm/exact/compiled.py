"""Compiling functions that only compiled code calls.

Most of a first run goes into these, so they are compiled once each, whatever constants they are called with,
and without the wrappers that Python needs to call them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit, types

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """For functions that allocate; callable from compiled code only."""
    return _compiled(function, allocates=True)


def compiled_lean(function: Function) -> Function:
    """For functions that allocate nothing, so that no references are counted; callable from compiled code only."""
    return _compiled(function, allocates=False)


def compiled_inside(function: Function) -> Function:
    """For large functions with one caller: they become part of it, or else each would be optimised alone and again."""
    return _compiled(function, allocates=True, inline="always")


def _compiled(function: Function, *, allocates: bool, inline: str = "never") -> Function:
    dispatcher: Any = njit(
        error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, _nrt=allocates, inline=inline
    )(function)  # fmt: skip
    template_of = dispatcher.get_call_template

    def template_of_any(args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> object:
        # a constant is a number like any other
        return template_of(
            tuple(types.unliteral(arg) for arg in args), {name: types.unliteral(arg) for name, arg in kws.items()}
        )

    dispatcher.get_call_template = template_of_any
    return cast(Function, dispatcher)
