"""Operators that work element by element, and the same as functions for those that consist of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax, te, tirx

from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.operators.registry import REQUIRED, Attrs, operator
from tvm_spm.frontend.relay.tensors import Builder, Tensor

_Make = Callable[..., relax.Expr]
_Fold = Callable[..., Array]


def is_float(dtype: str) -> bool:
    """Whether numbers of a dtype have a fraction."""
    return dtype.startswith(("float", "bfloat"))


def _divide(left: Array, right: Array) -> Array:
    """Integers are divided towards zero, as C does."""
    if is_float(str(left.dtype)):
        return np.asarray(np.divide(left, right))
    quotient = np.floor_divide(np.abs(left.astype(np.int64)), np.abs(right.astype(np.int64)))
    return np.asarray(quotient * np.sign(left) * np.sign(right)).astype(left.dtype)


_BINARY: dict[str, tuple[_Make, _Fold | None]] = {
    "add": (relax.op.add, np.add),
    "subtract": (relax.op.subtract, np.subtract),
    "multiply": (relax.op.multiply, np.multiply),
    "divide": (relax.op.divide, _divide),
    "floor_divide": (relax.op.floor_divide, np.floor_divide),
    "mod": (relax.op.mod, np.fmod),
    "floor_mod": (relax.op.floor_mod, np.mod),
    "power": (relax.op.power, None),
    "maximum": (relax.op.maximum, np.maximum),
    "minimum": (relax.op.minimum, np.minimum),
    "greater": (relax.op.greater, np.greater),
    "less": (relax.op.less, np.less),
    "greater_equal": (relax.op.greater_equal, np.greater_equal),
    "less_equal": (relax.op.less_equal, np.less_equal),
    "equal": (relax.op.equal, np.equal),
    "not_equal": (relax.op.not_equal, np.not_equal),
    "logical_and": (relax.op.logical_and, np.logical_and),
    "logical_or": (relax.op.logical_or, np.logical_or),
    "logical_xor": (relax.op.logical_xor, np.logical_xor),
    "bitwise_and": (relax.op.bitwise_and, np.bitwise_and),
    "bitwise_or": (relax.op.bitwise_or, np.bitwise_or),
    "bitwise_xor": (relax.op.bitwise_xor, np.bitwise_xor),
    "left_shift": (relax.op.left_shift, np.left_shift),
    "right_shift": (relax.op.right_shift, np.right_shift),
}
"""Maker, and the same on arrays where both compute exactly the same."""

_UNARY: dict[str, tuple[_Make, _Fold | None]] = {
    "negative": (relax.op.negative, np.negative),
    "abs": (relax.op.abs, np.abs),
    "floor": (relax.op.floor, np.floor),
    "ceil": (relax.op.ceil, np.ceil),
    "trunc": (relax.op.trunc, np.trunc),
    "sign": (relax.op.sign, np.sign),
    "sqrt": (relax.op.sqrt, np.sqrt),
    "logical_not": (relax.op.logical_not, np.logical_not),
    "isnan": (relax.op.isnan, np.isnan),
    "isfinite": (relax.op.isfinite, np.isfinite),
    "isinf": (relax.op.isinf, np.isinf),
    "nn.relu": (relax.op.nn.relu, None),
    "sigmoid": (relax.op.sigmoid, None),
    "tanh": (relax.op.tanh, None),
    "erf": (relax.op.erf, None),
    "exp": (relax.op.exp, None),
    "log": (relax.op.log, None),
    "rsqrt": (relax.op.rsqrt, None),
    "sin": (relax.op.sin, None),
    "cos": (relax.op.cos, None),
    "tan": (relax.op.tan, None),
    "atan": (relax.op.atan, None),
    "asin": (relax.op.asin, None),
    "acos": (relax.op.acos, None),
    "sinh": (relax.op.sinh, None),
    "cosh": (relax.op.cosh, None),
}


def binary(b: Builder, name: str, left: Tensor, right: Tensor) -> Tensor:
    """An operator on two tensors, by its Relay name."""
    make, fold = _BINARY[name]
    return b.elementwise(make, left, right, fold=fold)


def unary(b: Builder, name: str, data: Tensor) -> Tensor:
    """An operator on one tensor, by its Relay name."""
    make, fold = _UNARY[name]
    return b.elementwise(make, data, fold=fold)


def scalar(b: Builder, value: float, like: Tensor) -> Tensor:
    """A number of the same dtype as a tensor."""
    return b.const(np.array(value), like.dtype)


def cast(b: Builder, data: Tensor, dtype: str) -> Tensor:
    """Elements as another dtype; fractions are dropped."""
    if dtype == data.dtype:
        return data
    if dtype == "bool":
        return binary(b, "not_equal", data, scalar(b, 0, data))
    return b.elementwise(lambda x: relax.op.astype(x, dtype), data, fold=lambda x: x.astype(dtype))


def clip(b: Builder, data: Tensor, low: float, high: float) -> Tensor:
    """Elements between two numbers."""
    if not is_float(data.dtype):
        info = np.iinfo(data.dtype)
        low, high = max(int(np.ceil(low)), int(info.min)), min(int(np.floor(high)), int(info.max))
    bounds = (int(low), int(high)) if not is_float(data.dtype) else (float(low), float(high))
    return b.elementwise(
        lambda x: relax.op.clip(x, *bounds), data,
        fold=lambda x: np.clip(x, np.array(bounds[0], x.dtype), np.array(bounds[1], x.dtype)),
    )  # fmt: skip


def where(b: Builder, condition: Tensor, then: Tensor, otherwise: Tensor) -> Tensor:
    """Elements of one tensor or the other."""
    return b.elementwise(relax.op.where, cast(b, condition, "bool"), then, otherwise, fold=np.where)


def round_away(b: Builder, data: Tensor) -> Tensor:
    """To the nearest integer, halves away from zero as C's ``round``; Relax rounds them to even.

    It is one operation that reads its operand once: spelled out it reads it three times, and where one rounding follows
    another, code that is inlined grows to a power of that.
    """

    def rounded(x: te.Tensor) -> te.Tensor:
        return te.compute(
            x.shape, lambda *at: tirx.call_llvm_pure_intrin(data.dtype, "llvm.round", x(*at)), name="round_away"
        )

    def fold(x: Array) -> Array:
        whole = np.trunc(x)
        return np.asarray(whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0)).astype(x.dtype)

    return b.elementwise(lambda x: b.relax.call_te(rounded, x, primfunc_name_hint="round_away"), data, fold=fold)


def along(b: Builder, vector: Tensor, axis: int, like: Tensor) -> Tensor:
    """A vector along one axis of a tensor; a scalar stays one."""
    if vector.rank == 0:
        return vector
    at = like.axis(axis)
    num_elems = vector.shape[0] if vector.rank == 1 else int(np.prod(vector.shape))
    return b.reshape(vector, (num_elems,) + (1,) * (like.rank - 1 - at))


def _register_tables() -> None:
    def enter_binary(name: str) -> None:
        @operator(name, "lhs rhs", role="broadcast")
        def two(b: Builder, a: Attrs, lhs: Tensor, rhs: Tensor) -> Tensor:
            return binary(b, name, lhs, rhs)

    def enter_unary(name: str) -> None:
        @operator(name, "data", role="map")
        def one(b: Builder, a: Attrs, data: Tensor) -> Tensor:
            return unary(b, name, data)

    for name in _BINARY:
        enter_binary(name)
    for name in _UNARY:
        enter_unary(name)


_register_tables()


@operator("copy identity device_copy on_device annotation.stop_fusion annotation.cast_hint", "data", role="map")
def _same(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return data


@operator("round", "data", role="map")
def _round(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return round_away(b, data)


@operator("cast", "data", role="map", dtype=REQUIRED)
def _cast(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return cast(b, data, a.text("dtype"))


@operator("cast_like", "data dtype_like", role="map")
def _cast_like(b: Builder, a: Attrs, data: Tensor, like: Tensor) -> Tensor:
    return cast(b, data, like.dtype)


@operator("clip", "data", role="map", a_min=REQUIRED, a_max=REQUIRED)
def _clip(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return clip(b, data, a.real("a_min"), a.real("a_max"))


@operator("where", "condition x y")
def _where(b: Builder, a: Attrs, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return where(b, condition, x, y)


@operator("nn.leaky_relu", "data", role="map", alpha=0.25)
def _leaky_relu(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    scaled = binary(b, "multiply", data, scalar(b, a.real("alpha"), data))
    return where(b, binary(b, "greater", data, scalar(b, 0, data)), data, scaled)


@operator("nn.prelu", "data alpha", weights=(1,), axis=1)
def _prelu(b: Builder, a: Attrs, data: Tensor, alpha: Tensor) -> Tensor:
    scaled = binary(b, "multiply", data, along(b, alpha, a.integer("axis"), data))
    return where(b, binary(b, "greater", data, scalar(b, 0, data)), data, scaled)


@operator("nn.bias_add", "data bias", weights=(1,), axis=1)
def _bias_add(b: Builder, a: Attrs, data: Tensor, bias: Tensor) -> Tensor:
    return binary(b, "add", data, along(b, bias, a.integer("axis"), data))


@operator("zeros_like", "data")
def _zeros_like(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.filled(0, data.shape, data.dtype)


@operator("ones_like", "data")
def _ones_like(b: Builder, a: Attrs, data: Tensor) -> Tensor:
    return b.filled(1, data.shape, data.dtype)
