"""Calls as bytes, so that closures and classes of a script get to other processes, or are refused by name."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cloudpickle

from tvm_spm.workers.errors import WorkersError

_REFUSED = (pickle.PicklingError, TypeError, AttributeError, RecursionError, ValueError)
"""What objects raise that cannot be pickled."""


class Timed(NamedTuple):
    """What a call gave back.

    Attributes:
        seconds: Of the call alone, without its time in a queue.
        value: Of the call.
    """

    seconds: float
    value: object


def pack(function: Callable[..., object], arguments: tuple[object, ...]) -> bytes:
    """A call as bytes.

    Raises:
        WorkersError: An argument cannot leave this process; names it.
    """
    try:
        return bytes(cloudpickle.dumps((function, arguments)))
    except _REFUSED as error:
        culprit = next((each for each in _flat((function, arguments)) if _why_not(each)), arguments)
        name = getattr(culprit, "name", None)
        shown = f"{type(culprit).__qualname__} {name!r}" if isinstance(name, str) else type(culprit).__qualname__
        raise WorkersError(
            f"{shown}: cannot be sent to another process: {_why_not(culprit) or error}; make such objects where they "
            "are used, or take an executor of threads"
        ) from error


def unpack(content: bytes) -> tuple[Callable[..., object], tuple[object, ...]]:
    """A call, in another process.

    Raises:
        WorkersError: What is called is not installed there.
    """
    try:
        function, arguments = pickle.loads(content)
    except ImportError as error:
        raise WorkersError(f"a worker cannot load its job: {error}; install there what is installed here") from error
    return function, arguments


def call(function: Callable[..., object], arguments: tuple[object, ...]) -> Timed:
    """Make a call."""
    start = time.monotonic()
    value = function(*arguments)
    return Timed(time.monotonic() - start, value)


def call_packed(content: bytes) -> bytes:
    """Make a packed call; its ``Timed`` comes packed, too."""
    return bytes(cloudpickle.dumps(call(*unpack(content))))


def timed(answer: Timed | bytes) -> Timed:
    """What ``call`` or ``call_packed`` gave."""
    found = cloudpickle.loads(answer) if isinstance(answer, bytes) else answer
    assert isinstance(found, Timed)
    return found


def _why_not(value: object) -> str:
    try:
        cloudpickle.dumps(value)
    except _REFUSED as error:
        return str(error) or type(error).__name__
    return ""


def _flat(value: object) -> Iterator[object]:
    if type(value) is tuple:
        for each in value:
            yield from _flat(each)
    else:
        yield value
