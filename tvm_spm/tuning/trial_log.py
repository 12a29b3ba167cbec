"""The append-only log of a work directory: JSON lines, each with a checksum.

Format 2 holds lines of five kinds: the ``log`` line first (format and accelerator), a ``run`` line per different run
(model, objective, seed, measurer and its tasks), ``trial`` lines, a ``search`` line where the search of a task
ended by itself, and ``group`` lines, one for each measured mapping of layers that run as one, which programs from
before there were any leave as they stand. Lines of format 1, which had no checksums, are read wherever they stand; what
is added is format 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tvm_spm import durable
from tvm_spm.errors import SpmError, WorkdirError
from tvm_spm.trial import GroupTrial, Trial
from tvm_spm.tuning.log_lines import (
    LaterFormatError,
    Line,
    LogHeader,
    RunStart,
    SearchEnd,
    line_of,
    may_begin_a_log,
    read_header,
    read_line,
    reason_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogContent:
    """What a log file holds.

    Attributes:
        header: Of the file; None if it is missing or empty.
        runs: Different runs, in order.
        trials: All readable trials, in order.
        groups: All readable trials of groups, in order.
        searches: Searches that ended, in order.
        damaged: Lines that cannot be read, by number, with the reason.
        num_bytes: Length without an incomplete last line.
        num_lost_bytes: Length of an incomplete last line, left by a run that was killed while it wrote.
        ends_line: Whether the readable part ends with a line end.
    """

    header: LogHeader | None = None
    runs: tuple[RunStart, ...] = ()
    trials: tuple[Trial, ...] = ()
    groups: tuple[GroupTrial, ...] = ()
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

    def append(self, *lines: Line) -> None:
        """Add lines; all of them with one write.

        Raises:
            WorkdirError: The file cannot be written.
        """
        if not lines:
            return
        if not self._ready:
            self._prepare()
            self._ready = True
        durable.append(self.path, b"".join(line_of(line) for line in lines))

    def _prepare(self) -> None:
        """Cut off an incomplete line, end the last complete one, and put a missing file in place."""
        if self._content.num_bytes == 0:
            durable.make_directory(self.path.parent)
            durable.write_file(self.path, line_of(self._header))
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
    if len(lines) == 1 and may_begin_a_log(lines[0]):
        # The file is put in place with its header complete, but format 1 could be killed while it wrote it.
        return LogContent(num_lost_bytes=len(data))
    version, found = read_header(path, lines[0])
    if header is not None:
        _check_arch(path, found, header)
    runs: list[RunStart] = []
    trials: list[Trial] = []
    groups: list[GroupTrial] = []
    searches: list[SearchEnd] = []
    damaged: list[tuple[int, str]] = []
    num_lost_bytes = 0
    for number, line in enumerate(lines[1:], start=2):
        is_last = number == len(lines)
        if is_last and not line:
            continue
        try:
            read = read_line(line, version)
        except LaterFormatError as error:
            raise WorkdirError(f"{path}: line {number}: {error}") from error
        except (ValueError, RecursionError, SpmError) as error:
            if is_last:
                num_lost_bytes = len(line)
            else:
                damaged.append((number, reason_of(error)))
            continue
        if isinstance(read, Trial):
            trials.append(read)
        elif isinstance(read, GroupTrial):
            groups.append(read)
        elif isinstance(read, RunStart):
            runs.append(read)
        else:
            searches.append(read)
    return LogContent(
        header=found, runs=tuple(runs), trials=tuple(trials), groups=tuple(groups), searches=tuple(searches),
        damaged=tuple(damaged), num_bytes=len(data) - num_lost_bytes, num_lost_bytes=num_lost_bytes,
        ends_line=not lines[-1] or num_lost_bytes > 0,
    )  # fmt: skip


def _check_arch(path: Path, found: LogHeader, expected: LogHeader) -> None:
    if found.arch_sha256 != expected.arch_sha256:
        raise WorkdirError(
            f"{path}: trials of accelerator {found.arch_name} ({found.arch_sha256[:12]}), this run is for "
            f"{expected.arch_name} ({expected.arch_sha256[:12]}); choose another --workdir, or delete this file to "
            "start over"
        )
