"""Cores that run different programs against the shared DRAM channels: requests in the order of time, then number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cost_model.fused.queues import CHANNEL, DMA_END, NEVER, Orders, State, open_core, serve_core
from cost_model.nest import build_nest
from cost_model.problem import Ints
from cost_model.simulator.core import advance, serve
from cost_model.simulator.heap import push, sift_down
from cost_model.simulator.ledger import open_ledger
from cost_model.simulator.log import Log
from cost_model.simulator.placement import place_core
from tvm_spm.jit import entry, lean
from tvm_spm.space.mapping_batch import MappingBatch

LAYER, GROUP, PLACE, OWNER_FIELDS = range(4)
"""Columns of who a core works for: the number of its layer, or of its group, -1 for none; and its place there: among
the cores of the layer, or among those of all groups."""

FINISHED, PASS_CYCLES, MAC_CYCLES, RESULT_FIELDS = range(4)
"""Columns of a core's result; cycles of passes are only set for layers."""


class LayerRuns(NamedTuple):
    """The layers.

    Attributes:
        problems: One record of ``PROBLEM_FIELDS`` per layer.
        batch: One mapping per layer.
        nests: One record of ``NEST_FIELDS`` per layer.
        odometers: One record of ``ODOMETER_FIELDS`` per layer.
        cores: One record of ``CORE_FIELDS`` per core, those of groups included.
    """

    problems: NDArray[np.void]
    batch: MappingBatch
    nests: NDArray[np.void]
    odometers: NDArray[np.void]
    cores: NDArray[np.void]


class GroupRuns(NamedTuple):
    """The groups.

    Attributes:
        orders: Of all kinds of core of all groups, one behind the other.
        spans: Per core of any group, see ``queues.Orders``.
        depth: Per group, 1 if external tensors have two buffers, else 0.
        state: Of all their cores.
    """

    orders: Orders
    spans: Ints
    depth: Ints
    state: State


@lean
def _ask(waiting: Ints, time: int, number: int) -> None:
    """Put when a core asks for a channel, ``NEVER`` if it does not, in place of the first request."""
    waiting[0] = NEVER if time == NEVER else time * len(waiting) + number
    sift_down(waiting, len(waiting))


@entry
def run_together(owners: Ints, layers: LayerRuns, groups: GroupRuns, launch_cycles: int, log: Log, room: Ints) -> None:
    """Run all cores from their launch to their end.

    Args:
        owners: Per core, see ``LAYER``.
        layers: Programs of layers.
        groups: Programs of groups.
        launch_cycles: Before everything.
        log: An empty one.
        room: One row per core of ``RESULT_FIELDS``, which are set.
    """
    num_cores, free = len(owners), groups.state.free
    waiting = np.full(num_cores, NEVER, dtype=np.int64)
    ledgers = []
    for layer in range(len(layers.problems)):
        build_nest(layers.problems[layer], layers.batch, layer, layers.nests[layer])
        layers.odometers[layer].fold = 1
        ledgers.append(
            open_ledger(layers.problems[layer], layers.nests[layer], layers.odometers[layer : layer + 1], True)
        )  # fmt: skip
    for number in range(num_cores):
        layer, group, place = owners[number, LAYER], owners[number, GROUP], owners[number, PLACE]
        if layer >= 0:
            place_core(layers.problems[layer], layers.nests[layer], ledgers[layer], place, layers.cores[number])
            advance(layers.problems[layer], layers.nests[layer], layers.cores[number], ledgers[layer], log)
            time = layers.cores[number].clock
        else:
            time = open_core(
                groups.orders, groups.spans[place], launch_cycles, groups.depth[group], groups.state, place
            )  # fmt: skip
        push(waiting, number, time * num_cores + number)
    while waiting[0] != NEVER:
        time, number = waiting[0] // num_cores, waiting[0] % num_cores
        layer, group, place = owners[number, LAYER], owners[number, GROUP], owners[number, PLACE]
        start = max(time, free[0])
        if layer >= 0:
            problem, nest, core = layers.problems[layer], layers.nests[layer], layers.cores[number]
            free[0] = serve(core, ledgers[layer], log, start, 0)
            sift_down(free, len(free))
            is_waiting = advance(problem, nest, core, ledgers[layer], log)
            _ask(waiting, core.clock if is_waiting else NEVER, number)
        else:
            free[0] = start + groups.state.cores[place, CHANNEL]
            sift_down(free, len(free))
            again = serve_core(groups.orders, groups.spans[place], groups.depth[group], groups.state, place, start)
            _ask(waiting, again, number)
    for number in range(num_cores):
        core = layers.cores[number]
        if owners[number, LAYER] >= 0:
            room[number, FINISHED], room[number, PASS_CYCLES] = core.clock, core.sum_pass_cycles
            room[number, MAC_CYCLES] = core.sum_mac_cycles
        else:
            room[number, FINISHED] = groups.state.cores[owners[number, PLACE], DMA_END]
