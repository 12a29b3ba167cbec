"""Writes the code of a fused group: its layers run tile by tile, and what passes between them stays in SPM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import tirx

from schedules.group.dual import Dual, dual, largest, least
from schedules.group.emit import (
    Expr,
    Tile,
    copied,
    marked,
    only_if,
    opaque,
    sequence,
    simplified,
)  # fmt: skip
from schedules.group.layer import LayerCode, read_layers
from schedules.group.mac import Stage, mac_stage, output_at, outside_box, over_dims
from schedules.group.places import TilePlaces
from schedules.group.regions import Key, Regions, is_external, regions_of
from schedules.group.spans import Region, Span, loop_spans, read_region
from schedules.group.vector import vector_stage
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import loads_of
from tvm_spm.group import Group, GroupMapping
from tvm_spm.lowering.target import EXACT_BUFFERS
from tvm_spm.workload import DIM_NAMES, Axis


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FusedFunction:
    """A group as one TIR function.

    Attributes:
        func: Not scheduled: the blocks of the layers one after the other.
        blocks: Per layer, the names of its blocks in order.
        tensors: Per parameter, the tensor of the layer graph that it is; those that leave come last, in order.
    """

    func: tirx.PrimFunc
    blocks: tuple[tuple[str, ...], ...]
    tensors: tuple[int, ...]


def schedule_group(fused: FusedFunction, group: Group, mapping: GroupMapping) -> tirx.PrimFunc:
    """Rewrite a fused function so that it runs as a mapping says.

    Before::

        for y in range(H): middle[y] = first(x[y - 1 : y + 2])
        for y in range(H): out[y] = second(middle[y - 1 : y + 2])

    After, with tiles of ``T`` rows, rows kept, and ``middle`` needed outside as well::

        for core in parallel(cores):
            for tile in range(ceil(chunk / T)):
                middle_first, middle_stop = ...
                load the new rows of x
                for y in range(new_first, middle_stop): middle_spm[y % R] = first(x_spm[...])
                store these rows of middle_spm
                for y in range(T): out_spm[y] = second(middle_spm[...])
                store out_spm

    Args:
        fused: The group's function.
        group: Its layers.
        mapping: How they run; capacities are not checked here.

    Raises:
        ScheduleError: A layer cannot be written this way; names the layer and why.
    """
    graph = group.graph
    layers = [graph.layers[index] for index in group.layers]
    fused = replace(fused, func=_with_narrow_indices(fused.func))
    codes = read_layers(fused.func, fused.blocks, layers)
    if len(mapping.k_tile) != len(layers):
        raise ScheduleError(f"the mapping is for {len(mapping.k_tile)} layers, the group has {len(layers)}")
    regions = regions_of(group, mapping)
    writer = _GroupWriter(group=group, mapping=mapping, codes=codes, regions=regions, fused=fused)
    return fused.func.with_body(writer.code()).with_attr(EXACT_BUFFERS, 1)


def _with_narrow_indices(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """The function with indices of 32 bits, as those that are written here have."""
    return tirx.transform.ForceNarrowIndexToInt32()(tvm.IRModule({"main": func}))["main"]


class _GroupWriter:
    """Collects the code of all layers, and the buffers they use."""

    def __init__(
        self, *, group: Group, mapping: GroupMapping, codes: Sequence[LayerCode], regions: Regions, fused: FusedFunction
    ) -> None:
        self.group, self.mapping, self.codes, self.regions = group, mapping, codes, regions
        self.tensor_of: list[tuple[tirx.Buffer, int]] = []
        for buffer, tensor in [
            *zip(fused.func.params, fused.tensors, strict=True),
            *((code.output, code.layer.output) for code in codes[:-1]),
        ]:
            if tuple(int(extent) for extent in buffer.shape) != group.graph.tensors[tensor].shape:
                raise ScheduleError(f"buffer {buffer.name} has another shape than {group.graph.tensors[tensor].name}")
            self.tensor_of.append((buffer, tensor))
        self.places = TilePlaces(group=group, mapping=mapping, regions=regions)
        self.held: list[tirx.Buffer] = []
        """Buffers in RF and accumulators."""

    def code(self) -> tirx.Stmt:
        """The whole body."""
        loops = self.regions.loops
        layers = [self._layer(index) for index in self.group.layers]
        assigned, table = opaque([*self.regions.binds, *self.places.binds])
        self.held += table
        stmt = sequence([*assigned, *layers])
        for axis in reversed(range(len(loops.tiles))):
            if loops.num_tiles[axis] > 1:
                notes = {"spm.level": "tile", "spm.axis": axis}
                stmt = tirx.For(loops.tiles[axis], 0, loops.extents[axis].expr, tirx.ForKind.SERIAL, stmt, None, notes)
        allocated = [tirx.AllocBuffer(buffer) for buffer in [*self.places.buffers(), *self.held]]
        stmt = sequence([*allocated, *self.places.starts(), stmt])
        if loops.num_cores > 1:
            notes = {"spm.level": "core"}
            stmt = tirx.For(loops.core, 0, loops.num_cores, tirx.ForKind.PARALLEL, stmt, None, notes)
        return stmt

    def _layer(self, index: int) -> tirx.Stmt | None:
        code, regions = self.codes[self.group.place(index)], self.regions
        layer = code.layer
        loads = []
        for number, read in enumerate(layer.reads):
            key = index, number
            is_streamed = key in regions.streamed or (index == self.group.sink and read.role == "extra")
            if key in regions.loaded and not is_streamed:
                stmt = self._load(key, self.places.of_read(key), regions.loaded[key])
                loads.append(self.places.guarded(key, stmt, regions.loaded[key]))
        work = self._mac(index, code) if layer.workload is not None else self._vector(index, code)
        runs = regions.runs[index]
        return only_if(None if runs.always else runs.expr, sequence([*loads, *work]))

    def _load(self, key: Key, place: Tile, region: Region) -> tirx.Stmt | None:
        """Copy a box from outside."""
        index, number = key
        source = Tile.whole(self._buffer(self.group.graph.layers[index].reads[number].tensor))
        return marked(copied(source, place, region), "load", f"{self.group.place(index)}.{number}")

    def _buffer(self, tensor: int) -> tirx.Buffer:
        return next(buffer for buffer, known in self.tensor_of if known == tensor)

    def _source(self, index: int, role: str) -> _Source:
        return _Source(writer=self, index=index, role=role)

    def _vector(self, index: int, code: LayerCode) -> list[tirx.Stmt | None]:
        region = self.regions.new[index]
        target = self.places.of_output(index, region)
        stmt, held = vector_stage(code, region, target, self._source(index, "vector").tile)
        self.held += held
        work = [marked(stmt, "stage", str(self.group.place(index)))]
        if index in self.group.leaving:
            out = Tile.whole(self._buffer(code.layer.output))
            work.append(marked(copied(target, out, region), "store", str(self.group.place(index))))
        return work

    def _mac(self, index: int, code: LayerCode) -> list[tirx.Stmt | None]:
        position, layer = self.group.place(index), code.layer
        inner = self.mapping.inner[position]
        assert layer.workload is not None
        assert code.nest is not None
        if inner is None:
            raise ScheduleError(f"layer {layer.name}: the mapping has no array mapping for it")
        unit = {name: (dual(0), dual(1)) for name in DIM_NAMES}
        spans = {**unit, **loop_spans(layer, self.regions.new[index])}
        wide = (spans["K"][1] - spans["K"][0]).simplified()
        k_tile = self.mapping.k_tile[position]
        num_chunks = ((wide + (k_tile - 1)) // k_tile).simplified()
        var = tirx.Var(f"chunk{position}", "int32")
        chunk = self._chunk(num_chunks, var)
        if chunk is not None:
            first = (spans["K"][0] + chunk * k_tile).simplified()
            spans = {**spans, "K": (first, least(spans["K"][1], first + k_tile).simplified())}
        stmts: list[tirx.Stmt | None] = []
        for number, read in enumerate(layer.reads):
            is_extra = index == self.group.sink and read.role == "extra"
            if (index, number) in self.regions.streamed and not is_extra:
                stmts.append(self._load_chunk((index, number), spans, num_chunks))
        stmts += self._stage(index, code, spans)
        stmt = sequence(stmts)
        if chunk is None:
            return [stmt]
        notes = {"spm.level": "chunk", "spm.layer": position}
        return [tirx.For(var, 0, num_chunks.expr, tirx.ForKind.SERIAL, stmt, None, notes)]

    @staticmethod
    def _chunk(num_chunks: Dual, var: tirx.Var) -> Dual | None:
        most = int(num_chunks.values.max())
        if most <= 1:
            return None
        return Dual(var, np.minimum(np.arange(most, dtype=np.int64), num_chunks.values - 1))

    def _load_chunk(self, key: Key, spans: dict[str, Span], num_chunks: Dual) -> tirx.Stmt | None:
        region = read_region(self.group.graph.layers[key[0]].reads[key[1]], spans)
        stmt = self._load(key, self.places.of_chunk(key, region), region)
        if bool((num_chunks.values > 1).all()):
            return stmt
        return self.places.guarded(key, stmt, region, unless=num_chunks.expr > 1)

    def _stage(self, index: int, code: LayerCode, spans: dict[str, Span]) -> list[tirx.Stmt | None]:
        position, layer, nest = self.group.place(index), code.layer, code.nest
        work, inner = layer.workload, self.mapping.inner[position]
        assert work is not None
        assert nest is not None
        assert inner is not None
        is_sink = index == self.group.sink
        region = self.regions.new[index]
        box = tuple(_clipped(axis, spans, span) for axis, span in zip(work.O.axes, region, strict=True))
        out = None if is_sink else self.places.of_output(index, region)
        sums = self.places.of_sums(index, box, code.mac.dtype)
        data, weight = self._source(index, "I"), self._source(index, "W")
        stage = Stage(
            name=f"layer{position}", workload=work, inner=inner, spans=spans, within=region,
            input=lambda at: code.element(_operand(code, nest.input_read, nest.pad_block), at, data.load),
            weight=lambda at: code.element(_operand(code, nest.weight_read, None), at, weight.load),
            sums=sums,
        )  # fmt: skip
        stmt, held = mac_stage(stage)
        self.held += held
        stmts = [marked(stmt, "stage", str(position))]
        extra = self._source(index, "extra")

        def finished(at: list[Expr]) -> Expr:
            def load(buffer: tirx.Buffer, indices: list[Expr]) -> Expr:
                return sums.load(indices) if buffer.same_as(code.mac.buffer) else extra.load(buffer, indices)

            last = code.blocks[-1]
            return sums.load(at) if last.buffer.same_as(code.mac.buffer) else code.value(last, at, load)

        def over_box(target: Tile, value: Callable[[list[Expr]], Expr]) -> tirx.Stmt:
            def element(dims: dict[str, Expr]) -> tirx.Stmt:
                at = [simplified(at) for at in output_at(work, dims)]
                made = only_if(outside_box(work, region, at), target.store(at, value(at)))
                assert made is not None
                return made

            return over_dims(work, spans, element)

        if out is not None and nest.epilogue:
            stmts.append(marked(over_box(out, finished), "epilogue", str(position)))
        if index in self.group.leaving:
            whole = Tile.whole(self._buffer(layer.output))
            stmts.append(marked(over_box(whole, finished if out is None else out.load), "store", str(position)))
        return stmts


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Source:
    """Where a layer finds what it reads in one role."""

    writer: _GroupWriter
    index: int
    role: str

    def tile(self, buffer: tirx.Buffer) -> Tile:
        """The tile of a tensor.

        Raises:
            ScheduleError: The layer's noun says nothing of this read.
        """
        writer = self.writer
        layer = writer.group.graph.layers[self.index]
        tensor = next((tensor for known, tensor in writer.tensor_of if known.same_as(buffer)), None)
        for number, read in enumerate(layer.reads):
            if read.tensor == tensor and read.role == self.role:
                if not is_external(writer.group, read):
                    return writer.places.of_tensor(read.tensor)
                if self.role == "extra" and self.index == writer.group.sink:
                    return Tile.whole(buffer)
                return writer.places.of_read((self.index, number))
        raise ScheduleError(
            f"layer {layer.name}: reads buffer {buffer.name} as {self.role}, which its noun does not say"
        )

    def load(self, buffer: tirx.Buffer, at: list[Expr]) -> Expr:
        """An element of a tensor."""
        return self.tile(buffer).load(at)


def _clipped(axis: Axis, spans: dict[str, Span], whole: Span) -> Span:
    """The part of an output axis that the loops of a stage cover."""
    first = dual(axis.offset)
    stop = dual(axis.offset + 1)
    for name, stride in axis.terms:
        first, stop = first + spans[name][0] * stride, stop + (spans[name][1] - 1) * stride
    single = len(axis.terms) == 1
    return (first.simplified(), stop.simplified()) if single else _within(first, stop, whole)


def _within(first: Dual, stop: Dual, whole: Span) -> Span:
    return largest(first, whole[0]).simplified(), least(stop, whole[1]).simplified()


def _operand(code: LayerCode, read: int, pad_block: str | None) -> tirx.Buffer:
    """The tensor that the workload of a layer calls I or W."""
    source = code.mac.sblock.reads[read].source
    if pad_block is None:
        return source
    block = next(block for block in code.blocks if block.name == pad_block)
    return loads_of(block.store.value)[0].source
