"""Activations, and layers with one behind them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.onnx.microsoft.place import TypedNode, TypedRewrite
from tvm_spm.frontend.onnx.writer import SUBGRAPHS

_GROUP_NORMALIZATION_BY_CHANNEL = 21

_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")


def _gelu(each: TypedNode) -> None:
    each.give(0, _gelu_of(each, each.input(0)))


def _bias_gelu(each: TypedNode) -> None:
    each.give(0, _gelu_of(each, each.writer.emit("Add", each.input(0), each.input(1))))


def _bias_split_gelu(each: TypedNode) -> None:
    """The first half of the last axis times the GELU of the second."""
    channels = each.shape(0)[-1]
    total = each.writer.emit("Add", each.input(0), each.input(1))
    left, right = each.writer.split(total, (channels // 2, channels // 2), -1)
    each.writer.emit("Mul", left, _gelu_of(each, right), out=each.out)


def _gelu_of(each: TypedNode, data: str) -> str:
    """``0.5 x (1 + erf(x / sqrt(2)))``."""
    w = each.writer
    grown = w.emit("Add", w.emit("Erf", w.emit("Mul", data, each.number(math.sqrt(0.5)))), each.number(1))
    return w.emit("Mul", w.emit("Mul", data, each.number(0.5)), grown)


def _fast_gelu(each: TypedNode) -> None:
    """``0.5 x (1 + tanh(x (a + b x^2)))``."""
    w = each.writer
    data = w.emit("Add", each.input(0), each.input(1)) if each.input(1) else each.input(0)
    linear, cubic = math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)
    square = w.emit("Mul", w.emit("Mul", data, data), each.number(cubic))
    inner = w.emit("Tanh", w.emit("Mul", data, w.emit("Add", square, each.number(linear))))
    w.emit("Mul", w.emit("Mul", data, each.number(0.5)), w.emit("Add", inner, each.number(1)), out=each.out)


def _quick_gelu(each: TypedNode) -> None:
    """``x sigmoid(alpha x)``."""
    w, data = each.writer, each.input(0)
    alpha = each.attribute("alpha", 1.702)
    scaled = data if alpha == 1 else w.emit("Mul", data, each.number(alpha))
    w.emit("Mul", data, w.emit("Sigmoid", scaled), out=each.out)


def _bias_add(each: TypedNode) -> None:
    """Inputs: x, bias, skip."""
    w = each.writer
    w.emit("Add", w.emit("Add", each.input(0), each.input(1)), each.input(2), out=each.out)


def _fused_conv(each: TypedNode) -> None:
    """Inputs: x, weights, bias, summand; then an activation."""
    w = each.writer
    inputs = [each.input(index) for index in range(3)]
    while not inputs[-1]:
        inputs.pop()
    found = w.emit("Conv", *inputs, **each.kept(*_CONV))
    if each.input(3):
        found = w.emit("Add", found, each.input(3))
    each.give(0, _activated(each, found, each.numbers("activation_params")))


def _fused_gemm(each: TypedNode) -> None:
    found = each.writer.emit("Gemm", *each.node.input, **each.kept("alpha", "beta", "transA", "transB"))
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    given = [each.attribute(name) for name in names if any(attr.name == name for attr in each.node.attribute)]
    each.give(0, _activated(each, found, given))


def _activated(each: TypedNode, data: str, params: list[float]) -> str:
    """What the attribute ``activation`` says.

    Raises:
        ModelError: It is unknown.
    """
    w, name = each.writer, each.text("activation")
    taken = {"": 0, "Relu": 0, "Sigmoid": 0, "Tanh": 0, "LeakyRelu": 1, "HardSigmoid": 2, "Clip": 2}
    if name not in taken:
        raise ModelError(f"{each.what}: activation {name!r}: {did_you_mean(name, [each for each in taken if each])}")
    if name == "":
        return data
    if name == "Clip":
        low, high = params[:2] if len(params) > 1 else (-math.inf, math.inf)
        return w.clipped(data, low, high, each.dtype())
    named: dict[str, Any] = dict(zip(("alpha", "beta"), params[: taken[name]], strict=False))
    return w.emit(name, data, **named)


def _fused_matmul(each: TypedNode) -> None:
    """A product of matrices whose rows are columns, or whose rows come before the batch, times a factor."""
    w = each.writer
    operands = []
    for index, letter in ((0, "A"), (1, "B")):
        name, rank = each.input(index), len(each.shape(index))
        order = list(range(rank))
        if each.integer(f"transBatch{letter}") and rank > 2:
            order = [*order[1:-1], 0, order[-1]]
        if each.integer(f"trans{letter}") and rank > 1:
            order = [*order[:-2], order[-1], order[-2]]
        if order == list(range(rank)):
            operands.append(name)
        elif name in w.known:
            operands.append(w.constant(np.ascontiguousarray(w.known[name].transpose(order))))
        else:
            operands.append(w.emit("Transpose", name, perm=order))
    found = w.emit("MatMul", *operands)
    alpha = each.attribute("alpha", 1.0)
    each.give(0, found if alpha == 1 else w.emit("Mul", found, each.number(alpha)))


def _group_norm(each: TypedNode) -> None:
    """Over groups of channels, which are the last axis where ``channels_last``; then ``x sigmoid(x)`` if wanted."""
    _grouped(each, each.input(0), (each.input(1), each.input(2)))


def _group_normalization(each: TypedNode) -> None:
    """ONNX's own; a scale and a bias are those of a group before opset 21, and of a channel from then on."""
    w, shape, groups = each.writer, each.shape(0), each.integer("num_groups", 1)
    is_by_group = w.opset < _GROUP_NORMALIZATION_BY_CHANNEL
    ones, zeros = (w.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    factors = [each.cast(each.input(index), np.float32) for index in (1, 2)]
    rows = each.reshaped(each.cast(each.input(0), np.float32), shape[0], groups, -1)
    given = factors if is_by_group else [ones, zeros]
    found = w.emit("InstanceNormalization", rows, *given, epsilon=each.attribute("epsilon", 1e-5))
    found = each.reshaped(found, *shape)
    if not is_by_group:
        scale, bias = (each.reshaped(name, 1, shape[1], *(1,) * (len(shape) - 2)) for name in factors)
        found = w.emit("Add", w.emit("Mul", found, scale), bias)
    each.give(0, each.cast(found, each.dtype()))


def _skip_group_norm(each: TypedNode) -> None:
    """Inputs: x, scale, bias, skip, bias of the sum; outputs: y, sum."""
    w = each.writer
    skip, channels = each.input(3), each.shape(1)[0]
    last = bool(each.integer("channels_last", 1))
    if len(each.shape(3)) == 2:
        batch = each.shape(3)[0]
        skip = each.reshaped(skip, *((batch, 1, 1, channels) if last else (batch, channels, 1, 1)))
    total = w.emit("Add", each.input(0), skip)
    if each.input(4):
        bias = each.input(4) if last else each.reshaped(each.input(4), 1, channels, 1, 1)
        total = w.emit("Add", total, bias)
    each.give(1, total)
    _grouped(each, total, (each.input(1), each.input(2)))


def _grouped(each: TypedNode, data: str, factors: tuple[str, str]) -> None:
    w, dtype = each.writer, each.dtype()
    shape, groups, last = each.extents(0, 4), each.integer("groups", 1), bool(each.integer("channels_last", 1))
    batch, channels = shape[0], shape[3] if last else shape[1]
    if last:
        data = w.emit("Transpose", data, perm=[0, 3, 1, 2])
    rows = each.reshaped(each.cast(data, np.float32), batch, groups, -1)
    ones, zeros = (w.constant(np.full(groups, value, np.float32)) for value in (1, 0))
    epsilon = each.attribute("epsilon", 1e-5)
    found = w.emit("InstanceNormalization", rows, ones, zeros, epsilon=epsilon)
    height, width = shape[1:3] if last else shape[2:]
    found = each.reshaped(found, batch, channels, height, width)
    scale, bias = (each.reshaped(each.cast(name, np.float32), 1, channels, 1, 1) for name in factors)
    found = w.emit("Add", w.emit("Mul", found, scale), bias)
    if each.integer("activation"):
        found = w.emit("Mul", found, w.emit("Sigmoid", found))
    found = found if dtype == np.float32 else each.cast(found, dtype)
    each.give(0, w.emit("Transpose", found, perm=[0, 2, 3, 1]) if last else found)


def _as_onnx(operator: str) -> TypedRewrite:
    """What ONNX took over since, or always had."""

    def rewrite(each: TypedNode) -> None:
        attributes = each.kept(*(attr.name for attr in each.node.attribute if attr.type not in SUBGRAPHS))
        each.writer.emit(operator, *each.node.input, out=each.out, **attributes)

    return rewrite


ACTIVATED: dict[str, TypedRewrite] = {
    "BiasAdd": _bias_add,
    "BiasGelu": _bias_gelu,
    "BiasSplitGelu": _bias_split_gelu,
    "FastGelu": _fast_gelu,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "FusedMatMul": _fused_matmul,
    "Gelu": _gelu,
    "GroupNorm": _group_norm,
    "GroupNormalization": _group_normalization,
    "QuickGelu": _quick_gelu,
    "SkipGroupNorm": _skip_group_norm,
    "TransposeMatMul": _fused_matmul,
    "DequantizeLinear": _as_onnx("DequantizeLinear"),
    "GatherND": _as_onnx("GatherND"),
    "QuantizeLinear": _as_onnx("QuantizeLinear"),
    "Range": _as_onnx("Range"),
    "Trilu": _as_onnx("Trilu"),
}
