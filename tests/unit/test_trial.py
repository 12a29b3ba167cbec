"""The log of trials: what it keeps, what it survives, and the text of every refusal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tvm_spm.arch import load_arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import WorkdirError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.trial import LogHeader, Trial, TrialLog, read_log, trial_from_json, trial_to_json
from tvm_spm.workload import Dims, Operand

ARCH = load_arch("edge-256")
HEADER = LogHeader.of(ARCH, model_name="resnet18", model_sha256="ab" * 32)

COST = Cost(
    cycles=100, energy=Energy(mac_pj=0.1, rf_pj=1 / 3, noc_pj=2.0, spm_pj=3.5, dram_pj=1e9, vector_pj=0.0),
    model="simulator", macs=6400, utilization=0.25, compute_cycles=60, noc_stall_cycles=30, dma_stall_cycles=10,
    overhead_cycles=0, dram_bytes=(1, 2, 3, 4), dma_busy_cycles=50,
)  # fmt: skip
MAPPING = Mapping(
    cores=Dims(K=2), spm=Dims(K=4, C=8), rows=Dims(C=2), rf=Dims(K=2), dram_order=("K", "OX"), spm_order=("C",),
    spm_double=(Operand.I, Operand.O), rf_double=(Operand.W,), spill=True,
)  # fmt: skip
MEASURED = Trial(
    index=0, task="conv0", mapping=MAPPING, source="simulator", predicted=(("analytical", 1e-3), ("learned", 7.0)),
    cost=COST, wall_s=0.125,
)  # fmt: skip
REFUSED = Trial(
    index=1, task="conv0", mapping=Mapping(), source="simulator",
    rejection=Rejection(reason="spm-capacity", subject="tile does not fit SPM", needed=5, available=4, unit="B",
                        terms=(("I", 3), ("W", 2)), nearest="K <= 1 fits"),
)  # fmt: skip


def written(path: Path, *trials: Trial) -> Path:
    log = TrialLog(path, HEADER)
    for trial in trials:
        log.append(trial)
    return path


@pytest.mark.parametrize("trial", [MEASURED, REFUSED])
def test_a_trial_survives_a_line(trial: Trial):
    assert trial_from_json(json.loads(json.dumps(trial_to_json(trial)))) == trial
    assert hash(trial) == hash(replace(trial))


def test_a_trial_has_either_a_cost_or_a_rejection():
    for change in ({"cost": None}, {"rejection": REFUSED.rejection}):
        with pytest.raises(ValueError, match="either a cost or a rejection"):
            replace(MEASURED, **change)


def test_str():
    assert str(REFUSED) == f"trial 1 of conv0: {REFUSED.rejection}"
    assert str(MEASURED) == f"trial 0 of conv0: {COST}"


def test_opening_writes_nothing(tmp_path: Path):
    log = TrialLog(tmp_path / "trials.jsonl", HEADER)
    assert (log.content.trials, log.warning) == ((), "")
    assert list(tmp_path.iterdir()) == []


def test_the_log_holds_what_was_appended(tmp_path: Path):
    path = written(tmp_path / "new" / "trials.jsonl", MEASURED, REFUSED)
    assert read_log(path).trials == (MEASURED, REFUSED)
    header, *lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(header) == {
        "format": 1,
        "arch_name": "edge-256",
        "arch_sha256": ARCH.sha256(),
        "model_name": "resnet18",
        "model_sha256": "ab" * 32,
    }


def test_every_line_is_there_at_once(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    log = TrialLog(path, HEADER)
    for count in (1, 2, 3):
        log.append(MEASURED)
        assert len(read_log(path).trials) == count


def test_a_second_run_continues(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    before = path.read_bytes()
    written(path, REFUSED)
    assert path.read_bytes().startswith(before)
    assert read_log(path, HEADER).trials == (MEASURED, REFUSED)


@pytest.mark.parametrize("lost", [1, 5, 100])
def test_an_incomplete_last_line_is_reported_and_cut_off(tmp_path: Path, lost: int):
    path = written(tmp_path / "trials.jsonl", MEASURED, REFUSED)
    whole = path.read_bytes()
    last = len(whole.splitlines(keepends=True)[-1])
    # Without its line end only, the last line is complete.
    kept = (MEASURED, REFUSED) if lost == 1 else (MEASURED,)
    path.write_bytes(whole[:-lost])
    log = TrialLog(path, HEADER)
    assert log.content.trials == kept
    expected = (
        f"{path}: the last line is incomplete ({last - lost:,} B, an earlier run was stopped while it wrote); "
        "it is cut off, the 1 trials before it are kept"
    )
    assert log.warning == ("" if lost == 1 else expected)
    log.append(REFUSED)
    assert read_log(path).trials == (*kept, REFUSED)
    assert TrialLog(path, HEADER).warning == ""


def test_any_truncation_keeps_all_complete_trials(tmp_path: Path):
    whole = written(tmp_path / "whole.jsonl", MEASURED, REFUSED).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(0, len(whole) + 1, 7):
        path = tmp_path / f"{length}.jsonl"
        path.write_bytes(whole[:length])
        complete = max(0, sum(end - 1 <= length for end in ends) - 1)
        log = TrialLog(path, HEADER)
        assert log.content.trials == (MEASURED, REFUSED)[:complete]
        log.append(REFUSED)
        assert read_log(path, HEADER).trials == (*(MEASURED, REFUSED)[:complete], REFUSED)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED, REFUSED)
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first[:40], second]) + "\n")
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, HEADER)
    text = str(caught.value)
    assert text.startswith(f"{path}: line 2: damaged: ")
    assert text.endswith("; delete this line to keep the other trials, or choose another --workdir")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mapping": "nonsense"}, "mapping clause 'nonsense'"),
        ({"mapping": "cores: K=0"}, "dim K = 0: must be an integer >= 1"),
        ({"cost": None}, "a trial has either a cost or a rejection"),
        ({"predicted": 3}, "'int' object has no attribute 'items'"),
    ],
)
def test_damage_is_explained(tmp_path: Path, change: dict[str, object], reason: str):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    header, line = path.read_text().splitlines()
    path.write_text("\n".join([header, json.dumps({**json.loads(line), **change}), line]) + "\n")
    with pytest.raises(WorkdirError) as caught:
        read_log(path)
    assert f"{path}: line 2: damaged: {reason}" in str(caught.value)


def test_a_missing_field_is_named(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    header, line = path.read_text().splitlines()
    fields = {name: value for name, value in json.loads(line).items() if name != "task"}
    path.write_text("\n".join([header, json.dumps(fields)]) + "\n")
    with pytest.raises(WorkdirError, match="line 2: damaged: field 'task' is missing; delete this line"):
        read_log(path)


def test_another_accelerator(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    other = load_arch("quad-edge")
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, LogHeader.of(other, model_name="resnet18", model_sha256="ab" * 32))
    assert str(caught.value) == (
        f"{path}: trials of accelerator edge-256 ({ARCH.sha256()[:12]}), this run is for quad-edge "
        f"({other.sha256()[:12]}); choose another --workdir, or delete this file to start over"
    )


def test_the_same_name_with_other_numbers_is_another_accelerator(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    changed = replace(ARCH, pe=replace(ARCH.pe, rows=8))
    with pytest.raises(WorkdirError, match="trials of accelerator edge-256"):
        TrialLog(path, LogHeader.of(changed, model_name="resnet18", model_sha256="ab" * 32))


def test_a_renamed_accelerator_is_the_same(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    renamed = replace(ARCH, name="mine", description="")
    log = TrialLog(path, LogHeader.of(renamed, model_name="resnet18", model_sha256="ab" * 32))
    assert log.content.trials == (MEASURED,)


def test_another_model(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, LogHeader.of(ARCH, model_name="vgg19", model_sha256="cd" * 32))
    assert str(caught.value) == (
        f"{path}: trials of model resnet18 (abababababab), this run is for vgg19 (cdcdcdcdcdcd); "
        "choose another --workdir, or delete this file to start over"
    )


def test_another_format(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    path.write_text(path.read_text().replace('"format":1', '"format":99', 1))
    with pytest.raises(WorkdirError) as caught:
        read_log(path)
    assert str(caught.value) == (
        f"{path}: format 99, this version reads format 1; use the version that wrote it, or choose another --workdir"
    )


def test_a_file_that_is_no_log(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    path.write_text("[]\n")
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, HEADER)
    assert str(caught.value) == f"{path}: line 1: not a trial log: not an object; choose another --workdir"


def test_a_directory_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    log = TrialLog(tmp_path / "new" / "trials.jsonl", HEADER)
    (tmp_path / "new").write_text("in the way")
    with pytest.raises(WorkdirError) as caught:
        log.append(MEASURED)
    assert str(caught.value) == (
        f"{tmp_path / 'new' / 'trials.jsonl'}: cannot write: File exists; choose a writable --workdir"
    )


def test_a_path_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "trials.jsonl"
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, HEADER)
    assert str(caught.value) == f"{path}: cannot read: Not a directory"


def test_a_directory_instead_of_a_file(tmp_path: Path):
    with pytest.raises(WorkdirError) as caught:
        TrialLog(tmp_path, HEADER)
    assert str(caught.value) == f"{tmp_path}: cannot read: Is a directory"


def test_a_trial_from_before_whole_bursts_still_loads():
    fields = trial_to_json(MEASURED)
    del fields["cost"]["dram_unused_bytes"]
    assert trial_from_json(fields) == MEASURED
    whole = replace(MEASURED, cost=replace(COST, dram_unused_bytes=3))
    assert trial_from_json(trial_to_json(whole)) == whole
