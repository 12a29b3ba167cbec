"""Convolutions and matrix products. Every layout is undone: Relax sees NCHW and OIHW."""

from __future__ import annotations

import math

from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.operators.registry import Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.relay.tree import AttrValue

_MAKERS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
_TRANSPOSED = {1: relax.op.nn.conv1d_transpose, 2: relax.op.nn.conv2d_transpose}
_PLAIN = {1: ("NCW", "OIW"), 2: ("NCHW", "OIHW"), 3: ("NCDHW", "OIDHW")}


def conv_attrs(num_axes: int, *, transposed: bool = False) -> dict[str, AttrValue]:
    """Attributes of a convolution over so many axes, with their defaults."""
    data, kernel = _PLAIN[num_axes]
    found: dict[str, AttrValue] = {
        "strides": (1,) * num_axes, "padding": (0,) * num_axes, "dilation": (1,) * num_axes, "groups": 1,
        "channels": None, "kernel_size": None, "data_layout": data, "kernel_layout": kernel, "out_layout": "",
        "out_dtype": "",
    }  # fmt: skip
    if transposed:
        found |= {"output_padding": (0,) * num_axes, "kernel_layout": "IO" + kernel[2:]}
    return found


def per_axis(values: tuple[int, ...], num_axes: int, key: str) -> tuple[int, ...]:
    """One number per axis; one for all of them may be given."""
    if len(values) not in (1, num_axes):
        raise ModelError(f"attribute {key}: {len(values)} numbers, {num_axes} or 1 are needed")
    return values * num_axes if len(values) == 1 else values


def both_sides(values: tuple[int, ...], num_axes: int) -> tuple[int, ...]:
    """Padding in front of every axis, then behind every axis."""
    if len(values) == 2 * num_axes:
        return values
    return per_axis(values, num_axes, "padding") * 2


def plain_kernel(b: Builder, a: Attrs, weight: Tensor, num_axes: int, in_channels: int, groups: int) -> Tensor:
    """A kernel as ``OIHW``, with the channels of all groups in ``O``.

    A depthwise kernel comes as (channels, multiplier); its output channels are the product of both.
    """
    kernel = b.bare(b.plain(weight, a.text("kernel_layout")))
    if kernel.rank != num_axes + 2:
        raise ModelError(f"kernel of shape {list(kernel.shape)}: {num_axes + 2} axes are needed")
    if groups > 1 and groups == in_channels == kernel.shape[0]:
        kernel = b.reshape(kernel, (kernel.shape[0] * kernel.shape[1], 1, *kernel.shape[2:]))
    if kernel.shape[1] * groups != in_channels:
        raise ModelError(
            f"kernel {list(kernel.shape)} with {groups} groups reads {kernel.shape[1] * groups} channels, "
            f"the data has {in_channels}"
        )
    _check(a, kernel.shape[0], kernel.shape[2:])
    return kernel


def _check(a: Attrs, num_channels: int, window: tuple[int, ...]) -> None:
    if a.given("channels") and a.integer("channels") != num_channels:
        raise ModelError(f"attribute channels = {a.integer('channels')}, the kernel has {num_channels}")
    if a.given("kernel_size") and per_axis(a.integers("kernel_size"), len(window), "kernel_size") != window:
        raise ModelError(f"attribute kernel_size = {list(a.integers('kernel_size'))}, the kernel has {list(window)}")


def convolve(b: Builder, a: Attrs, data: Tensor, weight: Tensor, num_axes: int) -> Tensor:
    """A convolution of any layout, in plain order."""
    plain = b.plain(data, a.text("data_layout"))
    if plain.rank != num_axes + 2:
        raise ModelError(f"data of shape {list(plain.shape)}: {num_axes + 2} axes are needed")
    groups = a.integer("groups")
    kernel = plain_kernel(b, a, weight, num_axes, plain.shape[1], groups)
    layout, kernel_layout = _PLAIN[num_axes]
    return b.emit(
        _MAKERS[num_axes](
            b.expr(plain), b.expr(kernel),
            strides=per_axis(a.integers("strides"), num_axes, "strides"),
            padding=both_sides(a.integers("padding"), num_axes),
            dilation=per_axis(a.integers("dilation"), num_axes, "dilation"),
            groups=groups, data_layout=layout, kernel_layout=kernel_layout, out_dtype=a.text("out_dtype") or None,
        )
    )  # fmt: skip


def out_layout(a: Attrs) -> str:
    """Layout of the result."""
    return a.text("out_layout") or a.text("data_layout")


@operator("nn.conv2d nn.contrib_conv2d_NCHWc nn.contrib_depthwise_conv2d_NCHWc", "data weight", weights=(1,),
          common=conv_attrs(2))  # fmt: skip
def _conv2d(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    return b.seen_as(convolve(b, a, data, weight, 2), out_layout(a))


@operator("nn.conv1d", "data weight", weights=(1,), common=conv_attrs(1))
def _conv1d(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    return b.seen_as(convolve(b, a, data, weight, 1), out_layout(a))


@operator("nn.conv3d", "data weight", weights=(1,), common=conv_attrs(3))
def _conv3d(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    return b.seen_as(convolve(b, a, data, weight, 3), out_layout(a))


def transposed_kernel(b: Builder, a: Attrs, weight: Tensor, in_channels: int) -> Tensor:
    """A kernel as ``IOHW``.

    Until TVM 0.8 the default layout was called ``OIHW`` and meant ``IOHW``; the number of channels tells them apart.
    """
    layout = a.text("kernel_layout")
    kernel = b.bare(b.plain(weight, layout))
    channels = a.integer("channels") // a.integer("groups") if a.given("channels") else None
    if layout == "OIHW" and kernel.shape[0] == in_channels and channels in (None, kernel.shape[1]):
        swapped = kernel
    else:
        swapped = b.permute(kernel, (1, 0, *range(2, kernel.rank)))
    if swapped.shape[0] != in_channels:
        raise ModelError(f"kernel of shape {list(weight.shape)} ({layout}): {in_channels} input channels are needed")
    return swapped


def convolve_transposed(b: Builder, a: Attrs, data: Tensor, weight: Tensor, num_axes: int) -> Tensor:
    """A transposed convolution of any layout, in plain order."""
    plain = b.plain(data, a.text("data_layout"))
    kernel = transposed_kernel(b, a, weight, plain.shape[1])
    layout, kernel_layout = _PLAIN[num_axes]
    return b.emit(
        _TRANSPOSED[num_axes](
            b.expr(plain), b.expr(kernel),
            strides=per_axis(a.integers("strides"), num_axes, "strides"),
            padding=both_sides(a.integers("padding"), num_axes),
            output_padding=per_axis(a.integers("output_padding"), num_axes, "output_padding"),
            dilation=per_axis(a.integers("dilation"), num_axes, "dilation"),
            groups=a.integer("groups"), data_layout=layout, kernel_layout="IO" + kernel_layout[2:],
            out_dtype=a.text("out_dtype") or None,
        )
    )  # fmt: skip


@operator("nn.conv2d_transpose", "data weight", weights=(1,), common=conv_attrs(2, transposed=True))
def _conv2d_transpose(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    return b.seen_as(convolve_transposed(b, a, data, weight, 2), out_layout(a))


@operator("nn.conv1d_transpose", "data weight", weights=(1,), common=conv_attrs(1, transposed=True))
def _conv1d_transpose(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    return b.seen_as(convolve_transposed(b, a, data, weight, 1), out_layout(a))


def product(b: Builder, left: Tensor, right: Tensor, out_dtype: str, *, flip: tuple[bool, bool]) -> Tensor:
    """A matrix product over the last two axes; ``flip`` says which operand is stored transposed."""
    operands = []
    for tensor, is_flipped in zip((left, right), flip, strict=True):
        axes = (*range(tensor.rank - 2), tensor.rank - 1, tensor.rank - 2)
        operands.append(b.permute(b.bare(tensor), axes) if is_flipped else tensor)
    return b.emit(relax.op.matmul(*(b.expr(operand) for operand in operands), out_dtype=out_dtype or None))


def check_units(a: Attrs, num_outputs: int) -> None:
    """Refuse a weight that does not have the declared number of outputs."""
    if a.given("units") and a.integer("units") != num_outputs:
        raise ModelError(f"attribute units = {a.integer('units')}, the weight has {num_outputs}")


@operator("nn.dense", "data weight", weights=(1,), units=None, out_dtype="")
def _dense(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    check_units(a, weight.shape[0])
    return product(b, data, weight, a.text("out_dtype"), flip=(False, True))


@operator("nn.contrib_dense_pack", "data weight", weights=(1,), units=None, out_dtype="", weight_layout="NC")
def _dense_pack(b: Builder, a: Attrs, data: Tensor, weight: Tensor) -> Tensor:
    if weight.rank != 3:
        raise ModelError(f"weight of shape {list(weight.shape)}: 3 axes (units / block, inputs, block) are needed")
    blocks, num_inputs, block = weight.shape
    rows = b.reshape(b.permute(weight, (0, 2, 1)), (blocks * block, num_inputs))
    check_units(a, blocks * block)
    return product(b, data, rows, a.text("out_dtype"), flip=(False, True))


@operator("nn.matmul", "tensor_a tensor_b", weights=(1,), units=None, out_dtype="", transpose_a=False,
          transpose_b=False)  # fmt: skip
def _matmul(b: Builder, a: Attrs, left: Tensor, right: Tensor) -> Tensor:
    flip = a.flag("transpose_a"), a.flag("transpose_b")
    check_units(a, right.shape[0 if flip[1] else 1])
    return product(b, left, right, a.text("out_dtype"), flip=flip)


@operator("nn.batch_matmul", "tensor_a tensor_b", out_dtype="", transpose_a=False, transpose_b=False)
def _batch_matmul(b: Builder, a: Attrs, left: Tensor, right: Tensor) -> Tensor:
    return product(b, left, right, a.text("out_dtype"), flip=(a.flag("transpose_a"), a.flag("transpose_b")))


@operator("nn.batch_flatten", "data", role="map")
def _batch_flatten(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.reshape(data, (data.shape[0], math.prod(data.shape[1:])))
