"""Random arguments for a module, so that it can be run and compared."""

from __future__ import annotations

import math

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.extract import require_entry

DEVIATIONS = 4
"""Standard deviations for which all of an 8-bit integer stands."""


def random_inputs(mod: tvm.IRModule, rng: np.random.Generator) -> list[NDArray[np.generic]]:
    """One array per parameter of ``main``: the inputs and, where weights are parameters, the weights.

    Inputs of floats are standard normal. Weights are scaled so that activations neither grow nor vanish over many
    layers; those along a single axis (a bias, a scale, a variance) are between 0.5 and 1.5. Integers of 8 bits are
    normal around the middle of their range, others small.

    Args:
        mod: A module with static shapes; ``main`` may have an attribute ``num_input``.
        rng: Same state, same arrays.

    Raises:
        ModelError: There is no ``main``, or a parameter is no tensor of known shape.
    """
    require_entry(mod)
    main = mod[ENTRY]
    count = num_inputs(main)
    return [_random(param, rng, is_weight=index >= count) for index, param in enumerate(main.params)]


def num_inputs(main: relax.Function) -> int:
    """How many of the parameters are inputs; those behind them are weights that hold no numbers."""
    attrs = main.attrs
    return int(attrs["num_input"]) if attrs is not None and "num_input" in attrs else len(main.params)


def static_shape(param: relax.Var) -> tuple[int, ...] | None:
    """Shape of a tensor parameter if every dim is a number."""
    shape = getattr(param.ty, "shape", None)
    if not isinstance(param.ty, relax.TensorType) or not isinstance(shape, relax.ShapeExpr):
        return None
    extents = [int(extent) for extent in shape.values if isinstance(extent, tvm.tirx.IntImm)]
    return tuple(extents) if len(extents) == len(shape.values) else None


def _random(param: relax.Var, rng: np.random.Generator, *, is_weight: bool) -> NDArray[np.generic]:
    shape = static_shape(param)
    if shape is None:
        raise ModelError(f"parameter {param.name!r} of {ENTRY!r} is no tensor of known shape: {param.ty}")
    return random_array(shape, str(param.ty.dtype), rng, is_weight=is_weight)


def random_array(
    shape: tuple[int, ...], dtype: str, rng: np.random.Generator, *, is_weight: bool
) -> NDArray[np.generic]:
    """One array as ``random_inputs`` draws it.

    Raises:
        ModelError: Such elements cannot be drawn.
    """
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if "float" not in dtype:
        return _random_integers(shape, dtype, rng)
    if not is_weight:
        return rng.standard_normal(shape, dtype=np.float32).astype(dtype)
    wide = [extent for extent in shape if extent > 1]
    if len(wide) < 2:
        return (rng.random(shape, dtype=np.float32) + np.float32(0.5)).astype(dtype)
    # He et al., ICCV 2015: variance 2 / (inputs of a neuron) keeps the size of activations behind a ReLU.
    num_terms = math.prod(shape[1:])
    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / num_terms))).astype(dtype)


def _random_integers(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> NDArray[np.generic]:
    """Wide integers are often indices, so they are 0 or 1; narrow ones are data, those of 8 bits quantised data."""
    if not dtype.startswith(("int", "uint")):
        raise ModelError(f"dtype {dtype!r}: only floats, integers and bool are supported")
    if dtype in ("int32", "int64", "uint32", "uint64"):
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype in ("int8", "uint8"):
        info = np.iinfo(dtype)
        middle, deviation = (int(info.max) + int(info.min) + 1) // 2, 127 / DEVIATIONS
        drawn = np.rint(rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)) + middle
        return np.clip(drawn, info.min, info.max).astype(dtype)
    return rng.integers(0 if dtype.startswith("uint") else -4, 5, shape).astype(dtype)
