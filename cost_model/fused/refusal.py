"""Why a mapping of a group cannot run."""

from __future__ import annotations

from collections.abc import Sequence

from cost_model.fused.capacity import peak_terms
from cost_model.fused.flat import FlatGroup
from cost_model.fused.state import NUM_SHAPES, SHAPE_DIMS, SHAPE_LAYER, Share, Walk
from tvm_spm.arch import Arch
from tvm_spm.graph import ROLES
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload


def refuse_form(group: Group, arch: Arch, mapping: GroupMapping) -> Rejection | None:
    """What can be refused without looking at tiles."""
    num_layers = len(group.layers)
    if arch.levels.SPM.is_split and num_layers > 1:
        return Rejection(
            reason="spm-capacity", subject="fused layers in a split scratchpad, whose parts cannot hold tensors "
            "that are output and input", needed=num_layers, available=1, unit="layers",
            nearest="one layer at a time fits",
        )  # fmt: skip
    if mapping.num_cores > arch.cores.count:
        return Rejection(
            reason="cores", subject=f"cores {' x '.join(map(str, mapping.cores))}", needed=mapping.num_cores,
            available=arch.cores.count, unit="cores",
        )  # fmt: skip
    for axis, (extent, parts) in enumerate(zip(group.sink_shape, mapping.cores, strict=True)):
        busy = ceil_div(extent, ceil_div(extent, parts))
        if busy != parts:
            return Rejection(
                reason="idle-core", subject=f"axis {axis} of {extent} in chunks of {ceil_div(extent, parts)}",
                needed=parts, available=busy, unit="cores", nearest=f"{busy} parts of axis {axis} fit",
            )  # fmt: skip
    for axis, (tile, chunk) in enumerate(zip(mapping.tile, mapping.chunk(group.sink_shape), strict=True)):
        if tile > chunk:
            return Rejection(
                reason="tile", subject=f"tile of axis {axis} exceeds a core's share", needed=tile, available=chunk,
                unit="elements", nearest=f"tile of axis {axis} <= {chunk} fits",
            )  # fmt: skip
    return None


def refuse_inner(name: str, workload: Workload, arch: Arch, inner: Mapping, largest: Dims) -> Rejection | None:
    """A mapping of the array that does not fit it, or not all the stages of its layer."""
    for axis, factors, available in (("rows", inner.rows, arch.pe.rows), ("cols", inner.cols, arch.pe.cols)):
        if factors.product() > available:
            return Rejection(
                reason=axis, subject=f"{name}: {axis} {factors}", needed=factors.product(), available=available,
                unit="PEs",
            )  # fmt: skip
    for dim in DIM_NAMES:
        if largest[dim] > inner.spm[dim]:
            return Rejection(
                reason="tile", subject=f"{name}: a stage exceeds the SPM tile of {dim}", needed=largest[dim],
                available=inner.spm[dim], unit="elements", nearest=f"SPM tile {dim} = {largest[dim]} fits",
            )  # fmt: skip
        if inner.rf[dim] > inner.spm[dim]:
            return Rejection(
                reason="tile", subject=f"{name}: RF tile of {dim} exceeds the SPM tile", needed=inner.rf[dim],
                available=inner.spm[dim], unit="elements", nearest=f"RF tile {dim} <= {inner.spm[dim]} fits",
            )  # fmt: skip
        busy, num_pes = ceil_div(inner.spm[dim], inner.rf[dim]), inner.rows[dim] * inner.cols[dim]
        if num_pes > busy:
            return Rejection(
                reason="idle-pe", subject=f"{name}: {dim} of {inner.spm[dim]} by {inner.rf[dim]}", needed=num_pes,
                available=busy, unit="PEs", nearest=f"rows x cols of {dim} <= {busy} fits",
            )  # fmt: skip
        factor = inner.spm_factors()[dim]
        if factor > 1 and dim not in inner.spm_order:
            return Rejection(
                reason="order", subject=f"{name}: SPM order without {dim}", needed=factor, available=1,
                unit="iterations", nearest=f"add {dim} to the SPM order",
            )  # fmt: skip
    terms = tuple((o.name, inner.num_buffers("RF", o) * workload.projection(o).tile_bytes(inner.rf)) for o in Operand)
    needed = sum(value for _, value in terms)
    if needed > arch.levels.RF.capacity_bytes:
        return Rejection(
            reason="rf-capacity", subject=f"{name}: tile does not fit RF", needed=needed,
            available=arch.levels.RF.capacity_bytes, unit="B", terms=terms,
        )  # fmt: skip
    return None


def largest_stages(flat: FlatGroup, walks: Sequence[Walk]) -> list[Dims | None]:
    """Per layer the largest extent of each dim over all stages; None for vector work and layers that never run."""
    largest: list[Dims | None] = [None] * flat.num_layers
    for walk in walks:
        for row in walk.shapes[: int(walk.counters[NUM_SHAPES])].tolist():
            dims, layer = Dims.of(row[SHAPE_DIMS:]), row[SHAPE_LAYER]
            known = largest[layer]
            largest[layer] = dims if known is None else known.combine(dims, max)
    return largest


def refuse_capacity(
    group: Group, flat: FlatGroup, arch: Arch, kinds: Sequence[tuple[Share, Walk]]
) -> tuple[Rejection | None, int]:
    """Live buffers that exceed the scratchpad of a core; and the most bytes that any core needs."""
    names, read_names = buffer_names(group)
    most, worst = 0, None
    for share, walk in kinds:
        layer, terms = peak_terms(flat, share, walk, arch.levels.SPM.bank_bytes, names, read_names)
        needed = sum(value for _, value in terms)
        if needed > most:
            most, worst = needed, (layer, terms)
    available = arch.levels.SPM.capacity_of(Operand.I)
    if worst is None or most <= available or arch.levels.SPM.is_split:
        return None, most
    layer, terms = worst
    largest = max(terms, key=lambda term: term[1])
    rejection = Rejection(
        reason="spm-capacity", needed=most, available=available, unit="B", terms=terms,
        subject=f"buffers do not fit SPM while {group.graph.layers[group.first + layer].name} runs",
        nearest=f"the largest is {largest[0]}",
    )  # fmt: skip
    return rejection, most


def buffer_names(group: Group) -> tuple[list[str], list[str]]:
    """Of the outputs of layers, and of reads in the order of the flat group."""
    graph = group.graph
    layers = [graph.layers[index] for index in group.layers]
    names = [graph.tensors[layer.output].name for layer in layers]
    read_names = [
        f"{'weights ' if read.role == 'W' else ''}{graph.tensors[read.tensor].name} of {layer.name}"
        for layer in layers
        for read in sorted(layer.reads, key=lambda read: ROLES.index(read.role))
    ]
    return names, read_names
