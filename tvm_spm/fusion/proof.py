"""The best mapping of a group in a stated space, with a lower bound of every other one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cost_model.fused.cost import GroupCost
from tvm_spm.arch import Arch
from tvm_spm.errors import MappingError
from tvm_spm.fusion.prover import MOST_CUTS, Choice, GroupProver
from tvm_spm.group import Group, GroupMapping
from tvm_spm.objective import Objective

MOST_STEPS = 20_000
"""Of a proof before it gives up; see ``prover.STAGES_PER_STEP``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProof:
    """The best mapping of a group that was found, and how good any other of the space can be.

    Attributes:
        mapping: The best; None if none fits or none was priced.
        cost: Of it.
        value: Objective of it; infinite if there is none. The last climb may leave the space for tiles and channels
            that do not divide evenly, and be better than all of it.
        lower_bound: No mapping of the space has less; infinite if none fits.
        space: In words.
        limits: What ended the search, or was left out, before it was proved; empty if nothing.
        num_bounded: Parts of the space that were bounded.
        num_priced: Mappings whose events were counted.
    """

    mapping: GroupMapping | None
    cost: GroupCost | None
    value: float
    lower_bound: float
    space: str
    limits: tuple[str, ...]
    num_bounded: int
    num_priced: int

    @property
    def certified(self) -> bool:
        """Whether no mapping of the space is better."""
        return self.lower_bound >= self.value

    @property
    def gap(self) -> float:
        """How much less than the best at most, as a share of it; 0 if certified."""
        if self.certified:
            return 0.0
        return 1 - self.lower_bound / self.value if math.isfinite(self.value) else 1.0

    def __str__(self) -> str:
        state = "certified"
        if not self.certified:
            state = f"within {100 * self.gap:.3g} % of the best; {'; '.join(self.limits)}"
        found = "nothing fits" if self.mapping is None else f"{self.value:.6g}"
        return f"{found}, {state}; {self.num_priced:,} priced, {self.num_bounded:,} bounded; space: {self.space}"


def prove_group(
    group: Group, arch: Arch, *, objective: str = "edp", cores: Sequence[int] | None = None,
    most_steps: int = MOST_STEPS, most_cuts: int = MOST_CUTS, known: Iterable[Choice] = (),
    should_stop: Callable[[], bool] = lambda: False,
) -> GroupProof:  # fmt: skip
    """The best mapping of a group, and a bound of every other; repeatable, unless it is stopped.

    Args:
        group: Consecutive layers, or one.
        arch: The accelerator.
        objective: ``edp``, ``energy`` or ``latency``.
        cores: Numbers of cores; default 1, 2, 4, ... and all.
        most_steps: Beside those around the best known mappings: a mapping is priced in one, or in one per 1,024 stages.
        most_cuts: Ways to cut the group into tiles of any size; where there are more, they are even cuts.
        known: Mappings of the space to begin with, and whether they have two buffers.
        should_stop: Asked between batches; once true, the result is what is known.

    Raises:
        MappingError: The scratchpad is split.
    """
    if arch.levels.SPM.is_split:
        raise MappingError(f"{arch.name} has a split scratchpad, whose parts cannot hold what is output and input")
    aim = Objective.of(objective)
    prover = GroupProver(group, arch, aim.value_of, cores=cores, most_cuts=most_cuts)
    prover.sample()
    prover.start(known)
    limits = prover.improve(most_steps, should_stop)
    lower_bound = prover.lower_bound
    prover.climb(even=False)
    best, value = prover.best, prover.value
    mapping, cost = (None, None) if best is None else prover.mapping(best)
    if cost is not None:
        # The same sum in another order of additions.
        is_met, value = lower_bound >= value, cost.cost.objective(aim.value)
        lower_bound = value if is_met else min(lower_bound, value)
    return GroupProof(
        mapping=mapping, cost=cost, value=value, lower_bound=lower_bound, space=str(prover.space), limits=limits,
        num_bounded=prover.num_bounded, num_priced=prover.num_priced,
    )  # fmt: skip
