"""Runs a Relax module call by call, so that what lies between its layers can be looked at, and be disturbed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import tvm
from tvm import relax, tirx

from tvm_spm.deploy.runtime import run
from tvm_spm.deploy.verify.outcome import Array
from tvm_spm.frontend.extract import ENTRY

Visit = Callable[["Step", list[Array]], list[Array]]
"""Sees what a step made, and says what those who read it get."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One binding of ``main`` that computes something.

    Attributes:
        var: What it is bound to.
        name: Of the function that is called.
        func: The function, if it is one of TIR.
        arguments: What it reads, of a TIR function.
        reads: Parameters, and variables of other steps, that it depends on directly or through views of tuples.
    """

    var: relax.Var
    name: str
    func: tirx.PrimFunc | None
    arguments: tuple[relax.Expr, ...]
    reads: frozenset[relax.Var]


_NOTHING: Mapping[relax.Var, list[Array]] = MappingProxyType({})


class NetworkRun:
    """A network whose functions are compiled once.

    Args:
        mod: A module with static shapes; its operators lowered as far as TVM can.
        compile_module: Compiles a module of TIR functions.
        build_module: Compiles a Relax module, for the bindings that are no call of a TIR function.
    """

    def __init__(
        self,
        mod: tvm.IRModule,
        compile_module: Callable[[tvm.IRModule], tvm.runtime.Executable],
        build_module: Callable[[tvm.IRModule], relax.VMExecutable],
    ) -> None:
        self._mod, self._build = mod, build_module
        self._main = mod[ENTRY]
        self._functions = {
            name.name_hint: func.with_attr("global_symbol", name.name_hint)
            for name, func in mod.functions_items()
            if isinstance(func, tirx.PrimFunc)
        }
        self._compiled = compile_module(tvm.IRModule(self._functions)) if self._functions else None
        self._callable: dict[str, Callable[..., None]] = {}
        self._others: dict[relax.Var, tuple[relax.VMExecutable, list[relax.Var]]] = {}
        self._roots = {param: frozenset([param]) for param in self._main.params}
        for binding in self._bindings():
            self._roots[binding.var] = (
                frozenset([binding.var]) if self._computes(binding) else self._roots_of(binding.value)
            )

    @property
    def steps(self) -> list[Step]:
        """All bindings that compute something, in order."""
        return [self._step(binding) for binding in self._bindings() if self._computes(binding)]

    @property
    def outputs_read(self) -> frozenset[relax.Var]:
        """Parameters and variables of steps that the outputs are."""
        return self._roots_of(self._main.body.body)

    @property
    def params(self) -> list[relax.Var]:
        """Of ``main``."""
        return list(self._main.params)

    def __call__(
        self, inputs: Sequence[Array], visit: Visit, given: Mapping[relax.Var, list[Array]] = _NOTHING
    ) -> list[Array]:
        """Run once.

        Args:
            inputs: One array per parameter.
            visit: Called with every step that runs and its results.
            given: Results of steps that need not run.

        Returns:
            The outputs.
        """
        known: dict[relax.Var, object] = dict(zip(self._main.params, inputs, strict=True))
        left = self._uses()
        for binding in self._bindings():
            if self._computes(binding):
                made = given.get(binding.var)
                if made is None:
                    step = self._step(binding)
                    made = visit(step, self._results(step, binding, known))
                known[binding.var] = made if isinstance(binding.var.ty, relax.TupleType) else made[0]
            else:
                known[binding.var] = _value(binding.value, known)
            for var in relax.analysis.free_vars(binding.value):
                left[var] -= 1
                if not left[var] and var in known:
                    # A large network does not keep everything that it ever computed.
                    del known[var]
        return _flat(_value(self._main.body.body, known))

    def _bindings(self) -> list[relax.Binding]:
        return [binding for block in self._main.body.blocks for binding in block.bindings]

    def _uses(self) -> Counter[relax.Var]:
        found = Counter(var for binding in self._bindings() for var in relax.analysis.free_vars(binding.value))
        found.update(dict.fromkeys(relax.analysis.free_vars(self._main.body.body), 1 << 30))
        return found

    @staticmethod
    def _computes(binding: relax.Binding) -> bool:
        plain = (relax.Var, relax.Tuple, relax.TupleGetItem, tvm.ir.GenericConst)
        return not isinstance(binding.value, plain)

    def _step(self, binding: relax.Binding) -> Step:
        value = binding.value
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == "relax.call_tir":
            name = str(value.args[0].name_hint)
            if len(value.args) == 2 and isinstance(value.args[1], relax.Tuple) and _static(binding.var.ty):
                return Step(
                    var=binding.var, name=name, func=self._functions[name], arguments=tuple(value.args[1].fields),
                    reads=self._roots_of(value),
                )  # fmt: skip
        name = str(getattr(getattr(value, "op", None), "name", type(value).__name__))
        return Step(var=binding.var, name=name, func=None, arguments=(), reads=self._roots_of(value))

    def _roots_of(self, expr: relax.Expr) -> frozenset[relax.Var]:
        return frozenset(root for var in relax.analysis.free_vars(expr) for root in self._roots[var])

    def _results(self, step: Step, binding: relax.Binding, known: dict[relax.Var, object]) -> list[Array]:
        if step.func is None:
            return self._other(binding, known)
        types = step.var.ty.fields if isinstance(step.var.ty, relax.TupleType) else [step.var.ty]
        made = [
            tvm.runtime.tensor(np.zeros([int(extent) for extent in ty.shape.values], dtype=str(ty.dtype)))
            for ty in types
        ]
        arguments = [_tensor(_value(argument, known)) for argument in step.arguments]
        self._function(step.name)(*arguments, *made)
        return [tensor.numpy() for tensor in made]

    def _function(self, name: str) -> Callable[..., None]:
        """A compiled function, looked up once: TVM takes milliseconds to find one, longer than most of them run."""
        if name not in self._callable:
            assert self._compiled is not None
            self._callable[name] = self._compiled[name]
        return self._callable[name]

    def _other(self, binding: relax.Binding, known: dict[relax.Var, object]) -> list[Array]:
        """A binding that is no plain call: a network of its own, run by TVM's machine."""
        if binding.var not in self._others:
            free = list(relax.analysis.free_vars(binding.value))
            out = relax.Var("out", binding.var.ty)
            body = relax.SeqExpr([relax.BindingBlock([relax.VarBinding(out, binding.value)])], out)
            function = relax.Function(free, body, binding.var.ty, self._main.is_pure).with_attr("global_symbol", ENTRY)
            mod = tvm.IRModule(self._mod.functions, attrs=self._mod.attrs)
            mod[ENTRY] = function
            self._others[binding.var] = self._build(mod), free
        executable, free = self._others[binding.var]
        return run(executable, [np.asarray(known[var]) for var in free])


def can_follow(mod: tvm.IRModule) -> bool:
    """Whether a network can be run call by call: shapes that depend on data are known to TVM's machine only."""
    main = mod[ENTRY]
    known = set(main.params)
    for block in main.body.blocks:
        for binding in block.bindings:
            if isinstance(binding, relax.MatchCast) or not known.issuperset(relax.analysis.free_vars(binding.value)):
                return False
            known.add(binding.var)
    return True


def _static(ty: relax.Type) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(_static(field) for field in ty.fields)
    shape = getattr(ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(isinstance(extent, tirx.IntImm) for extent in shape.values)


def _value(expr: relax.Expr, known: dict[relax.Var, object]) -> object:
    if isinstance(expr, relax.Var):
        return known[expr]
    if isinstance(expr, tvm.ir.GenericConst):
        return expr.value.numpy()
    if isinstance(expr, relax.Tuple):
        return [_value(field, known) for field in expr.fields]
    if isinstance(expr, relax.TupleGetItem):
        whole = _value(expr.tuple_value, known)
        assert isinstance(whole, list)
        return whole[expr.index]
    raise NotImplementedError(f"an expression of type {type(expr).__name__} inside of another one")


def _tensor(value: object) -> tvm.runtime.Tensor:
    return tvm.runtime.tensor(np.asarray(value, order="C"))


def _flat(value: object) -> list[Array]:
    if isinstance(value, list):
        return [array for item in value for array in _flat(item)]
    return [np.asarray(value)]
