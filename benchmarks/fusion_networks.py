"""Tune networks with fusion on several accelerators, against the same tuned layers one by one.

Source: ours; nothing published is compared. The baseline runs every layer alone, in the mapping that the same run found
for it, so that only fusion differs; costs are the simulator's. The plan is the best of the intervals of up to ten
layers in one fixed order, in the ways that the search of group mappings found. Each network runs in a process of its
own. Expected time: one to four minutes per network on two cores, most of it for tuning and verifying single layers;
``--quick`` runs MobileNet-V2 on quad-edge with 4 trials per task.

    python benchmarks/fusion_networks.py [NETWORK ...] [--quick] [--arch NAME ...] [--trials N] [--csv FILE]
        [--plot DIR]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

import tvm_spm
from tvm_spm.arch import load_arch

NETWORKS = ("resnet18", "resnet50", "vgg19", "mobilenet_v2", "alexnet")
ARCHS = ("edge-256", "quad-edge", "mlu100-32")


def tune(network: str, arch: str, trials: int, plot: Path | None) -> dict[str, object]:
    """One row."""
    start = time.monotonic()
    result = tvm_spm.tune(network, f"spm/{arch}", trials=trials, dtype="float32")
    wall_s = time.monotonic() - start
    if plot is not None:
        plot.mkdir(parents=True, exist_ok=True)
        result.draw(plot / f"{network}_{arch}.svg")
    cost, unfused, totals = result.cost, result.unfused_cost, result.totals()
    groups = [(len(group.names), group.count) for group in result.groups]
    return {
        "network": network,
        "arch": arch,
        "arch_sha256": load_arch(arch).sha256()[:12],
        "trials": trials,
        "layers": sum(task.task.count for task in result.tasks),
        "groups": sum(count for _, count in groups),
        "layers_fused": sum(size * count for size, count in groups),
        "longest": max((size for size, _ in groups), default=0),
        "verified": result.verified,
        "not_scheduled": 0 if result.plan is None else len(result.plan.unscheduled),
        "refused": json.dumps({} if result.plan is None else result.plan.num_refused()),
        "cycles": cost.cycles,
        "energy_pj": cost.energy_pj,
        "edp_pj_cycles": cost.edp_pj_cycles,
        "dram_bytes": sum(cost.dram_bytes),
        "cycles_unfused": unfused.cycles,
        "energy_pj_unfused": unfused.energy_pj,
        "edp_pj_cycles_unfused": unfused.edp_pj_cycles,
        "dram_bytes_unfused": sum(unfused.dram_bytes),
        "wall_s": wall_s,
        "seconds": json.dumps(totals["seconds"]),
        "source": "simulated",
    }


def shown(table: pd.DataFrame) -> str:
    """The columns that matter, with ratios."""
    found = table[["network", "arch", "layers", "groups", "layers_fused", "longest", "verified"]].copy()
    found["speedup"] = table["cycles_unfused"] / table["cycles"]
    found["energy_ratio"] = table["energy_pj_unfused"] / table["energy_pj"]
    found["edp_gain"] = table["edp_pj_cycles_unfused"] / table["edp_pj_cycles"]
    found["dram_MB"] = table["dram_bytes"] / 1e6
    found["dram_MB_unfused"] = table["dram_bytes_unfused"] / 1e6
    for phase in ("search", "fusion", "schedule", "verify"):
        found[f"{phase}_s"] = [json.loads(seconds).get(phase, 0.0) for seconds in table["seconds"]]
    return found.to_string(index=False, float_format=lambda value: f"{value:.3f}")


def main() -> None:
    """Tune, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    networks = options.networks or (["mobilenet_v2"] if options.quick else list(NETWORKS))
    archs = ["quad-edge"] if options.quick else options.arch
    trials = 4 if options.quick else options.trials
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows: list[dict[str, object]] = []
    for network in networks:
        for arch in archs:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                rows.append({"commit": commit, **process.submit(tune, network, arch, trials, options.plot).result()})
            print({key: rows[-1][key] for key in ("network", "arch", "groups", "verified", "wall_s")}, flush=True)
            if options.csv:
                pd.DataFrame(rows).to_csv(options.csv, index=False)
    print(shown(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
