"""Turns groups of calls of a Relax module into one TIR function each."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from schedules.group.code import FusedFunction
from tvm_spm.errors import ModelError
from tvm_spm.frontend.calls import called_functions
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.tir.blocks import read_blocks
from tvm_spm.group import Group

if TYPE_CHECKING:
    from tvm_spm.frontend.layers.graph import NetworkLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupFunction:
    """The function that a group became in the new module.

    Attributes:
        name: Of its TIR function.
        blocks: Per call of the group, the names of the blocks it became, in order.
        sources: Per parameter, the call of the group and its argument that it is; results of calls are the last
            parameters.
        results: The calls whose results leave, in order, the last call among them.
        inputs: What the group reads, in the order of the parameters.
    """

    name: str
    blocks: tuple[tuple[str, ...], ...]
    sources: tuple[tuple[int, int], ...]
    results: tuple[int, ...]
    inputs: tuple[relax.Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupedModule:
    """A module in which every group is one call.

    Attributes:
        mod: The module.
        groups: In the order asked for.
    """

    mod: tvm.IRModule
    groups: tuple[GroupFunction, ...]

    def function(self, number: int, layers: NetworkLayers, group: Group) -> FusedFunction:
        """The function of a group and what its parameters are.

        Args:
            number: Of the group.
            layers: Of the network that was grouped.
            group: Its layers.
        """
        found = self.groups[number]
        tensors = [layers.arguments[group.layers[call]][argument] for call, argument in found.sources]
        return FusedFunction(
            func=self.mod[found.name], blocks=found.blocks,
            tensors=(*tensors, *(layers.graph.layers[group.layers[call]].output for call in found.results)),
        )  # fmt: skip


def group_calls(
    mod: tvm.IRModule, groups: Sequence[Sequence[relax.Var | str]], variants: Sequence[int] | None = None
) -> GroupedModule:
    """Make one TIR function of every group of calls; everything else stays as it is.

    Groups of equal code share a function.

    Args:
        mod: With TIR functions, as ``fuse`` returns it; a function has one block where there is a group.
        groups: Per group, the variables its calls are bound to, of ``main`` or of one function that it calls, in an
            order in which they can run. No variable is in two groups.
        variants: Per group a number; groups of different numbers share no function. Default: all the same.

    Raises:
        ModelError: A variable is not bound to a call of a TIR function, or what uses one outside of its group cannot
            stand behind the group; names it.
    """
    bindings = {
        binding.var: binding
        for each in called_functions(mod) for block in each.func.body.blocks for binding in block.bindings
    }  # fmt: skip
    by_name = {var.name: var for var in bindings}
    calls = [[_call(bindings, by_name, member) for member in group] for group in groups]
    leaving = _leaving(mod, calls)
    made, names = _with_functions(mod, calls, leaving, variants or [0] * len(calls))
    try:
        fused = relax.transform.DeadCodeElimination()(relax.transform.FuseTIR()(made))
    except TVM_ERRORS as error:
        raise ModelError(f"cannot fuse the groups: {first_line(error)}") from error
    return GroupedModule(
        mod=fused,
        groups=tuple(
            _described(mod, fused, group, (name, results))
            for group, name, results in zip(calls, names, leaving, strict=True)
        ),
    )


def _call(
    bindings: dict[relax.Var, relax.Binding], by_name: dict[str, relax.Var], member: relax.Var | str
) -> relax.Binding:
    var = by_name.get(member) if isinstance(member, str) else member
    if var is None or var not in bindings:
        raise ModelError(f"{member} is not bound in the network")
    binding = bindings[var]
    value = binding.value
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op) or value.op.name != "relax.call_tir":
        raise ModelError(f"{var.name} is not the result of a call of a TIR function")
    if len(value.args) > 2:
        raise ModelError(f"{var.name}: a call with symbolic shapes cannot be grouped")
    return binding


def _leaving(mod: tvm.IRModule, calls: Sequence[Sequence[relax.Binding]]) -> list[tuple[int, ...]]:
    """Per group the calls whose results are used outside of it, and the last one."""
    group_of = {binding.var: number for number, group in enumerate(calls) for binding in group}
    if len(group_of) < sum(map(len, calls)):
        raise ModelError("a call is in two groups")
    used: set[relax.Var] = {group[-1].var for group in calls}
    for each in called_functions(mod):
        for block in each.func.body.blocks:
            for binding in block.bindings:
                own = group_of.get(binding.var)
                used |= {
                    var for var in relax.analysis.free_vars(binding.value)
                    if var in group_of and group_of[var] != own
                }  # fmt: skip
        used |= {var for var in relax.analysis.free_vars(each.func.body.body) if var in group_of}
    return [tuple(call for call, binding in enumerate(group) if binding.var in used) for group in calls]


def _arguments(binding: relax.Binding) -> list[relax.Expr]:
    return list(binding.value.args[1].fields)


def _inputs(group: Sequence[relax.Binding]) -> list[tuple[relax.Expr, tuple[int, int]]]:
    """What a group reads from outside, each once, with the call and argument where it is read first."""
    made = [binding.var for binding in group]
    found: list[tuple[relax.Expr, tuple[int, int]]] = []
    for call, binding in enumerate(group):
        for position, argument in enumerate(_arguments(binding)):
            inside = any(argument.same_as(var) for var in made)
            if not inside and not any(argument.same_as(known) for known, _ in found):
                found.append((argument, (call, position)))
    return found


def _with_functions(
    mod: tvm.IRModule,
    calls: Sequence[Sequence[relax.Binding]],
    leaving: Sequence[tuple[int, ...]],
    variants: Sequence[int],
) -> tuple[tvm.IRModule, list[str]]:
    """The module with a Relax function per group, called where the last call of the group stood."""
    builder = relax.BlockBuilder(mod)
    taken = {var.name_hint for var in mod.get_global_vars()}
    names: list[str] = []
    replaced: dict[relax.Var, list[relax.Binding]] = {}
    for number, (group, results) in enumerate(zip(calls, leaving, strict=True)):
        name = f"fused_group{number}"
        while name in taken:
            name += "_"
        taken.add(name)
        func, arguments = _function(group, results, variants[number])
        # The builder gives back the function it has if this one is equal to it.
        var = builder.add_func(func, name)
        names.append(var.name_hint)
        replaced |= {binding.var: [] for binding in group[:-1]}
        replaced[group[-1].var] = _made(relax.Call(var, arguments), [group[call].var for call in results], name)
    for each in called_functions(mod):
        if any(binding.var in replaced for block in each.func.body.blocks for binding in block.bindings):
            builder.update_func(mod.get_global_var(each.name), _with_calls(each.func, replaced))
    return relax.transform.Normalize()(builder.get()), names


def _made(call: relax.Call, results: Sequence[relax.Var], name: str) -> list[relax.Binding]:
    """What binds the results of a group."""
    if len(results) == 1:
        return [relax.VarBinding(results[0], call)]
    several = relax.Var(f"{name}_results", relax.TupleType([var.ty for var in results]))
    return [
        relax.VarBinding(several, call),
        *(relax.VarBinding(var, relax.TupleGetItem(several, place)) for place, var in enumerate(results)),
    ]


def _with_calls(func: relax.Function, replaced: dict[relax.Var, list[relax.Binding]]) -> relax.Function:
    """A function with other bindings for some variables, in an order in which everything is bound before it is used."""
    blocks = []
    for block in func.body.blocks:
        new = [made for binding in block.bindings for made in replaced.get(binding.var, [binding])]
        ordered = ordered_bindings(new, {})
        if len(ordered) < len(new):
            between = next(binding for binding in new if not any(binding is other for other in ordered))
            raise ModelError(f"{between.var.name} stands between calls of one group: it uses one, and another needs it")
        if not isinstance(block, relax.DataflowBlock) and ordered != new:
            late = next(binding for binding, other in zip(new, ordered, strict=True) if binding is not other)
            raise ModelError(f"{late.var.name} cannot stand behind a group whose results it uses: its order matters")
        blocks.append(type(block)(ordered))
    body = relax.SeqExpr(blocks, func.body.body)
    return relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs)


def ordered_bindings(bindings: Sequence[relax.Binding], ranks: dict[relax.Var, int]) -> list[relax.Binding]:
    """Bindings by rising rank where what they read allows; those without a rank as soon as they can be."""
    place = {binding.var: number for number, binding in enumerate(bindings)}
    readers: list[list[int]] = [[] for _ in bindings]
    num_open = [0] * len(bindings)
    for number, binding in enumerate(bindings):
        for var in relax.analysis.free_vars(binding.value):
            if var in place:
                readers[place[var]].append(number)
                num_open[number] += 1
    ready = [(ranks.get(bindings[number].var, -1), number) for number, count in enumerate(num_open) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        _, number = heapq.heappop(ready)
        order.append(bindings[number])
        for reader in readers[number]:
            num_open[reader] -= 1
            if not num_open[reader]:
                heapq.heappush(ready, (ranks.get(bindings[reader].var, -1), reader))
    return order


def _function(
    group: Sequence[relax.Binding], results: Sequence[int], variant: int
) -> tuple[relax.Function, list[relax.Expr]]:
    inputs = _inputs(group)
    params = [relax.Var(f"p{number}", expr.ty) for number, (expr, _) in enumerate(inputs)]
    inside: list[tuple[relax.Expr, relax.Expr]] = [(expr, var) for (expr, _), var in zip(inputs, params, strict=True)]
    builder = relax.BlockBuilder()
    with builder.function("group", params, attrs={"Primitive": True, "variant": variant}, private=True):
        with builder.dataflow():
            for number, binding in enumerate(group):
                fields = [
                    next(var for expr, var in inside if expr.same_as(argument)) for argument in _arguments(binding)
                ]
                call = binding.value
                new = relax.Call(call.op, [call.args[0], relax.Tuple(fields)], call.attrs, call.ty_args)
                inside.append((binding.var, builder.emit_output(new) if number in results else builder.emit(new)))
        made = [var for _, var in inside[len(inputs) :]]
        builder.emit_func_output(made[-1] if len(results) == 1 else relax.Tuple([made[call] for call in results]))
    return builder.get()["group"], [expr for expr, _ in inputs]


def _described(
    mod: tvm.IRModule, fused: tvm.IRModule, group: Sequence[relax.Binding], made: tuple[str, tuple[int, ...]]
) -> GroupFunction:
    name, results = made
    blocks = read_blocks(fused[name])
    if isinstance(blocks, str):
        raise ModelError(f"the function of the group that makes {group[-1].var.name} cannot be read: {blocks}")
    left = [block.name for block in blocks]
    found = []
    for binding in group:
        own = read_blocks(mod[binding.value.args[0].name_hint])
        if isinstance(own, str):
            raise ModelError(f"the function of {binding.var.name} cannot be read: {own}")
        found.append(tuple(left[: len(own)]))
        left = left[len(own) :]
    inputs = _inputs(group)
    return GroupFunction(
        name=name, blocks=tuple(found), sources=tuple(source for _, source in inputs),
        results=results, inputs=tuple(expr for expr, _ in inputs),
    )  # fmt: skip
