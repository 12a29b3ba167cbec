"""For a whole network: every attention with its best tiles, as a way to run its three layers as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import tvm

from cost_model.attention.search import AttentionResult, attention_search
from tvm_spm.arch import Arch
from tvm_spm.attention import Attention, spm_terms
from tvm_spm.errors import NoMappingError
from tvm_spm.frontend.attention import AttentionSite, find_attention
from tvm_spm.fusion.network import FusedGroup
from tvm_spm.group import Group
from tvm_spm.objective import Objective

if TYPE_CHECKING:
    from tvm_spm.frontend.layers.graph import NetworkLayers


class PlannedAttention(NamedTuple):
    """Three calls, and how one function does what they do."""

    site: AttentionSite
    result: AttentionResult


def plan_attention(
    mod: tvm.IRModule, arch: Arch, *, objective: Objective, should_stop: Callable[[], bool] = lambda: False
) -> tuple[tuple[PlannedAttention, ...], int]:
    """All attentions of a network whose tiles fit; equal ones are searched once.

    Args:
        mod: As ``extract(...).mod``.
        arch: The accelerator.
        objective: What is minimised.
        should_stop: Asked now and then; once true, no further search begins, and that of now gives its best so far.

    Returns:
        The attentions, and how many were not searched to the end.
    """
    num_unfinished = 0
    found: dict[Attention, AttentionResult | None] = {}
    planned = []
    for site in find_attention(mod)[0]:
        if site.work not in found and should_stop():
            num_unfinished += 1
            continue
        if site.work not in found:
            try:
                found[site.work] = attention_search(site.work, arch, objective=objective, should_stop=should_stop)
            except NoMappingError:
                found[site.work] = None
        result = found[site.work]
        if result is not None:
            planned.append(PlannedAttention(site, result))
    num_unfinished += sum(result is not None and not result.is_complete for result in found.values())
    return tuple(planned), num_unfinished


def attention_groups(layers: NetworkLayers, arch: Arch, planned: Sequence[PlannedAttention]) -> tuple[FusedGroup, ...]:
    """The attentions whose three calls are consecutive layers, as ways to run these."""
    position = {var: index for index, var in enumerate(layers.bindings)}
    found = []
    for site, result in planned:
        first = position[site.bindings[0]]
        if [position[var] for var in site.bindings] == [first, first + 1, first + 2]:
            group = Group.interval(layers.graph, first, first + 3)
            spm_bytes = sum(num_bytes for _, num_bytes in spm_terms(site.work, arch, result.mapping))
            found.append(FusedGroup(group=group, mapping=result.mapping, cost=result.cost, spm_bytes=spm_bytes))
    return tuple(found)
