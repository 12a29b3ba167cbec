"""Networks tuned for a machine that is not what its file says, measured by a user's measurer."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

import tvm_spm
from cost_model.simulator import simulate_batch
from tests.end_to_end.test_cli import two_layers
from tvm_spm.arch import Arch, load_arch
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.tuning.exact_starts import ExactStart
from tvm_spm.tuning.guided import Guide, GuidedTask
from tvm_spm.tuning.measurer import MeasureError, Measurement, MeasureRequest
from tvm_spm.tuning.options import EXACT, TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.text import print_result

DECLARED = load_arch("edge-256")
BUILT = replace(
    DECLARED, dma=replace(DECLARED.dma, startup_cycles=198.0), noc=replace(DECLARED.noc, elems_per_cycle=8.0)
)
TRIALS = 12


@dataclass
class Board:
    """Runs mappings on the machine that was built; some answers are missing or wrong."""

    built: Arch = BUILT
    name: str = "board"
    batch_size: int = 1
    fails_every: int = 0
    always: int = 0
    energy_pj: float | None = None
    asked: list[str] = field(default_factory=list)

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        self.asked.append(requests[0].mapping.line())
        if self.fails_every and len(self.asked) % self.fails_every == 0:
            raise MeasureError("no answer")
        if self.always:
            return [Measurement(cycles=self.always)]
        (cost,) = simulate_batch(requests[0].workload, self.built, [requests[0].mapping])
        return [Measurement(cycles=cost.cycles, energy_pj=self.energy_pj)]


@dataclass
class Uneven(Board):
    """Takes up to a third longer, as no number of the file explains, so that every fit finds other ones."""

    most: float = 1 / 3

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        (answer,) = super().measure(requests)
        share = zlib.crc32(self.asked[-1].encode()) % 100 / 100 * self.most
        return [replace(answer, cycles=round(answer.cycles * (1 + share)))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_layers(tmp_path_factory.mktemp("model") / "two.onnx", channels=32)


def edp_on(built: Arch, result) -> float:
    """Of a result's mappings, on the machine that was built."""
    total_cycles = total_pj = 0.0
    for each in result.tasks:
        (cost,) = simulate_batch(each.task.work, built, [each.mapping])
        total_cycles += each.task.count * cost.cycles
        total_pj += each.task.count * cost.energy_pj
    return total_cycles * total_pj


def test_a_board_is_calibrated_and_tuned_for(model, tmp_path, capsys):
    board = Board()
    result = tvm_spm.tune(model, DECLARED, trials=TRIALS, workdir=tmp_path, measurer=board)
    fitted = {number.path: number for number in result.fitted.numbers}
    assert fitted["dma.startup_cycles"].value == pytest.approx(198, rel=0.02)
    assert result.fitted.spread_after < 0.01
    assert result.verified
    unaware = tvm_spm.tune(model, DECLARED, trials=TRIALS, fusion=False)
    aware = tvm_spm.tune(model, BUILT, trials=TRIALS, fusion=False)
    assert edp_on(BUILT, result) <= 1.02 * edp_on(BUILT, aware) < 0.9 * edp_on(BUILT, unaware)
    # the file that is offered is the fitted machine
    offered = load_arch(tmp_path / "fitted.toml")
    assert offered == replace(result.fitted.arch, sources=offered.sources)
    assert "fitted to" in (tmp_path / "fitted.toml").read_text()
    saved = json.loads((tmp_path / "result.json").read_text())["totals"]["fitted"]
    assert saved["numbers"]["dma.startup_cycles"]["declared"] == 0
    # a second run measures nothing and finds the same
    again_board = Board()
    again = tvm_spm.tune(model, DECLARED, trials=TRIALS, workdir=tmp_path, measurer=again_board)
    assert again_board.asked == []
    assert [task.mapping for task in again.tasks] == [task.mapping for task in result.tasks]
    assert again.fitted == result.fitted


def test_four_calls_a_layer_are_enough_for_wrong_numbers(model):
    board = Board()
    result = tvm_spm.tune(model, DECLARED, trials=64, measurer=board)
    first = board.asked[: 4 * len(result.tasks)]
    # default mappings and optima of the file first, then those of fits to what these took, random ones only behind
    assert all(task.mapping.line() in first for task in result.tasks)


@pytest.mark.parametrize(("board", "num_early"), [(Board(), 1), (Uneven(most=1.0), 0)])
def test_only_fits_that_explain_what_was_measured_are_searched_early(model, monkeypatch, board, num_early):
    events, search, probes = [], ExactStart.search, GuidedTask.probes

    def noted(self, *args):
        events.append((self.case.arch, self.case.workload))
        return search(self, *args)

    def probed(self, number):
        events.append("probes")
        return probes(self, number)

    monkeypatch.setattr(ExactStart, "search", noted)
    monkeypatch.setattr(GuidedTask, "probes", probed)
    tvm_spm.tune(model, DECLARED, trials=40, measurer=board)
    early = events[: events.index("probes")]
    assert len({arch for arch, _ in early} - {DECLARED}) == num_early
    searches = [each for each in events if each != "probes"]
    # no task is searched twice on one machine
    assert len(set(searches)) == len(searches)


def test_starts_are_ordered_by_what_is_expected_of_them():
    case = Case(workload=tvm_spm.Workload.matmul(m=64, k=64, n=64), arch=DECLARED, objective=Objective.EDP)
    task = GuidedTask(case, TunerOptions(), Run(), proposer=EXACT, program_of=None)
    mappings = [task.default, *task.probes(6), tvm_spm.search(case.workload, DECLARED).mapping]
    ordered = task.by_promise(Guide(declared=DECLARED), [*mappings, task.default])
    values = [tvm_spm.evaluate(case.workload, DECLARED, each, model="analytical").edp_pj_cycles for each in ordered]
    assert values == sorted(values)
    assert sorted(map(str, ordered)) == sorted(map(str, mappings))
    assert task.by_promise(Guide(declared=DECLARED), []) == []


def test_a_search_that_finds_nothing_leaves_the_default(model, monkeypatch):
    monkeypatch.setattr(ExactStart, "search", lambda self, *args: None)
    assert tvm_spm.tune(model, DECLARED, trials=4, measurer=Board()).verified


def test_a_stopped_run_continues_where_it_was(model, tmp_path):
    whole = Board()
    wanted = tvm_spm.tune(model, DECLARED, trials=TRIALS, measurer=whole)

    class Impatient(Board):
        def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
            if len(self.asked) == 7:
                raise KeyboardInterrupt
            return super().measure(requests)

    first = Impatient()
    with pytest.raises(KeyboardInterrupt):
        tvm_spm.tune(model, DECLARED, trials=TRIALS, workdir=tmp_path, measurer=first)
    second = Board()
    found = tvm_spm.tune(model, DECLARED, trials=TRIALS, workdir=tmp_path, measurer=second)
    assert [*first.asked, *second.asked] == whole.asked
    assert [task.mapping for task in found.tasks] == [task.mapping for task in wanted.tasks]


def test_a_machine_that_is_fitted_anew_is_searched_anew(model, monkeypatch):
    searched, search, started, add_starts = {}, ExactStart.search, [], GuidedTask.add_starts

    def noted(self, *args):
        found = search(self, *args)
        searched.setdefault(self.case.arch, []).append(found.mapping)
        return found

    def start(self, found):
        started.extend(found)
        add_starts(self, found)

    monkeypatch.setattr(ExactStart, "search", noted)
    monkeypatch.setattr(GuidedTask, "add_starts", start)
    result = tvm_spm.tune(model, DECLARED, trials=40, measurer=Uneven())
    # as declared, as fitted to the first answers, and as fitted to twice as many
    assert len(searched) >= 3
    assert next(iter(searched)) == DECLARED
    # candidates evolve from what was found on each of them
    assert all(mapping in started for mappings in searched.values() for mapping in mappings)
    assert result.verified


def test_missing_answers_cost_trials_only(model):
    result = tvm_spm.tune(model, DECLARED, trials=TRIALS, measurer=Board(fails_every=3))
    values = {number.path: number.value for number in result.fitted.numbers}
    assert values["dma.startup_cycles"] == pytest.approx(198, rel=0.02)
    assert sum(len(task.failures) for task in result.tasks) >= 2
    assert result.verified


def test_a_board_that_always_says_the_same_keeps_the_declared_numbers(model):
    board = Board(always=1000)
    result = tvm_spm.tune(model, DECLARED, trials=TRIALS, measurer=board)
    assert result.fitted.arch == DECLARED
    assert result.fitted.reason
    assert "kept" in str(result.fitted)


def test_a_board_as_declared_needs_few_measurements(model):
    board = Board(built=DECLARED)
    result = tvm_spm.tune(model, DECLARED, trials=64, measurer=board)
    assert (result.fitted.numbers, result.fitted.reason) == ((), "")
    assert len(board.asked) <= 2 * 10


def test_time_limits_end_it(model):
    class Slow(Board):
        def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
            time.sleep(0.2)
            return super().measure(requests)

    result = tvm_spm.tune(model, DECLARED, trials=500, measurer=Slow(), time_limit_s=2)
    assert result.stopped_by == "time limit" or sum(task.num_trials for task in result.tasks) < 100
    assert result.verified


@pytest.mark.parametrize("objective", ["edp", "energy"])
def test_a_board_that_measures_no_energy_says_zero(model, objective):
    result = tvm_spm.tune(model, DECLARED, objective=objective, trials=4, measurer=Board(energy_pj=0.0))
    assert result.verified
    assert result.as_dict()["totals"]["energy_pj"] == 0
    print_result(result)
    json.dumps(result.as_dict(), allow_nan=False)
