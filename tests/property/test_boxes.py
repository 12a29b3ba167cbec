"""What the product says of boxes, against every element tried one by one."""

from __future__ import annotations

import random

import pytest

from tests.fused_cases import GROUPS
from tests.oracle import boxes
from tests.simulator_cases import random_workload
from tvm_spm.graph import box_elems
from tvm_spm.workload import DIM_NAMES, Dims, Operand


@pytest.mark.parametrize("seed", range(100))
def test_tiles_hold_and_read_what_their_elements_do(seed: int):
    rng = random.Random(seed)
    workload = random_workload(rng)
    first = {name: rng.randrange(workload.dims[name]) for name in DIM_NAMES}
    tile = Dims.of([rng.randint(1, workload.dims[name] - first[name]) for name in DIM_NAMES])
    for operand in Operand:
        projection = workload.projection(operand)
        assert projection.tile_elems(tile) == boxes.spanned_elems(projection.axes, tile)
        found = [axis.clipped_elems(first, tile) for axis in projection.axes]
        assert found == [stop - start for start, stop in boxes.clipped_box(projection.axes, first, tile)]


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_a_part_of_an_output_needs_what_its_elements_need(name: str):
    rng, graph = random.Random(name), GROUPS[name]().graph
    for layer in graph.layers:
        for _ in range(20):
            firsts = [rng.randrange(extent) for extent in graph.tensors[layer.output].shape]
            extents = [
                rng.randint(1, extent - first)
                for first, extent in zip(firsts, graph.tensors[layer.output].shape, strict=True)
            ]
            wanted = tuple((first, first + extent) for first, extent in zip(firsts, extents, strict=True))
            loops = layer.loop_ranges(wanted)
            assert loops == boxes.loops_reaching(layer, wanted)
            for read in layer.reads:
                found, expected = read.box(loops), boxes.box_read(read, loops)
                assert (found if box_elems(found) else None) == boxes.joined([expected])
