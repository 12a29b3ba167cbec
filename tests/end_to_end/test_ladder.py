"""Nothing ends a run: what cannot be fused runs alone, what cannot be scheduled stays on the host, with reasons."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
import tvm_ffi
from onnx import TensorProto, helper, numpy_helper
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

import tvm_spm
from schedules.group.code import schedule_group
from tests.numeric.plain import prim_func
from tvm_spm.deploy import groups as fused_network
from tvm_spm.deploy import task_checks
from tvm_spm.deploy.verify import process as verify_process
from tvm_spm.deploy.verify.compare import Verification, verify_task
from tvm_spm.workload import Workload

FLOAT = TensorProto.FLOAT
node = helper.make_node


def model_of(nodes, shapes, constants, kind=FLOAT):
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def weights(*shape):
    return np.random.default_rng(7).standard_normal(shape).astype("float32")


def tuned(model, **options):
    return tvm_spm.tune(model, "spm/edge-256", trials=2, **options)


LONG = [node("Conv", ["x", "w"], ["t0"])]
LONG += [node("Mul" if i % 2 else "Add", [f"t{i}", f"s{i}"], [f"t{i + 1}"]) for i in range(16)]
ODD = {
    "pools that read one tensor": (
        [
            node("MaxPool", ["x"], ["a"], kernel_shape=[2, 3], strides=[2, 1]),
            node("MaxPool", ["a"], ["b"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Conv", ["b", "w"], ["y"]),
        ],
        {"x": (1, 3, 14, 11)},
        {"w": weights(4, 3, 1, 1)},
    ),
    "numbers without axes": (
        [node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "s"], ["b"]), node("Add", ["b", "t"], ["c"]),
         node("MatMul", ["c", "w"], ["y"])],
        {"x": (3, 8), "s": (), "t": ()},
        {"w": weights(8, 8)},
    ),
    "an inner product, and a sum behind it": (
        [node("MatMul", ["x", "w"], ["a"]), node("Mul", ["a", "s"], ["b"]), node("Exp", ["b"], ["y"])],
        {"x": (9,), "s": ()},
        {"w": weights(9)},
    ),
    "a largest of a tensor and a number": (
        [node("Conv", ["x", "w"], ["a"], group=4), node("Max", ["a", "s"], ["b"]),
         node("Conv", ["b", "w"], ["y"], group=4)],
        {"x": (1, 4, 9, 9)},
        {"w": weights(4, 1, 3, 3), "s": np.float32(0.25)},
    ),
    "a length that depends on the data": (
        [node("MatMul", ["x", "w"], ["a"]), node("Range", ["a", "b", "c"], ["y"])],
        {"x": (3,)},
        {"w": np.zeros(3, "float32"), "b": np.float32(4), "c": np.float32(1)},
    ),
    "nothing but names": ([node("Identity", ["x"], ["y"])], {"x": (2, 3)}, {}),
    "nothing but a view": (
        [node("Reshape", ["x", "n"], ["y"])], {"x": (2, 6)}, {"n": np.array([3, 4])},
    ),
    "a result known beforehand": (
        [node("Shape", ["x"], ["y"])], {"x": (2, 6)}, {},
    ),
    "a window along three axes": (
        [node("Conv", ["x", "w"], ["y"])], {"x": (1, 2, 4, 5, 6)}, {"w": weights(3, 2, 2, 2, 2)},
    ),
    "a sum that gains axes": (
        [node("MatMul", ["x", "w"], ["a"]), node("Add", ["a", "q"], ["y"])],
        {"x": (3, 4), "q": (2, 1, 3, 5)},
        {"w": weights(4, 5)},
    ),
    "sixteen operands behind a convolution": (
        [*LONG, node("Relu", ["t16"], ["y"])],
        {"x": (1, 2, 5, 6)},
        {"w": weights(3, 2, 1, 1)} | {f"s{i}": weights(1, 3, 5, 6) for i in range(16)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_odd_networks_are_tuned_and_verified(name, tmp_path):
    nodes, shapes, constants = ODD[name]
    result = tuned(model_of(nodes, shapes, constants), workdir=tmp_path)
    assert result.verified, f"{result.verification}"
    assert json.loads((tmp_path / "result.json").read_text())["totals"]["verified"] is True


def test_numbers_of_sixteen_bits_with_a_large_exponent_are_verified():
    import ml_dtypes

    w = weights(8, 4).astype(ml_dtypes.bfloat16)
    model = model_of([node("MatMul", ["x", "w"], ["y"])], {"x": (3, 8)}, {"w": w}, kind=TensorProto.BFLOAT16)
    assert tuned(model).verified


CHAIN = (
    [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "w"], ["y"])],
    {"x": (64, 16)},
)


def chain():
    return model_of(*CHAIN, {"w": weights(16, 16)})


def wrong(func):
    """Code that adds up one term less."""
    return func.with_body(
        tvm_ffi.structural_map(
            func.body, (tirx.FloatImm, lambda n: tirx.FloatImm(n.ty.dtype, 1.0) if n.value == 0 else n)
        )
    )


def unscheduled(*_):
    raise IndexError("no such axis")


def with_wrong_numbers(*arguments):
    return wrong(schedule_group(*arguments))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (unscheduled, "TVM cannot make its code: no such axis"),
        (with_wrong_numbers, "its code does not compute the same"),
    ],
)
def test_a_group_without_right_code_runs_as_single_layers(monkeypatch, broken, reason):
    assert tuned(chain()).groups, "the layers of this network are worth fusing"
    monkeypatch.setattr(fused_network, "schedule_group", broken)
    result = tuned(chain())
    assert result.groups == ()
    assert result.verified
    assert result.plan is not None
    assert reason in result.plan.unscheduled[0].reason
    assert reason in json.dumps(result.as_dict())


def test_a_layer_without_right_code_stays_on_the_host(monkeypatch, tmp_path):
    make = task_checks.make_schedule

    def with_wrong_code(func, nest, mapping):
        made = make(func, nest, mapping)
        made.mod.update_func(made.mod.get_global_var("main"), wrong(made.mod["main"]))
        return made

    monkeypatch.setattr(task_checks, "make_schedule", with_wrong_code)
    result = tuned(chain(), fusion=False, workdir=tmp_path)
    assert result.verified
    # Both products are the same task but for the activation.
    reasons = [call.reason for call in result.host_calls]
    assert len(reasons) == 2
    assert all("its code does not compute the same: output 0 at [0, 0]" in reason for reason in reasons)


def test_a_network_that_differs_is_reported_and_kept(monkeypatch, tmp_path):
    failed = Verification(passed=False, max_abs_error=1.0, tolerance=0.5, layer="fused_matmul_relu")
    monkeypatch.setattr(task_checks.NetworkCheck, "check", lambda *_: failed)
    result = tuned(chain(), workdir=tmp_path)
    assert result.verified is False
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["totals"]["network_verification"]["first_differing_layer"] == "fused_matmul_relu"
    assert (tmp_path / "table.csv").exists()


def crashing(func):
    block = SBlock([], [], [], "root", tirx.Evaluate(tirx.call_extern("int32", "abort")))
    return func.with_body(SBlockRealize([], tirx.IntImm("bool", 1), block))


def test_a_crash_of_generated_code_is_a_failed_verification():
    func = prim_func(Workload.matmul(m=2, k=3, n=4, dtype="float32"))
    rng = np.random.default_rng(0)
    outcome = verify_task(func, crashing(func), rng=rng)
    assert not outcome.passed
    assert str(outcome) == "the code crashed: the process that ran it was ended by SIGABRT"
    # Another process answers the next question.
    assert verify_task(func, func, rng=rng).passed


def test_the_process_that_runs_code_can_be_ended_at_any_time():
    func = prim_func(Workload.matmul(m=2, k=3, n=4, dtype="float32"))
    verify_process.stop()
    assert verify_task(func, func, rng=np.random.default_rng(0)).passed


def test_a_comparison_may_run_beside_another():
    func = prim_func(Workload.matmul(m=2, k=3, n=4, dtype="float32"))
    with ThreadPoolExecutor(2) as threads:
        crashed = threads.submit(verify_task, func, crashing(func), rng=np.random.default_rng(0))
        passed = [threads.submit(verify_task, func, func, rng=np.random.default_rng(seed)) for seed in range(4)]
    assert "SIGABRT" in str(crashed.result())
    assert all(outcome.result().passed for outcome in passed)


def test_who_waits_for_a_process_that_is_ended_gets_an_outcome():
    func = prim_func(Workload.matmul(m=256, k=2048, n=2048, dtype="float32"))
    verify_process.stop()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(verify_task, func, func, rng=np.random.default_rng(0))
        while not waiting.done():  # started, or already at work
            verify_process.stop()
            time.sleep(0.01)
    assert not waiting.result().passed
    assert "SIGKILL" in str(waiting.result())
