"""A fused group: consecutive layers that run tile by tile, and every decision about how they do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from tvm_spm.errors import MappingError
from tvm_spm.graph import LayerGraph
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Layers of a graph that run as one.

    The last layer is the sink: its output tiles drive the group. Of its tensors those leave the scratchpad that are
    needed outside: that of the sink, and others of which its tiles need every element.

    Attributes:
        graph: The network.
        layers: Indices, rising; ``refuse_group`` says whether they can be one group.
    """

    graph: LayerGraph
    layers: tuple[int, ...]

    @classmethod
    def interval(cls, graph: LayerGraph, first: int, stop: int) -> Group:
        """Layers ``first`` to ``stop - 1``."""
        return cls(graph=graph, layers=tuple(range(first, stop)))

    @property
    def sink(self) -> int:
        """Index of the last layer."""
        return self.layers[-1]

    def place(self, index: int) -> int:
        """Where a layer stands in the group."""
        return self.layers.index(index)

    @property
    def sink_shape(self) -> tuple[int, ...]:
        """Shape of what the sink writes."""
        return self.graph.tensors[self.graph.layers[self.sink].output].shape

    def intermediates(self) -> tuple[int, ...]:
        """Tensors that are written and read inside."""
        return tuple(self.graph.layers[index].output for index in self.layers[:-1])

    @property
    def leaving(self) -> tuple[int, ...]:
        """Layers whose outputs are stored, the sink last."""
        middle = self.layers[:-1]
        return (*(index for index in middle if _need_outside(self.graph, index, self.layers) is not None), self.sink)


def refuse_group(group: Group) -> str | None:
    """Why layers cannot be one group, whatever the accelerator; None if they can.

    A single layer always can.
    """
    graph, inside, sink = group.graph, group.layers, group.graph.layers[group.sink].name
    if len(inside) < 2:
        return None
    for index in inside:
        refusal = graph.layers[index].refusal
        if refusal is not None:
            return f"layer {graph.layers[index].name}: {refusal}"
    for first, second in graph.behind:
        if first in inside and second in inside:
            names = graph.layers[second].name, graph.layers[first].name
            return f"layer {names[0]}: reads what {names[1]} writes by way of a call that is no layer"
    outside = _between(group)
    if outside is not None:
        return f"layer {graph.layers[outside].name}: would run between layers of the group, and is none of them"
    whole = {group.sink}
    for index in reversed(inside[:-1]):
        layer = graph.layers[index]
        readers = [reader for reader in graph.consumers(layer.output) if reader in inside]
        if not readers:
            return f"layer {layer.name}: nothing in the group reads its output"
        if any(reader in whole and graph.layers[reader].needs_all_of(layer.output) for reader in readers):
            whole.add(index)
        elif (needed := _need_outside(graph, index, inside)) is not None:
            return f"layer {layer.name}: its output is also {needed}, and tiles of {sink} may leave out some of it"
    return None


def _between(group: Group) -> int | None:
    """A layer outside that needs what the group makes, and makes what it needs; None if the group is convex."""
    first, before = group.layers[0], group.graph.before
    if group.sink - first + 1 == len(group.layers):
        return None
    needs: set[int] = set()
    for index in range(first, group.sink):
        if index not in group.layers and any(other in group.layers or other in needs for other in before[index]):
            needs.add(index)
    return next((other for index in group.layers for other in sorted(before[index]) if other in needs), None)


def _need_outside(graph: LayerGraph, index: int, inside: tuple[int, ...]) -> str | None:
    """Who needs the output of a layer beside layers inside, in words; None if nobody."""
    output = graph.layers[index].output
    if output in graph.outputs:
        return "needed outside the network"
    outside = [reader for reader in graph.consumers(output) if reader not in inside]
    return f"read by {graph.layers[outside[0]].name}" if outside else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMapping:
    """How a group runs.

    Attributes:
        cores: Parts per axis of the sink's output; each core works on ``ceil(extent / parts)`` of it.
        tile: The sink's output tile; tiles follow each other in storage order, the last axis fastest.
        kept: Axes of the sink's output along which the overlap of neighbouring tiles stays in SPM; along all others it
            is computed again.
        k_tile: Per layer, output channels computed at a time; fewer than all stream the weights for every tile.
        inner: Per layer, how the array runs the largest stage; None for vector work.
        double: Whether tiles that come and go have two buffers, so that DMA overlaps with work.
    """

    cores: tuple[int, ...]
    tile: tuple[int, ...]
    kept: tuple[int, ...] = ()
    k_tile: tuple[int, ...]
    inner: tuple[Mapping | None, ...]
    double: bool = True

    def __post_init__(self) -> None:
        for what, values in (("cores", self.cores), ("tile", self.tile), ("k_tile", self.k_tile)):
            if any(value < 1 for value in values):
                raise MappingError(f"group mapping: {what} = {values}: every number must be >= 1")
        if len(self.cores) != len(self.tile):
            raise MappingError(f"group mapping: {len(self.cores)} core factors for {len(self.tile)} axes of the tile")
        if tuple(sorted(set(self.kept))) != self.kept or any(axis >= len(self.tile) for axis in self.kept):
            raise MappingError(f"group mapping: kept = {self.kept}: must be axes of the tile, sorted, each once")
        if len(self.k_tile) != len(self.inner):
            raise MappingError(f"group mapping: {len(self.k_tile)} channel tiles for {len(self.inner)} layers")

    @property
    def num_cores(self) -> int:
        """Cores in use."""
        return prod(self.cores)

    def chunk(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Extents of the largest core's share of the sink's output."""
        return tuple(ceil_div(extent, parts) for extent, parts in zip(shape, self.cores, strict=True))

    def __str__(self) -> str:
        lines = [
            f"cores: {_numbers(self.cores)}",
            f"tile: {_numbers(self.tile)}{', double' if self.double else ''}",
            f"kept: {_numbers(self.kept) or 'nothing'}",
        ]
        for channels, inner in zip(self.k_tile, self.inner, strict=True):
            lines.append(f"layer: {channels} channels | {'vector unit' if inner is None else inner.line()}")
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> GroupMapping:
        """Read what ``str`` printed.

        Raises:
            MappingError: A line is not understood; quotes it.
        """
        found: dict[str, str] = {}
        layers: list[tuple[int, Mapping | None]] = []
        for line in filter(None, (line.strip() for line in text.splitlines())):
            match = re.fullmatch(r"(cores|tile|kept): ([\d ]+|nothing)(, double)?", line)
            layer = re.fullmatch(r"layer: (\d+) channels \| (.*)", line)
            if match and (match[3] is None or match[1] == "tile"):
                found[match[1]] = match[2]
                if match[1] == "tile":
                    found["double"] = match[3] or ""
            elif layer:
                layers.append((int(layer[1]), None if layer[2] == "vector unit" else Mapping.parse(layer[2])))
            else:
                raise MappingError(f"group mapping: line {line!r} not understood")
        missing = {"cores", "tile", "kept"} - set(found)
        if missing:
            raise MappingError(f"group mapping: no line {sorted(missing)[0]!r}")
        return cls(
            cores=_parsed(found["cores"]),
            tile=_parsed(found["tile"]),
            kept=_parsed(found["kept"]),
            k_tile=tuple(channels for channels, _ in layers),
            inner=tuple(inner for _, inner in layers),
            double=bool(found["double"]),
        )


def _numbers(values: tuple[int, ...]) -> str:
    return " ".join(str(value) for value in values)


def _parsed(text: str) -> tuple[int, ...]:
    return () if text == "nothing" else tuple(int(number) for number in text.split())
