"""What measurements of other networks and machines are worth: ``python benchmarks/learned/transfer.py``.

Source: ours. Layers of three networks (ResNet-18, MobileNet-V2, BERT) on three machines that differ from their file
(``learned.machines``), objective EDP, at most 32 calls a layer, three seeds. All rows are ``tune``'s own search:

- ``alone``: nothing is known
- ``networks``: the measurements of the two other networks on the same machine are, as a store keeps them
- ``matched``: as ``networks``, but a layer's residual is learned from its own measurements and from those two stored
  layers alone that react most like it: whose own residual best predicts the ratios of measured to formula of this one.
  That is the similarity of Reaction Matching
- ``machines``: the ratios of measured to formula that all networks showed on the two other machines are, as lessons for
  the residual; numbers of those machines are not, since they belong to them

Per row: calls a layer until 90 % of what a network gains over its default mappings is gained (of the sum of the
logarithms of its layers): mean over networks and seeds; calls of a layer until its best is within 2 and 1 % of the best
known (of all runs, and of evolution on the machine itself with 6,000 calls), and until 90 % of its own gain is there,
which may be hardly anything: median and mean over layers and seeds; never counts as 32; and calls made. Expected time:
ten minutes a machine on a quiet core; a run that is stopped goes on where it was.

    python benchmarks/learned/transfer.py [--machines M ...] [--ways W ...] [--seeds N] [--output DIR]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import pickle
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cost_model.learned.residual import LearnedResidual, Lesson, fit_residual
from learned.machines import Machine, MachineMeasurer, machines
from learned.methods import rows_of
from tvm_spm.objective import Objective
from tvm_spm.searchers.evolutionary import EvolutionarySearcher
from tvm_spm.space.case import Case
from tvm_spm.space.mapping_batch import MappingBatch, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.tuning.exact_starts import ExactStart
from tvm_spm.tuning.guided import Guide, GuidedTask, search_together
from tvm_spm.tuning.guided.guide import MIN_LESSONS, Answers, Expected
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.screen import estimate
from tvm_spm.workload import Workload

NETWORKS = {
    "resnet": (
        Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1),
        Workload.conv2d(K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1),
        Workload.conv2d(K=128, C=64, OY=28, OX=28, FY=1, FX=1, stride=2),
    ),
    "mobilenet": (
        Workload.conv2d(K=32, C=3, OY=112, OX=112, FY=3, FX=3, stride=2, padding=1),
        Workload.conv2d(K=96, C=96, groups=96, OY=28, OX=28, FY=3, FX=3, padding=1),
        Workload.conv2d(K=24, C=144, OY=28, OX=28, FY=1, FX=1),
    ),
    "bert": (Workload.matmul(m=128, k=768, n=768), Workload.matmul(m=128, k=768, n=3072)),
}
FOREIGN = ("parameters", "conflicts", "queues")
OBJECTIVE = Objective.EDP
NEAREST = 2
BUDGET = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched(Guide):
    """A guide whose residual of a layer is learned from it and from the stored layers that react most like it."""

    own: dict[Workload, LearnedResidual] = field(default_factory=dict)

    def taught(self, answers: Sequence[Answers], seed: int, at_least: int = MIN_LESSONS) -> Matched:
        """With a residual for each layer."""
        stored, new = ([self._lesson(each) for each in group] for group in (self.before, answers))
        alone = [fit_residual(self.arch, [lesson], seed=seed) for lesson in stored]
        found = {}
        for lesson in new:
            misses = [self._miss(model, lesson) for model in alone]
            near = [stored[at] for at in np.argsort(misses, kind="stable")[:NEAREST]]
            if model := fit_residual(self.arch, [*near, lesson], seed=seed):
                found[lesson.workload] = model
        residual = next(iter(found.values()), None)
        return replace(self, own=found, residual=residual)

    def expect(self, case: Case, batch: MappingBatch) -> Expected:
        """By the layer's own residual."""
        return Guide.expect(replace(self, residual=self.own.get(case.workload)), case, batch)

    def _lesson(self, answers: Answers) -> Lesson:
        return _lesson(self, answers)

    def _miss(self, model: LearnedResidual | None, lesson: Lesson) -> float:
        """By how much a stored layer's residual misses the ratios of another one."""
        if model is None or lesson.batch.num_mappings == 0:
            return math.inf if model is None else 0.0
        mean, _ = model.predict(lesson.workload, lesson.batch, lesson.estimate)
        return float(np.abs(mean - lesson.residuals).mean())


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign(Guide):
    """A guide that knows ratios of measured to formula of other machines."""

    lessons: tuple[Lesson, ...] = ()

    def taught(self, answers: Sequence[Answers], seed: int, at_least: int = MIN_LESSONS) -> Foreign:
        """With a residual learned from those, too."""
        own = [_lesson(self, each) for each in answers if each.batch.num_mappings]
        lessons = [*self.lessons, *own]
        is_enough = sum(lesson.batch.num_mappings for lesson in lessons) >= at_least
        return replace(self, residual=fit_residual(self.arch, lessons, seed=seed) if is_enough else None)


def _lesson(guide: Guide, answers: Answers) -> Lesson:
    return Lesson(
        workload=answers.workload, batch=answers.batch, cycles=answers.cycles,
        estimate=guide.estimate(answers.workload, answers.batch),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the search of a network left.

    Attributes:
        values: Of the objective, in the order of calls, by layer.
        answers: What was measured.
        guide: What is known of the machine at the end.
    """

    values: tuple[list[float], ...]
    answers: tuple[Answers, ...]
    guide: Guide


def search(machine: Machine, network: str, guide: Guide, seed: int) -> Searched:
    """As ``tune`` does with a measurer."""
    run = Run(seed=seed, measurer=MachineMeasurer(machine=machine, name="machine"))
    options = TunerOptions(trials=BUDGET)
    cases = [Case(workload=each, arch=machine.declared, objective=OBJECTIVE) for each in NETWORKS[network]]
    tasks = [GuidedTask(case, options, run, proposer=EXACT, program_of=None) for case in cases]
    guide, _ = search_together(tasks, guide, options, run, calibrates=True)
    return Searched(
        values=tuple(
            [trial.cost.objective(OBJECTIVE) for trial in task.path.trials.values() if trial.cost is not None]
            for task in tasks
        ),
        answers=tuple(task.answers() for task in tasks),
        guide=guide,
    )


def best_known(machine: Machine, workload: Workload) -> float:
    """Of evolution that asks the machine itself."""
    case = Case(workload=workload, arch=machine.declared, objective=OBJECTIVE)
    true = Case(workload=workload, arch=getattr(machine, "true", machine.declared), objective=OBJECTIVE)
    start = ExactStart(case=true, most_steps=40).search(Run().should_stop)
    searcher = EvolutionarySearcher(
        MapSpace(workload=workload, arch=machine.declared), rng=np.random.default_rng(0),
        start=None if start is None else encode([start.mapping]),
    )  # fmt: skip
    best = math.inf
    for _ in range(12):
        batch = searcher.ask(500)
        if batch.num_mappings == 0:
            break
        values = OBJECTIVE.value_of(machine.cycles(workload, rows_of(batch)), estimate(case, batch).energy_pj)
        searcher.tell(batch, values)
        best = min(best, float(values.min()))
    return best


def calls_until(values: Sequence[float], goal: float) -> int:
    """Calls until a value is at most the goal; the budget, or all calls if they are more, if none is."""
    reached = (at for at, value in enumerate(values, start=1) if value <= goal)
    return next(reached, max(BUDGET, len(values)))


def calls_of_network(lines: Sequence[Sequence[float]]) -> int:
    """Calls a layer until 90 % of the gain is there; the budget if it never is.

    Args:
        lines: Per layer the logarithm of values over the best known, in the order of calls.
    """
    goal = 0.1 * sum(line[0] for line in lines)
    reached = (calls for calls in range(1, BUDGET) if sum(min(line[:calls]) for line in lines) <= goal)
    return next(reached, BUDGET)


class Kept:
    """What was searched so far, in a folder, so that a benchmark that is stopped goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def searched(self, machine: str, way: str, network: str, seed: int) -> tuple[Searched, float]:
        """What one search left, and the seconds that it took."""

        def work() -> Searched:
            return search(machines()[machine], network, guide_of(way, self, machine, network, seed), seed)

        found: tuple[Searched, float] = self._keep(f"{machine}.{way}.{network}.{seed}", work)
        return found

    def best_known(self, machine: str, network: str, at: int) -> float:
        """Of a layer."""
        found: tuple[float, float] = self._keep(
            f"{machine}.{network}.{at}", lambda: best_known(machines()[machine], NETWORKS[network][at])
        )
        return found[0]

    def _keep(self, name: str, work: Callable[[], object]) -> Any:  # noqa: ANN401 (whatever the work gives)
        path = self._folder / name
        if not path.exists():
            begin = time.monotonic()
            content = pickle.dumps((work(), time.monotonic() - begin))
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").rename(path)
        return pickle.loads(path.read_bytes())


def guide_of(way: str, kept: Kept, machine: str, network: str, seed: int) -> Guide:
    """What is known before a network is searched."""
    declared = machines()[machine].declared
    others = [each for each in NETWORKS if each != network] if way in ("networks", "matched") else []
    before = tuple(
        answers for other in others for answers in kept.searched(machine, "alone", other, seed)[0].answers
    )  # fmt: skip
    if way == "machines":
        elsewhere = [
            kept.searched(where, "alone", each, seed)[0] for where in FOREIGN if where != machine for each in NETWORKS
        ]
        lessons = tuple(_lesson(each.guide, answers) for each in elsewhere for answers in each.answers)
        return Foreign(declared=declared, lessons=lessons)
    make: dict[str, Callable[[], Guide]] = {
        "alone": lambda: Guide(declared=declared),
        "networks": lambda: Guide(declared=declared, before=before),
        "matched": lambda: Matched(declared=declared, before=before),
    }
    return make[way]()


WAYS = ("alone", "networks", "matched", "machines")


def main() -> None:
    """Print a row a machine and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", nargs="+", choices=FOREIGN, default=list(FOREIGN))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("transfer"))
    options = parser.parse_args()
    kept = Kept(options.output)
    rows: list[tuple[object, ...]] = []
    print(
        "machine | way | to 90 % of the gain of networks: mean | of layers: median, mean | to 2 % | to 1 % | "
        "reach 2 % | calls | s", flush=True,
    )  # fmt: skip
    for name in options.machines:
        lines: dict[str, list[tuple[list[float], str, int, int]]] = {}
        seconds: dict[str, float] = {}
        for way, seed, network in itertools.product(options.ways, range(options.seeds), NETWORKS):
            searched, taken = kept.searched(name, way, network, seed)
            lines.setdefault(way, []).extend((line, network, at, seed) for at, line in enumerate(searched.values))
            seconds[way] = seconds.get(way, 0.0) + taken
        best = {
            (network, at): min(
                kept.best_known(name, network, at),
                *(min(line) for each in lines.values() for line, *layer, _ in each if layer == [network, at]),
            )
            for network, layers in NETWORKS.items() for at in range(len(layers))
        }  # fmt: skip
        for way, each in lines.items():
            goals = [(line, best[network, at]) for line, network, at, _ in each]
            networks: dict[tuple[str, int], list[list[float]]] = {}
            for line, network, at, seed in each:
                goal = best[network, at]
                networks.setdefault((network, seed), []).append([math.log(value / goal) for value in line])
            whole = [calls_of_network(lines) for lines in networks.values()]
            # The first call is the default mapping.
            gained = [calls_until(line, line[0] * (goal / line[0]) ** 0.9) for line, goal in goals]
            near = {share: [calls_until(line, goal * (1 + share)) for line, goal in goals] for share in (0.02, 0.01)}
            print(
                name, way, f"{statistics.mean(whole):.1f}",
                *(f"{statistics.median(one):g}, {statistics.mean(one):.1f}" for one in (gained, *near.values())),
                f"{sum(min(line) <= 1.02 * goal for line, goal in goals)} of {len(goals)}",
                f"{statistics.mean(len(line) for line, _ in goals):.1f}", f"{seconds[way]:.0f}",
                sep=" | ", flush=True,
            )  # fmt: skip
            rows += [
                (name, way, network, at, seed, number, value, value / best[network, at])
                for line, network, at, seed in each for number, value in enumerate(line, start=1)
            ]  # fmt: skip
    with (options.output / "values.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["machine", "way", "network", "layer", "seed", "call", "value", "over_best"])
        table.writerows(rows)


if __name__ == "__main__":
    main()
