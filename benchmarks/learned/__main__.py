"""Calls until a mapping is near the best known: ``python benchmarks/learned [--machines ...] [--seeds N]``.

Eight workloads on six machines; per method the calls of a task until its best is within 5, 2 and 1 % of the best known
mapping (of all methods, and of evolution on the machine itself with 12,000 calls), the median over tasks and seeds and
the largest. Values and the pictures of best-so-far go to ``--output``.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from learned.machines import Machine, machines
from learned.methods import ALONE, TOGETHER, Trace, rows_of
from tvm_spm.exact import exact_search
from tvm_spm.objective import Objective
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.screen import estimate
from tvm_spm.workload import Workload

WORKLOADS = {
    "conv 3x3 64 @56": Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1),
    "conv 3x3 512 @7": Workload.conv2d(K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1),
    "conv 1x1 64-128 @28": Workload.conv2d(K=128, C=64, OY=28, OX=28, FY=1, FX=1, stride=2),
    "conv 3x3 3-32 @112": Workload.conv2d(K=32, C=3, OY=112, OX=112, FY=3, FX=3, stride=2, padding=1),
    "depthwise 96 @28": Workload.conv2d(K=96, C=96, groups=96, OY=28, OX=28, FY=3, FX=3, padding=1),
    "conv 1x1 144-24 @28": Workload.conv2d(K=24, C=144, OY=28, OX=28, FY=1, FX=1),
    "BERT 128x768x768": Workload.matmul(m=128, k=768, n=768),
    "BERT 128x768x3072": Workload.matmul(m=128, k=768, n=3072),
}
NEAR = (0.05, 0.02, 0.01)
BUDGET = 64
OBJECTIVE = "edp"


def best_known(machine: Machine, workload: Workload, rounds: int = 12) -> float:
    """Of evolution that asks the machine itself."""
    case = Case(workload=workload, arch=machine.declared, objective=Objective.of(OBJECTIVE))
    true = getattr(machine, "true", machine.declared)
    space = MapSpace(workload=workload, arch=machine.declared)
    start = exact_search(Case(workload=workload, arch=true, objective=case.objective), most_steps=40).mapping
    best = math.inf
    for seed in range(2):
        searcher = EvolutionarySearcher(space, rng=np.random.default_rng(seed), start=encode([start]))
        for _ in range(rounds):
            batch = searcher.ask(500)
            if batch.num_mappings == 0:
                break
            cycles = machine.cycles(workload, rows_of(batch))
            values = case.objective.value_of(cycles, estimate(case, batch).energy_pj)
            searcher.tell(batch, values)
            best = min(best, float(values.min()))
    return best


def runs(machine: Machine, methods: Sequence[str], seed: int) -> Iterator[tuple[str, list[list[float]], float]]:
    """Method, values by workload, and seconds of all of them."""
    for name in methods:
        begin = time.monotonic()
        if name in TOGETHER:
            values = TOGETHER[name](machine, list(WORKLOADS.values()), OBJECTIVE, BUDGET, seed)
        else:
            values = []
            for workload in WORKLOADS.values():
                case = Case(workload=workload, arch=machine.declared, objective=Objective.of(OBJECTIVE))
                trace = Trace(case, machine, BUDGET)
                ALONE[name](trace, seed)
                values.append(trace.values)
        yield name, values, time.monotonic() - begin


def calls_until(values: Sequence[float], goal: float) -> float:
    """Calls until a value is at most the goal; infinite if none is."""
    return next((at for at, value in enumerate(values, start=1) if value <= goal), math.inf)


def draw(path: Path, curves: dict[str, list[list[float]]], title: str) -> None:
    """Best so far over the best known, the median over tasks and seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for name, ratios in curves.items():
        padded = [each + [each[-1]] * (BUDGET - len(each)) for each in ratios]
        middle = np.median([each[:BUDGET] for each in padded], axis=0)
        axes.plot(range(1, BUDGET + 1), 100 * (middle - 1) + 0.01, label=name)
    axes.set(xlabel="calls a task", ylabel="above the best known (%)", yscale="log", title=title)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def shown(counts: Sequence[float]) -> str:
    """Median and largest of calls."""
    middle, most = statistics.median_high(counts), max(counts)
    return " ".join("never" if math.isinf(each) else f"{each:.0f}" for each in (middle, most))


def main() -> None:
    """Print a row a method and machine."""
    known = machines()
    methods = [*ALONE, *TOGETHER]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", nargs="+", choices=list(known), default=list(known))
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("learned"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print("machine | method | calls to 5 %: median, most | to 2 % | to 1 % | calls made | seconds a run", flush=True)
    with (options.output / "values.csv").open("a", newline="") as file:
        table = csv.writer(file)
        for name in options.machines:
            machine = known[name]
            found: dict[str, list[list[list[float]]]] = {}
            seconds: dict[str, float] = {}
            for seed in range(options.seeds):
                for method, values, taken in runs(machine, options.methods, seed):
                    found.setdefault(method, []).append(values)
                    seconds[method] = seconds.get(method, 0.0) + taken / options.seeds
                    for workload, line in zip(WORKLOADS, values, strict=True):
                        table.writerows((name, method, seed, workload, at, value) for at, value in enumerate(line))
            best = []
            for at, workload in enumerate(WORKLOADS.values()):
                seen = [min(values[at]) for each in found.values() for values in each]
                best.append(min(best_known(machine, workload), *seen))
            curves: dict[str, list[list[float]]] = {}
            for method, each in found.items():
                lines = [(values[at], best[at]) for values in each for at in range(len(WORKLOADS))]
                curves[method] = [(np.minimum.accumulate(line) / goal).tolist() for line, goal in lines]
                near = [shown([calls_until(line, goal * (1 + share)) for line, goal in lines]) for share in NEAR]
                made = statistics.mean(len(line) for line, _ in lines)
                print(" | ".join([name, method, *near, f"{made:.0f}", f"{seconds[method]:.0f}"]), flush=True)
            draw(options.output / f"{name}.svg", curves, name)


if __name__ == "__main__":
    main()
