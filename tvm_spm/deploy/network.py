"""Put schedules into a network, commit them to the tuning database, and check that outputs did not change."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from schedules import layer
from tvm_spm.arch import Arch
from tvm_spm.deploy.database import commit
from tvm_spm.deploy.groups import FusedNetwork
from tvm_spm.deploy.verify import compare as verify
from tvm_spm.deploy.verify import process
from tvm_spm.deploy.verify.compare import NetworkCheck
from tvm_spm.deploy.verify.messages import TaskRequest
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ModelError, ScheduleError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.lowering.target import target_of
from tvm_spm.mapping import Mapping
from tvm_spm.progress import ProgressBar
from tvm_spm.result import SearchResult
from tvm_spm.workload import HostCall

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction
    from tvm_spm.frontend.tir.nest import TirNest


Asks = Callable[[TaskRequest], Verification]
"""Has a task compared in some process."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScheduledNetwork:
    """A network whose functions carry schedules.

    Attributes:
        module: The Relax module.
        task_verifications: Per task, the comparison of its schedule with the unscheduled function.
        group_verifications: Per group of the plan, the same.
        verification: Comparison of the whole network.
        refused: Tasks for which no schedule could be made; they run as imported.
        host_calls: The same tasks, with reasons.
    """

    module: tvm.IRModule
    task_verifications: dict[int, Verification]
    group_verifications: tuple[Verification, ...]
    verification: Verification
    refused: frozenset[int]
    host_calls: tuple[HostCall, ...]


def schedule_network(
    extraction: Extraction,
    arch: Arch,
    found: dict[int, SearchResult],
    fused: FusedNetwork,
    *,
    check: NetworkCheck,
    workdir: Path | None,
    phase: Callable[[str], AbstractContextManager[None]],
    progress: ProgressBar,
) -> ScheduledNetwork:
    """Schedule, verify and commit.

    A task whose schedule cannot be made, compiled or run, or computes something else, stays as imported.

    Args:
        extraction: The network.
        arch: The accelerator.
        found: Per task index, how it runs alone, and how long, which the database records.
        fused: The groups, scheduled.
        check: Compares the whole network; its seed is that of all random inputs.
        workdir: Holds the database; none is written if None.
        phase: Measures a named phase.
        progress: Shows the functions verified.

    Raises:
        WorkdirError: The database cannot be written.
    """
    target = target_of(arch)
    module = fused.module.clone()
    scheduled: dict[int, tvm.s_tir.Schedule] = {}
    refused: dict[int, str] = {}
    committed: dict[int, tuple[tvm.tirx.PrimFunc, tvm.s_tir.Schedule, int]] = {}
    with phase("schedule"):
        for name, index in extraction.functions:
            if index not in found or index in refused:
                continue
            func = extraction.mod[name]
            if index not in scheduled:
                made = make_schedule(func, extraction.nests[index], found[index].mapping)
                if isinstance(made, str):
                    refused[index] = made
                    continue
                scheduled[index] = made
                committed[index] = (func, made, found[index].cost.cycles)
            # Functions of one task are structurally equal, so one schedule serves all; each keeps its own symbol.
            if name in fused.names_alone:
                module[name] = scheduled[index].mod["main"].with_attr("global_symbol", name)
    progress.phase("verify", total=len(scheduled) + 1, unit="checks")
    first_use = {index: name for name, index in reversed(extraction.functions)}

    def verify_all(tuned: tvm.IRModule) -> Verification:
        try:
            return check.check(tuned)
        except ModelError as error:
            return Verification.failed(f"the network cannot be compared: {error}")

    def verify_one(index: int, asks: Asks) -> Verification:
        rng = np.random.default_rng([check.seed, index])
        func = extraction.mod[first_use[index]]
        outcome = verify_function(func, scheduled[index].mod["main"], rng=rng, target=target, asks=asks)
        progress.step(f"verify {extraction.graph.tasks[index].name}")
        return outcome

    num_refused = len(refused)
    with phase("verify"):
        verification, compared = _verify_beside(partial(verify_all, module.clone()), verify_one, list(scheduled), check)
        verifications = {index: outcome for index, outcome in compared.items() if outcome.passed}
        refused |= {index: outcome.refusal for index, outcome in compared.items() if not outcome.passed}
        for name, index in extraction.functions:
            if index in refused and name in fused.names_alone:
                module[name] = extraction.mod[name]
        if len(refused) > num_refused:
            # What was compared beside the tasks held code that is no longer in the network.
            verification = verify_all(module)
        progress.step("verify network")
    if workdir is not None:
        with phase("schedule"):
            kept = [entry for index, entry in committed.items() if index not in refused]
            commit(workdir, kept, target, replace=True)
    return ScheduledNetwork(
        module=module,
        task_verifications=verifications,
        group_verifications=fused.verifications,
        verification=verification,
        refused=frozenset(refused),
        host_calls=tuple(
            HostCall(name=extraction.graph.tasks[index].name, reason=reason) for index, reason in refused.items()
        ),
    )


def _verify_beside(
    whole: Callable[[], Verification],
    one: Callable[[int, Asks], Verification],
    indices: Sequence[int],
    check: NetworkCheck,
) -> tuple[Verification, dict[int, Verification]]:
    """Compare a network and its tasks in two processes; who is done with the network helps with the tasks.

    Args:
        whole: Compares the network.
        one: Compares a task, and who is asked.
        indices: The tasks.
        check: Of the network.
    """
    left, found = deque(indices), dict[int, Verification]()

    def compare_tasks(asks: Asks) -> None:
        while (index := _next(left)) is not None:
            found[index] = one(index, asks)

    def compare_all() -> Verification:
        outcome = whole()
        compare_tasks(check.ask)
        return outcome

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(compare_all)
        try:
            compare_tasks(process.ask)
            verification = future.result()
        finally:
            left.clear()
            if not future.done():
                process.stop()
    return verification, {index: found[index] for index in indices}


def _next(left: deque[int]) -> int | None:
    """Taken off the front; None if somebody else took the last one."""
    try:
        return left.popleft()
    except IndexError:
        return None


def verify_function(
    func: tvm.tirx.PrimFunc,
    scheduled: tvm.tirx.PrimFunc,
    *,
    rng: np.random.Generator,
    target: tvm.target.Target,
    asks: Asks = process.ask,
) -> Verification:
    """Compare a function with its schedule; what cannot be compared has not passed."""
    try:
        return verify.verify_task(func, scheduled, rng=rng, target=target, asks=asks)
    except ModelError as error:
        return Verification.failed(str(error))


def make_schedule(func: tvm.tirx.PrimFunc, nest: TirNest | None, mapping: Mapping) -> tvm.s_tir.Schedule | str:
    """A schedule, or why there is none."""
    if nest is None:
        return "not a multiply-accumulate nest"
    rejection = layer.refuse(nest.workload, mapping)
    if rejection is not None:
        return str(rejection)
    try:
        made = layer.schedule(func, nest, mapping)
    except ScheduleError as error:
        return str(error)
    except TVM_ERRORS as error:
        return f"TVM cannot make its code: {first_line(error)}"
    difference = layer.check_timed_is_executed(made.mod["main"], nest, mapping)
    return made if difference is None else f"the code does not do what was timed: {difference}"
