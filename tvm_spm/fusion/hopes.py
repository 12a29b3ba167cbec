"""What one group costs in the mappings that were priced, and what no other mapping of it can beat."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cost_model.fused.cost import GroupCost
from tvm_spm.fusion.prover import Aim, GroupProver, Point
from tvm_spm.group import GroupMapping
from tvm_spm.objective import Objective
from tvm_spm.workers import LONG, Workers

LIKE_TOTALS = 2e-2
"""Plans around a group whose cycles and energies differ by less, as a share, count as one."""

PARTS = 1 << 20
"""Of a cycle, in which corners are counted."""

_SLACK = 1e-9

FIRST_STEPS, MOST_STEPS = 64, 2_048
"""Of one turn: the first, and in the end; each turn takes twice as many as the one before."""

MARGIN = 5e-2
"""By how much more than the best known plan, as a share, groups are searched for: the rest of a plan changes."""

_STEP, _MOST_TANGENTS = 0.05, 24
"""Between tangents of one hyperbola, of the logarithm of their slope; the corner between two is 0.02 % below it."""

_MOST_CURVES = 3
"""Whose tangents are kept, the last ones."""


class Tangent(NamedTuple):
    """No mapping costs less than ``least`` where a cycle costs ``cycle`` and a pJ ``energy``."""

    cycle: float
    energy: float
    least: float


class Around(NamedTuple):
    """What the rest of a plan costs."""

    cycles: float
    energy_pj: float


class Wanted(NamedTuple):
    """The rest of a plan, and the objective that all must stay below to be of interest; per run of a group."""

    around: Around
    value: float


class GroupHope:
    """One group.

    With ``around`` the rest of a plan, the search bounds ``(around.cycles + cycles) * (around.energy_pj + energy)``.
    Where that product is not below ``b``, no ``p * cycles + q * energy`` is below ``2 * sqrt(p * q * b) - p *
    around.cycles - q * around.energy_pj``: the region above a hyperbola is convex, and this is its tangent.

    Args:
        prover: Of the group, with whatever aim.
        objective: Of the plan.
    """

    def __init__(self, prover: GroupProver, objective: Objective) -> None:
        self._prover, self._objective = prover, objective
        self._bounds: dict[Around, float] = {}
        """What was proved, by the rest of the plan; one entry for a sum."""
        self._around: Around | None = None
        """Of the search that is under way."""
        self._searched: dict[Around, float] = {}
        """Up to which objective what was proved is all there is to prove."""
        self._is_started = False
        self._next_steps = FIRST_STEPS
        self._corners = self._find_corners()
        self._polished: set[Point] = set()
        self._mappings: dict[Point, tuple[GroupMapping, GroupCost]] = {}

    @property
    def fits(self) -> bool:
        """Whether some mapping may fit."""
        return math.isfinite(self._prover.corner[0])

    @property
    def num_steps(self) -> int:
        """Made so far; see ``prover.STAGES_PER_STEP``."""
        return self._prover.num_steps

    @property
    def points(self) -> tuple[Point, ...]:
        """Priced ones that no other beats."""
        return self._prover.front()

    @property
    def corners(self) -> list[tuple[int, float]]:
        """Cycles in ``PARTS`` and pJ: every mapping is in the convex region above and to the right of these."""
        return self._corners

    def mapping(self, point: Point) -> tuple[GroupMapping, GroupCost]:
        """A point as a mapping."""
        if point not in self._mappings:
            self._mappings[point] = self._prover.mapping(point)
        return self._mappings[point]

    def is_settled(self, wanted: Wanted) -> bool:
        """Whether another turn would change nothing: a search with much the same rest of the plan proved all it can."""
        if self._objective != Objective.EDP:
            return self._is_done
        return any(
            value >= wanted.value
            and all(
                abs(new - old) <= LIKE_TOTALS * (new + least)
                for new, old, least in zip(wanted.around, other, self._prover.corner, strict=True)
            )
            for other, value in self._searched.items()
        )

    @property
    def _is_done(self) -> bool:
        """Whether the search under way has proved all it can."""
        return self._around is not None and self._prover.lower_bound >= self._prover.limit

    def improve(self, wanted: Wanted, most_steps: int, should_stop: Callable[[], bool]) -> None:
        """Search on for one turn.

        Args:
            wanted: The rest of the plan, and what it is compared with.
            most_steps: At most, beside those around the best known mappings.
            should_stop: Asked between batches.
        """
        is_edp, prover = self._objective == Objective.EDP, self._prover
        if self._around is None or (self._is_done and not self.is_settled(wanted)):
            self._around = wanted.around
            prover.aim_at(self._aim(wanted.around), wanted.value * (1 + MARGIN) if is_edp else math.inf)
            if self._is_started:
                prover.climb()
        if not self._is_started:
            # most groups are worth nothing, which bounds alone can say
            if is_edp:
                prover.improve(min(FIRST_STEPS, most_steps), should_stop)
            if not self._is_done:
                prover.start()
                self._is_started = True
        prover.improve(min(self._next_steps, most_steps), should_stop)
        self._next_steps = min(MOST_STEPS, 2 * self._next_steps)
        self._bounds[self._around] = prover.lower_bound * (1 - 1e-12)
        if self._is_done:
            self._searched[self._around] = wanted.value if prover.limit < prover.value else math.inf
        self._corners = self._find_corners()

    def become(self, other: GroupHope) -> None:
        """Go on where a copy of this search came to."""
        self.__dict__.update(other.__dict__)

    def sample(self) -> None:
        """Price the mappings that promise most."""
        self._prover.sample()

    def polish(self, point: Point) -> None:
        """Look around a point of a plan for sizes that do not divide evenly, once."""
        if self._around is not None and point not in self._polished:
            self._prover.climb(even=False)
            self._polished |= {point, *self.points}

    def _aim(self, around: Around) -> Aim:
        if self._objective != Objective.EDP:
            return self._objective.value_of
        return lambda cycles, energy_pj: (around.cycles + cycles) * (around.energy_pj + energy_pj)

    def _lines(self) -> list[Tangent]:
        if self._objective != Objective.EDP:
            cycle, energy = (1.0, 0.0) if self._objective == Objective.LATENCY else (0.0, 1.0)
            return [Tangent(cycle, energy, least) for least in self._bounds.values()]
        found = []
        for around, least in list(self._bounds.items())[-_MOST_CURVES:]:
            found += [
                Tangent(cycle, 1.0, 2 * math.sqrt(cycle * least) - cycle * around.cycles - around.energy_pj)
                for cycle in self._slopes(around, least)
            ]
        return found

    def _slopes(self, around: Around, least: float) -> list[float]:
        """Of a hyperbola, evenly from where the least cycles meet it to where the least energy does."""
        cycles, energy_pj = self._prover.corner
        ends = least / (around.cycles + cycles) ** 2, (around.energy_pj + energy_pj) ** 2 / least
        low, high = sorted(math.log(end) for end in ends)
        num = min(_MOST_TANGENTS, 1 + math.ceil((high - low) / _STEP))
        return [math.exp(low + (high - low) * (place + 0.5) / num) for place in range(num)]

    def _find_corners(self) -> list[tuple[int, float]]:
        cycles, energy_pj = self._prover.corner
        if not self.fits or any(math.isinf(least) for least in self._bounds.values()):
            return []
        lines = [Tangent(1.0, 0.0, cycles), Tangent(0.0, 1.0, energy_pj), *self._lines()]
        found = []
        for one, other in itertools.combinations(lines, 2):
            slope = one.cycle * other.energy - other.cycle * one.energy
            if abs(slope) <= 1e-12 * (abs(one.cycle * other.energy) + abs(other.cycle * one.energy)):
                continue
            x = (one.least * other.energy - other.least * one.energy) / slope
            y = (one.cycle * other.least - other.cycle * one.least) / slope
            if all(line.cycle * x + line.energy * y >= line.least - _SLACK * abs(line.least) for line in lines):
                found.append((math.floor(x * PARTS * (1 - _SLACK)), max(0.0, y * (1 - _SLACK))))
        return sorted(set(found))


def improve_all(
    todo: Mapping[GroupHope, Wanted], most_steps: int, workers: Workers, should_stop: Callable[[], bool]
) -> None:
    """Search groups on for one turn each, at the same time where there are workers.

    Args:
        todo: Groups, each with the rest of the plan and what that is compared with.
        most_steps: Of each.
        workers: Who searches; they send a whole search there and back, some megabytes.
        should_stop: Asked between batches here, and between groups of workers.
    """
    if not workers.are_others:
        for hope, wanted in todo.items():
            hope.improve(wanted, most_steps, should_stop)
        return
    hopes = list(todo)
    jobs = [(hope, todo[hope], most_steps) for hope in hopes]
    for at, improved in workers.in_order(_improved, jobs, should_stop=should_stop, patience=LONG, least=0):
        hopes[at].become(improved)


def _improved(hope: GroupHope, wanted: Wanted, most_steps: int) -> GroupHope:
    """In a worker, or a thread beside others: the search itself stays as it is."""
    searched = copy.deepcopy(hope)
    searched.improve(wanted, most_steps, lambda: False)
    return searched
