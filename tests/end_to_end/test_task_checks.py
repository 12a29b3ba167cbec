"""Tasks are compared beside other work: each once, in whatever process is free, and none after the end."""

from __future__ import annotations

import threading
from contextlib import contextmanager

import pytest
from onnx import TensorProto, helper

import tvm_spm
from tvm_spm.arch import load_arch
from tvm_spm.deploy import task_checks
from tvm_spm.deploy.task_checks import TaskChecks
from tvm_spm.deploy.verify import process
from tvm_spm.deploy.verify.compare import NetworkCheck
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.frontend import extract, load_model
from tvm_spm.lowering.target import target_of
from tvm_spm.workload import Workload

ARCH = load_arch("edge-256")
RIGHT = Verification(passed=True, max_abs_error=0.0, tolerance=0.0)
WIDTHS = (8, 12, 20, 28)


@pytest.fixture(scope="module")
def network():
    """Three products of different sizes, and how each runs."""
    nodes = [helper.make_node("MatMul", [f"t{at}", f"w{at}"], [f"t{at + 1}"]) for at in range(3)]
    shapes = {"t0": (4, WIDTHS[0])} | {f"w{at}": WIDTHS[at : at + 2] for at in range(3)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("t3")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    extraction = extract(load_model(model))
    found = {
        index: tvm_spm.search(task.work, ARCH)
        for index, task in enumerate(extraction.graph.tasks) if isinstance(task.work, Workload)
    }  # fmt: skip
    assert len(found) == 3
    return extraction, found


@contextmanager
def checks_of(network):
    extraction, found = network
    check = NetworkCheck(extraction.mod, target=target_of(ARCH))
    try:
        with TaskChecks(extraction, ARCH, found, check) as checks:
            yield checks
    finally:
        check.end()


def test_tasks_begun_early_and_late_come_out_the_same(network):
    with checks_of(network) as late:
        late.wait()
        with checks_of(network) as early:
            early.begin()
            early.compare()
            early.wait()
            assert early.outcomes() == late.outcomes()
    assert list(early.outcomes()) == [0, 1, 2]
    assert all(outcome.passed for outcome in early.outcomes().values())
    assert early.compare_network(network[0].mod).passed


def test_each_task_is_compared_once_whoever_looks_and_all_are_told_of(network, monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(task_checks, "verify_function", lambda func, *_, **__: asked.append(func) or RIGHT)
    with checks_of(network) as checks:
        checks.schedules()
        helpers = [threading.Thread(target=checks.compare) for _ in range(4)]
        for helper_thread in helpers:
            helper_thread.start()
        checks.wait()
        for helper_thread in helpers:
            helper_thread.join()
        checks.follow(told.append)
    assert len(asked) == 3
    assert sorted(told) == [0, 1, 2]


def test_what_is_left_at_the_end_is_not_compared(network, monkeypatch):
    has_begun, asked = threading.Event(), []

    def slow(func, *_, **__):
        asked.append(func)
        has_begun.set()
        stopped.wait(60)
        return RIGHT

    stopped = threading.Event()
    monkeypatch.setattr(task_checks, "verify_function", slow)
    monkeypatch.setattr(process, "stop", stopped.set)
    with checks_of(network) as checks:
        checks.begin()
        assert has_begun.wait(60)
    assert len(asked) == 1
    assert list(checks.outcomes()) == [0]


def test_what_is_asked_at_the_same_time_takes_turns(network, monkeypatch):
    at_once, most, lock = [0], [0], threading.Lock()

    def ask(request):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.05)
        with lock:
            at_once[0] -= 1
        return RIGHT

    monkeypatch.setattr(process, "ask", ask)
    monkeypatch.setattr(NetworkCheck, "is_ready", property(lambda self: False))
    with checks_of(network) as checks:
        askers = [threading.Thread(target=checks.ask, args=(None,)) for _ in range(3)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join()
    assert most == [1]


def test_a_task_goes_to_the_process_of_the_network_when_that_is_free(network, monkeypatch):
    asked = []
    monkeypatch.setattr(process, "ask", lambda request: asked.append("another") or RIGHT)
    with checks_of(network) as checks:
        monkeypatch.setattr(NetworkCheck, "ask", lambda self, request: asked.append("the network's") or RIGHT)
        for is_ready in (False, True):
            monkeypatch.setattr(NetworkCheck, "is_ready", property(lambda self, is_ready=is_ready: is_ready))
            checks.ask(None)
        is_asked, may_end = threading.Event(), threading.Event()
        monkeypatch.setattr(NetworkCheck, "check", lambda self, module: is_asked.set() or may_end.wait(60) and RIGHT)
        whole = threading.Thread(target=checks.compare_network, args=(network[0].mod,))
        whole.start()
        assert is_asked.wait(60)
        checks.ask(None)
        may_end.set()
        whole.join()
    assert asked == ["another", "the network's", "another"]
