"""Norms compute what they say, with few operations an element, whatever their axes."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_spm.deploy.runtime import run
from tvm_spm.frontend import extract
from tvm_spm.workload import VectorWork

SHAPE = (2, 6, 5, 8)


def norm(operator: str, axes: list[int], own: tuple[int, ...], dtype: str) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    data = relax.Var("data", relax.TensorType(SHAPE, dtype))
    scales = [relax.Var(name, relax.TensorType(own, dtype)) for name in ("gamma", "beta")]
    with builder.function("main", [data, *scales]):
        with builder.dataflow():
            if operator == "layer_norm":
                value = relax.op.nn.layer_norm(data, *scales, axes=axes, epsilon=1e-3)
            else:
                value = relax.op.nn.instance_norm(data, *scales, channel_axis=1, axes=axes, epsilon=1e-3)
            out = builder.emit_output(builder.emit(value))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("operator", "axes", "own"),
    [("layer_norm", [-1], (8,)), ("layer_norm", [-2, -1], (5, 8)), ("instance_norm", [2, 3], (6,))],
)
def test_norms_are_exact_and_cheap(operator: str, axes: list[int], own: tuple[int, ...], dtype: str):
    found = extract(norm(operator, axes, own, dtype))
    rng = np.random.default_rng(0)
    data, gamma, beta = (rng.standard_normal(shape).astype(dtype) for shape in (SHAPE, own, own))
    (got,) = run(relax.build(found.mod, "llvm"), [data, gamma, beta])
    wide = data.astype("float64")
    unit = (wide - wide.mean(tuple(axes), keepdims=True)) / np.sqrt(wide.var(tuple(axes), keepdims=True) + 1e-3)
    at = (6, 1, 1) if operator == "instance_norm" else own
    # Values up to 4, scaled by up to 3: two roundings to the type, and those of a short sum before.
    tolerance = {"float16": 16 * 2.0**-11, "float32": 64 * 2.0**-24, "float64": 64 * 2.0**-53}[dtype]
    np.testing.assert_allclose(got, unit * gamma.reshape(at) + beta.reshape(at), rtol=0, atol=tolerance)

    (task,) = found.graph.tasks
    assert isinstance(task.work, VectorWork)
    # Subtracted, squared, added up twice, scaled twice, shifted; widened and narrowed if the type is short. Per row two
    # divisions, an addition and a root.
    num_rows = int(np.prod(SHAPE)) // int(np.prod([SHAPE[axis] for axis in axes]))
    per_elem = 9 if dtype == "float16" else 7
    assert task.work.num_ops == per_elem * int(np.prod(SHAPE)) + 4 * num_rows
