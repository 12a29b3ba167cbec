"""Prices of groups from the search over group mappings and the simulator of groups."""

from __future__ import annotations

from cost_model.fused.cost import walk_share
from cost_model.fused.flat import flatten
from cost_model.fused.state import NUM_SHAPES, SHAPE_DIMS, SHAPE_STAGES, shares_of
from tvm_spm.arch import Arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.reproduce.dlfusion_prices import PriceGroup
from tvm_spm.units import ceil_div

ROWS_AXIS = 2


def make_price_group(arch: Arch) -> PriceGroup:
    """Prices groups on one accelerator: fewest cycles over all mappings that the search of groups looks at."""
    raise NotImplementedError


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
    for share in shares_of(mapping, shape):
        walk = walk_share(flat, arch, share)
        shapes = walk.shapes[: int(walk.counters[NUM_SHAPES])]
        total += int((shapes[:, SHAPE_STAGES] * shapes[:, SHAPE_DIMS:].prod(axis=1)).sum())
    return total
