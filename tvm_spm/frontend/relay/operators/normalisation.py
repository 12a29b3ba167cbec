"""Normalisations and softmax."""

from __future__ import annotations

import math

from tvm import relax, topi

from tvm_spm.frontend.relay.operators.elementwise import along, binary, scalar, unary
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor, Value


@operator("nn.softmax", "data", axis=-1)
def _softmax(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    return b.along_axes(data, lambda expr, stored: relax.op.nn.softmax(expr, stored[axis]))


@operator("nn.log_softmax", "data", axis=-1)
def _log_softmax(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    return b.along_axes(data, lambda expr, stored: relax.op.nn.log_softmax(expr, stored[axis]))


@operator("nn.batch_norm", "data gamma beta moving_mean moving_var", weights=(1, 2, 3, 4), axis=1, epsilon=1e-5,
          center=True, scale=True)  # fmt: skip
def _batch_norm(
    b: Builder, a: Attrs, data: Tensor, gamma: Tensor, beta: Tensor, moving_mean: Tensor, moving_var: Tensor
) -> Value:
    """A factor and a shift per channel, known when all statistics are."""
    factor = binary(
        b, "divide", scalar(b, 1, moving_var),
        unary(b, "sqrt", binary(b, "add", moving_var, scalar(b, a.real("epsilon"), moving_var))),
    )  # fmt: skip
    if a.flag("scale"):
        factor = binary(b, "multiply", factor, gamma)
    shift = unary(b, "negative", binary(b, "multiply", moving_mean, factor))
    if a.flag("center"):
        shift = binary(b, "add", beta, shift)
    axis = a.integer("axis")
    scaled = binary(b, "multiply", data, along(b, factor, axis, data))
    return binary(b, "add", scaled, along(b, shift, axis, data)), moving_mean, moving_var


@operator("nn.layer_norm", "data gamma beta", weights=(1, 2), axis=-1, epsilon=1e-5, center=True, scale=True)
def _layer_norm(b: Builder, a: Attrs, data: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    exprs = [b.expr(tensor) for tensor in (gamma, beta)]
    options = {"epsilon": a.real("epsilon"), "center": a.flag("center"), "scale": a.flag("scale")}
    return b.along_axes(data, lambda expr, stored: relax.op.nn.layer_norm(expr, *exprs, [stored[axis]], **options))


@operator("nn.instance_norm", "data gamma beta", weights=(1, 2), axis=1, epsilon=1e-5, center=True, scale=True)
def _instance_norm(b: Builder, a: Attrs, data: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    summed = [other for other in range(1, data.rank) if other != axis]
    mean = _mean(b, data, summed)
    return _normalised(b, a, data, mean, summed, gamma, beta)


@operator("nn.group_norm", "data gamma beta", weights=(1, 2), num_groups=REQUIRED, axis=1, epsilon=1e-5, center=True,
          scale=True)  # fmt: skip
def _group_norm(b: Builder, a: Attrs, data: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    axis = data.axis(a.integer("axis"))
    summed = [other for other in range(1, data.rank) if other != axis]
    options = {"epsilon": a.real("epsilon"), "center": a.flag("center"), "scale": a.flag("scale")}
    exprs = [b.expr(tensor) for tensor in (gamma, beta)]
    groups = a.integer("num_groups")
    return b.along_axes(
        data,
        lambda expr, stored: relax.op.nn.group_norm(
            expr, *exprs, groups, stored[axis], [stored[other] for other in summed], **options
        ),
    )


def _mean(b: Builder, data: Tensor, axes: list[int]) -> Tensor:
    return b.along_axes(data, lambda expr, stored: relax.op.mean(expr, [stored[axis] for axis in axes], True))


def _normalised(
    b: Builder, a: Attrs, data: Tensor, mean: Tensor, summed: list[int], gamma: Tensor, beta: Tensor
) -> Tensor:
    """Minus the mean, over the root of the variance, then scale and shift per channel."""
    centred = binary(b, "subtract", data, mean)
    variance = _mean(b, binary(b, "multiply", centred, centred), summed)
    root = unary(b, "sqrt", binary(b, "add", variance, scalar(b, a.real("epsilon"), data)))
    found = binary(b, "divide", centred, root)
    if a.flag("scale"):
        found = binary(b, "multiply", found, along(b, gamma, a.integer("axis"), data))
    return binary(b, "add", found, along(b, beta, a.integer("axis"), data)) if a.flag("center") else found


@operator("nn.l2_normalize", "data", eps=REQUIRED, axis=REQUIRED)
def _l2_normalize(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axes = [data.axis(axis) for axis in a.integers("axis")]
    squared = binary(b, "multiply", data, data)
    total = b.along_axes(squared, lambda expr, stored: relax.op.sum(expr, [stored[axis] for axis in axes], True))
    root = unary(b, "sqrt", binary(b, "maximum", total, scalar(b, a.real("eps"), data)))
    return binary(b, "divide", data, root)


@operator("nn.lrn", "data", size=5, axis=1, bias=2.0, alpha=1e-4, beta=0.75)
def _lrn(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    axis, size = data.axis(a.integer("axis")), a.integer("size")
    options = {"alpha": a.real("alpha"), "beta": a.real("beta"), "bias": a.real("bias")}
    plain = b.bare(data)
    return b.emit(b.relax.emit_te(lambda x: topi.nn.lrn(x, size, axis, **options), b.expr(plain)))


@operator("nn.dropout", "data", rate=0.5)
def _dropout(b: Builder, a: Attrs, data: Tensor) -> Value:
    """Nothing happens at inference; the mask keeps every element."""
    return data, b.filled(1, data.shape, data.dtype)


@operator("nn.gelu", "data", role="map")
def _gelu(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    inner = unary(b, "erf", binary(b, "multiply", data, scalar(b, math.sqrt(0.5), data)))
    half = binary(b, "multiply", data, scalar(b, 0.5, data))
    return binary(b, "multiply", half, binary(b, "add", inner, scalar(b, 1, data)))
