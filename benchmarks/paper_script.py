"""What every benchmark script does: its options, its CSV, its tables, and what moved against the pinned rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.runs import COLUMNS, write_csv

UNPINNED = ("commit", "wall_s")
"""Columns that differ from run to run."""


def script_text(
    doc: str,
    expected: Path,
    run: Callable[[bool], pd.DataFrame],
    tables: Callable[[pd.DataFrame], Sequence[PaperTable]],
    draw: Callable[[pd.DataFrame, Path], Sequence[Path]] | None = None,
) -> str:
    """Reads the command line, runs, writes what was asked for, and returns all text.

    Args:
        doc: Shown by ``--help``.
        expected: Pinned rows.
        run: Makes the rows; the argument is ``--quick``.
        tables: Makes the tables from the rows.
        draw: Draws the rows into a directory.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="finish within a minute")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write one row per run")
    if draw is not None:
        parser.add_argument("--pictures", type=Path, metavar="DIR", help="write SVG and PNG")
    options = parser.parse_args()
    frame = run(options.quick)
    parts = [str(table) for table in tables(frame)]
    if expected.exists():
        parts.append(f"against {expected.name}: {differences(frame, read_csv(expected))}")
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(frame, options.csv)
        parts.append(f"written: {options.csv}")
    if draw is not None and options.pictures is not None:
        options.pictures.mkdir(parents=True, exist_ok=True)
        parts.append("written: " + ", ".join(str(path) for path in draw(frame, options.pictures)))
    return "\n\n".join(parts)


def read_csv(path: Path) -> pd.DataFrame:
    """Reads what ``write_csv`` wrote."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def differences(frame: pd.DataFrame, pinned: pd.DataFrame) -> str:
    """What changed against pinned rows, run by run; a pinned row that was not run is not a change."""
    key = ["layer", "space", "objective", "searcher", "seed", "source"]
    before = {tuple(str(row[name]) for name in key): row for row in pinned.to_dict("records")}
    lines = []
    for row in frame.to_dict("records"):
        name = tuple(str(row[column]) for column in key)
        old = before.get(name)
        if old is None:
            lines.append(f"{' / '.join(name)}: not pinned")
            continue
        for column in COLUMNS:
            if column not in UNPINNED and str(row[column]) != str(old[column]):
                lines.append(f"{' / '.join(name)}: {column} was {old[column]}, is {row[column]}")
    return "\n".join(lines) if lines else f"all {len(frame)} rows equal the pinned ones"
