"""Tune networks with fusion on several machines, against the same tuned layers one by one, beside what peers report.

Source: the rows are ours, simulated; ``REPORTED`` are the headlines of DeFiNES (Mei et al., HPCA 2023) and Stream
(Symons et al., IEEE TC 2024; version 2.1 as re-measured), of their own machines, cost models and layer-by-layer
schedules: they stand beside ours and are not blended. The baseline runs every layer alone, in the mapping that the
same run found for it, so that only fusion differs. The plan is the best of the intervals of up to ten layers in one
fixed order; ``within`` is how far from the best of that space it is at most. Each network runs in a process of its own
and its row is printed as it ends; with ``--csv`` a row of the same network, machine and numbers is replaced and all
others stay, so that the table can be made in parts. Expected time: one to four minutes per network on two cores, most
of it for tuning and verifying single layers; ``--quick`` runs MobileNet-V2 on quad-edge with 4 trials per task.

    python benchmarks/fusion_networks.py [NETWORK ...] [--quick] [--arch NAME ...] [--dtype NAME] [--trials N]
        [--csv FILE] [--plot DIR]
    python benchmarks/fusion_networks.py --csv FILE --show
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import time
from pathlib import Path

import pandas as pd
from kept_rows import made_apart, read_rows, with_rows

import tvm_spm
from tvm_spm.arch import load_arch

NETWORKS = (
    "fsrcnn", "mobilenet_v2", "unet", "resnet18", "resnet50", "vgg19", "alexnet", "bert_base_layer", "llama_layer",
    "llama_layer_decode", "vit_tiny_block",
)  # fmt: skip
ARCHS = ("edge-256", "quad-edge", "mlu100-32")

REPORTED = (
    ("DeFiNES", "depth-first against layer by layer, its machines and networks", "up to 10x"),
    ("Stream", "layers fused over several cores against layer by layer, its machines and networks", "EDP, 2.4x to 30x"),
    ("Stream 2.1", "ResNet-18, four cores, re-measured: found in 32 s", "1.64x faster"),
)
"""Who, what, and the headline."""

_KEY = ["network", "arch", "dtype"]


def tune(network: str, arch: str, trials: int, dtype: str | None, plot: Path | None) -> dict[str, object]:
    """One row."""
    start = time.monotonic()
    result = tvm_spm.tune(network, f"spm/{arch}", trials=trials, dtype=dtype, baselines=False)
    wall_s = time.monotonic() - start
    if plot is not None:
        plot.mkdir(parents=True, exist_ok=True)
        result.draw(plot / f"{network}_{arch}.svg")
    cost, unfused, totals = result.cost, result.unfused_cost, result.totals()
    groups = [(len(group.names), group.count) for group in result.groups]
    return {
        "network": network,
        "arch": arch,
        "dtype": dtype or result.chosen_dtype,
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
        "lower_bound": 0.0 if result.plan is None else result.plan.lower_bound,
        "gap": None if result.plan is None else result.plan.gap,
        "wall_s": wall_s,
        "seconds": json.dumps(totals["seconds"]),
        "source": "simulated",
    }


def shown(table: pd.DataFrame) -> str:
    """The columns that matter, with ratios."""
    found = table[[*_KEY, "layers", "groups", "layers_fused", "longest", "verified"]].copy()
    found["speedup"] = table["cycles_unfused"] / table["cycles"]
    found["energy_ratio"] = table["energy_pj_unfused"] / table["energy_pj"]
    found["edp_gain"] = table["edp_pj_cycles_unfused"] / table["edp_pj_cycles"]
    found["dram_MB"] = table["dram_bytes"] / 1e6
    found["dram_MB_unfused"] = table["dram_bytes_unfused"] / 1e6
    found["within"] = table["gap"]
    for phase in ("search", "fusion", "schedule", "verify"):
        found[f"{phase}_s"] = [json.loads(seconds).get(phase, 0.0) for seconds in table["seconds"]]
    return found.to_string(index=False, float_format=lambda value: f"{value:.3f}")


def main() -> None:
    """Tune, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--dtype", default="float32", help="numbers; 'word' for those as wide as the machine's words")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--show", action="store_true", help="run nothing, print what the file holds")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    networks = options.networks or (["mobilenet_v2"] if options.quick else list(NETWORKS))
    archs = ["quad-edge"] if options.quick else options.arch
    trials, dtype = 4 if options.quick else options.trials, None if options.dtype == "word" else options.dtype
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows = read_rows(options.csv)
    for network, arch in [] if options.show else itertools.product(networks, archs):
        row = {"commit": commit, **made_apart(tune, network, arch, trials, dtype, options.plot)}
        rows = with_rows(options.csv, rows, [row], _KEY)
        print(shown(pd.DataFrame([row])), flush=True)
    print(shown(rows))
    for who, what, headline in REPORTED:
        print(f"{who} (quoted): {what}: {headline}")


if __name__ == "__main__":
    main()
