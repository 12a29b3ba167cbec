"""Rows of a long benchmark: each made in a process of its own, kept in a file as soon as it is there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ParamSpec

import pandas as pd

Options = ParamSpec("Options")
Row = dict[str, object]


def read_rows(path: Path | None) -> pd.DataFrame:
    """Those that a file holds, if there is one."""
    return pd.read_csv(path) if path is not None and path.exists() else pd.DataFrame()


def with_rows(
    path: Path | None, rows: pd.DataFrame, new: Sequence[Mapping[str, object]], key: list[str]
) -> pd.DataFrame:
    """The rows with new ones, which take the place of all older ones of their kinds; written at once.

    Args:
        path: Where they are kept; nowhere if None.
        rows: The older ones.
        new: In order.
        key: Columns that tell kinds apart.
    """
    made = pd.DataFrame(list(new))
    if len(rows) and len(made):
        is_old = pd.MultiIndex.from_frame(rows[key]).isin(pd.MultiIndex.from_frame(made[key]))
        made = pd.concat([rows[~is_old], made], ignore_index=True)
    elif len(rows):
        made = rows
    if path is not None:
        made.to_csv(path, index=False)
    return made


def made_apart(make: Callable[Options, Row], *options: Options.args, **more: Options.kwargs) -> Row:
    """What a function returns in a new process, which ends with this one, whatever ends this one but SIGKILL."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, make, options, more))
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        child.start()
        sender.close()
        row: Row = receiver.recv()
    except EOFError:
        child.join()
        raise SystemExit(f"the process that made a row ended with exit code {child.exitcode}") from None
    finally:
        if child.pid is not None and child.is_alive():
            child.join(1)
        if child.pid is not None and child.is_alive():
            os.killpg(child.pid, signal.SIGTERM)
            child.join()
        signal.signal(signal.SIGTERM, before)
    return row


def _send(sender: Connection, make: Callable[..., Row], options: tuple[object, ...], more: dict[str, object]) -> None:
    """In the child: a group of processes of its own, so that those it starts end with it."""
    os.setsid()
    sender.send(make(*options, **more))
