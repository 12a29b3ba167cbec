"""Put schedules into a network, commit them to the tuning database, and check that outputs did not change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import schedules
from tvm_spm import frontend, verify
from tvm_spm.arch import Arch
from tvm_spm.database import commit_all
from tvm_spm.fused_network import FusedNetwork
from tvm_spm.mapping import Mapping
from tvm_spm.progress import ProgressBar
from tvm_spm.target import target_of
from tvm_spm.workload import HostCall

if TYPE_CHECKING:
    import tvm

    from schedules.nest import Nest
    from tvm_spm.frontend import Extraction
    from tvm_spm.verify import Verification


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
    mappings: dict[int, Mapping],
    fused: FusedNetwork,
    *,
    cycles: dict[int, int],
    seed: int,
    workdir: Path | None,
    phase: Callable[[str], AbstractContextManager[None]],
    progress: ProgressBar,
) -> ScheduledNetwork:
    """Schedule, commit and verify.

    Args:
        extraction: The network.
        arch: The accelerator.
        mappings: Per task index, how it runs alone.
        fused: The groups, scheduled.
        cycles: Per task index, what the database records as its run time.
        seed: Of the random inputs.
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
    committed: list[tuple[tvm.tirx.PrimFunc, tvm.s_tir.Schedule, int]] = []
    with phase("schedule"):
        for name, index in extraction.functions:
            if index not in mappings or index in refused:
                continue
            func = extraction.mod[name]
            if index not in scheduled:
                made = make_schedule(func, extraction.nests[index], mappings[index])
                if isinstance(made, str):
                    refused[index] = made
                    continue
                scheduled[index] = made
                committed.append((func, made, cycles[index]))
            # Functions of one task are structurally equal, so one schedule serves all; each keeps its own symbol.
            if name in fused.names_alone:
                module[name] = scheduled[index].mod["main"].with_attr("global_symbol", name)
        if workdir is not None:
            commit_all(workdir, committed, target, replace=True)
    progress.phase("verify", total=len(scheduled) + len(fused.distinct) + 1, unit="checks")
    first_use = {index: name for name, index in reversed(extraction.functions)}
    verifications: dict[int, Verification] = {}
    with phase("verify"):
        for index, schedule in scheduled.items():
            rng = np.random.default_rng([seed, index])
            func = extraction.mod[first_use[index]]
            verifications[index] = verify.verify_task(func, schedule.mod["main"], rng=rng, target=target)
            progress.step(f"verify {extraction.graph.tasks[index].name}")
        group_verifications = _verify_groups(fused, target, seed, progress)
        inputs = frontend.random_inputs(extraction.mod, np.random.default_rng(seed))
        verification = verify.verify_network(extraction.mod, module, inputs, target=target)
        progress.step("verify network")
    return ScheduledNetwork(
        module=module,
        task_verifications=verifications,
        group_verifications=group_verifications,
        verification=verification,
        refused=frozenset(refused),
        host_calls=tuple(
            HostCall(name=extraction.graph.tasks[index].name, reason=reason) for index, reason in refused.items()
        ),
    )


def _verify_groups(
    fused: FusedNetwork, target: tvm.target.Target, seed: int, progress: ProgressBar
) -> tuple[Verification, ...]:
    """One comparison per group; groups with equal code share it."""
    found: dict[int, Verification] = {}
    for position in fused.distinct:
        rng = np.random.default_rng([seed, position])
        plain, scheduled = fused.plain[position], fused.scheduled[position]
        found[position] = verify.verify_task(plain, scheduled, rng=rng, target=target)
        progress.step(f"verify group {position + 1}")
    return tuple(found[position] for position in fused.like)


def make_schedule(func: tvm.tirx.PrimFunc, nest: Nest | None, mapping: Mapping) -> tvm.s_tir.Schedule | str:
    """A schedule, or why there is none."""
    if nest is None:
        return "not a multiply-accumulate nest"
    rejection = schedules.refuse(nest.workload, mapping)
    if rejection is not None:
        return str(rejection)
    try:
        made = schedules.schedule(func, nest, mapping)
    except schedules.ScheduleError as error:
        return str(error)
    difference = schedules.check_timed_is_executed(made.mod["main"], nest, mapping)
    return made if difference is None else f"the code does not do what was timed: {difference}"
