"""Best first through the space of mappings of a group: what promises most is decided further, or priced, next."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.cost import GroupCost
from cost_model.fused.flat import BITS, IS_MAC, K_LOOP, LAYER, PRODUCER, ROLE, WEIGHT, Ints, flatten
from cost_model.fused.many import Choices, most_stages_of
from cost_model.fused.pricing import Pricer
from tvm_spm.arch import Arch
from tvm_spm.fusion.bounds import Bounds, Found
from tvm_spm.fusion.candidates import Candidate
from tvm_spm.fusion.group_space import GroupSpace, largest_up_to
from tvm_spm.fusion.probe import Prober
from tvm_spm.fusion.search import NUM_TIMED, core_counts, inner_mapper
from tvm_spm.fusion.timing import Timer
from tvm_spm.group import Group, GroupMapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Operand

Floats = NDArray[np.float64]

Aim = Callable[[Floats, Floats], Floats]
"""What is least wanted of cycles and pJ; more of either is never less."""

Choice = tuple[Candidate, bool]
"""A mapping but for the array, and whether it has two buffers."""

BOUNDED_PER_STEP = 64
"""So many parts of the space are bounded at most for each step that may be made."""

STAGES_PER_STEP, KEYS_PER_STEP = 1_024, 8
"""A step prices a mapping of up to so many stages per core; larger ones take a step for as many again. Or it works out
what the array takes for all stages of a layer, for so many ways to cut it."""

MOST_STAGES = 1 << 17
"""Of one core; what has more is left to its bound."""

MOST_CUTS = 100_000
"""Ways to cut a group into tiles of any size; where there are more, only even cuts are looked at."""

_BATCH = 256
_NUM_DIVES = 64
_MOST_ROUNDS = 24


class Point(NamedTuple):
    """A mapping that was priced; ``mapper`` is the place of that of its array."""

    cycles: int
    energy_pj: float
    choice: Choice
    mapper: int


class _Rows(NamedTuple):
    """Parts of the space, as ``Bounds.bound`` is given them."""

    cut: Ints
    k_tile: Ints
    chunks: Ints
    key: Ints

    def take(self, places: Ints | slice | NDArray[np.bool_]) -> _Rows:
        """Some of them."""
        return _Rows._make(column[places] for column in self)


class _Block(NamedTuple):
    """Parts of the space with the channels of the first ``depth`` layers decided, by rising bound.

    ``values`` are bounds with one buffer and with two, ``value`` the least of both. What the stages of the last layer
    that was decided cost is looked up when nothing promises more: ``is_known`` then.
    """

    depth: int
    is_known: bool
    rows: _Rows
    values: Floats
    value: Floats


class GroupProver:
    """Searches one group for the least of one aim after the other; prices and bounds stay.

    Args:
        group: Consecutive layers, or one.
        arch: The accelerator, whose scratchpad is not split.
        aim: The first one.
        cores: Numbers of cores; default 1, 2, 4, ... and all.
        mappers: Objectives of the mappers of stages that are tried for every mapping.
        most_cuts: See ``GroupSpace``.
    """

    def __init__(
        self, group: Group, arch: Arch, aim: Aim, *, cores: Sequence[int] | None = None,
        mappers: Sequence[str] = ("edp", "energy", "latency"), most_cuts: int = MOST_CUTS,
    ) -> None:  # fmt: skip
        counts = [count for count in (cores or core_counts(arch)) if count <= arch.cores.count]
        self._group, self._arch = group, arch
        self._flat = flatten(group)
        self.space = GroupSpace(group, self._flat, counts, most_cuts)
        self._mappers = tuple(inner_mapper(arch, name) for name in mappers)
        self._bounds = Bounds(group, self._flat, arch, self.space.cuts(), self._mappers)
        self._cut_list = list(self._bounds.row_of)
        self._capacity_bytes = arch.levels.SPM.capacity_of(Operand.I)
        weights = self._weight_bits()
        # what there is no choice about first; then what holds the most weights: it decides most
        self._deep = sorted(
            np.flatnonzero(self._flat.layer[:, IS_MAC]).tolist(),
            key=lambda layer: (len(self.space.k_options[layer]) > 1, -weights[layer]),
        )  # fmt: skip
        self._whole_k = np.where(self._flat.layer[:, IS_MAC] == 1, self._flat.loops[:, K_LOOP], 1)
        self._seen: set[Choice] = set()
        self._front: list[Point] = []
        self.num_bounded = self.num_priced = self.num_steps = 0
        self.why_nothing_fits = ""
        """Empty if something may fit."""
        self._roots, self._root_bounds = self._bound_roots()
        self.aim_at(aim)

    def aim_at(self, aim: Aim, ceiling: float = math.inf) -> None:
        """Begin again with another aim; what was priced counts, and what reaches the ceiling is not searched."""
        self._aim, self._serial, self._ceiling = aim, itertools.count(), ceiling
        self._best = self._find_best()
        self._heap: list[tuple[float, int, int, int, _Block]] = []
        self._left_out, self._num_left_out = math.inf, 0
        self._put((0, True), self._roots, self._root_bounds)

    @cached_property
    def _pricer(self) -> Pricer:
        return Pricer(self._group, self._flat, self._arch, self._mappers)

    @property
    def best(self) -> Point | None:
        """Of all priced ones."""
        return self._best[1]

    @property
    def value(self) -> float:
        """Aim of the best so far."""
        return self._best[0]

    def _find_best(self) -> tuple[float, Point | None]:
        """Value and point; of equal values the one of fewest cycles."""
        if not self._front:
            return math.inf, None
        cycles, energy_pj = (np.array([point[place] for point in self._front], np.float64) for place in range(2))
        values = self._aim(cycles, energy_pj)
        place = int(np.argmin(values))
        return float(values[place]), self._front[place]

    @property
    def limit(self) -> float:
        """What is searched for has less: than the best so far, and than the ceiling."""
        return min(self.value, self._ceiling)

    @property
    def lower_bound(self) -> float:
        """No mapping of the space has less."""
        return min(self.limit, self._left_out, self._heap[0][0] if self._heap else math.inf)

    @property
    def corner(self) -> tuple[float, float]:
        """Cycles and pJ that no mapping of the space stays below; infinite if none fits."""
        found = self._root_bounds
        return float(found.cycles.min(initial=math.inf)), float(found.energy_pj.min(initial=math.inf))

    def _bound_roots(self) -> tuple[_Rows, Found]:
        """Every way to cut the group, in as many chunks of channels as the scratchpad forces."""
        least_k = np.array([min(options) for options in self.space.k_options], np.int64)
        chunks = self._forced_chunks()
        cut = np.concatenate([self.space.rows(split, self._bounds.row_of) for split in self.space.splits])
        size = len(cut), len(chunks)
        rows = _Rows(cut, *(np.broadcast_to(one, size) for one in (least_k, chunks, np.full(1, -1))))
        found = self._bounds.bound(*rows)
        self.num_bounded += len(cut)
        fits = found.num_bytes[:, 0] <= self._capacity_bytes
        if not fits.any():
            nearest = int(np.argmin(found.num_bytes[:, 0]))
            self.why_nothing_fits = (
                f"none of {len(cut):,} ways to cut it fits: the closest needs {int(found.num_bytes[nearest, 0]):,} B, "
                f"has {self._capacity_bytes:,} B: {self._candidate(cut[nearest], least_k)}"
            )
        return rows.take(fits), found.take(fits)

    def _forced_chunks(self) -> Ints:
        """Per layer, chunks of channels whose weights alone fit a scratchpad."""
        chunks = np.ones(self._flat.num_layers, np.int64)
        for layer, bits in enumerate(self._weight_bits()):
            groups = int(self._flat.loops[layer, DIM_NAMES.index("G")])
            most = max(1, self._capacity_bytes * 8 * int(self._whole_k[layer]) * groups // max(1, bits))
            size = largest_up_to(self.space.k_options[layer], most)
            chunks[layer] = -(-self._whole_k[layer] // size)
        return chunks

    def _weight_bits(self) -> list[int]:
        """Per layer, of weights from outside."""
        flat, bits = self._flat, [0] * self._flat.num_layers
        for read in np.flatnonzero((flat.read[:, ROLE] == WEIGHT) & (flat.read[:, PRODUCER] < 0)):
            bits[int(flat.read[read, LAYER])] += int(np.prod(flat.read_shape[read])) * int(flat.read[read, BITS])
        return bits

    def _put(self, state: tuple[int, bool], rows: _Rows, found: Found) -> None:
        """Keep parts of the space that may hold something better; ``state`` is that of ``_Block``."""
        energy_pj = np.broadcast_to(found.energy_pj[:, None, :], found.cycles.shape)
        values = self._aim(found.cycles, energy_pj).min(axis=2)
        values[found.num_bytes > self._capacity_bytes] = math.inf
        value = values.min(axis=1)
        order = np.argsort(value, kind="stable")
        order = order[value[order] < self.limit]
        if len(order):
            block = _Block(*state, rows.take(order), values[order], value[order])
            heapq.heappush(self._heap, (float(block.value[0]), -block.depth, next(self._serial), 0, block))

    def sample(self) -> None:
        """Price what promises most from a few tiles of each mapping."""
        prober = Prober(self._group, self._flat, self._arch)
        self._try([choice for count in self.space.counts for choice in prober.promising(count, NUM_TIMED)])

    def start(self, known: Iterable[Choice] = ()) -> None:
        """Price mappings that are known, and the most promising ways to cut; and climb from the best of them."""
        choices = [*known]
        for _, _, _, _, block in heapq.nsmallest(1, self._heap):
            for place in range(min(_NUM_DIVES, len(block.value))):
                choices += self._dive(block.rows.cut[place])
        self._try(choices)
        self.climb()

    def climb(self, *, even: bool = True) -> None:
        """Go to the best neighbour of the best, until none is better.

        Args:
            even: Whether to stay in the space, or to leave it for sizes that do not divide evenly.
        """
        for _ in range(_MOST_ROUNDS):
            best = self.best
            if best is None:
                return
            self._try(list(self.space.neighbours(*best.choice, even=even)))
            if self.best == best:
                return

    def _dive(self, cut: Ints) -> list[Choice]:
        """A mapping of a part of the space: all channels at a time, or ever fewer where most weights are held."""
        weights = np.array(self._weight_bits(), np.float64) / self._whole_k
        most = (self._whole_k // self._forced_chunks()).tolist()
        k_tile = np.array([largest_up_to(*pair) for pair in zip(self.space.k_options, most, strict=True)], np.int64)
        while True:
            chunks = -(-self._whole_k // k_tile)
            nothing = np.full((1, len(k_tile)), -1)
            held = self._bounds.bound(cut[None], k_tile[None], chunks[None], nothing).num_bytes[0]
            if held[0] <= self._capacity_bytes:
                candidate = self._candidate(cut, k_tile)
                return [(candidate, double) for double in (False, True) if held[int(double)] <= self._capacity_bytes]
            smaller = [
                largest_up_to(options, int(k) - 1) for options, k in zip(self.space.k_options, k_tile, strict=True)
            ]
            worth = np.where(np.array(smaller) < k_tile, weights * k_tile, -1.0)
            layer = int(np.argmax(worth))
            if worth[layer] < 0:
                return []
            k_tile[layer] = smaller[layer]

    def _candidate(self, cut: Ints, k_tile: Ints) -> Candidate:
        cuts = [self._cut_list[row] for row in cut.tolist()]
        return Candidate(
            tuple(parts for _, parts, _, _ in cuts), tuple(tile for _, _, tile, _ in cuts),
            tuple(axis for axis, _, _, kept in cuts if kept), tuple(k_tile.tolist()),
        )  # fmt: skip

    def improve(self, most_steps: int, should_stop: Callable[[], bool] = lambda: False) -> tuple[str, ...]:
        """Search on until the bound meets the best, or the budget ends.

        Args:
            most_steps: Of ``STAGES_PER_STEP`` stages of mappings that are priced; a multiple is bounded.
            should_stop: Asked between batches.

        Returns:
            What ended the search before it was proved.
        """
        stop_steps = self.num_steps + most_steps
        stop_bounded = self.num_bounded + BOUNDED_PER_STEP * most_steps
        while self._heap and self._heap[0][0] < self.limit:
            if self.num_steps >= stop_steps:
                return (f"{most_steps:,} steps were made",)
            if self.num_bounded >= stop_bounded:
                return (f"{BOUNDED_PER_STEP * most_steps:,} parts of the space were bounded",)
            if should_stop():
                return ("stopped",)
            self._step()
        if self._left_out < self.limit:
            return (f"{self._num_left_out:,} mappings of more than {MOST_STAGES:,} stages per core were not priced",)
        return ()

    def _step(self) -> None:
        """Take the most promising parts of the space: decide one layer more, or price them."""
        _, _, _, cursor, block = heapq.heappop(self._heap)
        other = self._heap[0][0] if self._heap else math.inf
        until = min(self.limit, max(other, float(block.value[cursor]) * 1.001))
        stop = max(cursor + 1, min(cursor + _BATCH, int(np.searchsorted(block.value, until))))
        if stop < len(block.value) and block.value[stop] < self.limit:
            heapq.heappush(
                self._heap, (float(block.value[stop]), -block.depth, next(self._serial), stop, block)
            )  # fmt: skip
        rows = block.rows.take(slice(cursor, stop))
        if not block.is_known:
            layer, num_keys = self._deep[block.depth - 1], self._bounds.num_keys
            rows.key[:, layer] = self._bounds.decide(layer, rows.cut, rows.k_tile[:, layer])
            self.num_steps += ceil_div(self._bounds.num_keys - num_keys, KEYS_PER_STEP)
            self._put((block.depth, True), rows, self._bounds.bound(*rows))
        elif block.depth < len(self._deep):
            rows = self._decide(self._deep[block.depth], rows)
            self.num_bounded += len(rows.cut)
            self._put((block.depth + 1, False), rows, self._bounds.bound(*rows))
        else:
            choices = []
            for place in range(stop - cursor):
                candidate, values = self._candidate(rows.cut[place], rows.k_tile[place]), block.values[cursor + place]
                choices += [(candidate, double) for double in (False, True) if values[int(double)] < self.limit]
            self._try(choices, float(block.value[cursor]))

    def _decide(self, layer: int, rows: _Rows) -> _Rows:
        """Split parts of the space by the channels of one layer more."""
        options = np.array(self.space.k_options[layer], np.int64)
        num = len(rows.cut)
        cut, k_tile, chunks, key = (np.repeat(column, len(options), axis=0) for column in rows)
        k_tile[:, layer] = np.tile(options, num)
        chunks[:, layer] = -(-self._whole_k[layer] // k_tile[:, layer])
        return _Rows(cut, k_tile, chunks, key)

    def _try(self, choices: Sequence[Choice], floor: float | None = None) -> None:
        """Price mappings that were not yet; ``floor`` is a bound of them all."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._seen]
        if not new:
            return
        rows = _rows(new, len(self.space.shape))
        stages = most_stages_of(self._flat, self.space.shape, rows)
        few = stages <= MOST_STAGES
        if floor is not None and not few.all():
            self._left_out, self._num_left_out = min(self._left_out, floor), self._num_left_out + int((~few).sum())
        kept = np.flatnonzero(few)
        if not len(kept):
            return
        new = [new[place] for place in kept.tolist()]
        self._seen.update(new)
        priced = self._pricer.price(rows.take(kept))
        self.num_priced += len(new)
        self.num_steps += int((1 + stages[kept] // STAGES_PER_STEP).sum())
        fits = (priced.spm_bytes <= self._capacity_bytes)[:, None] & (priced.cycles >= 0)
        places, mappers = np.nonzero(fits)
        cycles, energy_pj = priced.cycles[fits].tolist(), priced.energy_pj[fits].tolist()
        points = [
            Point(c, e, new[place], mapper)
            for c, e, place, mapper in zip(cycles, energy_pj, places.tolist(), mappers.tolist(), strict=True)
        ]
        self._front = _unbeaten([*self._front, *points])
        self._best = self._find_best()

    def mapping(self, point: Point) -> tuple[GroupMapping, GroupCost]:
        """A point as a mapping, with all that it costs."""
        timer = Timer(self._group, self._flat, self._arch, self._mappers[point.mapper], most_stages=MOST_STAGES)
        timer.time(*point.choice)
        return timer.front()[0]

    def front(self) -> tuple[Point, ...]:
        """Points that no other one priced beats, by rising cycles."""
        return tuple(self._front)


def _unbeaten(points: list[Point]) -> list[Point]:
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not kept or point.energy_pj < kept[-1].energy_pj:
            kept.append(point)
    return kept


def _rows(choices: Sequence[Choice], rank: int) -> Choices:
    return Choices(
        np.array([c.cores for c, _ in choices], np.int64), np.array([c.tile for c, _ in choices], np.int64),
        np.array([[int(axis in c.kept) for axis in range(rank)] for c, _ in choices], np.int64),
        np.array([c.k_tile for c, _ in choices], np.int64), np.array([int(double) for _, double in choices], np.int64),
    )  # fmt: skip
