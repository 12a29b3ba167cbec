"""ResNet-18 on four cores: groups of layers against layer by layer, and the time to find them.

Source: Stream 2.1, as re-measured: ResNet-18 fused on a quad core 1.64x faster than layer by layer, found in 32 s. Its
machine, its scheduling of layers side by side on different cores and its cost model are others, so the two speedups
stand beside each other and are not blended.
Compared, on ``quad-edge``, int16, batch 1, least latency: every layer alone in its certified best mapping on up to four
cores (exact search under the analytical model, timed by the simulator; vector work on all cores); the optimal plan of
these and of groups of several layers; every layer alone as a group of one; the optimal plan of groups. Groups are
searched and simulated in one way throughout.
Budget: groups of at most ten layers (``MAX_GROUP``).
Expected time: about a minute; ``--quick`` is AlexNet, which is smaller.

    python benchmarks/fusion_stream.py [--quick] [--csv FILE] [--pictures DIR]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from group_plans import exact_costs, plan_row, plan_with_groups
from paper_script import script_text

from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.reproduce.dlfusion.networks import network_graph
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.picture import ratio_bars, save
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

EXPECTED = Path(__file__).parent / "expected" / "fusion_stream.csv"
ARCH_NAME, DTYPE = "quad-edge", "int16"
EXACT_ALONE, FUSED_OR_EXACT = "layer by layer, exact mappings", "groups, or exact mappings"
GROUPS_OF_ONE, FUSED = "layer by layer, groups of one", "groups"
BASELINE = {EXACT_ALONE: EXACT_ALONE, FUSED_OR_EXACT: EXACT_ALONE, GROUPS_OF_ONE: GROUPS_OF_ONE, FUSED: GROUPS_OF_ONE}
MAX_GROUP = 10
STREAM_SPEEDUP, STREAM_SECONDS = 1.64, 32


def run(quick: bool) -> pd.DataFrame:
    """One row per way."""
    network = "alexnet" if quick else "resnet18"
    arch, graph = load_arch(ARCH_NAME), network_graph(network, DTYPE)
    _warm_up(arch)
    begin = time.perf_counter()
    alone = exact_costs(graph, arch, "latency", range(len(graph.layers)))
    exact_s = time.perf_counter() - begin
    rows = []
    for name, most, own, more_s in (
        (EXACT_ALONE, 1, alone, exact_s),
        (FUSED_OR_EXACT, MAX_GROUP, alone, exact_s),
        (GROUPS_OF_ONE, 1, None, 0.0),
        (FUSED, MAX_GROUP, None, 0.0),
    ):
        begin = time.perf_counter()
        plan = plan_with_groups(graph, arch, "latency", max_group=most, known={}, alone=own)
        seconds = time.perf_counter() - begin + more_s
        rows.append({**plan_row(plan, arch, network, DTYPE, name, "latency"), "wall_s": round(seconds, 3)})
    rows = [{"commit": source_commit(), **row} for row in rows]
    extra = [name for name in rows[-1] if name not in COLUMNS]
    return make_frame(rows, [*COLUMNS, *extra])


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """The four ways, then Stream's two numbers."""
    of = {run["searcher"]: run for _, run in frame.iterrows()}
    rows = [
        {
            "way": name,
            "cycles": int(run["cycles"]),
            "speedup by fusion": f"{int(of[BASELINE[name]]['cycles']) / int(run['cycles']):.3f}x",
            "energy": f"{float(run['energy_pj']) / float(of[BASELINE[name]]['energy_pj']):.3f}x",
            "DRAM MB": f"{int(run['dram_bytes']) / 1e6:.2f}",
            "groups": int(run["num_groups"]),
            "longest": int(run["longest_group"]),
            "recomputed": f"{float(run['recompute_share']):.1%}",
            "seconds": float(run["wall_s"]),
        }
        for name, run in of.items()
    ]
    quoted = pd.DataFrame(
        [{"reported by": "Stream 2.1, re-measured", "speedup": f"{STREAM_SPEEDUP}x", "seconds": float(STREAM_SECONDS)}]
    )
    network = of[FUSED]["layer"]
    return [
        PaperTable(
            title=f"{network} on {ARCH_NAME}, {DTYPE}, batch 1, least latency",
            frame=pd.DataFrame(rows),
            notes=(
                "seconds: each way searched from nothing, compiled code loaded before.",
                f"plan of groups, or exact mappings: {of[FUSED_OR_EXACT]['mapping']}",
            ),
        ),
        PaperTable(title="Fusion of ResNet-18 on a quad core as reported (quoted; another machine)", frame=quoted),
    ]


def draw(frame: pd.DataFrame, out_dir: Path) -> Sequence[Path]:
    """Speedup of plans with fusion over those without, layers alone mapped in the same way."""
    cycles = {run["searcher"]: int(run["cycles"]) for _, run in frame.iterrows()}
    pairs = ((EXACT_ALONE, FUSED_OR_EXACT), (GROUPS_OF_ONE, FUSED))
    ratios = [cycles[alone] / cycles[fused] for alone, fused in pairs]
    figure = ratio_bars(
        [alone for alone, _ in pairs],
        {"with groups over without": ratios},
        label="speedup by fusion",
        title=f"{frame.iloc[0]['layer']} on {ARCH_NAME}, least latency",
    )
    return save(figure, out_dir, "fusion_stream")


def _warm_up(arch: Arch) -> None:
    """Load compiled code, so that no way is charged for it."""
    from tvm_spm.reproduce.dlfusion.synthetic import conv_chain

    work = Workload.matmul(m=2, k=2, n=2)
    SimulatorModel().cost(work, arch, exact_search(Case(workload=work, arch=arch, objective=Objective.LATENCY)).mapping)
    plan_with_groups(conv_chain([(4, 4, 4, 3), (4, 4, 4, 1)], DTYPE), arch, "latency", max_group=2, known={})


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables, draw))
