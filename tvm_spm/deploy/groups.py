"""The groups of a plan as code: one scheduled TIR function each, in a module that calls them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm
import tvm_ffi

from cost_model.fused import group_key
from schedules.attention.code import attention_func
from schedules.group.code import schedule_group
from schedules.group.program import check_group
from tvm_spm.attention import Attention, AttentionMapping
from tvm_spm.deploy.grouping import GroupedModule, group_calls
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.errors import ModelError, ScheduleError
from tvm_spm.frontend.attention import AttentionSite
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.fusion.network import FusedGroup
from tvm_spm.lowering.blocks import substitute
from tvm_spm.lowering.root_block import with_root_block

if TYPE_CHECKING:
    from tvm_spm.frontend import Extraction
    from tvm_spm.frontend.layers.graph import NetworkLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedNetwork:
    """A network with one function per group.

    Attributes:
        module: Every group is one call of a scheduled function; all else is as extracted.
        verifications: Per group, the comparison of its function with the plain one.
        names_alone: TIR functions that are still called for themselves.
    """

    module: tvm.IRModule
    verifications: tuple[Verification, ...]
    names_alone: frozenset[str]

    @classmethod
    def unfused(cls, extraction: Extraction) -> FusedNetwork:
        """A network without groups."""
        names = frozenset(name for name, _ in extraction.functions)
        return cls(module=extraction.mod, verifications=(), names_alone=names)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Made:
    """A group in the grouped module: the name of its function, the function, and its schedule or why there is none."""

    name: str
    plain: tvm.tirx.PrimFunc
    scheduled: tvm.tirx.PrimFunc | str


class GroupScheduler:
    """Groups the calls of a network, schedules each group and verifies its code.

    It remembers the last plan, which is asked for twice, and what was said of the code of a group.

    Args:
        extraction: The network.
        layers: Its layers.
        sites: Where attentions are.
        verify: Compares a scheduled function with the plain one.
    """

    def __init__(
        self,
        extraction: Extraction,
        layers: NetworkLayers,
        sites: Sequence[AttentionSite],
        verify: Callable[[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc], Verification],
    ) -> None:
        self._extraction = extraction
        self._verify = verify
        self._verified: list[tuple[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc, Verification]] = []
        self._layers = layers
        self._sites = {site.bindings[2]: site for site in sites}
        self._last: tuple[tuple[FusedGroup, ...], tvm.IRModule, list[_Made]] = ((), extraction.mod, [])

    def why_not(self, groups: Sequence[FusedGroup]) -> list[str | None]:
        """Per group why it cannot be scheduled, or that its code computes something else; None where all is well."""
        try:
            _, made = self._schedule(groups)
        except ModelError:
            reasons = [self._why_not_one_call(way) for way in groups]
            if not any(reasons):
                raise
            return reasons
        return [self._why_not_this(each) for each in made]

    def fuse(self, groups: Sequence[FusedGroup], mod: tvm.IRModule | None = None) -> FusedNetwork:
        """The network with every group as one call.

        Args:
            groups: That run as one.
            mod: The network with other calls for layers outside of these; as extracted if None.

        Raises:
            ScheduleError: A group cannot be scheduled; ``why_not`` tells beforehand.
        """
        module, made = self._schedule(groups) if mod is None else self._make(groups, mod)
        module = module.clone()
        verifications: list[Verification] = []
        for each in made:
            if isinstance(each.scheduled, str):
                raise ScheduleError(each.scheduled)
            module[each.name] = with_root_block(each.scheduled).with_attr("global_symbol", each.name)
            verifications.append(self._verification(each.plain, each.scheduled))
        names = {str(name.name_hint) for name in module.get_global_vars()}
        return FusedNetwork(
            module=module, verifications=tuple(verifications),
            names_alone=frozenset(names & {name for name, _ in self._extraction.functions}),
        )  # fmt: skip

    def program(self, way: FusedGroup) -> str | None:
        """The scheduled code of a group of the last plan as text; None where there is none."""
        groups, _, made = self._last
        scheduled = made[groups.index(way)].scheduled if way in groups else ""
        return None if isinstance(scheduled, str) else str(scheduled.script())

    def attention(self, way: FusedGroup) -> Attention | None:
        """What a group computes that is mapped as an attention; None for any other."""
        is_attention = isinstance(way.mapping, AttentionMapping)
        return self._sites[self._layers.bindings[way.group.sink]].work if is_attention else None

    def _why_not_this(self, made: _Made) -> str | None:
        if isinstance(made.scheduled, str):
            return made.scheduled
        verification = self._verification(made.plain, made.scheduled)
        return None if verification.passed else verification.refusal

    def _verification(self, plain: tvm.tirx.PrimFunc, scheduled: tvm.tirx.PrimFunc) -> Verification:
        """The comparison of a group's code with the plain one, made once for equal code."""
        for known_plain, known, verification in self._verified:
            if tvm_ffi.structural_equal(known, scheduled) and tvm_ffi.structural_equal(known_plain, plain):
                return verification
        try:
            found = self._verify(plain, scheduled)
        except ModelError as error:
            found = Verification.failed(str(error))
        self._verified.append((plain, scheduled, found))
        return found

    def _why_not_one_call(self, way: FusedGroup) -> str | None:
        """Why the calls of a group cannot become one, each group for itself."""
        try:
            self._make([way], self._extraction.mod)
        except ModelError as error:
            return str(error)
        return None

    def _schedule(self, groups: Sequence[FusedGroup]) -> tuple[tvm.IRModule, list[_Made]]:
        """The grouped module, and what became of every group; groups that share a function share the object."""
        if tuple(groups) != self._last[0]:
            module, made = self._make(groups, self._extraction.mod)
            self._last = tuple(groups), module, made
        return self._last[1:]

    def _make(self, groups: Sequence[FusedGroup], mod: tvm.IRModule) -> tuple[tvm.IRModule, list[_Made]]:
        if not groups:
            return mod, []
        numbers: dict[Hashable, int] = {}
        variants = [numbers.setdefault((group_key(way.group), way.mapping), len(numbers)) for way in groups]
        variables = [[self._layers.bindings[index] for index in way.group.layers] for way in groups]
        grouped = group_calls(mod, variables, variants)
        made: dict[str, _Made] = {}
        found = []
        for position, way in enumerate(groups):
            name = grouped.groups[position].name
            if name not in made:
                scheduled = self._scheduled(grouped, position, way)
                made[name] = _Made(name=name, plain=grouped.mod[name], scheduled=scheduled)
            found.append(made[name])
        return grouped.mod, found

    def _scheduled(self, grouped: GroupedModule, position: int, way: FusedGroup) -> tvm.tirx.PrimFunc | str:
        try:
            if isinstance(way.mapping, AttentionMapping):
                site = self._sites[self._layers.bindings[way.group.sink]]
                return _attention(site, way.mapping, grouped.groups[position].inputs)
            made = schedule_group(grouped.function(position, self._layers, way.group), way.group, way.mapping)
        except ScheduleError as error:
            return str(error)
        except TVM_ERRORS as error:
            return f"TVM cannot make its code: {first_line(error)}"
        difference = check_group(made, way.group, way.mapping)
        return made if difference is None else f"the code does not do what was timed: {difference}"


def _attention(site: AttentionSite, mapping: AttentionMapping, inputs: Sequence[tvm.relax.Expr]) -> tvm.tirx.PrimFunc:
    """Attention with the parameters of its group: every tensor once, in the order in which the group reads them."""
    func = attention_func(site, mapping)
    *params, out = func.params
    first = {
        position: next(other for other, arg in enumerate(site.args) if arg.same_as(site.args[position]))
        for position in range(len(params))
    }
    body = substitute(func.body, {params[position]: params[other] for position, other in first.items()})
    order = [next(position for position, arg in enumerate(site.args) if arg.same_as(given)) for given in inputs]
    made = tvm.tirx.PrimFunc([*(params[position] for position in order), out], body)
    return made.with_attr("tirx.noalias", True)
