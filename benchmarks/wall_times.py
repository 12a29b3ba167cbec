"""How long networks take to tune, stage by stage, on this tree and on another one.

Source: ours; nothing published is compared. Each network runs twice in processes of its own, as a user would start it,
so that what compiles on a first run is there in the second, which counts. CPU seconds are those of all its processes:
wall time on a busy machine says more about the others. Expected time: about five minutes a tree on two idle cores.

    python benchmarks/wall_times.py [--before DIR] [--once] [--target spm/edge-256] [--csv FILE] [NETWORK ...]

``DIR`` is a checkout of another commit, such as ``git worktree add DIR COMMIT`` makes; without it, this tree alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

NETWORKS = ("resnet18", "resnet50", "bert_base")
STAGES = ("import", "search", "fusion", "schedule", "verify", "baselines")
HERE = Path(__file__).resolve().parents[1]


def tune(network: str, target: str, tree: Path) -> dict[str, object]:
    """One run: seconds by stage, of the whole process, and of all processors; and what came out."""
    command = [sys.executable, "-m", "tvm_spm", "tune", network, "--target", target, "--json"]
    used, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=environment, check=False)
    wall_s, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{network}: exit code {done.returncode}\n{done.stderr}")
    totals = json.loads(done.stdout)["totals"]
    cpu_s = after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime
    return {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        **{f"{stage}_s": totals["seconds"].get(stage) for stage in STAGES},
        "edp_pj_cycles": totals["edp_pj_cycles"],
        "gain_over_dataflow": totals.get("gain_over_dataflow"),
        "verified": totals["verified"],
    }


def main() -> None:
    """Run the networks named, or all, on one tree or two, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--before", type=Path)
    parser.add_argument("--target", default="spm/edge-256")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--once", action="store_true", help="what is compiled is on disk already")
    options = parser.parse_args()
    trees = {"before": options.before.resolve()} if options.before else {}
    rows = []
    for network in options.networks or NETWORKS:
        for label, tree in {**trees, "now": HERE}.items():
            if not options.once:
                tune(network, options.target, tree)
            rows.append({"network": network, "tree": label, **tune(network, options.target, tree)})
            print({key: rows[-1][key] for key in ("network", "tree", "wall_s", "cpu_s")}, flush=True)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    print(table.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
