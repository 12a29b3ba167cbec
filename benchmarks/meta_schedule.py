"""MetaSchedule's own search strategies against this package's, over the same mappings at the same number of calls.

Source: ours. Four layers in float16 on ``spm/edge-256``, least cycles, ``--trials`` calls of the simulator a run, five
seeds. All but the first and the last method run TVM's own loop (task scheduler, database, callbacks):

- ``tvm_spm.search``: this package's loop, without TVM (exact start, evolution on the formula, boosted trees)
- ``mapping strategy``: ``tvm_spm.meta_schedule.parts`` as they are
- ``evolutionary, formula``: TVM's ``EvolutionarySearch`` with our mutator and our cost model
- ``evolutionary, xgb``: the same with TVM's ``XGBModel`` on TVM's own features of the code
- ``replay-func``: TVM's ``ReplayFunc``, every call a new random legal mapping
- ``replay-trace``: TVM's ``ReplayTrace``, random choices among 64 designs
- ``default``: the mapping of an untuned network

``EvolutionarySearch`` runs with a population of 64 instead of 512, since it makes the code of every mapping it
considers; all other settings are its own. Two batches a run. ``optimum`` is the certified one with factors that divide;
other mappings may be faster. Expected time: half an hour on one core; ``--quick`` runs one layer and seed in a minute.

    python benchmarks/meta_schedule.py [--quick] [--csv FILE] [--layer NAME ...] [--method NAME ...]
                                       [--trials N] [--seed N ...]
    python benchmarks/meta_schedule.py --table CSV [CSV ...]
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import tvm
from tvm import te, topi
from tvm.s_tir.meta_schedule import SearchStrategy
from tvm.s_tir.meta_schedule.cost_model import CostModel

import tvm_spm
import tvm_spm.meta_schedule as spm_ms
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.tuning.measurer import Measurement, MeasureRequest, SimulatorMeasurer
from tvm_spm.workload import Workload

ARCH = "edge-256"
POPULATION = 64
NUM_SEEDS = 5
KEY = ["layer", "method", "seed", "calls"]
"""What tells rows apart."""


def conv(channels: int, filters: int, extent: int, window: int) -> tvm.tirx.PrimFunc:
    """A convolution whose image keeps its extent."""
    data = te.placeholder((1, channels, extent, extent), "float16", name="data")
    weight = te.placeholder((filters, channels, window, window), "float16", name="weight")
    return te.create_prim_func([data, weight, topi.nn.conv2d_nchw(data, weight, 1, window // 2, 1, "float16")])


def depthwise(channels: int, extent: int) -> tvm.tirx.PrimFunc:
    """A 3x3 convolution of every channel alone."""
    data = te.placeholder((1, channels, extent, extent), "float16", name="data")
    weight = te.placeholder((channels, 1, 3, 3), "float16", name="weight")
    return te.create_prim_func(
        [data, weight, topi.nn.group_conv2d_nchw(data, weight, 1, 1, 1, channels, "float16")]
    )  # fmt: skip


def matmul(rows: int, inner: int, cols: int) -> tvm.tirx.PrimFunc:
    """A matrix product."""
    left, right = te.placeholder((rows, inner), "float16", name="A"), te.placeholder((inner, cols), "float16", name="B")
    return te.create_prim_func([left, right, topi.nn.matmul(left, right)])


LAYERS: dict[str, Callable[[], tvm.tirx.PrimFunc]] = {
    "64 3x3 of 64 @56": lambda: conv(64, 64, 56, 3),
    "96 1x1 of 24 @56": lambda: conv(24, 96, 56, 1),
    "144 3x3 depthwise @28": lambda: depthwise(144, 28),
    "matmul 128 x 768 x 768": lambda: matmul(128, 768, 768),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorder(SimulatorMeasurer):
    """The simulator, which keeps its answers in order."""

    cycles: list[int] = field(default_factory=list)

    def measure(self, requests: list[MeasureRequest]) -> list[Measurement]:
        """As the simulator."""
        found = SimulatorMeasurer.measure(self, requests)
        self.cycles.extend(each.cycles for each in found)
        return found


def evolutionary() -> SearchStrategy:
    """TVM's, with a smaller population."""
    return SearchStrategy.create("evolutionary", population_size=POPULATION)


STRATEGIES: dict[str, tuple[Callable[[], SearchStrategy | None], bool]] = {
    "mapping strategy": (lambda: None, False),
    "evolutionary, formula": (evolutionary, False),
    "evolutionary, xgb": (evolutionary, True),
    "replay-func": (lambda: SearchStrategy.create("replay-func"), False),
    "replay-trace": (lambda: SearchStrategy.create("replay-trace"), False),
}
"""How each is made, and whether TVM's cost model ranks."""

METHODS = ("tvm_spm.search", *STRATEGIES)


def run_meta_schedule(method: str, func: tvm.tirx.PrimFunc, trials: int, seed: int) -> list[int]:
    """Cycles of every call of one run."""
    make, with_xgb = STRATEGIES[method]
    recorder = Recorder()
    made = spm_ms.parts(ARCH, strategy=make(), measurer=recorder, seed=seed)
    if with_xgb:
        # Before it has learned anything it draws from numpy's global state.
        np.random.seed(seed)  # noqa: NPY002
        made = replace(made, cost_model=CostModel.create("xgb", num_tuning_cores=1))
    with tempfile.TemporaryDirectory() as directory:
        spm_ms.tune_tir(func, ARCH, directory, trials, num_trials_per_iter=trials // 2, seed=seed, using=made)
    return recorder.cycles


def rows_of(layer: str, options: argparse.Namespace) -> Iterator[list[dict[str, object]]]:
    """All methods and seeds on one layer, run by run."""
    func = LAYERS[layer]()
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    arch = tvm_spm.load_arch(ARCH)
    exact = tvm_spm.search(nest.workload, ARCH, objective="latency", time_limit_s=60)
    common = {
        "arch": arch.name, "arch_sha256": arch.sha256()[:12], "layer": layer, "workload": str(nest.workload),
        "optimum_cycles": exact.cost.cycles, "certified": exact.certified, "source": "simulated",
    }  # fmt: skip
    assert exact.default_cost is not None
    yield [{**common, "method": "default", "seed": 0, "calls": 1, "cycles": exact.default_cost.cycles, "wall_s": 0.0}]
    for seed in options.seed:
        for method in options.method or METHODS:
            start = time.monotonic()
            best = best_after(method, func, nest.workload, options.trials, seed)
            run = {**common, "method": method, "seed": seed, "wall_s": time.monotonic() - start}
            yield [{**run, "calls": calls, "cycles": cycles} for calls, cycles in best.items()]


def best_after(method: str, func: tvm.tirx.PrimFunc, workload: Workload, trials: int, seed: int) -> dict[int, int]:
    """Fewest cycles after some numbers of calls."""
    if method in STRATEGIES:
        cycles = run_meta_schedule(method, func, trials, seed)
        return {calls: min(cycles[:calls]) for calls in budgets(trials)}
    return {
        calls: tvm_spm.search(
            workload, ARCH, objective="latency", model="simulator", trials=calls, seed=seed
        ).cost.cycles
        for calls in budgets(trials)
    }  # fmt: skip


def budgets(trials: int) -> tuple[int, ...]:
    """Calls after which the best so far is noted."""
    return trials // 4, trials // 2, trials


def print_table(table: pd.DataFrame) -> None:
    """Cycles over the certified optimum: the median of the seeds, and their range at the full budget."""
    for layer, rows in table.groupby("layer", sort=False):
        first = rows.iloc[0]
        word = "certified" if first.certified else "best found, not certified"
        print(f"\n{layer}: {first.optimum_cycles:,} cycles ({word}, factors that divide)")
        for method, runs in rows.groupby("method", sort=False):
            ratios = (runs.cycles / runs.optimum_cycles).groupby(runs.calls)
            num_runs = runs.seed.nunique()
            shown = "  ".join(f"{calls:>3} calls {median:6.3f}" for calls, median in ratios.median().items())
            last = runs.calls.max()
            low, high = ratios.min()[last], ratios.max()[last]
            wall_s = runs[runs.calls == last].wall_s.median()
            print(f"  {method:22} {shown}  ({low:.3f} to {high:.3f}, {num_runs} runs)  {wall_s:5.1f} s")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one layer, one seed, 16 calls")
    parser.add_argument("--csv", type=Path, help="write one row a run and budget")
    parser.add_argument("--layer", action="append", choices=list(LAYERS), help="only this layer; may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this method; may be repeated")
    parser.add_argument("--trials", type=int, default=64, help="calls of the simulator a run")
    parser.add_argument("--seed", action="append", type=int, help="only this seed; may be repeated")
    parser.add_argument("--table", nargs="+", type=Path, metavar="CSV", help="only print what was written before")
    options = parser.parse_args()
    if options.table:
        print_table(pd.concat([pd.read_csv(path) for path in options.table]).drop_duplicates(KEY))
        return
    layers, options.seed = options.layer or list(LAYERS), options.seed or list(range(NUM_SEEDS))
    if options.quick:
        layers, options.seed, options.trials = layers[:1], [0], 16
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    rows: list[dict[str, object]] = []
    for layer in layers:
        for found in rows_of(layer, options):
            rows += [{"commit": commit.stdout.strip(), **row} for row in found]
            # What is done is kept, whatever ends the run.
            if options.csv:
                pd.DataFrame(rows).to_csv(options.csv, index=False)
    print_table(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
