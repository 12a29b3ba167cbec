"""What one network taught about a machine is known when the next one comes."""

from __future__ import annotations

import json
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier

import pytest
from typer.testing import CliRunner

import tvm_spm
from tests.end_to_end.test_cli import two_layers
from tests.end_to_end.test_guided import BUILT, DECLARED, TRIALS, Board, edp_on
from tvm_spm.cli import app
from tvm_spm.errors import SpmError
from tvm_spm.trial import Prediction
from tvm_spm.tuning.store import Store
from tvm_spm.tuning.task_memory import Origin, TaskMemory


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [two_layers(folder / f"{channels}.onnx", channels=channels) for channels in (32, 48)]


def tuned(model: Path, store: Path | str, **options: object):
    board = Board()
    return tvm_spm.tune(model, DECLARED, trials=TRIALS, measurer=board, store=store, **options), board


def test_an_equal_network_is_not_measured_again(models, tmp_path):
    first, board = tuned(models[0], tmp_path / "store")
    again, second_board = tuned(models[0], tmp_path / "store", workdir=tmp_path / "work")
    assert len(board.asked) > 4
    assert len(second_board.asked) <= 2  # the best by the numbers that all answers fit may be a new one
    assert edp_on(BUILT, again) <= edp_on(BUILT, first) * 1.001
    # what was lent is in the log: the work directory is whole without the store
    alone, third_board = tuned(models[0], "none", workdir=tmp_path / "work")
    assert len(third_board.asked) <= len(board.asked)
    assert alone.verified


def test_another_network_needs_fewer_measurements(models, tmp_path):
    cold, cold_board = tuned(models[1], "none")
    tuned(models[0], tmp_path / "store")
    warm, warm_board = tuned(models[1], tmp_path / "store")
    assert len(warm_board.asked) <= 0.6 * len(cold_board.asked)
    assert edp_on(BUILT, warm) <= 1.01 * edp_on(BUILT, cold)
    assert warm.fitted.num_measured > len(warm_board.asked)


def test_another_machine_learns_nothing_from_it(models, tmp_path):
    tuned(models[0], tmp_path / "store")
    board = Board()
    other = tvm_spm.load_arch("eyeriss-168")
    found = tvm_spm.tune(models[0], other, trials=TRIALS, measurer=board, store=tmp_path / "store")
    assert found.fitted.num_measured == len(board.asked)


def test_a_run_that_is_started_again_takes_the_same_path(models, tmp_path):
    tuned(models[1], tmp_path / "store")
    first, board = tuned(models[0], tmp_path / "store", workdir=tmp_path / "work")
    again, second_board = tuned(models[0], tmp_path / "store", workdir=tmp_path / "work")
    assert second_board.asked == []
    assert [task.mapping for task in again.tasks] == [task.mapping for task in first.tasks]


def test_stores_that_cannot_be_used_are_named(models, tmp_path):
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(SpmError, match="text: cannot use the store: .*; give another --store, or none"):
        tuned(models[0], tmp_path / "text")
    with sqlite3.connect(tmp_path / "later") as tables:
        tables.execute("pragma user_version = 7")
    with pytest.raises(SpmError, match="later: version 7 of the store, this program reads 1; give another --store"):
        tuned(models[0], tmp_path / "later")
    with pytest.raises(SpmError, match="text/inside/store: cannot make its directory: "):
        tuned(models[0], tmp_path / "text" / "inside" / "store")


def test_several_runs_may_make_a_store_at_once(tmp_path):
    arch = tvm_spm.load_arch("edge-256")
    with ThreadPoolExecutor(4) as threads:
        for number in range(30):
            path, ready = tmp_path / str(number), Barrier(4)

            def make(origin: int, path=path, ready=ready) -> None:
                ready.wait()
                Store(path, arch, "board", str(origin))

            list(threads.map(make, range(4)))


@pytest.mark.parametrize("column", ["answers set trial", "workloads set workload"])
@pytest.mark.parametrize("text", ["{oops", "[]", "{}"])
def test_a_damaged_store_is_named(tmp_path, column, text):
    path, layer = tmp_path / "store", tvm_spm.Workload.matmul(m=4, k=3, n=2)
    mapping = tvm_spm.search(layer, DECLARED).mapping
    prediction = Prediction(model="analytical", cycles=1.0, energy_pj=1.0)
    memory = TaskMemory(Origin(task="t", measurer="board"))
    cost = tvm_spm.evaluate(layer, DECLARED, mapping)
    Store(path, DECLARED, "board", "first").keep(layer, memory.record([(mapping, cost, prediction)]))
    store = Store(path, DECLARED, "board", "second")
    assert [len(trials) for trials in store.experience().values()] == [1]
    with closing(sqlite3.connect(path)) as tables, tables:
        tables.execute(f"update {column} = ?", (text,))
    with pytest.raises(SpmError, match="store: damaged: .*; give another --store, or none"):
        store.experience()


def test_the_environment_chooses_the_store(models, tmp_path, monkeypatch):
    monkeypatch.setenv("TVM_SPM_STORE", str(tmp_path / "mine"))
    board = Board()
    tvm_spm.tune(models[0], DECLARED, trials=4, measurer=board)
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--measure-command", "x", "--measurer", "rtl"], "give one of them"),
     (["--measure-timeout", "3"], "only with --measure-command"),
     (["--workers", "2", "--dask", "tcp://x:1"], "--workers 2 and --dask tcp://x:1: give one of them"),
     (["--measure-command", "x", "--measure-timeout", "0"], "must be > 0"),
     (["--measure-command", "'"], "No closing quotation"),
     (["--measure-command", " "], "must name a program")],
)  # fmt: skip
def test_wrong_options(models, options, said):
    done = CliRunner().invoke(app, ["tune", str(models[0]), "--target", "spm/edge-256", *options])
    assert done.exit_code != 0
    assert said in str(done.exception or done.output)


def test_a_command_that_hangs_costs_its_trials(models, tmp_path):
    done = CliRunner().invoke(
        app,
        ["tune", str(models[0]), "--target", "spm/edge-256", "--trials", "4",
         "--measure-command", "sleep 60", "--measure-timeout", "0.2"],
    )  # fmt: skip
    assert "no answer after 0.2 s" in str(done.exception or "") + done.output


MEASURE = """
import json, sys
from tvm_spm.arch import load_arch
from tvm_spm.mapping import Mapping

asked = json.load(sys.stdin)
mapping = Mapping.parse(asked["mapping"])
print(json.dumps({"cycles": 1000 + 7 * mapping.spm.product() + asked["dims"]["K"] * mapping.rows.product()}))
"""


def test_several_commands_at_once_find_what_one_after_the_other_finds(models, tmp_path):
    (tmp_path / "measure.py").write_text(MEASURE)
    command = f"{sys.executable} {tmp_path / 'measure.py'}"
    found = []
    for workers in ("1", "3"):
        done = CliRunner().invoke(
            app,
            ["tune", str(models[0]), "--target", "spm/edge-256", "--trials", "6", "--measure-command", command,
             "--workers", workers, "--json", "--store", "none"],
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        tasks = json.loads(done.stdout)["tasks"]
        found.append([(task["mapping"], task["cycles"], task["trials"]) for task in tasks])
    assert found[0] == found[1]
