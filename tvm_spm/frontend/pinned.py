"""Inputs whose numbers are fixed before import, such as a sampling rate: they become constants."""

from __future__ import annotations

import collections.abc

import numpy as np
import onnx
import tvm
from numpy.typing import ArrayLike, NDArray
from onnx import helper, numpy_helper
from tvm import relax

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.extract import require_entry
from tvm_spm.frontend.inputs import num_inputs

Values = collections.abc.Mapping[str, ArrayLike]
"""Numbers of inputs by name: one for all elements, or as many as the input has."""

_SHOWN = 100
"""Characters of a value that an error shows."""


def pin_onnx(model: onnx.ModelProto, values: Values, origin: str) -> onnx.ModelProto:
    """The model with constants in place of the inputs named; the original stays as it is.

    Args:
        model: Its other inputs may have unknown dims.
        values: Numbers by name.
        origin: What errors call the model.

    Raises:
        ModelError: No such input, its dims are unknown, or the numbers do not fit it.
    """
    if not values:
        return model
    weights = {init.name for init in model.graph.initializer}
    inputs = {value.name: value for value in model.graph.input if value.name not in weights}
    constants = []
    for name, value in values.items():
        _require_input(name, inputs, origin)
        tensor = inputs[name].type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        dims = [dim.dim_value for dim in tensor.shape.dim]
        is_known = tensor.HasField("shape") and all(dim > 0 for dim in dims)
        shape = tuple(dims) if is_known else _with_rank(np.shape(value), len(dims))
        constants.append(numpy_helper.from_array(_as_constant(name, value, shape, dtype, origin), name))
    pinned = onnx.ModelProto()
    pinned.CopyFrom(model)
    kept = [value for value in model.graph.input if value.name not in values]
    del pinned.graph.input[:]
    pinned.graph.input.extend(kept)
    pinned.graph.initializer.extend(constants)
    return pinned


def pin_module(mod: tvm.IRModule, values: Values, origin: str) -> tvm.IRModule:
    """As ``pin_onnx``, for a module with static shapes.

    Raises:
        ModelError: No such input, or the numbers do not fit it.
    """
    if not values:
        return mod
    require_entry(mod)
    main = mod[ENTRY]
    count = num_inputs(main)
    inputs = {param.name: param for param in main.params[:count]}
    constants = {}
    for name, value in values.items():
        _require_input(name, inputs, origin)
        kind = inputs[name].ty
        shape = tuple(int(extent) for extent in kind.shape.values)
        constants[name] = tvm.runtime.tensor(_as_constant(name, value, shape, np.dtype(str(kind.dtype)), origin))
    bound = relax.transform.BindParams(ENTRY, constants)(mod)
    bound[ENTRY] = bound[ENTRY].with_attr("num_input", count - len(constants))
    return bound


def _require_input(name: str, inputs: collections.abc.Collection[str], origin: str) -> None:
    if name not in inputs:
        raise ModelError(f"{origin}: value given for {name!r}, which is no input: {did_you_mean(name, inputs)}")


def _with_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """A shape with axes of one element in front: a lone number stands for a list of one."""
    return (1,) * (rank - len(shape)) + shape


def _as_constant(
    name: str, value: ArrayLike, shape: tuple[int, ...], dtype: np.dtype[np.generic], origin: str
) -> NDArray[np.generic]:
    """The numbers in the dtype and shape of an input.

    Raises:
        ModelError: There are too many or too few, or the dtype does not hold them.
    """
    where = f"{origin}: input {name!r}"
    try:
        given = np.asarray(value)
    except ValueError as error:
        raise ModelError(f"{where}: value {str(value)[:_SHOWN]}: {error}") from None
    size = int(np.prod(shape))
    if given.size not in (1, size):
        enough = "1" if size == 1 else f"1 or {size:,}"
        raise ModelError(f"{where}: {given.size:,} numbers given, it has {size:,} {shape}; give {enough}")
    if given.dtype.kind not in "biuf":
        raise ModelError(f"{where}: value {str(value)[:_SHOWN]}: not numbers")
    with np.errstate(all="ignore"):
        cast = given.astype(dtype)
    if dtype.kind in "biu" and not np.array_equal(cast.astype(np.float64), given.astype(np.float64)):
        raise ModelError(f"{where}: value {str(value)[:_SHOWN]}: not whole numbers that {dtype} holds")
    return np.array(np.broadcast_to(cast.reshape(-1), (size,)).reshape(shape))
