"""A network of a convolution, a matrix product and what stands beside them, and the same in numpy."""

from __future__ import annotations

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax
from tvm.script import relax as R

TARGET = "spm/edge-256"
SHAPES = ((1, 4, 8, 8), (6, 4, 3, 3), (8, 10))

Array = NDArray[np.float32]


def network() -> tvm.IRModule:
    """Convolution and ReLU, a view, a matrix product, softmax."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", R.Tensor(shape, "float32")) for i, shape in enumerate(SHAPES)]
    with builder.function("main", params):
        with builder.dataflow():
            data = builder.emit(relax.op.nn.relu(relax.op.nn.conv2d(params[0], params[1], padding=1)))
            rows = builder.emit(relax.op.reshape(data, (48, 8)))
            result = builder.emit_output(relax.op.nn.softmax(relax.op.matmul(rows, params[2])))
        builder.emit_func_output(result)
    return builder.get()


def inputs(seed: int = 0) -> list[Array]:
    """Small whole numbers, so that all sums are exact in any order."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, shape).astype(np.float32) for shape in SHAPES]


def expected(arrays: list[Array]) -> Array:
    """The network in numpy."""
    data, filters, weight = arrays
    padded = np.pad(data, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    rows = np.maximum(np.einsum("ncyxab,kcab->nkyx", windows, filters), 0).reshape(48, 8)
    powers = np.exp((total := rows @ weight) - total.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def functions(mod: tvm.IRModule) -> dict[str, tvm.tirx.PrimFunc]:
    """The TIR functions by name."""
    return {var.name_hint: func for var, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)}


def two_sums() -> tvm.tirx.PrimFunc:
    """A function of two multiply-accumulate nests, which no mapping describes."""
    first, second, third = (tvm.te.placeholder((8, 8), "float32", name=name) for name in "ABC")

    def product(left: tvm.te.Tensor, right: tvm.te.Tensor, name: str) -> tvm.te.Tensor:
        k = tvm.te.reduce_axis((0, 8), "k")
        return tvm.te.compute((8, 8), lambda i, j: tvm.te.sum(left[i, k] * right[k, j], axis=k), name=name)

    chain = product(product(first, second, "AB"), third, "ABC")
    return tvm.te.create_prim_func([first, second, third, chain])


def matmul(extent: int = 16) -> tvm.tirx.PrimFunc:
    """A function of one."""
    first, second = (tvm.te.placeholder((extent, extent), "float32", name=name) for name in "AB")
    k = tvm.te.reduce_axis((0, extent), "k")
    out = tvm.te.compute((extent, extent), lambda i, j: tvm.te.sum(first[i, k] * second[k, j], axis=k), name="out")
    return tvm.te.create_prim_func([first, second, out])
