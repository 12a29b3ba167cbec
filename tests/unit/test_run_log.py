"""One directory for many runs: what is used again, by whom, and what a break leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests import faults
from tests.worker_jobs import Mortal
from tvm_spm.arch import load_arch
from tvm_spm.errors import WorkdirError
from tvm_spm.interrupt import StopRequest
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.tuning.log_lines import RunStart
from tvm_spm.tuning.measurer import CommandMeasurer, MeasureError, Measurement, Measurer, MeasureRequest, identity_of
from tvm_spm.tuning.measuring import NoMeasurementError
from tvm_spm.tuning.options import TunerOptions
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.run_log import RunLog, own
from tvm_spm.tuning.task import tune_workload
from tvm_spm.tuning.task_memory import key_of
from tvm_spm.tuning.trial_log import read_log
from tvm_spm.workers import ProcessWorkers, Workers, WorkersLostError
from tvm_spm.workload import Workload

ARCH = load_arch("edge-256")
LAYER = Workload.matmul(m=8, k=16, n=32)
OPTIONS = TunerOptions(trials=12, batch=4, population=24, generations=1, exact_steps=2, latency_steps=2)


def tune(
    workdir: Path,
    *,
    objective: str = "edp",
    seed: int = 0,
    measurer: Measurer | None = None,
    model: str = "net",
    trials: int = 12,
    executor: Executor | None = None,
    should_stop: StopRequest | None = None,
) -> SearchResult:
    start = RunStart(
        model=model, model_sha256=model, objective=objective, seed=seed, measurer=identity_of(measurer),
        tasks=(("layer", key_of(LAYER), LAYER),),
    )  # fmt: skip
    case = Case(workload=LAYER, arch=ARCH, objective=Objective.of(objective))
    with own(workdir):
        run = Run(
            seed=seed, log=RunLog(workdir, ARCH, start), measurer=measurer, workers=Workers(executor),
            should_stop=should_stop or StopRequest(),
        )  # fmt: skip
        return tune_workload(case, replace(OPTIONS, trials=trials), run)


def num_lines(workdir: Path) -> int:
    """Trials in the log."""
    return len(read_log(workdir / "trials.jsonl").trials)


def log_of(workdir: Path) -> bytes:
    return (workdir / "trials.jsonl").read_bytes()


def test_the_same_run_again_measures_and_writes_nothing(tmp_path: Path):
    first = tune(tmp_path)
    before = log_of(tmp_path)
    again = tune(tmp_path)
    assert again == first
    assert again.num_evaluated == 12
    assert log_of(tmp_path) == before


@dataclass
class _Stopped(StopRequest):
    """Asks to stop as soon as so many measurements have begun; every third one fails."""

    after: int
    name: str = "board"
    identity: str = "board 1"
    num_begun: int = 0

    @property
    def interrupted(self) -> bool:
        return self.num_begun >= self.after

    @property
    def is_late(self) -> bool:
        return False

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        self.num_begun += len(requests)
        time.sleep(0.001 * (self.num_begun % 3))
        if self.num_begun % 3 == 0:
            raise MeasureError("a board is busy")
        return [Measurement(cycles=1000 + len(request.mapping.line())) for request in requests]


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("after", [1, 2, 3, 5, 6, 7, 11])
def test_a_run_that_is_stopped_counts_what_its_log_holds(tmp_path: Path, after: int, num_workers: int):
    stop = _Stopped(after)
    with ThreadPoolExecutor(num_workers) if num_workers else nullcontext() as executor:
        found = tune(tmp_path, measurer=stop, executor=executor, should_stop=stop)
    assert stop.interrupted
    assert found.num_evaluated == num_lines(tmp_path) <= 12


def test_a_larger_budget_goes_on_where_the_smaller_ended(tmp_path: Path):
    tune(tmp_path / "both", trials=7)
    assert num_lines(tmp_path / "both") == 7
    more = tune(tmp_path / "both", trials=12)
    once = tune(tmp_path / "once", trials=12)
    trials = [read_log(tmp_path / name / "trials.jsonl").trials for name in ("both", "once")]
    assert trials[0] == trials[1]
    assert more == once


@pytest.mark.parametrize("num_kept", range(2, 14))
def test_a_log_cut_after_any_line_is_written_the_same_way_again(tmp_path: Path, num_kept: int):
    first = tune(tmp_path)
    whole = log_of(tmp_path)
    (tmp_path / "trials.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:num_kept]))
    again = tune(tmp_path)
    assert again == first
    assert log_of(tmp_path) == whole


def test_another_objective_searches_by_itself_and_uses_what_is_known(tmp_path: Path):
    alone = tune(tmp_path / "alone", objective="latency")
    edp = tune(tmp_path / "both", objective="edp")
    latency = tune(tmp_path / "both", objective="latency")
    assert latency.num_evaluated == 12
    # At least the default mapping is common to both; nothing is measured twice.
    trials = read_log(tmp_path / "both" / "trials.jsonl").trials
    assert len({trial.mapping for trial in trials}) == len(trials) < 12 + 12
    assert latency.cost.cycles <= min(alone.cost.cycles, edp.cost.cycles)


def test_another_model_with_an_equal_layer_measures_nothing(tmp_path: Path):
    tune(tmp_path, model="first")
    tune(tmp_path, model="second")
    assert num_lines(tmp_path) == 12
    assert [run.model for run in read_log(tmp_path / "trials.jsonl").runs] == ["first", "second"]


@dataclass
class Board:
    """A user's board; ``broken`` mappings fail, by their position among all that it was asked."""

    name: str = "board"
    batch_size: int | None = None
    broken: frozenset[int] = frozenset()
    asked: list[str] = field(default_factory=list)

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        found = []
        for request in requests:
            self.asked.append(request.mapping.line())
            if len(self.asked) - 1 in self.broken:
                raise MeasureError(f"{request.mapping.line()[:5]} burnt")
            found.append(Measurement(cycles=10**6 + len(request.mapping.line())))
        return found


def test_a_measurer_never_sees_the_numbers_of_another(tmp_path: Path):
    simulated = tune(tmp_path)
    board = tune(tmp_path, measurer=Board())
    assert board.cost.cycles > 10**6 > simulated.cost.cycles
    assert board.cost.model == "board"
    assert tune(tmp_path).cost == simulated.cost
    names = [trial.measurer for trial in read_log(tmp_path / "trials.jsonl").trials]
    assert names == 12 * ["simulator/2"] + 12 * ["board"]


def test_another_command_is_another_measurer():
    first, second = (CommandMeasurer(name="board", command=(name,)) for name in ("./old", "./new"))
    assert identity_of(first) != identity_of(second)
    assert identity_of(first) == identity_of(CommandMeasurer(name="board", command=("./old",), timeout_s=1))
    assert identity_of(Board()) == "board"


@pytest.mark.parametrize("batch_size", [1, None])
def test_a_failing_measurement_costs_one_trial_with_its_reason(tmp_path: Path, batch_size: int | None):
    # One by one, the sixth question; in batches of 4 the second batch is asked again one by one, and its second fails.
    broken = frozenset({5} if batch_size else {5, 7})
    outcome = tune(tmp_path, measurer=Board(batch_size=batch_size, broken=broken))
    assert (outcome.num_evaluated, outcome.failures) == (12, ("cores burnt",))
    trials = read_log(tmp_path / "trials.jsonl").trials
    assert len(trials) == 12
    assert [trial.failure for trial in trials if trial.cost is None] == ["cores burnt"]
    assert outcome.default_cost is not None


def test_a_failed_mapping_is_tried_again_by_a_later_run(tmp_path: Path):
    tune(tmp_path, measurer=Board(batch_size=1, broken=frozenset({5})), trials=8)
    again = tune(tmp_path, measurer=Board(batch_size=1), trials=12)
    assert again.failures == ()
    assert num_lines(tmp_path) == 8 + 1 + 4


def test_a_default_that_cannot_be_measured_is_none(tmp_path: Path):
    outcome = tune(tmp_path, measurer=Board(batch_size=1, broken=frozenset({0})))
    assert outcome.default_cost is None
    assert outcome.num_evaluated == 12


def test_a_board_that_never_answers_is_given_up(tmp_path: Path):
    board = Board(batch_size=1, broken=frozenset(range(100)))
    with pytest.raises(NoMeasurementError) as caught:
        tune(tmp_path, measurer=board)
    assert str(caught.value) == "board: all of the first 4 measurements failed, the last reason: cores burnt"
    assert len(board.asked) == 4
    assert tune(tmp_path, measurer=Board()).num_evaluated == 12


@dataclass(frozen=True)
class Deadly:
    """Ends its worker process at one mapping."""

    deadly: str
    name: str = "deadly"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        if requests[0].mapping.line() == self.deadly:
            os._exit(1)
        return [Measurement(cycles=10**6 + len(requests[0].mapping.line()))]


def test_lost_workers_are_an_error_that_says_how_to_go_on(tmp_path: Path):
    healthy = tune(tmp_path / "healthy", measurer=Deadly("none"))
    deadly = read_log(tmp_path / "healthy" / "trials.jsonl").trials[7].mapping.line()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(WorkersLostError) as caught:
            tune(tmp_path / "killed", measurer=Deadly(deadly), executor=pool)
        assert isinstance(caught.value.__cause__, BrokenProcessPool)
        assert str(caught.value).endswith("make a new executor and tune with the same workdir to continue")
        # A pool that is broken takes no more work: the same sentence.
        with pytest.raises(WorkersLostError, match="make a new executor"):
            tune(tmp_path / "killed", measurer=Deadly(deadly), executor=pool)
    kept = read_log(tmp_path / "killed" / "trials.jsonl").trials
    assert 2 <= len(kept) <= 7
    with ThreadPoolExecutor(2) as threads:
        again = tune(tmp_path / "killed", measurer=Deadly("none"), executor=threads)
    assert again.mapping == healthy.mapping
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "healthy")


@pytest.mark.parametrize("every", [3, 1])
def test_workers_that_die_change_nothing(tmp_path: Path, every: int):
    """The measurer ends its process the first time that it is asked every third mapping, or any."""
    healthy = tune(tmp_path / "healthy", measurer=Mortal(str(tmp_path)))
    (tmp_path / "seen").mkdir()
    with ProcessWorkers(2) as workers:
        killed = tune(tmp_path / "killed", measurer=Mortal(str(tmp_path / "seen"), every=every), executor=workers)
    assert len(list((tmp_path / "seen").iterdir())) >= (12 if every == 1 else 1)
    assert killed == healthy
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "healthy")


def test_a_mapping_that_kills_every_worker_is_a_failure(tmp_path: Path):
    healthy = tune(tmp_path / "healthy", measurer=Deadly("none"))
    deadly = read_log(tmp_path / "healthy" / "trials.jsonl").trials[7].mapping.line()
    with ProcessWorkers(2) as workers:
        found = tune(tmp_path / "killed", measurer=Deadly(deadly), executor=workers)
    assert found.num_evaluated == 12
    assert found.failures == ("3 workers died with it, the last one: its process ended with exit code 1",)
    assert found.mapping == healthy.mapping or healthy.mapping.line() == deadly


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path):
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom tvm_spm.tuning.run_log import own\n"
        "with own(Path(sys.argv[1])):\n    print('mine', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(WorkdirError) as caught, own(tmp_path):
        pass
    assert str(caught.value) == (
        f"{tmp_path}: in use by process {other.pid}; wait until it has ended, or choose another --workdir"
    )
    other.kill()
    other.communicate()
    with own(tmp_path):
        pass


@pytest.mark.parametrize("kind", ["full", "killed", "torn"])
@pytest.mark.parametrize("point", [0, 4, 9, 17, 90, 170, 280])
def test_a_run_that_breaks_is_continued_to_the_same_files(
    undisturbed: tuple[dict[str, bytes], list[SearchResult]], tmp_path: Path, point: int, kind: str
):
    """A sample; ``python -m tests.faults`` breaks every step."""
    faults.check_point(tmp_path, point, kind, *undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], list[SearchResult]]:
    disk, expected, wanted = faults.undisturbed(tmp_path_factory.mktemp("faults"))
    assert disk.num_steps > 290
    return expected, wanted
