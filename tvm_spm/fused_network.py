"""The groups of a plan as code: one scheduled TIR function each, in a module that calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm_ffi

from schedules import ScheduleError
from schedules.fused import schedule_group
from tvm_spm.frontend.grouping import group_calls
from tvm_spm.network_fusion import FusedGroup

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction
    from tvm_spm.frontend.layers import NetworkLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedNetwork:
    """A network with one function per group.

    Attributes:
        module: Every group is one call of a scheduled function; all else is as extracted.
        plain: Per group, its function before it was scheduled.
        scheduled: Per group, its function.
        like: Per group, the first group with equal code, itself included.
        names_alone: TIR functions that are still called for themselves.
    """

    module: tvm.IRModule
    plain: tuple[tvm.tirx.PrimFunc, ...]
    scheduled: tuple[tvm.tirx.PrimFunc, ...]
    like: tuple[int, ...]
    names_alone: frozenset[str]

    @property
    def distinct(self) -> tuple[int, ...]:
        """Groups whose code no earlier group has."""
        return tuple(dict.fromkeys(self.like))


def why_not(extraction: Extraction, layers: NetworkLayers, groups: Sequence[FusedGroup]) -> list[str | None]:
    """Per group why it cannot be scheduled; None where it can."""
    return [made if isinstance(made, str) else None for _, made, _ in _schedule(extraction, layers, groups)[1]]


def fuse_network(extraction: Extraction, layers: NetworkLayers, groups: Sequence[FusedGroup]) -> FusedNetwork:
    """Group the calls of a network and schedule each group.

    Raises:
        ScheduleError: A group cannot be scheduled; ``why_not`` tells beforehand.
    """
    module, made = _schedule(extraction, layers, groups)
    plain: list[tvm.tirx.PrimFunc] = []
    scheduled: list[tvm.tirx.PrimFunc] = []
    like: list[int] = []
    for position, (func, result, name) in enumerate(made):
        if isinstance(result, str):
            raise ScheduleError(result)
        module[name] = result.with_attr("global_symbol", name)
        equal = (
            other for other in range(position)
            if tvm_ffi.structural_equal(scheduled[other], result) and tvm_ffi.structural_equal(plain[other], func)
        )  # fmt: skip
        like.append(next(equal, position))
        plain.append(func)
        scheduled.append(result)
    names = {str(name.name_hint) for name in module.get_global_vars()}
    return FusedNetwork(
        module=module, plain=tuple(plain), scheduled=tuple(scheduled), like=tuple(like),
        names_alone=frozenset(names & {name for name, _ in extraction.functions}),
    )  # fmt: skip


_Made = list[tuple["tvm.tirx.PrimFunc", "tvm.tirx.PrimFunc | str", str]]


def _schedule(
    extraction: Extraction, layers: NetworkLayers, groups: Sequence[FusedGroup]
) -> tuple[tvm.IRModule, _Made]:
    """The grouped module, and per group its function before and after scheduling, or a reason, and its name."""
    if not groups:
        return extraction.mod, []
    variables = [[layers.bindings[index] for index in found.group.layers] for found in groups]
    mappings = [found.mapping for found in groups]
    grouped = group_calls(extraction.mod, variables, [mappings.index(mapping) for mapping in mappings])
    made: _Made = []
    for position, found in enumerate(groups):
        fused = grouped.function(position, layers, found.group.first)
        result: tvm.tirx.PrimFunc | str
        try:
            result = schedule_group(fused, found.group, found.mapping)
        except ScheduleError as error:
            result = str(error)
        made.append((fused.func, result, grouped.groups[position].name))
    return grouped.mod, made
