"""Networks of bytes compute what scales and roundings by hand give."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.relax.frontend import nn

from tvm_spm.deploy import runtime
from tvm_spm.deploy.verify.compare import verify_task
from tvm_spm.frontend import extract, load_model, random_inputs
from tvm_spm.frontend.models.blocks import Layers, Residual, conv, mean_pool, relu, silu
from tvm_spm.frontend.models.integers import as_integers
from tvm_spm.workload import Workload

STEP = 2.0**-5
"""127 steps for 4 deviations of 1, to the nearest power of two: 4 / 127 = 2 ** -4.99."""


def network(module: nn.Module, *shape: int) -> tvm.IRModule:
    spec = nn.spec.MethodSpec(module.forward, ["data"], [nn.spec.Tensor(list(shape), "float32")], "plain", "none")
    mod, _ = module.export_tvm({"forward": spec})
    return as_integers(tvm.IRModule({"main": mod["forward"].with_attr("global_symbol", "main")}))


def run(mod: tvm.IRModule, data: list[np.ndarray]) -> list[np.ndarray]:
    return runtime.run(runtime.build(extract(mod).mod, "edge-256"), data)


def bytes_of(real: np.ndarray, step: float) -> np.ndarray:
    """Rounded to the nearest step, halves to even."""
    return np.clip(np.rint(real.astype(np.float32) * np.float32(1 / step)), -128, 127).astype(np.int64)


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.clip(np.rint(rng.standard_normal(shape) * 32), -128, 127).astype(np.int8)


def kinds(mod: tvm.IRModule) -> list[tuple[str, str, str, str]]:
    works = [task.work for task in extract(mod).graph.tasks if isinstance(task.work, Workload)]
    return [(work.I.dtype, work.W.dtype, work.O.dtype, work.out_dtype) for work in works]


def test_two_products():
    mod = network(Layers(nn.Linear(16, 24), relu, nn.Linear(24, 4)), 2, 16)
    rng = np.random.default_rng(0)
    x, w, v = drawn(rng, 2, 16), drawn(rng, 24, 16), drawn(rng, 4, 24)
    b, c = rng.integers(-3000, 3000, 24).astype("int32"), rng.integers(-3000, 3000, 4).astype("int32")
    sums = np.maximum(x.astype(np.int64) @ w.astype(np.int64).T + b, 0)
    # A weight keeps deviations: its step is that of deviation 1 over the root of the terms. Behind a ReLU 0.7 is left.
    step = 2.0 ** round(math.log2(4 * 0.7 / 127))
    hidden = bytes_of(sums.astype(np.float32) * np.float32(STEP * STEP / 4), step)
    want = (hidden @ v.astype(np.int64).T + c) * (step * STEP / math.sqrt(24))
    np.testing.assert_allclose(run(mod, [x, w, b, v, c])[0], want, rtol=1e-6)
    assert 16 < np.unique(hidden).size
    assert kinds(mod) == [("int8", "int8", "int32", "int8"), ("int8", "int8", "int32", "float32")]


def test_a_residual_is_added_in_the_scale_it_has():
    mod = network(Layers(Residual(Layers(conv(4, 4, 1)), None, relu), conv(4, 4, 1)), 1, 4, 3, 3)
    rng = np.random.default_rng(1)
    x, w, v = drawn(rng, 1, 4, 3, 3), drawn(rng, 4, 4, 1, 1), drawn(rng, 4, 4, 1, 1)
    zero = np.zeros(4, np.int32)

    def layer(data: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return np.einsum("nchw,kc->nkhw", data.astype(np.int64), weight[:, :, 0, 0].astype(np.int64))

    total = np.maximum(layer(x, w) * (STEP * STEP / 2) + x * STEP, 0)
    # Deviations 1 and 1 add up to the root of 2, of which a ReLU leaves 0.7.
    step = 2.0 ** round(math.log2(4 * 0.7 * math.sqrt(2) / 127))
    want = layer(bytes_of(total, step), v) * (step * STEP / 2)
    np.testing.assert_allclose(run(mod, [x, w, zero, v, zero])[0], want, rtol=1e-6)
    assert kinds(mod)[0] == ("int8", "int8", "int32", "int8")


def test_a_mean_reads_and_writes_bytes():
    mod = network(Layers(mean_pool, nn.Linear(8, 4, bias=False)), 1, 8, 5, 5)
    rng = np.random.default_rng(2)
    x, w = drawn(rng, 1, 8, 5, 5), drawn(rng, 4, 8)
    step = 2.0 ** round(math.log2(4 * 0.7 / 127))
    mean = bytes_of((x * STEP).astype(np.float32).sum((2, 3)) / np.float32(25), step)
    want = (mean @ w.astype(np.int64).T) * (step * STEP / math.sqrt(8))
    np.testing.assert_allclose(run(mod, [x, w])[0], want, rtol=1e-6)
    (work,) = [task.work for task in extract(mod).graph.tasks if not isinstance(task.work, Workload)]
    assert (work.read_bytes, work.write_bytes) == (200, 8)


def test_numbers_do_not_vanish_behind_many_smooth_activations():
    layers = [step for _ in range(16) for step in (conv(16, 16, 1), silu)]
    mod = network(Layers(*layers, conv(16, 16, 1)), 1, 16, 8, 8)
    (out,) = run(mod, random_inputs(mod, np.random.default_rng(0)))
    # Half of a small number is left behind each; were it taken for 0.7, the last layer would read zeros.
    assert np.unique(out).size > 200


@pytest.mark.parametrize("name", ["llama_layer", "lstm", "mobilenet_v2", "resnet18", "vit_b16"])
def test_built_in_networks_are_integer_from_end_to_end(name: str):
    mod = load_model(name, dtype="int8")
    *inner, last = kinds(mod)
    assert set(inner) == {("int8", "int8", "int32", "int8")}
    assert last == ("int8", "int8", "int32", "float32")
    graphs = [extract(each).graph for each in (mod, load_model(name))]
    macs = [sum(task.count * task.work.macs for task in graph.tasks if hasattr(task.work, "macs")) for graph in graphs]
    assert macs[0] == macs[1]


def test_bytes_are_drawn_around_the_middle_of_their_range():
    for dtype, middle in (("int8", 0), ("uint8", 128)):
        x = nn.Tensor.placeholder([64, 64], dtype)
        mod = tvm.IRModule({"main": tvm.relax.Function([x._expr], x._expr, x._expr.ty)})
        (array,) = random_inputs(mod, np.random.default_rng(0))
        assert abs(float(array.mean()) - middle) < 2
        assert 30 < float(array.std()) < 33


def requantised(terms: int, taken: int, scale: float) -> tvm.tirx.PrimFunc:
    """A product of bytes, of ``taken`` of its terms, as bytes again."""
    x, w = te.placeholder((8, terms), "int8", "x"), te.placeholder((8, terms), "int8", "w")
    k = te.reduce_axis((0, terms), "k")

    def term(i: tvm.tirx.Var, j: tvm.tirx.Var) -> tvm.tirx.PrimExpr:
        whole = x[i, k].astype("int32") * w[j, k].astype("int32")
        return whole if taken == terms else tvm.tirx.if_then_else(k < taken, whole, 0)

    sums = te.compute((8, 8), lambda i, j: te.sum(term(i, j), k), name="sums")

    def rounded(i: tvm.tirx.Var, j: tvm.tirx.Var) -> tvm.tirx.PrimExpr:
        whole = tvm.tirx.nearbyint(sums[i, j].astype("float32") * tvm.tirx.const(scale, "float32"))
        return tvm.tirx.max(tvm.tirx.min(whole, tvm.tirx.const(127.0)), tvm.tirx.const(-128.0)).astype("int8")

    return te.create_prim_func([x, w, te.compute((8, 8), rounded, name="rounded")])


@pytest.mark.parametrize("scale", [3e-4, 0.25], ids=["small numbers vanish", "large numbers saturate"])
def test_a_lost_term_shows_through_the_rounding_to_bytes(scale: float):
    right, wrong = requantised(64, 64, scale), requantised(64, 60, scale)
    assert verify_task(right, right, rng=np.random.default_rng(0)).passed
    assert not verify_task(right, wrong, rng=np.random.default_rng(0)).passed
