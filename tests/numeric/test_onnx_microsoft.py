"""Operators that onnxruntime adds to ONNX's own, against what numpy makes of their definitions."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.attention import find_attention

HEADS, SHARED, DEPTH = 4, 2, 8
WIDE, NARROW = HEADS * DEPTH, SHARED * DEPTH
LOWEST = float(np.finfo("float32").min)


def normal(*shape, seed=7):
    return np.random.default_rng(seed + len(shape)).standard_normal(shape).astype("float32")


def node(operator, inputs, outputs, domain="com.microsoft", **attributes):
    return helper.make_node(operator, inputs, outputs, domain=domain, name=f"the {operator}", **attributes)


def loaded(nodes, data, outputs, constants=(), opset=17):
    graph = helper.make_graph(
        nodes, "own",
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
         for name, array in data.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in dict(constants).items()],
    )  # fmt: skip
    opsets = [
        helper.make_opsetid("", opset),
        helper.make_opsetid("com.microsoft", 1),
        helper.make_opsetid("ai.onnx.ml", 3),
    ]
    return extract(load_model(helper.make_model(graph, opset_imports=opsets, ir_version=10)))


def check(nodes, data, want, constants=(), opset=17, num_attentions=0):
    """Sums of up to some hundred terms of size 1, each rounded once: a few hundred units of the last place."""
    found = loaded(nodes, data, want, constants, opset)
    got = runtime.run(runtime.build(found.mod, "edge-256"), list(data.values()))
    for name, one in zip(want, got, strict=True):
        assert one.dtype == want[name].dtype, name
        within = 512 * np.finfo("float32").eps if one.dtype.kind == "f" else 0
        np.testing.assert_allclose(one, want[name], rtol=within, atol=within, err_msg=name)
    assert len(find_attention(found.mod)[0]) == num_attentions
    return found


def erf(x):
    return np.vectorize(math.erf)(x.astype("float64"))


def gelu(x):
    return (0.5 * x * (1 + erf(x / math.sqrt(2)))).astype("float32")


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def layer_norm(x, scale, bias, epsilon, axes=-1):
    wide = x.astype("float64")
    mean, deviation = wide.mean(axes, keepdims=True), np.sqrt(wide.var(axes, keepdims=True) + epsilon)
    found = [(wide - mean) / deviation * scale + bias, mean, 1 / deviation]
    return [each.astype("float32") for each in found]


def rms_norm(x, scale, epsilon):
    return (x / np.sqrt((x.astype("float64") ** 2).mean(-1, keepdims=True) + epsilon) * scale).astype("float32")


def heads(x, count):
    return x.reshape(*x.shape[:2], count, -1).transpose(0, 2, 1, 3)


def attention(q, k, v, mask=0.0, scale=None, softcap=0.0, sink=None):
    """Of heads; those of keys and values are copied."""
    k, v = (np.repeat(each, q.shape[1] // each.shape[1], 1).astype("float64") for each in (k, v))
    scores = q.astype("float64") @ k.swapaxes(2, 3) * (scale or 1 / math.sqrt(q.shape[-1]))
    scores = softcap * np.tanh(scores / softcap) if softcap else scores
    scores = scores + mask
    if sink is not None:
        column = np.broadcast_to(np.reshape(sink, (1, -1, 1, 1)), (*scores.shape[:-1], 1))
        weights = softmax(np.concatenate([scores, column], -1))[..., :-1]
    else:
        weights = softmax(scores)
    found = (weights @ v).transpose(0, 2, 1, 3)
    return found.reshape(*found.shape[:2], -1).astype("float32")


def causal(rows, keys):
    return np.where(np.arange(keys) > np.arange(rows)[:, None] + keys - rows, LOWEST, 0)


def test_activations_and_layers_with_one_behind_them():
    x, b, w, z, image, kernel = (
        normal(2, 3, 8), normal(8), normal(8, 5), normal(1, 4, 6, 6), normal(1, 3, 8, 8), normal(4, 3, 3, 3),
    )  # fmt: skip
    nodes = [
        node("Gelu", ["x"], ["gelu"]), node("BiasGelu", ["x", "b"], ["bias gelu"]),
        node("FastGelu", ["x", "b"], ["fast gelu"]), node("QuickGelu", ["x"], ["quick gelu"], alpha=1.5),
        node("BiasSplitGelu", ["x", "b"], ["split gelu"]),
        node("FusedGemm", ["m", "w"], ["gemm"], activation="LeakyRelu", activation_alpha=0.2),
        node("FusedConv", ["image", "kernel", "", "z"], ["conv"], activation="Clip", activation_params=[-0.5, 0.5]),
    ]  # fmt: skip
    y, linear = x + b, math.sqrt(2 / math.pi)
    product = normal(4, 8) @ w
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3), (2, 3))
    want = {
        "gelu": gelu(x), "bias gelu": gelu(y),
        "fast gelu": 0.5 * y * (1 + np.tanh(linear * (y + 0.044715 * y**3))),
        "quick gelu": x / (1 + np.exp(-1.5 * x)), "split gelu": y[..., :4] * gelu(y[..., 4:]),
        "gemm": np.where(product > 0, product, 0.2 * product),
        "conv": np.clip(np.einsum("nchwij,kcij->nkhw", windows, kernel) + z, -0.5, 0.5),
    }  # fmt: skip
    data = {"x": x, "m": normal(4, 8), "image": image, "z": z}
    check(nodes, data, {name: array.astype("float32") for name, array in want.items()},
          {"b": b, "w": w, "kernel": kernel})  # fmt: skip


def test_products_of_matrices_that_are_turned():
    a, b, c, w = normal(2, 5, 3), normal(2, 4, 5), normal(5, 2, 3, seed=9), normal(4, 3)
    nodes = [
        node("FusedMatMul", ["a", "b"], ["both"], transA=1, transB=1, alpha=0.3),
        node("FusedMatMul", ["a", "w"], ["weights"], transB=1),
        node("FusedMatMul", ["c", "a"], ["batch"], transBatchA=1, transA=1),
    ]
    want = {"both": 0.3 * a.swapaxes(1, 2) @ b.swapaxes(1, 2), "weights": a @ w.T}
    # The first axis of c comes behind its batch of 2, and then behind its columns.
    want["batch"] = c.transpose(1, 2, 0) @ a
    check(nodes, {"a": a, "b": b, "c": c}, {name: array.astype("float32") for name, array in want.items()}, {"w": w})


@pytest.mark.parametrize("opset", [11, 18])
def test_normalisations_with_a_sum_before_them(opset):
    x, skip, scale, bias, more = normal(2, 3, 8), normal(1, 3, 8, seed=3), normal(8), normal(8, seed=4), normal(8)
    nodes = [
        node("SkipLayerNormalization", ["x", "skip", "scale", "bias", "more"], ["y", "mean", "inverse", "sum"],
             epsilon=1e-3),
        node("SkipLayerNormalization", ["x", "x", "scale"], ["double"]),
        node("SkipSimplifiedLayerNormalization", ["x", "skip", "scale"], ["rms", "", "", "rms sum"]),
        node("SimplifiedLayerNormalization", ["x", "scale"], ["plain rms"], domain="", epsilon=1e-3),
        node("LayerNormalization", ["x", "wide scale", "wide bias"], ["plain", "plain mean", "plain inverse"],
             domain="", axis=1),
    ]  # fmt: skip
    constants = {"scale": scale, "bias": bias, "more": more, "wide scale": normal(3, 8), "wide bias": normal(3, 8)}
    total = x + skip
    y, mean, inverse = layer_norm(total + more, scale, bias, 1e-3)
    plain = layer_norm(x, normal(3, 8), normal(3, 8), 1e-5, axes=(1, 2))
    want = {
        "y": y, "mean": mean, "inverse": inverse, "sum": total + more, "double": layer_norm(x + x, scale, 0, 1e-12)[0],
        "rms": rms_norm(total, scale, 1e-12), "rms sum": total, "plain rms": rms_norm(x, scale, 1e-3),
        "plain": plain[0], "plain mean": plain[1], "plain inverse": plain[2],
    }  # fmt: skip
    check(nodes, {"x": x, "skip": skip}, want, constants, opset)


def test_rows_of_small_numbers_are_normalised_with_the_default_of_their_operator():
    x, scale, bias = normal(2, 3, 8) / 1000, normal(8), normal(8, seed=4)
    words, kinds = normal(9, 8) / 1000, normal(6, 8, seed=5) / 1000
    nodes = [
        node("SkipLayerNormalization", ["x", "x", "scale", "bias"], ["skip"]),
        node("SkipSimplifiedLayerNormalization", ["x", "x", "scale"], ["skip rms"]),
        node("EmbedLayerNormalization", ["ids", "", "words", "kinds", "", "scale", "bias"], ["rows", ""]),
        node("LayerNormalization", ["x", "scale", "bias"], ["plain"], domain=""),
        node("SimplifiedLayerNormalization", ["x", "scale"], ["rms"], domain=""),
    ]
    ids = np.array([[1, 0, 8, 3]], "int32")
    want = {
        "skip": layer_norm(x + x, scale, bias, 1e-12)[0], "skip rms": rms_norm(x + x, scale, 1e-12),
        "rows": layer_norm(words[ids] + kinds[:4], scale, bias, 1e-12)[0],
        "plain": layer_norm(x, scale, bias, 1e-5)[0], "rms": rms_norm(x, scale, 1e-5),
    }  # fmt: skip
    check(nodes, {"x": x, "ids": ids}, want, {"scale": scale, "bias": bias, "words": words, "kinds": kinds}, 18)


def test_embeddings_that_end_in_a_normalisation():
    rng = np.random.default_rng(2)
    ids, segments = rng.integers(0, 9, (2, 4)).astype("int32"), rng.integers(0, 2, (2, 4)).astype("int32")
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], "int32")
    words, places, kinds, scale, bias = normal(9, 8), normal(6, 8), normal(2, 8), normal(8), normal(8, seed=4)
    inputs = ["ids", "segments", "words", "places", "kinds", "scale", "bias", "mask"]
    total = words[ids] + places[:4] + kinds[segments]
    want = {"y": layer_norm(total, scale, bias, 1e-12)[0], "count": mask.sum(1).astype("int32"), "sum": total}
    check(
        [node("EmbedLayerNormalization", inputs, ["y", "count", "sum"], epsilon=1e-12)],
        {"ids": ids, "segments": segments, "mask": mask}, want,
        {"words": words, "places": places, "kinds": kinds, "scale": scale, "bias": bias},
    )  # fmt: skip


def test_normalisation_of_groups_of_channels():
    x, skip, scale, bias = normal(1, 3, 4, 8), normal(1, 8), normal(8), normal(8, seed=4)
    nodes = [
        node("GroupNorm", ["x", "scale", "bias"], ["y"], groups=4, activation=1),
        node("SkipGroupNorm", ["x", "scale", "bias", "skip"], ["z", "sum"], groups=2),
    ]

    def grouped(x, groups):
        wide = x.astype("float64").reshape(1, 12, groups, -1)
        found = (wide - wide.mean((1, 3), keepdims=True)) / np.sqrt(wide.var((1, 3), keepdims=True) + 1e-5)
        return found.reshape(x.shape) * scale + bias

    y, total = grouped(x, 4), x + skip
    want = {"y": y / (1 + np.exp(-y)), "z": grouped(total, 2), "sum": total}
    check(nodes, {"x": x, "skip": skip}, {name: array.astype("float32") for name, array in want.items()},
          {"scale": scale, "bias": bias})  # fmt: skip


MASKS = {
    "none": (None, 0.0),
    "keys": (np.array([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]], "int32"), None),
    "ends": (np.array([4, 3], "int32"), np.array([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]])[:, None, None] * -10_000.0),
    "ends and starts": (
        np.array([4, 3, 1, 0], "int32"), np.array([[1, 0, 0, 0, 1], [0, 0, 0, 1, 1]])[:, None, None] * -10_000.0,
    ),
    "rows": (np.random.default_rng(1).integers(0, 2, (2, 5, 5)).astype("int32"), None),
}  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
def test_attention_of_a_sequence_with_itself(mask):
    given, added = MASKS[mask]
    if added is None:
        added = np.where((given if given.ndim == 3 else given[:, None]) > 0, 0.0, -10_000.0)[:, None]
    x, w, b, past = normal(2, 5, 16), 0.3 * normal(16, 3 * WIDE), normal(3 * WIDE), normal(2, 2, HEADS, 3, DEPTH)
    is_plain = mask == "none"
    inputs = ["x", "w", "b", "" if given is None else "mask", "past"] if is_plain else ["x", "w", "b", "mask"]
    found = node("Attention", inputs, ["y", "present"], num_heads=HEADS, unidirectional=int(is_plain))
    q, k, v = (heads(part, HEADS) for part in np.split(x @ w + b, 3, -1))
    data = {"x": x}
    if is_plain:
        data["past"] = past
        k, v = np.concatenate([past[0], k], 2), np.concatenate([past[1], v], 2)
        added = causal(5, 8)
    else:
        data["mask"] = given
    want = {"y": attention(q, k, v, added), "present": np.stack([k, v])}
    check([found], data, want, {"w": w, "b": b}, num_attentions=1)


def test_quantised_attention():
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (1, 5, 16)).astype("uint8"), rng.integers(-99, 99, (16, 3 * WIDE)).astype("int8")
    scale, b = rng.uniform(0.001, 0.01, 3 * WIDE).astype("float32"), normal(3 * WIDE)
    inputs = ["x", "w", "b", "xs", "ws", "", "xz", "wz"]
    sums = ((x.astype(int) - 120) @ w.astype(int)).astype("float32")
    parts = np.split(sums * (np.float32(0.02) * scale) + b, 3, -1)
    check(
        [node("QAttention", inputs, ["y"], num_heads=HEADS)], {"x": x},
        {"y": attention(*(heads(part, HEADS) for part in parts))},
        {"w": w, "b": b, "xs": np.float32(0.02), "ws": scale, "xz": np.uint8(120), "wz": np.zeros(3 * WIDE, "int8")},
        num_attentions=1,
    )  # fmt: skip


def test_attention_of_many_heads_in_all_layouts():
    q, k, v, b = normal(2, 5, WIDE), normal(2, 7, WIDE), normal(2, 7, WIDE, seed=3), normal(3 * WIDE)
    past, other, score = normal(2, HEADS, 3, DEPTH), normal(2, HEADS, 3, DEPTH, seed=4), normal(1, HEADS, 5, 7)
    seen = np.random.default_rng(1).integers(0, 2, (2, 7)).astype("int32")
    packed, pair = normal(2, 5, HEADS, 3, DEPTH), normal(2, 7, HEADS, 2, DEPTH)
    nodes = [
        node("MultiHeadAttention", ["q", "k", "v", "b", "seen"], ["masked"], num_heads=HEADS),
        node("MultiHeadAttention", ["q", "k", "v", "", "", "score"], ["scored"], num_heads=HEADS, scale=0.2),
        node("MultiHeadAttention", ["q", "k", "v", "", "", "", "past", "other"], ["cached", "keys", "values"],
             num_heads=HEADS, unidirectional=1),
        node("MultiHeadAttention", ["packed"], ["packed out"], num_heads=HEADS),
        node("MultiHeadAttention", ["q", "pair"], ["pair out"], num_heads=HEADS),
        node("MultiHeadAttention", ["q", "hk", "hv"], ["heads out"], num_heads=HEADS),
    ]  # fmt: skip
    bq, bk, bv = np.split(b, 3)
    hq, hk, hv = (heads(each, HEADS) for each in (q, k, v))
    keys, values = np.concatenate([past, hk], 2), np.concatenate([other, hv], 2)
    turned = [packed[:, :, :, part].swapaxes(1, 2) for part in range(3)]
    want = {
        "masked": attention(*(heads(each, HEADS) for each in (q + bq, k + bk, v + bv)),
                            np.where(seen > 0, 0.0, -10_000.0)[:, None, None]),
        "scored": attention(hq, hk, hv, score, scale=0.2), "cached": attention(hq, keys, values, causal(5, 10)),
        "keys": keys, "values": values, "packed out": attention(*turned),
        "pair out": attention(hq, *(pair[:, :, :, part].swapaxes(1, 2) for part in range(2))),
        "heads out": attention(hq, hk, hv),
    }  # fmt: skip
    data = {"q": q, "k": k, "v": v, "seen": seen, "score": score, "past": past, "other": other, "packed": packed,
            "pair": pair, "hk": hk, "hv": hv}  # fmt: skip
    check(nodes, data, want, {"b": b}, num_attentions=6)


ANGLES = normal(16, DEPTH // 2)


def rotated(x, places, is_near):
    """Pairs as complex numbers times one of length 1; ``places`` are (batch, rows)."""
    turn = np.exp(1j * ANGLES.astype("float64"))[places][:, None]
    half = DEPTH // 2
    first, second = (x[..., :DEPTH:2], x[..., 1:DEPTH:2]) if is_near else (x[..., :half], x[..., half : 2 * half])
    pairs = (first + 1j * second) * turn
    found = np.stack([pairs.real, pairs.imag], -1).reshape(*pairs.shape[:-1], -1)
    if not is_near:
        found = np.concatenate([pairs.real, pairs.imag], -1)
    return np.concatenate([found, x[..., DEPTH:]], -1).astype("float32")


TABLES = {"cos": np.cos(ANGLES), "sin": np.sin(ANGLES)}


@pytest.mark.parametrize("is_near", [False, True])
def test_rotation_by_place(is_near):
    x, places, wide = normal(2, 3, WIDE), np.array([[0, 1, 2], [4, 9, 6]]), normal(2, 3, 2 * WIDE)
    kept = {"interleaved": int(is_near)}
    nodes = [
        node("RotaryEmbedding", ["x", "places", "cos", "sin"], ["rows"], **kept),
        node("RotaryEmbedding", ["h", "first", "cos", "sin"], ["heads"], **kept),
        node("RotaryEmbedding", ["wide", "places", "cos", "sin"], ["part"], num_heads=HEADS,
             rotary_embedding_dim=DEPTH, **kept),
    ]  # fmt: skip

    def rows(x):
        return x.swapaxes(1, 2).reshape(2, 3, -1)

    counted = np.arange(5, 8)[None]
    want = {
        "rows": rows(rotated(heads(x, HEADS), places, is_near)), "heads": rotated(heads(x, HEADS), counted, is_near),
        "part": rows(rotated(heads(wide, HEADS), places, is_near)),
    }  # fmt: skip
    data = {"x": x, "places": places, "h": heads(x, HEADS), "wide": wide}
    check(nodes, data, want, {**TABLES, "first": np.array([5])})


CACHES = {
    "first tokens": (1, 5, 0, 5, [4], True),
    "packed": (1, 5, 0, 5, [4], True),
    "next token": (1, 1, 6, 7, [6], True),
    "next token, the data says where": (1, 1, 6, 7, [4], False),
    "a cache of fixed length": (1, 1, 8, 6, [5], True),
    "some tokens": (1, 3, 6, 9, [8], True),
    "sequences of other lengths": (2, 1, 6, 7, [6, 3], False),
}


@pytest.mark.parametrize("name", CACHES)
def test_grouped_attention_over_a_cache(name):
    batch, rows, stored, total, last, is_known = CACHES[name]
    q, k, v = normal(batch, rows, WIDE), normal(batch, rows, NARROW), normal(batch, rows, NARROW, seed=3)
    pk, pv = normal(batch, SHARED, stored, DEPTH), normal(batch, SHARED, stored, DEPTH, seed=4)
    starts = [0] * batch if total == rows else [end + 1 - rows for end in last]
    places = np.array(starts)[:, None] + np.arange(rows)
    data, constants = {"q": q, "k": k, "v": v}, {**TABLES, "total": np.array([total], "int32")}
    inputs = ["q", "k", "v", "pk" if stored else "", "pv" if stored else "", "last", "total", "cos", "sin"]
    if name == "packed":
        data, inputs[:3] = {"q": np.concatenate([q, k, v], -1)}, ["q", "", ""]
    if stored:
        data |= {"pk": pk, "pv": pv}
    (constants if is_known else data)["last"] = np.array(last, "int32")
    keys, values = (np.zeros((batch, SHARED, max(stored, total), DEPTH), "float32") for _ in range(2))
    new_keys = rotated(heads(k, SHARED), places, False)
    hidden = np.zeros((batch, 1, rows, total))
    for one, start in enumerate(starts):
        for all_rows, old, new in ((keys, pk, new_keys), (values, pv, heads(v, SHARED))):
            all_rows[one, :, :start], all_rows[one, :, start : start + rows] = old[one, :, :start], new[one]
        hidden[one, 0] = np.where(np.arange(total) > start + np.arange(rows)[:, None], LOWEST, 0)
    query = rotated(heads(q, HEADS), places, False)
    want = {"y": attention(query, keys[:, :, :total], values[:, :, :total], hidden), "keys": keys, "values": values}
    layer = node("GroupQueryAttention", inputs, [*want], num_heads=HEADS, kv_num_heads=SHARED, do_rotary=1)
    check([layer], data, want, constants, num_attentions=1)


def test_windows_caps_and_sinks_of_grouped_attention():
    q, k, v = normal(1, 5, WIDE), normal(1, 5, NARROW), normal(1, 5, NARROW, seed=3)
    common = ["q", "k", "v", "", "", "last", "total"]
    kept = {"num_heads": HEADS, "kv_num_heads": SHARED}
    nodes = [
        node("GroupQueryAttention", common, ["window"], local_window_size=2, **kept),
        node("GroupQueryAttention", common, ["cap"], softcap=2.0, **kept),
        node("GroupQueryAttention", common, ["smooth"], smooth_softmax=1, **kept),
        node("GroupQueryAttention", [*common, "", "", "", "", "sink"], ["sinks"], **kept),
    ]
    far = np.where(np.arange(5) <= np.arange(5)[:, None] - 2, LOWEST, 0)
    hq, hk, hv, mask = heads(q, HEADS), heads(k, SHARED), heads(v, SHARED), causal(5, 5)
    want = {
        "window": attention(hq, hk, hv, mask + far), "cap": attention(hq, hk, hv, mask, softcap=2.0),
        "smooth": attention(hq, hk, hv, mask, sink=np.zeros(HEADS)),
        "sinks": attention(hq, hk, hv, mask, sink=normal(HEADS)),
    }  # fmt: skip
    constants = {"last": np.array([4], "int32"), "total": np.array([5], "int32"), "sink": normal(HEADS)}
    check(nodes, {"q": q, "k": k, "v": v}, want, constants, num_attentions=2)


@pytest.mark.parametrize("kind", ["halves", "bytes", "int4"])
def test_tables_of_few_bits(kind):
    rng, ids = np.random.default_rng(5), np.array([[1, 3], [0, 7]])
    numbers, scale, zero = rng.integers(0, 16, (8, 32)), normal(8, 2), rng.integers(0, 16, (8, 2))
    stored, zeros, bits = numbers.astype("uint8"), zero.astype("uint8"), 8
    if kind == "halves":
        stored, zeros = ((each[:, ::2] | each[:, 1::2] << 4).astype("uint8") for each in (numbers, zero))
        bits = 4
    if kind == "int4":
        stored, zeros, bits = (numbers - 8).astype(ml_dtypes.int4), (zero - 8).astype(ml_dtypes.int4), 4
    want = ((numbers - np.repeat(zero, 16, 1)) * np.repeat(scale, 16, 1))[ids].astype("float32")
    layer = node("GatherBlockQuantized", ["w", "ids", "s", "z"], ["y"], quantize_axis=1, block_size=16, bits=bits)
    check([layer], {"ids": ids}, {"y": want}, {"w": stored, "s": scale, "z": zeros}, opset=21)


def test_weights_in_blocks_of_sixteen_values():
    numbers, largest, x = np.random.default_rng(5).integers(0, 16, (4, 32)), np.abs(normal(8)), normal(3, 32)
    # Evenly spaced from the smallest to the largest number, as far as this test looks.
    codes = np.full(16, np.nan)
    codes[[0, 7, 15]] = -1, 0, 1
    numbers = np.array([0, 7, 15])[numbers % 3]
    stored = (numbers.reshape(-1, 2)[:, 0] << 4 | numbers.reshape(-1, 2)[:, 1]).astype("uint8")
    weights = codes[numbers] * np.repeat(largest, 16).reshape(4, 32)
    layer = node("MatMulBnb4", ["x", "w", "a"], ["y"], K=32, N=4, block_size=16, quant_type=1)
    check([layer], {"x": x}, {"y": (x @ weights.T).astype("float32")}, {"w": stored, "a": largest})


@pytest.mark.parametrize("opset", [18, 21])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_onnx_normalisation_of_groups_before_and_after_it_changed(opset, dtype):
    x, scale, bias = normal(2, 6, 3, 2).astype(dtype), normal(6).astype(dtype), normal(6, seed=3).astype(dtype)
    if opset < 21:  # a number for each group
        scale, bias = scale[:3], bias[:3]
    wide = x.astype("float64").reshape(2, 3, -1)
    wide = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    spread = [np.repeat(each, 6 // each.size).reshape(6, 1, 1).astype("float64") for each in (scale, bias)]
    want = wide.reshape(x.shape) * spread[0] + spread[1]
    layer = node("GroupNormalization", ["x", "s", "b"], ["y"], domain="", num_groups=3)
    found = loaded([layer], {"x": x}, ["y"], {"s": scale, "b": bias}, opset)
    got = runtime.run(runtime.build(found.mod, "edge-256"), [x])[0]
    assert got.dtype == dtype
    within = 4 * np.finfo(dtype).eps * np.abs(want).max()
    np.testing.assert_allclose(got.astype("float64"), want, rtol=0, atol=within)


def test_quantised_layers_whose_channels_are_last_and_choices():
    rng = np.random.default_rng(6)
    x, w = rng.integers(0, 256, (1, 5, 5, 3)).astype("uint8"), rng.integers(-99, 99, (4, 3, 3, 3)).astype("int8")
    scale, zero = {"xs": np.float32(0.5), "ws": np.float32(0.25), "ys": np.float32(16)}, {"z": np.uint8(100)}
    nodes = [
        node("QLinearConv", ["x", "xs", "z", "w", "ws", "wz", "ys", "z"], ["conv"], channels_last=1),
        node("QLinearReduceMean", ["x", "xs", "z", "xs", "z"], ["mean"], axes=[1], keepdims=0),
        node("QLinearWhere", ["c", "x", "xs", "z", "x", "ws", "z", "xs", "z"], ["where"]),
    ]
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(int) - 100, (3, 3), (1, 2))
    sums = np.einsum("nhwcij,kcij->nhwk", windows, w.astype(int)) * 0.125 / 16
    chosen, centred = rng.integers(0, 2, (1, 5, 5, 3)).astype(bool), x.astype(float) - 100
    want = {"conv": sums, "mean": centred.mean(1), "where": np.where(chosen, centred, centred / 2)}
    want = {name: np.clip(np.rint(array) + 100, 0, 255).astype("uint8") for name, array in want.items()}
    check(nodes, {"x": x, "c": chosen}, want, {**scale, **zero, "w": w, "wz": np.int8(0)})


@pytest.mark.parametrize("opset", [13, 18])
def test_what_stands_before_and_behind_a_network(opset):
    x, w = normal(3, 4), normal(4, 2)
    x[1] = 0
    ml = {"domain": "ai.onnx.ml"}
    nodes = [
        node("Scaler", ["x"], ["scaled"], offset=[1.0, 2.0, 3.0, 4.0], scale=[0.5], **ml),
        node("Normalizer", ["x"], ["normed"], norm="L2", **ml),
        helper.make_node("MatMul", ["normed", "w"], ["product"]),
        node("LinearRegressor", ["product"], ["y"], coefficients=[1.0, 2.0, 3.0, 4.0], intercepts=[0.5, 1.5],
             targets=2, **ml),
    ]  # fmt: skip
    length = np.sqrt((x**2).sum(-1, keepdims=True))
    product = (x / np.where(length == 0, 1, length)) @ w
    want = {"scaled": (x - [1, 2, 3, 4]) * 0.5, "y": product @ np.array([[1, 3], [2, 4]]) + [0.5, 1.5]}
    check(nodes, {"x": x}, {name: array.astype("float32") for name, array in want.items()}, {"w": w}, opset)


def test_layers_one_after_the_other_whose_shapes_follow_only_then():
    x, skip, scale, w = normal(1, 5, 16), normal(1, 5, 16, seed=3), normal(16), 0.3 * normal(16, 3 * 16)
    nodes = [
        node("SkipLayerNormalization", ["x", "skip", "scale"], ["a"]),
        node("Attention", ["a", "w"], ["b"], num_heads=2, unidirectional=1),
        helper.make_node("Shape", ["b"], ["shape"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
        node("Attention", ["c", "w"], ["y"], num_heads=2),
    ]
    a = layer_norm(x + skip, scale, 0, 1e-12)[0]
    nodes[0].attribute.append(helper.make_attribute("epsilon", 1e-12))
    b = attention(*(heads(part, 2) for part in np.split(a @ w, 3, -1)), causal(5, 5))
    y = attention(*(heads(part, 2) for part in np.split(b @ w, 3, -1)))
    check(nodes, {"x": x, "skip": skip}, {"y": y}, {"scale": scale, "w": w}, num_attentions=2)


REFUSED = {
    "length of the keys": (
        node("GroupQueryAttention", ["x", "x", "x", "", "", "n", "n"], ["y"], num_heads=2, kv_num_heads=2),
        r"node 'the GroupQueryAttention' \(operator GroupQueryAttention\): its total_sequence_length 'n' depends "
        r"on the inputs; only a constant can be imported \(--value NAME=NUMBERS makes one of an input\)",
    ),
    "activation": (
        node("FusedGemm", ["m", "m"], ["y"], activation="Sigmoidal"), r"activation 'Sigmoidal': did you mean 'Sigmoid'",
    ),
    "attribute": (
        node("Attention", ["x", "m"], ["y"], num_heads=2, do_rotary=1),
        "attribute do_rotary = 1: only 0 can be imported",
    ),
    "heads": (node("Attention", ["x", "m"], ["y"], num_heads=5), "columns of the weights 16 must be a multiple of 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_out_says_why(name):
    layer, why = REFUSED[name]
    data = {"x": normal(1, 5, 16), "m": normal(16, 16), "n": np.array([5], "int32")}
    with pytest.raises(ModelError, match=why):
        loaded([layer], data, ["y"])
