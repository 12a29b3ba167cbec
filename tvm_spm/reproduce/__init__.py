"""Tables and figures of published papers, computed again; what a paper reports stands beside ours, never blended in.

``reproduce`` takes the name of a paper and gives back its tables as text; nothing but the command line calls it. Each
folder holds one paper: what is compared and the numbers it prints, and the tables, made from rows alone. ``runs``
makes those rows, ``paper_table`` shows a table, ``picture`` draws bars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tvm_spm.errors import SpmError, WorkdirError, did_you_mean

PAPERS = ("dlfusion", "dmazerunner")
"""Names that ``reproduce`` knows."""


def reproduce(paper: str, *, quick: bool = False, out_dir: Path | None = None) -> str:
    """Compute the tables of one paper again.

    Args:
        paper: One of ``PAPERS``.
        quick: Leave out what takes longer than a minute; the text says what is missing.
        out_dir: Also write ``<paper>.csv`` with one row per run, and the pictures, there.

    Returns:
        All tables as text.

    Raises:
        SpmError: An unknown paper.
        WorkdirError: The directory cannot be written.
    """
    if paper not in PAPERS:
        raise SpmError(f"reproduce: unknown paper {paper!r}; {did_you_mean(paper, PAPERS)}")
    from tvm_spm.reproduce.dlfusion import tables as dlfusion
    from tvm_spm.reproduce.dmazerunner import tables as dmazerunner
    from tvm_spm.reproduce.runs import write_csv

    module = {"dlfusion": dlfusion, "dmazerunner": dmazerunner}[paper]
    if out_dir is None:
        return _text(module.tables_of(module.all_runs(quick=quick)))
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        frame, path = module.all_runs(quick=quick), out_dir / f"{paper}.csv"
        write_csv(frame, path)
        paths = [path, *module.draw(frame, out_dir)]
    except OSError as error:
        raise WorkdirError(f"{out_dir}: cannot write: {error.strerror}") from error
    return _text(module.tables_of(frame)) + "\n\nwritten: " + ", ".join(str(path) for path in paths)


def _text(tables: Sequence[object]) -> str:
    return "\n\n".join(str(table) for table in tables)
