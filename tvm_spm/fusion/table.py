"""Every group of a network and its ways to run, in whole numbers.

A float is a fraction whose denominator is a power of two, so one common denominator turns all energies into integers:
sums, products and comparisons of whole plans are then exact, and do not depend on the order of addition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tvm_spm.errors import PlanError
from tvm_spm.fusion.plan import GroupOption, PlannedGroup

OptionsOf = Callable[[int, int], Sequence[GroupOption]]

Point = tuple[int, int, int]
"""(cycles, energy in ``2**-shift`` pJ, position in the list of options)."""

Rows = list[list[tuple[int, list[Point]]]]
"""Per first layer: (stop, points by rising cycles and falling energy), by rising stop."""

Picks = list[tuple[int, int, int]]
"""(first, stop, position of the option) of every group of a plan, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionTable:
    """Groups that occur in some plan of the whole network, and their options that no other option beats."""

    num_layers: int
    rows: Rows
    options: dict[tuple[int, int], Sequence[GroupOption]]
    shift: int

    def groups(self, picks: Picks) -> tuple[PlannedGroup, ...]:
        """The plan behind ``picks``."""
        return tuple(
            PlannedGroup(first=first, stop=stop, option=self.options[first, stop][position])
            for first, stop, position in picks
        )

    def total(self, groups: Sequence[PlannedGroup]) -> tuple[int, float]:
        """Cycles and energy in pJ of one plan: exact sums, the energy as the nearest float."""
        energy = sum(_scale(float(group.option.energy_pj), self.shift) for group in groups)
        return sum(int(group.option.cycles) for group in groups), energy / (1 << self.shift)


def make_table(num_layers: int, options_of: OptionsOf, spans: Sequence[tuple[int, int]]) -> OptionTable:
    """Ask for the options of every interval once; they rise.

    Raises:
        PlanError: The groups that have options cannot cover every layer.
    """
    options: dict[tuple[int, int], Sequence[GroupOption]] = {}
    for first, stop in spans:
        if found := options_of(first, stop):
            options[first, stop] = found
    options = _drop_dead_ends(num_layers, options)
    energies = {float(option.energy_pj) for found in options.values() for option in found}
    shift = max(energy.as_integer_ratio()[1].bit_length() - 1 for energy in energies)
    whole = {energy: _scale(energy, shift) for energy in energies}
    rows: Rows = [[] for _ in range(num_layers)]
    for (first, stop), found in options.items():
        points = [(int(option.cycles), whole[option.energy_pj], place) for place, option in enumerate(found)]
        rows[first].append((stop, keep_unbeaten(points)))
    return OptionTable(num_layers=num_layers, rows=rows, options=options, shift=shift)


def _scale(energy_pj: float, shift: int) -> int:
    numerator, denominator = energy_pj.as_integer_ratio()
    return numerator << (shift + 1 - denominator.bit_length())


def _drop_dead_ends(
    num_layers: int, options: dict[tuple[int, int], Sequence[GroupOption]]
) -> dict[tuple[int, int], Sequence[GroupOption]]:
    """Only groups that some plan of the whole network contains; the keys rise."""
    ahead = {0}
    for first, stop in options:
        if first in ahead:
            ahead.add(stop)
    if num_layers not in ahead:
        raise PlanError(_explain_hole(num_layers, options, ahead))
    back = {num_layers}
    for first, stop in reversed(options):
        if stop in back:
            back.add(first)
    return {span: found for span, found in options.items() if span[0] in ahead and span[1] in back}


def _explain_hole(num_layers: int, spans: Iterable[tuple[int, int]], ahead: set[int]) -> str:
    covered = {layer for first, stop in spans for layer in range(first, stop)}
    for layer in range(num_layers):
        if layer not in covered:
            return (
                f"layer {layer} of {num_layers}: no group that contains it has an option; allow it a group of its own"
            )
    layer = max(ahead)
    return (
        f"layer {layer} of {num_layers}: no group that starts with it has an option, and no groups fit before "
        f"those that contain it; allow it a group of its own"
    )


def keep_unbeaten(points: list[Point]) -> list[Point]:
    """Points of which no other has at most the cycles and at most the energy; of equal ones the first listed."""
    kept: list[Point] = []
    for point in sorted(points):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
