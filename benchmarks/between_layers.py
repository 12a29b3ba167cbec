"""What is left between layers: norms and gated products as one with their neighbours, the next weights loaded ahead.

Source: ours; nothing published is compared. Every layer is tuned alone, then the network is planned as ``tune`` plans
it, without making code. "Groups" are the intervals of layers that hold a norm or a product with an activation: what
the layers take apart, the best mapping of the group that a search with a bound finds, and by how much the EDP of the
whole network, every other layer alone, would fall (below zero: rise) if this group were fused; ``at most`` is the same
for the bound, which no mapping of the space passes; neither where nothing fits. "Norms" are what a norm that leaves
nothing in DRAM could save at most: all its cycles, as if the vector unit worked beside the array, and its reads and
writes of DRAM and those of its readers, once each. "Ahead" is what loading weights while the step before runs could
save, if there were room for both: per layer the cycles before the array starts, per group all that the array waits for
transfers, but no longer than DRAM takes for what no other step makes, or for one filling of all scratchpads.

Machines of 1 and 4 MiB are ``edge-256`` with that scratchpad and nothing else changed: larger memories take more energy
per access, so that this flatters fusion. Expected time: an hour on two cores for all; ``--quick`` takes a minute.

    python benchmarks/between_layers.py [--quick] [--arch NAME ...] [--case NAME ...] [--steps N] [--csv FILE]
                                        [--table groups norms ahead]
"""

from __future__ import annotations

import argparse
import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from cost_model.simulator import SimulatorModel
from tvm_spm import frontend
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost, dma_channels
from tvm_spm.frontend.models import dtype_of_word
from tvm_spm.fusion.network import Alone, FusedGroup, NetworkPlan, plan_network
from tvm_spm.fusion.proof import prove_group
from tvm_spm.graph import GraphTensor, LayerGraph
from tvm_spm.group import Group, refuse_group
from tvm_spm.objective import Objective
from tvm_spm.report.breakdown import explain
from tvm_spm.tuning.attention import attention_groups, plan_attention
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.tasks import tune_tasks
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import VectorWork

CASES: dict[str, tuple[str, dict[str, tuple[int, ...]] | None]] = {
    "ViT-Ti 197": ("vit_tiny_block", None),
    "BERT 128": ("bert_base_layer", None),
    "Llama decode 2,048": ("llama_layer_decode", None),
    "Llama prefill 512": ("llama_layer", None),
    "ResNet-18": ("resnet18", None),
}
"""Built-in networks, and shapes that differ from theirs."""

ARCHS = ("edge-256", "edge-256, 1 MiB", "edge-256, 4 MiB", "quad-edge", "mlu100-32")
MARKS = ("norm", "silu", "gelu")
MOST_LAYERS = 4
EVERY_TASK = TunerOptions(trials=2)

COLUMNS = {
    "groups": [
        "case", "arch", "layers", "cycles_apart", "cycles", "mj_apart", "mj", "edp_falls", "at_most", "certified",
    ],
    "norms": ["case", "arch", "cycles_of_norms", "energy_of_trips", "edp_falls_at_most"],
    "ahead": ["case", "arch", "cycles_apart", "cycles", "fused_with_marks", "array_waits", "ahead_at_most"],
}  # fmt: skip


def machine(name: str) -> Arch:
    """A preset, or one with more SPM."""
    preset, _, size = name.partition(", ")
    arch = load_arch(preset)
    if not size:
        return arch
    mib = int(size.split()[0])
    larger = replace(arch.levels.SPM, capacity_bytes=mib << 20)
    return replace(arch, name=f"{preset}-{mib}mib", levels=replace(arch.levels, SPM=larger))


def planned(case: str, arch: Arch) -> tuple[NetworkPlan, dict[int, int]]:
    """The plan of a network whose layers were tuned, and per task the cycles of its first loads."""
    name, shapes = CASES[case]
    extraction = frontend.extract(frontend.load_model(name, shapes=shapes, dtype=dtype_of_word(arch.word_bits)))
    outcomes = tune_tasks(extraction, arch, Objective.EDP, EVERY_TASK, Run()).outcomes
    attention, _ = plan_attention(extraction.mod, arch, objective=Objective.EDP, should_stop=lambda: False)
    late = {var for each in attention for var in each.site.bindings[:2]}
    layers = frontend.layer_graph(extraction, late=late)
    alone = []
    for node, times in zip(layers.node_of_layer, layers.times, strict=True):
        index = extraction.graph.nodes[node].task
        work = extraction.graph.tasks[index].work
        is_vector = isinstance(work, VectorWork)
        cost = SimulatorModel().vector_cost(work, arch) if is_vector else outcomes[index].cost
        num_cores = arch.cores.count if is_vector else outcomes[index].mapping.cores.product()
        alone.append(Alone(task=index, cost=cost, num_cores=num_cores, times=times))
    tasks = extraction.graph.tasks
    first_loads = {
        index: explain(tasks[index].work, arch, found.mapping).cycles_of("first load")
        for index, found in outcomes.items()
    }
    plan = plan_network(
        layers.graph, arch, "edp", alone, known=attention_groups(layers, arch, attention),
        why_not=lambda ways: [None] * len(ways),
    )  # fmt: skip
    return plan, first_loads


def apart(plan: NetworkPlan, layers: Iterable[int]) -> tuple[int, float]:
    """Cycles and energy of layers that run alone, as often as they do."""
    costs = [(plan.alone[index].cost, plan.alone[index].times) for index in layers]
    known = [(cost, times) for cost, times in costs if cost is not None]
    return sum(cost.cycles * times for cost, times in known), sum(cost.energy_pj * times for cost, times in known)


def num_bytes_of(tensor: GraphTensor) -> int:
    """Of all its elements."""
    return bits_to_bytes(math.prod(tensor.shape) * tensor.elem_bits)


def is_marked(graph: LayerGraph, layers: Sequence[int]) -> bool:
    """Whether a norm or a product with an activation is among the layers."""
    return any(mark in graph.layers[index].name for index in layers for mark in MARKS)


def group_rows(plan: NetworkPlan, arch: Arch, most_steps: int) -> Iterator[dict[str, object]]:
    """One per interval that could be a group."""
    graph, seen = plan.graph, set()
    whole_cycles, whole_pj = apart(plan, range(len(graph.layers)))
    for first in range(len(graph.layers)):
        for stop in range(first + 2, min(first + MOST_LAYERS, len(graph.layers)) + 1):
            names = " > ".join(layer.name for layer in graph.layers[first:stop])
            if (
                names in seen
                or not is_marked(graph, range(first, stop))
                or refuse_group(Group.interval(graph, first, stop)) is not None
            ):
                continue
            seen.add(names)
            cycles, energy_pj = apart(plan, range(first, stop))
            rest_cycles, rest_pj = whole_cycles - cycles, whole_pj - energy_pj
            proof = prove_group(Group.interval(graph, first, stop), arch, most_steps=most_steps)
            row: dict[str, object] = {
                "layers": names,
                "cycles_apart": cycles,
                "mj_apart": energy_pj / 1e9,
                "certified": proof.certified,
            }
            if proof.cost is not None:
                cost = proof.cost.cost
                edp = (rest_cycles + cost.cycles) * (rest_pj + cost.energy_pj)
                row |= {
                    "cycles": cost.cycles, "mj": cost.energy_pj / 1e9, "edp_falls": 1 - edp / (whole_cycles * whole_pj),
                }  # fmt: skip
            # (a + c) (b + d) >= (sqrt(a b) + sqrt(c d)) ** 2, whatever of the group's EDP is time and what is energy.
            least = (math.sqrt(rest_cycles * rest_pj) + math.sqrt(proof.lower_bound)) ** 2
            yield row | ({"at_most": 1 - least / (whole_cycles * whole_pj)} if math.isfinite(least) else {})


def norm_row(plan: NetworkPlan, arch: Arch) -> dict[str, object]:
    """What norms could save."""
    graph = plan.graph
    norms = [index for index, layer in enumerate(graph.layers) if "norm" in layer.name]
    cycles, _ = apart(plan, norms)
    num_bytes = sum(
        num_bytes_of(graph.tensors[output]) * (2 + len(graph.consumers(output)))
        for output in (graph.layers[index].output for index in norms)
    )
    energy_pj = num_bytes * 8 / arch.word_bits * (arch.levels.DRAM.access_pj + arch.levels.SPM.access_pj)
    time_share, energy_share = cycles / plan.plan.cycles, energy_pj / plan.plan.energy_pj
    return {
        "cycles_of_norms": time_share, "energy_of_trips": energy_share,
        "edp_falls_at_most": 1 - (1 - time_share) * (1 - energy_share),
    }  # fmt: skip


def ahead_row(plan: NetworkPlan, first_loads: dict[int, int], arch: Arch) -> dict[str, object]:
    """What weights that are loaded ahead could save."""
    graph, waits, ahead, marked = plan.graph, 0.0, 0.0, []
    rate = arch.dma_bytes_per_cycle * dma_channels(arch)
    for layers, step in zip(plan.units, plan.plan.groups, strict=True):
        choice, alone = step.option.choice, plan.alone[layers[0]]
        cost: Cost | None = choice.cost if isinstance(choice, FusedGroup) else alone.cost
        if cost is None:
            continue
        first_load = cost.dma_stall_cycles if isinstance(choice, FusedGroup) else first_loads.get(alone.task, 0)
        if isinstance(choice, FusedGroup) and is_marked(graph, layers):
            marked.append("-".join(map(str, layers)))
        read = {
            each.tensor: graph.tensors[each.tensor] for index in layers
            for each in graph.layers[index].reads if graph.tensors[each.tensor].producer is None
        }  # fmt: skip
        weights = sum(map(num_bytes_of, read.values()))
        room = arch.levels.SPM.capacity_bytes * arch.cores.count
        waits += cost.dma_stall_cycles * alone.times
        ahead += min(first_load, weights / rate, room / rate) * alone.times
    return {
        "cycles_apart": apart(plan, range(len(graph.layers)))[0], "cycles": plan.plan.cycles,
        "fused_with_marks": " ".join(marked) or "none",
        "array_waits": waits / plan.plan.cycles, "ahead_at_most": ahead / plan.plan.cycles,
    }  # fmt: skip


def main() -> None:
    """Plan, write the rows and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--arch", nargs="*", choices=list(ARCHS), default=list(ARCHS))
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=2_000, help="of the search of one group")
    parser.add_argument("--table", nargs="*", choices=list(COLUMNS), default=list(COLUMNS))
    options = parser.parse_args()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    archs, cases = (["edge-256"], ["ViT-Ti 197"]) if options.quick else (options.arch, options.case)
    rows: list[dict[str, object]] = []
    for case in cases:
        for name in archs:
            arch = machine(name)
            plan, first_loads = planned(case, arch)
            found: list[tuple[str, dict[str, object]]] = [("ahead", ahead_row(plan, first_loads, arch))]
            if any(is_marked(plan.graph, [index]) for index in range(len(plan.graph.layers))):
                found += [("norms", norm_row(plan, arch))]
                if "groups" in options.table:
                    found += [("groups", row) for row in group_rows(plan, arch, options.steps)]
            about = {"commit": commit, "case": case, "arch": name, "arch_sha256": arch.sha256()[:12]}
            rows += [
                {**about, "table": table, **row, "source": "simulated"}
                for table, row in found
                if table in options.table
            ]
            print(case, name, f"{plan.value:.4g}", plan.optimality, flush=True)
            if options.csv:
                pd.DataFrame(rows).to_csv(options.csv, index=False)
    table = pd.DataFrame(rows)
    for kind, columns in COLUMNS.items():
        part = table[table["table"] == kind]
        if len(part):
            print(part[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
