"""How far the work is, on stderr: one bar on a terminal, and a line for each part of the work elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tvm_spm.terminal import console, one_line
from tvm_spm.units import format_si


class ProgressBar:
    """Trials done, best so far, share of legal mappings and time left.

    Args:
        total: Trials of a task.
        enabled: Whether anything is shown.
    """

    def __init__(self, total: int, *, enabled: bool) -> None:
        is_terminal = sys.stderr.isatty()
        self._has_lines = enabled and not is_terminal
        self._bar = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console(stderr=True),
            disable=not (enabled and is_terminal),
            transient=True,
        )
        self._row = self._bar.add_task("starting", total=total, unit="trials", note="")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def phase(self, text: str, *, total: int, unit: str) -> None:
        """Start counting something else.

        Args:
            text: What.
            total: How many.
            unit: Of what.
        """
        if self._has_lines:
            print(f"tvm-spm: {one_line(text)}", file=sys.stderr, flush=True)  # noqa: T201 (asked for by the caller)
        self._bar.reset(self._row, total=total, description=one_line(text), unit=unit, note="")

    def trials(self, done: int, best: float, legal_share: float) -> None:
        """Show where the search stands."""
        self._bar.update(self._row, completed=done, note=f"best {format_si(best, '')}, {legal_share:.0%} legal")

    def reached(self, done: int) -> None:
        """So many pieces are done."""
        self._bar.update(self._row, completed=done)

    def step(self, text: str) -> None:
        """One more piece done."""
        self._bar.update(self._row, advance=1, description=one_line(text), note="")
