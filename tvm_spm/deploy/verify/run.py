"""Runs a Relax module call by call, so that what lies between its layers can be looked at, and be disturbed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, tirx

from tvm_spm.deploy.runtime import run
from tvm_spm.deploy.verify.outcome import Array
from tvm_spm.frontend.calls import ENTRY, called_functions, callee_of

Visit = Callable[["Step", list[Array]], list[Array]]
"""Sees what a step made, and says what those who read it get."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Step:
    """One binding that computes something, of ``main`` or, once for each time it runs, of a function that it calls.

    Attributes:
        var: What it is bound to; a variable of its own for each time it runs.
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


Scope = Mapping[relax.Var, relax.Expr]
"""Of one time that a function runs, what each of its variables is in the whole network; empty for ``main``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bound:
    """A binding of one time that a function runs.

    Attributes:
        var: In the whole network.
        value: As it stands in its function.
        origin: The variable of the function.
        scope: Of the variables in the value.
        reads: Variables of the whole network in the value.
        step: If it computes something.
    """

    var: relax.Var
    value: relax.Expr
    origin: relax.Var
    scope: Scope
    reads: tuple[relax.Var, ...]
    step: Step | None


_ALIGNMENT = 64
"""Bytes; compiled code takes every tensor to begin at a multiple of it."""

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
        self._called = {each.name: each.func for each in called_functions(mod)}
        self._main = self._called[ENTRY]
        self._functions = {
            name.name_hint: func.with_attr("global_symbol", name.name_hint)
            for name, func in mod.functions_items()
            if isinstance(func, tirx.PrimFunc)
        }
        self._compiled = compile_module(tvm.IRModule(self._functions)) if self._functions else None
        self._callable: dict[str, Callable[..., None]] = {}
        self._by_hash: dict[int, str] = {}
        self._others: dict[relax.Var, tuple[relax.VMExecutable, list[relax.Var]]] = {}
        self._roots = {param: frozenset([param]) for param in self._main.params}
        self._kinds: dict[relax.Var, list[tuple[tuple[int, ...], np.dtype[np.generic]]]] = {}
        self._num_runs = 0
        self._bound = list(self._expanded(self._main, {}))
        self._uses = Counter(var for bound in self._bound for var in bound.reads)
        self._uses.update(dict.fromkeys(relax.analysis.free_vars(self._main.body.body), 1 << 30))

    @property
    def steps(self) -> list[Step]:
        """All bindings that compute something, in order."""
        return [bound.step for bound in self._bound if bound.step is not None]

    @property
    def outputs_read(self) -> frozenset[relax.Var]:
        """Parameters and variables of steps that the outputs are."""
        return self._roots_of(relax.analysis.free_vars(self._main.body.body))

    @property
    def params(self) -> list[relax.Var]:
        """Of ``main``."""
        return list(self._main.params)

    def compiled(self, func: tirx.PrimFunc) -> Callable[..., None] | None:
        """The compiled code of a function of the network, whatever its name; None if this is none."""
        if not self._by_hash:
            for name, known in self._functions.items():
                self._by_hash.setdefault(tvm_ffi.structural_hash(_unnamed(known)), name)
        name = self._by_hash.get(tvm_ffi.structural_hash(_unnamed(func)), "")
        is_known = bool(name) and tvm_ffi.structural_equal(_unnamed(self._functions[name]), _unnamed(func))
        return self._function(name) if is_known else None

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
        made = self._run(inputs, visit, given, _always)
        assert made is not None
        return made

    def run_some(self, inputs: Sequence[Array], visit: Visit, is_needed: Callable[[Step], bool]) -> list[Array] | None:
        """Run only those steps for which ``is_needed``, asked right before each, says so.

        Returns:
            The outputs; None if steps that were left out are behind them.
        """
        return self._run(inputs, visit, _NOTHING, is_needed)

    def _run(
        self,
        inputs: Sequence[Array],
        visit: Visit,
        given: Mapping[relax.Var, list[Array]],
        is_needed: Callable[[Step], bool],
    ) -> list[Array] | None:
        known: dict[relax.Var, object] = dict(zip(self._main.params, inputs, strict=True))
        left = self._uses.copy()
        for bound in self._bound:
            step = bound.step
            if not known.keys() >= set(bound.reads) or (step is not None and not is_needed(step)):
                pass
            elif step is not None:
                made = given.get(bound.var)
                if made is None:
                    made = visit(step, self._results(step, bound, known))
                known[bound.var] = made if isinstance(bound.var.ty, relax.TupleType) else made[0]
            else:
                known[bound.var] = _value(bound.value, known, bound.scope)
            for var in bound.reads:
                left[var] -= 1
                if not left[var] and var in known:
                    # A large network does not keep everything that it ever computed.
                    del known[var]
        is_known = known.keys() >= set(relax.analysis.free_vars(self._main.body.body))
        return _flat(_value(self._main.body.body, known, {})) if is_known else None

    def _expanded(self, func: relax.Function, params: Scope) -> Iterator[_Bound]:
        """Bindings of one time that a function runs, and those of the functions that it calls in their place.

        Args:
            func: The function.
            params: What its parameters are in the whole network; empty for ``main``.
        """
        scope = dict(params)
        self._num_runs += 1
        for binding in (binding for block in func.body.blocks for binding in block.bindings):
            origin, value, inside = binding.var, binding.value, scope
            callee = callee_of(value)
            if callee in self._called:
                inner = self._called[callee]
                given = [_in_network(argument, scope) for argument in value.args]
                made: dict[relax.Var, relax.Expr] = dict(zip(inner.params, given, strict=True))
                for bound in self._expanded(inner, made):
                    made[bound.origin] = bound.var
                    yield bound
                value, inside = inner.body.body, made
            var = origin
            if func is not self._main:
                var = relax.Var(f"{origin.name}#{self._num_runs}", origin.ty)
                scope[origin] = var
            reads = tuple(_read_by(value, inside))
            step = self._step(var, value, inside, reads) if _computes(value) else None
            self._roots[var] = self._roots_of(reads) if step is None else frozenset([var])
            yield _Bound(var=var, value=value, origin=origin, scope=inside, reads=reads, step=step)

    def _step(self, var: relax.Var, value: relax.Expr, scope: Scope, reads: Sequence[relax.Var]) -> Step:
        roots = self._roots_of(reads)
        if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name == "relax.call_tir":
            name = str(value.args[0].name_hint)
            if len(value.args) == 2 and isinstance(value.args[1], relax.Tuple) and _static(var.ty):
                arguments = tuple(_in_network(argument, scope) for argument in value.args[1].fields)
                return Step(var=var, name=name, func=self._functions[name], arguments=arguments, reads=roots)
        name = str(getattr(getattr(value, "op", None), "name", type(value).__name__))
        return Step(var=var, name=name, func=None, arguments=(), reads=roots)

    def _roots_of(self, reads: Sequence[relax.Var]) -> frozenset[relax.Var]:
        return frozenset(root for var in reads for root in self._roots[var])

    def _results(self, step: Step, bound: _Bound, known: dict[relax.Var, object]) -> list[Array]:
        if step.func is None:
            return self._other(bound, known)
        results = [_zeros(shape, dtype) for shape, dtype in self._kinds_of(bound.origin)]
        made = [_tensor(result) for result in results]
        arguments = [_tensor(_value(argument, known, {})) for argument in step.arguments]
        self._function(step.name)(*arguments, *made)
        # Memory is shared as far as TVM can read it.
        return [
            result if shared.data_ptr() == _address(result) else shared.numpy()
            for result, shared in zip(results, made, strict=True)
        ]

    def _kinds_of(self, var: relax.Var) -> list[tuple[tuple[int, ...], np.dtype[np.generic]]]:
        """Shapes and types of the results of a step, for a variable as it stands in its function."""
        if var not in self._kinds:
            types = var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]
            self._kinds[var] = [
                (tuple(int(extent) for extent in ty.shape.values), np.dtype(str(ty.dtype))) for ty in types
            ]
        return self._kinds[var]

    def _function(self, name: str) -> Callable[..., None]:
        """A compiled function, looked up once: TVM takes milliseconds to find one, longer than most of them run."""
        if name not in self._callable:
            assert self._compiled is not None
            self._callable[name] = self._compiled[name]
        return self._callable[name]

    def _other(self, bound: _Bound, known: dict[relax.Var, object]) -> list[Array]:
        """A binding that is no plain call: a network of its own, run by TVM's machine."""
        if bound.origin not in self._others:
            free = list(relax.analysis.free_vars(bound.value))
            out = relax.Var("out", bound.var.ty)
            body = relax.SeqExpr([relax.BindingBlock([relax.VarBinding(out, bound.value)])], out)
            function = relax.Function(free, body, bound.var.ty, self._main.is_pure).with_attr("global_symbol", ENTRY)
            mod = tvm.IRModule(self._mod.functions, attrs=self._mod.attrs)
            mod[ENTRY] = function
            self._others[bound.origin] = self._build(mod), free
        executable, free = self._others[bound.origin]
        return run(executable, [np.asarray(_value(var, known, bound.scope)) for var in free])


def _unnamed(func: tirx.PrimFunc) -> tirx.PrimFunc:
    return func.without_attr("global_symbol")


def _always(step: Step) -> bool:
    return True


def can_follow(mod: tvm.IRModule) -> bool:
    """Whether a network can be run call by call: shapes that depend on data are known to TVM's machine only."""
    for each in called_functions(mod):
        known = set(each.func.params)
        for block in each.func.body.blocks:
            for binding in block.bindings:
                is_known = known.issuperset(relax.analysis.free_vars(binding.value))
                if isinstance(binding, relax.MatchCast) or not is_known:
                    return False
                known.add(binding.var)
    return True


def _in_network(argument: relax.Expr, scope: Scope) -> relax.Expr:
    return scope.get(argument, argument) if isinstance(argument, relax.Var) else argument


def _read_by(value: relax.Expr, scope: Scope) -> Iterator[relax.Var]:
    """Variables of the whole network in a value."""
    found = (scope.get(var, var) for var in relax.analysis.free_vars(value))
    return (var for var in found if isinstance(var, relax.Var))


def _computes(value: relax.Expr) -> bool:
    return not isinstance(value, (relax.Var, relax.Tuple, relax.TupleGetItem, tvm.ir.GenericConst))


def _static(ty: relax.Type) -> bool:
    if isinstance(ty, relax.TupleType):
        return all(_static(field) for field in ty.fields)
    shape = getattr(ty, "shape", None)
    return isinstance(shape, relax.ShapeExpr) and all(isinstance(extent, tirx.IntImm) for extent in shape.values)


def _value(expr: relax.Expr, known: dict[relax.Var, object], scope: Scope) -> object:
    if isinstance(expr, relax.Var):
        found = scope.get(expr, expr)
        return known[found] if isinstance(found, relax.Var) else _value(found, known, {})
    if isinstance(expr, tvm.ir.GenericConst):
        return expr.value.numpy()
    if isinstance(expr, relax.Tuple):
        return [_value(field, known, scope) for field in expr.fields]
    if isinstance(expr, relax.TupleGetItem):
        whole = _value(expr.tuple_value, known, scope)
        assert isinstance(whole, list)
        return whole[expr.index]
    raise NotImplementedError(f"an expression of type {type(expr).__name__} inside of another one")


def _tensor(value: object) -> tvm.runtime.Tensor:
    """An array as compiled code reads it: the same memory, or a copy where code could not read that."""
    array = np.asarray(value, order="C")
    if array.dtype.isbuiltin != 1 or not array.size:
        return tvm.runtime.tensor(array)
    if _address(array) % _ALIGNMENT or not array.flags.writeable:
        aligned = _zeros(array.shape, array.dtype)
        aligned[...] = array
        array = aligned
    return tvm_ffi.from_dlpack(array)


def _zeros(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    """An array of zeros where compiled code expects one to begin."""
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.zeros(num_bytes + _ALIGNMENT, np.uint8)
    skipped = -_address(raw) % _ALIGNMENT
    return raw[skipped : skipped + num_bytes].view(dtype).reshape(shape)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def _flat(value: object) -> list[Array]:
    if isinstance(value, list):
        return [array for item in value for array in _flat(item)]
    return [np.asarray(value)]
