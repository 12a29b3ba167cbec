"""Two walks over the tiles of a group, the one that is timed and the one that checks its code, move the same bytes."""

from __future__ import annotations

import random

import pytest

from cost_model.fused import group_cost
from schedules.group.walk import group_events
from tests.fused_cases import GROUPS, random_group_mapping
from tvm_spm.arch import load_arch
from tvm_spm.graph import box_elems
from tvm_spm.units import bits_to_bytes

NUM_MAPPINGS = 25


def extras_bytes(group, box):
    """What the sink's epilogue reads from outside while a tile leaves; no load of the code, but its bytes count."""
    graph, layer = group.graph, group.graph.layers[group.sink]
    inside = group.intermediates()
    extras = [read for read in layer.reads if read.role == "extra" and read.tensor not in inside]
    boxes = [(read.box(layer.loop_ranges(box)), graph.tensors[read.tensor]) for read in extras]
    return sum(bits_to_bytes(box_elems(needed) * tensor.elem_bits) for needed, tensor in boxes)


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_what_is_timed_is_what_the_code_is_checked_against(name):
    group, arch, rng = GROUPS[name](), load_arch("quad-edge"), random.Random(name)
    graph = group.graph
    for _ in range(NUM_MAPPINGS):
        mapping = random_group_mapping(rng, group)
        moved = {"input": 0, "weight": 0, "output": 0, "macs": 0}
        for events in group_events(group, mapping):
            for event in events:
                layer = graph.layers[group.layers[event.layer]]
                if event.kind == "load":
                    tensor = graph.tensors[layer.reads[event.read].tensor]
                    kind = "weight" if layer.reads[event.read].role == "W" else "input"
                    moved[kind] += bits_to_bytes(box_elems(event.box) * tensor.elem_bits)
                elif event.kind == "store":
                    moved["output"] += bits_to_bytes(box_elems(event.box) * graph.tensors[layer.output].elem_bits)
                    moved["input"] += extras_bytes(group, event.box)
                elif layer.workload is not None:
                    macs = 1
                    for extent in event.extents:
                        macs *= extent
                    moved["macs"] += macs
        cost = group_cost(group, arch, mapping)
        timed = {
            "input": cost.input_bytes, "weight": cost.weight_bytes, "output": cost.output_bytes,
            "macs": cost.macs_executed,
        }  # fmt: skip
        assert timed == moved, f"{mapping}"
