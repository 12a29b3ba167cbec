"""Spend the measurements of a run where they promise most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from tvm_spm.objective import Objective
from tvm_spm.tuning.guided.guide import Guide
from tvm_spm.tuning.guided.task import GuidedTask
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run

SEARCH_VERSION = 2
"""Raised when the same settings come to try other mappings."""

PROBES = 3
"""Random mappings of each task that are measured before the first fit."""

STEP = 4
"""Mappings of a task that are measured before anything is learned anew."""

ENOUGH = 1e-3
"""A run ends when the next measurement of every task together is expected to gain less of the network's objective,"""

ENOUGH_OF_TASK = 2e-3
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

    def each(what: str, *arguments: object) -> None:
        for at, task in list(alive.items()):
            if run.should_stop() and task.path.num_trials:
                return
            try:
                getattr(task, what)(*arguments)
            except NoMeasurementError as error:
                failed[at] = error
                del alive[at]

    if calibrates and guide.before:
        guide = guide.calibrated([])
    each("begin", guide)
    if calibrates:
        if not guide.before and options.trials > PROBES + 2:
            each("probe", PROBES)
        guide = guide.calibrated([task.answers() for task in alive.values()])
        each("restart", guide)
        guide = guide.calibrated([task.answers() for task in alive.values()])
    num_fitted = sum(task.path.num_trials for task in alive.values())
    number, budget = 0, options.trials * len(tasks)
    while alive and not run.should_stop():
        left = budget - sum(task.path.num_trials for task in tasks)
        if left <= 0:
            break
        number += 1
        if calibrates and sum(task.path.num_trials for task in alive.values()) >= 2 * num_fitted:
            guide = guide.calibrated([task.answers() for task in alive.values()])
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
        for promise, (at, task) in sorted(zip(promises, open_tasks, strict=True), key=lambda pair: -pair[0]):
            if promise < threshold or left <= 0:
                break
            before = task.path.num_trials
            try:
                task.step(min(STEP, left, most - before))
            except NoMeasurementError as error:
                failed[at] = error
                del alive[at]
            left -= task.path.num_trials - before
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
