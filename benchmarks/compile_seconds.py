"""CPU-seconds that a fresh installation compiles for, by package and by function.

Source: ours; nothing published is compared. Every entry that a user may meet is called once on a toy problem, in one
process and one thread, with an empty folder for compiled code; numba's ``numba:compile`` events say what is compiled.
A function's seconds do not include those of functions compiled for it meanwhile; one that serves several entries counts
where it is met first. Entries: ``exact`` is the exact search with factors that divide and the analytical model that
prices what it finds, ``any_factors`` the one with any factors, ``screen`` the map space with its ``default`` mapping,
then ``simulator``, the search of fused ``groups``, and that of ``attention``. Expected time: two minutes on one core;
``--quick`` compiles ``exact`` alone.

    python benchmarks/compile_seconds.py [--quick] [--csv FILE] [--top N] [ENTRY ...]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
from numba.core import config, event

ROOT = Path(__file__).parents[1]


class Stopwatch(event.Listener):
    """CPU-seconds and number of compilations of each function.

    Attributes:
        seconds: By function.
        count: By function.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.count: Counter[str] = Counter()
        self._open: list[tuple[float, float]] = []

    def on_start(self, event: event.Event) -> None:
        """A compilation begins, maybe for one that goes on."""
        self._open.append((time.process_time(), 0.0))

    def on_end(self, event: event.Event) -> None:
        """The innermost compilation ends."""
        begin, inner = self._open.pop()
        took = time.process_time() - begin
        function = event.data["dispatcher"].py_func
        name = f"{function.__module__}.{function.__qualname__}"
        self.seconds[name] += took - inner
        self.count[name] += 1
        if self._open:
            self._open[-1] = self._open[-1][0], self._open[-1][1] + took


def attention() -> None:
    """The search of attention."""
    from cost_model.attention.search import attention_search
    from tvm_spm.arch import load_arch
    from tvm_spm.attention import Attention

    attention_search(Attention.of(heads=1, queries=8, keys=8, depth=4), load_arch("edge-256"))


def compile_entry(entry: str) -> None:
    """Compile, or load, all that one entry calls."""
    from tvm_spm.tuning.warm_up import Part, load

    if entry == "attention":
        attention()
    else:
        load([Part[entry.upper()]])


ENTRIES = ("exact", "any_factors", "default", "screen", "simulator", "groups", "attention")


def package(function: str) -> str:
    """Where a function stands: one of our packages, or numba with all others."""
    parts = function.split(".")
    return ".".join(parts[:2]) if parts[0] in ("tvm_spm", "cost_model", "schedules") else "numba"


def main() -> None:
    """Compile, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help=", ".join(ENTRIES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--top", type=int, default=15, help="functions to show")
    options = parser.parse_args()
    entries = options.entries or (["exact"] if options.quick else list(ENTRIES))
    if unknown := set(entries) - set(ENTRIES):
        parser.error(f"unknown entry {min(unknown)!r}; choose from {', '.join(ENTRIES)}")
    with tempfile.TemporaryDirectory(prefix="compile_seconds") as folder:
        config.CACHE_DIR = folder  # read when the first kernel is made
        rows = measure(entries)
    table = pd.DataFrame(rows)
    if options.csv:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        table.assign(commit=commit).to_csv(options.csv, index=False)
    for column in ("entry", "package"):
        shown = table.groupby(column, sort=False)[["seconds", "compilations"]].sum()
        print(shown.sort_values("seconds", ascending=False).round(1).to_string(), end="\n\n")
    worst = table.groupby("function")[["seconds", "compilations"]].sum().nlargest(options.top, "seconds")
    print(worst.round(2).to_string())
    print(
        f"\nall: {table['seconds'].sum():.1f} CPU-s, {table['compilations'].sum()} compilations of "
        f"{table['function'].nunique()} functions"
    )


def measure(entries: list[str]) -> list[dict[str, object]]:
    """One row per entry and function."""
    rows: list[dict[str, object]] = []
    for entry in entries:
        stopwatch = Stopwatch()
        with event.install_listener("numba:compile", stopwatch):
            compile_entry(entry)
        rows += [
            {
                "entry": entry,
                "package": package(name),
                "function": name,
                "seconds": seconds,
                "compilations": stopwatch.count[name],
            }
            for name, seconds in stopwatch.seconds.items()
        ]
    return rows


if __name__ == "__main__":
    main()
