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


NUM_GROUPS = 2


def norm(operator: str, axes: list[int], own: tuple[int, ...], dtype: str, **flags: bool) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    data = relax.Var("data", relax.TensorType(SHAPE, dtype))
    scales = [relax.Var(name, relax.TensorType(own, dtype)) for name in ("gamma", "beta")]
    with builder.function("main", [data, *scales]):
        with builder.dataflow():
            options = {"axes": axes, "epsilon": 1e-3, **flags}
            if operator == "layer_norm":
                value = relax.op.nn.layer_norm(data, *scales, **options)
            elif operator == "group_norm":
                value = relax.op.nn.group_norm(data, *scales, num_groups=NUM_GROUPS, channel_axis=1, **options)
            else:
                value = relax.op.nn.instance_norm(data, *scales, channel_axis=1, **options)
            out = builder.emit_output(builder.emit(value))
        builder.emit_func_output(out)
    return builder.get()


def unit_of(operator: str, data: np.ndarray, axes: list[int]) -> np.ndarray:
    """Mean 0 and variance 1, in float64."""
    wide, over = data.astype("float64"), tuple(axes)
    if operator == "group_norm":
        wide, over = wide.reshape(SHAPE[0], NUM_GROUPS, -1), (2,)
    unit = (wide - wide.mean(over, keepdims=True)) / np.sqrt(wide.var(over, keepdims=True) + 1e-3)
    return unit.reshape(data.shape)


@pytest.mark.parametrize(("center", "scale"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize(
    ("operator", "axes", "own"),
    [("layer_norm", [-1], (8,)), ("instance_norm", [2, 3], (6,)), ("group_norm", [2, 3], (6,))],
)
def test_norms_without_a_factor_or_a_shift(
    operator: str, axes: list[int], own: tuple[int, ...], center: bool, scale: bool
):
    found = extract(norm(operator, axes, own, "float32", center=center, scale=scale))
    rng = np.random.default_rng(1)
    data, gamma, beta = (rng.standard_normal(shape).astype("float32") for shape in (SHAPE, own, own))
    (got,) = run(relax.build(found.mod, "llvm"), [data, gamma, beta])
    at = own if operator == "layer_norm" else (6, 1, 1)
    expected = unit_of(operator, data, axes) * (gamma.reshape(at) if scale else 1) + (beta.reshape(at) if center else 0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=64 * 2.0**-24)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("operator", "axes", "own"),
    [
        ("layer_norm", [-1], (8,)), ("layer_norm", [-2, -1], (5, 8)), ("instance_norm", [2, 3], (6,)),
        ("group_norm", [2, 3], (6,)),
    ],
)  # fmt: skip
def test_norms_are_exact_and_cheap(operator: str, axes: list[int], own: tuple[int, ...], dtype: str):
    found = extract(norm(operator, axes, own, dtype))
    rng = np.random.default_rng(0)
    data, gamma, beta = (rng.standard_normal(shape).astype(dtype) for shape in (SHAPE, own, own))
    (got,) = run(relax.build(found.mod, "llvm"), [data, gamma, beta])
    unit, at = unit_of(operator, data, axes), own if operator == "layer_norm" else (6, 1, 1)
    # Values up to 4, scaled by up to 3: two roundings to the type, and those of a short sum before.
    tolerance = {"float16": 16 * 2.0**-11, "float32": 64 * 2.0**-24, "float64": 64 * 2.0**-53}[dtype]
    np.testing.assert_allclose(got, unit * gamma.reshape(at) + beta.reshape(at), rtol=0, atol=tolerance)

    (task,) = found.graph.tasks
    assert isinstance(task.work, VectorWork)
    # Subtracted, squared, added up twice, scaled twice, shifted; widened and narrowed if the type is short. Per row two
    # divisions, an addition and a root.
    num_rows = int(np.prod(SHAPE)) // int(np.prod([SHAPE[axis] for axis in axes]))
    if operator == "group_norm":
        num_rows = SHAPE[0] * NUM_GROUPS
    per_elem = 9 if dtype == "float16" else 7
    assert task.work.num_ops == per_elem * int(np.prod(SHAPE)) + 4 * num_rows
