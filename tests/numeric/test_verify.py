"""Verification passes what is right, and names the first element that is not."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx

from schedules import schedule
from schedules.compute import nest, prim_func
from schedules.nest import Nest, read_nest
from tests.numeric.fused import NETWORKS, functions, fuse
from tests.numeric.sampled import LAYERS, sample_mapping
from tvm_spm.errors import ModelError
from tvm_spm.verify import Difference, compare, verify_network, verify_task
from tvm_spm.workload import Workload


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_functions_pass_on_sampled_mappings(name: str, seed: int):
    rng = random.Random(f"{name} {seed}")
    (func,) = functions(fuse(NETWORKS[name]))
    found = read_nest(func)
    assert isinstance(found, Nest)
    mapping = sample_mapping(found.workload, rng)
    made = schedule(func, found, mapping).mod["main"]
    outcome = verify_task(func, made, rng=np.random.default_rng(seed))
    assert outcome.passed, f"{mapping.line()}: {outcome}"


def broken(func: tirx.PrimFunc, old: float, new: float) -> tirx.PrimFunc:
    """Replace a constant in every predicate and value."""
    replace = {tirx.IntImm: int, tirx.FloatImm: float}
    callbacks = [
        (kind, lambda node, kind=kind, cast=cast: kind(node.ty.dtype, cast(new)) if node.value == old else node)
        for kind, cast in replace.items()
    ]
    return func.with_body(tvm_ffi.structural_map(func.body, callbacks))


def test_a_missing_edge_is_found_at_its_index():
    # K = 5 in tiles of 3: a guard of 4 instead of 5 leaves out channel 4, whose first element is [0, 4, 0, 0].
    workload = Workload.conv2d(K=5, C=2, OY=4, OX=6, FY=1, FX=1, dtype="int8", out_dtype="int32")
    func = prim_func(workload)
    wrong = broken(func, 5, 4)
    outcome = verify_task(func, wrong, rng=np.random.default_rng(0))
    assert not outcome.passed
    assert outcome.first_difference is not None
    assert outcome.first_difference.index == (0, 4, 0, 0)
    assert outcome.max_abs_error > 0
    assert "output 0 at [0, 4, 0, 0]" in str(outcome)


def test_float_sums_of_whole_numbers_are_exact():
    workload = LAYERS["float convolution"]
    func = prim_func(workload)
    made = schedule(func, nest(workload), sample_mapping(workload, random.Random(0))).mod["main"]
    outcome = verify_task(func, made, rng=np.random.default_rng(0))
    assert (outcome.passed, outcome.max_abs_error, outcome.tolerance) == (True, 0.0, 0.0)


def test_one_lost_term_of_a_long_sum_is_found():
    # One of 4608 products is less than the rounding allowed for a sum of random floats; whole numbers allow none.
    workload = Workload.matmul(m=3, k=4608, n=5, dtype="float32")
    func = prim_func(workload)
    outcome = verify_task(func, broken(func, 4608, 4607), rng=np.random.default_rng(0))
    assert not outcome.passed


def test_compare_knows_infinities_and_nan():
    want = np.array([np.inf, np.nan, 1.0, 2.0])
    assert compare([want], [want.copy()], num_roundings=0).passed
    got = np.array([np.inf, 3.0, 1.0, 2.0])
    outcome = compare([want], [got], num_roundings=1000)
    assert not outcome.passed
    assert outcome.max_abs_error == np.inf
    assert outcome.first_difference is not None
    assert outcome.first_difference.index == (1,)


def test_compare_allows_the_roundings_it_is_told():
    # 4 roundings at a largest value of 8: 4 * 2**-23 * 8 = 2**-18.
    want = np.array([8.0, 1.0], "float32")
    assert compare([want], [want + np.float32(2**-18)], num_roundings=4).passed
    outcome = compare([want], [want + np.float32(2**-17)], num_roundings=4)
    assert outcome.tolerance == 2**-18
    assert outcome.first_difference == Difference(output=0, index=(0,), expected=8.0, actual=8.0 + 2**-17)


def test_compare_holds_integers_to_equality():
    want = np.array([[1, 2], [3, 4]])
    outcome = compare([want, want], [want, want + np.array([[0, 0], [0, 1]])], num_roundings=100)
    assert outcome.tolerance == 0
    assert outcome.first_difference == Difference(output=1, index=(1, 1), expected=4, actual=5)


def test_compare_refuses_other_shapes():
    with pytest.raises(ModelError, match=r"outputs have shapes \[\(2,\)\], the reference has \[\(3,\)\]"):
        compare([np.zeros(3)], [np.zeros(2)], num_roundings=0)


def scheduled_network(name: str, seed: int) -> tvm.IRModule:
    mod = fuse(NETWORKS[name])
    for var, func in mod.functions.items():
        found = read_nest(func) if isinstance(func, tirx.PrimFunc) else None
        if isinstance(found, Nest):
            made = schedule(func, found, sample_mapping(found.workload, random.Random(seed)))
            mod[var.name_hint] = made.mod["main"]
    return mod


@pytest.mark.parametrize("name", ["conv, residual, swish", "grouped int8 conv, requantised"])
def test_networks_pass_as_module_and_as_executable(name: str):
    shapes = [[int(extent) for extent in p.ty.shape] for p in NETWORKS[name]["main"].params]
    dtypes = [str(p.ty.dtype) for p in NETWORKS[name]["main"].params]
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-5, 6, shape).astype(dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    tuned = scheduled_network(name, 0)
    assert verify_network(NETWORKS[name], tuned, inputs, target="spm/edge-256").passed
    executable = relax.build(tuned, target=tvm.target.Target("spm/edge-256"), tir_pipeline="spm")
    assert verify_network(NETWORKS[name], executable, inputs).passed


def test_a_wrong_network_is_found():
    name = "conv, residual, swish"
    tuned = scheduled_network(name, 0)
    for var, func in tuned.functions.items():
        if isinstance(func, tirx.PrimFunc):
            tuned[var.name_hint] = broken(func, 0.0, 0.5)
    inputs = [np.ones((1, 4, 7, 9), "float32"), np.ones((4, 4, 3, 3), "float32") / 36]
    outcome = verify_network(NETWORKS[name], tuned, inputs, target="spm/edge-256")
    assert not outcome.passed
    assert outcome.first_difference is not None
    assert outcome.first_difference.index == (0, 0, 0, 0)


def test_a_module_without_target_is_refused():
    with pytest.raises(ModelError, match="needs a target"):
        verify_network(NETWORKS["batched matmul"], NETWORKS["batched matmul"], [])
