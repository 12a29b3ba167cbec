"""What ``tune`` answers for every distinct layer of ResNet-18 and MobileNet-V2, and how far that may be from the best.

Source: ours; nothing published is compared. Per layer: the objective of the answer as the simulator measures it, the
bound under all mappings of the space that the result names, the gap between both (``proved`` if there is none), how
many times better the answer is than the default mapping, mappings measured and CPU seconds. The sum weights layers as
often as they occur. Budget: that of ``tune``, counted in steps, so that everything but the seconds repeats. Baselines
at the same budget are printed by ``tune`` itself. Expected time: about two minutes for all, and once about a minute
more to compile; ``--quick`` runs three layers of each.

    python benchmarks/layer_proofs.py [--quick] [--csv FILE] [--objective edp] [--arch NAME ...] [--trials N]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import pandas as pd

from tvm_spm.arch import Arch, load_arch
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.task import tune_workload
from tvm_spm.workload import Workload

RESNET_18 = (
    (64, 3, 112, 7, 2, 1), (64, 64, 56, 3, 1, 4), (128, 64, 28, 3, 2, 1), (128, 128, 28, 3, 1, 3),
    (128, 64, 28, 1, 2, 1), (256, 128, 14, 3, 2, 1), (256, 256, 14, 3, 1, 3), (256, 128, 14, 1, 2, 1),
    (512, 256, 7, 3, 2, 1), (512, 512, 7, 3, 1, 3), (512, 256, 7, 1, 2, 1),
)  # fmt: skip
"""(output channels, input channels, output rows and columns, filter rows and columns, stride, occurrences)."""

MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""(expansion, output channels, blocks, stride of the first), Sandler et al. 2018, table 2."""

ARCHS = ("edge-256", "dmazerunner-256", "quad-edge")


def conv(k: int, c: int, out: int, taps: int, stride: int, groups: int = 1) -> Workload:
    """Batch 1, int16, padded as in the networks."""
    return Workload.conv2d(
        K=k, C=c, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out, IX=stride * out,
        groups=groups,
    )  # fmt: skip


def layers() -> list[tuple[str, str, Workload, int]]:
    """(network, layer, what it computes, occurrences)."""
    found = [
        ("resnet18", f"{c}->{k} {taps}x{taps}/{stride} @{out}", conv(k, c, out, taps, stride), count)
        for k, c, out, taps, stride, count in RESNET_18
    ]
    counts: dict[tuple[str, Workload], int] = {("3->32 3x3/2 @112", conv(32, 3, 112, 3, 2)): 1}
    channels, size = 32, 112
    for expansion, out_channels, blocks, first_stride in MOBILENET_V2:
        for block in range(blocks):
            stride, wide = first_stride if block == 0 else 1, channels * expansion
            steps = [(f"{channels}->{wide} 1x1 @{size}", conv(wide, channels, size, 1, 1))] if expansion > 1 else []
            out = size // stride
            steps.append((f"depthwise {wide} 3x3/{stride} @{out}", conv(wide, wide, out, 3, stride, groups=wide)))
            steps.append((f"{wide}->{out_channels} 1x1 @{out}", conv(out_channels, wide, out, 1, 1)))
            for step in steps:
                counts[step] = counts.get(step, 0) + 1
            channels, size = out_channels, out
    counts["320->1280 1x1 @7", conv(1280, 320, 7, 1, 1)] = 1
    return found + [("mobilenet_v2", name, work, count) for (name, work), count in counts.items()]


def measure(layer: tuple[str, str, Workload, int], arch: Arch, options: argparse.Namespace) -> dict[str, object]:
    """One row."""
    network, name, workload, count = layer
    case = Case(workload=workload, arch=arch, objective=Objective.of(options.objective))
    start, cpu = time.monotonic(), time.process_time()
    result = tune_workload(case, TunerOptions(trials=options.trials), Run())
    return {
        "commit": options.commit,
        "arch": arch.name,
        "arch_sha256": arch.sha256()[:12],
        "network": network,
        "workload": name,
        "count": count,
        "searcher": "tune",
        "seed": 0,
        "budget_trials": options.trials,
        "measured": result.num_evaluated,
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - start,
        "answer": result.value,
        "bound": result.lower_bound,
        "gap": 0.0 if result.certified else result.gap,
        "proved": result.certified,
        "gain": result.gain,
        "cycles": result.cost.cycles,
        "energy_pj": result.cost.energy_pj,
        "edp_pj_cycles": result.cost.edp_pj_cycles,
        "mapping": result.mapping.line(),
        "source": "simulated",
    }


def main() -> None:
    """Tune, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--objective", default="edp")
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--trials", type=int, default=64)
    options = parser.parse_args()
    options.commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    chosen = layers()
    if options.quick:
        chosen = [*chosen[8:11], *chosen[-3:]]
    tune_workload(Case(workload=Workload.matmul(m=2, k=2, n=2), arch=load_arch(options.arch[0])), TunerOptions(), Run())
    rows = []
    for arch_name in options.arch:
        for layer in chosen:
            row = measure(layer, load_arch(arch_name), options)
            rows.append(row)
            far = "proved" if row["proved"] else f"within {row['gap']:.2%}"
            print(
                f"{arch_name:16s}{row['network']:14s}{row['workload']:28s} {row['answer']:.5g} "
                f"bound {row['bound']:.5g} {far}, {row['gain']:.2f}x the default, {row['measured']} measured, "
                f"{row['cpu_s']:.2f} s CPU",
                flush=True,
            )
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    for (arch_name, network), group in table.groupby(["arch", "network"], sort=False):
        cycles, energy_pj = ((group["count"] * group[name]).sum() for name in ("cycles", "energy_pj"))
        print(
            f"{arch_name}, {network}: {group['proved'].sum()} of {len(group)} proved, largest gap "
            f"{group['gap'].max():.2%}; {cycles:,} cycles, {energy_pj:.4g} pJ, EDP {cycles * energy_pj:.5g}; "
            f"{group['cpu_s'].sum():.1f} s CPU, slowest {group['cpu_s'].max():.1f}"
        )


if __name__ == "__main__":
    main()
