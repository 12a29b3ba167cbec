"""One line of the log of trials, as a value and as text."""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError, SpmError, WorkdirError
from tvm_spm.trial import (
    GroupTrial,
    Trial,
    group_trial_from_json,
    group_trial_to_json,
    text,
    trial_from_json,
    trial_from_json_1,
    trial_to_json,
    whole,
)
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
        lower_bound: No mapping of ``space`` measures less; None if nothing is known of it.
        space: What the bound speaks of.
    """

    task: str
    objective: str
    seed: int
    measurer: str
    settings: str
    num_trials: int
    rejected: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()
    lower_bound: float | None = None
    space: str = ""


Line = Trial | GroupTrial | RunStart | SearchEnd
"""What a log holds after its header."""


class LaterFormatError(Exception):
    """A line that only a later version can read."""

    def __init__(self, version: int) -> None:
        super().__init__(
            f"format {version}, this version reads up to format {FORMAT_VERSION}; use the version that wrote it, or "
            "choose another --workdir"
        )


def line_of(content: LogHeader | Line) -> bytes:
    """A line of the log, its checksum first."""
    body = json.dumps(_to_json(content), separators=(",", ":"), allow_nan=False).encode()
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


def may_begin_a_log(line: bytes) -> bool:
    """Whether an incomplete first line can be that of a log."""
    return any(line.startswith(start[: len(line)]) for start in (b'{"crc":"', b'{"format":1,'))


def read_header(path: Path, line: bytes) -> tuple[int, LogHeader]:
    """The format and the header of a file from its first line.

    Raises:
        WorkdirError: It is no log, or one of a later format.
    """
    try:
        content, is_checked = _object(line)
        version = whole(content, "format")
        if version > FORMAT_VERSION:
            raise LaterFormatError(version)
        if is_checked != (version > 1):
            raise ValueError("it has no checksum")
        found = LogHeader(arch_name=text(content, "arch_name"), arch_sha256=text(content, "arch_sha256"),
                          arch=_arch_from_json(content.get("arch")))  # fmt: skip
    except LaterFormatError as error:
        raise WorkdirError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise WorkdirError(f"{path}: line 1: not a trial log: {reason_of(error)}; choose another --workdir") from error
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


def read_line(line: bytes, file_version: int) -> Line:
    """One line after the first.

    Raises:
        ValueError: It is damaged.
        MappingError: The text of a mapping is damaged.
        LaterFormatError: It is of a later format.
    """
    content, is_checked = _object(line)
    if "format" in content and whole(content, "format") > FORMAT_VERSION:
        raise LaterFormatError(content["format"])
    if not is_checked:
        if file_version > 1:
            raise ValueError("it has no checksum")
        return trial_from_json_1(content)
    kind = text(content, "kind")
    if kind == "trial":
        return trial_from_json(content)
    if kind == "group":
        return group_trial_from_json(content)
    if kind == "run":
        return _run_from_json(content)
    if kind == "search":
        return _search_from_json(content)
    raise ValueError(f"unknown kind {kind!r}")


def _to_json(line: LogHeader | Line) -> dict[str, Any]:
    if isinstance(line, LogHeader):
        arch = None if line.arch is None else asdict(line.arch)
        return {"kind": "log", "format": FORMAT_VERSION, "arch_name": line.arch_name, "arch_sha256": line.arch_sha256,
                "arch": arch}  # fmt: skip
    if isinstance(line, Trial):
        return {"kind": "trial", **trial_to_json(line)}
    if isinstance(line, GroupTrial):
        return {"kind": "group", **group_trial_to_json(line)}
    if isinstance(line, SearchEnd):
        return {"kind": "search", **asdict(line), "rejected": dict(line.rejected)}
    tasks = [{"name": name, "key": key, "workload": asdict(workload)} for name, key, workload in line.tasks]
    return {"kind": "run", "model": line.model, "model_sha256": line.model_sha256, "objective": line.objective,
            "seed": line.seed, "measurer": line.measurer, "tasks": tasks}  # fmt: skip


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
    rejected, failures, bound = content.get("rejected"), content.get("failures"), content.get("lower_bound")
    if not isinstance(rejected, dict):
        raise ValueError("field 'rejected': must be an object")
    if not isinstance(failures, list) or not all(isinstance(each, str) for each in failures):
        raise ValueError("field 'failures': must be a list of texts")
    if not (bound is None or (isinstance(bound, (int, float)) and bound >= 0)):
        raise ValueError("field 'lower_bound': must be a number >= 0 or null")
    return SearchEnd(
        task=text(content, "task"), objective=text(content, "objective"), seed=whole(content, "seed"),
        measurer=text(content, "measurer"), settings=text(content, "settings"),
        num_trials=whole(content, "num_trials"),
        rejected=tuple((reason, whole(rejected, reason)) for reason in rejected), failures=tuple(failures),
        lower_bound=bound, space=text(content, "space") if "space" in content else "",
    )  # fmt: skip


def reason_of(error: Exception) -> str:
    """On one line: some errors bring their own explanation over many."""
    if isinstance(error, KeyError):
        return f"field {error} is missing"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, MappingError):
        return str(error)
    return str(error).splitlines()[0]
