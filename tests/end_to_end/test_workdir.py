"""A work directory under a whole tune: a disk that breaks, files that are damaged, formats of the past."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import tvm_spm
from tests.end_to_end.test_cli import two_layers
from tests.faults import Killed, faulty
from tests.kills import content, without_time
from tvm_spm.errors import SpmError, WorkdirError
from tvm_spm.tuning.measurer import MeasureError, Measurement, MeasureRequest
from tvm_spm.tuning.saved_run import best_trials
from tvm_spm.tuning.text import print_result
from tvm_spm.tuning.trial_log import read_log

TARGET = "spm/edge-256"
TRIALS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layers(tmp_path_factory.mktemp("model") / "two.onnx")


@dataclass(frozen=True)
class Tuned:
    workdir: Path
    num_steps: int
    result: dict[str, object]


@pytest.fixture(scope="module")
def tuned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    workdir = tmp_path_factory.mktemp("tuned") / "work"
    with faulty() as disk:
        result = tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=workdir)
    return Tuned(workdir, disk.num_steps, without_time(result.as_dict()))


def copied(tuned: Tuned, folder: Path) -> Path:
    for path in tuned.workdir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(("share", "kind"), [(0.5, "killed"), (0.75, "full"), (0.95, "torn")])
def test_a_tune_that_breaks_is_continued_to_the_same_files(
    tuned: Tuned, model: Path, tmp_path: Path, share: float, kind: str
):
    """From the half on: before are the steps that ``tests.faults`` breaks; the database and the result come last."""
    workdir = tmp_path / "work"
    with faulty(int(share * tuned.num_steps), kind), pytest.raises((Killed, WorkdirError)):
        tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=workdir)
    again = tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=workdir)
    assert without_time(again.as_dict()) == tuned.result
    assert content(workdir) == content(tuned.workdir)


def test_files_made_from_the_log_are_made_again(tuned: Tuned, model: Path, tmp_path: Path):
    """TVM itself ends with a RuntimeError where a line of its database is cut."""
    workdir = copied(tuned, tmp_path)
    for name in ("database_tuning_record.json", "database_workload.json", "workloads.json", "plan.json"):
        (workdir / name).write_bytes((workdir / name).read_bytes()[:-30])
    assert len(best_trials(workdir, "edp")) == 2
    again = tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=workdir)
    assert without_time(again.as_dict()) == tuned.result
    assert content(workdir) == content(tuned.workdir)


def test_a_directory_of_format_1_is_shown_and_continued(tuned: Tuned, model: Path, tmp_path: Path):
    """Its simulator may have said other numbers, so its trials are kept and read, but measured again."""
    workdir = copied(tuned, tmp_path)
    old = read_log(workdir / "trials.jsonl")
    lines = [json.loads(line) for line in (workdir / "trials.jsonl").read_text().splitlines()]
    header = {"format": 1, "arch_name": lines[0]["arch_name"], "arch_sha256": lines[0]["arch_sha256"],
              "model_name": "two.onnx", "model_sha256": "ab" * 32}  # fmt: skip
    trials = [
        {"index": index, "task": line["task"], "source": "simulator", "mapping": line["mapping"],
         "predicted": {"analytical": 1.5}, "cost": line["cost"], "rejection": None, "wall_s": 0.0}
        for index, line in enumerate(line for line in lines if line["kind"] == "trial")
    ]  # fmt: skip
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (header, *trials))
    (workdir / "trials.jsonl").write_text(text)
    shown = json.loads((workdir / "workloads.json").read_text())
    (workdir / "workloads.json").write_text(json.dumps({name: shown[name] for name in ("arch", "tasks")}))
    assert [trial.mapping for trial in read_log(workdir / "trials.jsonl").trials] == [t.mapping for t in old.trials]
    best = [(name, trial.cost) for name, _, _, trial in best_trials(workdir, "edp")]
    again = tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=workdir)
    assert without_time(again.as_dict()) == tuned.result
    assert (workdir / "trials.jsonl").read_text().startswith(text)
    assert len(read_log(workdir / "trials.jsonl").trials) == 2 * len(trials)
    assert [(name, trial.cost) for name, _, _, trial in best_trials(workdir, "edp")] == best


@dataclass
class Board:
    """The first mapping it is asked for, the default of the first layer, burns it."""

    name: str = "board"
    batch_size: int = 1
    asked: list[str] = field(default_factory=list)

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        self.asked.append(requests[0].mapping.line())
        if len(self.asked) == 1:
            raise MeasureError("no bitstream")
        return [Measurement(cycles=requests[0].workload.macs)]


def test_a_failed_measurement_is_said_and_the_rest_is_a_result(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    result = tvm_spm.tune(model, TARGET, trials=TRIALS, workdir=tmp_path, measurer=Board())
    first, second = result.rows()
    assert (first["failed_trials"], first["last_failure"]) == (1, "no bitstream")
    assert 2 < first["trials"] + second["trials"] <= 2 * TRIALS  # they go where they promise most
    assert (first["gain_over_default"], second["failed_trials"]) == (None, 0)
    assert result.verified is True
    # Nobody asks a board for mappings that are only there to be compared with.
    assert (first["gain_over_dataflow"], first["random_mappings"]) == (None, None)
    with pytest.raises(
        SpmError, match="the best of the dataflows OS, WS, RS and MC of fused_conv2d_relu was not looked"
    ):
        result.speedup_over("dataflow")
    with pytest.raises(SpmError, match="the default mapping of fused_conv2d_relu could not be measured; give a cost"):
        result.speedup_over("default")
    print_result(result)
    shown = capsys.readouterr().out
    assert "against the default mappings: unknown, one of them could not be measured" in shown
    assert f"failed measurements: fused_conv2d_relu: 1 of {first['trials']} trials, the last with: no bit" in shown
