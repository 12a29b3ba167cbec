"""What is left between layers: norms and gated products as one with their neighbours, the next weights loaded ahead.

Source: ours; nothing published is compared. Every layer is tuned alone, then the network is planned as ``tune`` plans
it, without making code. "Groups" are the intervals of layers that hold a norm or a product with an activation: what
the layers take apart, the best mapping of the group that a search with a bound finds, and by how much the EDP of the
whole network, every other layer alone, would fall (below zero: rise) if this group were fused; ``at most`` is the same
for the bound, which no mapping of the space passes; neither where nothing fits. "Norms" are what a norm that leaves
nothing in DRAM could save at most: all its cycles, as if the vector unit worked beside the array, and its reads and
writes of DRAM and those of its readers, once each. "Ahead" is what loading weights while the step before runs could
save, if there were room for both: per layer the cycles before the array starts, per group all that the array waits for
transfers, but no longer than DRAM takes for what no other step makes, or for one filling of all scratchpads. "Means" is
what means of channels could save that the vector unit adds up while the rows of their layer leave: the same plan and
mappings, one operation more an element of that layer, its sums stored behind its last row, and no mean; of layers that
are the last of their group. Sums of rows that lie on several cores would have to be added, which is not charged.

Machines of 1 and 4 MiB are ``edge-256`` with that scratchpad and nothing else changed: larger memories take more energy
per access, so that this flatters fusion. Expected time: an hour on two cores for all; ``--quick`` takes a minute.

    python benchmarks/between_layers.py [--quick] [--arch NAME ...] [--case NAME ...] [--steps N] [--csv FILE]
                                        [--table groups norms ahead means]

The case "squeeze-excite" needs ``PYTHONPATH=.``.
"""

from __future__ import annotations

import argparse
import math
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from kept_rows import read_rows, with_rows

from cost_model.fused import group_cost
from cost_model.simulator import SimulatorModel
from tvm_spm import frontend
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import dma_channels
from tvm_spm.frontend.extract import Extraction
from tvm_spm.frontend.models import dtype_of_word
from tvm_spm.fusion.network import Alone, FusedGroup, NetworkPlan, plan_network
from tvm_spm.fusion.proof import prove_group
from tvm_spm.graph import GraphTensor, LayerGraph
from tvm_spm.group import Group, GroupMapping, refuse_group
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.report.breakdown import explain
from tvm_spm.tuning.attention import attention_groups, plan_attention
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.tasks import tune_tasks
from tvm_spm.units import bits_to_bytes
from tvm_spm.workload import VectorWork, Workload

SQUEEZE_EXCITE = "squeeze-excite"
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]] | None]] = {
    "ViT-Ti 197": ("vit_tiny_block", None),
    "BERT 128": ("bert_base_layer", None),
    "Llama decode 2,048": ("llama_layer_decode", None),
    "Llama prefill 512": ("llama_layer", None),
    "ResNet-18": ("resnet18", None),
    "EfficientNet-B0": ("efficientnet_b0", None),
    SQUEEZE_EXCITE: ("twelve blocks of ``squeeze_excite.py``, float32", None),
}
"""Built-in networks but for the last, and shapes that differ from theirs."""

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
    "means": [
        "case", "arch", "means", "of_cycles", "of_energy", "dram_bytes", "cycles_fall", "energy_falls", "edp_falls",
    ],
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


def imported(case: str, arch: Arch) -> Extraction:
    """A network, in numbers as wide as the machine's words."""
    if case == SQUEEZE_EXCITE:
        from squeeze_excite import LARGE, network  # noqa: PLC0415

        return frontend.extract(frontend.load_model(network(LARGE, 224)))
    name, shapes = CASES[case]
    return frontend.extract(frontend.load_model(name, shapes=shapes, dtype=dtype_of_word(arch.word_bits)))


def planned(case: str, arch: Arch) -> tuple[NetworkPlan, dict[int, tuple[Workload, Mapping]]]:
    """The plan of a network whose layers were tuned, and their work and mappings by task."""
    extraction = imported(case, arch)
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
    mappings = {index: (tasks[index].work, found.mapping) for index, found in outcomes.items()}
    plan = plan_network(
        layers.graph, arch, "edp", alone, known=attention_groups(layers, arch, attention),
        why_not=lambda ways: [None] * len(ways),
    )  # fmt: skip
    return plan, mappings


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


def is_mean(graph: LayerGraph, index: int) -> bool:
    """Whether a layer is the mean, or the like, of each channel of one tensor."""
    layer = graph.layers[index]
    if layer.workload is not None or len(layer.reads) != 1 or not ("mean" in layer.name or "pool" in layer.name):
        return False
    read, written = (graph.tensors[tensor].shape[2:] for tensor in (layer.reads[0].tensor, layer.output))
    return math.prod(written) == 1 < math.prod(read)


def summed(
    plan: NetworkPlan, index: int, way: FusedGroup | None, mappings: dict[int, tuple[Workload, Mapping]], arch: Arch
) -> tuple[int, float]:
    """Cycles and energy that one operation more an element adds to a layer, alone or as the last of a group."""
    graph, layer, old = plan.graph, plan.graph.layers[index], plan.alone[index].cost
    if way is None:
        work, mapping = mappings[plan.alone[index].task]
        more = replace(work.epilogue, num_ops_per_elem=work.epilogue.num_ops_per_elem + 1)
        new = SimulatorModel().cost(replace(work, epilogue=more), arch, mapping)
    else:
        summing = replace(layer, num_ops_per_elem=layer.num_ops_per_elem + 1)
        layers = (*graph.layers[:index], summing, *graph.layers[index + 1 :])
        old, group = way.cost, Group(graph=replace(graph, layers=layers), layers=way.group.layers)
        assert isinstance(way.mapping, GroupMapping)
        new = group_cost(group, arch, way.mapping).cost
    assert old is not None
    return new.cycles - old.cycles, new.energy_pj - old.energy_pj


def mean_row(plan: NetworkPlan, mappings: dict[int, tuple[Workload, Mapping]], arch: Arch) -> dict[str, object]:
    """What means could save that are added up while the rows of their layer leave."""
    graph, ways = plan.graph, {way.group.layers: way for way in plan.groups}
    maker = {layer.output: index for index, layer in enumerate(graph.layers)}
    unit_of = {layers[-1]: layers for layers in plan.units}
    word_pj = (arch.levels.DRAM.access_pj + arch.levels.SPM.access_pj) / arch.word_bits
    num_means = cycles = more_cycles = num_bytes = 0
    energy_pj = more_pj = 0.0
    for index, layer in enumerate(graph.layers):
        cost, times = plan.alone[index].cost, plan.alone[index].times
        source = maker.get(layer.reads[0].tensor, -1) if is_mean(graph, index) else -1
        if cost is None or source not in unit_of or graph.layers[source].workload is None:
            continue
        added_cycles, added_pj = summed(plan, source, ways.get(unit_of[source]), mappings, arch)
        sums_bytes = 4 * math.prod(graph.tensors[layer.output].shape)
        stored_cycles = math.ceil(arch.burst_startup_cycles + sums_bytes / arch.dma_bytes_per_cycle)
        num_means, num_bytes = num_means + times, num_bytes + sum(cost.dram_bytes) * times
        cycles, energy_pj = cycles + cost.cycles * times, energy_pj + cost.energy_pj * times
        more_cycles += (added_cycles + stored_cycles) * times
        more_pj += (added_pj + 8 * sums_bytes * word_pj) * times
    whole_cycles, whole_pj = plan.plan.cycles, plan.plan.energy_pj
    shares = (cycles - more_cycles) / whole_cycles, (energy_pj - more_pj) / whole_pj
    return {
        "means": num_means, "of_cycles": cycles / whole_cycles, "of_energy": energy_pj / whole_pj,
        "dram_bytes": num_bytes, "cycles_fall": shares[0], "energy_falls": shares[1],
        "edp_falls": 1 - (1 - shares[0]) * (1 - shares[1]),
    }  # fmt: skip


def ahead_row(plan: NetworkPlan, mappings: dict[int, tuple[Workload, Mapping]], arch: Arch) -> dict[str, object]:
    """What weights that are loaded ahead could save."""
    graph, waits, ahead, marked = plan.graph, 0.0, 0.0, []
    first_loads = {
        task: explain(work, arch, mapping).cycles_of("first load") for task, (work, mapping) in mappings.items()
    }
    rate = arch.dma_bytes_per_cycle * dma_channels(arch)
    ways = {way.group.layers: way for way in plan.groups}
    for layers in plan.units:
        way, alone = ways.get(layers), plan.alone[layers[0]]
        cost = alone.cost if way is None else way.cost
        if cost is None:
            continue
        first_load = first_loads.get(alone.task, 0) if way is None else cost.dma_stall_cycles
        if way is not None and is_marked(graph, layers):
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
    table = read_rows(options.csv)
    for case in cases:
        for name in archs:
            arch = machine(name)
            plan, mappings = planned(case, arch)
            found: list[tuple[str, dict[str, object]]] = [
                ("ahead", ahead_row(plan, mappings, arch)), ("means", mean_row(plan, mappings, arch))
            ]  # fmt: skip
            if any(is_marked(plan.graph, [index]) for index in range(len(plan.graph.layers))):
                found += [("norms", norm_row(plan, arch))]
                if "groups" in options.table:
                    found += [("groups", row) for row in group_rows(plan, arch, options.steps)]
            about = {"commit": commit, "case": case, "arch": name, "arch_sha256": arch.sha256()[:12]}
            made = [
                {**about, "table": kind, **row, "source": "simulated"} for kind, row in found if kind in options.table
            ]  # fmt: skip
            table = with_rows(options.csv, table, made, ["table", "case", "arch"])
            print(case, name, f"{plan.value:.4g}", plan.optimality, flush=True)
    for kind, columns in COLUMNS.items():
        part = table[table["table"] == kind]
        if len(part):
            print(part[columns].to_string(index=False, float_format=lambda value: f"{value:.4g}"))


if __name__ == "__main__":
    main()
