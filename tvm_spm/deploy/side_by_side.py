"""Layers and groups that run side by side as code: functions scheduled for fewer cores, in a module of their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
from tvm import relax

from tvm_spm.deploy.grouping import ordered_bindings
from tvm_spm.deploy.groups import FusedNetwork, GroupScheduler
from tvm_spm.deploy.task_code import make_schedule
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.calls import ENTRY
from tvm_spm.fusion.sides import Scheduled, Side, SideBySide, SidePlan
from tvm_spm.mapping import Mapping

if TYPE_CHECKING:
    from tvm_spm.frontend import Extraction
    from tvm_spm.frontend.layers.graph import NetworkLayers

ORDER = "spm.side_by_side"
"""Attribute of ``main``: which variables are computed side by side, and on which cores each, as JSON."""

MAPPING = "spm.mapping"
"""Attribute of a function that runs beside others: the mapping it is scheduled for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A scheduled function and the comparison of its results; or why there is none."""

    scheduled: tvm.tirx.PrimFunc | None
    verification: Verification


class SideScheduler:
    """Schedules layers for the cores they have beside others, verifies the code, and puts it into the network.

    Args:
        extraction: The network.
        layers: Its layers.
        groups: Schedules those sides that are groups.
        verify: Compares a scheduled function with the plain one.
    """

    def __init__(
        self, extraction: Extraction, layers: NetworkLayers, groups: GroupScheduler,
        verify: Callable[[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc], Verification],
    ) -> None:  # fmt: skip
        self._extraction, self._layers, self._groups, self._verify = extraction, layers, groups, verify
        self._made: dict[tuple[int, Mapping], _Made] = {}

    def movable(self) -> frozenset[int]:
        """Layers of ``main`` whose order is free but for what they read: it has one block without effects."""
        main = self._extraction.mod[ENTRY]
        if len(main.body.blocks) != 1 or not isinstance(main.body.blocks[0], relax.DataflowBlock):
            return frozenset()
        bound = {binding.var for binding in main.body.blocks[0].bindings}
        return frozenset(index for index, var in enumerate(self._layers.bindings) if var in bound)

    def before(self) -> list[frozenset[int]]:
        """Per layer, those it reads: directly, or through calls that are no layers."""
        layer_of = {node: layer for layer, node in enumerate(self._layers.node_of_layer)}
        nodes = self._extraction.graph.nodes
        return [
            frozenset(layer_of[node] for node in nodes[own].inputs if layer_of[node] != layer)
            for layer, own in enumerate(self._layers.node_of_layer)
        ]  # fmt: skip

    def why_not(self, asked: Sequence[Scheduled]) -> list[str | None]:
        """Per unit why it cannot be scheduled, or that its code computes something else; None where all is well."""
        reasons = iter(self._groups.why_not([unit.group for unit, _ in asked if unit.group is not None]))
        return [self._why_not_layer(each) if each.unit.group is None else next(reasons) for each in asked]

    def verification(self, side: Side) -> Verification:
        """Of a layer beside others."""
        return self._make(Scheduled(side.unit, side.job.mapping)).verification

    def fuse(self, plan: SidePlan) -> FusedNetwork:
        """The network with every group as one call, layers beside others as functions of their own, in their order.

        Raises:
            ScheduleError: Something cannot be scheduled; ``why_not`` tells beforehand.
        """
        sides = [side for step in plan.together for side in step.sides]
        alone = [side for side in sides if side.unit.group is None]
        mod, names = self._retargeted(plan, alone)
        groups = [*plan.groups, *(side.unit.group for side in sides if side.unit.group is not None)]
        fused = self._groups.fuse(groups, mod)
        module = fused.module.clone()
        for side, name in zip(alone, names, strict=True):
            made = self._make(Scheduled(side.unit, side.job.mapping))
            if made.scheduled is None:
                raise ScheduleError(made.verification.refusal)
            module[name] = made.scheduled.with_attr("global_symbol", name).with_attr(MAPPING, _line(side))
        return FusedNetwork(module=module, verifications=fused.verifications, names_alone=fused.names_alone)

    def _why_not_layer(self, asked: Scheduled) -> str | None:
        made = self._make(asked)
        return None if made.verification.passed else made.verification.refusal

    def _make(self, asked: Scheduled) -> _Made:
        (layer,), mapping = asked.unit.layers, asked.mapping
        assert isinstance(mapping, Mapping)
        task = self._extraction.graph.nodes[self._layers.node_of_layer[layer]].task
        if (task, mapping) not in self._made:
            plain = self._extraction.mod[self._name(layer)]
            made = make_schedule(plain, self._extraction.nests[task], mapping)
            if isinstance(made, str):
                self._made[task, mapping] = _Made(scheduled=None, verification=Verification.failed(made))
            else:
                scheduled = made.mod["main"]
                verification = self._verify(plain, scheduled)
                self._made[task, mapping] = _Made(scheduled=scheduled, verification=verification)
        return self._made[task, mapping]

    def _name(self, layer: int) -> str:
        """Of the function that a layer calls."""
        return self._extraction.graph.nodes[self._layers.node_of_layer[layer]].name

    def _retargeted(self, plan: SidePlan, alone: Sequence[Side]) -> tuple[tvm.IRModule, list[str]]:
        """The network in the order of a plan, with a function of its own for every layer beside others and mapping."""
        builder = relax.BlockBuilder(self._extraction.mod)
        main = self._extraction.mod[ENTRY]
        values: dict[relax.Var, relax.Expr] = {}
        names = []
        for side in alone:
            (layer,) = side.unit.layers
            name = self._name(layer)
            func = self._extraction.mod[name].with_attr(MAPPING, _line(side))
            # The builder gives back the function it has if this one is equal to it.
            made = builder.add_func(func, f"{name}_beside")
            names.append(str(made.name_hint))
            var = self._layers.bindings[layer]
            call = next(each.value for each in main.body.blocks[0].bindings if each.var.same_as(var))
            values[var] = relax.Call(call.op, [made, *call.args[1:]], call.attrs, call.ty_args)
        ranks = {
            self._layers.bindings[layer]: number
            for number, step in enumerate(plan.steps)
            for unit in ([side.unit for side in step.sides] if isinstance(step, SideBySide) else [step])
            for layer in unit.layers
        }  # fmt: skip
        block = main.body.blocks[0]
        order = ordered_bindings(list(block.bindings), ranks)
        bindings = [
            binding if (value := values.get(binding.var)) is None else relax.VarBinding(binding.var, value)
            for binding in order
        ]  # fmt: skip
        body = relax.SeqExpr([type(block)(bindings)], main.body.body)
        func = relax.Function(main.params, body, main.ret_ty, main.is_pure, main.attrs)
        builder.update_func(self._extraction.mod.get_global_var(ENTRY), func.with_attr(ORDER, self._text(plan)))
        mod = relax.transform.Normalize()(builder.get())
        return relax.transform.DeadCodeElimination()(mod), names

    def _text(self, plan: SidePlan) -> str:
        """For ``ORDER``."""
        return json.dumps(
            [
                [
                    {
                        "variable": self._layers.bindings[side.unit.layers[-1]].name,
                        "cores": [side.cores.start, side.cores.stop],
                    }
                    for side in step.sides
                ]
                for step in plan.together
            ]
        )  # fmt: skip


def _line(side: Side) -> str:
    assert isinstance(side.job.mapping, Mapping)
    return side.job.mapping.line()
