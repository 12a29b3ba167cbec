"""One mapping tried, and the append-only log of all of them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_spm.arch import Arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import MappingError, WorkdirError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection

FORMAT_VERSION = 1
"""Of the log file; readers keep loading every earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One mapping of one task: what was predicted, and what was measured or why it was refused.

    Attributes:
        index: Position in the run, from 0.
        task: Key of the task.
        mapping: What was tried.
        source: Model that measured it, for example ``simulator``.
        predicted: Objective values before the measurement, as (model, value), smaller is better.
        cost: The measurement; ``None`` if the mapping was refused.
        rejection: Why the mapping was refused; ``None`` if it was measured.
        wall_s: Seconds the measurement took.
    """

    index: int
    task: str
    mapping: Mapping
    source: str
    predicted: tuple[tuple[str, float], ...] = ()
    cost: Cost | None = None
    rejection: Rejection | None = None
    wall_s: float = 0.0

    def __post_init__(self) -> None:
        if (self.cost is None) == (self.rejection is None):
            raise ValueError("a trial has either a cost or a rejection")

    def __str__(self) -> str:
        return f"trial {self.index} of {self.task}: {self.cost if self.rejection is None else self.rejection}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHeader:
    """What a log belongs to."""

    arch_name: str
    arch_sha256: str
    model_name: str
    model_sha256: str

    @classmethod
    def of(cls, arch: Arch, *, model_name: str, model_sha256: str) -> LogHeader:
        """The header for one model on one arch."""
        return cls(
            arch_name=arch.name, arch_sha256=arch.sha256(), model_name=model_name, model_sha256=model_sha256
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """What a log file holds.

    Attributes:
        trials: All complete trials, in the order of the file.
        num_bytes: Length of the readable part.
        num_lost_bytes: Length of an incomplete last line, left by a run that was killed while it wrote.
    """

    trials: tuple[Trial, ...] = ()
    num_bytes: int = 0
    num_lost_bytes: int = 0


class TrialLog:
    """A JSON-lines file: a header line, then one line per trial, handed to the operating system one by one."""

    def __init__(self, path: Path, header: LogHeader) -> None:
        """Open a log and read what is there; the file is created, or repaired, by the first ``append``.

        Args:
            path: The file.
            header: What the run is about.

        Raises:
            WorkdirError: The file cannot be read, is damaged, or belongs to another model or arch.
        """
        self.path, self._header = path, header
        self._content = read_log(path, header)
        self._ready = False

    @property
    def content(self) -> LogContent:
        """What was in the file when it was opened."""
        return self._content

    @property
    def warning(self) -> str:
        """A sentence about an incomplete last line, or an empty text."""
        lost = self._content.num_lost_bytes
        if not lost:
            return ""
        return (
            f"{self.path}: the last line is incomplete ({lost:,} B, an earlier run was stopped while it wrote); "
            f"it is cut off, the {len(self._content.trials):,} trials before it are kept"
        )

    def append(self, trial: Trial) -> None:
        """Add one trial.

        Raises:
            WorkdirError: The file cannot be written.
        """
        try:
            if not self._ready:
                self._prepare()
                self._ready = True
            with self.path.open("ab") as file:
                file.write(_line(trial_to_json(trial)))
        except OSError as error:
            raise WorkdirError(f"{self.path}: cannot write: {error.strerror}; choose a writable --workdir") from error

    def _prepare(self) -> None:
        """Cut off an incomplete line, end the last complete one, and write a missing header."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            if self._content.num_lost_bytes:
                os.truncate(self.path, self._content.num_bytes)
            if self._content.num_bytes == 0:
                file.write(_line({"format": FORMAT_VERSION, **asdict(self._header)}))
            elif not self.path.read_bytes().endswith(b"\n"):
                file.write(b"\n")


def read_log(path: Path, header: LogHeader | None = None) -> LogContent:
    """All trials of a log; a missing file holds none.

    Args:
        path: The file.
        header: What it must belong to; anything if None.

    Raises:
        WorkdirError: The file cannot be read, a line other than an incomplete last one is damaged, or the log belongs
            to another model or arch.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return LogContent()
    except OSError as error:
        raise WorkdirError(f"{path}: cannot read: {error.strerror}") from error
    trials: list[Trial] = []
    num_bytes = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("not an object")
            if number == 1:
                _check_header(path, fields, header)
            else:
                trials.append(trial_from_json(fields))
        except (ValueError, KeyError, TypeError, AttributeError, MappingError, WorkloadError) as error:
            if not line.endswith(b"\n"):
                break
            keep = "" if number == 1 else "delete this line to keep the other trials, or "
            what = "not a trial log" if number == 1 else "damaged"
            raise WorkdirError(
                f"{path}: line {number}: {what}: {_reason(error)}; {keep}choose another --workdir"
            ) from error
        num_bytes += len(line)
    return LogContent(trials=tuple(trials), num_bytes=num_bytes, num_lost_bytes=len(data) - num_bytes)


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """A trial as plain data; the mapping on one line of text."""
    return {
        "index": trial.index,
        "task": trial.task,
        "source": trial.source,
        "mapping": trial.mapping.line(),
        "predicted": dict(trial.predicted),
        "cost": None if trial.cost is None else asdict(trial.cost),
        "rejection": None if trial.rejection is None else asdict(trial.rejection),
        "wall_s": trial.wall_s,
    }


def trial_from_json(fields: dict[str, Any]) -> Trial:
    """What ``trial_to_json`` was given.

    Raises:
        KeyError: A field is missing.
        TypeError: A field has another shape.
        MappingError: The mapping's text is damaged.
    """
    cost, rejection = fields["cost"], fields["rejection"]
    return Trial(
        index=fields["index"], task=fields["task"], source=fields["source"], wall_s=fields["wall_s"],
        mapping=Mapping.parse(fields["mapping"]),
        predicted=tuple((name, float(value)) for name, value in fields["predicted"].items()),
        cost=None if cost is None else cost_from_json(cost),
        rejection=None if rejection is None
        else Rejection(**{**rejection, "terms": tuple((name, value) for name, value in rejection["terms"])}),
    )  # fmt: skip


def cost_from_json(fields: dict[str, Any]) -> Cost:
    """A cost from ``dataclasses.asdict`` of one.

    Raises:
        KeyError: A field is missing.
        TypeError: A field has another shape.
    """
    energy, (read_i, read_w, moved_o, extras) = Energy(**fields["energy"]), fields["dram_bytes"]
    return Cost(**{**fields, "energy": energy, "dram_bytes": (read_i, read_w, moved_o, extras)})


def _line(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"field {error} is missing"
    return str(error)


def _check_header(path: Path, found: dict[str, Any], expected: LogHeader | None) -> None:
    version = found["format"]
    if version != FORMAT_VERSION:
        raise WorkdirError(
            f"{path}: format {version}, this version reads format {FORMAT_VERSION}; use the version that wrote it, "
            "or choose another --workdir"
        )
    other = LogHeader(**{name: value for name, value in found.items() if name != "format"})
    if expected is None:
        return
    for what, name, digest, expected_name, expected_digest in (
        ("accelerator", other.arch_name, other.arch_sha256, expected.arch_name, expected.arch_sha256),
        ("model", other.model_name, other.model_sha256, expected.model_name, expected.model_sha256),
    ):
        if digest != expected_digest:
            raise WorkdirError(
                f"{path}: trials of {what} {name} ({digest[:12]}), this run is for {expected_name} "
                f"({expected_digest[:12]}); choose another --workdir, or delete this file to start over"
            )
