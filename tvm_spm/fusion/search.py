"""Mappings of a fused group: enumerates cores, tiles and buffers, and times the most promising ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cost_model.fused.cost import GroupCost
from cost_model.fused.flat import flatten
from cost_model.fused.inner_mapper import InnerMapper
from tvm_spm.arch import Arch
from tvm_spm.fusion.probe import Prober
from tvm_spm.fusion.timing import MOST_STAGES, Timer
from tvm_spm.group import Group, GroupMapping

NUM_TIMED = 6
"""Candidates that are timed, per number of cores and per way of ranking them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSearchResult:
    """What a search found.

    Attributes:
        options: No other mapping found is better in cycles and energy; by rising cycles. Empty if nothing fits.
        space: What was enumerated.
        num_enumerated: Candidates.
        num_fitting: Those that fit the scratchpad.
        num_timed: Those whose events were counted.
        refused: Reasons against the others, and how many.
        nearest: The candidate that was closest to fitting, as text, if nothing fits.
        is_complete: Whether the search ended by itself; one that was stopped refuses nothing.
    """

    options: tuple[tuple[GroupMapping, GroupCost], ...]
    space: str
    num_enumerated: int
    num_fitting: int
    num_timed: int
    refused: tuple[tuple[str, int], ...] = ()
    nearest: str = ""
    is_complete: bool = True

    @property
    def refusal(self) -> str | None:
        """Why nothing fits; None if something does, or if nobody knows."""
        if self.options or not self.is_complete:
            return None
        if not self.num_enumerated:
            return self.nearest or "no mapping enumerated"
        counts = ", ".join(f"{count:,} by {reason}" for reason, count in self.refused)
        return f"none of {self.num_enumerated:,} mappings fits: {counts}; {self.nearest}"

    def best(self, objective: str) -> tuple[GroupMapping, GroupCost] | None:
        """The mapping of least ``edp``, ``energy`` or ``latency``."""
        return min(self.options, key=lambda pair: pair[1].cost.objective(objective), default=None)


def group_search(
    group: Group,
    arch: Arch,
    *,
    cores: Sequence[int] | None = None,
    objective: str = "edp",
    should_stop: Callable[[], bool] = lambda: False,
) -> GroupSearchResult:
    """Pareto-optimal mappings of a group among those timed, the most promising of those enumerated; repeatable, unless
    it is stopped.

    Args:
        group: Consecutive layers, or one.
        arch: The accelerator.
        cores: Numbers of cores to try; default 1, 2, 4, ... and all.
        objective: Of the array mapping of each stage: ``edp``, ``energy`` or ``latency``. Candidates to time are those
            that promise the least of each.
        should_stop: Asked between candidates; once true, the result is what was timed so far.
    """
    counts = core_counts(arch) if cores is None else tuple(dict.fromkeys(cores))
    if arch.levels.SPM.is_split and len(group.layers) > 1:
        text = f"{arch.name} has a split scratchpad, whose parts cannot hold tensors that are output and input"
        return GroupSearchResult(
            options=(), space="nothing", num_enumerated=0, num_fitting=0, num_timed=0, nearest=text
        )  # fmt: skip
    flat = flatten(group)
    prober = Prober(group, flat, arch)
    timer = Timer(group, flat, arch, inner_mapper(arch, objective))
    refused: Counter[str] = Counter()
    is_complete = True
    for count in counts:
        if not is_complete:
            break
        if count > arch.cores.count:
            refused["cores"] += 1
            continue
        for candidate, is_double in prober.promising(count, NUM_TIMED, should_stop):
            if should_stop():
                break
            reason = timer.time(candidate, is_double)
            if reason:
                refused[reason] += 1
        is_complete = not should_stop()
    if prober.num_unfit:
        refused["spm-capacity"] += prober.num_unfit
    return GroupSearchResult(
        options=timer.front(),
        space=(
            f"{prober.num_enumerated:,} choices of cores {' '.join(map(str, counts))} over at most two axes, tile, "
            f"overlap kept or computed again, and channels at a time; {prober.num_fitting:,} fit with one or two "
            f"buffers; the {NUM_TIMED} that promise most per number of cores by product, cycles and energy "
            f"were timed, of up to {MOST_STAGES:,} stages per core: {timer.num_timed:,}"
            f"{'' if arch.levels.DRAM.pages is None else '; none of them waits for rows of DRAM'}"
        ),
        num_enumerated=prober.num_enumerated,
        num_fitting=prober.num_fitting,
        num_timed=timer.num_timed,
        refused=tuple(sorted(refused.items())),
        nearest=prober.nearest,
        is_complete=is_complete,
    )  # fmt: skip


def core_counts(arch: Arch) -> tuple[int, ...]:
    """1, 2, 4, ... and all cores."""
    counts = [1 << power for power in range(arch.cores.count.bit_length()) if 1 << power <= arch.cores.count]
    return tuple(dict.fromkeys([*counts, arch.cores.count]))


@lru_cache(maxsize=16)
def inner_mapper(arch: Arch, objective: str) -> InnerMapper:
    """The mapper of stages that all searches share."""
    return InnerMapper(arch, objective)
