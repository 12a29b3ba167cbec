"""For a whole network: every attention with its best tiles, the function that replaces it, and the cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import tirx

from cost_model.attention.search import AttentionResult, attention_search
from schedules.attention.code import attention_func
from tvm_spm.arch import Arch
from tvm_spm.attention import Attention
from tvm_spm.cost import Cost
from tvm_spm.errors import NoMappingError
from tvm_spm.frontend.attention import AttentionSite, find_attention


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionReplacement:
    """One function for three calls.

    Attributes:
        site: The three calls; ``replace_attention`` takes it with ``func``.
        func: What replaces them.
        result: The mapping, and how it was found.
    """

    site: AttentionSite
    func: tirx.PrimFunc
    result: AttentionResult

    @property
    def cost(self) -> Cost:
        """Of the function; compare it with the sum over the three calls."""
        return self.result.cost


def plan_attention(
    mod: tvm.IRModule, arch: Arch, *, objective: str = "edp", should_stop: Callable[[], bool] = lambda: False
) -> tuple[tuple[AttentionReplacement, ...], int]:
    """Replacements for all attentions of a network whose tiles fit; equal ones are searched once.

    Args:
        mod: As ``extract(...).mod``.
        arch: The accelerator.
        objective: ``edp``, ``energy`` or ``latency``.
        should_stop: Asked now and then; once true, no further search begins, and that of now gives its best so far.

    Returns:
        The replacements, and how many attentions were not searched to the end.

    Raises:
        SpmError: An unknown objective.
    """
    num_unfinished = 0
    found: dict[Attention, AttentionResult | None] = {}
    replacements = []
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
            func = attention_func(site, result.mapping)
            replacements.append(AttentionReplacement(site=site, func=func, result=result))
    num_unfinished += sum(result is not None and not result.is_complete for result in found.values())
    return tuple(replacements), num_unfinished
