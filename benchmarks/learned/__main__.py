"""Calls until a mapping is near the best known: ``python benchmarks/learned [--machines ...] [--seeds N]``.

Eight workloads on six machines; per method the calls of a task until its best is within 5, 2 and 1 % of the best known
mapping (of all methods, and of evolution on the machine itself with 12,000 calls), the median over tasks and seeds and
the largest. Values, calls and the pictures of best-so-far go to ``--output``; what is there is not run again.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

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
MACHINES = ["edge-256", "quad-edge", "mlu100-32", "parameters", "conflicts", "queues"]
"""If nobody says which; others are for ``groups``."""

NEAR = (0.05, 0.02, 0.01)
BUDGET = 64
OBJECTIVE = "edp"
KNOWN = "evolution on the machine"
"""Whose values count as known, and are not compared."""


def best_known(machine: Machine, workload: Workload, rounds: int = 12) -> float:
    """Of evolution that asks the machine itself."""
    case = Case(workload=workload, arch=machine.declared, objective=Objective.of(OBJECTIVE))
    true = getattr(machine, "true", machine.declared)
    space = MapSpace(workload=workload, arch=machine.declared)
    by_formula = Case(workload=workload, arch=true, objective=case.objective)
    start = [exact_search(by_formula, perfect=perfect, most_steps=300).mapping for perfect in (True, False)]
    best = math.inf
    for seed in range(2):
        searcher = EvolutionarySearcher(space, rng=np.random.default_rng(seed), start=encode(start))
        for _ in range(rounds):
            batch = searcher.ask(500)
            if batch.num_mappings == 0:
                break
            cycles = machine.cycles(workload, rows_of(batch))
            values = case.objective.value_of(cycles, estimate(case, batch).energy_pj)
            searcher.tell(batch, values)
            best = min(best, float(values.min()))
    return best


def run(machine: Machine, method: str, seed: int) -> tuple[list[list[float]], float]:
    """Values by workload, and seconds of all of them."""
    begin = time.monotonic()
    if method in TOGETHER:
        values = TOGETHER[method](machine, list(WORKLOADS.values()), OBJECTIVE, BUDGET, seed)
    else:
        values = []
        for workload in WORKLOADS.values():
            case = Case(workload=workload, arch=machine.declared, objective=Objective.of(OBJECTIVE))
            trace = Trace(case, machine, BUDGET)
            ALONE[method](trace, seed)
            values.append(trace.values)
    return values, time.monotonic() - begin


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


def collect(path: Path, name: str, machine: Machine, methods: Sequence[str], num_seeds: int) -> pd.DataFrame:
    """Values of a machine by method, seed, workload and call; what the file knows is not run again."""
    columns = ["method", "seed", "workload", "call", "value", "seconds"]
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    for seed in range(num_seeds):
        for method in methods:
            if ((known["method"] == method) & (known["seed"] == seed)).any():
                continue
            values, seconds = run(machine, method, seed)
            rows = [
                (method, seed, workload, at, value, seconds)
                for workload, line in zip(WORKLOADS, values, strict=True) for at, value in enumerate(line, start=1)
            ]  # fmt: skip
            fresh = pd.DataFrame(rows, columns=columns)
            known = fresh if known.empty else pd.concat([known, fresh])
            known.to_csv(path, index=False)
            print(f"  {name}: {method}, seed {seed}: {seconds:.1f} s", file=sys.stderr, flush=True)
    if not (known["method"] == KNOWN).any():
        rows = [(KNOWN, 0, each, 1, best_known(machine, WORKLOADS[each]), math.nan) for each in WORKLOADS]
        known = pd.concat([known, pd.DataFrame(rows, columns=columns)])
        known.to_csv(path, index=False)
    return known


def calls_of(found: pd.DataFrame) -> pd.DataFrame:
    """Calls until near the best known: a row a method, seed and workload."""
    best = found.groupby("workload")["value"].min()
    rows = []
    for (method, seed, workload), each in found[found["method"] != KNOWN].groupby(
        ["method", "seed", "workload"], sort=False
    ):
        line = each.sort_values("call")["value"].tolist()
        until = [calls_until(line, best[workload] * (1 + share)) for share in NEAR]
        rows.append((method, seed, workload, len(line), *until, 100 * (min(line) / best[workload] - 1)))
    near = [f"to_{100 * share:.0f}_percent" for share in NEAR]
    return pd.DataFrame(rows, columns=["method", "seed", "workload", "calls", *near, "above_best_percent"])


def main() -> None:
    """Print a row a method and machine."""
    known = machines()
    methods = [*ALONE, *TOGETHER]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", nargs="+", choices=list(known), default=MACHINES)
    parser.add_argument("--methods", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("learned"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    print("machine | method | calls to 5 %: median, most | to 2 % | to 1 % | calls made | seconds a run", flush=True)
    for name in options.machines:
        path = options.output / f"values-{name}.csv"
        found = collect(path, name, known[name], options.methods, options.seeds)
        calls = calls_of(found)
        calls.round({"above_best_percent": 3}).to_csv(options.output / f"calls-{name}.csv", index=False)
        best = found.groupby("workload")["value"].min()
        curves: dict[str, list[list[float]]] = {}
        for method, rows in calls.groupby("method", sort=False):
            near = [shown(rows[column].tolist()) for column in calls.columns if column.startswith("to_")]
            seconds = found[found["method"] == method].groupby("seed")["seconds"].first().mean()
            print(" | ".join([name, str(method), *near, f"{rows['calls'].mean():.0f}", f"{seconds:.0f}"]), flush=True)
            lines = found[found["method"] == method].groupby(["seed", "workload"], sort=False)
            curves[str(method)] = [
                (np.minimum.accumulate(line.sort_values("call")["value"]) / best[str(key[1])]).tolist()
                for key, line in lines
            ]  # fmt: skip
        draw(options.output / f"{name}.svg", curves, name)


if __name__ == "__main__":
    main()
