"""Compares a tuned network with what is expected of it: step by step as far as nothing is rounded, then its outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from tvm_spm.deploy.runtime import build, run
from tvm_spm.deploy.verify.expected import Expectation, Reference
from tvm_spm.deploy.verify.outcome import Array, Verification, abs_error, compare, epsilon, is_float
from tvm_spm.deploy.verify.run import NetworkRun, Step
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TunedCode:
    """A tuned network.

    Attributes:
        module: With the parameters of the reference; None if there is compiled code alone.
        code: Compiled.
        target: Of the module.
    """

    module: tvm.IRModule | None
    code: relax.VMExecutable
    target: tvm.target.Target | None


def compile_tuned(mod: tvm.IRModule, target: tvm.target.Target) -> TunedCode | Verification:
    """The code of a module, or that it has none."""
    try:
        return TunedCode(module=mod, code=build(mod, target), target=target)
    except TVM_ERRORS as error:
        return Verification.failed(f"the network cannot be compiled: {first_line(error)}")


def check_network(reference: Reference, tuned: TunedCode) -> Verification:
    """Whether a tuned network computes what is expected of it."""
    outcome: Verification | None = None
    for expectation in reference.expectations:
        outcome = _check(reference.network, expectation, tuned)
        if outcome is not None and not outcome.passed:
            return outcome
    assert outcome is not None
    return outcome


def _check(reference: NetworkRun | None, expectation: Expectation, tuned: TunedCode) -> Verification | None:
    """None if nothing is wrong and the outputs are not among what is compared."""
    outcome = None
    if expectation.covers_outputs:
        outcome = compare(
            expectation.outputs, run(tuned.code, expectation.data),
            num_roundings=expectation.num_roundings, tolerances=expectation.tolerances,
        )  # fmt: skip
    if reference is None or (outcome is not None and outcome.passed):
        return outcome
    if expectation.exact:
        wrong = _first_wrong_step(reference, expectation, tuned)
        if outcome is None:
            return wrong
        return outcome if wrong is None else replace(outcome, layer=wrong.layer)
    if outcome is None or tuned.module is None:
        return outcome
    return replace(outcome, layer=first_layer(reference, _call_by_call(tuned), expectation.data))


def _first_wrong_step(reference: NetworkRun, expectation: Expectation, tuned: TunedCode) -> Verification | None:
    """Of the steps that round nothing, the first that does not make the same; None if there is none."""
    if tuned.module is None:
        return None
    calls = _call_by_call(tuned)
    names = _common_names(reference, calls)
    known = {var.name: made for var, made in expectation.exact.items() if var.name in names}
    found: list[Verification] = []

    def look(step: Step, made: list[Array]) -> list[Array]:
        want = known.get(step.var.name)
        if want is not None and not found and [array.shape for array in want] == [array.shape for array in made]:
            one = compare(want, made)
            if not one.passed:
                found.append(replace(one, layer=step.name))
        return made

    calls(expectation.data, look)
    return found[0] if found else None


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


def _call_by_call(tuned: TunedCode) -> NetworkRun:
    """The tuned network, its functions taken from the compiled code."""
    assert tuned.module is not None
    assert tuned.target is not None
    target = tuned.target
    return NetworkRun(tuned.module, lambda part: tuned.code.mod.imports[0], lambda part: build(part, target))
