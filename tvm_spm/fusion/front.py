"""Every plan of a network that no other plan beats in both cycles and energy.

From the last layer to the first, a *label* is a plan of all layers from some layer on, kept if no other of the same
layers has at most its cycles and at most its energy. Adding the same group in front of two labels keeps their order,
so no label dropped is part of a plan on the front. Energies are integers of as many 62-bit words as they need, the
highest first, so nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import PlanError
from tvm_spm.fusion.plan import FrontPoint, PlannedGroup
from tvm_spm.fusion.table import OptionTable, Picks
from tvm_spm.jit import entry, lean

Ints = NDArray[np.int64]

WORD_BITS = 62
"""Two words and a carry fit an int64."""

Int32s = NDArray[np.int32]


class Labels(NamedTuple):
    """One row each: cycles (strictly rising), energy words (strictly falling), groups, flat option, rest's label."""

    cycles: Ints
    energy: Ints
    groups: Int32s
    option: Int32s
    rest: Int32s


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionFront:
    """All unbeaten plans of a network, by rising cycles."""

    table: OptionTable
    flat: list[tuple[int, int, int]]
    labels: list[Labels]

    def __len__(self) -> int:
        return len(self.labels[0].cycles)

    @property
    def num_labels(self) -> int:
        """Plans kept of all parts of the network."""
        return sum(len(labels.cycles) for labels in self.labels[:-1])

    @property
    def points(self) -> tuple[FrontPoint, ...]:
        """Cycles and energy of every plan."""
        labels = self.labels[0]
        totals = zip(labels.cycles.tolist(), labels.energy.tolist(), strict=True)
        return tuple(self.table.front_point(count, _join_words(parts)) for count, parts in totals)

    def groups(self, index: int) -> tuple[PlannedGroup, ...]:
        """The plan at one of ``points``; of equal ones that with fewest groups, then that which cuts earliest."""
        picks: Picks = []
        first, row = 0, range(len(self))[index]
        while first < self.table.num_layers:
            labels = self.labels[first]
            picks.append(self.flat[labels.option[row]])
            first, row = picks[-1][1], int(labels.rest[row])
        return self.table.groups(picks)


def find_front(table: OptionTable, *, max_labels: int) -> FusionFront:
    """Keep all unbeaten labels.

    Args:
        table: Of the network.
        max_labels: Over all layers; a label takes 28 bytes or more.

    Raises:
        PlanError: The labels do not fit ``max_labels``, or 62 bits do not hold the cycles.
    """
    most_cycles = sum(max((points[-1][0] for _, points in row), default=0) for row in table.rows)
    if most_cycles >= 1 << WORD_BITS:
        raise PlanError(
            f"a plan of the network may take {most_cycles:,} cycles, the front counts to {1 << WORD_BITS:,}"
        )
    most_energy = sum(max((points[0][1] for _, points in row), default=0) for row in table.rows)
    num_words = max(1, -(-most_energy.bit_length() // WORD_BITS))
    flat: list[tuple[int, int, int]] = []
    labels: list[Labels] = [_no_labels(0, num_words)] * table.num_layers + [_no_labels(1, num_words)]
    num_left = max_labels
    for first in range(table.num_layers - 1, -1, -1):
        found = _no_labels(0, num_words)
        for stop, points in table.rows[first]:
            # In the order listed, so that of equal plans the first listed stays.
            for cycles, energy, place in sorted(points, key=lambda point: point[2]):
                words = np.array(_split_words(energy, num_words), dtype=np.int64)
                found = _merge(found, labels[stop], cycles, words, len(flat))
                flat.append((first, stop, place))
                if len(found.cycles) > num_left:
                    raise PlanError(
                        f"layer {first} of {table.num_layers}: {max_labels - num_left:,} labels of later layers "
                        f"+ {len(found.cycles):,} of its own > max_labels {max_labels:,}; "
                        f"ask for the corners of the front"
                    )
        labels[first] = found
        num_left -= len(found.cycles)
    return FusionFront(table=table, flat=flat, labels=labels)


def _no_labels(num_rows: int, num_words: int) -> Labels:
    """No labels, or that of the plan of no layer."""
    zeros = np.zeros(num_rows, dtype=np.int32)
    return Labels(np.zeros(num_rows, np.int64), np.zeros((num_rows, num_words), np.int64), zeros, zeros, zeros)


def _split_words(energy: int, num_words: int) -> list[int]:
    mask = (1 << WORD_BITS) - 1
    return [(energy >> (WORD_BITS * word)) & mask for word in range(num_words - 1, -1, -1)]


def _join_words(words: list[int]) -> int:
    energy = 0
    for word in words:
        energy = (energy << WORD_BITS) + word
    return energy


@lean
def _compare(left: Ints, right: Ints) -> int:
    for word in range(left.size):
        if left[word] != right[word]:
            return 1 if left[word] > right[word] else -1
    return 0


@entry
def _merge(old: Labels, tail: Labels, added_cycles: int, added_energy: Ints, flat: int) -> Labels:
    """Labels with those that put one group in front of every label of the rest; of equal ones the former stay."""
    num_words, num_old, num_new = added_energy.size, old.cycles.size, tail.cycles.size
    cycles, groups = np.empty(num_old + num_new, np.int64), np.empty(num_old + num_new, np.int32)
    energy = np.empty((num_old + num_new, num_words), np.int64)
    option, rest = np.empty_like(groups), np.empty_like(groups)
    sums = np.zeros(num_words, np.int64)
    at = new = kept = 0
    summed = -1
    while at < num_old or new < num_new:
        if new < num_new and summed != new:
            carry = 0
            for word in range(num_words - 1, -1, -1):
                total = tail.energy[new, word] + added_energy[word] + carry
                carry = total >> WORD_BITS
                sums[word] = total & ((1 << WORD_BITS) - 1)
            summed = new
        if at == num_old:
            takes_new = True
        elif new == num_new:
            takes_new = False
        elif old.cycles[at] != tail.cycles[new] + added_cycles:
            takes_new = tail.cycles[new] + added_cycles < old.cycles[at]
        else:
            order = _compare(sums, old.energy[at])
            takes_new = order < 0 or (order == 0 and tail.groups[new] + 1 < old.groups[at])
        words = sums if takes_new else old.energy[at]
        if kept == 0 or _compare(words, energy[kept - 1]) < 0:
            for word in range(num_words):
                energy[kept, word] = words[word]
            if takes_new:
                cycles[kept], groups[kept] = tail.cycles[new] + added_cycles, tail.groups[new] + 1
                option[kept], rest[kept] = flat, new
            else:
                cycles[kept], groups[kept] = old.cycles[at], old.groups[at]
                option[kept], rest[kept] = old.option[at], old.rest[at]
            kept += 1
        if takes_new:
            new += 1
        else:
            at += 1
    # A copy, so that what was not kept is freed.
    return Labels(
        cycles[:kept].copy(), energy[:kept].copy(), groups[:kept].copy(), option[:kept].copy(), rest[:kept].copy()
    )
