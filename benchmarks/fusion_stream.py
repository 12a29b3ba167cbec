"""ResNet-18 on four cores: groups of layers against layer by layer, and the time to find them.

Source: Stream 2.1, as re-measured: ResNet-18 fused on a quad core 1.64x faster than layer by layer, found in 32 s. Its
machine, its scheduling of layers side by side on different cores and its cost model are others, so the two speedups
stand beside each other and are not blended.
Compared, on ``quad-edge``, int16, batch 1, least latency: (a) every layer alone in its certified best mapping on up to
four cores (exact search under the analytical model, timed by the simulator; vector work on all cores), (b) every layer
alone as a group of one, (c) the optimal plan of groups. (b) and (c) share one search and one simulator.
Budget: groups of at most ten layers (``MAX_GROUP``).
Expected time: about a minute; ``--quick`` is AlexNet, which is smaller.

    python benchmarks/fusion_stream.py [--quick] [--csv FILE] [--pictures DIR]
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from pathlib import Path

import pandas as pd

from cost_model.simulator import SimulatorModel
from tvm_spm.arch import Arch, load_arch
from tvm_spm.exact import exact_search
from tvm_spm.layer_graph import Layer, LayerGraph
from tvm_spm.reproduce.dlfusion_networks import network_graph
from tvm_spm.reproduce.dlfusion_plans import plan_row, plan_with_groups
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.picture import grouped_bars, save
from tvm_spm.reproduce.runs import COLUMNS, source_commit
from tvm_spm.reproduce.script import script_text
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import VectorWork, Workload

EXPECTED = Path(__file__).parent / "expected" / "fusion_stream.csv"
ARCH_NAME, DTYPE = "quad-edge", "int16"
EXACT_ALONE, GROUPS_OF_ONE, FUSED = "layer by layer, exact mappings", "layer by layer, groups of one", "fused"
MAX_GROUP = 10
STREAM_SPEEDUP, STREAM_SECONDS = 1.64, 32


def run(quick: bool) -> pd.DataFrame:
    """One row per way."""
    network = "alexnet" if quick else "resnet18"
    arch, graph = load_arch(ARCH_NAME), network_graph(network, DTYPE)
    _warm_up(arch)
    rows = [exact_row(graph, arch, network)]
    for name, most in ((GROUPS_OF_ONE, 1), (FUSED, MAX_GROUP)):
        begin = time.perf_counter()
        plan = plan_with_groups(graph, arch, "latency", max_group=most, known={})
        seconds = time.perf_counter() - begin
        rows.append({**plan_row(plan, arch, network, DTYPE, name, "latency"), "wall_s": round(seconds, 3)})
    rows = [{"commit": source_commit(), **row} for row in rows]
    extra = [name for name in rows[-1] if name not in COLUMNS]
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra]).fillna("")


def exact_row(graph: LayerGraph, arch: Arch, network: str) -> dict[str, object]:
    """Every layer alone, in the mapping of least latency under the analytical model, timed by the simulator."""
    begin, model = time.perf_counter(), SimulatorModel()
    costs: dict[Hashable, object] = {}
    found = []
    for layer in graph.layers:
        work = layer.workload if layer.workload is not None else vector_work(graph, layer)
        if work not in costs:
            if isinstance(work, Workload):
                mapping = exact_search(work, arch, objective="latency").mapping
                costs[work] = model.cost(work, arch, mapping)
            else:
                costs[work] = model.vector_cost(work, arch)
        found.append(costs[work])
    cycles, energy_pj = sum(cost.cycles for cost in found), sum(cost.energy_pj for cost in found)
    dram = [sum(cost.dram_bytes[part] for cost in found) for part in range(4)]
    return {
        "arch": arch.name, "arch_sha256": arch.sha256(), "workload": f"{network}, batch 1, {DTYPE}", "layer": network,
        "objective": "latency", "searcher": EXACT_ALONE, "seed": 0, "budget_trials": len(costs),
        "wall_s": round(time.perf_counter() - begin, 3), "cycles": cycles, "energy_pj": energy_pj,
        "edp_pj_cycles": cycles * energy_pj, "source": "simulated", "num_groups": len(found), "longest_group": 1,
        "dram_bytes": sum(dram), "weight_bytes": dram[1], "recompute_share": 0.0,
    }  # fmt: skip


def vector_work(graph: LayerGraph, layer: Layer) -> VectorWork:
    """What a vector layer asks for when it runs alone: every tensor it reads once."""

    def num_bytes(index: int) -> int:
        elems = 1
        for extent in graph.tensors[index].shape:
            elems *= extent
        return bits_to_bytes(elems * graph.tensors[index].elem_bits)

    elems = 1
    for extent in graph.tensors[layer.output].shape:
        elems *= extent
    return VectorWork(
        operator=layer.name,
        read_bytes=sum(num_bytes(index) for index in sorted({read.tensor for read in layer.reads})),
        write_bytes=num_bytes(layer.output),
        num_ops=elems * layer.num_ops_per_elem,
    )


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """The three ways, then Stream's two numbers."""
    fused = frame[frame["searcher"] == FUSED].iloc[0]
    rows = [
        {
            "way": run["searcher"],
            "cycles": run["cycles"],
            "fused is faster by": f"{run['cycles'] / fused['cycles']:.3f}x",
            "energy": f"{run['energy_pj'] / fused['energy_pj']:.3f}x",
            "DRAM MB": f"{run['dram_bytes'] / 1e6:.2f}",
            "groups": int(run["num_groups"]),
            "longest": int(run["longest_group"]),
            "recomputed": f"{run['recompute_share']:.1%}",
            "seconds": float(run["wall_s"]),
        }
        for _, run in frame.iterrows()
    ]
    quoted = pd.DataFrame(
        [{"reported by": "Stream 2.1, re-measured", "speedup": f"{STREAM_SPEEDUP}x", "seconds": float(STREAM_SECONDS)}]
    )
    return [
        PaperTable(
            title=f"{fused['layer']} on {ARCH_NAME}, {DTYPE}, batch 1, least latency",
            frame=pd.DataFrame(rows),
            notes=(
                "seconds: each way searched from nothing, compiled code loaded before.",
                f"plan: {fused['mapping']}",
            ),
        ),
        PaperTable(title="Fusion of ResNet-18 on a quad core as reported (quoted; another machine)", frame=quoted),
    ]


def draw(frame: pd.DataFrame, out_dir: Path) -> Sequence[Path]:
    """Speedup of the fused plan over both ways without fusion."""
    fused = frame[frame["searcher"] == FUSED].iloc[0]
    ways = [EXACT_ALONE, GROUPS_OF_ONE]
    ratios = [frame[frame["searcher"] == way].iloc[0]["cycles"] / fused["cycles"] for way in ways]
    title = f"{fused['layer']} on {ARCH_NAME}"
    figure = grouped_bars(ways, [("least latency", {"fused": ratios})], label="speedup by fusion", title=title)
    return save(figure, out_dir, "fusion_stream")


def _warm_up(arch: Arch) -> None:
    """Load compiled code, so that no way is charged for it."""
    from tvm_spm.reproduce.dlfusion_calibration import conv_chain

    work = Workload.matmul(m=2, k=2, n=2)
    SimulatorModel().cost(work, arch, exact_search(work, arch, objective="latency").mapping)
    plan_with_groups(conv_chain([(4, 4, 4, 3), (4, 4, 4, 1)], DTYPE), arch, "latency", max_group=2, known={})


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables, draw))
