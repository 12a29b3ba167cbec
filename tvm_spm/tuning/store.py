"""Measurements of machines, kept for all networks: what was measured once is neither measured again nor forgotten.

One SQLite file holds all machines and measurers. A row is the answer to one mapping of one workload; whoever tunes
another network for the same machine starts from the numbers and the residual that all rows teach.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter

from tvm_spm.arch import Arch
from tvm_spm.errors import SpmError, WorkdirError
from tvm_spm.space import legality
from tvm_spm.trial import GroupTrial, Trial, group_trial_from_json, group_trial_to_json, trial_from_json, trial_to_json
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.workload import Workload

STORE_VERSION = 1
"""Of the tables; a file of another version is left alone and named."""

NO_STORE = "none"
"""Stands for no store where a path may be given."""

WAIT_S = 30.0
"""How long another process may hold the file."""

_TABLES = (
    "create table workloads (key text primary key, workload text not null)",
    "create table answers (arch text not null, measurer text not null, key text not null, mapping text not null, "
    "origin text not null, trial text not null, primary key (arch, measurer, key, mapping))",
)

_GROUPS = (
    "create table if not exists group_answers (arch text not null, measurer text not null, key text not null, "
    "mapping text not null, trial text not null, primary key (arch, measurer, key, mapping))"
)
"""Of layers that run as one; made where it is missing, since programs from before there were any do not look."""


class StoreError(WorkdirError):
    """A store cannot be used; the text names its file."""


class Store:
    """What is kept of one machine and one measurer.

    Args:
        path: Of the file; made if there is none.
        arch: The machine as declared.
        measurer: Identity of who measures.
        origin: Of this run. What an earlier part of the same run kept is not taken for experience, so that a run that
            is started again takes the same path.

    Raises:
        StoreError: The file cannot be written, is none of these, or of another version.
    """

    def __init__(self, path: Path, arch: Arch, measurer: str, origin: str) -> None:
        self.path, self._arch, self._measurer, self._origin = path, arch, measurer, origin
        self._machine = arch.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{path}: cannot make its directory: {error.strerror}; give another --store") from error
        with self._open() as tables:
            # Two runs may find that there is no file: one of them makes the tables, the other waits and sees them.
            tables.execute("begin immediate")
            (version,) = tables.execute("pragma user_version").fetchone()
            if version == 0 and not tables.execute("select 1 from sqlite_master").fetchone():
                for table in _TABLES:
                    tables.execute(table)
                tables.execute(f"pragma user_version = {STORE_VERSION}")
            elif version != STORE_VERSION:
                raise StoreError(
                    f"{path}: version {version} of the store, this program reads {STORE_VERSION}; give another --store "
                    f"or --store {NO_STORE}"
                )
            tables.execute(_GROUPS)

    def answers(self, workload: Workload) -> list[Trial]:
        """What is known of one workload, by anybody."""
        rows = self._rows("select trial from answers where arch = ? and measurer = ? and key = ?", key_of(workload))
        found = [self._trial(text) for (text,) in rows]
        return [trial for trial in found if legality.check(workload, self._arch, trial.mapping) is None]

    def experience(self) -> dict[Workload, list[Trial]]:
        """What other runs measured, by workload, in an order that does not change."""
        rows = self._rows(
            "select workload, trial from answers join workloads using (key) where arch = ? and measurer = ? and "
            "origin <> ? order by key, mapping", self._origin,
        )  # fmt: skip
        found: dict[Workload, list[Trial]] = {}
        for text, trial in rows:
            found.setdefault(self._workload(text), []).append(self._trial(trial))
        return found

    def keep(self, workload: Workload, trials: Sequence[Trial]) -> None:
        """Keep answers with a cost; of several to one mapping the first stays.

        Raises:
            StoreError: The file cannot be written.
        """
        key = key_of(workload)
        with self._open() as tables:
            tables.execute(
                "insert or ignore into workloads values (?, ?)", (key, json.dumps(asdict(workload))),
            )  # fmt: skip
            tables.executemany(
                "insert or ignore into answers values (?, ?, ?, ?, ?, ?)",
                [
                    (self._machine, self._measurer, key, trial.mapping.line(), self._origin,
                     json.dumps(trial_to_json(trial)))
                    for trial in trials if trial.cost is not None
                ],
            )  # fmt: skip

    def group_answers(self, key: str) -> list[GroupTrial]:
        """What is known of one group, by anybody."""
        rows = self._rows("select trial from group_answers where arch = ? and measurer = ? and key = ?", key)
        found = []
        for (text,) in rows:
            try:
                found.append(group_trial_from_json(json.loads(text)))
            except (ValueError, TypeError, AttributeError) as error:
                raise self._damaged(text) from error
        return found

    def keep_groups(self, trials: Sequence[GroupTrial]) -> None:
        """Keep answers with a cost; of several to one mapping the first stays.

        Raises:
            StoreError: The file cannot be written.
        """
        rows = [
            (self._machine, self._measurer, trial.group, trial.mapping, json.dumps(group_trial_to_json(trial)))
            for trial in trials if trial.cost is not None
        ]  # fmt: skip
        with self._open() as tables:
            tables.executemany("insert or ignore into group_answers values (?, ?, ?, ?, ?)", rows)

    def _trial(self, text: str) -> Trial:
        try:
            return trial_from_json(json.loads(text))
        except (ValueError, KeyError, TypeError, AttributeError, SpmError) as error:
            raise self._damaged(text) from error

    def _workload(self, text: str) -> Workload:
        try:
            return _workloads().validate_json(text)
        except (ValueError, SpmError) as error:
            raise self._damaged(text) from error

    def _damaged(self, text: str) -> StoreError:
        return StoreError(f"{self.path}: damaged: {text!r:.60}; give another --store, or {NO_STORE}")

    def _rows(self, query: str, *last: str) -> list[tuple[str, ...]]:
        with self._open() as tables:
            return tables.execute(query, (self._machine, self._measurer, *last)).fetchall()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=WAIT_S)) as tables, tables:
                yield tables
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: cannot use the store: {error}; give another --store, or {NO_STORE}"
            ) from error


def default_store() -> Path:
    """What the environment says, or ``tvm_spm/measured.sqlite`` in the user's cache."""
    given = os.environ.get("TVM_SPM_STORE")
    return (
        Path(given)
        if given
        else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "tvm_spm" / "measured.sqlite"
    )


@cache
def _workloads() -> TypeAdapter[Workload]:
    return TypeAdapter(Workload)


def store_of(given: str | Path | None, arch: Arch, measurer: str, origin: str) -> Store | None:
    """The store that a path stands for: the default for None, and none for ``none``.

    Raises:
        StoreError: It cannot be used.
    """
    path = default_store() if given is None else Path(given)
    return None if str(path) == NO_STORE else Store(path, arch, measurer, origin)
