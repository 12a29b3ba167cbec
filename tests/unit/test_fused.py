"""Facts about fused groups that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cost_model.fused import group_cost, group_key
from tests.fused_cases import GROUPS, Builder, conv_chain
from tvm_spm.arch import archs, load_arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping


def plain(group: Group, **changes: object) -> GroupMapping:
    """The whole output as one tile on one core, with one PE."""
    layers = [group.graph.layers[index] for index in group.layers]
    inner = tuple(
        None if layer.workload is None
        else Mapping(spm=layer.workload.dims, spm_order=("N", "G", "K", "C", "OY", "OX", "FY", "FX"))
        for layer in layers
    )  # fmt: skip
    mapping = GroupMapping(
        cores=(1,) * len(group.sink_shape), tile=group.sink_shape, inner=inner,
        k_tile=tuple(1 if layer.workload is None else layer.workload.dims.K for layer in layers),
    )  # fmt: skip
    return replace(mapping, **changes)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_rows_across_cores_compute_the_halo_again(cores: int):
    """Two 3x3 convolutions of 8 rows: a core computes one more row of the first on each side with a neighbour."""
    group = conv_chain(2, 2, 2, size=8)
    rows = 8 // cores
    cost = group_cost(group, load_arch("quad-edge"), plain(group, cores=(1, 1, cores, 1), tile=(1, 2, rows, 8)))
    row_macs = 2 * 2 * 3 * 3 * 8
    assert cost.macs_needed == 16 * row_macs
    assert cost.macs_executed == (16 + 2 * (cores - 1)) * row_macs
    assert cost.recompute_share == pytest.approx(2 * (cores - 1) / 16)


@pytest.mark.parametrize(("depth", "tile", "share"), [(2, 7, 2 * 31 / 448), (3, 7, (2 + 4) * 31 / 672)])
def test_rows_of_a_vgg_block_in_tiles(depth: int, tile: int, share: float):
    """224 rows in tiles of 7: 31 seams, at each of which layer l from the end computes 2 l rows twice."""
    group = conv_chain(*[4] * (depth + 1), size=224)
    arch = load_arch("edge-256")
    again = plain(group, tile=(1, 4, tile, 224))
    assert group_cost(group, arch, again).recompute_share == pytest.approx(share)
    kept = group_cost(group, arch, replace(again, kept=(2,)))
    assert kept.recompute_share == 0
    assert kept.input_bytes == 4 * 224 * 224 * 2
    assert kept.output_bytes == 4 * 224 * 224 * 2


LEAVING = {"skip": "wide.out", "next block": "conv0.out", "squeeze": "depthwise.out", "dense": "two.out"}
"""What leaves a group from within."""


def test_dram_sees_each_external_tensor_once_if_all_is_one_tile():
    for name, make in GROUPS.items():
        group = make()
        graph = group.graph
        within = [math.prod(tensor.shape) for tensor in graph.tensors if tensor.name == LEAVING.get(name)]
        cost = group_cost(group, load_arch("edge-256"), plain(group))
        read = sum(
            math.prod(graph.tensors[read.tensor].shape) * 2
            for index in group.layers for read in graph.layers[index].reads
            if graph.tensors[read.tensor].producer is None
        )  # fmt: skip
        assert cost.input_bytes + cost.weight_bytes == read, name
        assert cost.output_bytes == (math.prod(group.sink_shape) + sum(within)) * 2
        assert cost.recompute_share == 0


def test_what_leaves_from_within_is_stored_as_often_as_it_is_computed():
    # 8 rows of 6 by twos: the first layer does rows 0-2, 1-4, 3-6 and 5-7, 3 + 4 + 4 + 3 of them; kept, each once.
    b = Builder()
    first = b.conv("first", b.tensor("x", (1, 4, 8, 6)), 4)
    b.elementwise("later", first, b.conv("second", first, 4))
    group, arch = b.group(2), load_arch("edge-256")
    again = plain(group, tile=(1, 4, 2, 6))
    assert group_cost(group, arch, again).output_bytes == 2 * 4 * 6 * (8 + 3 + 4 + 4 + 3)
    kept = replace(again, kept=(2,))
    assert group_cost(group, arch, kept).output_bytes == 2 * 4 * 6 * (8 + 8)
    # Without a reader behind the group, nothing of the first is stored: rows of 48 B, 3, 2, 2 and 1 at 80/3 B a cycle.
    alone = group_cost(Builder(tensors=b.tensors, layers=b.layers[:2]).group(), arch, kept)
    assert alone.output_bytes == 2 * 4 * 6 * 8
    assert group_cost(group, arch, kept).cost.dma_busy_cycles == alone.cost.dma_busy_cycles + 6 + 4 + 4 + 2


def test_weights_in_pieces_are_read_for_every_tile():
    group = conv_chain(2, 4, 4, size=8)
    arch = load_arch("edge-256")
    whole = group_cost(group, arch, plain(group, tile=(1, 4, 2, 8)))
    pieces = group_cost(group, arch, plain(group, tile=(1, 4, 2, 8), k_tile=(4, 2)))
    assert whole.weight_bytes == (4 * 2 + 4 * 4) * 9 * 2
    assert pieces.weight_bytes == whole.weight_bytes + 3 * 4 * 4 * 9 * 2


def test_breakdown_adds_up_on_every_preset():
    for name in archs():
        arch = load_arch(name)
        for group in (GROUPS["inner residual"](), GROUPS["attention"]()):
            cost = group_cost(group, arch, plain(group)).cost
            parts = cost.compute_cycles + cost.noc_stall_cycles + cost.dma_stall_cycles + cost.overhead_cycles
            assert parts == cost.cycles


def test_equal_groups_have_equal_keys():
    assert group_key(conv_chain(2, 3, 3)) == group_key(conv_chain(2, 3, 3))
    assert group_key(conv_chain(2, 3, 3)) != group_key(conv_chain(2, 3, 4))
    b = Builder()
    at = b.tensor("first", (1, 2, 12, 12))
    for number in range(4):
        at = b.conv(f"conv{number}", at, 2)
    graph = b.graph()
    keys = {group_key(Group.interval(graph, first, first + 2)) for first in range(3)}
    assert len(keys) == 1
