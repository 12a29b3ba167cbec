"""A list of jobs in, their results in order out, whoever runs them and whatever happens to him."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import worker_jobs as jobs
from tvm_spm.workers import ProcessWorkers, WorkerDiedError, Workers, WorkersError, WorkersLostError

SQUARES = [(at, at * at) for at in range(8)]


@pytest.fixture(scope="module")
def processes():
    with ProcessWorkers(2) as executor:
        yield executor


def numbers(count: int, *more: object) -> list[tuple[object, ...]]:
    return [(at, *more) for at in range(count)]


def are_idle(processes: ProcessWorkers) -> None:
    deadline = time.monotonic() + 10
    while processes.pids():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 12), deaths=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=40, deadline=None)
def test_results_are_those_of_one_after_the_other(seed: int, count: int, deaths: float):
    """Whatever the order of the answers; what three workers died with is given up, and nothing else."""
    with jobs.Shuffled(seed, deaths) as executor:
        found = list(Workers(executor).in_order(jobs.square, numbers(count), given_up=lambda error: -1))
    assert [at for at, _ in found] == list(range(count))
    assert all(value in (at * at, -1) for at, value in found)
    if deaths == 0.0:
        assert found == list(Workers().in_order(jobs.square, numbers(count)))


@pytest.mark.parametrize("kind", ["threads", "processes", "own"])
def test_every_executor_takes_functions_and_closures(kind: str, processes: ProcessWorkers):
    three = 3
    pools = {
        "threads": lambda: ThreadPoolExecutor(2), "own": lambda: ProcessWorkers(1),
        "processes": lambda: ProcessPoolExecutor(1, mp_context=get_context("spawn")),
    }  # fmt: skip
    with pools[kind]() as pool:
        workers = Workers(pool)
        assert list(workers.in_order(jobs.square, numbers(8))) == SQUARES
        assert list(workers.in_order(lambda number: three * number, numbers(3))) == [(0, 0), (1, 3), (2, 6)]
        ((_, times),) = workers.in_order(lambda number: lambda other: number * other, [(three,)])
        assert times(5) == 15


def test_a_job_that_is_killed_goes_to_another_worker_and_no_other_is_lost(processes: ProcessWorkers, tmp_path: Path):
    """Number 0 waits for minutes unless its process is killed; others are done meanwhile, none of them twice."""
    found = []

    def work() -> None:
        found.extend(Workers(processes).in_order(jobs.square_slowly, numbers(8, str(tmp_path))))

    thread = threading.Thread(target=work)
    thread.start()
    while not (tmp_path / "0").exists() or not (tmp_path / "1").exists():
        time.sleep(0.01)
    victim = int((tmp_path / "0").read_text())
    os.kill(victim, signal.SIGKILL)
    thread.join(30)
    assert found == SQUARES
    assert {int((tmp_path / str(at)).read_text()) for at in range(8)}.isdisjoint({victim})


def test_a_worker_that_hangs_is_not_waited_for(processes: ProcessWorkers, tmp_path: Path):
    begin = time.monotonic()
    assert list(Workers(processes).in_order(jobs.square_slowly, numbers(8, str(tmp_path)))) == SQUARES
    assert time.monotonic() - begin < 20
    # Who hung was ended, so both work again.
    are_idle(processes)
    assert list(Workers(processes).in_order(jobs.square, numbers(8))) == SQUARES


def test_a_job_that_kills_every_worker_is_given_up(processes: ProcessWorkers):
    workers = Workers(processes)
    found = list(workers.in_order(jobs.square_or_end, numbers(8, (2, 5)), given_up=str))
    text = "3 workers died with it, the last one: its process ended with exit code 7"
    assert found == [(at, text if at in (2, 5) else value) for at, value in SQUARES]
    with pytest.raises(WorkerDiedError, match=re.escape(text)):
        list(workers.in_order(jobs.square_or_end, numbers(8, (2,))))


def test_an_error_of_a_job_is_its_error(processes: ProcessWorkers):
    for workers in (Workers(), Workers(processes)):
        given = []
        with pytest.raises(ZeroDivisionError, match="number 0"):
            given.extend(workers.in_order(jobs.fail, numbers(3)))
        assert given == []
    with pytest.raises(WorkersError, match="TwoArguments: cannot be sent back by a worker: .*missing 1 required"):
        list(Workers(processes).in_order(jobs.fail_oddly, numbers(1)))
    with pytest.raises(WorkersError, match="cannot be sent back by a worker: cannot pickle"):
        list(Workers(processes).in_order(jobs.give_a_lock, numbers(1)))


def test_what_cannot_be_sent_is_named(processes: ProcessWorkers):
    class Held:
        name = "board 3"

        def __init__(self) -> None:
            self.lock = threading.Lock()

    with pytest.raises(WorkersError, match=r"Held 'board 3': cannot be sent to another process: cannot pickle"):
        list(Workers(processes).in_order(jobs.square, [(1, Held())]))
    held = Held()
    with ThreadPoolExecutor(1) as threads:
        ((_, same),) = Workers(threads).in_order(lambda each: each, [(held,)])
    assert same is held


def test_an_executor_that_is_gone_is_an_error_that_keeps_what_came_back():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        workers, given = Workers(pool), []
        with pytest.raises(WorkersLostError, match="the workers are gone .*; 5 answers are missing"):
            given.extend(workers.in_order(jobs.square_or_end, numbers(8, (3,))))
        assert given == SQUARES[:3]
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(WorkersLostError, match="after shutdown"):
        list(Workers(pool).in_order(jobs.square, numbers(2)))


class _Odd:
    """An executor that somebody wrote, which gives something else than a future."""

    def __init__(self, given: Callable[..., object]) -> None:
        self.submit = given


async def _later(*_job: object) -> int:
    return 1


@pytest.mark.parametrize(
    ("gives", "message"),
    [
        (lambda *_job: None, r"submit gave None, no concurrent\.futures\.Future; pass a concurrent"),
        (lambda function, *job: function(*job), r"submit gave Timed\(.*, value=0\) \(tvm_spm.*, no concurrent"),
        (
            lambda *_job: asyncio.Future(loop=asyncio.new_event_loop()),
            r"submit gave <Future pending> \(_asyncio.Future\), no concurrent",
        ),
        (_later, r"submit gave <coroutine .*, no concurrent"),
        (lambda job: None, "submit takes no function and arguments .*; pass a concurrent"),
    ],
)
def test_an_executor_that_gives_no_futures_is_named(gives: Callable[..., object], message: str):
    with pytest.raises(WorkersError, match=f"^executor = <.*_Odd object .*test_workers._Odd\\): its {message}"):
        list(Workers(_Odd(gives)).in_order(jobs.square, numbers(2)))


def test_a_stop_waits_for_the_first_answer_alone(processes: ProcessWorkers, tmp_path: Path):
    """Number 0, last here, would take minutes; its process does not outlive the request."""
    backwards = [(at, str(tmp_path)) for at in (3, 2, 1, 0)]
    found = list(Workers(processes).in_order(jobs.square_slowly, backwards, should_stop=lambda: True))
    assert found[0] == (0, 9)
    assert len(found) < 4
    are_idle(processes)
    assert list(Workers().in_order(jobs.square, numbers(3), should_stop=lambda: True)) == [(0, 0)]


SCRIPT = """
import sys, time
from tests import worker_jobs as jobs
from tvm_spm.workers import ProcessWorkers, Workers
print(list(Workers(ProcessWorkers(2)).in_order(jobs.square_slowly, [(0, sys.argv[1]), (1, sys.argv[1])])))
"""


def test_workers_end_with_who_started_them(tmp_path: Path):
    """A script without a guard starts them, and is killed."""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=root) as started:
        while not (tmp_path / "0").exists():
            time.sleep(0.02)
            assert started.poll() is None
        children = psutil.Process(started.pid).children(recursive=True)
        assert children
        started.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.parametrize("num_workers", [0, -1])
def test_no_workers_are_refused(num_workers: int):
    with pytest.raises(WorkersError, match="needs at least 1"):
        ProcessWorkers(num_workers)
