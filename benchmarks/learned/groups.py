"""What a measurer that times groups is worth: ``python benchmarks/learned/groups.py [--seeds N]``.

Source: ours. Groups of layers like those of ResNet-18, ResNet-50 and MobileNet-V2 as small networks, on machines whose
numbers are not what their file says: ``parameters`` (one core), ``quad-other`` (four cores that share a channel). The
layers are tuned by ``tune``'s own search, few calls each; then the network is planned, each layer alone as measured:

- ``declared``: groups are expected to cost what the file says
- ``fitted``: what the fitted numbers say
- ``measured``: as fitted, and the groups of the plan are measured, until none promises more, as ``tune`` does with a
  measurer that times groups

The machine's cycles of a group are those of the fused walk with its true numbers. Per row: how far the EDP of the plan
on the true machine is above the best known (of all methods and seeds, and of the plan on the true numbers), median and
largest over seeds; calls for layers, and for groups, in the median.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cost_model.fused.cost import group_cost
from cost_model.simulator import SimulatorModel
from learned.machines import OtherNumbers, machines
from learned.methods import BlackBox
from tests.fused_cases import Builder
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.fusion.measured import Ratio
from tvm_spm.fusion.network import Alone, FusedGroup, Surroundings, plan_network
from tvm_spm.group import Group, GroupMapping
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.tuning.guided import Guide, GuidedTask, search_together
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.run import Run

OBJECTIVE = "edp"
BUDGET = 12
"""Calls a layer, at most."""


def two_convolutions() -> Group:
    """3x3 after 3x3, of 16 channels @56."""
    b = Builder()
    b.conv("second", b.conv("first", b.tensor("x", (1, 16, 56, 56)), 16), 16)
    return b.group()


def bottleneck() -> Group:
    """1x1, 3x3, 1x1 and the sum with the input: 256-64-64-256 @56."""
    b = Builder()
    x = b.tensor("x", (1, 256, 56, 56))
    b.conv("expand", b.conv("conv", b.conv("reduce", x, 64, taps=1), 64), 256, taps=1, extras=(x,), num_ops=3)
    return b.group()


def inverted() -> Group:
    """1x1, depthwise 3x3, 1x1: 24-144-144-24 @56."""
    b = Builder()
    wide = b.conv("expand", b.tensor("x", (1, 24, 56, 56)), 144, taps=1)
    b.conv("project", b.conv("depthwise", wide, 144, groups=144), 24, taps=1)
    return b.group()


GROUPS = {
    "conv 3x3 16-16-16 @56": two_convolutions,
    "1x1, 3x3, 1x1 and sum 256-64-64-256 @56": bottleneck,
    "1x1, depthwise, 1x1 24-144-144-24 @56": inverted,
}


class Row(NamedTuple):
    """One plan: its EDP on the true machine, and calls."""

    value: float
    layer_calls: int
    group_calls: int


class Tuned(NamedTuple):
    """Layers as they were tuned: how each runs alone, the machine as measurements show it, and calls."""

    alone: list[Alone]
    arch: Arch
    ratios: tuple[Ratio, ...]
    calls: int


def tuned(machine: OtherNumbers, group: Group, seed: int) -> Tuned:
    """The layers of a group, measured on the machine."""
    run, options = Run(seed=seed, measurer=BlackBox(machine)), TunerOptions(trials=BUDGET)
    layers = [group.graph.layers[at] for at in group.layers]
    works = list(dict.fromkeys(layer.workload for layer in layers if layer.workload is not None))
    cases = [Case(workload=work, arch=machine.declared, objective=Objective.of(OBJECTIVE)) for work in works]
    tasks = [GuidedTask(case, options, run, proposer=EXACT, program_of=None) for case in cases]
    guide, _ = search_together(tasks, Guide(declared=machine.declared), options, run, calibrates=True)
    arch = machine.declared if guide.fitted is None else guide.fitted.arch
    best = {work: task.result() for work, task in zip(works, tasks, strict=True)}
    simulator = SimulatorModel()
    return Tuned(
        alone=[
            Alone(task=at, cost=best[layer.workload].cost, num_cores=best[layer.workload].mapping.cores.product())
            for at, layer in enumerate(layers) if layer.workload is not None
        ],
        arch=arch,
        ratios=tuple(
            Ratio.of(found.cost, expected.cycles, expected.energy_pj)
            for work, found in best.items() for expected in (simulator.cost(work, arch, found.mapping),)
        ),
        calls=sum(task.path.num_trials for task in tasks),
    )  # fmt: skip


def planned(machine: OtherNumbers, group: Group, layers: Tuned, believed: Arch, *, measures: bool) -> Row:
    """A plan, on the true machine."""
    calls = 0

    def measure(ways: Sequence[FusedGroup]) -> list[Cost]:
        nonlocal calls
        calls += len(ways)
        return [true_cost(machine, way) for way in ways]

    found = plan_network(
        group.graph, believed, OBJECTIVE, layers.alone, why_not=lambda ways: [None] * len(ways),
        around=Surroundings(
            measure=measure if measures else None, most_measured=BUDGET * len(layers.alone),
            ratios=layers.ratios if measures else (),
        ),
    )  # fmt: skip
    ways = {way.group.layers: true_cost(machine, way) for way in found.groups}
    costs = [ways.get(unit) or found.alone[unit[0]].cost for unit in found.units]
    known = [cost for cost in costs if cost is not None]
    value = Objective.EDP.value_of(sum(cost.cycles for cost in known), sum(cost.energy_pj for cost in known))
    return Row(value, layers.calls, calls)


def true_cost(machine: OtherNumbers, way: FusedGroup) -> Cost:
    """Of a group on the machine."""
    assert isinstance(way.mapping, GroupMapping)
    return group_cost(way.group, machine.true, way.mapping).cost


def measured(machine: OtherNumbers, group: Group, num_seeds: int) -> dict[str, list[Row]]:
    """Rows of each method, and of the true numbers."""
    found: dict[str, list[Row]] = {}
    for seed in range(num_seeds):
        layers = tuned(machine, group, seed)
        for method, arch in (("declared", machine.declared), ("fitted", layers.arch), ("true", machine.true)):
            found.setdefault(method, []).append(planned(machine, group, layers, arch, measures=False))
        found.setdefault("measured", []).append(planned(machine, group, layers, layers.arch, measures=True))
    return found


def main() -> None:
    """Print a row a machine, group and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("machine | group | method | EDP above the best known, %: median, most | layer, group calls")
    for name in ("parameters", "quad-other"):
        machine = machines()[name]
        assert isinstance(machine, OtherNumbers)
        for what, make in GROUPS.items():
            rows = measured(machine, make(), options.seeds)
            best = min(row.value for each in rows.values() for row in each)
            for method in ("declared", "fitted", "measured"):
                above = [100 * (row.value / best - 1) for row in rows[method]]
                calls = (statistics.median(row[at] for row in rows[method]) for at in (1, 2))
                print(
                    name, what, method, f"{statistics.median(above):.1f}, {max(above):.1f}",
                    ", ".join(f"{each:g}" for each in calls),
                    sep=" | ", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
