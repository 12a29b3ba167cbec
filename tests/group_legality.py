"""Whether a mapping of a group can run: by the rules of layers, and by the events that code is checked against."""

from __future__ import annotations

from dataclasses import replace

from cost_model.fused import group_cost
from schedules.group.walk import group_events
from tvm_spm.arch import Arch
from tvm_spm.group import Group, GroupMapping
from tvm_spm.space import legality
from tvm_spm.workload import DIM_NAMES, Dims, Operand

ARRAY_RULES = ("rows", "cols", "idle-pe", "tile", "order", "rf-capacity")
"""Rules of single layers that concern what happens below SPM."""


def broken_rule(group: Group, arch: Arch, mapping: GroupMapping) -> str | None:
    """The first broken rule, or None."""
    if mapping.num_cores > arch.cores.count:
        return "cores"
    chunk = mapping.chunk(group.sink_shape)
    for extent, parts, share, tile in zip(group.sink_shape, mapping.cores, chunk, mapping.tile, strict=True):
        if len(range(0, extent, share)) != parts:
            return "idle-core"
        if tile > share:
            return "tile"
    for layer, inner in zip((group.graph.layers[index] for index in group.layers), mapping.inner, strict=True):
        if layer.workload is None:
            continue
        if inner is None:
            return "order"
        alone = replace(layer.workload, dims=inner.spm)
        for rule in ARRAY_RULES:
            if legality.RULES[rule](alone, arch, inner) is not None:
                return rule
    for events in group_events(group, mapping):
        for event in events:
            inner = mapping.inner[event.layer]
            if event.kind == "compute" and inner is not None:
                stage = Dims.of(event.extents)
                if any(stage[name] > inner.spm[name] for name in DIM_NAMES):
                    return "tile"
    spm = arch.levels.SPM
    if not spm.is_split and group_cost(group, arch, mapping).spm_bytes > spm.capacity_of(Operand.I):
        return "spm-capacity"
    return None
