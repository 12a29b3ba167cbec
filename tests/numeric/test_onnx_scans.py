"""Loops over sequences (Scan), written out and as steps that run many times, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model, rounds
from tvm_spm.frontend.onnx import scans
from tvm_spm.workload import Workload

FLOAT = TensorProto.FLOAT
node = helper.make_node
RNG = np.random.default_rng(8)
WEIGHT = (RNG.standard_normal((4, 4)) / 4).astype("float32")


def value(name, shape, kind=FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(scan, inputs, outputs, constants=(), *, opset=17, before=()):
    graph = helper.make_graph(
        [*before, scan], "scanned", [value(name, shape) for name, shape in inputs.items()],
        [value(name, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def ran(model, *data):
    found = extract(load_model(model))
    return found, runtime.run(runtime.build(found.mod, "edge-256"), list(data))


@pytest.fixture(params=["written out", "a loop", "a loop of loops"])
def way(request, monkeypatch):
    if request.param != "written out":
        monkeypatch.setattr(scans, "MOST_NODES", 0)
    if request.param == "a loop of loops":
        monkeypatch.setattr(rounds, "MOST_CALLS", 2)
    return request.param


@pytest.mark.parametrize("opset", [9, 12, 17])
def test_states_axes_and_directions(way, opset):
    """Two states, of which one is put out in both ways; a row of columns that runs backwards, and one of rows."""
    body = helper.make_graph(
        [
            node("MatMul", ["s", "w"], ["t"]),
            node("Add", ["t", "p"], ["s_next"]),
            node("Mul", ["c", "q"], ["c_next"]),
            node("Tanh", ["s_next"], ["y"]),
            node("Identity", ["c_next"], ["z"]),
        ], "body",
        [value("s", (2, 4)), value("c", (3,)), value("p", (2, 4)), value("q", (3,))],
        [value("s_next", (2, 4)), value("c_next", (3,)), value("y", (2, 4)), value("z", (3,))],
    )  # fmt: skip
    scan = node(
        "Scan", ["s0", "c0", "ps", "qs"], ["s", "c", "ys", "zs"], name="walk", body=body, num_scan_inputs=2,
        scan_input_axes=[1, 0], scan_input_directions=[1, 0], scan_output_axes=[2, 0], scan_output_directions=[0, 1],
    )  # fmt: skip
    shapes = {"s0": (2, 4), "c0": (3,), "ps": (2, 7, 4), "qs": (7, 3)}
    s, c, ps, qs = data = [RNG.standard_normal(shape).astype("float32") for shape in shapes.values()]
    found, got = ran(model_of(scan, shapes, ["s", "c", "ys", "zs"], {"w": WEIGHT}, opset=opset), *data)
    ys, zs = [], []
    for number in range(7):
        s, c = s @ WEIGHT + ps[:, 6 - number], c * qs[number]
        ys.append(np.tanh(s))
        zs.insert(0, c)
    for one, other in zip(got, [s, c, np.stack(ys, axis=2), np.stack(zs)], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    products = [task for task in found.graph.tasks if isinstance(task.work, Workload)]
    assert [(task.work.macs, task.count) for task in products] == [(2 * 4 * 4, 7)]
    assert not [call for call in found.graph.host_calls if not call.reason.startswith("a view")]


def test_a_body_reads_what_is_computed_around_it_and_only_some_results_are_wanted(way):
    body = helper.make_graph(
        [node("Mul", ["s", "scale"], ["m"]), node("Add", ["m", "p"], ["n"]), node("MatMul", ["n", "w"], ["y"])],
        "body", [value("s", (2, 4)), value("p", (2, 4))], [value("n", (2, 4)), value("y", (2, 4)), value("m", (2, 4))],
    )  # fmt: skip
    scan = node("Scan", ["s0", "ps"], ["", "ys", ""], name="walk", body=body, num_scan_inputs=1)
    before = [node("Sigmoid", ["a"], ["scale"]), node("MatMul", ["a", "b"], ["w"])]
    shapes = {"s0": (2, 4), "ps": (5, 2, 4), "a": (4, 4), "b": (4, 4)}
    model = model_of(scan, {**shapes, "a": (1, 4), "b": (4, 4)}, ["ys"], before=[before[0]])
    model.graph.node.insert(1, node("MatMul", ["b", "b"], ["w"]))
    s, ps, a, b = data = [
        RNG.standard_normal(shape).astype("float32") for shape in [(2, 4), (5, 2, 4), (1, 4), (4, 4)]
    ]  # fmt: skip
    _, (got,) = ran(model, *data)
    want = []
    for p in ps:
        s = s / (1 + np.exp(-a)) + p
        want.append(s @ (b @ b))
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_a_loop_inside_of_a_loop(way):
    """Of every row a running sum along the other axis; the outer state is added to all of it."""
    inner = helper.make_graph(
        [node("Add", ["t", "e"], ["u"]), node("Add", ["u", "s"], ["v"])], "inner",
        [value("t", ()), value("e", ())], [value("u", ()), value("v", ())],
    )  # fmt: skip
    body = helper.make_graph(
        [
            node("Scan", ["zero", "p"], ["sum", "row"], name="inner", body=inner, num_scan_inputs=1),
            node("Add", ["s", "sum"], ["n"]),
        ], "body", [value("s", ()), value("p", (3,))], [value("n", ()), value("row", (3,))],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )  # fmt: skip
    scan = node("Scan", ["s0", "ps"], ["s", "rows"], name="outer", body=body, num_scan_inputs=1)
    s, ps = data = [np.float32(0.5), RNG.standard_normal((4, 3)).astype("float32")]
    _, got = ran(model_of(scan, {"s0": (), "ps": (4, 3)}, ["s", "rows"]), *data)
    rows = []
    for p in ps:
        rows.append(np.cumsum(p) + s)
        s = s + p.sum()
    np.testing.assert_allclose(got[0], s, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], rows, rtol=1e-5, atol=1e-6)


def test_an_odd_operator_of_a_body_alone_stays_on_the_host(monkeypatch):
    monkeypatch.setattr(scans, "MOST_NODES", 0)
    body = helper.make_graph(
        [node("MatMul", ["s", "w"], ["t"]), node("Add", ["t", "p"], ["u"]), node("Det", ["u"], ["d"]),
         node("Tanh", ["u"], ["n"])], "body",
        [value("s", (4, 4)), value("p", (4, 4))], [value("n", (4, 4)), value("d", ())],
    )  # fmt: skip
    scan = node("Scan", ["s0", "ps"], ["s", "ds"], name="walk", body=body, num_scan_inputs=1)
    model = model_of(scan, {"s0": (4, 4), "ps": (6, 4, 4)}, ["s", "ds"], {"w": WEIGHT})
    s, ps = data = [RNG.standard_normal(shape).astype("float32") for shape in [(4, 4), (6, 4, 4)]]
    found, got = ran(model, *data)
    ds = []
    for p in ps:
        ds.append(np.linalg.det(s @ WEIGHT + p))
        s = np.tanh(s @ WEIGHT + p)
    np.testing.assert_allclose(got[0], s, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], ds, rtol=1e-4, atol=1e-5)
    left = [call for call in found.graph.host_calls if not call.reason.startswith("a view")]
    assert [call.name for call in left] == ["onnx.Det"]
    assert left[0].reason.endswith("(in each of 6 rounds)")


def test_rows_whose_shape_follows_only_inside_of_the_body(way):
    """ONNX infers no shape through a Reshape to a computed shape; what comes behind the loop needs none."""
    body = helper.make_graph(
        [node("Add", ["s", "p"], ["n"]), node("Concat", ["two", "minus"], ["shape"], axis=0),
         node("Reshape", ["n", "shape"], ["y"])],
        "body", [value("s", (4,)), value("p", (4,))], [value("n", (4,)), value("y", None)],
    )  # fmt: skip
    scan = node("Scan", ["s0", "ps"], ["s", "ys"], name="walk", body=body, num_scan_inputs=1)
    constants = {"two": np.array([2], np.int64), "minus": np.array([-1], np.int64)}
    model = model_of(scan, {"s0": (4,), "ps": (5, 4)}, ["s", "zs"], constants)
    model.graph.node.append(node("Exp", ["ys"], ["zs"]))
    s, ps = data = [RNG.standard_normal(shape).astype("float32") for shape in [(4,), (5, 4)]]
    _, got = ran(model, *data)
    sums = s + np.cumsum(ps, axis=0)
    np.testing.assert_allclose(got[0], sums[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], np.exp(sums).reshape(5, 2, 2), rtol=1e-5, atol=1e-6)


def test_a_scan_of_opset_8_is_named():
    body = helper.make_graph(
        [node("Add", ["s", "p"], ["n"]), node("Identity", ["n"], ["y"])], "body",
        [value("s", (2,)), value("p", (2,))], [value("n", (2,)), value("y", (2,))],
    )  # fmt: skip
    scan = node("Scan", ["", "s0", "ps"], ["s", "ys"], name="walk", body=body, num_scan_inputs=1)
    model = model_of(scan, {"s0": (1, 2), "ps": (1, 3, 2)}, ["s", "ys"], opset=8)
    with pytest.raises(ModelError, match=r"operator Scan of opset 8: must be >= 9; convert the model"):
        load_model(model)
