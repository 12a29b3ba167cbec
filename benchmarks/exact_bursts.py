"""Certified mappings of the eleven distinct ResNet-18 convolutions on memory that moves bytes, and whole bursts.

Source: our own exact search with perfect factors, least EDP, batch 1, elements of the accelerator's word. Compared: the
certified optimum for the accelerator with ``DRAM.burst_bytes`` of 1 and of 64, both priced with 64. Columns:
``B/burst`` the bytes that a contiguous run holds on average, of the tensor where they are fewest; ``unused`` the share
of the moved DRAM bytes that no tile asked for; ``EDP`` of the first over that of the second. Each run of a tile starts
at an aligned address here; in a real layout a run may touch one burst more. Baselines are the optima with 1 byte;
random search and the default mapping are in ``exact_peers.py``. Budget: none, each search runs until its proof is
complete. Expected time: two minutes, and once a minute more to compile; ``--quick`` runs three layers on one
accelerator.

    python benchmarks/exact_bursts.py [--quick] [--csv FILE] [--arch NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from exact_peers import LAYERS

from cost_model.analytical.model import AnalyticalModel
from tests.oracle.reuse import count_reuse
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

ARCHS = ("dmazerunner-256", "edge-256", "eyeriss-168", "vta-1x16x16", "mlu100-32")

BURST_BYTES = 64


def with_bursts(arch: Arch, burst_bytes: int) -> Arch:
    """The same accelerator with another least transfer."""
    dram = replace(arch.levels.DRAM, burst_bytes=burst_bytes)
    return replace(arch, levels=replace(arch.levels, DRAM=dram))


def least_burst_bytes(workload: Workload, mapping: Mapping) -> float:
    """Bytes of a contiguous run on average, of the tensor where they are fewest."""
    moved = [traffic for traffic in count_reuse(workload, mapping).dram if traffic.num_bursts]
    return min(traffic.num_elems * traffic.projection.elem_bits / 8 / traffic.num_bursts for traffic in moved)


def measure(name: str, arch: Arch, commit: str) -> list[dict[str, object]]:
    """The optimum for memory of bytes, and of bursts."""
    k, c, out, taps, stride = LAYERS[name]
    workload = Workload.conv2d(
        K=k, C=c, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out,
        IX=stride * out, dtype=f"int{arch.word_bits}",
    )  # fmt: skip
    rows = []
    for burst_bytes in (1, BURST_BYTES):
        start = time.monotonic()
        result = exact_search(Case(workload=workload, arch=with_bursts(arch, burst_bytes)))
        cost = AnalyticalModel().cost(workload, with_bursts(arch, BURST_BYTES), result.mapping)
        rows.append({
            "commit": commit, "arch": arch.name, "arch_sha256": arch.sha256()[:12], "workload": name,
            "searcher": f"exact for {burst_bytes} B", "seed": "", "budget_trials": result.num_evaluated,
            "sim_calls": 0, "wall_s": time.monotonic() - start, "cycles": cost.cycles, "energy_pj": cost.energy_pj,
            "edp_pj_cycles": cost.edp_pj_cycles, "source": "analytical", "certified": result.certified,
            "burst_bytes": burst_bytes, "least_bytes_per_burst": least_burst_bytes(workload, result.mapping),
            "unused_share": cost.dram_unused_bytes / sum(cost.dram_bytes), "mapping": result.mapping.line(),
        })  # fmt: skip
    return rows


def print_table(table: pd.DataFrame) -> None:
    """One line a layer, and the geometric mean of each accelerator."""
    for arch, rows in table.groupby("arch", sort=False):
        shown = pd.DataFrame(index=pd.Index(rows["workload"].unique(), name=arch))
        by = {size: rows[rows["burst_bytes"] == size].set_index("workload") for size in (1, BURST_BYTES)}
        for size, ours in by.items():
            shown[f"B/burst, for {size}"] = ours["least_bytes_per_burst"]
            shown[f"unused %, for {size}"] = 100 * ours["unused_share"]
        shown["EDP ratio"] = by[1]["edp_pj_cycles"] / by[BURST_BYTES]["edp_pj_cycles"]
        print(shown.to_string(float_format=lambda value: f"{value:.4g}"))
        mean = np.exp(np.log(shown["EDP ratio"]).mean())
        print(
            f"EDP ratio: geometric mean {mean:.3f}, most {shown['EDP ratio'].max():.3f}; all certified: "
            f"{rows['certified'].all()}; {rows['wall_s'].sum():.1f} s\n"
        )


def main() -> None:
    """Search, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", nargs="+", default=list(ARCHS))
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    layers = list(LAYERS)[-3:] if options.quick else list(LAYERS)
    archs = [load_arch(name) for name in options.arch[: 1 if options.quick else None]]
    table = pd.DataFrame([row for arch in archs for name in layers for row in measure(name, arch, commit)])
    if options.csv:
        table.to_csv(options.csv, index=False)
    print_table(table)


if __name__ == "__main__":
    main()
