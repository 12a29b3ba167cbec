"""Schedules kept in TVM's database come back, in another process and by TVM's own pass."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule

from schedules.layer import schedule
from tests.numeric.fused import NETWORKS, fuse
from tests.numeric.sampled import sample_mapping
from tvm_spm.arch import load_arch
from tvm_spm.deploy import database
from tvm_spm.errors import WorkdirError
from tvm_spm.frontend.tir.nest import TirNest, read_nest

NETWORK = "conv, residual, swish"
TARGET = "spm/edge-256"


def tuned(directory: Path, *, cycles: int = 1000, seed: int = 0) -> tuple[tirx.PrimFunc, s_tir.Schedule]:
    """Commit one schedule for the only function of the network."""
    (func,) = [func for func in fuse(NETWORKS[NETWORK]).functions.values() if isinstance(func, tirx.PrimFunc)]
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    made = schedule(func, nest, sample_mapping(nest.workload, random.Random(seed)))
    database.commit(directory, [(func, made, cycles)], TARGET)
    return func, made


def applied(mod: tvm.IRModule) -> tirx.PrimFunc:
    (func,) = [func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc)]
    return func


def test_apply_gives_the_committed_schedule(tmp_path: Path):
    _, made = tuned(tmp_path / "new" / "directory")
    got = applied(database.apply(fuse(NETWORKS[NETWORK]), tmp_path / "new" / "directory", TARGET))
    tvm.ir.assert_structural_equal(got.body, made.mod["main"].body, map_free_vars=True)


def test_another_process_applies_with_tvm_alone(tmp_path: Path):
    _, made = tuned(tmp_path)
    (tmp_path / "module.json").write_text(tvm.ir.save_json(fuse(NETWORKS[NETWORK])), encoding="utf-8")
    script = f"""
import tvm, tvm_spm.lowering.target
from pathlib import Path
mod = tvm.ir.load_json(Path({str(tmp_path)!r}, "module.json").read_text())
with tvm.target.Target({TARGET!r}), tvm.transform.PassContext(opt_level=3):
    mod = tvm.relax.transform.MetaScheduleApplyDatabase({str(tmp_path)!r})(mod)
Path({str(tmp_path)!r}, "applied.json").write_text(tvm.ir.save_json(mod))
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])
    got = applied(tvm.ir.load_json((tmp_path / "applied.json").read_text(encoding="utf-8")))
    tvm.ir.assert_structural_equal(got.body, made.mod["main"].body, map_free_vars=True)


def test_of_two_records_the_faster_counts(tmp_path: Path):
    tuned(tmp_path, cycles=2000, seed=1)
    _, fast = tuned(tmp_path, cycles=1000, seed=2)
    tuned(tmp_path, cycles=3000, seed=3)
    got = applied(database.apply(fuse(NETWORKS[NETWORK]), tmp_path, TARGET))
    tvm.ir.assert_structural_equal(got.body, fast.mod["main"].body, map_free_vars=True)


def test_a_record_holds_seconds_at_the_accelerators_clock(tmp_path: Path):
    tuned(tmp_path, cycles=1500)
    records = meta_schedule.database.JSONDatabase(work_dir=str(tmp_path)).get_all_tuning_records()
    assert [float(s) for s in records[0].run_secs] == [1500 / load_arch("edge-256").clock_hz]


def test_one_directory_holds_one_accelerator(tmp_path: Path):
    # TVM looks records up by function alone, so those of another accelerator would be applied without a word.
    func, made = tuned(tmp_path)
    refused = "holds schedules for spm/edge-256, not for spm/eyeriss-168"
    with pytest.raises(WorkdirError, match=refused):
        database.apply(fuse(NETWORKS[NETWORK]), tmp_path, "spm/eyeriss-168")
    with pytest.raises(WorkdirError, match=refused):
        database.commit(tmp_path, [(func, made, 1)], "spm/eyeriss-168")


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("", encoding="utf-8")
    with pytest.raises(WorkdirError, match="taken: cannot write: Not a directory; choose a writable --workdir"):
        tuned(tmp_path / "taken")


def test_an_unwritable_directory_is_refused(tmp_path: Path):
    (tmp_path / database.RECORD_FILE).mkdir()
    with pytest.raises(WorkdirError, match="cannot read: Is a directory"):
        tuned(tmp_path)
    if os.geteuid() != 0:
        # The owner of the machine may write everywhere.
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(WorkdirError, match="cannot write: Permission denied"):
            tuned(tmp_path / "closed")


def test_a_directory_without_database_is_refused(tmp_path: Path):
    with pytest.raises(WorkdirError, match=r"holds no tuning database \(database_workload.json is missing\)"):
        database.apply(fuse(NETWORKS[NETWORK]), tmp_path, TARGET)


def test_a_run_replaces_its_own_schedules_and_keeps_those_of_others(tmp_path: Path):
    func, fast = tuned(tmp_path, cycles=1000, seed=1)
    other = other_network()
    database.commit(tmp_path, [other], TARGET, replace=True)
    (again,) = [func for func in fuse(NETWORKS[NETWORK]).functions.values() if isinstance(func, tirx.PrimFunc)]
    nest = read_nest(again)
    assert isinstance(nest, TirNest)
    slow = schedule(again, nest, sample_mapping(nest.workload, random.Random(2)))
    database.commit(tmp_path, [(func, slow, 2000)], TARGET, replace=True)
    got = applied(database.apply(fuse(NETWORKS[NETWORK]), tmp_path, TARGET))
    tvm.ir.assert_structural_equal(got.body, slow.mod["main"].body, map_free_vars=True)
    got = applied(database.apply(fuse(NETWORKS[OTHER]), tmp_path, TARGET))
    tvm.ir.assert_structural_equal(got.body, other[1].mod["main"].body, map_free_vars=True)


@pytest.mark.parametrize("name", [database.RECORD_FILE, database.WORKLOAD_FILE])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "middle"])
def test_damaged_files_are_written_again(tmp_path: Path, name: str, damage: str):
    """TVM itself cannot open such files; what is whole in them is kept, and a run writes its own schedules again."""
    func, made = tuned(tmp_path)
    database.commit(tmp_path, [other_network()], TARGET, replace=True)
    path = tmp_path / name
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        {"cut": first + second[:-20], "garbage": b"\x00\xff\n", "empty": b"", "middle": first[:50] + b"\n" + second}[
            damage
        ]
    )
    database.commit(tmp_path, [(func, made, 1000)], TARGET, replace=True)
    got = applied(database.apply(fuse(NETWORKS[NETWORK]), tmp_path, TARGET))
    tvm.ir.assert_structural_equal(got.body, made.mod["main"].body, map_free_vars=True)
    # TVM opens it, and every record stands beside its own function.
    opened = meta_schedule.database.JSONDatabase(work_dir=str(tmp_path))
    records = opened.get_all_tuning_records()
    assert len(records) >= 1
    for record in records:
        schedule_again = s_tir.Schedule(record.workload.mod)
        record.trace.apply_to_schedule(schedule_again, remove_postproc=False)


OTHER = next(name for name in NETWORKS if name != NETWORK)


def other_network() -> tuple[tirx.PrimFunc, s_tir.Schedule, int]:
    func = next(func for func in fuse(NETWORKS[OTHER]).functions.values() if isinstance(func, tirx.PrimFunc))
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    return func, schedule(func, nest, sample_mapping(nest.workload, random.Random(5))), 700
