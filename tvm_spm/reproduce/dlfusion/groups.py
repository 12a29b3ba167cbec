"""Prices of groups from the search over group mappings and the simulator of groups."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from cost_model.fused.cost import walk_kinds
from cost_model.fused.flat import flatten
from cost_model.fused.state import NUM_SHAPES, SHAPE_DIMS, SHAPE_STAGES, parts_of
from tvm_spm.arch import Arch
from tvm_spm.fusion.candidates import core_splits
from tvm_spm.fusion.search import group_search
from tvm_spm.graph import Read, box_elems
from tvm_spm.group import Group, GroupMapping
from tvm_spm.reproduce.dlfusion.prices import BoundGroup, GroupPrice, PriceGroup
from tvm_spm.reproduce.dlfusion.recompute import needed_boxes
from tvm_spm.reproduce.dlfusion.synthetic import conv_chain
from tvm_spm.units import ceil_div

ROWS_AXIS = 2


def make_price_group(arch: Arch) -> PriceGroup:
    """Prices groups on one accelerator: fewest cycles over all mappings that the search of groups looks at."""

    def price(group: Group, cores: int) -> GroupPrice | None:
        best = group_search(group, arch, cores=(cores,), objective="latency").best("latency")
        if best is None:
            return None
        mapping, found = best
        return GroupPrice(
            cycles=found.cost.cycles,
            energy_pj=found.cost.energy_pj,
            num_cores=mapping.num_cores,
            dram_bytes=found.dram_bytes,
            macs=found.macs_executed,
            mapping=mapping,
        )

    return price


def make_bound_group(arch: Arch) -> BoundGroup:
    """Cycles that no mapping of a group stays below, by number of cores.

    Every core in use writes some element of the last output, so it loads all constants that one element needs; what the
    whole group needs is loaded at least once. One core moves what one channel does, and all together what all channels
    do. The core with most to do has its share of all multiply-accumulates and vector operations, one after the other.
    """
    channel_bytes_per_cycle = min(arch.levels.DRAM.channel_bytes_per_cycle, arch.dma_bytes_per_cycle)

    def bound(group: Group, counts: tuple[int, ...]) -> tuple[float, ...]:
        work = _least_work(group)
        compute_cycles = work.macs / arch.num_pes + work.vector_ops / arch.vector.ops_per_cycle
        found = []
        for cores in counts:
            moved = sum(max(whole, cores * least) for whole, least in work.constant_bytes) + work.other_bytes
            dma_cycles = moved / (min(cores, arch.levels.DRAM.channels) * channel_bytes_per_cycle)
            found.append(max(dma_cycles, compute_cycles / cores) + arch.cores.launch_cycles)
        return tuple(found)

    return bound


def can_split(shape: tuple[int, ...], cores: int) -> bool:
    """Whether the search knows a way to split an output over exactly so many cores."""
    return bool(core_splits(shape, cores))


@dataclass(frozen=True, slots=True, kw_only=True)
class _LeastWork:
    """What any mapping of a group does at least.

    Attributes:
        macs: Multiply-accumulates.
        vector_ops: On the vector unit, while the array waits.
        constant_bytes: Per constant from DRAM, of all of it and of what one element of the last output needs.
        other_bytes: Inputs and the output.
    """

    macs: int
    vector_ops: int
    constant_bytes: tuple[tuple[int, int], ...]
    other_bytes: int


def _least_work(group: Group) -> _LeastWork:
    graph, produced = group.graph, set(group.intermediates())
    layers = [graph.layers[index] for index in group.layers]
    sink = graph.layers[group.sink]
    whole = needed_boxes(graph, group.layers[0], group.sink + 1, tuple((0, extent) for extent in group.sink_shape))
    corner = needed_boxes(graph, group.layers[0], group.sink + 1, ((0, 1),) * len(group.sink_shape))
    inside = [read for layer in layers for read in layer.reads if read.tensor in produced]
    # Where a layer skips some of what another one makes, or picks one of several inputs, less may be needed.
    is_plain = all(len(read.accesses) == 1 for layer in layers for read in layer.reads)
    is_dense = is_plain and not any(
        _has_gaps(read, dict(layer.loops)) for layer in layers for read in layer.reads if read in inside
    )
    constants, others = dict[int, tuple[int, int]](), dict[int, int]()
    for index in group.layers:
        layer = graph.layers[index]
        for read in layer.reads:
            tensor = graph.tensors[read.tensor]
            if read.tensor in produced:
                continue
            num_bytes = tensor.elem_bits / 8
            if tensor.is_constant:
                parts = [
                    int(num_bytes * box_elems(read.box(layer.loop_ranges(boxes[index])))) if index in boxes else 0
                    for boxes in (whole, corner)
                ]
                constants[read.tensor] = parts[0] if is_plain else 0, parts[1] if is_plain else 0
            elif is_dense and not _has_gaps(read, dict(layer.loops)):
                others[read.tensor] = int(num_bytes * box_elems(read.box(layer.loop_ranges(whole[index]))))
    output = graph.tensors[sink.output]
    counted = layers if is_dense else [sink]
    return _LeastWork(
        macs=sum(layer.workload.macs for layer in counted if layer.workload is not None),
        vector_ops=sum(
            prod(graph.tensors[layer.output].shape) * layer.num_ops_per_elem
            for layer in counted
            if layer.workload is None or layer is not sink
        ),
        constant_bytes=tuple(constants.values()),
        other_bytes=sum(others.values()) + prod(output.shape) * output.elem_bits // 8,
    )


def _has_gaps(read: Read, extents: dict[str, int]) -> bool:
    """Whether some elements between those read are not read."""
    for axis in read.accesses[0]:
        reach = 1
        for name, stride in sorted(axis.terms, key=lambda term: term[1]):
            if stride > reach:
                return True
            reach += stride * (extents[name] - 1)
    return False


def warm_up(arch: Arch) -> None:
    """Load compiled code, so that no strategy is charged for it."""
    graph = conv_chain([(4, 4, 4, 3), (4, 4, 4, 1)])
    make_price_group(arch)(Group.interval(graph, 0, 2), 1)


def executed_macs(group: Group, arch: Arch, parts: int) -> int:
    """Multiply-accumulates of all cores, the rows of the last output in ``parts`` chunks, each one tile.

    Whether a tile fits the scratchpad does not matter here.
    """
    shape = group.sink_shape
    rows = ceil_div(shape[ROWS_AXIS], parts)
    cores, tile = [1] * len(shape), list(shape)
    cores[ROWS_AXIS], tile[ROWS_AXIS] = ceil_div(shape[ROWS_AXIS], rows), rows
    layers = [group.graph.layers[index] for index in group.layers]
    mapping = GroupMapping(
        cores=tuple(cores),
        tile=tuple(tile),
        k_tile=tuple(1 if layer.workload is None else layer.workload.dims.K for layer in layers),
        inner=(None,) * len(layers),
    )
    flat, total = flatten(group), 0
    for walk in walk_kinds(flat, arch, parts_of(mapping, shape)):
        shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
        total += int((shapes[:, SHAPE_STAGES] * shapes[:, SHAPE_DIMS:].prod(axis=1)).sum())
    return total
