"""TVM's ``tune_tir``, ``tune_relax`` and ``compile_relax`` for an accelerator, without the import of GPU intrinsics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir.meta_schedule.database import Database, JSONDatabase
from tvm.s_tir.meta_schedule.relax_integration import extract_tasks
from tvm.s_tir.meta_schedule.tune import tune_tasks
from tvm.s_tir.meta_schedule.utils import fork_seed

from tvm_spm.arch import Arch
from tvm_spm.arguments import check_count, check_type
from tvm_spm.deploy import database as files
from tvm_spm.deploy.runtime import build
from tvm_spm.errors import ArchError, ModelError
from tvm_spm.frontend import load_model
from tvm_spm.frontend.fuse import fuse
from tvm_spm.frontend.load import Model
from tvm_spm.lowering.target import target_of
from tvm_spm.meta_schedule.context import light_context
from tvm_spm.meta_schedule.parts import Parts, parts
from tvm_spm.meta_schedule.tasks import MAPPING, annotation_of

TRIALS_PER_ITER = 16
"""Mappings of one task that are measured before its model is fitted again."""


def lower(model: Model) -> tvm.IRModule:
    """A model as TIR functions, one per layer with what follows it, which ``tune_relax`` tunes.

    Args:
        model: A Relax module, or whatever else ``tvm_spm.tune`` takes.

    Raises:
        ModelError: It cannot be read or lowered.
    """
    return fuse(load_model(model))


def tune_tir(
    mod: tvm.IRModule | tirx.PrimFunc,
    target: tvm.target.Target | Arch | str | Path,
    work_dir: str | Path,
    max_trials_global: int,
    *,
    max_trials_per_task: int | None = None,
    num_trials_per_iter: int = TRIALS_PER_ITER,
    seed: int = 0,
    using: Parts | None = None,
) -> JSONDatabase:
    """Tune TIR functions by MetaSchedule and keep the schedules in its database.

    Args:
        mod: A function, or a module of functions.
        target: ``spm/<accelerator>`` as text or as a TVM target, an accelerator, or the path of its file.
        work_dir: Holds the database; one of an earlier run is added to.
        max_trials_global: Mappings measured at most.
        max_trials_per_task: The same for one function.
        num_trials_per_iter: Mappings measured between two choices.
        seed: Same seed, same trials.
        using: Who searches and measures; ``parts(target, seed=seed)`` if None.

    Raises:
        ArchError: The accelerator is not known, or the target is none of ours.
        WorkdirError: The directory holds schedules for another accelerator, or cannot be used.
        ModelError: There is no TIR function, or one is scheduled already.
        SpmError: Another argument is wrong.
    """
    check_type("mod", mod, (tvm.IRModule, tirx.PrimFunc), "a TIR function or a module of them")
    functions = {"main": mod} if isinstance(mod, tirx.PrimFunc) else mod.functions
    named = [(str(getattr(name, "name_hint", name)), func) for name, func in functions.items()]
    found = [_Wanted(name, _alone(func), 1) for name, func in named if isinstance(func, tirx.PrimFunc)]
    budget = _Budget(max_trials_global, max_trials_per_task, num_trials_per_iter)
    return _tune(sorted(found, key=lambda each: each.name), target, work_dir, budget, seed, using)


def tune_relax(
    mod: tvm.IRModule,
    target: tvm.target.Target | Arch | str | Path,
    work_dir: str | Path,
    max_trials_global: int,
    *,
    max_trials_per_task: int | None = None,
    num_trials_per_iter: int = TRIALS_PER_ITER,
    seed: int = 0,
    using: Parts | None = None,
) -> JSONDatabase:
    """Tune the functions that a Relax module calls by MetaSchedule and keep the schedules in its database.

    Equal functions are one task, which weighs as much as it has calls.

    Args:
        mod: Its operators are TIR functions already: see ``lower``.
        target: ``spm/<accelerator>`` as text or as a TVM target, an accelerator, or the path of its file.
        work_dir: Holds the database; one of an earlier run is added to.
        max_trials_global: Mappings measured at most.
        max_trials_per_task: The same for one function.
        num_trials_per_iter: Mappings measured between two choices.
        seed: Same seed, same trials.
        using: Who searches and measures; ``parts(target, seed=seed)`` if None.

    Raises:
        ArchError: The accelerator is not known, or the target is none of ours.
        WorkdirError: The directory holds schedules for another accelerator, or cannot be used.
        ModelError: There is no TIR function, or one is scheduled already.
        SpmError: Another argument is wrong.
    """
    check_type("mod", mod, tvm.IRModule, "a Relax module")
    extracted = extract_tasks(mod, target_of(target))
    found = [_Wanted(str(each.task_name), each.dispatched[0], int(each.weight)) for each in extracted]
    budget = _Budget(max_trials_global, max_trials_per_task, num_trials_per_iter)
    return _tune(found, target, work_dir, budget, seed, using)


def compile_relax(
    database: Database, mod: tvm.IRModule, target: tvm.target.Target | Arch | str | Path
) -> relax.VMExecutable:
    """Put the best schedules of a database into a module, and build it.

    Args:
        database: As ``tune_relax`` returns it.
        mod: The module that was tuned.
        target: The accelerator; its code runs on the host and computes the same numbers.

    Raises:
        ArchError: The accelerator is not known.
    """
    accelerator = target_of(target)
    with accelerator, database, tvm.transform.PassContext(opt_level=3):
        applied = relax.transform.MetaScheduleApplyDatabase()(mod)
    return build(applied, accelerator)


@dataclass(frozen=True, slots=True)
class _Wanted:
    name: str
    mod: tvm.IRModule
    weight: int


@dataclass(frozen=True, slots=True)
class _Budget:
    max_trials_global: int
    max_trials_per_task: int | None
    num_trials_per_iter: int

    def __post_init__(self) -> None:
        check_count("max_trials_global", self.max_trials_global, at_least=1)
        check_count("num_trials_per_iter", self.num_trials_per_iter, at_least=1)
        if self.max_trials_per_task is not None:
            check_count("max_trials_per_task", self.max_trials_per_task, at_least=1)


def _tune(
    wanted: Sequence[_Wanted],
    target: tvm.target.Target | Arch | str | Path,
    work_dir: str | Path,
    budget: _Budget,
    seed: int,
    using: Parts | None,
) -> JSONDatabase:
    check_type("work_dir", work_dir, (str, os.PathLike), "the path of a directory")
    check_count("seed", seed, at_least=0)
    chosen = parts(target, seed=seed) if using is None else using
    if not tvm_ffi.structural_equal(chosen.target, target_of(target)):
        raise ArchError(f"using: these parts are for {chosen.target.attrs['model']}, the target is {target}")
    if not wanted:
        raise ModelError("the module has no TIR function to tune: lower it first, for example by "
                         "tvm_spm.meta_schedule.lower")  # fmt: skip
    for each in wanted:
        if annotation_of(each.mod, MAPPING) is not None:
            raise ModelError(f"function {each.name!r} is scheduled already: tune the module that the database was not "
                             "applied to yet")  # fmt: skip
    # Refuses schedules for another accelerator, and writes anew what TVM could not open.
    files.commit(work_dir, (), chosen.target)
    contexts = [
        light_context(
            each.mod, chosen.target, each.name, space=chosen.space, strategy=chosen.strategy, seed=task_seed
        ).clone()
        for each, task_seed in zip(wanted, fork_seed(seed, n=len(wanted)), strict=True)
    ]
    made = chosen.keywords()
    return tune_tasks(
        tasks=contexts,
        task_weights=[float(each.weight) for each in wanted],
        work_dir=str(work_dir),
        max_trials_global=budget.max_trials_global,
        max_trials_per_task=budget.max_trials_per_task,
        num_trials_per_iter=budget.num_trials_per_iter,
        builder=made["builder"],
        runner=made["runner"],
        cost_model=made["cost_model"],
        task_scheduler=made["task_scheduler"],
    )


def _alone(func: tirx.PrimFunc) -> tvm.IRModule:
    """As TVM's own ``tune_tir`` takes a function, so that records of both are found by either."""
    named = func if func.attrs and "global_symbol" in func.attrs else func.with_attr("global_symbol", "main")
    return tvm.IRModule({"main": named.with_attr("tirx.noalias", True)})
