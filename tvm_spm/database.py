"""The tuning database: TVM's own format, so that TVM's own pass applies what was found here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.s_tir import meta_schedule

from tvm_spm.arch import Arch
from tvm_spm.errors import WorkdirError
from tvm_spm.target import arch_of, target_of

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"

_ENTRY = "main"
"""MetaSchedule looks a function up as a module whose only function has this name."""


def commit(
    directory: str | Path,
    func: tirx.PrimFunc,
    schedule: s_tir.Schedule,
    cycles: int,
    target: str | Path | Arch | tvm.target.Target,
) -> None:
    """Add a schedule to the database in a directory; of several for one function, the one with fewest cycles counts.

    Args:
        directory: Made if it is missing.
        func: The function before it was scheduled, as it stands in the network.
        schedule: Made from ``func``; its trace is what is kept.
        cycles: Simulated; the record holds seconds at the accelerator's clock.
        target: The accelerator.

    Raises:
        WorkdirError: The directory cannot be written, or holds schedules for another accelerator: TVM looks them up
            by function alone.
        ArchError: The accelerator is not known.
    """
    commit_all(directory, [(func, schedule, cycles)], target)


def commit_all(
    directory: str | Path,
    found: Sequence[tuple[tirx.PrimFunc, s_tir.Schedule, int]],
    target: str | Path | Arch | tvm.target.Target,
) -> None:
    """Add schedules with their functions and cycles, as ``commit``; one that is there already is left out.

    Raises:
        WorkdirError: As ``commit``.
        ArchError: The accelerator is not known.
    """
    accelerator = target_of(target)
    database = _open(directory)
    _require_target(database, accelerator, directory)
    for func, schedule, cycles in found:
        seconds = cycles / arch_of(accelerator).clock_hz
        workload = database.commit_workload(_module(func))
        known = database.get_top_k(workload, 1)
        if known and float(known[0].run_secs[0]) == seconds and str(known[0].trace) == str(schedule.trace):
            continue
        arguments = meta_schedule.arg_info.ArgInfo.from_prim_func(func)
        database.commit_tuning_record(
            meta_schedule.database.TuningRecord(schedule.trace, workload, [seconds], accelerator, arguments)
        )


def apply(mod: tvm.IRModule, directory: str | Path, target: str | Path | Arch | tvm.target.Target) -> tvm.IRModule:
    """Replace every function the database has a schedule for, by TVM's own pass.

    Args:
        mod: A Relax module after the same passes as when it was tuned.
        directory: With a database in it.
        target: The accelerator the schedules were committed for.

    Raises:
        WorkdirError: The directory holds no database, or one for another accelerator.
        ArchError: The accelerator is not known.
    """
    for name in (WORKLOAD_FILE, RECORD_FILE):
        if not (Path(directory) / name).is_file():
            raise WorkdirError(
                f"{directory}: holds no tuning database ({name} is missing); tune with this directory first"
            )
    accelerator = target_of(target)
    _require_target(_database(directory), accelerator, directory)
    with accelerator, tvm.transform.PassContext(opt_level=3):
        return relax.transform.MetaScheduleApplyDatabase(str(directory))(mod)


def _open(directory: str | Path) -> meta_schedule.database.JSONDatabase:
    """TVM ends the process where it cannot write, so the files are tried first."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in (WORKLOAD_FILE, RECORD_FILE):
            with (path / name).open("a", encoding="utf-8"):
                pass
    except OSError as error:
        raise WorkdirError(f"{directory}: the tuning database cannot be written: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise WorkdirError(f"{directory}: the tuning database cannot be written: no permission")
    return _database(directory)


def _database(directory: str | Path) -> meta_schedule.database.JSONDatabase:
    return meta_schedule.database.JSONDatabase(work_dir=str(directory), module_equality="structural")


def _require_target(
    database: meta_schedule.database.JSONDatabase, accelerator: tvm.target.Target, directory: str | Path
) -> None:
    for record in database.get_all_tuning_records():
        if not tvm_ffi.structural_equal(record.target, accelerator):
            raise WorkdirError(
                f"{directory}: the tuning database holds schedules for spm/{record.target.attrs['model']}, not for "
                f"spm/{accelerator.attrs['model']}; use one directory per accelerator"
            )


def _module(func: tirx.PrimFunc) -> tvm.IRModule:
    plain = func.without_attr("global_symbol").with_attr("global_symbol", _ENTRY)
    return tvm.IRModule({_ENTRY: plain})
