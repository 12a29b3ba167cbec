"""What open pages of DRAM change for the convolutions of ResNet-18 and the layers of MobileNet-V2.

Source: ours; the memories are those of the presets, whose numbers are JEDEC's. Per layer, batch 1, int16: the
certified optimum (perfect factors, least EDP) for the same memory without pages, which costs the same wherever a run
lies; that mapping with them; and the best one of the same factors that a search found which simulates them,
``--trials`` a layer (0: none). ``hits`` is the share of blocks of a bank whose row was open, ``gap`` how far a
mapping is above the certified bound. Networks are sums over layers, each as often as it occurs. Budget: ``--limit``
seconds per exact search, 60 unless given. Expected time: five minutes; ``--quick`` maps three layers on one memory.

    python benchmarks/open_pages.py [--quick] [--csv FILE] [--arch NAME ...] [--trials N] [--limit SECONDS]
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
from exact_networks import conv, mobilenet_v2
from exact_peers import LAYERS

from cost_model.simulator import account
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.mapping import Mapping
from tvm_spm.space.case import Case
from tvm_spm.tuner import search
from tvm_spm.workload import Workload

ARCHS = ("edge-256-ddr4", "edge-256-lpddr4")

RESNET_18 = {"64 3x3 @56": 4, "128 3x3 @28": 3, "256 3x3 @14": 3, "512 3x3 @7": 3}
"""Layers that occur more than once."""


def networks(*, quick: bool) -> dict[str, dict[Workload, int]]:
    """Distinct layers, and how often each occurs."""
    resnet = {
        conv(k, c, out, taps, stride): RESNET_18.get(name, 1) for name, (k, c, out, taps, stride) in LAYERS.items()
    }
    if quick:
        return {"resnet18, last layers": dict(list(resnet.items())[-3:])}
    return {"resnet18": resnet, "mobilenet_v2": dict(Counter(mobilenet_v2()))}


def without_pages(arch: Arch) -> Arch:
    """The same memory, but that it makes no difference where a run lies."""
    return replace(arch, levels=replace(arch.levels, DRAM=replace(arch.levels.DRAM, pages=None)))


def measure(workload: Workload, arch: Arch, options: argparse.Namespace) -> list[dict[str, object]]:
    """The certified mapping without pages and with them, and the best one measured with them."""
    start = time.monotonic()
    found = exact_search(Case(workload=workload, arch=without_pages(arch)), time_limit_s=options.limit)
    rows = [row_of("without pages", workload, without_pages(arch), found.mapping)]
    rows.append(row_of("with pages", workload, arch, found.mapping))
    if options.trials:
        best = search(workload, arch, trials=options.trials)
        rows.append(row_of("searched with pages", workload, arch, best.mapping))
    seconds = time.monotonic() - start
    return [row | {"certified": found.certified, "lower_bound": found.lower_bound, "wall_s": seconds} for row in rows]


def row_of(what: str, workload: Workload, arch: Arch, mapping: Mapping) -> dict[str, object]:
    """One mapping on one memory."""
    run = account(workload, arch, mapping)
    return {
        "arch": arch.name, "arch_sha256": arch.sha256()[:12], "workload": str(workload), "what": what,
        "cycles": run.cost.cycles, "energy_pj": run.cost.energy_pj, "edp_pj_cycles": run.cost.edp_pj_cycles,
        "blocks": run.counts.blocks, "misses": run.counts.misses, "mapping": mapping.line(),
    }  # fmt: skip


def print_table(table: pd.DataFrame) -> None:
    """One line a layer and memory, then the networks."""
    for (arch, network), rows in table.groupby(["arch", "network"], sort=False):
        print(f"{network} on {arch}")
        for workload, layer in rows.groupby("workload", sort=False):
            ideal = layer.iloc[0]
            shown = [
                f"{each.what} {each.cycles / ideal.cycles - 1:+.1%} cycles, {1 - each.misses / each.blocks:.1%} hits, "
                f"gap {each.edp_pj_cycles / ideal.lower_bound - 1:.1%}"
                for each in layer.iloc[1:].itertuples()
            ]
            print(f"  {ideal['count']} x {workload}: {ideal.cycles:,} cycles; {'; '.join(shown)}")
        sums = {}
        for what, same in rows.groupby("what", sort=False):
            total = {name: (same[name] * same["count"]).sum() for name in ("cycles", "energy_pj", "blocks", "misses")}
            sums[what] = total | {"edp": total["cycles"] * total["energy_pj"]}
        ideal = sums["without pages"]
        for what, total in sums.items():
            hits = f", {1 - total['misses'] / total['blocks']:.1%} hits" if total["blocks"] else ""
            print(
                f"  {what}: {total['cycles'] / 1e6:.2f} Mcycles ({total['cycles'] / ideal['cycles']:.3f}x), EDP "
                f"{total['edp']:.4g} ({total['edp'] / ideal['edp']:.3f}x){hits}"
            )
        print(f"  all certified without pages: {rows['certified'].all()}; {rows['wall_s'].sum() / len(sums):.0f} s\n")


def main() -> None:
    """Search, write the rows and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", nargs="+", default=list(ARCHS))
    parser.add_argument("--trials", type=int, default=512)
    parser.add_argument("--limit", type=float, default=60.0)
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows = []
    for name in options.arch[: 1 if options.quick else None]:
        for network, layers in networks(quick=options.quick).items():
            for workload, count in layers.items():
                found = measure(workload, load_arch(name), options)
                rows += [{"commit": commit, "network": network, "count": count} | row for row in found]
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    print_table(table)


if __name__ == "__main__":
    main()
