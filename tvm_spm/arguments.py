"""Checks of what a caller passes to the public functions: the same rules, and one sentence, as on the command line.

Each raises an ``SpmError`` that names the argument, its value, and what it must be or the nearest choice.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from collections.abc import Mapping as StringMapping
from typing import TypeGuard

from tvm_spm.errors import SpmError, did_you_mean
from tvm_spm.objective import Objective
from tvm_spm.units import shown

MOST = 2**31 - 1
"""Largest count, seed or number of seconds."""

MOST_BYTES = 2**50
"""Largest amount of memory."""

MOST_PJ = 1e30
"""Largest cap of an energy."""

_NAME = re.compile(r"[A-Za-z0-9_-]+")


def check_choice(what: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices."""
    if not isinstance(value, str):
        raise SpmError(f"{what} = {_shown(value)}: must be text; {did_you_mean('', choices)}")
    if value not in choices:
        raise SpmError(f"unknown {what} {shown(value)}: {did_you_mean(value, choices)}")


def objective_of(value: object) -> Objective:
    """What a text, or the objective itself, says to minimise."""
    check_choice("objective", value, tuple(each.value for each in Objective))
    return Objective(value)


def check_count(what: str, value: object, *, at_least: int) -> None:
    """Refuse what is no whole number of at least so many."""
    if not _is_whole(value):
        raise SpmError(f"{what} = {_shown(value)}: must be a whole number >= {at_least}")
    if value < at_least:
        raise SpmError(f"{what} = {_shown(value)}: must be >= {at_least}")
    if value > MOST:
        raise SpmError(f"{what} = {_shown(value)}: must be <= {MOST:,}")


def check_bytes(what: str, value: object) -> None:
    """Refuse what is no amount of memory."""
    if not (_is_whole(value) and 1 <= value <= MOST_BYTES):
        raise SpmError(f"{what} = {_shown(value)}: must be a whole number >= 1 and <= {MOST_BYTES:,} of bytes")


def check_seconds(what: str, value: object) -> None:
    """Refuse what is no time; None is no limit, and 0 does the least that gives a result."""
    if value is not None and not (_is_number(value) and 0 <= value <= MOST):
        raise SpmError(
            f"{what} = {_shown(value)}: must be a number of seconds >= 0 and <= {MOST:,}; leave it out for no limit"
        )


def check_energy(what: str, value: object) -> None:
    """Refuse what is no energy; None is no cap."""
    if value is not None and not (_is_number(value) and 0 < value <= MOST_PJ):
        raise SpmError(
            f"{what} = {_shown(value)}: must be a number of pJ > 0 and <= {MOST_PJ:g}; leave it out for no cap"
        )


def check_flag(what: str, value: object) -> None:
    """Refuse what is neither True nor False: any text would count as True."""
    if not isinstance(value, bool):
        raise SpmError(f"{what} = {_shown(value)}: must be True or False")


def check_path(what: str, value: object) -> None:
    """Refuse what is no path; None is none."""
    if value is not None and (not isinstance(value, (str, os.PathLike)) or not os.fspath(value)):
        raise SpmError(f"{what} = {_shown(value)}: must be the path of a directory, or None")


def check_type(what: str, value: object, types: type | tuple[type, ...], must_be: str) -> None:
    """Refuse what has none of the types; ``must_be`` says the same in words."""
    if not isinstance(value, types):
        raise SpmError(f"{what} = {_shown(value)}: must be {must_be}")


def check_executor(value: object) -> None:
    """Refuse what takes no work; None is this process."""
    if value is not None and not _has_method(value, "submit"):
        raise SpmError(
            f"executor = {_shown(value)}: has no method 'submit'; pass a concurrent.futures.Executor, "
            "such as ProcessPoolExecutor(), or None"
        )


def check_measurer(value: object) -> None:
    """Refuse what cannot measure; None is the simulator."""
    if value is None:
        return
    if not _has_method(value, "measure"):
        raise SpmError(f"measurer = {_shown(value)}: has no method 'measure'; see tvm_spm.tuning.measurer.Measurer")
    if not callable(getattr(value, "measure_groups", lambda: None)):
        raise SpmError(f"measurer.measure_groups = {_shown(getattr(value, 'measure_groups', None))}: must be a method")
    name = getattr(value, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpmError(f"measurer.name = {_shown(name)}: must be one or more of letters, digits, '-' and '_'")


def check_shapes(value: object) -> None:
    """Refuse what gives no shapes of inputs; None gives none."""
    if value is None:
        return
    if not isinstance(value, StringMapping):
        raise SpmError(
            f"shapes = {_shown(value)}: must map names of inputs to shapes, such as {{'x': (1, 3, 224, 224)}}"
        )
    for name, shape in value.items():
        if not isinstance(name, str):
            raise SpmError(f"shapes: {_shown(name)} is no name of an input")
        is_shape = isinstance(shape, Sequence) and not isinstance(shape, (str, bytes))
        if not is_shape or not all(_is_whole(dim) and dim >= 1 for dim in shape):
            raise SpmError(
                f"shapes[{shown(name)}] = {_shown(shape)}: must be whole numbers >= 1, such as (1, 3, 224, 224)"
            )


def check_values(value: object) -> None:
    """Refuse what gives no numbers of inputs; None gives none."""
    if value is None:
        return
    if not isinstance(value, StringMapping) or not all(isinstance(name, str) for name in value):
        raise SpmError(f"values = {_shown(value)}: must map names of inputs to numbers, such as {{'rate': 16000}}")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _has_method(value: object, name: str) -> bool:
    method: Callable[..., object] | None = getattr(value, name, None)
    return callable(method) and not isinstance(value, type)


def _shown(value: object) -> str:
    """A value in a message: short, and with its type where that is what is wrong."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return shown(value)
    return f"{shown(value)} ({type(value).__name__})"
