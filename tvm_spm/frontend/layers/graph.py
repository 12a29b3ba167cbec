"""The layers of a network, what each reads and writes, and which Relax binding each is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import tvm
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import CalledFunction, called_functions, callee_of
from tvm_spm.frontend.extract import Extraction
from tvm_spm.frontend.inputs import num_inputs as num_inputs_of
from tvm_spm.frontend.layers.access import FunctionAccess, function_access, whole_access
from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, VectorWork, Workload

_CALL_TIR = ("relax.call_tir", "relax.call_tir_inplace")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkLayers:
    """A network as layers.

    Attributes:
        graph: The layers, every branch in one piece: see ``graph``.
        bindings: Per layer, the variable that its call is bound to, of ``main`` or of a function that it calls.
        node_of_layer: Per layer, its node in ``extraction.graph.nodes``.
        times: Per layer, how often it runs.
        arguments: Per layer, the tensors that the call passes to the function, in order of its parameters.
        widened: Per layer, axes of which it is taken to read everything because their index is not affine.
        values: Per tensor, the Relax expression that it is.
    """

    graph: LayerGraph
    bindings: tuple[relax.Var, ...]
    node_of_layer: tuple[int, ...]
    times: tuple[int, ...]
    arguments: tuple[tuple[int, ...], ...]
    widened: tuple[tuple[str, ...], ...]
    values: tuple[relax.Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Call:
    """A call of a TIR function that is a task."""

    var: relax.Var
    name: str
    arguments: tuple[int, ...]
    results: tuple[int, ...]
    is_in_place: bool
    function: str
    block: int


@dataclass(slots=True, kw_only=True, eq=False)
class _Found:
    """What the walk over ``main`` and the functions that it calls has found so far."""

    tensors: list[GraphTensor] = field(default_factory=list)
    values: list[relax.Expr] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    known: dict[relax.Var, tuple[int, ...]] = field(default_factory=dict)
    """Per variable its tensors; several for a tuple."""
    constants: dict[int, int] = field(default_factory=dict)
    """Tensors of constants, by the hash of the Relax object."""
    calls: list[_Call] = field(default_factory=list)
    needed: dict[int, None] = field(default_factory=dict)
    """Tensors that are needed outside of layers."""
    given: dict[str, list[bool]] = field(default_factory=dict)
    """Per called function, whether each of its parameters is a constant in every call."""

    def add(self, name: str, ty: relax.Type, value: relax.Expr, *, is_constant: bool = False) -> int | None:
        """A new tensor; None where the type is no tensor of known shape."""
        shape = getattr(ty, "shape", None)
        if not isinstance(ty, relax.TensorType) or not isinstance(shape, relax.ShapeExpr):
            return None
        if not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape.values):
            return None
        extents = tuple(int(extent) for extent in shape.values)
        unique = _unique(name, self.names)
        self.tensors.append(GraphTensor(name=unique, shape=extents, dtype=str(ty.dtype), is_constant=is_constant))
        self.values.append(value)
        return len(self.tensors) - 1

    def add_all(self, name: str, ty: relax.Type, value: relax.Expr, *, is_constant: bool = False) -> tuple[int, ...]:
        """New tensors, one per field of a tuple."""
        fields = list(ty.fields) if isinstance(ty, relax.TupleType) else [ty]
        found = [self.add(name, entry, value, is_constant=is_constant) for entry in fields]
        return tuple(tensor for tensor in found if tensor is not None) if None not in found else ()

    def tensors_of(self, expr: relax.Expr) -> tuple[int, ...]:
        """The tensors that an expression is."""
        if isinstance(expr, relax.Var):
            return self.known.get(expr, ())
        if isinstance(expr, tvm.ir.GenericConst):
            key = hash(expr)
            if key not in self.constants:
                made = self.add("constant", expr.ty, expr, is_constant=True)
                if made is None:
                    return ()
                self.constants[key] = made
            return (self.constants[key],)
        if isinstance(expr, relax.Tuple):
            return tuple(tensor for entry in expr.fields for tensor in self.tensors_of(entry))
        if isinstance(expr, relax.TupleGetItem):
            fields = self.tensors_of(expr.tuple_value)
            whole = expr.tuple_value.ty
            flat = isinstance(whole, relax.TupleType) and len(fields) == len(whole.fields)
            return (fields[expr.index],) if flat else ()
        return ()


def layer_graph(extraction: Extraction, late: Collection[relax.Var] = ()) -> NetworkLayers:
    """The layers of a network.

    Every call that is a task is a layer. A call that is none, such as a view, is outside: what it reads is needed
    outside, and what it makes is a tensor without producer.

    Layers are in depth-first order from the outputs of the network, in the order of the arguments of each call, so
    that the branches between a split and a join follow each other and may become one group. It may differ from the
    order of the bindings, which are pure. Where a function has several blocks (control flow) or writes in place, the
    order is that of the bindings.

    Layers of a function that ``main`` calls stand behind those of its callers, once, however often they run. What they
    read of others comes in as tensors without producer, so that no group holds layers of two functions.

    Args:
        extraction: The network.
        late: Variables that are to be computed right before the call that reads them, rather than in the order of its
            arguments.

    Raises:
        ModelError: A call passes something else than tensors of known shape.
    """
    found = _walk(extraction)
    tasks = dict(extraction.functions)
    known: dict[str, FunctionAccess] = {}
    accesses = [_access(extraction, found, call, tasks[call.name], known) for call in found.calls]
    order = _order(extraction, found, late)
    names: set[str] = set()
    layers = []
    for position, node in enumerate(order):
        call = found.calls[node]
        task = tasks[call.name]
        layers.append(_layer(found, call, accesses[node], extraction.graph.tasks[task].work, names))
        for tensor in call.results:
            found.tensors[tensor] = replace(found.tensors[tensor], producer=position)
    outputs = tuple(tensor for tensor in found.needed if found.tensors[tensor].producer is not None)
    return NetworkLayers(
        graph=LayerGraph(
            tensors=tuple(found.tensors),
            layers=tuple(layers),
            outputs=outputs,
            behind=_behind(extraction, found, order, layers),
        ),
        bindings=tuple(found.calls[node].var for node in order),
        node_of_layer=tuple(order),
        times=tuple(extraction.times[node] for node in order),
        arguments=tuple(found.calls[node].arguments for node in order),
        widened=tuple(accesses[node].widened for node in order),
        values=tuple(found.values),
    )


def _behind(
    extraction: Extraction, found: _Found, order: Sequence[int], layers: Sequence[Layer]
) -> tuple[tuple[int, int], ...]:
    """See ``LayerGraph.behind``."""
    place = {node: position for position, node in enumerate(order)}
    pairs = []
    for position, layer in enumerate(layers):
        direct = {found.tensors[read.tensor].producer for read in layer.reads}
        inputs = {place[node] for node in extraction.graph.nodes[order[position]].inputs}
        pairs += [(other, position) for other in sorted(inputs - direct - {position})]
    return tuple(pairs)


def _walk(extraction: Extraction) -> _Found:
    """Visit every binding of ``main`` and of the functions that it calls."""
    found, called = _Found(), called_functions(extraction.mod)
    tasks = dict(extraction.functions)
    num_inputs = num_inputs_of(called[0].func)
    found.given = {called[0].name: [index >= num_inputs for index in range(len(called[0].func.params))]}
    for each in called:
        for param, is_constant in zip(each.func.params, found.given[each.name], strict=True):
            found.known[param] = found.add_all(param.name, param.ty, param, is_constant=is_constant)
        for number, block in enumerate(each.func.body.blocks):
            for binding in block.bindings:
                _visit(found, binding, tasks, (each, number))
        found.needed.update(dict.fromkeys(found.tensors_of(each.func.body.body)))
    return found


def _visit(found: _Found, binding: relax.Binding, tasks: dict[str, int], place: tuple[CalledFunction, int]) -> None:
    var, value = binding.var, binding.value
    if isinstance(value, (relax.Var, tvm.ir.GenericConst, relax.Tuple, relax.TupleGetItem)):
        tensors = found.tensors_of(value)
        if tensors:
            found.known[var] = tensors
            return
    arguments = tuple(tensor for expr in _read_by(value) for tensor in found.tensors_of(expr))
    name = _called(value)
    if name is not None and name in tasks:
        results = found.add_all(var.name, var.ty, var)
        found.known[var] = results
        found.calls.append(
            _Call(
                var=var,
                name=name,
                arguments=arguments,
                results=results,
                is_in_place=value.op.name != "relax.call_tir",
                function=place[0].name,
                block=place[1],
            )
        )
        return
    callee = callee_of(value)
    if callee is not None:
        of_call = [_is_constant(found, found.tensors_of(argument)) for argument in value.args]
        before = found.given.get(callee, of_call)
        found.given[callee] = [one and other for one, other in zip(before, of_call, strict=True)]
    is_constant = _is_constant(found, arguments)
    found.known[var] = found.add_all(var.name, var.ty, var, is_constant=is_constant)
    found.needed.update(dict.fromkeys(arguments))


def _is_constant(found: _Found, tensors: tuple[int, ...]) -> bool:
    return bool(tensors) and all(found.tensors[tensor].is_constant for tensor in tensors)


def _called(value: relax.Expr) -> str | None:
    """The TIR function that a call runs."""
    if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) and value.op.name in _CALL_TIR:
        return str(value.args[0].name_hint)
    return None


def _read_by(value: relax.Expr) -> list[relax.Expr]:
    """Variables and constants that an expression reads, in order; all that branches read for control flow."""
    if isinstance(value, relax.Call):
        return [part for arg in value.args for part in _read_by(arg)]
    if isinstance(value, relax.Tuple):
        return [part for entry in value.fields for part in _read_by(entry)]
    if isinstance(value, relax.TupleGetItem):
        return [value]
    if isinstance(value, relax.If):
        return [value.cond, *relax.analysis.free_vars(value)]
    return [value] if isinstance(value, (relax.Var, tvm.ir.GenericConst)) else list(relax.analysis.free_vars(value))


def _order(extraction: Extraction, found: _Found, late: Collection[relax.Var]) -> list[int]:
    """Function by function, the calls of each in an order in which they can run."""
    names = dict.fromkeys(call.function for call in found.calls)
    members = {name: [index for index, call in enumerate(found.calls) if call.function == name] for name in names}
    return [index for inside in members.values() for index in _order_inside(extraction, found, late, inside)]


def _order_inside(
    extraction: Extraction, found: _Found, late: Collection[relax.Var], inside: Sequence[int]
) -> Sequence[int]:
    """Calls in depth-first order from the outputs, or as they are bound where their order may matter."""
    nodes, calls = extraction.graph.nodes, found.calls
    own = [calls[index] for index in inside]
    if len({call.block for call in own}) > 1 or any(call.is_in_place for call in own):
        return inside
    writer = {tensor: index for index in inside for tensor in calls[index].results}
    order: dict[int, None] = {}
    roots = [writer[tensor] for tensor in reversed(found.needed) if tensor in writer]
    for root in [*roots, *inside]:
        pending = [(root, False)]
        while pending:
            index, is_done = pending.pop()
            if index in order:
                continue
            if is_done:
                order[index] = None
                continue
            pending.append((index, True))
            direct = [writer[tensor] for tensor in calls[index].arguments if tensor in writer]
            # Inputs behind a view are no arguments of the call.
            before = sorted(dict.fromkeys([*direct, *nodes[index].inputs]), key=lambda node: calls[node].var in late)
            pending += [(other, False) for other in reversed(before)]
    return list(order)


def _access(
    extraction: Extraction, found: _Found, call: _Call, task: int, known: dict[str, FunctionAccess]
) -> FunctionAccess:
    if call.is_in_place:
        shapes = [found.tensors[tensor].shape for tensor in (*call.arguments, call.results[0])]
        return whole_access(tuple(shapes[:-1]), shapes[-1], "it writes in place")
    if call.name not in known:
        known[call.name] = function_access(extraction.mod[call.name], extraction.nests[task])
    access = known[call.name]
    if len(call.arguments) != access.num_inputs:
        raise ModelError(
            f"call of {call.name}: {len(call.arguments)} arguments are tensors of known shape, "
            f"its function reads {access.num_inputs}"
        )
    return access


def _layer(found: _Found, call: _Call, access: FunctionAccess, work: Workload | VectorWork, names: set[str]) -> Layer:
    reads = tuple(
        Read(tensor=call.arguments[read.param], role=read.role, accesses=read.accesses) for read in access.reads
    )
    if isinstance(work, Workload):
        num_ops_per_elem = work.epilogue.num_ops_per_elem
    else:
        num_ops_per_elem = ceil_div(work.num_ops, max(1, prod(found.tensors[call.results[0]].shape)))
    return Layer(
        name=_unique(call.name, names),
        output=call.results[0],
        loops=access.loops,
        out_axes=access.out_axes,
        reads=reads,
        workload=work if isinstance(work, Workload) else None,
        num_ops_per_elem=num_ops_per_elem,
        refusal=access.refusal or _why_not_fused(access, work, found.tensors[call.results[0]].shape),
    )


def _why_not_fused(access: FunctionAccess, work: Workload | VectorWork, shape: tuple[int, ...]) -> str | None:
    """One number has no tiles, and a nest whose function loops over more than the nest says has unknown ones."""
    if not shape:
        return "its result has no axes, so there are no tiles of it"
    others = [name for name, _ in access.loops if name not in DIM_NAMES]
    if not isinstance(work, Workload) or not others:
        return None
    return f"it reads along {len(others)} loops that are none of its nest's"


def _unique(name: str, names: set[str]) -> str:
    found, number = name, 1
    while found in names:
        number += 1
        found = f"{name}_{number}"
    names.add(found)
    return found
