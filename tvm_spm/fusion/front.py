"""Every plan of a network that no other plan beats in both cycles and energy.

From the last layer to the first, a *label* is a plan of all layers from some layer on, kept if no other of the same
layers has at most its cycles and at most its energy. Adding the same group in front of two labels keeps their order,
so no label dropped is part of a plan on the front. Energies are integers of as many 62-bit words as they need, the
highest first, so nothing is rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import PlanError
from tvm_spm.fusion.plan import FrontPoint, PlannedGroup
from tvm_spm.fusion.table import OptionTable, Picks
from tvm_spm.jit import entry, kernel

Ints = NDArray[np.int64]

WORD_BITS = 62
"""Two words and a carry fit an int64."""

Int32s = NDArray[np.int32]

Labels = tuple[Ints, Ints, Int32s, Int32s, Int32s]
"""Cycles (strictly rising), energy words (strictly falling), groups, flat option, label of the rest; one row each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionFront:
    """All unbeaten plans of a network, by rising cycles."""

    table: OptionTable
    flat: list[tuple[int, int, int]]
    labels: list[Labels]

    def __len__(self) -> int:
        return len(self.labels[0][0])

    @property
    def num_labels(self) -> int:
        """Plans kept of all parts of the network."""
        return sum(len(labels[0]) for labels in self.labels[:-1])

    @property
    def points(self) -> tuple[FrontPoint, ...]:
        """Cycles and energy of every plan."""
        cycles, words = self.labels[0][:2]
        totals = zip(cycles.tolist(), words.tolist(), strict=True)
        return tuple(self.table.front_point(count, _join_words(parts)) for count, parts in totals)

    def groups(self, index: int) -> tuple[PlannedGroup, ...]:
        """The plan at one of ``points``; of equal ones that with fewest groups, then that which cuts earliest."""
        picks: Picks = []
        first, row = 0, range(len(self))[index]
        while first < self.table.num_layers:
            _, _, _, option, rest = self.labels[first]
            picks.append(self.flat[option[row]])
            first, row = picks[-1][1], int(rest[row])
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
                found = _merge(*found, *labels[stop][:3], cycles, words, len(flat))
                flat.append((first, stop, place))
                if len(found[0]) > num_left:
                    raise PlanError(
                        f"layer {first} of {table.num_layers}: {max_labels - num_left:,} labels of later layers "
                        f"+ {len(found[0]):,} of its own > max_labels {max_labels:,}; ask for the corners of the front"
                    )
        labels[first] = found
        num_left -= len(found[0])
    return FusionFront(table=table, flat=flat, labels=labels)


def _no_labels(num_rows: int, num_words: int) -> Labels:
    """No labels, or that of the plan of no layer."""
    zeros = np.zeros(num_rows, dtype=np.int32)
    return np.zeros(num_rows, np.int64), np.zeros((num_rows, num_words), np.int64), zeros, zeros, zeros


def _split_words(energy: int, num_words: int) -> list[int]:
    mask = (1 << WORD_BITS) - 1
    return [(energy >> (WORD_BITS * word)) & mask for word in range(num_words - 1, -1, -1)]


def _join_words(words: list[int]) -> int:
    energy = 0
    for word in words:
        energy = (energy << WORD_BITS) + word
    return energy


@kernel
def _compare(left: Ints, right: Ints) -> int:
    for word in range(left.size):
        if left[word] != right[word]:
            return 1 if left[word] > right[word] else -1
    return 0


@entry
def _merge(
    cycles: Ints, energy: Ints, groups: Int32s, option: Int32s, rest: Int32s, tail_cycles: Ints, tail_energy: Ints,
    tail_groups: Int32s, added_cycles: int, added_energy: Ints, flat: int,
) -> Labels:  # fmt: skip
    """Labels with those that put one group in front of every label of the rest; of equal ones the former stay."""
    num_words = added_energy.size
    num_old, num_new = cycles.size, tail_cycles.size
    out_cycles = np.empty(num_old + num_new, np.int64)
    out_energy = np.empty((num_old + num_new, num_words), np.int64)
    out_groups = np.empty(num_old + num_new, np.int32)
    out_option = np.empty(num_old + num_new, np.int32)
    out_rest = np.empty(num_old + num_new, np.int32)
    sums = np.zeros(num_words, np.int64)
    old = new = kept = 0
    summed = -1
    while old < num_old or new < num_new:
        if new < num_new and summed != new:
            carry = 0
            for word in range(num_words - 1, -1, -1):
                total = tail_energy[new, word] + added_energy[word] + carry
                carry = total >> WORD_BITS
                sums[word] = total & ((1 << WORD_BITS) - 1)
            summed = new
        if old == num_old:
            takes_new = True
        elif new == num_new:
            takes_new = False
        elif cycles[old] != tail_cycles[new] + added_cycles:
            takes_new = tail_cycles[new] + added_cycles < cycles[old]
        else:
            order = _compare(sums, energy[old])
            takes_new = order < 0 or (order == 0 and tail_groups[new] + 1 < groups[old])
        if takes_new:
            if kept == 0 or _compare(sums, out_energy[kept - 1]) < 0:
                out_cycles[kept], out_energy[kept] = tail_cycles[new] + added_cycles, sums
                out_groups[kept], out_option[kept], out_rest[kept] = tail_groups[new] + 1, flat, new
                kept += 1
            new += 1
        else:
            if kept == 0 or _compare(energy[old], out_energy[kept - 1]) < 0:
                out_cycles[kept], out_energy[kept], out_groups[kept] = cycles[old], energy[old], groups[old]
                out_option[kept], out_rest[kept] = option[old], rest[old]
                kept += 1
            old += 1
    # A copy, so that what was not kept is freed.
    return (
        out_cycles[:kept].copy(), out_energy[:kept].copy(), out_groups[:kept].copy(), out_option[:kept].copy(),
        out_rest[:kept].copy(),
    )  # fmt: skip
