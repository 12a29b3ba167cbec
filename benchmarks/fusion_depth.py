"""Time to cut a network into fused groups, against its depth, for latency, energy and EDP.

Source: ours; nothing published is compared. The networks are random, of 10 to 500 layers, groups of up to 12 layers,
10 to 20 options per group, three seeds each. ``trade-off``: three of ten longer groups are refused, and options lie
around a curve that falls from fast to frugal, as those of tilings and core counts do. ``convex``: nothing is refused
and, but for the rounding of cycles, no option beats another or lies inside the hull of its list, so that none can be
dropped beforehand. Planning is exact. Times are CPU seconds, medians over seeds, and include reading the options.
Expected time: one minute; ``--quick`` takes seconds and stops at 60 layers.

    python benchmarks/fusion_depth.py [--quick] [--csv FILE] [--plot FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from tvm_spm.fusion.planner import FusionPlan, GroupOption, plan_groups

DEPTHS = (10, 20, 40, 60, 100, 200, 300, 500)
OBJECTIVES = ("latency", "energy", "edp")
KINDS = ("trade-off", "convex")
MAX_GROUP = 12

Options = dict[tuple[int, int], list[GroupOption]]


def draw_options(kind: str, num_layers: int, seed: int) -> Options:
    """Options of every group; a group costs half to a bit more of what its layers cost alone."""
    rng = np.random.default_rng((seed, num_layers, KINDS.index(kind)))
    cycles, energy_pj = rng.lognormal(11, 1, num_layers), rng.lognormal(17, 1, num_layers)
    options: Options = {}
    for first in range(num_layers):
        for stop in range(first + 1, min(first + MAX_GROUP, num_layers) + 1):
            if kind == "trade-off" and stop > first + 1 and rng.random() < 0.3:
                continue
            count = int(rng.integers(10, 21))
            speed = np.sort(rng.uniform(size=count))
            gain, noise = rng.uniform(0.5, 1.2), rng.uniform(0.97, 1.03, count) if kind == "trade-off" else 1.0
            all_cycles = cycles[first:stop].sum() * gain * (0.6 + 1.2 * speed)
            all_energy = energy_pj[first:stop].sum() * gain * (0.5 + 1 / (1 + 3 * speed)) * noise
            options[first, stop] = [
                GroupOption(cycles=int(c), energy_pj=float(e)) for c, e in zip(all_cycles, all_energy, strict=True)
            ]
    return options


def plan(options: Options, num_layers: int, objective: str) -> tuple[FusionPlan, float]:
    """A plan, and the CPU seconds it took."""
    start = time.process_time()
    found = plan_groups(num_layers, lambda *span: options.get(span, ()), objective, MAX_GROUP)
    return found, time.process_time() - start


def measure(kind: str, num_layers: int, seed: int, commit: str) -> list[dict[str, object]]:
    """One row per objective."""
    options = draw_options(kind, num_layers, seed)
    rows: list[dict[str, object]] = []
    for objective in OBJECTIVES:
        found, plan_s = plan(options, num_layers, objective)
        rows.append({
            "commit": commit, "kind": kind, "layers": num_layers, "seed": seed, "objective": objective,
            "intervals": found.num_intervals, "options": found.num_options, "groups": len(found.groups),
            "sweeps": found.num_sweeps, "cycles": found.cycles, "energy_pj": found.energy_pj,
            "edp_pj_cycles": found.edp_pj_cycles, "plan_s": plan_s,
        })  # fmt: skip
    return rows


def draw(table: pd.DataFrame, path: Path) -> None:
    """Median seconds against layers; a colour per objective, a line style per kind of network."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for kind, style in zip(KINDS, ("-", "--"), strict=True):
        part = table[table["kind"] == kind]
        lines = {name: part[part["objective"] == name].groupby("layers")["plan_s"].median() for name in OBJECTIVES}
        for index, (name, seconds) in enumerate(lines.items()):
            label = f"{'EDP' if name == 'edp' else name}, {kind}"
            axes.plot(seconds.index, seconds, style, marker="o", markersize=3, color=f"C{index}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="layers", ylabel="CPU seconds to the proof, median of 3 seeds")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(fontsize=6, ncols=2)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Plan, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows: list[dict[str, object]] = []
    for num_layers in (depth for depth in DEPTHS if depth <= (60 if options.quick else max(DEPTHS))):
        for kind in KINDS:
            for seed in range(1 if options.quick else 3):
                rows += measure(kind, num_layers, seed, commit)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    if options.plot:
        draw(table, options.plot)
    keys = ["kind", "layers"]
    summary = table.pivot_table(index=keys, columns="objective", values="plan_s", aggfunc="median", sort=False)
    summary = summary[list(OBJECTIVES)].add_suffix("_s")
    edp = table[table["objective"] == "edp"].groupby(keys, sort=False)
    names = ["options", "groups", "sweeps"]
    summary = summary.join(edp[names].median()).sort_index(ascending=[False, True])
    formats = dict.fromkeys(names, "{:,.0f}".format) | {name: "{:.3f}".format for name in summary if name[-2:] == "_s"}
    print(summary.to_string(formatters=formats, na_rep="-"))


if __name__ == "__main__":
    main()
