"""What a new user waits for: the first and the second ``tvm-spm tune resnet18`` with nothing compiled before.

Source: ours; nothing published is compared. The same command runs twice in a process of its own, with a folder for
compiled code that is empty at first; the goal is a first run of at most twice the second, and the exit code is 1 if it
takes longer. Wall time on two cores, which the first run shares between compiling and searching; nothing else may run
beside it. Expected time: three minutes; ``--quick`` tunes AlexNet with 4 trials, which has no goal.

    python benchmarks/first_run.py [--quick] [--csv FILE] [NETWORK]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
MOST_RATIO = 2.0


def tune_s(network: str, arguments: list[str], folder: str) -> float:
    """Wall seconds of one run whose compiled code is kept in ``folder``."""
    command = [sys.executable, "-m", "tvm_spm", "tune", network, *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": folder}
    start = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def main() -> None:
    """Run twice, write the rows and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="resnet18")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    network, arguments = options.network, ["--target", "spm/dmazerunner-256"]
    if options.quick:
        network, arguments = "alexnet", [*arguments, "--trials", "4"]
    with tempfile.TemporaryDirectory(prefix="first_run") as folder:
        first_s, second_s = (tune_s(network, arguments, folder) for _ in range(2))
    ratio = first_s / second_s
    if options.csv:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        rows = [{"commit": commit, "network": network, "first_s": first_s, "second_s": second_s, "ratio": ratio}]
        pd.DataFrame(rows).to_csv(options.csv, index=False)
    print(f"{network}: first run {first_s:.1f} s, second {second_s:.1f} s, {ratio:.2f} times as long")
    if ratio > MOST_RATIO and not options.quick:
        raise SystemExit(f"more than {MOST_RATIO:g} times")


if __name__ == "__main__":
    main()
