"""DRAM traffic of five networks with and without fusion, on three machines.

Source: Cai et al.: Optimus, 17 % to 75 % less off-chip traffic from fusion (their abstract), on their networks and
machine; quoted beside ours, not compared in one column.
Compared: every layer alone, and the plan of groups of least energy; both choose mappings of least energy from the same
search over group mappings and are priced by the same simulator of groups. Batch 1, 224 x 224; int16 on the two edge
machines, float16 on mlu100-32, whose on-chip sizes are assumed. A layer that fits no group of one (groups keep the
whole of a sum in the scratchpad, 25,088 inputs in VGG-19) has the certified mapping of least energy in both.
Budget: groups of at most eight layers (``MAX_GROUP``).
Expected time: some minutes on two cores; ``--quick`` is one network on one machine.
Differences: the plan minimises energy, of which DRAM is the largest part, and not the bytes themselves.

    python benchmarks/fusion_traffic.py [--quick] [--csv FILE] [--pictures DIR]
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from group_plans import exact_costs, layers_without_group, plan_row, plan_with_groups
from paper_script import script_text

from tvm_spm.arch import load_arch
from tvm_spm.reproduce.dlfusion.networks import network_graph
from tvm_spm.reproduce.dlfusion.setup import NETWORKS
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.picture import ratio_bars, save
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit

EXPECTED = Path(__file__).parent / "expected" / "fusion_traffic.csv"
MACHINES = {"edge-256": "int16", "quad-edge": "int16", "mlu100-32": "float16"}
ALONE, FUSED = "layer by layer", "fused"
MAX_GROUP = 8
OPTIMUS_LEAST, OPTIMUS_MOST = 0.17, 0.75


def rows_of(case: tuple[str, str]) -> list[dict[str, object]]:
    """Without and with fusion, for one network on one machine."""
    network, machine = case
    arch, graph = load_arch(machine), network_graph(network, MACHINES[machine])
    rows, known = [], {}
    alone = exact_costs(graph, arch, "energy", layers_without_group(graph, arch, "energy", known))
    for name, most in ((ALONE, 1), (FUSED, MAX_GROUP)):
        begin = time.perf_counter()
        plan = plan_with_groups(graph, arch, "energy", max_group=most, known=known, alone=alone)
        row = plan_row(plan, arch, network, MACHINES[machine], name, "energy")
        rows.append({**row, "wall_s": round(time.perf_counter() - begin, 3)})
    return rows


def run(quick: bool) -> pd.DataFrame:
    """All rows, or one network on one machine."""
    cases = [(network, machine) for machine in MACHINES for network in NETWORKS]
    if quick:
        found = [rows_of(("alexnet", "edge-256"))]
    else:
        with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
            found = list(pool.map(rows_of, cases))
    rows = [{"commit": source_commit(), **row} for each in found for row in each]
    extra = [name for name in rows[0] if name not in COLUMNS]
    return make_frame(rows, [*COLUMNS, *extra])


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """Bytes, and their change."""
    rows = []
    for machine in MACHINES:
        for network in NETWORKS:
            pair = _pair(frame, machine, network)
            if pair is None:
                continue
            alone, fused = pair
            rows.append(
                {
                    "arch": machine,
                    "network": network,
                    "DRAM MB, alone": f"{alone['dram_bytes'] / 1e6:.2f}",
                    "DRAM MB, fused": f"{fused['dram_bytes'] / 1e6:.2f}",
                    "change": f"{fused['dram_bytes'] / alone['dram_bytes'] - 1:+.1%}",
                    "of that weights, MB": f"{alone['weight_bytes'] / 1e6:.2f} -> {fused['weight_bytes'] / 1e6:.2f}",
                    "energy": f"{fused['energy_pj'] / alone['energy_pj'] - 1:+.1%}",
                    "cycles": f"{fused['cycles'] / alone['cycles'] - 1:+.1%}",
                    "groups": f"{alone['num_groups']} -> {fused['num_groups']}",
                    "seconds": float(fused["wall_s"]),
                }
            )
    return [
        PaperTable(
            title="DRAM bytes without and with fusion, plans of least energy, batch 1",
            frame=pd.DataFrame(rows),
            notes=(
                f"Optimus (Cai et al., quoted): -{OPTIMUS_LEAST:.0%} to -{OPTIMUS_MOST:.0%} off-chip traffic on their "
                "networks and machine.",
                "seconds: pricing and planning of the fused plan, beyond what the layers alone took.",
            ),
        )
    ]


def draw(frame: pd.DataFrame, out_dir: Path) -> Sequence[Path]:
    """Bytes without fusion over those with it."""
    ratios = {}
    for machine in MACHINES:
        pairs = [_pair(frame, machine, network) for network in NETWORKS]
        if all(pair is not None for pair in pairs):
            ratios[machine] = [pair[0]["dram_bytes"] / pair[1]["dram_bytes"] for pair in pairs if pair is not None]
    networks = NETWORKS if ratios else ("alexnet",)
    if not ratios:
        pair = _pair(frame, "edge-256", "alexnet")
        ratios = {"edge-256": [pair[0]["dram_bytes"] / pair[1]["dram_bytes"]]} if pair is not None else {}
    figure = ratio_bars(
        list(networks), ratios, label="DRAM bytes alone over fused", title="Fusion and DRAM, plans of least energy"
    )
    return save(figure, out_dir, "fusion_traffic")


def _pair(frame: pd.DataFrame, machine: str, network: str) -> tuple[pd.Series, pd.Series] | None:
    chosen = frame[(frame["arch"] == machine) & (frame["layer"] == network)]
    if chosen.empty:
        return None
    return tuple(chosen[chosen["searcher"] == name].iloc[0] for name in (ALONE, FUSED))


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables, draw))
