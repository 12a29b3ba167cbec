"""Certify the best mapping of every distinct convolution of ResNet-18, and of layers of MobileNet-V2 and BERT-base.

Source: ours; nothing published is compared. Reported per layer: CPU seconds of the search, its EDP, how far the EDP is
above ``cost_model.bounds.lower_bound`` (a floor that no mapping need reach), and whether the search certified it.
Budget: none, each search runs until its proof is complete. Expected time: about 20 s for all, and once about 80 s more
to compile; ``--quick`` runs three layers on one machine.

    python benchmarks/bench_exact.py [--quick] [--csv FILE] [--objective edp] [--arch NAME ...] [--any-factors]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import pandas as pd

from cost_model.bounds import lower_bound
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

RESNET_18 = (
    (64, 3, 112, 7, 2), (64, 64, 56, 3, 1), (128, 64, 28, 3, 2), (128, 128, 28, 3, 1), (128, 64, 28, 1, 2),
    (256, 128, 14, 3, 2), (256, 256, 14, 3, 1), (256, 128, 14, 1, 2), (512, 256, 7, 3, 2), (512, 512, 7, 3, 1),
    (512, 256, 7, 1, 2),
)  # fmt: skip
"""(output channels, input channels, output rows and columns, filter rows and columns, stride)."""

MOBILENET_V2_DEPTHWISE = ((96, 56, 2), (144, 56, 1), (384, 14, 1), (960, 7, 1))
"""(channels, output rows and columns, stride), 3x3."""

BERT_BASE = (("project", 768, 768, 1), ("expand", 768, 3072, 1), ("contract", 3072, 768, 1))
"""(name, k, n, batch)."""

ARCHS = ("edge-256", "dmazerunner-256", "quad-edge")


def layers() -> dict[str, Workload]:
    """Batch 1, int16, padded as in the networks."""
    found = {}
    for k, c, out, taps, stride in RESNET_18:
        found[f"resnet18 {c}->{k} {taps}x{taps}/{stride} @{out}"] = Workload.conv2d(
            K=k, C=c, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out,
            IX=stride * out,
        )  # fmt: skip
    for channels, out, stride in MOBILENET_V2_DEPTHWISE:
        found[f"mobilenet_v2 depthwise {channels} 3x3/{stride} @{out}"] = Workload.conv2d(
            K=channels, C=channels, groups=channels, OY=out, OX=out, FY=3, FX=3, stride=stride, padding=1,
            IY=stride * out, IX=stride * out,
        )  # fmt: skip
    for tokens in (128, 512):
        for name, k, n, batch in BERT_BASE:
            found[f"bert {tokens} {name}"] = Workload.matmul(m=tokens, k=k, n=n, batch=batch)
        found[f"bert {tokens} scores"] = Workload.matmul(m=tokens, k=64, n=tokens, batch=12)
        found[f"bert {tokens} context"] = Workload.matmul(m=tokens, k=tokens, n=64, batch=12)
    return found


def measure(
    name: str, workload: Workload, arch: Arch, objective: str, *, perfect: bool, commit: str
) -> dict[str, object]:
    """One row."""
    start, cpu = time.monotonic(), time.process_time()
    result = exact_search(Case(workload=workload, arch=arch, objective=Objective.of(objective)), perfect=perfect)
    return {
        "commit": commit,
        "arch": arch.name,
        "arch_sha256": arch.sha256()[:12],
        "workload": name,
        "searcher": "exact" if perfect else "exact, any factors",
        "cpu_s": time.process_time() - cpu,
        "wall_s": time.monotonic() - start,
        "num_evaluated": result.num_evaluated,
        "num_bounded": result.num_bounded,
        "cycles": result.cost.cycles,
        "energy_pj": result.cost.energy_pj,
        "edp_pj_cycles": result.cost.edp_pj_cycles,
        "above_floor": result.value / lower_bound(workload, arch, objective) - 1,
        "gap": result.gap,
        "certified": result.certified,
        "mapping": result.mapping.line(),
        "source": "analytical",
    }


def main() -> None:
    """Search, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--objective", default="edp")
    parser.add_argument("--arch", nargs="*", default=list(ARCHS))
    parser.add_argument("--any-factors", action="store_true")
    options = parser.parse_args()
    here = Path(__file__).parent
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    ).stdout.strip()
    start = time.process_time()
    exact_search(Case(workload=Workload.matmul(m=2, k=2, n=2), arch=load_arch(options.arch[0])))
    print(f"compile or load: {time.process_time() - start:.1f} s CPU", flush=True)
    chosen = dict(list(layers().items())[-3:]) if options.quick else layers()
    rows = []
    for arch_name in options.arch[: 1 if options.quick else None]:
        for name, workload in chosen.items():
            arch = load_arch(arch_name)
            rows.append(
                measure(name, workload, arch, options.objective, perfect=not options.any_factors, commit=commit)
            )
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    shown = ["arch", "workload", "cpu_s", "cycles", "energy_pj", "edp_pj_cycles", "above_floor", "gap", "certified"]
    print(table[shown].to_string(index=False, float_format=lambda value: f"{value:.4g}"))
    for arch_name, group in table.groupby("arch"):
        resnet = group[group["workload"].str.startswith("resnet18")]["cpu_s"]
        total = group["cpu_s"].sum()
        print(f"{arch_name}: ResNet-18 {resnet.sum():.2f} s CPU, slowest {resnet.max():.2f} s, all {total:.2f} s")


if __name__ == "__main__":
    main()
