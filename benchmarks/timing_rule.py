"""What each change of the timing rule that hardware asked for did to ResNet-18, layer by layer and in total.

Source: ours. ``expected/timing_rule.csv`` holds, per version of the rule (``rule``) and accelerator, the certified best
mapping of every distinct layer of ResNet-18 (batch 1, int16; bias and relu, or bias, residual and relu, on the vector
unit; perfect factors, EDP), with its cycles and energy under that version, and the geometric mean of the cycles of 200
random mappings with any factors, always the same. Compared with what this tree says. Energies do not depend on the
rule, so that EDP moves with the cycles, or with another mapping that is best now. Totals are over the 21 layers, one
after the other. Which change shows where: ``eyeriss-168`` has two MAC stages, ``edge-256`` and ``quad-edge`` a port
with a limit, ``dmazerunner-256`` neither: only sums that return are timed in another way; extras are everywhere.
Budget: none, each search runs until its proof is complete. Expected time: two minutes; ``--quick`` runs three layers.

    python benchmarks/timing_rule.py [--quick] [--csv FILE] [--rule NAME] [--arch NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cost_model.analytical.model import AnalyticalModel, evaluate_batch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.axes import Axis, Projection
from tvm_spm.exact import exact_search
from tvm_spm.space.case import Case
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Epilogue, Workload

ARCHS = ("edge-256", "quad-edge", "eyeriss-168", "dmazerunner-256")
NUM_RANDOM = 200
EXPECTED = Path(__file__).parent / "expected" / "timing_rule.csv"


def conv(
    k: int, c: int, out: int, taps: int, stride: int = 1, *, residual: bool = False, relu: bool = True
) -> Workload:
    """One layer, padded so that only the stride shrinks it, with what follows it."""
    workload = Workload.conv2d(
        K=k, C=c, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out, IX=stride * out
    )
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=k),), dtype="int16")
    extras = (bias, workload.final_projection()) if residual else (bias,)
    return replace(workload, epilogue=Epilogue(num_ops_per_elem=1 + residual + relu, extras=extras))


def resnet_18() -> dict[str, tuple[int, Workload]]:
    """How often each distinct layer occurs."""
    layers = {
        "conv1": (1, conv(64, 3, 112, 7, 2)), "64 @56": (2, conv(64, 64, 56, 3)),
        "64 @56 +": (2, conv(64, 64, 56, 3, residual=True)),
    }  # fmt: skip
    for k, out in ((128, 28), (256, 14), (512, 7)):
        layers[f"{k} @{out} /2"] = (1, conv(k, k // 2, out, 3, 2))
        layers[f"{k} @{out}"] = (1, conv(k, k, out, 3))
        layers[f"{k} @{out} +"] = (2, conv(k, k, out, 3, residual=True))
        layers[f"{k} @{out} 1x1"] = (1, conv(k, k // 2, out, 1, 2, relu=False))
    return layers | {"dense": (1, Workload.matmul(m=1, k=512, n=1000))}


def measure(arch: Arch, name: str, count: int, workload: Workload, rule: str, commit: str) -> dict[str, object]:
    """One row."""
    start = time.process_time()
    result = exact_search(Case(workload=workload, arch=arch), perfect=True)
    search_s = time.process_time() - start
    drawn = MapSpace(workload=workload, arch=arch).sample(np.random.default_rng(0), NUM_RANDOM)
    log_cycles = np.log(evaluate_batch(workload, arch, drawn).cycles)
    cost = AnalyticalModel().cost(workload, arch, result.mapping)
    return {
        "commit": commit, "rule": rule, "arch": arch.name, "arch_sha256": arch.sha256()[:12], "workload": name,
        "count": count, "searcher": "exact", "seed": "", "budget_trials": result.num_evaluated, "sim_calls": 0,
        "wall_s": round(search_s, 3), "random_cycles": float(np.exp(log_cycles.mean())), "cycles": cost.cycles,
        "energy_pj": cost.energy_pj,
        "edp_pj_cycles": cost.edp_pj_cycles, "source": "analytical", "certified": result.certified,
        "mapping": result.mapping.line(),
    }  # fmt: skip


def totals(rows: pd.DataFrame) -> tuple[int, float, float]:
    """Cycles and EDP of all layers, one after the other, and the mean of the random mappings' cycles."""
    cycles = int((rows["count"] * rows["cycles"]).sum())
    edp = cycles * float((rows["count"] * rows["energy_pj"]).sum())
    return cycles, edp, float(np.exp(np.log(rows["random_cycles"]).mean()))


def print_table(table: pd.DataFrame) -> None:
    """Per accelerator, totals of every version of the rule, and how far each is from the one before."""
    for name, rows in table.groupby("arch", sort=False):
        print(f"{name}\n  {'rule':34} {'cycles':>12} {'':8} {'EDP':>10} {'':8} {'random':>10} {'':8} {'search s':>8}")
        last = None
        for rule, own in rows.groupby("rule", sort=False):
            found = totals(own)
            changes = [f"{now / before - 1:+8.2%}" for now, before in zip(found, last or found, strict=True)]
            cycles, edp, random = (
                f"{value:{how}}" for value, how in zip(found, ("12,", "10.4g", "10.0f"), strict=True)
            )
            print(
                f"  {rule:34} {cycles} {changes[0]} {edp} {changes[1]} {random} {changes[2]} {own['wall_s'].sum():8.1f}"
            )
            last = found


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--rule", default="this tree", help="how the rows of this tree are called")
    parser.add_argument("--arch", nargs="+", default=ARCHS)
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    layers = list(resnet_18().items())
    rows = []
    for name in options.arch:
        # compile before anything is timed
        measure(load_arch(name), "dense", *resnet_18()["dense"], options.rule, commit)
        for layer, (count, workload) in layers[-3:] if options.quick else layers:
            rows.append(measure(load_arch(name), layer, count, workload, options.rule, commit.strip()))
    now = pd.DataFrame(rows)
    before = pd.read_csv(EXPECTED) if EXPECTED.exists() else now.iloc[:0]
    before = before[before["workload"].isin(now["workload"]) & before["arch"].isin(now["arch"])]
    table = pd.concat([before[before["rule"] != options.rule], now])
    print_table(table.sort_values("arch", kind="stable", key=lambda names: names.map(list(ARCHS).index)))
    if options.csv is not None:
        now.to_csv(options.csv, index=False)


if __name__ == "__main__":
    main()
