"""Functions that a network calls many times: what runs, how often it is counted, and that it is verified."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir
from tvm.script import relax as R

import tvm_spm
from tvm_spm.deploy import runtime
from tvm_spm.deploy.programs import calls_of
from tvm_spm.deploy.verify.compare import verify_network
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, layer_graph, rounds
from tvm_spm.frontend.calls import called_functions
from tvm_spm.frontend.rounds import Rounds, add_rounds
from tvm_spm.workload import Workload

ROWS, WIDTH = 3, 4


def tensor(*shape):
    return relax.TensorType(shape, "float32")


def step_of(compute, *types):
    """A module whose ``main`` makes a tuple of what ``compute`` says of its parameters."""
    params = [relax.Var(f"p{number}", ty) for number, ty in enumerate(types)]
    builder = relax.BlockBuilder()
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(relax.Tuple(compute(builder, *params)))
        builder.emit_func_output(out)
    return builder.get()


def called(step, how, *types):
    """A network that runs all rounds once."""
    builder = relax.BlockBuilder()
    function = add_rounds(builder, "walk", step, how)
    params = [relax.Var(f"x{number}", ty) for number, ty in enumerate(types)]
    with builder.function("main", params):
        with builder.dataflow():
            out = builder.emit_output(relax.Call(function, params))
        builder.emit_func_output(out)
    return builder.get()


def sums(builder, state, factor, row, other):
    """Sums of two sequences by a factor that is the same in every round."""
    flat = [builder.emit(relax.op.reshape(each, (ROWS, WIDTH))) for each in (row, other)]
    new = builder.emit(relax.op.add(relax.op.multiply(state, factor), relax.op.subtract(*flat)))
    return new, builder.emit(relax.op.reshape(new, (1, ROWS, WIDTH))), builder.emit(relax.op.exp(other))


WHOLE, ROW = tensor(ROWS, WIDTH), tensor(1, ROWS, WIDTH)


@pytest.mark.parametrize("num_rounds", [1, 2, 3, 4, 9, 10, 11, 26, 27, 28])
def test_rounds_run_in_order_and_each_way(num_rounds, monkeypatch):
    monkeypatch.setattr(rounds, "MOST_CALLS", 3)
    how = Rounds(
        num_rounds=num_rounds, num_states=1, num_same=1, is_backward=(False, True), collects_backward=(False, True)
    )  # fmt: skip
    long = tensor(num_rounds, ROWS, WIDTH)
    mod = called(step_of(sums, WHOLE, WHOLE, ROW, ROW), how, WHOLE, WHOLE, long, long)
    times = {each.name: each.times for each in called_functions(extract(mod).mod)}
    assert times["walk_step"] == num_rounds
    rng = np.random.default_rng(num_rounds)
    state, factor, first, second = (
        rng.standard_normal(shape).astype("float32")
        for shape in [(ROWS, WIDTH)] * 2 + [(num_rounds, ROWS, WIDTH)] * 2
    )  # fmt: skip
    got = runtime.run(runtime.build(extract(mod).mod, "edge-256"), [state, factor, first, second])
    forward, backward = [], []
    for number in range(num_rounds):
        state = state * factor + first[number] - second[num_rounds - 1 - number]
        forward.append(state)
        backward.insert(0, np.exp(second[num_rounds - 1 - number]))
    for one, other in zip(got, (state, np.stack(forward), np.stack(backward)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_a_state_must_keep_its_type():
    def grows(builder, state):
        return (builder.emit(relax.op.concat([state, state], axis=0)),)

    how = Rounds(num_rounds=4, num_states=1, num_same=0, is_backward=(), collects_backward=())
    with pytest.raises(ModelError, match=r"takes 'p0' as .*\(3, 4\).* and makes .*\(6, 4\)"):
        add_rounds(relax.BlockBuilder(), "walk", step_of(grows, WHOLE), how)


WEIGHT = np.random.default_rng(5).standard_normal((WIDTH, WIDTH)).astype("float32") / 4


def walk(num_rounds, weight=WEIGHT):
    """Two layers in every round that one group can hold."""

    def two_products(builder, state, row):
        flat = builder.emit(relax.op.reshape(row, (ROWS, WIDTH)))
        factor = relax.const(weight)
        hidden = builder.emit(relax.op.nn.relu(relax.op.matmul(relax.op.add(state, flat), factor)))
        new = builder.emit(relax.op.tanh(relax.op.matmul(hidden, factor)))
        return new, builder.emit(relax.op.reshape(new, (1, ROWS, WIDTH)))

    how = Rounds(num_rounds=num_rounds, num_states=1, num_same=0, is_backward=(False,), collects_backward=(False,))
    return called(step_of(two_products, WHOLE, ROW), how, WHOLE, tensor(num_rounds, ROWS, WIDTH))


def test_weights_of_a_step_are_constants_of_the_network():
    extraction = extract(walk(40))
    step = next(each for each in called_functions(extraction.mod) if each.name == "walk_step")
    held = []
    relax.analysis.post_order_visit(
        step.func.body, lambda node: held.append(node) if isinstance(node, tvm.ir.GenericConst) else None
    )
    assert not held
    layers = layer_graph(extraction)
    products = [layer for layer in layers.graph.layers if layer.workload is not None]
    weights = [layers.graph.tensors[read.tensor] for layer in products for read in layer.reads if read.role == "W"]
    assert len(weights) == 2
    assert all(weight.is_constant for weight in weights)
    names = [name for name, task in extraction.functions if isinstance(extraction.graph.tasks[task].work, Workload)]
    calls = calls_of(extraction.mod, names, {})
    assert [list(call.constants) for call in calls] == [["W"], ["W"]]
    np.testing.assert_array_equal(calls[0].constants["W"], WEIGHT)


@pytest.fixture(scope="module")
def tuned():
    return tvm_spm.tune(walk(40), "edge-256", trials=4)


def test_a_network_that_runs_a_step_many_times_is_tuned_and_verified(tuned):
    assert tuned.verified
    assert sum(each.task.count for each in tuned.tasks if isinstance(each.task.work, Workload)) == 2 * 40


def test_the_plan_counts_a_layer_as_often_as_it_runs(tuned):
    assert tuned.plan is not None
    assert tuned.plan.plan.cycles == tuned.cost.cycles
    group = next(each for each in tuned.groups if len(each.names) > 1)
    assert group.count == 40
    assert tuned.cost.cycles < tuned.unfused_cost.cycles


def test_wrong_numbers_in_a_step_are_found():
    reference, wrong = (extract(walk(40, weight)).mod for weight in (WEIGHT, WEIGHT * np.float32(1.01)))
    state, rows = np.ones((ROWS, WIDTH), "f4"), np.ones((40, ROWS, WIDTH), "f4")
    same, other = (runtime.build(mod, "edge-256") for mod in (reference, wrong))
    assert verify_network(reference, same, [state, rows]).passed
    assert not verify_network(reference, other, [state, rows]).passed


@ir.ir_module
class Recursive:
    @R.function
    def again(x: R.Tensor((2,), "float32"), more: R.Tensor((), "bool")) -> R.Tensor((2,), "float32"):
        cls = Recursive
        if more:
            twice = R.add(x, x)
            y = cls.again(twice, more)
        else:
            y = x
        return y

    @R.function
    def main(x: R.Tensor((2,), "float32"), more: R.Tensor((), "bool")) -> R.Tensor((2,), "float32"):
        cls = Recursive
        y = cls.again(x, more)
        return y


def test_a_function_that_calls_itself_stays_on_the_host():
    assert [each.name for each in called_functions(Recursive)] == ["main"]
    assert [call.name for call in extract(Recursive).graph.host_calls] == ["again"]
