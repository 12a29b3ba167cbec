"""The log of trials: what it keeps, what it survives, and the text of every refusal."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from tvm_spm.arch import load_arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import WorkdirError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.trial import Prediction, Trial, trial_from_json, trial_to_json
from tvm_spm.tuning.log_lines import LogHeader, RunStart, SearchEnd
from tvm_spm.tuning.trial_log import TrialLog, read_log
from tvm_spm.workload import Dims, Operand, Workload

ARCH = load_arch("edge-256")
HEADER = LogHeader.of(ARCH)

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
    index=0, task="conv0", mapping=MAPPING, measurer="simulator/2", model="resnet18", arch_sha256="ab12", seed=7,
    predicted=(Prediction(model="analytical", cycles=1e-3, energy_pj=1 / 3),), cost=COST,
)  # fmt: skip
REFUSED = Trial(
    index=1, task="conv0", mapping=Mapping(), measurer="simulator/2",
    rejection=Rejection(reason="spm-capacity", subject="tile does not fit SPM", needed=5, available=4, unit="B",
                        terms=(("I", 3), ("W", 2)), nearest="K <= 1 fits"),
)  # fmt: skip
FAILED = Trial(index=2, task="conv0", mapping=Mapping(), measurer="board/1", failure="no bitstream")
RUN = RunStart(
    model="resnet18", model_sha256="cd" * 32, objective="edp", seed=7, measurer="simulator/2",
    tasks=(
        ("conv", "conv0", Workload.conv2d(K=4, C=2, OY=3, OX=5, FY=3, FX=3)),
        ("fc", "fc0", Workload.matmul(m=1, k=2, n=3)),
    ),
)  # fmt: skip
ENDED = SearchEnd(
    task="conv0", objective="edp", seed=7, measurer="simulator/2", settings="{}", num_trials=3,
    rejected=(("spm-capacity", 5),), failures=("no bitstream",),
)  # fmt: skip


def written(path: Path, *trials: Trial) -> Path:
    log = TrialLog(path, HEADER)
    for trial in trials:
        log.append(trial)
    return path


@pytest.mark.parametrize("trial", [MEASURED, REFUSED, FAILED])
def test_a_trial_survives_a_line(trial: Trial):
    assert trial_from_json(json.loads(json.dumps(trial_to_json(trial)))) == trial
    assert hash(trial) == hash(replace(trial))


def test_a_trial_has_a_cost_or_a_rejection_or_a_failure():
    for change in ({"cost": None}, {"rejection": REFUSED.rejection}, {"failure": "broken"}):
        with pytest.raises(ValueError, match="either a cost, a rejection or a failure"):
            replace(MEASURED, **change)


def test_str():
    assert str(REFUSED) == f"trial 1 of conv0: {REFUSED.rejection}"
    assert str(MEASURED) == f"trial 0 of conv0: {COST}"
    assert str(FAILED) == "trial 2 of conv0: no bitstream"


def test_opening_writes_nothing(tmp_path: Path):
    log = TrialLog(tmp_path / "trials.jsonl", HEADER)
    assert (log.content.trials, log.warnings) == ((), ())
    assert list(tmp_path.iterdir()) == []


def test_the_log_holds_what_was_appended(tmp_path: Path):
    path = tmp_path / "new" / "trials.jsonl"
    log = TrialLog(path, HEADER)
    log.append(RUN, MEASURED, REFUSED, FAILED)
    log.append(ENDED)
    content = read_log(path)
    assert (content.header, content.runs, content.searches) == (HEADER, (RUN,), (ENDED,))
    assert content.trials == (MEASURED, REFUSED, FAILED)
    header, *lines = path.read_text().splitlines()
    assert len(lines) == 5
    fields = json.loads(header)
    assert (fields["kind"], fields["format"], fields["arch_sha256"]) == ("log", 2, ARCH.sha256())


def test_a_line_begins_with_the_checksum_of_its_rest(tmp_path: Path):
    lines = written(tmp_path / "trials.jsonl", MEASURED).read_bytes().splitlines()
    assert len(lines) == 2
    for line in lines:
        crc = json.loads(line)["crc"]
        # zlib.crc32 of the same object without its first field
        assert line.startswith(f'{{"crc":"{crc}",'.encode())
        assert zlib.crc32(b"{" + line[18:]) == int(crc, 16)


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
    assert log.warnings == (() if lost == 1 else (expected,))
    log.append(REFUSED)
    assert read_log(path).trials == (*kept, REFUSED)
    assert TrialLog(path, HEADER).warnings == ()


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


def sealed(fields: dict[str, object]) -> bytes:
    """A line whose checksum is right, whatever it says."""
    body = json.dumps(fields, separators=(",", ":")).encode()
    return b'{"crc":"%08x",' % zlib.crc32(body) + body[1:]


def damaged(path: Path, line: bytes) -> tuple[tuple[int, str], ...]:
    """What is said of a line between two good ones; both are kept, and so is every byte of the file."""
    first, second, third = written(path, MEASURED, REFUSED).read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, second, line, third, b""]))
    before = path.read_bytes()
    log = TrialLog(path, HEADER)
    assert log.content.trials == (MEASURED, REFUSED)
    log.append(FAILED)
    assert path.read_bytes().startswith(before)
    assert read_log(path, HEADER).trials == (MEASURED, REFUSED, FAILED)
    return log.content.damaged


def with_cost(**changes: object) -> dict[str, object]:
    fields = {"kind": "trial", **trial_to_json(MEASURED)}
    return {**fields, "cost": {**fields["cost"], **changes}}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (with_cost(cycles=-5), "field 'cost.cycles' = -5: must be a whole number >= 0"),
        (with_cost(cycles=0), "field 'cost.cycles' = 0: must be a whole number >= 1"),
        (with_cost(cycles=101), "field 'cost.cycles' = 101: its parts add up to 100"),
        (with_cost(cycles="100"), "field 'cost.cycles' = '100': must be a whole number >= 0"),
        (with_cost(cycles=True), "field 'cost.cycles' = True: must be a whole number >= 0"),
        (with_cost(cycles=None), "field 'cost.cycles' = None: must be a whole number >= 0"),
        (with_cost(cycles=float("nan")), "NaN is not a number"),
        (with_cost(utilization=float("inf")), "Infinity is not a number"),
        (with_cost(utilization=10**400), "must be a finite number >= 0"),
        (with_cost(energy={"mac_pj": -1}), "field 'cost.energy.mac_pj' = -1: must be a finite number >= 0"),
        (with_cost(energy=[]), "field 'cost.energy': must be an object"),
        (with_cost(dram_bytes=[1, 2, 3]), "field 'cost.dram_bytes': must be a list of 4 whole numbers"),
        (with_cost(speed=1), "field 'cost.speed' is unknown"),
        ({**with_cost(), "cost": 5}, "field 'cost': must be an object"),
        ({**with_cost(), "cost": None}, "a trial has either a cost, a rejection or a failure"),
        ({**with_cost(), "task": None}, "field 'task' = None: must be a text"),
        ({**with_cost(), "seed": -1}, "field 'seed' = -1: must be a whole number >= 0"),
        ({**with_cost(), "mapping": "nonsense"}, "mapping clause 'nonsense'"),
        ({**with_cost(), "mapping": "cores: K=0"}, "dim K = 0: must be an integer >= 1"),
        ({**with_cost(), "predicted": 3}, "field 'predicted' = 3: must be a list"),
        ({**with_cost(), "rejection": {"terms": [1], "reason": "x"}}, "field 'rejection.terms': must be a list"),
        ({name: value for name, value in with_cost().items() if name != "task"}, "field 'task' is missing"),
        ({"kind": "run", "tasks": [5]}, "field 'tasks': must be a list of objects"),
        ({"kind": "run", "tasks": [], "model": "x"}, "field 'model_sha256' is missing"),
        ({"kind": "search", "rejected": 0}, "field 'rejected': must be an object"),
        ({"kind": "gift"}, "unknown kind 'gift'"),
        ({"kind": 7}, "field 'kind' = 7: must be a text"),
    ],
)
def test_a_line_with_absurd_content_is_left_out_and_explained(tmp_path: Path, fields: dict[str, object], reason: str):
    ((number, said),) = damaged(tmp_path / "trials.jsonl", sealed(fields))
    assert number == 3
    assert reason in said


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"\x00\xff\xfe", "can't decode"),
        (b"", "Expecting value"),
        (b"[]", "not an object"),
        (b"{" * 100_000, ""),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, ""),
        (sealed(with_cost()).replace(b'"cycles":100', b'"cycles":101'), "its checksum is wrong"),
        (sealed(with_cost())[:-30], "its checksum is wrong"),
        (json.dumps(with_cost()).encode(), "it has no checksum"),
        (b'{"crc":"zzzzzzzz","kind":"trial"}', "it has no checksum"),
    ],
)
def test_a_line_of_other_bytes_is_left_out_and_explained(tmp_path: Path, line: bytes, reason: str):
    ((number, said),) = damaged(tmp_path / "trials.jsonl", line)
    assert number == 3
    assert reason in said


def test_damage_is_said_in_one_sentence(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED, REFUSED)
    first, second, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second + b"?\n" + third)
    (said,) = TrialLog(path, HEADER).warnings
    assert said.startswith(f"{path}: line 3 is damaged (Expecting value")
    assert said.endswith("); it is left as it stands, and what it held is measured again")
    path.write_bytes(first + b"?\n" + second + b"?\n" + third)
    (said,) = TrialLog(path, HEADER).warnings
    assert said.startswith(f"{path}: 2 lines are damaged, the first is line 2 (")


def test_every_changed_byte_is_noticed(tmp_path: Path):
    """One bit of any byte of any line after the first: the trial is lost; never is it another one."""
    whole = written(tmp_path / "trials.jsonl", MEASURED, REFUSED).read_bytes()
    start = whole.index(b"\n") + 1
    path = tmp_path / "changed.jsonl"
    for position in range(start, len(whole) - 1, 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        assert set(read_log(path, HEADER).trials) < {MEASURED, REFUSED}


def test_another_accelerator(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    other = load_arch("quad-edge")
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, LogHeader.of(other))
    assert str(caught.value) == (
        f"{path}: trials of accelerator edge-256 ({ARCH.sha256()[:12]}), this run is for quad-edge "
        f"({other.sha256()[:12]}); choose another --workdir, or delete this file to start over"
    )


def test_the_same_name_with_other_numbers_is_another_accelerator(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    changed = replace(ARCH, pe=replace(ARCH.pe, rows=8))
    with pytest.raises(WorkdirError, match="trials of accelerator edge-256"):
        TrialLog(path, LogHeader.of(changed))


def test_a_renamed_accelerator_is_the_same(tmp_path: Path):
    path = written(tmp_path / "trials.jsonl", MEASURED)
    renamed = replace(ARCH, name="mine", description="")
    log = TrialLog(path, LogHeader.of(renamed))
    assert log.content.trials == (MEASURED,)


@pytest.mark.parametrize("position", [0, 2])
def test_a_later_format_is_refused(tmp_path: Path, position: int):
    """In the header, or in any line that a later version added."""
    path = written(tmp_path / "trials.jsonl", MEASURED)
    lines = path.read_bytes().splitlines()
    lines.insert(position, sealed({"kind": "log", "format": 99}))
    path.write_bytes(b"\n".join([*lines, b""]))
    before = path.read_bytes()
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, HEADER)
    line = f"line {position + 1}: " if position else ""
    assert str(caught.value) == (
        f"{path}: {line}format 99, this version reads up to format 2; use the version that wrote it, "
        "or choose another --workdir"
    )
    assert path.read_bytes() == before


FORMAT_1 = (
    '{"format":1,"arch_name":"edge-256","arch_sha256":"%s","model_name":"two.onnx","model_sha256":"abab"}\n'
    '{"index":0,"task":"conv0","source":"simulator","mapping":"cores: 1; SPM tile: 1; rows: 1; cols: 1; RF tile: 1",'
    '"predicted":{"analytical":7.5},"cost":{"cycles":100,"energy":{"mac_pj":0.5,"rf_pj":0.0,"noc_pj":0.0,"spm_pj":0.0,'
    '"dram_pj":0.0,"vector_pj":0.0},"model":"simulator","macs":6400,"utilization":0.25,"compute_cycles":60,'
    '"noc_stall_cycles":30,"dma_stall_cycles":10,"overhead_cycles":0,"dram_bytes":[1,2,3,4],"dma_busy_cycles":50},'
    '"rejection":null,"wall_s":0.0}\n'
    '{"index":1,"task":"conv0","source":"board","mapping":"cores: 1; SPM tile: 1; rows: 1; cols: 1; RF tile: 1",'
    '"predicted":{},"cost":null,"rejection":{"reason":"tile","subject":"tile","needed":2,"available":1,"unit":"B",'
    '"terms":[["I",2]],"nearest":""},"wall_s":0.0}\n'
)
"""As the first version wrote it."""


def test_a_log_of_format_1_is_read_and_continued(tmp_path: Path):
    path = tmp_path / "trials.jsonl"
    path.write_text(FORMAT_1 % ARCH.sha256())
    log = TrialLog(path, HEADER)
    measured, refused = log.content.trials
    assert (measured.cost, measured.measurer, measured.predicted) == (
        replace(COST, energy=Energy(mac_pj=0.5)), "simulator/1", ()
    )  # fmt: skip
    assert (refused.measurer, refused.rejection.terms) == ("board", (("I", 2),))
    log.append(RUN, MEASURED)
    assert path.read_text().startswith(FORMAT_1 % ARCH.sha256())
    assert read_log(path, HEADER).trials == (measured, refused, MEASURED)
    assert read_log(path, HEADER).runs == (RUN,)
    with pytest.raises(WorkdirError, match="trials of accelerator edge-256"):
        TrialLog(path, LogHeader.of(load_arch("quad-edge")))


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
    assert str(caught.value) == (f"{tmp_path / 'new'}: cannot write: Not a directory; choose a writable --workdir")


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


def test_a_link_is_not_followed(tmp_path: Path):
    """Neither for reading nor for writing, and where it points to stays as it is."""
    other, path = tmp_path / "other.txt", tmp_path / "trials.jsonl"
    other.write_text("precious")
    path.symlink_to(other)
    with pytest.raises(WorkdirError) as caught:
        TrialLog(path, HEADER)
    assert str(caught.value) == f"{path}: cannot read: it is a symbolic link"
    assert other.read_text() == "precious"


def test_a_trial_from_before_whole_bursts_still_loads():
    fields = trial_to_json(MEASURED)
    del fields["cost"]["dram_unused_bytes"]
    assert trial_from_json(fields) == MEASURED
    whole = replace(MEASURED, cost=replace(COST, dram_unused_bytes=3))
    assert trial_from_json(trial_to_json(whole)) == whole
