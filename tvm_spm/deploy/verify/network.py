"""Compares a tuned network with the untuned one: exactly on whole numbers, or within a bound for every element.

As far as a network only adds, multiplies and compares, whole numbers stay whole, no sum is rounded whatever its order,
and every element of every layer must be equal. Weights are drawn sparse for this, one or two terms a sum, so that
numbers do not grow from layer to layer; that a long sum is right has been shown on the layer itself.

Elsewhere every result is rounded. How far roundings move an element of the output is found by stochastic arithmetic
(Vignes 1993; Parker 1997): the reference runs several times with roundings of the size that each of its functions may
commit, of random sign, put into everything it passes on. An element may differ by ``DEVIATIONS`` times what that moves
it, its own and the mean of its tensor together.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax, tirx

from schedules.host import schedule_for_host
from tvm_spm.deploy.runtime import build, run
from tvm_spm.deploy.verify.outcome import Array, Verification, abs_error, compare, epsilon, is_float
from tvm_spm.deploy.verify.run import NetworkRun, Step, can_follow
from tvm_spm.deploy.verify.task import (
    DEVIATIONS,
    REFERENCE,
    ROUNDINGS_PER_OP,
    is_exact,
    multiplied_params,
    num_terms_of,
)
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.inputs import num_inputs, random_inputs
from tvm_spm.frontend.tir.blocks import count_ops, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.lowering.processor import compiled_for

_RUNS = 4
"""Disturbed runs; the mean over a tensor makes up for their small number."""

_TERMS = {"float16": 1, "bfloat16": 1}
"""Terms of a sum of sparse whole numbers, on average: 2, or fewer where few bits keep whole numbers."""

_FUNCTIONS = 4096
"""Functions of which is remembered what was read off them: a step of a loop runs thousands of times."""

_WHOLE_CALLS = (
    "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "fabs", "floor", "if_then_else", "isnan",
    "likely", "max_value", "min_value", "nearbyint", "round", "shift_left", "shift_right", "trunc",
)  # fmt: skip
"""Functions that make whole numbers of whole numbers, without an error."""

_SELECTING = ("relax.argsort", "relax.nonzero", "relax.sort", "relax.topk", "relax.unique")
"""Operators without TIR that only choose among numbers."""

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Networks:
    """Two modules that should compute the same.

    Attributes:
        reference: Its operators lowered; its constants are parameters behind those of the tuned module.
        tuned: With the same parameters, or compiled.
        constants: What the file says of them.
        target: Of the tuned module.
    """

    reference: tvm.IRModule
    tuned: tvm.IRModule | relax.VMExecutable
    constants: tuple[Array, ...]
    target: tvm.target.Target | None


def run_networks(networks: Networks, inputs: Sequence[Array] | None, seed: int) -> Verification:
    """What ``verify.verify_network`` says, in this process.

    Args:
        networks: Both modules.
        inputs: One array per parameter, constants left out; drawn if None.
        seed: Of what is drawn.
    """
    tuned = networks.tuned
    if isinstance(tuned, tvm.IRModule):
        assert networks.target is not None
        try:
            tuned = build(tuned, networks.target)
        except TVM_ERRORS as error:
            return Verification.failed(f"the network cannot be compiled: {first_line(error)}")
    rng = np.random.default_rng(seed)
    if not can_follow(networks.reference):
        data = [*(_drawn(networks, rng) if inputs is None else inputs), *networks.constants]
        return _by_outputs(networks.reference, tuned, data)
    reference = _reference(networks.reference)
    if inputs is None:
        whole = _whole_numbers(networks, reference.steps, rng)
        outcome, exact = _on_whole_numbers(reference, networks, tuned, whole)
        if outcome is not None:
            return outcome
        if _multiplies_exactly(reference.steps, exact):
            return _within_bounds(reference, networks, tuned, whole, rng, exact)
    data = [*(_drawn(networks, rng) if inputs is None else inputs), *networks.constants]
    exact, expected, is_everything = _exact_results(reference, data)
    if not is_everything:
        return _within_bounds(reference, networks, tuned, data, rng, exact)
    return _with_layer(compare(expected, run(tuned, data)), reference, networks, tuned, data)


def _by_outputs(mod: tvm.IRModule, tuned: relax.VMExecutable, data: Sequence[Array]) -> Verification:
    """Compare a network whose shapes depend on its data: what lies between its layers cannot be looked at.

    Rounding errors of all sums are taken as independent, so that they grow like the root of their number.
    """
    terms = sum(num_terms_of(read_nest(func)) for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    expected = run(relax.build(mod, target=compiled_for(REFERENCE, mod)), data)
    return compare(expected, run(tuned, data), num_roundings=math.ceil(DEVIATIONS * math.sqrt(terms)))


def _with_layer(
    outcome: Verification,
    reference: NetworkRun,
    networks: Networks,
    tuned: relax.VMExecutable,
    data: Sequence[Array],
) -> Verification:
    """The outcome; of a module that differs, with the layer where that begins."""
    if outcome.passed or not isinstance(networks.tuned, tvm.IRModule):
        return outcome
    return replace(outcome, layer=first_layer(reference, _call_by_call(networks, tuned), data))


def first_layer(reference: NetworkRun, tuned: NetworkRun, data: Sequence[Array]) -> str | None:
    """The first step of a tuned network whose result is not nearly that of the reference, by name."""
    expected: dict[str, list[Array]] = {}
    names = _common_names(reference, tuned)

    def keep(step: Step, made: list[Array]) -> list[Array]:
        if step.var.name in names:
            expected[step.var.name] = made
        return made

    reference(data, keep)
    found: list[str] = []

    def look(step: Step, made: list[Array]) -> list[Array]:
        want = expected.get(step.var.name)
        if found or want is None or [array.shape for array in want] != [array.shape for array in made]:
            return made
        if any(_differs(one, other) for one, other in zip(want, made, strict=True)):
            found.append(step.name)
        return made

    tuned(data, look)
    return found[0] if found else None


def _common_names(reference: NetworkRun, tuned: NetworkRun) -> frozenset[str]:
    """Names of variables that stand for one step in each of both networks, and so for the same tensor."""
    counts = [Counter(step.var.name for step in network.steps) for network in (reference, tuned)]
    return frozenset(name for name, count in counts[0].items() if count == 1 and counts[1][name] == 1)


def _differs(want: Array, got: Array) -> bool:
    """By more than rounding could explain in a layer whose inputs are right."""
    dtype = str(want.dtype)
    error = float(abs_error(want, got).max(initial=0.0))
    if not is_float(dtype):
        return error > 0
    wide = np.abs(want.astype(np.float64))
    return error > 64 * epsilon(dtype) * float(wide[np.isfinite(wide)].max(initial=0.0))


def _reference(mod: tvm.IRModule) -> NetworkRun:
    def compiled(part: tvm.IRModule) -> tvm.runtime.Executable:
        functions = {name: schedule_for_host(func) for name, func in part.functions.items()}
        scheduled = tvm.IRModule(functions)
        return tvm.compile(scheduled, target=compiled_for(REFERENCE, scheduled))

    return NetworkRun(mod, compiled, lambda part: relax.build(part, target=compiled_for(REFERENCE, part)))


def _call_by_call(networks: Networks, tuned: relax.VMExecutable) -> NetworkRun:
    """The tuned network, its functions taken from the compiled code."""
    mod, target = networks.tuned, networks.target
    assert isinstance(mod, tvm.IRModule)
    return NetworkRun(mod, lambda part: tuned.mod.imports[0], lambda part: build(part, target))


def _exact_results(
    reference: NetworkRun, data: Sequence[Array]
) -> tuple[dict[relax.Var, list[Array]], list[Array], bool]:
    """What steps make of whole numbers without any rounding, the outputs, and whether these are among it."""
    exact: dict[relax.Var, list[Array]] = {}
    sure = {param for param, array in zip(reference.params, data, strict=True) if _is_whole(array)}

    def look(step: Step, made: list[Array]) -> list[Array]:
        if step.reads <= sure and _keeps_whole(step) and all(_is_whole(array) for array in made):
            sure.add(step.var)
            exact[step.var] = made
        return made

    outputs = reference(data, look)
    return exact, outputs, reference.outputs_read <= sure


def _multiplies_exactly(steps: Sequence[Step], exact: Mapping[relax.Var, list[Array]]) -> bool:
    """Whether most layers are among the exact ones, so that whole numbers say more than random ones."""
    nests = [step for step in steps if step.func is not None and _factors_of(step.func)[0]]
    return 2 * sum(step.var in exact for step in nests) > len(nests)


def _on_whole_numbers(
    reference: NetworkRun, networks: Networks, tuned: relax.VMExecutable, data: Sequence[Array]
) -> tuple[Verification | None, dict[relax.Var, list[Array]]]:
    """Compare every step up to which whole numbers stay whole.

    Returns:
        The outcome, None if that is right and not yet everything; and what these steps make.
    """
    exact, expected, is_everything = _exact_results(reference, data)
    outcome = compare(expected, run(tuned, data)) if is_everything else None
    if outcome is not None and outcome.passed:
        return outcome, exact
    is_module = isinstance(networks.tuned, tvm.IRModule)
    calls = _call_by_call(networks, tuned) if is_module else None
    names = _common_names(reference, calls) if calls is not None else frozenset()
    known = {var.name: made for var, made in exact.items() if var.name in names}
    found: list[Verification] = []

    def look(step: Step, made: list[Array]) -> list[Array]:
        want = known.get(step.var.name)
        if want is not None and not found and [array.shape for array in want] == [array.shape for array in made]:
            one = compare(want, made)
            if not one.passed:
                found.append(replace(one, layer=step.name))
        return made

    if calls is not None:
        calls(data, look)
    if outcome is not None:
        return (replace(outcome, layer=found[0].layer) if found else outcome), exact
    return (found[0] if found else None), exact


def _is_whole(array: Array) -> bool:
    return not is_float(str(array.dtype)) or is_exact(array)


def _within_bounds(
    reference: NetworkRun,
    networks: Networks,
    tuned: relax.VMExecutable,
    data: Sequence[Array],
    rng: np.random.Generator,
    exact: Mapping[relax.Var, list[Array]],
) -> Verification:
    """Compare the outputs; steps that round nothing are not disturbed, and do not run again."""
    expected = reference(data, lambda step, made: made, exact)
    squares: list[Floats] = [np.zeros(array.shape) for array in expected]
    for _ in range(_RUNS):
        moved = reference(data, lambda step, made: [_disturbed(step, array, rng) for array in made], exact)
        for position, (want, got) in enumerate(zip(expected, moved, strict=True)):
            error = abs_error(want, got)
            squares[position] += np.where(np.isfinite(error), error, 0.0) ** 2 / _RUNS
    # Both codes round, independently of each other.
    tolerances = [
        DEVIATIONS * math.sqrt(2) * (np.sqrt(square) + math.sqrt(float(square.mean())) + _least(want))
        if is_float(str(want.dtype)) and want.size else np.zeros(want.shape)
        for square, want in zip(squares, expected, strict=True)
    ]  # fmt: skip
    outcome = compare(expected, run(tuned, data), tolerances=tolerances)
    return _with_layer(outcome, reference, networks, tuned, data)


def _least(want: Array) -> Floats:
    """Half a unit in the last place of the result itself, and the smallest number of its type."""
    wide = np.abs(want.astype(np.float64))
    return np.where(np.isfinite(wide), wide, 0.0) * epsilon(str(want.dtype)) / 2 + 1e-38


def _disturbed(step: Step, made: Array, rng: np.random.Generator) -> Array:
    """What a step made, with a rounding error of the size of all its roundings, of random sign, in every element."""
    dtype = str(made.dtype)
    if not is_float(dtype) or not made.size:
        return made
    wide = made.astype(np.float64)
    finite = np.where(np.isfinite(wide), wide, 0.0)
    # Where terms of both signs cancel, roundings are as large as elsewhere in the tensor.
    size = (np.abs(finite) + math.sqrt(float(np.mean(finite**2)))) * epsilon(dtype) / 2
    signs = rng.integers(0, 2, made.shape, dtype=np.int8).astype(np.float64) * 2 - 1
    # A view or a copy rounds nothing, and what is exactly zero behind a ReLU stays zero.
    moved = np.where(finite == 0, wide, wide + signs * size * math.sqrt(_num_roundings(step)))
    return moved.astype(made.dtype)


def _num_roundings(step: Step) -> int:
    """Roundings on the way to one element of what a step makes."""
    return ROUNDINGS_PER_OP if step.func is None else _roundings_of(step.func)


@lru_cache(maxsize=_FUNCTIONS)
def _roundings_of(func: tirx.PrimFunc) -> int:
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        return ROUNDINGS_PER_OP
    return sum(
        math.prod(extent for _, extent, reduces in block.iters if reduces) * block.reduces
        + ROUNDINGS_PER_OP * count_ops(block.store.value)
        for block in blocks
    )


def _keeps_whole(step: Step) -> bool:
    """Whether a step makes whole numbers of whole numbers and rounds none that is small enough."""
    return step.name in _SELECTING if step.func is None else _function_keeps_whole(step.func)


@lru_cache(maxsize=_FUNCTIONS)
def _function_keeps_whole(func: tirx.PrimFunc) -> bool:
    found: list[object] = []

    def division(node: tirx.Div) -> None:
        if is_float(str(node.ty.dtype)):
            found.append(node)

    def call(node: tvm.ir.Call) -> None:
        name = str(getattr(node.op, "name", "")).rpartition(".")[2]
        if "float" in str(node.ty) and name not in _WHOLE_CALLS:
            found.append(node)

    def number(node: tirx.FloatImm) -> None:
        if math.isfinite(node.value) and node.value != round(node.value):
            found.append(node)

    for kind, visit in ((tirx.Div, division), (tvm.ir.Call, call), (tirx.FloatImm, number)):
        tvm_ffi.structural_walk(func.body, (kind, visit), order="post")
    return not found


def _params(networks: Networks) -> tuple[list[relax.Var], int]:
    """Parameters of the reference, and how many of them are no constants."""
    params = list(networks.reference[ENTRY].params)
    return params, len(params) - len(networks.constants)


def _drawn(networks: Networks, rng: np.random.Generator) -> list[Array]:
    """Random numbers for all parameters that are no constants."""
    _, num_given = _params(networks)
    return random_inputs(networks.reference, rng)[:num_given]


def _whole_numbers(networks: Networks, steps: Sequence[Step], rng: np.random.Generator) -> list[Array]:
    """Whole numbers for all floats: sparse for weights, small elsewhere; other constants keep their numbers."""
    params, num_given = _params(networks)
    count = min(num_inputs(networks.reference[ENTRY]), num_given)
    terms = _terms_of_weights(steps)
    given = random_inputs(networks.reference, rng)
    found: list[Array] = []
    for index, param in enumerate(params):
        array = given[index] if index < num_given else networks.constants[index - num_given]
        dtype = str(array.dtype)
        if not is_float(dtype):
            found.append(array)
        elif param in terms and index >= count:
            signs = rng.integers(0, 2, array.shape, dtype=np.int8) * 2 - 1
            found.append(
                (signs * (rng.random(array.shape, dtype=np.float32) < _TERMS.get(dtype, 2) / terms[param])).astype(
                    dtype
                )
            )
        elif index < count:
            found.append(rng.integers(-3, 4, array.shape, dtype=np.int8).astype(dtype))
        else:
            # Scales of 2 are rare, since layers multiply them.
            found.append((1 + (rng.random(array.shape, dtype=np.float32) < 1 / 16)).astype(dtype))
    return found


def _terms_of_weights(steps: Sequence[Step]) -> dict[relax.Var, int]:
    """Per parameter that a nest multiplies, the terms of a sum."""
    found: dict[relax.Var, int] = {}
    for step in steps:
        num_terms, params = (0, frozenset[int]()) if step.func is None else _factors_of(step.func)
        for position in params:
            if position < len(step.arguments) and isinstance(step.arguments[position], relax.Var):
                found[step.arguments[position]] = num_terms
    return found


@lru_cache(maxsize=_FUNCTIONS)
def _factors_of(func: tirx.PrimFunc) -> tuple[int, frozenset[int]]:
    """Terms of the sum of a nest, and the parameters that it multiplies; none for other functions."""
    nest, blocks = read_nest(func), read_blocks(func)
    if not isinstance(nest, TirNest) or isinstance(blocks, str):
        return 0, frozenset()
    return num_terms_of(nest), frozenset(multiplied_params(func, blocks))
