"""What the untuned network makes of its data, exactly or within a bound: all that needs no tuned code.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax, tirx

from schedules.host import schedule_for_host
from tvm_spm.deploy.runtime import run
from tvm_spm.deploy.verify.outcome import Array, abs_error, epsilon, is_float
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
class Expectation:
    """What a tuned network must make of some data.

    Attributes:
        data: One array per parameter.
        outputs: Of the reference.
        exact: What those steps make that round nothing; each can be looked at.
        tolerances: What every element of the outputs may differ by; None if ``num_roundings`` says it.
        num_roundings: On the way to one element; none if outputs must be equal.
        covers_outputs: Whether outputs are compared; else only the exact steps, on the way to another expectation.
    """

    data: Sequence[Array]
    outputs: Sequence[Array]
    exact: Mapping[relax.Var, list[Array]]
    tolerances: Sequence[Floats] | None = None
    num_roundings: int = 0
    covers_outputs: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """An untuned network, and what is expected of a tuned one.

    Attributes:
        network: It, to be run call by call; None if it cannot be.
        expectations: All of them, in the order in which they are looked at.
    """

    network: NetworkRun | None
    expectations: tuple[Expectation, ...]


def expect(mod: tvm.IRModule, constants: Sequence[Array], inputs: Sequence[Array] | None, seed: int) -> Reference:
    """Find out what a tuned network must compute.

    Args:
        mod: The reference, its operators lowered; the last parameters are the constants.
        constants: What the file says of them.
        inputs: One array per parameter, constants left out; drawn if None.
        seed: Of what is drawn.
    """
    rng = np.random.default_rng(seed)
    if not can_follow(mod):
        return Reference(network=None, expectations=(_of_outputs(mod, _data(mod, constants, inputs, rng)),))
    network = _reference(mod)
    found: list[Expectation] = []
    if inputs is None:
        whole = _whole_numbers(mod, constants, network.steps, rng)
        exact, outputs = _exact_results(network, whole)
        found.append(Expectation(data=whole, outputs=outputs or (), exact=exact, covers_outputs=outputs is not None))
        if outputs is not None:
            return Reference(network=network, expectations=tuple(found))
        if _multiplies_exactly(network.steps, exact):
            found.append(_within_bounds(network, whole, rng, exact))
            return Reference(network=network, expectations=tuple(found))
    data = _data(mod, constants, inputs, rng)
    exact, outputs = _exact_results(network, data)
    if outputs is not None:
        found.append(Expectation(data=data, outputs=outputs, exact={}))
    else:
        found.append(_within_bounds(network, data, rng, exact))
    return Reference(network=network, expectations=tuple(found))


def _of_outputs(mod: tvm.IRModule, data: Sequence[Array]) -> Expectation:
    """Of a network whose shapes depend on its data: what lies between its layers cannot be looked at.

    Rounding errors of all sums are taken as independent, so that they grow like the root of their number.
    """
    terms = sum(num_terms_of(read_nest(func)) for func in mod.functions.values() if isinstance(func, tirx.PrimFunc))
    expected = run(relax.build(mod, target=compiled_for(REFERENCE, mod)), data)
    return Expectation(data=data, outputs=expected, exact={}, num_roundings=math.ceil(DEVIATIONS * math.sqrt(terms)))


def _reference(mod: tvm.IRModule) -> NetworkRun:
    def compiled(part: tvm.IRModule) -> tvm.runtime.Executable:
        functions = {name: schedule_for_host(func) for name, func in part.functions.items()}
        scheduled = tvm.IRModule(functions)
        return tvm.compile(scheduled, target=compiled_for(REFERENCE, scheduled))

    return NetworkRun(mod, compiled, lambda part: relax.build(part, target=compiled_for(REFERENCE, part)))


def _exact_results(
    reference: NetworkRun, data: Sequence[Array]
) -> tuple[dict[relax.Var, list[Array]], list[Array] | None]:
    """What steps make of whole numbers without any rounding, and the outputs if they are among it.

    Steps that may round do not run.
    """
    exact: dict[relax.Var, list[Array]] = {}
    sure = {param for param, array in zip(reference.params, data, strict=True) if _is_whole(array)}

    def look(step: Step, made: list[Array]) -> list[Array]:
        if all(_is_whole(array) for array in made):
            sure.add(step.var)
            exact[step.var] = made
        return made

    outputs = reference.run_some(data, look, lambda step: step.reads <= sure and _keeps_whole(step))
    return exact, outputs if reference.outputs_read <= sure else None


def _multiplies_exactly(steps: Sequence[Step], exact: Mapping[relax.Var, list[Array]]) -> bool:
    """Whether most layers are among the exact ones, so that whole numbers say more than random ones."""
    nests = [step for step in steps if step.func is not None and _factors_of(step.func)[0]]
    return 2 * sum(step.var in exact for step in nests) > len(nests)


def _is_whole(array: Array) -> bool:
    return not is_float(str(array.dtype)) or is_exact(array)


def _within_bounds(
    reference: NetworkRun, data: Sequence[Array], rng: np.random.Generator, exact: Mapping[relax.Var, list[Array]]
) -> Expectation:
    """Of the outputs; steps that round nothing are not disturbed, and do not run again."""
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
    return Expectation(data=data, outputs=expected, exact={}, tolerances=tolerances)


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


def _data(
    mod: tvm.IRModule, constants: Sequence[Array], inputs: Sequence[Array] | None, rng: np.random.Generator
) -> list[Array]:
    """The inputs, drawn if there are none, and the constants."""
    num_given = len(mod[ENTRY].params) - len(constants)
    return [*(random_inputs(mod, rng)[:num_given] if inputs is None else inputs), *constants]


def _whole_numbers(
    mod: tvm.IRModule, constants: Sequence[Array], steps: Sequence[Step], rng: np.random.Generator
) -> list[Array]:
    """Whole numbers for all floats: sparse for weights, small elsewhere; other constants keep their numbers."""
    params = list(mod[ENTRY].params)
    num_given = len(params) - len(constants)
    count = min(num_inputs(mod[ENTRY]), num_given)
    terms = _terms_of_weights(steps)
    given = random_inputs(mod, rng)
    found: list[Array] = []
    for index, param in enumerate(params):
        array = given[index] if index < num_given else constants[index - num_given]
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
