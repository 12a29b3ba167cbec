"""Where measurements go: ``python benchmarks/learned/shares.py [--machines ...] [--seeds N]``.

The eight workloads as one network, whose layers run as often as in networks like those they come from; its latency
after so many calls of all tasks together, where measurements go by count x expected gain, over that where every task
gets as many calls as any other. Below 1 the scheduler is better. Source: ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from learned.__main__ import WORKLOADS
from learned.machines import Machine, machines
from learned.methods import BlackBox
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.tuning.guided import Guide, GuidedTask, search_together
from tvm_spm.tuning.guided.together import PROBES, STEP
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.search_path import measure_together
from tvm_spm.workload import Workload

COUNTS = (4, 3, 1, 1, 4, 4, 48, 12)
"""Runs of each workload: blocks of ResNet-18 and MobileNet-V2, layers of BERT."""

CALLS_A_TASK = (8, 12, 16, 24, 32)


def latencies(asked: Sequence[tuple[Workload, int]]) -> list[float]:
    """Of the network, by call; infinite until all tasks were measured."""
    best = dict.fromkeys(WORKLOADS.values(), float("inf"))
    counts, found = dict(zip(WORKLOADS.values(), COUNTS, strict=True)), []
    for workload, cycles in asked:
        best[workload] = min(best[workload], cycles)
        found.append(sum(counts[each] * least for each, least in best.items()))
    return found


def search(machine: Machine, seed: int, budget: int, *, is_equal: bool) -> list[float]:
    """Latency of the network by call, until the budget of all tasks is spent, or nothing is expected any more."""
    measurer = BlackBox(machine)
    run, options = Run(seed=seed, measurer=measurer), TunerOptions(trials=budget)
    cases = [Case(workload=each, arch=machine.declared, objective=Objective.LATENCY) for each in WORKLOADS.values()]
    tasks = [
        GuidedTask(case, options, run, proposer=EXACT, count=count, program_of=None)
        for case, count in zip(cases, COUNTS, strict=True)
    ]
    first = replace(options, trials=PROBES + 3) if is_equal else options
    guide, _ = search_together(tasks, Guide(declared=machine.declared), first, run, calibrates=True)
    number = 0
    while is_equal and len(measurer.asked) < budget * len(tasks):
        number, before = number + 1, len(measurer.asked)
        guide = guide.taught([task.answers() for task in tasks], seed)
        for task in tasks:
            task.look(guide, number)
        measure_together([(task.path, task.next(min(STEP, max(0, budget - task.path.num_trials)))) for task in tasks])
        if len(measurer.asked) == before:
            break
    return latencies(measurer.asked)


def main() -> None:
    """Print a row a machine."""
    known = machines()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", nargs="+", choices=list(known), default=["quad-edge", "conflicts", "queues"])
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("machine | calls a task: latency by expected gain / by equal shares, median (least to largest)", flush=True)
    for name in options.machines:
        ratios: dict[int, list[float]] = {calls: [] for calls in CALLS_A_TASK}
        for seed in range(options.seeds):
            ours, equal = (
                search(known[name], seed, max(CALLS_A_TASK), is_equal=is_equal) for is_equal in (False, True)
            )
            for calls, found in ratios.items():
                at = calls * len(WORKLOADS) - 1
                found.append(ours[min(at, len(ours) - 1)] / equal[min(at, len(equal) - 1)])
        shown = (
            f"{calls}: {statistics.median(each):.4f} ({min(each):.4f} to {max(each):.4f})"
            for calls, each in ratios.items()
        )
        print(" | ".join([name, *shown]), flush=True)


if __name__ == "__main__":
    main()
