"""Compare certified mappings of the eleven distinct ResNet-18 convolutions with what two other mappers report.

Source: the percentages and seconds of ZigZag 3.9 (LOMA, every MAC pays its registers) and AccelForge 1.0 (K and C on
the array; two layers for part of its space) are quoted from runs of the released tools on two cores; they are not
measured here, and only known for ``edge-256``. Compared: EDP above the floor of ``cost_model.bounds.lower_bound``, at
batch 1, int16: our certified optimum with perfect factors and with any factors, and two baselines: the default mapping,
and the best of as many random mappings as the search with any factors priced (median and range of five seeds).
Budget: none, each search runs until its proof is complete. Expected time: 20 s on ``edge-256``, one minute on
``dmazerunner-256``, and once a minute more to compile; ``--quick`` runs three layers.

Differences from the original setup: each tool prices by its own model, so that a percentage says how far a tool gets
under its own rules. Ours charges the load before the first pass and the store after the last, fill and drain of the
registers in each pass, loads of no more than one pass ahead, banks of 2 KiB, and the rows and columns that a stride
skips, which a rectangular tile brings along. To see what is behind a layer where ours is higher, a second table splits
what perfect factors are above the floor, in percent of the floor's cycles or energy: ``idle PEs`` that the factors
leave out; ``fill, drain`` per pass; ``first, last`` transfers that nothing hides; ``waits`` all other stalls; ``DRAM
pJ`` words moved again, or skipped by a stride and yet moved; ``chip pJ`` the rest.

    python benchmarks/exact_peers.py [--quick] [--csv FILE] [--arch NAME]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd

from cost_model.analytical.model import AnalyticalModel, evaluate_batch
from cost_model.bounds import lower_bound, touched_elems
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.report.breakdown import explain
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

LAYERS = {
    "conv1": (64, 3, 112, 7, 2), "64 3x3 @56": (64, 64, 56, 3, 1), "64-128 3x3/2": (128, 64, 28, 3, 2),
    "128 3x3 @28": (128, 128, 28, 3, 1), "64-128 1x1/2": (128, 64, 28, 1, 2), "128-256 3x3/2": (256, 128, 14, 3, 2),
    "256 3x3 @14": (256, 256, 14, 3, 1), "128-256 1x1/2": (256, 128, 14, 1, 2), "256-512 3x3/2": (512, 256, 7, 3, 2),
    "512 3x3 @7": (512, 512, 7, 3, 1), "256-512 1x1/2": (512, 256, 7, 1, 2),
}  # fmt: skip
"""(output channels, input channels, output rows and columns, filter rows and columns, stride)."""

QUOTED = (
    ("conv1", "ZigZag", 21, 9.6), ("64 3x3 @56", "ZigZag", 34, 9.5), ("64-128 3x3/2", "ZigZag", 29, 9.8),
    ("128 3x3 @28", "ZigZag", 26, 10.0), ("64-128 1x1/2", "ZigZag", 28, 8.3), ("256 3x3 @14", "ZigZag", 32, 9.5),
    ("512 3x3 @7", "ZigZag", 5, 9.4), ("256-512 1x1/2", "ZigZag", 18, 3.5),
    ("64-128 1x1/2", "AccelForge", 30, 56.5), ("256 3x3 @14", "AccelForge", 14, 125),
    ("512 3x3 @7", "AccelForge", 4, 108), ("256-512 1x1/2", "AccelForge", 16, 33),
)  # fmt: skip
"""(layer, mapper, EDP above the floor in percent, seconds)."""


NUM_SEEDS = 5


def measure(name: str, arch: Arch, commit: str) -> list[dict[str, object]]:
    """All rows of ours for one layer."""
    k, c, out, taps, stride = LAYERS[name]
    workload = Workload.conv2d(
        K=k, C=c, OY=out, OX=out, FY=taps, FX=taps, stride=stride, padding=taps // 2, IY=stride * out, IX=stride * out
    )
    rows = []
    for searcher, perfect in (("perfect", True), ("any", False)):
        start = time.monotonic()
        result = exact_search(Case(workload=workload, arch=arch), perfect=perfect)
        row = row_of(name, workload, arch, commit, searcher, result.mapping)
        rows.append(row | {"wall_s": time.monotonic() - start, "certified": result.certified,
                           "budget_trials": result.num_evaluated})  # fmt: skip
    space = MapSpace(workload=workload, arch=arch)
    default = space.require_default()
    rows.append(row_of(name, workload, arch, commit, "default", default) | {"budget_trials": 1})
    for seed in range(NUM_SEEDS):
        start = time.monotonic()
        best = best_of_random(space, np.random.default_rng(seed), result.num_evaluated)
        if best is not None:
            row = row_of(name, workload, arch, commit, "random", best)
            rows.append(row | {"seed": seed, "wall_s": time.monotonic() - start,
                               "budget_trials": result.num_evaluated})  # fmt: skip
    return rows


def best_of_random(space: MapSpace, rng: np.random.Generator, trials: int) -> Mapping | None:
    """The best of so many random mappings."""
    batch = space.sample(rng, trials)
    batch = batch.take(space.check(batch) == 0)
    if batch.num_mappings == 0:
        return None
    cost = evaluate_batch(space.workload, space.arch, batch)
    return decode(batch, int(np.argmin(cost.energy_pj * cost.cycles)))


def row_of(
    name: str, workload: Workload, arch: Arch, commit: str, searcher: str, mapping: Mapping
) -> dict[str, object]:
    """One row, and what the mapping loses where."""
    cost = AnalyticalModel().cost(workload, arch, mapping)
    floors = {objective: lower_bound(workload, arch, objective) for objective in ("edp", "energy", "latency")}
    taken = explain(workload, arch, mapping)
    ends, fills = (sum(map(taken.cycles_of, reasons)) for reasons in (("first load", "last store"), ("fill", "drain")))
    compute = taken.cycles_of("compute")
    moved = (workload.I, workload.W, workload.final_projection())
    words = sum(touched_elems(p, workload.dims) * p.elem_bits for p in moved) / arch.word_bits
    dram_pj = cost.energy.dram_pj - words * arch.levels.DRAM.access_pj
    return {
        "commit": commit,
        "arch": arch.name,
        "arch_sha256": arch.sha256()[:12],
        "workload": name,
        "searcher": searcher,
        "sim_calls": 0,
        "cycles": cost.cycles,
        "energy_pj": cost.energy_pj,
        "edp_pj_cycles": cost.edp_pj_cycles,
        "floor_edp": floors["edp"],
        "above_%": 100 * (cost.edp_pj_cycles / floors["edp"] - 1),
        "idle PEs": 100 * (compute / floors["latency"] - 1),
        "fill, drain": 100 * fills / floors["latency"],
        "first, last": 100 * ends / floors["latency"],
        "waits": 100 * (cost.cycles - compute - fills - ends) / floors["latency"],
        "DRAM pJ": 100 * dram_pj / floors["energy"],
        "chip pJ": 100 * (cost.energy_pj - floors["energy"] - dram_pj) / floors["energy"],
        "mapping": mapping.line(),
        "source": "analytical",
    }


def quoted(layers: list[str]) -> list[dict[str, object]]:
    """Rows of the others."""
    return [
        {"workload": layer, "searcher": mapper, "above_%": above, "wall_s": seconds, "source": "quoted"}
        for layer, mapper, above, seconds in QUOTED
        if layer in layers
    ]


def print_tables(table: pd.DataFrame) -> None:
    """Ours beside what others report, and what is behind ours."""
    ours, shown = {}, pd.DataFrame(index=pd.Index(table["workload"].unique(), name="workload"))
    for searcher in ("perfect", "any"):
        ours[searcher] = table[table["searcher"] == searcher].set_index("workload")
        shown[f"{searcher} EDP"], shown[f"{searcher} +%"] = ours[searcher]["edp_pj_cycles"], ours[searcher]["above_%"]
        shown[f"{searcher} s"], shown[f"{searcher} proof"] = ours[searcher]["wall_s"], ours[searcher]["certified"]
    shown["default +%"] = table[table["searcher"] == "default"].set_index("workload")["above_%"]
    drawn = table[table["searcher"] == "random"].groupby("workload")["above_%"]
    shown["random +%"], shown["from"], shown["to"] = drawn.median(), drawn.min(), drawn.max()
    for mapper in table[table["source"] == "quoted"]["searcher"].unique():
        rows = table[table["searcher"] == mapper].set_index("workload")
        shown[f"{mapper} (quoted) +%"], shown[f"{mapper} (quoted) s"] = rows["above_%"], rows["wall_s"]
    print(shown.to_string(float_format=lambda value: f"{value:.4g}", na_rep=""))
    print("\nperfect factors above the floor, in percent of the floor's cycles and energy")
    split = ["idle PEs", "fill, drain", "first, last", "waits", "DRAM pJ", "chip pJ"]
    print(ours["perfect"][split].to_string(float_format=lambda value: f"{value:.1f}"))
    saved = ours["any"]["edp_pj_cycles"] / ours["perfect"]["edp_pj_cycles"]
    print(f"EDP with any factors over that with perfect ones: geometric mean {np.exp(np.log(saved).mean()):.4f}")
    for searcher, rows in ours.items():
        print(
            f"{searcher}: {rows['wall_s'].sum():.1f} s for {len(rows)} layers, all certified: {rows['certified'].all()}"
        )


def main() -> None:
    """Search, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", default="edge-256")
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    arch = load_arch(options.arch)
    start = time.process_time()
    exact_search(Case(workload=Workload.matmul(m=2, k=2, n=2), arch=arch), perfect=False)
    print(f"compile or load: {time.process_time() - start:.1f} s CPU", flush=True)
    layers = list(LAYERS)[-3:] if options.quick else list(LAYERS)
    rows = [row for name in layers for row in measure(name, arch, commit)]
    table = pd.DataFrame(rows + (quoted(layers) if arch.name == "edge-256" else []))
    if options.csv:
        table.to_csv(options.csv, index=False)
    print_tables(table)


if __name__ == "__main__":
    main()
