"""Put schedules into a network, commit them to the tuning database, and check that outputs did not change."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_spm.arch import Arch
from tvm_spm.deploy.database import commit
from tvm_spm.deploy.groups import FusedNetwork
from tvm_spm.deploy.task_checks import TaskChecks
from tvm_spm.deploy.verify import process
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.lowering.target import target_of
from tvm_spm.progress import ProgressBar
from tvm_spm.result import SearchResult
from tvm_spm.workload import HostCall

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction


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
    checks: TaskChecks,
    fused: FusedNetwork,
    *,
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
        checks: Of these tasks, begun or not, and of the network.
        fused: The groups, scheduled.
        workdir: Holds the database; none is written if None.
        phase: Measures a named phase.
        progress: Shows the functions verified.

    Raises:
        WorkdirError: The database cannot be written.
    """
    target = target_of(arch)
    module = fused.module.clone()
    refused: dict[int, str] = {}
    committed: list[tuple[int, tvm.tirx.PrimFunc, tvm.s_tir.Schedule]] = []
    with phase("schedule"):
        schedules = checks.schedules()
        for name, index in extraction.functions:
            made = schedules.get(index)
            if isinstance(made, str):
                refused[index] = made
            elif made is not None:
                if all(index != known for known, _, _ in committed):
                    committed.append((index, extraction.mod[name], made))
                # Functions of one task are structurally equal, so one schedule serves all; each keeps its own symbol.
                if name in fused.names_alone:
                    module[name] = made.mod["main"].with_attr("global_symbol", name)
    progress.phase("verify", total=len(committed) + 1, unit="checks")

    num_refused = len(refused)
    with phase("verify"):
        checks.follow(lambda index: progress.step(f"verify {extraction.graph.tasks[index].name}"))
        verification, compared = _verify_beside(module.clone(), checks)
        verifications = {index: outcome for index, outcome in compared.items() if outcome.passed}
        refused |= {index: outcome.refusal for index, outcome in compared.items() if not outcome.passed}
        for name, index in extraction.functions:
            if index in refused and name in fused.names_alone:
                module[name] = extraction.mod[name]
        if len(refused) > num_refused:
            # What was compared beside the tasks held code that is no longer in the network.
            verification = checks.compare_network(module)
        progress.step("verify network")
    if workdir is not None:
        with phase("schedule"):
            kept = [(func, made, found[index].cost.cycles) for index, func, made in committed if index not in refused]
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


def _verify_beside(module: tvm.IRModule, checks: TaskChecks) -> tuple[Verification, dict[int, Verification]]:
    """Compare a network beside its tasks; who is done with the network helps with the tasks."""

    def compare_all() -> Verification:
        outcome = checks.compare_network(module)
        checks.compare()
        return outcome

    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(compare_all)
        try:
            checks.wait()
            return future.result(), checks.outcomes()
        finally:
            if not future.done():
                checks.stop()
                process.stop()
