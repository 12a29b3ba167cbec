"""Pooling, padding, resizing and moving between pixels and channels."""

from __future__ import annotations

import math

import numpy as np
from tvm import relax, topi

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay.operators.convolution import both_sides, per_axis
from tvm_spm.frontend.relay.operators.data_movement import known
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor
from tvm_spm.frontend.relay.tree import AttrValue

_MAX = {1: relax.op.nn.max_pool1d, 2: relax.op.nn.max_pool2d, 3: relax.op.nn.max_pool3d}
_AVERAGE = {1: relax.op.nn.avg_pool1d, 2: relax.op.nn.avg_pool2d, 3: relax.op.nn.avg_pool3d}
_PLAIN = {1: "NCW", 2: "NCHW", 3: "NCDHW"}


def pool_attrs(num_axes: int) -> dict[str, AttrValue]:
    """Attributes of pooling with their defaults, ``pool_size`` left out."""
    return {
        "strides": (1,) * num_axes, "dilation": (1,) * num_axes, "padding": (0,) * num_axes,
        "layout": _PLAIN[num_axes], "out_layout": "", "ceil_mode": False,
    }  # fmt: skip


def pool(b: Builder, a: Attrs, data: Tensor, num_axes: int, *, average: bool) -> Tensor:
    """Pooling in any layout."""
    plain = b.plain(data, a.text("layout"))
    if plain.rank != num_axes + 2:
        raise ModelError(f"data of shape {list(plain.shape)}: {num_axes + 2} axes are needed")
    maker = _AVERAGE[num_axes] if average else _MAX[num_axes]
    call = maker(
        b.expr(plain),
        pool_size=per_axis(a.integers("pool_size"), num_axes, "pool_size"),
        strides=per_axis(a.integers("strides"), num_axes, "strides"),
        padding=both_sides(a.integers("padding"), num_axes),
        dilation=per_axis(a.integers("dilation"), num_axes, "dilation"),
        ceil_mode=a.flag("ceil_mode"),
        count_include_pad=average and a.flag("count_include_pad"),
        layout=_PLAIN[num_axes],
    )
    return b.seen_as(b.emit(call), a.text("out_layout") or a.text("layout"))


def _register_pools(num_axes: int) -> None:
    @operator(f"nn.max_pool{num_axes}d", "data", pool_size=REQUIRED, common=pool_attrs(num_axes))
    def largest(b: Builder, a: Attrs, data: Tensor) -> Tensor:
        return pool(b, a, data, num_axes, average=False)

    @operator(
        f"nn.avg_pool{num_axes}d", "data", pool_size=REQUIRED, count_include_pad=False, common=pool_attrs(num_axes)
    )
    def average(b: Builder, a: Attrs, data: Tensor) -> Tensor:
        return pool(b, a, data, num_axes, average=True)


for _num_axes in _PLAIN:
    _register_pools(_num_axes)


def _over_image(b: Builder, a: Attrs, data: Tensor, *, largest: bool) -> Tensor:
    plain = b.plain(data, a.text("layout"))
    reduce = relax.op.max if largest else relax.op.mean
    return b.seen_as(b.emit(reduce(b.expr(plain), [2, 3], True)), a.text("out_layout") or a.text("layout"))


@operator("nn.global_max_pool2d", "data", layout="NCHW", out_layout="")
def _global_max(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _over_image(b, a, data, largest=True)


@operator("nn.global_avg_pool2d", "data", layout="NCHW", out_layout="")
def _global_average(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _over_image(b, a, data, largest=False)


def _adaptive(b: Builder, a: Attrs, data: Tensor, *, largest: bool) -> Tensor:
    plain = b.plain(data, a.text("layout"))
    wanted = a.integers("output_size") if a.given("output_size") else ()
    size = per_axis(wanted, 2, "output_size") if wanted else plain.shape[2:]
    if size == (1, 1):
        return _over_image(b, a, data, largest=largest)
    if any(extent % out for extent, out in zip(plain.shape[2:], size, strict=True)):
        if largest:
            raise ModelError(f"output_size {list(size)} does not divide {list(plain.shape[2:])}")
        call = relax.op.nn.adaptive_avg_pool2d(b.expr(plain), size)
    else:
        window = tuple(extent // out for extent, out in zip(plain.shape[2:], size, strict=True))
        maker = _MAX[2] if largest else _AVERAGE[2]
        call = maker(b.expr(plain), pool_size=window, strides=window, padding=(0, 0, 0, 0))
    return b.seen_as(b.emit(call), a.text("out_layout") or a.text("layout"))


@operator("nn.adaptive_avg_pool2d", "data", output_size=None, layout="NCHW", out_layout="")
def _adaptive_average(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _adaptive(b, a, data, largest=False)


@operator("nn.adaptive_max_pool2d", "data", output_size=None, layout="NCHW", out_layout="")
def _adaptive_max(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _adaptive(b, a, data, largest=True)


@operator("nn.pad", "data pad_val", pad_width=REQUIRED, pad_mode="constant")
def _pad(b: Builder, a: Attrs, data: Tensor, pad_val: Tensor) -> Tensor:
    widths = _widths(a, data)
    mode = a.text("pad_mode")
    value = known(pad_val, "pad_val").reshape(()).item() if mode == "constant" else 0
    if mode not in ("constant", "reflect", "edge"):
        raise ModelError(f"pad_mode {mode!r}: only 'constant', 'edge' and 'reflect' are known")
    if data.array is not None:
        b.reserve(math.prod(n + sum(w) for n, w in zip(data.shape, widths, strict=True)), data.dtype)
        if mode == "constant":
            return b.const(np.pad(data.array, widths, constant_values=value))
        return b.const(np.pad(data.array, widths, mode="edge" if mode == "edge" else "reflect"))

    def make(expr: relax.Expr, stored: list[int]) -> relax.Expr:
        by_axis = {at: widths[axis] for axis, at in enumerate(stored)}
        flat = [width for at in sorted(by_axis) for width in by_axis[at]]
        if mode == "constant":
            return relax.op.nn.pad(expr, flat, pad_value=value)
        return relax.op.nn.pad(expr, flat, pad_mode="replicate" if mode == "edge" else mode)

    return b.along_axes(data, make)


def _widths(a: Attrs, data: Tensor) -> tuple[tuple[int, int], ...]:
    widths = a.pairs("pad_width")
    if len(widths) != data.rank:
        raise ModelError(f"pad_width has {len(widths)} pairs, the data {data.rank} axes")
    return widths


@operator("nn.mirror_pad", "data", mode="SYMMETRIC", pad_width=REQUIRED)
def _mirror_pad(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    widths = _widths(a, data)
    before, after = [front for front, _ in widths], [back for _, back in widths]
    var = b.relax.emit_te(lambda x: topi.nn.mirror_pad(x, before, after, a.text("mode")), b.expr(data))
    return b.emit(var)


def _resize(b: Builder, data: Tensor, layout: str, size: tuple[int, int], **options: object) -> Tensor:
    plain = b.plain(data, layout)
    return b.seen_as(b.emit(relax.op.image.resize2d(b.expr(plain), size, layout="NCHW", **options)), layout)


@operator("image.resize2d", "data", size=REQUIRED, roi=(0.0, 0.0, 0.0, 0.0), layout="NCHW", method="linear",
          coordinate_transformation_mode="half_pixel", rounding_method="round", cubic_alpha=-0.5, cubic_exclude=0,
          extrapolation_value=0.0, out_dtype="")  # fmt: skip
def _resize2d(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    height, width = per_axis(a.integers("size"), 2, "size")
    return _resize(
        b, data, a.text("layout"), (height, width), roi=a.reals("roi") if a.given("roi") else (0.0,) * 4,
        method=a.text("method"), coordinate_transformation_mode=a.text("coordinate_transformation_mode"),
        rounding_method=a.text("rounding_method"), cubic_alpha=a.real("cubic_alpha"),
        cubic_exclude=a.integer("cubic_exclude"), extrapolation_value=a.real("extrapolation_value"),
        out_dtype=a.text("out_dtype") or None,
    )  # fmt: skip


@operator("nn.upsampling", "data", scale_h=1.0, scale_w=1.0, layout="NCHW", method="nearest_neighbor",
          align_corners=False)  # fmt: skip
def _upsampling(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    height, width = b.plain(data, a.text("layout")).shape[2:]
    size = math.floor(height * a.real("scale_h") + 0.5), math.floor(width * a.real("scale_w") + 0.5)
    method = {"bilinear": "linear", "bicubic": "cubic", "": "nearest_neighbor"}.get(a.text("method"), a.text("method"))
    mode = "align_corners" if a.flag("align_corners") else "asymmetric"
    return _resize(
        b, data, a.text("layout"), size, method=method, coordinate_transformation_mode=mode, rounding_method="",
        cubic_alpha=-0.5,
    )  # fmt: skip


def _blocks(b: Builder, a: Attrs, data: Tensor, *, to_space: bool) -> Tensor:
    plain = b.bare(b.plain(data, a.text("layout")))
    block, is_dcr = a.integer("block_size"), a.text("mode") == "DCR"
    batch, channels, height, width = plain.shape
    if block < 1 or (channels % (block * block) if to_space else height % block or width % block):
        raise ModelError(f"block_size {block} does not divide {list(plain.shape)}")
    if to_space:
        depth = channels // (block * block)
        parts = (batch, block, block, depth, height, width) if is_dcr else (batch, depth, block, block, height, width)
        axes = (0, 3, 4, 1, 5, 2) if is_dcr else (0, 1, 4, 2, 5, 3)
        shape = (batch, depth, height * block, width * block)
    else:
        parts = (batch, channels, height // block, block, width // block, block)
        axes = (0, 3, 5, 1, 2, 4) if is_dcr else (0, 1, 3, 5, 2, 4)
        shape = (batch, channels * block * block, height // block, width // block)
    return b.seen_as(b.reshape(b.permute(b.reshape(plain, parts), axes), shape), a.text("layout"))


@operator("nn.depth_to_space", "data", block_size=1, layout="NCHW", mode="DCR")
def _depth_to_space(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _blocks(b, a, data, to_space=True)


@operator("nn.space_to_depth", "data", block_size=1, layout="NCHW", mode="DCR")
def _space_to_depth(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return _blocks(b, a, data, to_space=False)
