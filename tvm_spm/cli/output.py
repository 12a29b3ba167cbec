"""What commands print and write."""

from __future__ import annotations

from pathlib import Path

import typer

from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.terminal import printable
from tvm_spm.workload import Workload


def print_text(text: str) -> None:
    """Print a result, with nothing in it that a terminal obeys."""
    typer.echo(printable(text))


def check_outputs(trace: Path | None, plot: Path | None) -> None:
    """Refuse files that cannot be written, before the search.

    Raises:
        SpmError: Names the file.
    """
    from tvm_spm.report.output_file import check_picture, check_writable

    if trace is not None:
        check_writable(trace)
    if plot is not None:
        check_picture(plot)


def write_timeline(workload: Workload, arch: Arch, mapping: Mapping, trace: Path | None, plot: Path | None) -> None:
    """Write what is asked for; stdout is for the result, so what was written is said on stderr."""
    if trace is None and plot is None:
        return
    from tvm_spm.report.timeline import timeline

    events = timeline(workload, arch, mapping)
    if trace is not None:
        events.write_trace(trace)
        typer.echo(f"wrote {trace}", err=True)
    if plot is not None:
        events.plot(plot)
        typer.echo(f"wrote {plot}", err=True)
