"""The command line on workers that are killed, of this machine and of a cluster: nothing is lost, nothing changes."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from tests.end_to_end.test_cli import two_layers
from tvm_spm.cli import app
from tvm_spm.tuning.trial_log import read_log
from tvm_spm.workers import WorkersError
from tvm_spm.workers import cluster as dask_cluster

MEASURE = """
import json, os, pathlib, sys, time
asked = json.load(sys.stdin)
(pathlib.Path(sys.argv[1]) / str(os.getpid())).touch()
time.sleep(0.1)
print(json.dumps({"cycles": 1000 + asked["dims"]["K"] + sum(asked["mapping"].encode())}))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(two_layers(tmp_path_factory.mktemp("model") / "two.onnx", channels=16))


def tuned(model: str, folder: Path, *options: str) -> list[tuple[object, ...]]:
    """What a run with a command that measures found; it leaves a file for each time that it was started."""
    (folder / "asked").mkdir()
    (folder / "measure.py").write_text(MEASURE)
    command = f"{sys.executable} {folder / 'measure.py'} {folder / 'asked'}"
    done = CliRunner().invoke(
        app,
        ["tune", model, "--target", "spm/edge-256", "--trials", "8", "--measure-command", command, "--json",
         "--store", "none", "--workdir", str(folder / "work"), *options],
    )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    log = [(trial.mapping, trial.measured_cost.cycles) for trial in read_log(folder / "work" / "trials.jsonl").trials]
    return [*((task["mapping"], task["cycles"], task["trials"]) for task in json.loads(done.stdout)["tasks"]), *log]


@pytest.fixture(scope="module")
def alone(model: str, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    return tuned(model, tmp_path_factory.mktemp("alone"))


@pytest.fixture
def cluster() -> Iterator[object]:
    distributed = pytest.importorskip("distributed", reason="no cluster: pip install 'tvm-spm[dask]'")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as made:
        yield made


def killer(asked: Path, pids: list[int]) -> threading.Thread:
    """Kills a process once five measurements have begun."""

    def work() -> None:
        while not asked.exists() or len(list(asked.iterdir())) < 5:
            time.sleep(0.01)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_a_worker_of_a_cluster_is_killed(model, tmp_path, alone, cluster):
    pids = [worker.pid for worker in cluster.workers.values()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    thread = killer(tmp_path / "asked", pids[:1])
    assert tuned(model, tmp_path, "--dask", cluster.scheduler_address) == alone
    thread.join(1)
    assert not thread.is_alive()


def test_commands_that_are_killed_are_asked_again(model, tmp_path, alone):
    """Each command's process is a worker then; two are killed in the middle."""
    killed: list[int] = []

    def work() -> None:
        while len(killed) < 2:
            for each in (tmp_path / "asked").glob("*"):
                if int(each.name) not in killed and psutil.pid_exists(int(each.name)):
                    os.kill(int(each.name), signal.SIGKILL)
                    killed.append(int(each.name))
                    break
            time.sleep(0.02)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert tuned(model, tmp_path, "--workers", "2") == alone
    assert len(killed) == 2


def test_no_scheduler(model, monkeypatch):
    pytest.importorskip("distributed", reason="no cluster: pip install 'tvm-spm[dask]'")
    monkeypatch.setattr(dask_cluster, "CONNECT_S", 0.5)
    with pytest.raises(WorkersError, match=r"--dask tcp://127\.0\.0\.1:9: no scheduler answers there"):
        dask_cluster.dask_executor("tcp://127.0.0.1:9").__enter__()
