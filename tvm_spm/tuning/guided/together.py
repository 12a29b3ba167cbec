"""Spend the measurements of a run where they promise most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from tvm_spm.arch import Arch
from tvm_spm.exact import is_estimated
from tvm_spm.mapping import Mapping as Choice
from tvm_spm.objective import Objective
from tvm_spm.tuning.exact_starts import Starts
from tvm_spm.tuning.guided.guide import Guide
from tvm_spm.tuning.guided.task import GuidedTask
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.search_path import measure_together

SEARCH_VERSION = 6
"""Raised when the same settings come to try other mappings."""

PROBES = 3
"""Random mappings of each task that are measured before the first fit."""

EARLY = 2
"""Fits before that, to default mappings and starts alone; what is best by them is measured."""

STEP = 4
"""Mappings of a task that are measured before anything is learned anew."""

ENOUGH = 5e-4
"""A run ends when the next measurement of every task together is expected to gain less of the network's objective,"""

ENOUGH_OF_TASK = 1e-3
"""and that of no task more than this of its own."""

MOST_SHARE = 4
"""No task gets more than so many times its equal share."""


def search_together(
    tasks: Sequence[GuidedTask],
    guide: Guide,
    options: TunerOptions,
    run: Run,
    *,
    calibrates: bool,
    learns: bool = True,
) -> tuple[Guide, dict[int, NoMeasurementError]]:
    """Search all tasks of a run.

    Args:
        tasks: Not begun.
        guide: What is known before.
        options: Budget of one task; of all together, the sum counts.
        run: Whose trials these are.
        calibrates: Whether the numbers of the accelerator are in doubt.
        learns: Whether a residual is learned.

    Returns:
        What is known of the machine at the end, and by position the tasks that could not be measured.
    """
    failed: dict[int, NoMeasurementError] = {}
    alive = dict(enumerate(tasks))

    def measure(wanted: Mapping[int, Sequence[Choice]]) -> None:
        places = list(wanted)
        for at, error in measure_together([(tasks[place].path, wanted[place]) for place in places]).items():
            failed[places[at]] = error
            del alive[places[at]]

    searched: set[tuple[Arch, int]] = set()

    def found_for(guide: Guide, places: Sequence[int]) -> dict[int, list[Choice]]:
        """What exact searches find on the machine as it is known, for tasks that were not searched on it before."""
        left = [
            at for at in places if tasks[at].path.num_trials < options.trials and (guide.arch, at) not in searched
        ]  # fmt: skip
        searched.update((guide.arch, at) for at in left)
        starts = [(at, start) for at in left for start in tasks[at].starts(guide)]
        known = Starts([start for _, start in starts], run.workers, run.should_stop)
        mappings: dict[int, list[Choice]] = {at: [] for at, _ in starts}
        for at, start in starts:
            found = known.find(start, run.should_stop)
            if found is not None:
                mappings[at].append(found.mapping)
        return mappings

    def search(guides: Sequence[Guide], places: Sequence[int]) -> None:
        """Measure a start by each guide, in the order of what the first one expects of them."""
        chosen: dict[int, list[Choice]] = {}
        for guide in guides:
            for at, each in found_for(guide, places).items():
                chosen.setdefault(at, []).extend(tasks[at].best_start(guide, each))
        ordered = {at: tasks[at].by_promise(guides[0], each) for at, each in chosen.items()}
        measure({at: each[: options.trials - tasks[at].path.num_trials] for at, each in ordered.items()})

    def search_early(guide: Guide) -> None:
        """Measure what is best by fits to so little that they may be wrong, while they explain it."""
        for _ in range(EARLY):
            fitted = guide.calibrated([task.answers() for task in alive.values()])
            if fitted.arch == guide.arch or fitted.is_doubtful or run.should_stop():
                break
            guide = fitted
            search([guide], list(alive))

    guide = replace(guide, rehearses=any(is_estimated(task.case) for task in tasks))
    if calibrates and guide.before:
        guide = guide.calibrated([])
        guide = guide.taught([], run.seed) if learns else guide
    measure({at: [task.default] for at, task in alive.items()})
    # what was fitted to other workloads alone may be worse for these than what the file says
    others = [replace(guide, is_declined=not guide.is_declined, residual=None)] if guide.is_doubtful else []
    search([guide, *others], list(alive))
    if calibrates:
        if not guide.before and options.trials > PROBES + 2 and not run.should_stop():
            if options.trials > PROBES + 2 + EARLY:
                search_early(guide)
            measure({at: task.probes(PROBES) for at, task in alive.items()})
        guide = guide.calibrated([task.answers() for task in alive.values()])
        num_fitted = sum(task.path.num_trials for task in alive.values())
        if not run.should_stop():
            search([guide], [at for at, task in alive.items() if guide.arch != task.case.arch])
        if sum(task.path.num_trials for task in alive.values()) > num_fitted:
            guide = guide.calibrated([task.answers() for task in alive.values()])
    num_fitted = sum(task.path.num_trials for task in alive.values())
    number, budget = 0, options.trials * len(tasks)
    while alive and not run.should_stop():
        left = budget - sum(task.path.num_trials for task in tasks)
        if left <= 0:
            break
        number += 1
        if calibrates and sum(task.path.num_trials for task in alive.values()) >= 2 * num_fitted:
            before = guide.arch
            guide = guide.calibrated([task.answers() for task in alive.values()])
            if guide.arch != before:
                for at, each in found_for(guide, list(alive)).items():
                    tasks[at].add_starts(each)
            num_fitted = sum(task.path.num_trials for task in alive.values())
        if learns:
            guide = guide.taught([task.answers() for task in alive.values()], run.seed)
        most = MOST_SHARE * options.trials
        open_tasks = [(at, task) for at, task in alive.items() if task.is_measured and task.path.num_trials < most]
        weights = _weights([task for _, task in open_tasks])
        for _, task in open_tasks:
            task.look(guide, number)
        promises = [weight * task.gain for weight, (_, task) in zip(weights, open_tasks, strict=True)]
        if sum(promises, 0.0) < ENOUGH and all(task.gain < ENOUGH_OF_TASK for _, task in open_tasks):
            break
        threshold = max(promises) / 4
        chosen: dict[int, list[Choice]] = {}
        for promise, (at, task) in sorted(zip(promises, open_tasks, strict=True), key=lambda pair: -pair[0]):
            if promise < threshold or left <= 0:
                break
            chosen[at] = task.next(min(STEP, left, most - task.path.num_trials))
            left -= len(chosen[at])
        measure(chosen)
        for at in chosen:
            tasks[at].note_step()
        best = sum(task.count * task.path.best_value() for task in alive.values() if task.is_measured)
        run.progress.trials(sum(task.path.num_trials for task in tasks), best, 1.0)
    for at, task in list(alive.items()):
        if not task.is_measured:
            failed[at] = task.path.no_measurement()
            del alive[at]
    if not run.should_stop():
        settings = _settings(tasks, options, calibrates=calibrates, learns=learns)
        for task in alive.values():
            task.end(settings)
    return guide, failed


def _settings(tasks: Sequence[GuidedTask], options: TunerOptions, **parts: bool) -> str:
    """Everything but objective and seed that decides which mappings are tried: the other tasks do too."""
    keys = "\n".join(f"{task.count} {task.memory.origin.task}" for task in tasks)
    found = {
        "version": SEARCH_VERSION, "searcher": "guided", **parts,
        "tasks": hashlib.sha256(keys.encode()).hexdigest()[:12], **asdict(options),
    }  # fmt: skip
    return json.dumps(found)


def _weights(tasks: Sequence[GuidedTask]) -> list[float]:
    """Share of each task in the objective of the network, whose EDP is a product of sums."""
    costs = [(task.count, task.best_cost()) for task in tasks]
    cycles, energy_pj = ([count * getattr(cost, what) for count, cost in costs] for what in ("cycles", "energy_pj"))
    parts = {Objective.LATENCY: [cycles], Objective.ENERGY: [energy_pj]}
    kinds = parts.get(tasks[0].case.objective, [cycles, energy_pj]) if tasks else []
    shares = [[value / (sum(kind) or 1.0) for value in kind] for kind in kinds]
    return [sum(each) / len(kinds) for each in zip(*shares, strict=True)]
