"""Nothing in a work directory is followed as a link: what it points to is neither read nor written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tvm_spm import durable
from tvm_spm.arch import load_arch
from tvm_spm.errors import WorkdirError
from tvm_spm.tuning.log_lines import LogHeader
from tvm_spm.tuning.run_log import LOCK_NAME, OWNER_NAME, own
from tvm_spm.tuning.saved_run import LOG_NAME, PLAN_NAME, WORKLOADS_NAME, load_last_run, load_plan, save_plan
from tvm_spm.tuning.trial_log import TrialLog, read_log

HEADER = LogHeader.of(load_arch("edge-256"))
SECRET = b'{"secret": 1}\n'


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "outside"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (LOG_NAME, lambda work: read_log(work / LOG_NAME)),
        (LOG_NAME, lambda work: TrialLog(work / LOG_NAME, HEADER)),
        (PLAN_NAME, load_plan),
        (WORKLOADS_NAME, load_last_run),
        (LOG_NAME, load_last_run),
    ],
)
def test_a_link_is_not_read(workdir: Path, outside: Path, name: str, read: Callable[[Path], object]):
    (workdir / name).symlink_to(outside)
    with pytest.raises(WorkdirError, match="cannot read: it is a symbolic link"):
        read(workdir)


def test_a_lock_that_is_a_link_is_refused(workdir: Path, outside: Path):
    (workdir / LOCK_NAME).symlink_to(outside)
    with pytest.raises(WorkdirError, match="it is a symbolic link"), own(workdir):
        pass
    assert outside.read_bytes() == SECRET


@pytest.mark.parametrize("name", [LOG_NAME, PLAN_NAME, WORKLOADS_NAME])
def test_a_link_is_not_written(workdir: Path, outside: Path, name: str):
    path = workdir / name
    path.symlink_to(outside)
    for change in (lambda: durable.append(path, b"x"), lambda: durable.cut(path, 0)):
        with pytest.raises(WorkdirError, match="cannot write: it is a symbolic link"):
            change()
    # A whole file replaces the link, not what it points to.
    durable.write_file(path, b"new")
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"
    assert outside.read_bytes() == SECRET


def test_names_of_temporary_files_may_be_links_too(workdir: Path, outside: Path):
    for name in (f".{PLAN_NAME}.new", f".{LOG_NAME}.new", f".{OWNER_NAME}.new", ".probe.new", PLAN_NAME):
        (workdir / name).symlink_to(outside)
    save_plan(workdir, ())
    with own(workdir):
        log = TrialLog(workdir / LOG_NAME, HEADER)
        durable.write_file(log.path, b"")
    assert outside.read_bytes() == SECRET


def test_pipes_do_not_block(workdir: Path):
    os.mkfifo(workdir / LOG_NAME)
    with pytest.raises(WorkdirError, match="cannot read: not a file"):
        read_log(workdir / LOG_NAME)


def test_an_owner_of_many_digits_is_another_process(workdir: Path):
    (workdir / OWNER_NAME).write_bytes(b"9" * 5000)
    with own(workdir):
        (workdir / OWNER_NAME).write_bytes(b"9" * 5000)
        with pytest.raises(WorkdirError, match="in use by another process"), own(workdir):
            pass
