"""RNN, GRU and LSTM layers of ONNX against their equations, written out in numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model, rounds
from tvm_spm.frontend.onnx import recurrent

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, BATCH, DEPTH, HIDDEN = 4, 3, 5, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_step(operator, x, h, c, tensors, direction, attributes):
    """(next h, next c) of the equations in ONNX's operator documents."""
    w, r = (tensors[key][direction].astype("float64") for key in "WR")
    wb, rb = np.split(tensors["B"][direction].astype("float64"), 2) if "B" in tensors else (0 * w[:, 0], 0 * w[:, 0])
    f, g = (sigmoid, np.tanh) if operator != "RNN" else (np.tanh, None)
    if attributes.get("activations"):
        f, g = lambda x: np.clip(0.3 * x + 0.4, 0, 1), lambda x: 1.2 * np.tanh(0.8 * x)
    bound = attributes.get("clip", np.inf)

    def gate(number):
        rows = slice(number * HIDDEN, (number + 1) * HIDDEN)
        return x @ w[rows].T + wb[rows], h @ r[rows].T + rb[rows]

    def clipped(value):
        return np.clip(value, -bound, bound)

    if operator == "RNN":
        return f(clipped(sum(gate(0)))), c
    if operator == "GRU":
        z, reset = f(clipped(sum(gate(0)))), f(clipped(sum(gate(1))))
        rows = slice(2 * HIDDEN, 3 * HIDDEN)
        if attributes.get("linear_before_reset"):
            new = gate(2)[0] + reset * gate(2)[1]
        else:
            new = gate(2)[0] + (reset * h) @ r[rows].T + rb[rows]
        return (1 - z) * g(clipped(new)) + z * h, c
    peep = np.split(tensors["P"][direction].astype("float64"), 3) if "P" in tensors else [0, 0, 0]
    entered = f(clipped(sum(gate(0)) + peep[0] * c))
    kept = 1 - entered if attributes.get("input_forget") else f(clipped(sum(gate(2)) + peep[2] * c))
    c = kept * c + entered * g(clipped(sum(gate(3))))
    left = f(clipped(sum(gate(1)) + peep[1] * c))
    return left * np.tanh(c), c


def walked(operator, x, tensors, lengths, states, backwards, attributes):
    """Y, Y_h and Y_c, sequence by sequence and step by step."""
    y = np.zeros((STEPS, len(backwards), BATCH, HIDDEN))
    ends = np.zeros((2, len(backwards), BATCH, HIDDEN))
    for direction, is_backwards in enumerate(backwards):
        for one in range(BATCH):
            h, c = states[0, direction, one].astype("float64"), states[1, direction, one].astype("float64")
            steps = list(range(lengths[one]))
            for step in reversed(steps) if is_backwards else steps:
                h, c = one_step(operator, x[step, one].astype("float64"), h, c, tensors, direction, attributes)
                y[step, direction, one] = h
            ends[:, direction, one] = h, c
    return y, ends[0], ends[1]


CASES = {
    "plain": {},
    "backwards": {"direction": "reverse"},
    "both directions, lengths known": {"direction": "bidirectional", "lengths": "known"},
    "both directions, lengths from the data": {"direction": "bidirectional", "lengths": "data"},
    "without bias and state": {"without": "B H C"},
    "clipped": {"clip": 0.4},
    "weights are inputs": {"weights": "inputs"},
    "old opset": {"opset": 9, "clip": 0.4},
    "batch first": {"layout": 1, "direction": "bidirectional"},
}  # fmt: skip
OWN = {
    ("GRU", "reset after the product"): {"linear_before_reset": 1},
    ("GRU", "other activations"): {
        "activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 1.2], "activation_beta": [0.4, 0.8],
    },
    ("LSTM", "peepholes"): {"peepholes": True},
    ("LSTM", "forget from input"): {"input_forget": 1},
}  # fmt: skip
ALL = [(operator, name, case) for operator in GATES for name, case in CASES.items()]
ALL += [(operator, name, case) for (operator, name), case in OWN.items()]


def as_a_loop(monkeypatch):
    """However short: two functions, one inside the other, of two calls each."""
    monkeypatch.setattr(recurrent, "STEPS_WRITTEN_OUT", 0)
    monkeypatch.setattr(rounds, "MOST_CALLS", 2)


@pytest.mark.parametrize("way", ["written out", "a loop"])
@pytest.mark.parametrize(("operator", "name", "case"), ALL, ids=[f"{o} {n}" for o, n, _ in ALL])
def test_a_recurrent_layer_computes_its_equations(operator, name, case, way, monkeypatch):
    if way == "a loop":
        as_a_loop(monkeypatch)
    rng = np.random.default_rng(3)
    case = dict(case)
    without, weights, opset = case.pop("without", ""), case.pop("weights", "constants"), case.pop("opset", 14)
    kind, has_peepholes = case.pop("lengths", None), case.pop("peepholes", False)
    backwards = {"reverse": (True,), "bidirectional": (False, True)}.get(case.get("direction"), (False,))
    gates, count = GATES[operator], len(backwards)

    def normal(*shape):
        return rng.standard_normal(shape).astype("float32")

    tensors = {"W": normal(count, gates * HIDDEN, DEPTH), "R": normal(count, gates * HIDDEN, HIDDEN)}
    tensors |= {} if "B" in without else {"B": normal(count, 2 * gates * HIDDEN)}
    tensors |= {"P": normal(count, 3 * HIDDEN)} if has_peepholes else {}
    x, states = normal(STEPS, BATCH, DEPTH), normal(2, count, BATCH, HIDDEN)
    lengths = np.array([4, 1, 3], np.int32) if kind else np.full(BATCH, STEPS, np.int32)
    if without:
        states[:] = 0
    want = walked(operator, x, tensors, lengths, states, backwards, case)
    is_batch_first = case.get("layout") == 1
    data = {"X": x, "H": states[0]} | ({"C": states[1]} if operator == "LSTM" else {})
    data = {key: value for key, value in data.items() if key not in without}
    if is_batch_first:
        data = {key: np.ascontiguousarray(np.swapaxes(value, 0, 1)) for key, value in data.items()}
        want = (want[0].transpose(2, 0, 1, 3), *(np.swapaxes(end, 0, 1) for end in want[1:]))
    constants = dict(tensors) if weights == "constants" else {}
    data |= {} if weights == "constants" else tensors
    data |= {"L": lengths} if kind == "data" else {}
    constants |= {"L": lengths} if kind == "known" else {}
    given = {*data, *constants}
    order = ["X", "W", "R", "B", "L", "H", *(["C", "P"] if operator == "LSTM" else [])]
    names = ["Y", "Yh", "Yc"][: 3 if operator == "LSTM" else 2]
    layer = helper.make_node(
        operator, [key if key in given else "" for key in order], names, hidden_size=HIDDEN, **case
    )  # fmt: skip
    found = run(layer, data, constants, names, opset)
    for got, expected in zip(found, want, strict=False):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


def run(layer, data, constants, names, opset):
    kinds = {np.dtype("float32"): TensorProto.FLOAT, np.dtype("int32"): TensorProto.INT32}
    graph = helper.make_graph(
        [layer], "small",
        [helper.make_tensor_value_info(key, kinds[value.dtype], value.shape) for key, value in data.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), list(data.values()))


def test_the_product_with_the_inputs_is_hoisted_and_the_steps_are_one_task():
    rng = np.random.default_rng(0)
    constants = {"W": rng.standard_normal((1, 4 * HIDDEN, DEPTH)), "R": rng.standard_normal((1, 4 * HIDDEN, HIDDEN))}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R"], ["Y"], hidden_size=HIDDEN)], "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, (STEPS, BATCH, DEPTH))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype("float32"), key) for key, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    products = [task for task in extract(load_model(model)).graph.tasks if hasattr(task.work, "macs")]
    # The first state is known to be 0, and so is its product.
    assert sorted((task.work.macs, task.count) for task in products) == [
        (BATCH * HIDDEN * 4 * HIDDEN, STEPS - 1), (STEPS * BATCH * DEPTH * 4 * HIDDEN, 1)
    ]  # fmt: skip


def lstm(steps):
    rng = np.random.default_rng(0)
    constants = {"W": rng.standard_normal((1, 4 * HIDDEN, DEPTH)), "R": rng.standard_normal((1, 4 * HIDDEN, HIDDEN))}
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["X", "W", "R"], ["Y"], hidden_size=HIDDEN)], "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, (steps, BATCH, DEPTH))],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype("float32"), key) for key, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), constants


def test_a_long_layer_is_as_many_steps_and_counts_them():
    model, constants = lstm(5000)
    found = extract(load_model(model))
    products = [task for task in found.graph.tasks if hasattr(task.work, "macs")]
    assert sorted((task.work.macs, task.count) for task in products) == [
        (BATCH * HIDDEN * 4 * HIDDEN, 5000), (5000 * BATCH * DEPTH * 4 * HIDDEN, 1)
    ]  # fmt: skip
    assert len(found.graph.nodes) < 200
    x = np.random.default_rng(1).standard_normal((5000, BATCH, DEPTH)).astype("float32")
    (got,) = runtime.run(runtime.build(found.mod, "edge-256"), [x])
    h = c = np.zeros((BATCH, HIDDEN))
    for step in range(5000):
        h, c = one_step("LSTM", x[step].astype("float64"), h, c, constants, 0, {})
        np.testing.assert_allclose(got[step, 0], h, rtol=2e-5, atol=2e-5)


def test_two_layers_of_the_same_weights(monkeypatch):
    """Their steps are equal, names and all."""
    as_a_loop(monkeypatch)
    rng = np.random.default_rng(6)
    constants = {key: rng.standard_normal((1, HIDDEN, HIDDEN)).astype("float32") for key in "WR"}
    layers = [helper.make_node("RNN", [x, "W", "R"], [y], name="twin", hidden_size=HIDDEN) for x, y in ("XT", "UY")]
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    x = rng.standard_normal((STEPS, BATCH, HIDDEN)).astype("float32")
    graph = helper.make_graph(
        [layers[0], helper.make_node("Squeeze", ["T", "axes"], ["U"]), layers[1]], "small",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)],
        [axes, *(numpy_helper.from_array(value, key) for key, value in constants.items())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    (got,) = runtime.run(runtime.build(extract(load_model(model)).mod, "edge-256"), [x])
    want = x.astype("float64")
    for _ in range(2):
        h, rows = np.zeros((BATCH, HIDDEN)), []
        for step in want:
            h, _ = one_step("RNN", step, h, None, constants, 0, {})
            rows.append(h)
        want = np.stack(rows)
    np.testing.assert_allclose(got[:, 0], want, rtol=2e-5, atol=2e-5)


def test_more_steps_than_can_run_are_refused_with_both_numbers():
    model, _ = lstm(rounds.MOST_ROUNDS + 1)
    with pytest.raises(ModelError, match=rf"50,001 steps: must be <= {rounds.MOST_ROUNDS:,}"):
        load_model(model)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"direction": "upwards"}, "direction 'upwards'"),
        ({"activations": ["Sigmoid"]}, "1 activations: must be 3"),
        ({"activations": ["Sigmoid", "Tanh", "Tanhh"]}, "activation 'Tanhh': did you mean 'Tanh'"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "Affine: needs activation_alpha and activation_beta"),
    ],
)
def test_a_wrong_attribute_is_named(attributes, said):
    rng = np.random.default_rng(0)
    constants = {"W": rng.standard_normal((1, 4 * HIDDEN, DEPTH)), "R": rng.standard_normal((1, 4 * HIDDEN, HIDDEN))}
    layer = helper.make_node("LSTM", ["X", "W", "R"], ["Y"], name="cell", hidden_size=HIDDEN, **attributes)
    data = {"X": np.zeros((STEPS, BATCH, DEPTH), "float32")}
    with pytest.raises(ModelError, match=rf"small: cannot import: node 'cell' \(operator LSTM\): .*{said}"):
        run(layer, data, {key: value.astype("float32") for key, value in constants.items()}, ["Y"], 14)


def as_bytes(x):
    """(bytes minus their zero point, scale) as DynamicQuantizeLinear defines them."""
    low, high = min(np.float32(0), x.min()), max(np.float32(0), x.max())
    scale = np.float32((high - low) / np.float32(255)) or np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255) - zero, scale


@pytest.mark.parametrize("way", ["written out", "a loop"])
def test_an_lstm_whose_weights_are_bytes(way, monkeypatch):
    if way == "a loop":
        as_a_loop(monkeypatch)
    rng = np.random.default_rng(4)
    w, r = (rng.integers(-127, 128, (1, rows, 4 * HIDDEN)).astype("int8") for rows in (DEPTH, HIDDEN))
    bias = rng.standard_normal((1, 8 * HIDDEN)).astype("float32")
    scale = {"ws": np.array([0.011], "float32"), "rs": np.array([0.013], "float32")}
    x = rng.standard_normal((STEPS, 1, DEPTH)).astype("float32")
    constants = {"W": w, "R": r, "B": bias, "ws": scale["ws"], "wz": np.zeros(1, "int8"), "rs": scale["rs"],
                 "rz": np.zeros(1, "int8")}  # fmt: skip
    layer = helper.make_node(
        "DynamicQuantizeLSTM", ["X", "W", "R", "B", "", "", "", "", "ws", "wz", "rs", "rz"], ["Y"],
        domain="com.microsoft", hidden_size=HIDDEN,
    )  # fmt: skip
    whole, unit = as_bytes(x.reshape(-1, DEPTH))
    inputs = whole @ w[0].astype("float64") * unit * scale["ws"][0] + bias[0, : 4 * HIDDEN] + bias[0, 4 * HIDDEN :]
    h, c = np.zeros((1, HIDDEN), "float32"), np.zeros((1, HIDDEN))
    want = []
    for step in range(STEPS):
        whole, unit = as_bytes(h)
        total = inputs[step] + whole @ r[0].astype("float64") * unit * scale["rs"][0]
        entered, left, kept, new = np.split(total, 4, axis=1)
        c = sigmoid(kept) * c + sigmoid(entered) * np.tanh(new)
        h = (sigmoid(left) * np.tanh(c)).astype("float32")
        want.append(h)
    found = run(layer, {"X": x}, constants, ["Y"], 12)[0]
    # A state within rounding of a half is one step of 1/255 of its range away.
    np.testing.assert_allclose(found.reshape(STEPS, 1, HIDDEN), np.array(want), atol=2e-3)
