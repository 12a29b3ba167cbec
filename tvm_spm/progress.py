"""One progress bar on stderr, only where stderr is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tvm_spm.terminal import console, one_line
from tvm_spm.units import format_si


class ProgressBar:
    """Trials done, best so far, share of legal mappings and time left. Silent where stderr is no terminal."""

    def __init__(self, total: int, *, enabled: bool | None = None) -> None:
        self._bar = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console(stderr=True),
            disable=not (sys.stderr.isatty() if enabled is None else enabled),
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
        """Start counting something else."""
        self._bar.reset(self._row, total=total, description=one_line(text), unit=unit, note="")

    def trials(self, task: str, done: int, best: float, legal_share: float) -> None:
        """Show where the search stands."""
        note = f"best {format_si(best, '')}, {legal_share:.0%} legal"
        self._bar.update(self._row, completed=done, description=one_line(task), note=note)

    def step(self, text: str) -> None:
        """One more piece done."""
        self._bar.update(self._row, advance=1, description=one_line(text), note="")
