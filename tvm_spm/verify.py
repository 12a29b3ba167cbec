"""Runs scheduled code against the unscheduled reference and says where they first differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
import tvm_ffi
from numpy.typing import NDArray
from tvm import relax, tirx

from schedules.blocks import Block, count_ops, loads_of, read_blocks
from schedules.host import schedule_for_host
from schedules.nest import Nest, Unsupported, read_nest
from tvm_spm.errors import ModelError
from tvm_spm.runtime import build, run
from tvm_spm.target import HOST, PIPELINE
from tvm_spm.workload import REDUCTION_DIMS

Array = NDArray[np.generic]

_REFERENCE = "llvm"
_ROUNDINGS_PER_OP = 4
"""Per operation behind a sum: compilers may contract, and library functions may err, differently."""

_MAX_DRAW = 3
"""Floats are drawn as small whole numbers: their products and sums are exact, so a single wrong term shows."""

_DEVIATIONS = 8
"""Standard deviations that a sum of independent terms never leaves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One element that is not what it should be.

    Attributes:
        output: Which output, counted from 0.
        index: Element within it.
        expected: Value of the reference.
        actual: Value of the scheduled code.
    """

    output: int
    index: tuple[int, ...]
    expected: float
    actual: float

    def __str__(self) -> str:
        return f"output {self.output} at {list(self.index)}: expected {self.expected!r}, got {self.actual!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Outcome of one comparison.

    Attributes:
        passed: Every element is within ``tolerance`` of the reference.
        max_abs_error: Largest difference found; infinite if only one of two values is finite.
        tolerance: Largest difference allowed; 0 for integers and for float sums that are exact.
        first_difference: The first element, in storage order, that is not within tolerance.
    """

    passed: bool
    max_abs_error: float
    tolerance: float
    first_difference: Difference | None = None

    def __str__(self) -> str:
        if self.first_difference is None:
            return f"equal within {self.tolerance:.3g} (largest difference {self.max_abs_error:.3g})"
        return f"{self.first_difference}; tolerance {self.tolerance:.3g}, largest difference {self.max_abs_error:.3g}"


def verify_task(
    func: tirx.PrimFunc,
    scheduled_func: tirx.PrimFunc,
    *,
    rng: np.random.Generator,
    target: str | tvm.target.Target | None = None,
) -> Verification:
    """Compare a scheduled function with the function it was made from, on random inputs.

    Args:
        func: Not scheduled, with one multiply-accumulate nest, or with the blocks of several layers.
        scheduled_func: The same parameters; its schedule applied.
        rng: Draws the inputs.
        target: What the scheduled code is compiled for, an accelerator or the host; default the host.

    Raises:
        ModelError: ``func`` is not made of simple blocks, so its output cannot be told from its inputs.
    """
    blocks, nest = read_blocks(func), read_nest(func)
    if isinstance(blocks, str):
        raise ModelError(f"function cannot be verified: {blocks}")
    num_terms = _num_terms(nest)
    inputs = _draw(func, blocks, num_terms, rng)
    reference = tvm.compile(_module(schedule_for_host(func)), target=_REFERENCE)
    tuned = tvm.compile(_module(scheduled_func), target=target or tvm.target.Target(HOST), tir_pipeline=PIPELINE)
    expected = _call(reference, func, blocks, inputs)
    actual = _call(tuned, func, blocks, inputs)
    if isinstance(nest, Unsupported):
        roundings = 0 if _is_exact(expected) else _roundings_of_layers(blocks)
    else:
        roundings = _ROUNDINGS_PER_OP * nest.workload.epilogue.num_ops_per_elem
        roundings += 0 if _sums_exactly(nest, num_terms) else num_terms
    return compare([expected], [actual], num_roundings=roundings)


def verify_network(
    reference_mod: tvm.IRModule,
    tuned: tvm.IRModule | relax.VMExecutable,
    inputs: Sequence[Array],
    *,
    target: str | tvm.target.Target | None = None,
) -> Verification:
    """Compare a tuned network with the untuned module it was made from.

    Rounding errors of all sums of a network are taken as independent, so that they grow like the root of their number.

    Args:
        reference_mod: A Relax module as imported.
        tuned: Compiled, or a module that is compiled for ``target`` here.
        inputs: One array per parameter of ``main``, in order.
        target: An accelerator; only for a module.

    Raises:
        ModelError: A module is given without a target, or the numbers of outputs differ.
    """
    if isinstance(tuned, tvm.IRModule):
        if target is None:
            raise ModelError("verify_network: a module needs a target to be compiled for, or pass an executable")
        tuned = build(tuned, target)
    lowered = relax.transform.LegalizeOps()(reference_mod)
    num_roundings = math.ceil(_DEVIATIONS * math.sqrt(_terms_along_network(lowered)))
    functions = {
        name: schedule_for_host(func) if isinstance(func, tirx.PrimFunc) else func
        for name, func in lowered.functions.items()
    }
    reference = relax.build(tvm.IRModule(functions, attrs=lowered.attrs), target=_REFERENCE)
    return compare(run(reference, inputs), run(tuned, inputs), num_roundings=num_roundings)


def compare(expected: Sequence[Array], actual: Sequence[Array], *, num_roundings: int) -> Verification:
    """Compare outputs element by element; integers must be equal, floats within the rounding of their sums.

    Args:
        expected: Outputs of the reference.
        actual: As many outputs of the same shapes.
        num_roundings: Roundings on the way to one element; each may err by half an epsilon of the largest output.

    Raises:
        ModelError: The numbers or shapes of the outputs differ.
    """
    if [array.shape for array in expected] != [array.shape for array in actual]:
        raise ModelError(
            f"outputs have shapes {[a.shape for a in actual]}, the reference has {[e.shape for e in expected]}"
        )
    largest, allowed, first = 0.0, 0.0, None
    for position, (want, got) in enumerate(zip(expected, actual, strict=True)):
        tolerance = _tolerance(want, num_roundings)
        error = _abs_error(want, got)
        largest, allowed = max(largest, float(error.max(initial=0.0))), max(allowed, tolerance)
        wrong = error > tolerance
        if first is None and wrong.any():
            at = np.unravel_index(int(np.argmax(wrong)), want.shape)
            first = Difference(
                output=position, index=tuple(int(i) for i in at), expected=float(want[at]), actual=float(got[at])
            )
    return Verification(passed=first is None, max_abs_error=largest, tolerance=allowed, first_difference=first)


def _tolerance(want: Array, num_roundings: int) -> float:
    if not np.issubdtype(want.dtype, np.floating):
        return 0.0
    finite = np.abs(want[np.isfinite(want)])
    return num_roundings * float(np.finfo(str(want.dtype)).eps) * max(1.0, float(finite.max(initial=0.0)))


def _abs_error(want: Array, got: Array) -> NDArray[np.float64]:
    """Differences; two equal infinities or two NaNs do not differ, one of a kind differs by infinity."""
    wide_want, wide_got = want.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(wide_want - wide_got)
    same = (wide_want == wide_got) | (np.isnan(wide_want) & np.isnan(wide_got))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _module(func: tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def _call(
    compiled: tvm.runtime.Executable,
    func: tirx.PrimFunc,
    blocks: Sequence[Block],
    inputs: dict[int, tvm.runtime.Tensor],
) -> Array:
    """Run once into a fresh output that starts with a value no sum leaves in place unnoticed."""
    args, result = [], None
    for position, param in enumerate(func.params):
        if position in inputs:
            args.append(inputs[position])
            continue
        result = tvm.runtime.tensor(np.full([int(extent) for extent in param.shape], 113).astype(str(param.dtype)))
        args.append(result)
    if result is None:
        raise ModelError(f"function with blocks {[block.name for block in blocks]} writes no parameter")
    compiled["main"](*args)
    return result.numpy()


def _draw(
    func: tirx.PrimFunc, blocks: Sequence[Block], num_terms: int, rng: np.random.Generator
) -> dict[int, tvm.runtime.Tensor]:
    """Small whole numbers for every input; those the nest does not multiply are positive, for roots and logarithms."""
    multiplied = _multiplied_params(func, blocks)
    written = [block.buffer for block in blocks]
    inputs = {}
    for position, param in enumerate(func.params):
        if any(param.same_as(buffer) for buffer in written):
            continue
        dtype, shape = str(param.dtype), [int(extent) for extent in param.shape]
        bound = _amplitude(dtype, num_terms)
        low = 0 if dtype.startswith("uint") or dtype == "bool" else -bound
        if position not in multiplied:
            low = 1 if dtype != "bool" else 0
        high = 1 if dtype == "bool" else bound
        drawn = rng.integers(low, high, size=shape, dtype=np.int8, endpoint=True)
        inputs[position] = tvm.runtime.tensor(drawn.astype(dtype))
    return inputs


def _amplitude(dtype: str, num_terms: int) -> int:
    """Largest number drawn, so that sums stay exact; at least 1."""
    fitting = [bound for bound in range(1, _MAX_DRAW + 1) if _largest_sum(num_terms, bound**2) <= _exact_limit(dtype)]
    return max(fitting, default=1)


def _largest_sum(num_terms: int, largest_product: int) -> float:
    """What no partial sum exceeds: products of both signs wander."""
    return largest_product * min(float(num_terms), _DEVIATIONS * math.sqrt(num_terms))


def _exact_limit(dtype: str) -> float:
    """Whole numbers up to this are exact in a float type; integers wrap around equally in any order."""
    return 2.0 ** (np.finfo(dtype).nmant + 1) if dtype.startswith("float") else math.inf


def _is_exact(values: Array) -> bool:
    """Whether whole numbers must have stayed whole on the way to these: in all of them, no fraction, no large sum.

    What layers pass to each other is rarely larger than what the last makes of it by more than the factor left here.
    """
    return bool(
        np.all(values == np.rint(values)) and np.abs(values).max(initial=0) < _exact_limit(str(values.dtype)) / 16
    )


def _roundings_of_layers(blocks: Sequence[Block]) -> int:
    """Roundings of all sums and operations on the way to one element, taken as independent of each other."""
    terms = sum(
        math.prod(extent for _, extent, reduces in block.iters if reduces)
        + _ROUNDINGS_PER_OP * count_ops(block.store.value)
        for block in blocks
    )
    return math.ceil(_DEVIATIONS * math.sqrt(terms))


def _sums_exactly(nest: Nest, num_terms: int) -> bool:
    largest = _amplitude(nest.workload.I.dtype, num_terms) * _amplitude(nest.workload.W.dtype, num_terms)
    return _largest_sum(num_terms, largest) <= _exact_limit(nest.workload.O.dtype)


def _num_terms(nest: Nest | Unsupported) -> int:
    """Terms of one sum."""
    if isinstance(nest, Unsupported):
        return 1
    return math.prod(nest.workload.dims[name] for name in REDUCTION_DIMS)


def _multiplied_params(func: tirx.PrimFunc, blocks: Sequence[Block]) -> set[int]:
    """Parameters that a sum depends on."""
    pending = [load.source for block in blocks if block.reduces for load in loads_of(block.store.value)]
    found: set[int] = set()
    seen: list[object] = []
    while pending:
        buffer = pending.pop()
        if any(buffer.same_as(known) for known in seen):
            continue
        seen.append(buffer)
        found |= {position for position, param in enumerate(func.params) if param.same_as(buffer)}
        for block in blocks:
            if block.buffer.same_as(buffer):
                pending += [load.source for load in loads_of(block.store.value)]
    return found


def _terms_along_network(mod: tvm.IRModule) -> int:
    """Terms that one element of every sum has, over all calls."""
    terms = {}
    for name, func in mod.functions.items():
        if isinstance(func, tirx.PrimFunc):
            terms[name] = _num_terms(read_nest(func))
    total = 0

    def count(call: relax.Call) -> None:
        nonlocal total
        total += sum(terms.get(arg, 0) for arg in call.args if isinstance(arg, tvm.ir.GlobalVar))

    for func in mod.functions.values():
        if isinstance(func, relax.Function):
            tvm_ffi.structural_walk(func.body, (relax.Call, count), order="post")
    return total
