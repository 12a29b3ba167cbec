"""The tuning database: TVM's own format, so that TVM's own pass applies what was found here.

TVM appends to its two files without looking whether the bytes arrived, and cannot open them again if they did not. So
both are read here line by line, leaving out what is damaged, and are replaced as a whole.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.s_tir import meta_schedule

from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.errors import WorkdirError
from tvm_spm.lowering.target import arch_of, target_of

WORKLOAD_FILE = "database_workload.json"
RECORD_FILE = "database_tuning_record.json"

_ENTRY = "main"
"""MetaSchedule looks a function up as a module whose only function has this name."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Content:
    """Both files: workloads in order with their hashes and lines, and per record the position of its workload."""

    workloads: list[meta_schedule.database.Workload]
    hashes: list[str]
    lines: list[bytes]
    records: list[tuple[int, meta_schedule.database.TuningRecord]]


def commit(
    directory: str | Path,
    found: Sequence[tuple[tirx.PrimFunc, s_tir.Schedule, int]],
    target: str | Path | Arch | tvm.target.Target,
    *,
    replace: bool = False,
) -> None:
    """Add schedules to the database in a directory; of several for one function, the one with fewest cycles counts.

    Args:
        directory: Made if it is missing.
        found: Functions as they stand in the network, their schedules, of which the trace is kept, and simulated
            cycles; the record holds seconds at the accelerator's clock. One that is there already is left out.
        target: The accelerator.
        replace: Whether what is there for these functions goes, so that these schedules are what TVM applies even if
            others take fewer cycles.

    Raises:
        WorkdirError: The directory cannot be written, or holds schedules for another accelerator: TVM looks them up
            by function alone.
        ArchError: The accelerator is not known.
    """
    accelerator = target_of(target)
    path = Path(directory)
    durable.make_directory(path)
    content = _read(path)
    _require_target(content, accelerator, path)
    records = list(content.records)
    for func, schedule, cycles in found:
        seconds = cycles / arch_of(accelerator).clock_hz
        at = _position(content, _module(func))
        here = [record for position, record in records if position == at]
        if replace:
            records = [(position, record) for position, record in records if position != at]
        elif any(float(r.run_secs[0]) == seconds and str(r.trace) == str(schedule.trace) for r in here):
            continue
        arguments = meta_schedule.arg_info.ArgInfo.from_prim_func(func)
        record = meta_schedule.database.TuningRecord(
            schedule.trace, content.workloads[at], [seconds], accelerator, arguments
        )
        records.append((at, record))
    _write(path, content.lines, [_line([position, record.as_json()]) for position, record in records])


def check(directory: str | Path, target: str | Path | Arch | tvm.target.Target) -> None:
    """Refuse a directory with schedules for another accelerator.

    Raises:
        WorkdirError: It holds such, or cannot be read.
        ArchError: The accelerator is not known.
    """
    path = Path(directory)
    _require_target(_read(path), target_of(target), path)


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
    path = Path(directory)
    content = _read(path)
    _require_target(content, accelerator, path)
    database = meta_schedule.database.MemoryDatabase("structural")
    for at, record in content.records:
        workload = database.commit_workload(content.workloads[at].mod)
        database.commit_tuning_record(meta_schedule.database.TuningRecord.from_json(record.as_json(), workload))
    with accelerator, database, tvm.transform.PassContext(opt_level=3):
        return relax.transform.MetaScheduleApplyDatabase()(mod)


def _read(directory: Path) -> _Content:
    """Everything readable; a line that is damaged is left out, and so are the records of a damaged workload."""
    content = _Content(workloads=[], hashes=[], lines=[], records=[])
    positions: dict[int, int] = {}
    damaged = 0
    for number, line in enumerate(_lines(directory / WORKLOAD_FILE)):
        try:
            fields = json.loads(line)
            workload = meta_schedule.database.Workload.from_json(fields)
        except (RuntimeError, ValueError, TypeError):
            damaged += 1
            continue
        positions[number] = len(content.workloads)
        content.workloads.append(workload)
        content.hashes.append(str(fields[0]))
        content.lines.append(line + b"\n")
    for line in _lines(directory / RECORD_FILE):
        try:
            number, fields = json.loads(line)
            at = positions[number]
            record = meta_schedule.database.TuningRecord.from_json(fields, content.workloads[at])
        except (RuntimeError, ValueError, TypeError, KeyError):
            damaged += 1
            continue
        content.records.append((at, record))
    if damaged:
        _log.warning(
            "%s: %d damaged lines of the tuning database are left out; schedules of this run are written again",
            directory, damaged,
        )  # fmt: skip
    return content


def _lines(path: Path) -> list[bytes]:
    return (durable.read_file(path) or b"").splitlines()


def _write(directory: Path, workloads: Sequence[bytes], records: Sequence[bytes]) -> None:
    """Replace both files so that at no moment a record belongs to a workload that is not its own."""
    workload_path, record_path = directory / WORKLOAD_FILE, directory / RECORD_FILE
    new, old = b"".join(workloads), durable.read_file(workload_path) or b""
    if not new.startswith(old):
        durable.write_file(record_path, b"")
    if new != old or not workload_path.exists():
        durable.write_file(workload_path, new)
    durable.write_file(record_path, b"".join(records))


def _position(content: _Content, mod: tvm.IRModule) -> int:
    """Of the workload of a module, which is added if there is none."""
    new = meta_schedule.database.Workload(mod)
    fields = new.as_json()
    for at, (known, known_hash) in enumerate(zip(content.workloads, content.hashes, strict=True)):
        if known_hash == str(fields[0]) and tvm_ffi.structural_equal(known.mod, mod):
            return at
    content.workloads.append(new)
    content.hashes.append(str(fields[0]))
    content.lines.append(_line(fields))
    return len(content.workloads) - 1


def _line(fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _require_target(content: _Content, accelerator: tvm.target.Target, directory: Path) -> None:
    for _, record in content.records:
        if not tvm_ffi.structural_equal(record.target, accelerator):
            raise WorkdirError(
                f"{directory}: the tuning database holds schedules for spm/{record.target.attrs['model']}, not for "
                f"spm/{accelerator.attrs['model']}; use one directory per accelerator"
            )


def _module(func: tirx.PrimFunc) -> tvm.IRModule:
    plain = func.without_attr("global_symbol").with_attr("global_symbol", _ENTRY)
    return tvm.IRModule({_ENTRY: plain})
