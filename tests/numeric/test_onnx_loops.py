"""Loops of a known number of rounds, written out and as steps that run many times, against numpy."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.onnx import loops
from tvm_spm.frontend.rounds import MOST_ROUNDS
from tvm_spm.workload import Workload

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
node = helper.make_node
RNG = np.random.default_rng(5)
WEIGHT = RNG.standard_normal((4, 4)).astype(np.float32)


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def body(nodes, outputs, constants=()):
    inputs = [value("it", INT, ()), value("going", BOOL, ()), value("a", FLOAT, (2, 4))]
    return helper.make_graph(
        nodes, "body", inputs, outputs, [numpy_helper.from_array(np.asarray(array), name) for name, array in constants]
    )


def looped(inner, outputs, *, rounds=3, condition="", opset=17, feeds=()):
    constants = {"w": WEIGHT, "yes": np.array(True)}
    if rounds is not None:
        constants["n"] = np.array(rounds, np.int64)
    graph = helper.make_graph(
        [node("Loop", ["n", condition, "x"], outputs, name="rounds", body=inner)], "looped",
        [value("x", FLOAT, (2, 4)), *feeds], [value(name, FLOAT, None) for name in outputs if name],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def product(going="going"):
    """One product and a bias by the number of the round; both the result and its sums leave each round."""
    nodes = [
        node("MatMul", ["a", "w"], ["product"]),
        node("Cast", ["it"], ["number"], to=FLOAT),
        node("Add", ["product", "number"], ["b"]),
        node("Tanh", ["b"], ["scanned"]),
        node("Identity", [going], ["on"]),
    ]
    return body(nodes, [value("on", BOOL, ()), value("b", FLOAT, (2, 4)), value("scanned", FLOAT, (2, 4))])


def nested():
    """In every round two more rounds, of which the last adds what the outer one multiplied."""
    inner = helper.make_graph(
        [node("Add", ["c", "product"], ["d"]), node("Identity", ["go"], ["on_too"])], "inner",
        [value("at", INT, ()), value("go", BOOL, ()), value("c", FLOAT, (2, 4))],
        [value("on_too", BOOL, ()), value("d", FLOAT, (2, 4))],
    )  # fmt: skip
    nodes = [
        node("MatMul", ["a", "w"], ["product"]),
        node("Loop", ["two", "", "a"], ["b"], name="inner", body=inner),
        node("Identity", ["going"], ["on"]),
    ]
    return body(nodes, [value("on", BOOL, ()), value("b", FLOAT, (2, 4))], [("two", np.array(2, np.int64))])


def by_parity():
    """A branch that the number of the round chooses."""
    branches = {
        "then_branch": helper.make_graph([node("Relu", ["a"], ["t"])], "t", [], [value("t", FLOAT, (2, 4))]),
        "else_branch": helper.make_graph([node("MatMul", ["a", "w"], ["e"])], "e", [], [value("e", FLOAT, (2, 4))]),
    }
    nodes = [
        node("Mod", ["it", "two"], ["odd"]),
        node("Equal", ["odd", "zero"], ["even"]),
        node("If", ["even"], ["b"], **branches),
        node("Identity", ["going"], ["on"]),
    ]
    constants = [("two", np.array(2, np.int64)), ("zero", np.array(0, np.int64))]
    return body(nodes, [value("on", BOOL, ()), value("b", FLOAT, (2, 4))], constants)


def products(x, rounds):
    rows = []
    for number in range(rounds):
        x = x @ WEIGHT + number
        rows.append(np.tanh(x))
    return [x, np.stack(rows)]


def nests(x, rounds):
    for _ in range(rounds):
        x = x + 2 * (x @ WEIGHT)
    return [x]


def parities(x, rounds):
    for number in range(rounds):
        x = x @ WEIGHT if number % 2 else np.maximum(x, 0)
    return [x]


CASES = {
    "results of every round": (looped(product(), ["y", "all"]), lambda x: products(x, 3)),
    "a condition that holds": (looped(product(), ["y", "all"], condition="yes"), lambda x: products(x, 3)),
    "a body that always goes on": (looped(product("yes"), ["y", "all"]), lambda x: products(x, 3)),
    "only the last": (looped(product(), ["y", ""]), lambda x: products(x, 3)[:1]),
    "one round": (looped(product(), ["y", "all"], rounds=1), lambda x: products(x, 1)),
    "axes as an attribute": (looped(product(), ["y", "all"], opset=11), lambda x: products(x, 3)),
    "loops inside of loops": (looped(nested(), ["y"]), lambda x: nests(x, 3)),
    "branches by the round": (looped(by_parity(), ["y"], rounds=4), lambda x: parities(x, 4)),
}


@pytest.mark.parametrize("way", ["written out", "a loop"])
@pytest.mark.parametrize("name", CASES)
def test_rounds_are_computed(name, way, monkeypatch):
    if way == "a loop":
        monkeypatch.setattr(loops, "MOST_NODES", 0)
    # ONNX's reference gets carried values wrong (onnx 1.23), so numpy says what is right.
    model, compute = CASES[name]
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    found = extract(load_model(model))
    got = runtime.run(runtime.build(found.mod, "edge-256"), [x])
    want = compute(x)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert not [call for call in found.graph.host_calls if not call.reason.startswith("a view")]


def test_a_number_of_rounds_may_be_given():
    model = looped(product(), ["y", "all"], rounds=None, feeds=[value("n", INT, ())])
    (y, rows) = runtime.run(
        runtime.build(extract(load_model(model, values={"n": 2})).mod, "edge-256"), [np.ones((2, 4), "f4")]
    )
    assert rows.shape == (2, 2, 4)
    np.testing.assert_allclose(np.tanh(y), rows[1], rtol=1e-5)
    with pytest.raises(ModelError, match="--value NAME=NUMBER"):
        load_model(model)


def until(outputs=1, *, grows=False):
    """Doubles, by a factor from outside, until the sum reaches 100."""
    nodes = [
        node("Concat", ["a", "a"], ["b"], axis=0) if grows else node("Mul", ["a", "factor"], ["b"]),
        node("ReduceSum", ["b"], ["s"], keepdims=0),
        node("Less", ["s", "lim"], ["on"]),
    ]
    results = [value("on", BOOL, ()), value("b", FLOAT, None if grows else (2, 4)), value("b2", FLOAT, None)]
    nodes.append(node("Identity", ["b"], ["b2"]))
    inner = body(nodes, results[: 1 + outputs], [("lim", np.array(100, np.float32))])
    if grows:
        inner.input[2].type.tensor_type.ClearField("shape")
    return inner


@pytest.mark.parametrize(("rounds", "condition"), [(50, ""), (50, "yes"), (2, ""), (None, "")])
def test_a_loop_that_the_data_ends_runs_on_the_host(rounds, condition):
    model = looped(until(), ["z"], rounds=rounds, condition=condition, feeds=[value("f", FLOAT, (1, 4))])
    model.graph.node[0].input[0] = "" if rounds is None else "n"
    model.graph.node.insert(0, node("Add", ["f", "f"], ["factor"]))
    model.graph.node.append(node("MatMul", ["z", "w"], ["y"]))
    model.graph.output[0].name = "y"
    found = extract(load_model(model))
    assert [call.name for call in found.graph.host_calls if not call.reason.startswith("a view")] == ["onnx.Loop"]
    factor = np.full((1, 4), 0.75, np.float32)
    executable = runtime.build(found.mod, "edge-256")
    for start in (np.float32(0.5), np.float32(40)):
        x = np.full((2, 4), start)
        want = x
        for _ in range(50 if rounds is None else rounds):
            want = want * 2 * factor
            if want.sum() >= 100:
                break
        np.testing.assert_allclose(runtime.run(executable, [x, factor])[0], want @ WEIGHT, rtol=1e-5)


def test_a_loop_whose_shapes_the_data_decides_is_named():
    feeds = [value("factor", FLOAT, (1, 4))]
    said = r"node 'rounds' \(operator Loop\): the data decides when it ends, and with it on the shape of its output"
    with pytest.raises(ModelError, match=said + " 'all'"):
        load_model(looped(until(2), ["y", "all"], rounds=50, feeds=feeds))
    with pytest.raises(ModelError, match=said + " 'y'"):
        load_model(looped(until(grows=True), ["y"], rounds=50))


def test_many_rounds_are_a_loop():
    nodes = [
        node("MatMul", ["a", "small"], ["product"]),
        node("Cast", ["it"], ["number"], to=FLOAT),
        node("Sin", ["number"], ["wave"]),
        node("Add", ["product", "wave"], ["b"]),
        node("Identity", ["going"], ["on"]),
    ]
    small = WEIGHT / np.float32(np.linalg.norm(WEIGHT))
    outputs = [value("on", BOOL, ()), value("b", FLOAT, (2, 4)), value("product", FLOAT, (2, 4))]
    found = extract(load_model(looped(body(nodes, outputs, [("small", small)]), ["y", "all"], rounds=700)))
    products_of = [task for task in found.graph.tasks if isinstance(task.work, Workload)]
    assert [(task.work.macs, task.count) for task in products_of] == [(2 * 4 * 4, 700)]
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    last, rows = runtime.run(runtime.build(found.mod, "edge-256"), [x])
    want = x.astype(np.float64)
    for number in range(700):
        want = want @ small
        np.testing.assert_allclose(rows[number], want, rtol=1e-5, atol=1e-5)
        want = want + np.sin(number)
    np.testing.assert_allclose(last, want, rtol=1e-5, atol=1e-5)


def growing(rounds):
    """Every round appends what it is given to itself."""
    nodes = [node("Concat", ["a", "x"], ["b"], axis=0), node("Identity", ["going"], ["on"])]
    inner = body(nodes, [value("on", BOOL, ()), value("b", FLOAT, None)])
    inner.input[2].type.tensor_type.ClearField("shape")
    return looped(inner, ["y"], rounds=rounds)


def test_long_loops_of_growing_values_are_written_out():
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    found = extract(load_model(growing(600)))
    np.testing.assert_array_equal(runtime.run(runtime.build(found.mod, "edge-256"), [x])[0], np.tile(x, (601, 1)))
    with pytest.raises(ModelError, match=r"20,000 rounds of 2 nodes are 40,000: must be <= 20,000, as shapes change"):
        load_model(growing(20_000))


def test_more_rounds_than_can_run_are_refused_with_both_numbers():
    with pytest.raises(ModelError, match=rf"60,000 rounds: must be <= {MOST_ROUNDS:,}"):
        load_model(looped(product(), ["y", "all"], rounds=60_000))
