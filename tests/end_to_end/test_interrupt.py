"""Real signals to real processes: a result or one line, never a traceback, and nobody left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.end_to_end.test_cli import command, two_layers
from tvm_spm.interrupt import StopRequest, stop_on_interrupt
from tvm_spm.tuning.warm_up import Part, load

ENDLESS = ("--target", "spm/edge-256-lpddr4", "--trials", "1000000", "--json")
"""Open pages: a proof under the formula ends no search there."""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(two_layers(tmp_path_factory.mktemp("model") / "two.onnx", channels=64))


class Run:
    """A command under way, and what it started."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command(*arguments), stdout=out, stderr=err, stdin=subprocess.DEVNULL, env={**os.environ, **environment}
            )
        self.children: set[psutil.Process] = set()

    def wait_for(self, text: str, timeout_s: float = 120.0) -> None:
        """Until the text stands on stderr."""
        deadline = time.monotonic() + timeout_s
        while text not in self.err.read_text():
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.02)

    def send(self, signum: int) -> None:
        self.children |= set(psutil.Process(self.process.pid).children(recursive=True))
        self.process.send_signal(signum)

    def end(self, timeout_s: float = 120.0) -> int:
        """The exit code, once nobody is left and no traceback was shown."""
        code = self.process.wait(timeout_s)
        _, alive = psutil.wait_procs(self.children, timeout=5)
        assert not alive
        assert "Traceback" not in self.err.read_text(), self.err.read_text()
        return code


def outcome_is_whole(run: Run, signum: int) -> str:
    """Either a verified result on stdout, or nothing there and the code of the signal."""
    code = run.end()
    if code == CODES[signal.Signals(signum)]:
        assert run.out.read_text() == ""
        assert run.err.read_text().splitlines()[-1] == "tvm-spm: stopped"
        return "nothing"
    assert code == 0, run.err.read_text()
    result = json.loads(run.out.read_text())
    assert result["totals"]["verified"] is True
    return "result"


@pytest.mark.parametrize("signum", list(CODES))
def test_while_it_imports(model: str, tmp_path: Path, signum: int):
    run = Run(tmp_path, "tune", model, *ENDLESS)
    time.sleep(0.3)
    run.send(signum)
    assert outcome_is_whole(run, signum) == "nothing"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_while_it_compiles(model: str, tmp_path: Path, signum: int):
    """A folder without compiled code: both processes end at once, also where the first one cannot say good-bye."""
    run = Run(tmp_path, "tune", model, *ENDLESS, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    run.wait_for("the first run compiles, for half a minute to a minute")
    time.sleep(2.0)
    run.send(signum)
    started = time.monotonic()
    assert run.children
    assert run.end() == CODES.get(signum, -signum)
    assert time.monotonic() - started < 5
    assert run.out.read_text() == ""


@pytest.mark.parametrize("signum", list(CODES))
def test_while_it_searches(model: str, tmp_path: Path, signum: int):
    run = Run(tmp_path, "tune", model, *ENDLESS)
    run.wait_for("(1/2)")
    time.sleep(1.0)
    run.send(signum)
    assert outcome_is_whole(run, signum) == "result"
    totals = json.loads(run.out.read_text())["totals"]
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[signal.Signals(signum)]
    assert (totals["interrupted"], totals["stopped_by"]) == (True, name)
    trials = [each for each in totals["left_out"] if each["what"] == "trials"]
    assert trials[0]["num_asked"] == 1_000_000
    assert 1 <= trials[0]["num_done"] < 1_000_000
    said = run.err.read_text()
    assert f"finishing with the best so far ({name} again quits)" in said
    assert said.count("(2/2)") == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_while_workers_measure(model: str, tmp_path: Path, signum: int):
    """They end with the run, also where it cannot say good-bye."""
    run = Run(tmp_path, "tune", model, *ENDLESS, "--workers", "2")
    run.wait_for("(1/2)")
    time.sleep(2.0)
    run.send(signum)
    if signum == signal.SIGKILL:
        assert run.end() == -signum
        return
    assert outcome_is_whole(run, signum) == "result"
    assert json.loads(run.out.read_text())["totals"]["stopped_by"] == "Ctrl-C"


def test_a_second_signal_ends_at_once(model: str, tmp_path: Path):
    run = Run(tmp_path, "tune", model, *ENDLESS)
    run.wait_for("(1/2)")
    run.send(signal.SIGINT)
    run.wait_for("finishing with the best so far")
    run.send(signal.SIGTERM)
    assert run.end() == 143
    assert run.out.read_text() == ""


def test_an_exact_search_notices(tmp_path: Path):
    """A layer whose proof takes minutes: the best so far, not certified, within seconds."""
    shape = ("--K", "512", "--C", "512", "--OY", "28", "--OX", "28", "--FY", "3", "--FX", "3")
    run = Run(tmp_path, "search", "conv2d", *shape, "--arch", "mlu100-32", "--json")
    time.sleep(4.0)
    run.send(signal.SIGTERM)
    started = time.monotonic()
    code = run.end()
    assert time.monotonic() - started < 30
    if code != 143:
        assert json.loads(run.out.read_text())["lower_bound"] > 0


def test_a_python_program_gets_its_own_handlers_back():
    """In a program of the user's: before there is something to keep Ctrl-C raises, after that it is a request."""
    former = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), stop_on_interrupt(None):
        signal.raise_signal(signal.SIGINT)
    with stop_on_interrupt(None) as stop:
        stop.keep()
        signal.raise_signal(signal.SIGTERM)
        assert (stop(), stop.interrupted, stop.signal_name) == (True, True, "SIGTERM")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == former


def test_shares_of_a_time_limit():
    now = time.monotonic()
    whole = StopRequest(now + 100.0)
    part = whole.share(4)
    assert not part()
    assert part.share(1)() is False
    assert StopRequest(now - 1.0).share(3)() is True
    endless = StopRequest()
    assert endless.share(7) is endless
    assert not endless()


def matmuls(path: Path, extents: tuple[int, ...]) -> str:
    """Products one after the other."""
    weights = {
        f"w{at}": np.zeros(shape, np.float32) for at, shape in enumerate(zip(extents, extents[1:], strict=False))
    }
    names = ["x", *(f"y{at}" for at in range(len(weights)))]
    graph = helper.make_graph(
        [helper.make_node("MatMul", [names[at], f"w{at}"], [names[at + 1]]) for at in range(len(weights))],
        "matmuls",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [720, extents[0]])],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, [720, extents[-1]])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))
    return str(path)


def test_a_time_limit_ends_the_search_and_says_what_it_left_out(tmp_path: Path):
    """Layers with so many divisors that one exact search takes minutes; no limit cuts compilation, done before."""
    load(Part)
    model = matmuls(tmp_path / "matmuls.onnx", (720, 720, 1440))
    options = ("--target", "spm/mlu100-32", "--trials", "100000", "--time-limit", "4", "--json")
    run = Run(tmp_path, "tune", model, *options)
    assert run.end(timeout_s=400) == 0
    result = json.loads(run.out.read_text())
    totals, seconds = result["totals"], result["totals"]["seconds"]
    assert seconds["import"] + seconds["search"] + seconds["fusion"] <= 4 + 10
    assert (totals["time_limit_s"], totals["stopped_by"], totals["interrupted"]) == (4.0, "time limit", False)
    assert totals["verified"] is True
    assert len(result["tasks"]) == 2
    left_out = {each["task"]: each for each in totals["left_out"] if each["what"] == "trials"}
    for task in result["tasks"]:
        # The default mapping, and the best of the exact search, which is better.
        assert task["trials"] == left_out[task["name"]]["num_done"] >= 2
        assert task["gain_over_default"] > 1


@pytest.mark.slow
def test_signals_at_random_moments(model: str, tmp_path: Path):
    """A sweep over imports, search, fusion, verification and printing."""
    rng = random.Random(int(os.environ.get("SWEEP_SEED", "0")))
    outcomes: dict[str, int] = {}
    for number in range(int(os.environ.get("SWEEP", "60"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        trials = rng.choice(["4", "1000000"])
        run = Run(folder, "tune", model, "--target", "spm/edge-256", "--trials", trials, "--json")
        signum = rng.choice(list(CODES))
        # An interpreter that has not reached our first line cannot be answered for.
        time.sleep(rng.uniform(0.15, 8.0))
        if run.process.poll() is None:
            run.send(signum)
        elif trials == "1000000":
            raise AssertionError(run.err.read_text())
        found = outcome_is_whole(run, signum)
        outcomes[found] = outcomes.get(found, 0) + 1
    sys.stderr.write(f"signals: {outcomes}\n")
    assert outcomes["nothing"] > 0
    assert outcomes["result"] > 0
