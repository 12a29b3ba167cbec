"""Tune every network that ships with this package or with ``onnx``, layer by layer, and show where the time goes.

``benchmarks/fusion_networks.py`` shows what fusion adds.

Source: ours; nothing published is compared. Budget: the default of ``tvm-spm tune``. Each network runs in a process of
its own, as a user would start it. Expected time: about half an hour for all on two cores; ``--quick`` runs SqueezeNet
with 8 trials in under a minute.

    python benchmarks/tune_networks.py [--quick] [--csv FILE] [--target spm/dmazerunner-256] [NETWORK ...]
    python benchmarks/tune_networks.py --dtype int8 [--target spm/edge-256] [--trials N] [NETWORK ...]

The second form runs all built-in networks in other numbers, in groups too, and shows the largest difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pandas as pd

from tvm_spm.frontend.models import DTYPES, models

BUILT_IN = ("resnet18", "resnet50", "vgg19", "mobilenet_v2", "alexnet")
LIGHT = (
    "bvlc_alexnet", "densenet121", "inception_v1", "inception_v2", "resnet50", "shufflenet", "squeezenet", "vgg19",
    "zfnet512",
)  # fmt: skip


def light_model(name: str) -> str:
    """Path of one of the nine networks inside the ``onnx`` package."""
    return str(Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{name}.onnx")


def tune(label: str, model: str, target: str, extra: list[str]) -> dict[str, object]:
    """One row: the command's own JSON, and the wall time of the whole process."""
    command = [sys.executable, "-m", "tvm_spm", "tune", model, "--target", target, "--json", *extra]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    wall_s = time.monotonic() - start
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{label}: exit code {done.returncode}\n{done.stderr}")
    result = json.loads(done.stdout)
    totals, tasks = result["totals"], result["tasks"]
    return {
        "network": label,
        "arch": totals["arch"],
        "tasks": sum(task["kind"] != "vector" for task in tasks),
        "vector_tasks": sum(task["kind"] == "vector" for task in tasks),
        "on_host": len(totals["host_calls"]),
        "groups": len(result["groups"]),
        "verified": totals["verified"],
        "largest_difference": (totals["network_verification"] or {}).get("max_abs_error"),
        "cycles": totals["cycles"],
        "energy_pj": totals["energy_pj"],
        "edp_pj_cycles": totals["edp_pj_cycles"],
        "edp_gain_over_default": totals["gain_over_default"],
        "wall_s": wall_s,
        **{f"{name}_s": seconds for name, seconds in totals["seconds"].items()},
        "source": "simulated",
    }


def main() -> None:
    """Run the networks named, or all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--target", default="spm/dmazerunner-256")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--trials", type=int)
    options = parser.parse_args()
    light = {f"light_{name}": light_model(name) for name in LIGHT}
    chosen = options.networks or (
        ["light_squeezenet"] if options.quick else list(models()) if options.dtype else [*BUILT_IN, *light]
    )
    trials = options.trials or (8 if options.quick else None)
    rows = []
    for label in chosen:
        extra = [] if trials is None else ["--trials", str(trials)]
        extra += [] if options.dtype else ["--no-fusion"]
        # In float32, as the ONNX networks are, unless others are asked for.
        extra += ["--dtype", options.dtype or "float32"] if label in models() else []
        rows.append(tune(label, light.get(label, label), options.target, extra))
        print({key: rows[-1][key] for key in ("network", "tasks", "on_host", "verified", "wall_s")}, flush=True)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    shown = table.drop(columns=["arch", "source"])
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
