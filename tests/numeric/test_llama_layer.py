"""The built-in Llama layer against its formula, in numpy: a prompt, and a token after others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_spm.frontend.inputs import random_inputs
from tvm_spm.frontend.models import build_model


def ran(mod, arrays):
    machine = relax.VirtualMachine(relax.build(mod, "llvm"), tvm.cpu())
    out = machine["main"](*[tvm.runtime.tensor(array) for array in arrays])
    return [out.numpy()] if hasattr(out, "numpy") else [each.numpy() for each in out]


def normalised(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def rotated(x, first):
    """Numbers d and d + 32 of a head are the parts of one complex number, turned by position x wave."""
    tokens = x.shape[0]
    angle = (first + np.arange(tokens))[:, None] * 500_000.0 ** (-np.arange(32) / 32)
    turned = (x[..., :32] + 1j * x[..., 32:]) * np.exp(1j * angle)[:, None]
    return np.concatenate([turned.real, turned.imag], -1)


def layer(x, past_keys, past_values, weights):
    """Tokens x 2048; past keys and values are heads x tokens x 64."""
    before, behind = (weights[name] for name in ("before.weight", "behind.weight"))
    normal = normalised(x, before)
    q, k, v = (
        (normal @ weights[f"{name}.weight"].T).reshape(len(x), heads, 64)
        for name, heads in (("q", 32), ("k", 8), ("v", 8))
    )
    first = past_keys.shape[1]
    q, k = rotated(q, first), rotated(k, first)
    keys, values = (np.concatenate([past, new.swapaxes(0, 1)], 1) for past, new in ((past_keys, k), (past_values, v)))
    found = np.empty((len(x), 32, 64))
    for head in range(32):
        scores = q[:, head] @ keys[head // 4].T / math.sqrt(64)
        scores[np.arange(keys.shape[1]) > first + np.arange(len(x))[:, None]] = -np.inf
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        found[:, head] = shares / shares.sum(-1, keepdims=True) @ values[head // 4]
    x = x + found.reshape(len(x), 2048) @ weights["out.weight"].T
    inner = normalised(x, behind)
    gate, up = (inner @ weights[f"{name}.weight"].T for name in ("gate", "up"))
    return x + (gate / (1 + np.exp(-gate)) * up) @ weights["down.weight"].T, k, v


@pytest.mark.parametrize(("name", "shapes"), [("llama_layer", {"data": (1, 5, 2048)}), ("llama_layer_decode", {})])
def test_it_is_the_formula(name, shapes):
    mod = build_model(name, shapes)
    arrays = random_inputs(mod, np.random.default_rng(3))
    params = [param.name for param in mod["main"].params]
    weights = {name: array.astype("float64") for name, array in zip(params, arrays, strict=True)}
    nothing = np.zeros((1, 8, 0, 64))
    past = [weights.get(f"past_{kind}", nothing)[0] for kind in ("key", "value")]
    wanted, key, value = layer(weights["data"][0], *past, weights)
    out, *new = ran(mod, arrays)
    np.testing.assert_allclose(out[0], wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())
    for found, expected in zip(new, (key, value), strict=False):
        np.testing.assert_allclose(found[0].swapaxes(0, 1), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert len(new) == (2 if past[0].shape[1] else 0)


def test_its_integers_stay_near_its_numbers():
    """Every tensor of 8 bits is off by a few percent of its spread; wrong scales or a wrong half are off by all."""
    shapes = {"data": (1, 5, 2048)}
    whole, mod = (build_model("llama_layer", shapes, dtype=dtype) for dtype in ("float32", "int8"))
    arrays = random_inputs(mod, np.random.default_rng(3))
    (found,) = ran(mod, arrays)
    # 0.03125 of 4 deviations in 127 steps; weights have the deviation of one over the root of the terms.
    numbers = [
        array * (0.03125 / math.sqrt(array.shape[1]) if array.ndim == 2 else 0.03125)
        if array.dtype == np.int8
        else array
        for array in arrays
    ]
    (wanted,) = ran(whole, [array.astype("float32") for array in numbers])
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99
    assert found.std() == pytest.approx(wanted.std(), rel=0.05)
