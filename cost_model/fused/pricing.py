"""Exact cycles and energy of many mappings of one group, each with the array mappings that suit its stages."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.energy import tensor_energy
from cost_model.fused.flat import FlatGroup, Ints
from cost_model.fused.inner_mapper import InnerMapper, Shape
from cost_model.fused.many import (
    KIND_CORES,
    KIND_ROW,
    KIND_SHAPE,
    KIND_SHAPES,
    USED_KINDS,
    USED_SHAPES,
    Arena,
    Choices,
    Survey,
    empty_arena,
    empty_survey,
    finish,
    most_stages_of,
    survey,
)
from cost_model.fused.state import SHAPE_DIMS, SHAPE_LAYER, SHAPE_STAGES, empty_room, machine_of
from tvm_spm.arch import Arch
from tvm_spm.group import Group

Floats = NDArray[np.float64]

ROOM = 1 << 16, 1 << 11
"""Stages and kinds of core that are walked at a time; a mapping that needs more gets more."""


class Priced(NamedTuple):
    """Per row: cycles and energy for each of the mappers, and scratchpad in bytes; cycles are below 0 where the array
    cannot run a stage."""

    cycles: Ints
    energy_pj: Floats
    spm_bytes: Ints


class _Known:
    """Passes that one mapper found, by workload, main stage and stage."""

    def __init__(self, mapper: InnerMapper) -> None:
        self.mapper = mapper
        self._place: dict[bytes, int] = {}
        self._rows: list[tuple[int, float]] = []

    def look_up(self, keys: list[bytes], table: Ints) -> tuple[Ints, Floats]:
        """Cycles (below 0: none) and energy of passes; a key is a row of the table as bytes."""
        place, rows = self._place, self._rows
        new = {key: row for row, key in enumerate(keys) if key not in place}
        if new:
            todo = table[list(new.values())]
            half = (todo.shape[1] - 1) // 2
            cycles, energy_pj = np.zeros(len(todo), np.int64), np.zeros(len(todo))
            for number in np.unique(todo[:, 0]).tolist():
                own = np.flatnonzero(todo[:, 0] == number)
                mains, main = np.unique(todo[own, 1 : 1 + half], axis=0, return_inverse=True)
                shapes: list[Shape] = [tuple(row) for row in mains.tolist()]
                dims = np.ascontiguousarray(todo[own, 1 + half :])
                cycles[own], energy_pj[own] = self.mapper.passes(number, shapes, main.ravel(), dims)
            place.update({key: len(rows) + row for row, key in enumerate(new)})
            rows.extend(zip(cycles.tolist(), energy_pj.tolist(), strict=True))
        chosen = [rows[place[key]] for key in keys]
        return np.array([c for c, _ in chosen], np.int64), np.array([e for _, e in chosen], np.float64)


class Pricer:
    """Prices mappings of one group.

    Args:
        group: The group.
        flat: Its arrays.
        arch: The accelerator.
        mappers: Ways to choose the mappings of the array; each gives a price of its own.
        room: See ``ROOM``.
    """

    def __init__(
        self, group: Group, flat: FlatGroup, arch: Arch, mappers: tuple[InnerMapper, ...],
        room: tuple[int, int] = ROOM,
    ) -> None:  # fmt: skip
        self._room = room
        self._flat, self._arch, self._shape = flat, arch, group.sink_shape
        self._machine = machine_of(arch)
        works = [group.graph.layers[index].workload for index in group.layers]
        self._known = [_Known(mapper) for mapper in mappers]
        self._numbers = [
            np.array([-1 if work is None else mapper.number(work) for work in works], np.int64) for mapper in mappers
        ]
        self.tensor_prices = tensor_prices(flat, arch)
        """pJ per entry of ``Survey.totals``."""

    def price(self, choices: Choices) -> Priced:
        """Exact costs of every row."""
        num, most = len(choices.double), int(choices.cores.prod(axis=1).max(initial=1))
        found = empty_survey(self._flat, num, most)
        cycles = np.full((num, len(self._known)), -1, np.int64)
        energy_pj = np.zeros((num, len(self._known)))
        chunk = -(-np.array(self._shape, np.int64) // choices.cores)
        tiles = np.prod(-(-chunk // choices.tile), axis=1) * choices.kept.any(axis=1)
        room = empty_room(self._flat, int(tiles.max(initial=0)))
        start, (num_stages, num_kinds) = 0, self._room
        arena = empty_arena(self._flat, num_stages, num_kinds)
        while start < num:
            stop = survey(self._flat, self._machine, choices, start, arena, room, found)
            if stop == start:
                least = int(most_stages_of(self._flat, self._shape, choices.take(np.array([start])))[0])
                num_stages, num_kinds = 2 * max(num_stages, least), 2 * num_kinds
                arena = empty_arena(self._flat, num_stages, num_kinds)
                continue
            self._finish((start, stop), choices, (arena, found), (cycles, energy_pj))
            start = stop
        return Priced(cycles, energy_pj, found.spm_bytes)

    def _finish(
        self, rows: tuple[int, int], choices: Choices, walked: tuple[Arena, Survey], into: tuple[Ints, Floats]
    ) -> None:
        (arena, found), (cycles, energy_pj) = walked, into
        num_shapes = int(arena.used[USED_SHAPES])
        shapes, kinds = arena.shapes[:num_shapes], arena.kinds[: arena.used[USED_KINDS]]
        row_of = np.repeat(kinds[:, KIND_ROW], kinds[:, KIND_SHAPES])
        count = np.repeat(kinds[:, KIND_CORES], kinds[:, KIND_SHAPES]) * shapes[:, SHAPE_STAGES]
        assert len(row_of) == num_shapes
        assert (kinds[:, KIND_SHAPE] == np.cumsum([0, *kinds[:, KIND_SHAPES]])[:-1]).all()
        layer = shapes[:, SHAPE_LAYER]
        machine = self._arch.levels.DRAM.channels, self._arch.cores.launch_cycles
        base = found.totals[rows[0] : rows[1]] @ self.tensor_prices
        for place, known in enumerate(self._known):
            table = np.column_stack(
                [self._numbers[place][layer], found.main[row_of, layer], shapes[:, SHAPE_DIMS:]]
            )  # fmt: skip
            keys = np.ascontiguousarray(table).view(f"V{table.itemsize * table.shape[1]}").ravel().tolist()
            pass_cycles, pass_energy = known.look_up(keys, table)
            finish(choices, rows, arena, found.kind, pass_cycles, machine, cycles[:, place])
            energy_pj[rows[0] : rows[1], place] = base + np.bincount(
                row_of - rows[0], count * pass_energy, rows[1] - rows[0]
            )  # fmt: skip


def tensor_prices(flat: FlatGroup, arch: Arch) -> Floats:
    """What an entry of ``Survey.totals`` costs in pJ: ``energy.tensor_energy`` of one element at a time."""
    layers, reads = flat.num_layers, len(flat.read)
    ones = np.eye(layers + 2 * reads)
    prices = np.zeros(len(ones) + 1)
    prices[:-1] = tensor_energy(
        flat, arch, ones[:, :layers], ones[:, layers : layers + reads], ones[:, layers + reads :]
    ).sum(axis=1)  # fmt: skip
    prices[-1] = arch.levels.DRAM.access_pj / arch.word_bits
    return prices
