"""The append-only log of a work directory: JSON lines, each with a checksum.

Format 2 holds lines of four kinds: the ``log`` line first (format and accelerator), a ``run`` line per different run
(model, objective, seed, measurer and its tasks), ``trial`` lines, and a ``search`` line where the search of a task
ended by itself. Lines of format 1, which had no checksums, are read wherever they stand; what is added is format 2.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError, SpmError, WorkdirError
from tvm_spm.trial import Trial, text, trial_from_json, trial_from_json_1, trial_to_json, whole
from tvm_spm.workload import Workload

FORMAT_VERSION = 2
"""Of the log file; readers keep loading every earlier one."""

_Kind = TypeVar("_Kind")
_CHECKSUM = re.compile(rb'\{"crc":"([0-9a-f]{8})",')


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHeader:
    """What a log belongs to; the whole accelerator, unless format 1 wrote it."""

    arch_name: str
    arch_sha256: str
    arch: Arch | None = None

    @classmethod
    def of(cls, arch: Arch) -> LogHeader:
        """The header for one accelerator."""
        return cls(arch_name=arch.name, arch_sha256=arch.sha256(), arch=arch)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart:
    """A run: a network and how it is tuned.

    Attributes:
        model: Its name.
        model_sha256: Of its tasks.
        objective: What is minimised.
        seed: Of everything random.
        measurer: Who measures, with version or settings.
        tasks: Per task that can be mapped: its name, its key, and what it computes.
    """

    model: str
    model_sha256: str
    objective: str
    seed: int
    measurer: str
    tasks: tuple[tuple[str, str, Workload], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchEnd:
    """The search of one task came to its end, so that nobody needs to repeat it.

    Attributes:
        task: Key of the task.
        objective: What was minimised.
        seed: Of the run.
        measurer: Who measured.
        settings: Everything else that decides which mappings are tried.
        num_trials: Mappings tried.
        rejected: Mappings refused, by reason.
        failures: Why measurements failed, in order.
    """

    task: str
    objective: str
    seed: int
    measurer: str
    settings: str
    num_trials: int
    rejected: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """What a log file holds.

    Attributes:
        header: Of the file; None if it is missing or empty.
        runs: Different runs, in order.
        trials: All readable trials, in order.
        searches: Searches that ended, in order.
        damaged: Lines that cannot be read, by number, with the reason.
        num_bytes: Length without an incomplete last line.
        num_lost_bytes: Length of an incomplete last line, left by a run that was killed while it wrote.
        ends_line: Whether the readable part ends with a line end.
    """

    header: LogHeader | None = None
    runs: tuple[RunStart, ...] = ()
    trials: tuple[Trial, ...] = ()
    searches: tuple[SearchEnd, ...] = ()
    damaged: tuple[tuple[int, str], ...] = ()
    num_bytes: int = 0
    num_lost_bytes: int = 0
    ends_line: bool = True


class TrialLog:
    """A log that is added to; every ``append`` is on the disk when it returns."""

    def __init__(self, path: Path, header: LogHeader) -> None:
        """Open a log and read what is there; the file is created, or repaired, by the first ``append``.

        Args:
            path: The file.
            header: What the run is about.

        Raises:
            WorkdirError: The file cannot be read, is no log, is of a later format, or belongs to another accelerator.
        """
        self.path, self._header = path, header
        self._content = read_log(path, header)
        self._ready = False

    @property
    def content(self) -> LogContent:
        """What was in the file when it was opened."""
        return self._content

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence about an incomplete last line, and one about damaged lines."""
        return log_warnings(self.path, self._content)

    def append(self, *lines: Trial | RunStart | SearchEnd) -> None:
        """Add lines; all of them with one write.

        Raises:
            WorkdirError: The file cannot be written.
        """
        if not lines:
            return
        if not self._ready:
            self._prepare()
            self._ready = True
        durable.append(self.path, b"".join(_line(_to_json(line)) for line in lines))

    def _prepare(self) -> None:
        """Cut off an incomplete line, end the last complete one, and put a missing file in place."""
        if self._content.num_bytes == 0:
            durable.make_directory(self.path.parent)
            durable.write_file(self.path, _line(_header_to_json(self._header)))
            return
        if self._content.num_lost_bytes:
            durable.cut(self.path, self._content.num_bytes)
        if not self._content.ends_line:
            durable.append(self.path, b"\n")


def log_warnings(path: Path, content: LogContent) -> tuple[str, ...]:
    """What a user should know about a log: a sentence about an incomplete last line, and one about damaged lines."""
    found = []
    if content.num_lost_bytes:
        found.append(
            f"{path}: the last line is incomplete ({content.num_lost_bytes:,} B, an earlier run was stopped while it "
            f"wrote); it is cut off, the {len(content.trials):,} trials before it are kept"
        )
    if content.damaged:
        number, reason = content.damaged[0]
        count = len(content.damaged)
        lines = (
            f"line {number} is damaged" if count == 1 else f"{count:,} lines are damaged, the first is line {number}"
        )
        found.append(f"{path}: {lines} ({reason}); it is left as it stands, and what it held is measured again")
    return tuple(found)


def read_log(path: Path, header: LogHeader | None = None) -> LogContent:
    """Everything readable in a log; a missing file holds nothing.

    Args:
        path: The file.
        header: What it must belong to; anything if None.

    Raises:
        WorkdirError: The file cannot be read, is no log, is of a later format, or belongs to another accelerator.
    """
    data = durable.read_file(path)
    if not data:
        return LogContent()
    lines = data.split(b"\n")
    if len(lines) == 1 and _may_begin_a_log(lines[0]):
        # The file is put in place with its header complete, but format 1 could be killed while it wrote it.
        return LogContent(num_lost_bytes=len(data))
    version, found = _read_header(path, lines[0])
    if header is not None:
        _check_arch(path, found, header)
    runs: list[RunStart] = []
    trials: list[Trial] = []
    searches: list[SearchEnd] = []
    damaged: list[tuple[int, str]] = []
    num_lost_bytes = 0
    for number, line in enumerate(lines[1:], start=2):
        is_last = number == len(lines)
        if is_last and not line:
            continue
        try:
            read = _read_line(line, version)
        except _LaterFormatError as error:
            raise WorkdirError(f"{path}: line {number}: {error}") from error
        except (ValueError, RecursionError, SpmError) as error:
            if is_last:
                num_lost_bytes = len(line)
            else:
                damaged.append((number, _reason(error)))
            continue
        if isinstance(read, Trial):
            trials.append(read)
        elif isinstance(read, RunStart):
            runs.append(read)
        else:
            searches.append(read)
    return LogContent(
        header=found, runs=tuple(runs), trials=tuple(trials), searches=tuple(searches), damaged=tuple(damaged),
        num_bytes=len(data) - num_lost_bytes, num_lost_bytes=num_lost_bytes,
        ends_line=not lines[-1] or num_lost_bytes > 0,
    )  # fmt: skip


class _LaterFormatError(Exception):
    """A line that only a later version can read."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"format {version}, this version reads up to format {FORMAT_VERSION}; use the version that wrote it, or "
            "choose another --workdir"
        )


def _line(content: dict[str, Any]) -> bytes:
    """Plain data as one line, its checksum first."""
    body = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    return b'{"crc":"%08x",%s\n' % (zlib.crc32(body), body[1:])


def _object(line: bytes) -> tuple[dict[str, Any], bool]:
    """A line as plain data, and whether it carries a checksum.

    Raises:
        ValueError: It is no object, or its checksum is wrong.
    """
    found = _CHECKSUM.match(line)
    if found is not None:
        body = b"{" + line[found.end() :]
        if zlib.crc32(body) != int(found[1], 16):
            raise ValueError("its checksum is wrong")
        line = body
    content = json.loads(line, parse_constant=_refuse_constant)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    return content, found is not None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _may_begin_a_log(line: bytes) -> bool:
    return any(line.startswith(start[: len(line)]) for start in (b'{"crc":"', b'{"format":1,'))


def _read_header(path: Path, line: bytes) -> tuple[int, LogHeader]:
    try:
        content, is_checked = _object(line)
        version = whole(content, "format")
        if version > FORMAT_VERSION:
            raise _LaterFormatError(version)
        if is_checked != (version > 1):
            raise ValueError("it has no checksum")
        found = LogHeader(arch_name=text(content, "arch_name"), arch_sha256=text(content, "arch_sha256"),
                          arch=_arch_from_json(content.get("arch")))  # fmt: skip
    except _LaterFormatError as error:
        raise WorkdirError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path}: line 1: not a trial log: {_reason(error)}; choose another --workdir") from error
    return version, found


@cache
def _adapter(kind: type[_Kind]) -> TypeAdapter[_Kind]:
    """Slow to make, so made once."""
    return TypeAdapter(kind)


def _arch_from_json(found: object) -> Arch | None:
    """None for what this version cannot use; the hash in the header is what decides about the log."""
    try:
        return None if found is None else _adapter(Arch).validate_python(found)
    except (ValueError, SpmError):
        return None


def _read_line(line: bytes, file_version: int) -> Trial | RunStart | SearchEnd:
    """One line after the first.

    Raises:
        ValueError: It is damaged.
        MappingError: The text of a mapping is damaged.
        _LaterFormatError: It is of a later format.
    """
    content, is_checked = _object(line)
    if "format" in content and whole(content, "format") > FORMAT_VERSION:
        raise _LaterFormatError(content["format"])
    if not is_checked:
        if file_version > 1:
            raise ValueError("it has no checksum")
        return trial_from_json_1(content)
    kind = text(content, "kind")
    if kind == "trial":
        return trial_from_json(content)
    if kind == "run":
        return _run_from_json(content)
    if kind == "search":
        return _search_from_json(content)
    raise ValueError(f"unknown kind {kind!r}")


def _to_json(line: Trial | RunStart | SearchEnd) -> dict[str, Any]:
    if isinstance(line, Trial):
        return {"kind": "trial", **trial_to_json(line)}
    if isinstance(line, SearchEnd):
        return {"kind": "search", **asdict(line), "rejected": dict(line.rejected)}
    tasks = [{"name": name, "key": key, "workload": asdict(workload)} for name, key, workload in line.tasks]
    return {"kind": "run", "model": line.model, "model_sha256": line.model_sha256, "objective": line.objective,
            "seed": line.seed, "measurer": line.measurer, "tasks": tasks}  # fmt: skip


def _header_to_json(header: LogHeader) -> dict[str, Any]:
    arch = None if header.arch is None else asdict(header.arch)
    return {"kind": "log", "format": FORMAT_VERSION, "arch_name": header.arch_name, "arch_sha256": header.arch_sha256,
            "arch": arch}  # fmt: skip


def _run_from_json(content: dict[str, Any]) -> RunStart:
    adapter, tasks = _adapter(Workload), content.get("tasks")
    if not isinstance(tasks, list) or not all(isinstance(each, dict) for each in tasks):
        raise ValueError("field 'tasks': must be a list of objects")
    return RunStart(
        model=text(content, "model"), model_sha256=text(content, "model_sha256"), objective=text(content, "objective"),
        seed=whole(content, "seed"), measurer=text(content, "measurer"),
        tasks=tuple(
            (text(each, "name"), text(each, "key"), adapter.validate_python(each.get("workload")))
            for each in tasks
        ),
    )  # fmt: skip


def _search_from_json(content: dict[str, Any]) -> SearchEnd:
    rejected, failures = content.get("rejected"), content.get("failures")
    if not isinstance(rejected, dict):
        raise ValueError("field 'rejected': must be an object")
    if not isinstance(failures, list) or not all(isinstance(each, str) for each in failures):
        raise ValueError("field 'failures': must be a list of texts")
    return SearchEnd(
        task=text(content, "task"), objective=text(content, "objective"), seed=whole(content, "seed"),
        measurer=text(content, "measurer"), settings=text(content, "settings"),
        num_trials=whole(content, "num_trials"),
        rejected=tuple((reason, whole(rejected, reason)) for reason in rejected), failures=tuple(failures),
    )  # fmt: skip


def _check_arch(path: Path, found: LogHeader, expected: LogHeader) -> None:
    if found.arch_sha256 != expected.arch_sha256:
        raise WorkdirError(
            f"{path}: trials of accelerator {found.arch_name} ({found.arch_sha256[:12]}), this run is for "
            f"{expected.arch_name} ({expected.arch_sha256[:12]}); choose another --workdir, or delete this file to "
            "start over"
        )


def _reason(error: Exception) -> str:
    """On one line: some errors bring their own explanation over many."""
    if isinstance(error, KeyError):
        return f"field {error} is missing"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MappingError):
        return str(error)
    return str(error).splitlines()[0]
