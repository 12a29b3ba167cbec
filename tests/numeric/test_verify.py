"""Verification passes what is right, and names the first element that is not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax, tirx

from schedules.layer import schedule
from tests.numeric.fused import NETWORKS, functions, fuse
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, sample_mapping
from tvm_spm.deploy.verify import process as verify_process
from tvm_spm.deploy.verify.compare import Difference, NetworkCheck, compare, verify_network, verify_task
from tvm_spm.deploy.verify.run import NetworkRun, Step
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.root_block import with_root_block
from tvm_spm.workload import Workload


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NETWORKS)
def test_fused_functions_pass_on_sampled_mappings(name: str, seed: int):
    rng = random.Random(f"{name} {seed}")
    (func,) = functions(fuse(NETWORKS[name]))
    found = read_nest(func)
    assert isinstance(found, TirNest)
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


def test_compare_says_how_many_elements_are_not_finite():
    outputs = [np.array([1.0, np.nan, np.inf], dtype="float32")]
    found = compare(outputs, outputs)
    assert (found.passed, found.num_not_finite, found.num_elems) == (True, 2, 3)
    assert str(found).endswith("; 2 of 3 elements are not finite, in both alike")
    assert found.as_dict()["num_not_finite"] == 2


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
        if isinstance(found, TirNest):
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


def products(*dtypes: str, tail: bool = False) -> tvm.IRModule:
    """A chain of products with an activation between, as tasks; with a softmax behind it if asked for."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((16, 32), dtypes[0]))
    rng = np.random.default_rng(5)
    with builder.function("main", [x], attrs={"num_input": 1}):
        with builder.dataflow():
            value = x
            for dtype in dtypes:
                weight = relax.const((rng.standard_normal((32, 32)) / 6).astype(dtype))
                value = builder.emit(relax.op.nn.relu(relax.op.matmul(value, weight)))
            if tail:
                value = builder.emit(relax.op.nn.softmax(value))
            out = builder.emit_output(value)
        builder.emit_func_output(out)
    return extract(builder.get()).mod


def with_layer(mod: tvm.IRModule, number: int, change: Callable[[tirx.PrimFunc], tirx.PrimFunc]) -> tvm.IRModule:
    """The module in which one call, counted from 0, runs changed code."""
    changed, calls = mod.clone(), []

    def visit(call: relax.Call) -> relax.Call:
        if not isinstance(call.op, tvm.ir.Op) or call.op.name != "relax.call_tir":
            return call
        calls.append(call)
        if len(calls) != number + 1:
            return call
        func = change(mod[call.args[0].name_hint]).with_attr("global_symbol", "changed")
        builder = relax.BlockBuilder(changed)
        var = builder.add_func(func, "changed")
        for name, other in builder.get().functions.items():
            if name.name_hint == "changed":
                changed[name] = other
        return relax.Call(call.op, [var, call.args[1]], call.attrs, call.ty_args)

    main = mod["main"]
    blocks = [
        type(block)([relax.VarBinding(binding.var, visit(binding.value)) for binding in block.bindings])
        for block in main.body.blocks
    ]
    body = relax.SeqExpr(blocks, main.body.body)
    changed["main"] = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
    return changed


def starting_at(value: float) -> Callable[[tirx.PrimFunc], tirx.PrimFunc]:
    """Sums that start at another number than zero."""

    def change(func: tirx.PrimFunc) -> tirx.PrimFunc:
        callback = (tirx.FloatImm, lambda node: tirx.FloatImm(node.ty.dtype, value) if node.value == 0 else node)
        return func.with_body(tvm_ffi.structural_map(func.body, callback))

    return change


def test_what_is_behind_a_step_that_is_not_needed_does_not_run():
    mod = relax.transform.LegalizeOps()(products("float32", "float32", tail=True))
    network = NetworkRun(mod, lambda part: tvm.compile(part, "llvm"), lambda part: relax.build(part, "llvm"))
    data, ran = [np.ones((16, 32), "float32")], []

    def visit(step: Step, made: list[np.ndarray]) -> list[np.ndarray]:
        ran.append(step)
        return made

    assert network.run_some(data, visit, lambda step: step is not network.steps[1]) is None
    assert ran == network.steps[:1]
    whole, same = network(data, visit), network.run_some(data, visit, lambda step: True)
    assert ran == network.steps[:1] + 2 * network.steps
    assert same is not None
    np.testing.assert_array_equal(same[0], whole[0])


def test_a_function_of_the_network_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch):
    mod = relax.transform.LegalizeOps()(products("float32", "float32"))
    compiled: list[tvm.IRModule] = []

    def compile_module(part: tvm.IRModule) -> tvm.runtime.Executable:
        compiled.append(part)
        return tvm.compile(part, "llvm")

    network = NetworkRun(mod, compile_module, lambda part: relax.build(part, "llvm"))
    func = next(func for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    code = network.compiled(func.without_attr("global_symbol").with_attr("global_symbol", "another_name"))
    assert code is not None
    assert len(compiled) == 1
    inputs, out = [np.full(tuple(map(int, param.shape)), 2, "float32") for param in func.params[:-1]], func.params[-1]
    made = tvm.runtime.tensor(np.zeros(tuple(map(int, out.shape)), "float32"))
    code(*map(tvm.runtime.tensor, inputs), made)
    np.testing.assert_array_equal(made.numpy(), inputs[0] @ inputs[1])
    # neither the same name nor the same hash is enough
    assert network.compiled(starting_at(1.0)(func)) is None
    monkeypatch.setattr(tvm_ffi, "structural_hash", lambda node: 0)
    network = NetworkRun(mod, compile_module, lambda part: relax.build(part, "llvm"))
    assert network.compiled(starting_at(1.0)(func)) is None


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_layers_that_keep_numbers_whole_must_be_equal(dtype: str):
    mod = products(dtype, dtype)
    outcome = verify_network(mod, mod, target="spm/edge-256")
    assert (outcome.passed, outcome.max_abs_error, outcome.tolerance) == (True, 0.0, 0.0)


def test_a_difference_of_one_behind_large_sums_is_found():
    # Of outputs of up to some tens, one sum in the middle starts at 1 instead of 0.
    mod = products("float16", "float16", "float16")
    outcome = verify_network(mod, with_layer(mod, 1, starting_at(1.0)), target="spm/edge-256")
    assert not outcome.passed
    assert outcome.tolerance == 0
    assert outcome.layer == "changed"
    assert "the first layer that differs is changed" in str(outcome)


def test_a_difference_hidden_by_a_softmax_is_found_in_its_layer():
    mod = products("float32", "float32", tail=True)
    outcome = verify_network(mod, with_layer(mod, 0, starting_at(2.0**-10)), target="spm/edge-256")
    assert not outcome.passed
    assert outcome.layer == "changed"


def test_elements_have_bounds_of_their_own_where_numbers_are_rounded():
    mod = products("float32", "float32")
    data = np.random.default_rng(2).standard_normal((16, 32)).astype("float32")
    outcome = verify_network(mod, mod, [data], target="spm/edge-256")
    assert outcome.passed
    # Sums of 32 products, of size 1 to 3: 64 roundings of 2**-24, of random sign, are 8 * 3 * 6e-8 = 1.4e-6. For two
    # layers, two codes, and an element's own deviation beside the mean that is 1.4e-6 * 2 * 2 = 6e-6; 8 deviations.
    assert 0 < outcome.tolerance < 8 * 6e-6
    small = verify_network(mod, with_layer(mod, 0, starting_at(1e-4)), [data], target="spm/edge-256")
    assert not small.passed
    assert small.layer == "changed"


def test_code_that_cannot_be_compiled_is_a_failed_verification():
    mod = products("float32")
    name = next(var.name_hint for var, func in mod.functions.items() if isinstance(func, tirx.PrimFunc))
    wrong = mod.clone()
    call = tirx.Evaluate(tirx.call_extern("int32", "no_such_function_anywhere"))
    wrong[name] = with_root_block(mod[name].with_body(call)).with_attr("global_symbol", name)
    outcome = verify_network(mod, wrong, target="spm/edge-256")
    assert not outcome.passed
    assert outcome.reason is not None


@pytest.mark.parametrize(("dtype", "tail"), [("float16", False), ("float32", True)])
def test_what_is_found_out_beforehand_changes_no_outcome(dtype: str, tail: bool):
    mod = products(dtype, dtype, tail=tail)
    check = NetworkCheck(mod, target="spm/edge-256", seed=5)
    wrong = with_layer(mod, 1, starting_at(1.0))
    # Asked again and again, as where a layer is put back to the host.
    for tuned in (mod, wrong, mod):
        assert check.check(tuned) == verify_network(mod, tuned, target="spm/edge-256", seed=5)
    assert check.check(wrong).layer == "changed"
    check.end()
    assert check.check(mod).passed


def test_a_reference_that_is_lost_is_found_out_again():
    mod = products("float32", "float32")
    check = NetworkCheck(mod, target="spm/edge-256")
    verify_process.stop()
    assert check.check(mod).passed
    check.end()


def test_code_that_crashes_fails_beside_a_reference_as_without():
    mod = products("float32")
    name = next(var.name_hint for var, func in mod.functions.items() if isinstance(func, tirx.PrimFunc))
    wrong = mod.clone()
    call = tirx.Evaluate(tirx.call_extern("void", "abort"))
    wrong[name] = with_root_block(mod[name].with_body(call)).with_attr("global_symbol", name)
    check = NetworkCheck(mod, target="spm/edge-256")
    assert str(check.check(wrong)) == "the code crashed: the process that ran it was ended by SIGABRT"
    assert check.check(mod).passed
    check.end()


def test_nobody_waits_for_a_reference_that_is_no_longer_needed():
    check = NetworkCheck(products(*["float32"] * 40), target="spm/edge-256")
    start = time.monotonic()
    check.end()
    assert time.monotonic() - start < 3
