"""The vector unit: steps on arrays of sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
from numpy.typing import NDArray

from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import VectorStep

Values = NDArray[Any]

_TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "min": np.minimum, "max": np.maximum,
    "shr": np.right_shift, "shl": np.left_shift, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "div": lambda a, b: _divided(a, b),
    "floordiv": np.floor_divide, "floormod": np.mod, "truncmod": np.fmod, "pow": np.power,
}  # fmt: skip


def _divided(first: Values, second: Values) -> Values:
    """Of whole numbers towards zero."""
    if first.dtype.kind not in "iu":
        return np.asarray(np.divide(first, second))
    return np.asarray((first - np.fmod(first, second)) // second)


def _scaled(first: Values, second: Values, places: Values) -> Values:
    product = first.astype(np.int64) * second.astype(np.int64)
    return np.asarray(product + (np.int64(1) << (places.astype(np.int64) - 1)) >> places.astype(np.int64))


def _erf(values: Values) -> Values:
    return np.vectorize(math.erf, otypes=[np.float64])(values).astype(values.dtype)


_ONE: dict[str, Callable[[Any], Any]] = {
    "cast": lambda a: a, "abs": np.abs, "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "exp": np.exp,
    "log": np.log, "tanh": np.tanh, "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "erf": _erf, "floor": np.floor,
    "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
}  # fmt: skip


def finished(steps: Sequence[VectorStep], sums: Values, extras: dict[int, Values], dtype: str) -> Values:
    """Outputs made of sums.

    Args:
        steps: Of the epilogue; without any, sums are converted.
        sums: One per output.
        extras: Per number, one value per output.
        dtype: Of an output.

    Raises:
        StreamError: A step reads what is not there.
    """
    registers: dict[int, Values] = {0: sums}
    result = sums
    with np.errstate(all="ignore"):
        for step in steps:
            try:
                result = _step(step, registers, extras).astype(step.dtype)
            except (TypeError, ValueError) as error:
                raise StreamError(f"vector: {step.operation} into {step.dtype} is not computed: {error}") from error
            registers[step.target] = result
        return result.astype(dtype)


def constant_of(immediate: int, dtype: str) -> Values:
    """The number whose bits an instruction holds."""
    size = np.dtype(dtype).itemsize
    return np.frombuffer((immediate & (1 << 8 * size) - 1).to_bytes(size, "little"), dtype)[0]


def _step(step: VectorStep, registers: dict[int, Values], extras: dict[int, Values]) -> Values:
    name = step.operation
    if name == "const":
        return np.asarray(constant_of(step.immediate, step.dtype))
    if name == "extra":
        if step.immediate not in extras:
            raise StreamError(f"vector: extra {step.immediate} is read and was not brought")
        return extras[step.immediate]

    def taken(number: int) -> list[Values]:
        for register in step.sources[:number]:
            if register not in registers:
                raise StreamError(f"vector: {name} reads register {register}, which is empty")
        return [registers[register] for register in step.sources[:number]]

    if name in _ONE:
        return np.asarray(_ONE[name](*taken(1)))
    if name == "select":
        chosen, first, second = taken(3)
        return np.where(chosen != 0, first, second)
    if name == "qmul":
        return _scaled(*taken(3))
    return np.asarray(_TWO[name](*taken(2)))
