"""Runs scheduled code against the unscheduled reference and says where they first differ.

Generated code runs in a process of its own, so that a crash there is a failed verification and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.deploy.verify.expected import expect
from tvm_spm.deploy.verify.messages import NetworkRequest, ReferenceRequest, TaskRequest
from tvm_spm.deploy.verify.network import TunedCode, check_network
from tvm_spm.deploy.verify.outcome import Array, Difference, Verification, compare
from tvm_spm.deploy.verify.process import Beforehand, ask, ask_beforehand
from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.frontend.tir.blocks import read_blocks
from tvm_spm.lowering.target import arch_of

__all__ = ["Difference", "NetworkCheck", "Verification", "compare", "verify_network", "verify_task"]


def verify_task(
    func: tirx.PrimFunc,
    scheduled_func: tirx.PrimFunc,
    *,
    rng: np.random.Generator,
    target: str | tvm.target.Target | None = None,
    asks: Callable[[TaskRequest], Verification] = ask,
) -> Verification:
    """Compare a scheduled function with the function it was made from, on random inputs.

    Args:
        func: Not scheduled, with one multiply-accumulate nest, or with the blocks of several layers.
        scheduled_func: The same parameters; its schedule applied.
        rng: Draws the inputs.
        target: What the scheduled code is compiled for, an accelerator or the host; default the host.
        asks: A process that runs code.

    Returns:
        The outcome; also where the scheduled code cannot be compiled or crashes.

    Raises:
        ModelError: ``func`` is not made of simple blocks, so its output cannot be told from its inputs.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        raise ModelError(f"function cannot be verified: {blocks}")
    request = TaskRequest(
        func=tvm.ir.save_json(func), scheduled=tvm.ir.save_json(scheduled_func),
        seed=int(rng.integers(1 << 62)), arch=None if target is None else arch_of(target),
    )  # fmt: skip
    return asks(request)


def verify_network(
    reference_mod: tvm.IRModule,
    tuned: tvm.IRModule | relax.VMExecutable,
    inputs: Sequence[Array] | None = None,
    *,
    target: str | tvm.target.Target | None = None,
    seed: int = 0,
) -> Verification:
    """Compare a tuned network with the untuned module it was made from.

    Where the numbers stay whole and small, elements must be equal; elsewhere each may differ by a bound that is found
    with stochastic arithmetic.

    Args:
        reference_mod: A Relax module as imported.
        tuned: A module that is compiled for ``target`` in another process and runs there, or compiled code, which runs
            in this one.
        inputs: One array per parameter of ``main``, in order; drawn if None: whole numbers, in the place of constants
            too, where the network keeps them whole, else random ones.
        target: An accelerator; only for a module.
        seed: Of what is drawn.

    Raises:
        ModelError: A module is given without a target, or the numbers of outputs differ.
    """
    if isinstance(tuned, tvm.IRModule):
        if target is None:
            raise ModelError("verify_network: a module needs a target to be compiled for, or pass an executable")
        constants = _Constants()
        reference, lifted = (constants.lifted(mod) for mod in (reference_mod, tuned))
        request = NetworkRequest(
            reference=_reference_request(constants, reference, inputs, seed),
            tuned=tvm.ir.save_json(constants.with_parameters(lifted)), arch=arch_of(target),
        )  # fmt: skip
        return ask(request)
    lowered = relax.transform.LegalizeOps()(reference_mod)
    return check_network(expect(lowered, (), inputs, seed), TunedCode(module=None, code=tuned, target=None))


class NetworkCheck:
    """``verify_network`` of modules that are tuned later: what needs no tuned code is found out from now on.

    Args:
        reference_mod: As for ``verify_network``.
        target: An accelerator.
        seed: Of what is drawn.

    Attributes:
        seed: The same.
    """

    def __init__(self, reference_mod: tvm.IRModule, *, target: str | tvm.target.Target, seed: int = 0) -> None:
        self.seed = seed
        self._reference, self._target = reference_mod, target
        self._constants = _Constants()
        request = _reference_request(self._constants, self._constants.lifted(reference_mod), None, seed)
        self._num_constants = len(self._constants.arrays)
        self._beforehand: Beforehand | None = ask_beforehand(request)

    @property
    def is_ready(self) -> bool:
        """Whether it is known what the network computes, so that a question is answered at once."""
        return self._beforehand is not None and self._beforehand.is_ready

    def check(self, tuned: tvm.IRModule) -> Verification:
        """The outcome for a tuned module; may be asked again.

        Raises:
            ModelError: The numbers of outputs differ.
        """
        lifted = self._constants.lifted(tuned)
        # Constants that the reference does not have would be parameters that it does not take.
        if self._beforehand is not None and len(self._constants.arrays) == self._num_constants:
            text = tvm.ir.save_json(self._constants.with_parameters(lifted))
            found = self._beforehand.ask(NetworkRequest(reference=None, tuned=text, arch=arch_of(self._target)))
            if found is not None:
                return found
        self.end()
        return verify_network(self._reference, tuned, target=self._target, seed=self.seed)

    def ask(self, request: TaskRequest) -> Verification:
        """Compare a task, in the process that compares the network; one thread asks at a time.

        Raises:
            ModelError: What is asked for cannot be compared.
        """
        found = None if self._beforehand is None else self._beforehand.ask(request)
        return ask(request) if found is None else found

    def end(self) -> None:
        """Nothing more will be asked."""
        if self._beforehand is not None:
            self._beforehand.end()
            self._beforehand = None


def _reference_request(
    constants: _Constants, lifted: tvm.IRModule, inputs: Sequence[Array] | None, seed: int
) -> ReferenceRequest:
    return ReferenceRequest(
        reference=tvm.ir.save_json(constants.with_parameters(lifted)), constants=tuple(constants.arrays),
        inputs=None if inputs is None else tuple(inputs), seed=seed,
    )  # fmt: skip


class _Constants:
    """Constants of two modules, which become parameters: so they need not be written as text, and can be drawn."""

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._known: list[tvm.ir.GenericConst] = []
        self._by_hash: dict[int, int] = {}

    def place(self, constant: tvm.ir.GenericConst) -> int:
        """The number of a constant."""
        key = hash(constant)
        if key not in self._by_hash:
            self._by_hash[key] = len(self.arrays)
            self._known.append(constant)
            self.arrays.append(constant.value.numpy())
        return self._by_hash[key]

    def lifted(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module with variables named by number instead of constants; they are not parameters yet."""
        made = mod.clone()
        made[ENTRY] = _Lifter(self).visit_expr(mod[ENTRY])
        return made

    def with_parameters(self, mod: tvm.IRModule) -> tvm.IRModule:
        """The module whose ``main`` takes all constants of both as its last parameters."""
        main = mod[ENTRY]
        free = {var.name: var for var in relax.analysis.free_vars(main)}
        names = [f"constant#{number}" for number in range(len(self._known))]
        params = [
            free[name] if name in free else relax.Var(name, constant.ty)
            for name, constant in zip(names, self._known, strict=True)
        ]
        made = mod.clone()
        made[ENTRY] = relax.Function([*main.params, *params], main.body, main.ret_ty, main.is_pure, main.attrs)
        return made


@mutator
class _Lifter(PyExprMutator):
    """Puts a variable in the place of every constant."""

    def __init__(self, constants: _Constants) -> None:
        super().__init__()
        self._constants = constants
        self._variables: dict[int, relax.Var] = {}

    def visit_generic_const_(self, constant: tvm.ir.GenericConst) -> relax.Expr:
        number = self._constants.place(constant)
        if number not in self._variables:
            self._variables[number] = relax.Var(f"constant#{number}", constant.ty)
        return self._variables[number]
