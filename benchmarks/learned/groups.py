"""What measured layers are worth for fused groups: ``python benchmarks/learned/groups.py [--seeds N]``.

Source: ours. A measurer times layers, not groups; but what a machine's numbers are, layers tell. Groups of layers like
those of ResNet-18, ResNet-50 and MobileNet-V2, on machines whose numbers are not what their file says: ``parameters``
(one core) and ``quad-other`` (four cores that share a channel). The layers of a group alone are calibrated with by
``tune``'s own search, few calls each; ``fitted.toml`` is read back as a user would; the group is searched on it. The
true machine then runs the front of the search, best by expectation first: its cycles are those of the fused walk with
true numbers.

Per row: how far the EDP of the first choice, and of the best of the front, is above the best known on the true machine
(of all methods, and of the search on its own numbers), the share of its cycles by which the first choice was expected
wrongly, and calls: of layers and of groups. ``declared`` believes the file. Median and largest over seeds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cost_model.fused.cost import group_cost
from learned.machines import OtherNumbers, machines
from learned.methods import BlackBox
from tests.fused_cases import Builder
from tvm_spm.arch import Arch, load_arch
from tvm_spm.fusion.search import group_search
from tvm_spm.group import Group
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
    """How one method does on a group: ratios to the best known EDP, a share of cycles, calls."""

    first: float
    best: float
    wrong: float
    layer_calls: int
    group_calls: int


def fitted_by_layers(machine: OtherNumbers, group: Group, seed: int) -> tuple[Arch, int]:
    """The accelerator as measurements of the layers show it, and how many those were."""
    run, options = Run(seed=seed, measurer=BlackBox(machine)), TunerOptions(trials=BUDGET)
    works = dict.fromkeys(group.graph.layers[at].workload for at in group.layers)
    cases = [Case(workload=work, arch=machine.declared, objective=Objective.of(OBJECTIVE)) for work in works if work]
    tasks = [GuidedTask(case, options, run, proposer=EXACT, program_of=None) for case in cases]
    guide, _ = search_together(tasks, Guide(declared=machine.declared), options, run, calibrates=True)
    calls = sum(task.path.num_trials for task in tasks)
    if guide.fitted is None:
        return machine.declared, calls
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted.toml"
        path.write_text(guide.fitted.toml())
        return load_arch(str(path)), calls


def on_true(machine: OtherNumbers, group: Group, believed: Arch) -> tuple[list[float], float]:
    """EDP on the true machine of what is found on the believed one, in the order of belief; and the first's error."""
    found = sorted(group_search(group, believed).options, key=lambda pair: pair[1].cost.objective(OBJECTIVE))
    costs = [group_cost(group, machine.true, mapping).cost for mapping, _ in found]
    return [cost.objective(OBJECTIVE) for cost in costs], found[0][1].cost.cycles / costs[0].cycles - 1


def measured(machine: OtherNumbers, group: Group, num_seeds: int) -> dict[str, list[Row]]:
    """Rows of each method; one of them needs no seed."""
    true, _ = on_true(machine, group, machine.true)
    found = {"declared": [(*on_true(machine, group, machine.declared), 0)], "fitted by layers": []}
    for seed in range(num_seeds):
        arch, calls = fitted_by_layers(machine, group, seed)
        found["fitted by layers"].append((*on_true(machine, group, arch), calls))
    known = min(true + [min(values) for rows in found.values() for values, *_ in rows])
    return {
        method: [
            Row(values[0] / known, min(values) / known, wrong, calls, len(values)) for values, wrong, calls in rows
        ]
        for method, rows in found.items()
    }


def shown(values: Sequence[float]) -> str:
    """Median and largest, in percent."""
    return f"{100 * statistics.median(values):.1f}, {100 * max(values, key=abs):.1f}"


def main() -> None:
    """Print a row a machine, group and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("machine | group | method | first choice % | best of front % | expected wrongly by % | layer, group calls")
    for name in ("parameters", "quad-other"):
        machine = machines()[name]
        assert isinstance(machine, OtherNumbers)
        for what, make in GROUPS.items():
            for method, rows in measured(machine, make(), options.seeds).items():
                print(
                    name, what, method, shown([row.first - 1 for row in rows]), shown([row.best - 1 for row in rows]),
                    shown([row.wrong for row in rows]),
                    f"{statistics.median(row.layer_calls for row in rows):g}, {rows[0].group_calls}",
                    sep=" | ", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
