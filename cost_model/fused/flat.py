"""A group of layers as flat arrays, for compiled code; two groups with equal arrays have equal costs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.errors import MappingError
from tvm_spm.graph import ROLES, Layer
from tvm_spm.group import Group
from tvm_spm.workload import DIM_NAMES, Axis

Ints = NDArray[np.int64]

IS_MAC, RANK, FIRST_READ, STOP_READ, NUM_OPS, OUT_BITS, SUM_BITS, LAST_READER, LEAVES, LAYER_FIELDS = range(10)
"""Columns of ``layer``; ``SUM_BITS`` is the width of a partial sum, ``LAST_READER`` the last layer that reads it,
``LEAVES`` 1 where the output is stored to DRAM."""

LAYER, ROLE, PRODUCER, IS_CONST, BITS, READ_RANK, FIRST_ACCESS, STOP_ACCESS, USES_K, READ_FIELDS = range(10)
"""Columns of ``read``; ``PRODUCER`` is a layer of the group, -1 for tensors from outside."""

INPUT, WEIGHT, EXTRA, VECTOR = range(4)
"""Roles, in the order of ``ROLES``."""

OFFSET, NUM_TERMS, TERMS = 0, 1, 2
"""Columns of an axis; from ``TERMS`` on pairs of loop and stride."""

K_LOOP = DIM_NAMES.index("K")


class FlatGroup(NamedTuple):
    """A group. A *slot* is a buffer's number: outputs of layers come first, then what is read, in the order of reads.

    Attributes:
        layer: ``(layers, LAYER_FIELDS)``.
        read: ``(reads, READ_FIELDS)``, in the order of layers; of one layer in the order I, W, extras, vector.
        shape: ``(slots, axes)`` extents of tensors.
        moves: ``(slots, axes)``, bits of the sink's axes with which the needed box moves.
        loops: ``(layers, loops)`` extents; the dims of multiply-accumulate layers in the order of ``DIM_NAMES``.
        out_axes: ``(layers, axes, ...)``, terms by falling stride.
        access: ``(accesses, axes, ...)``.
    """

    layer: Ints
    read: Ints
    shape: Ints
    moves: Ints
    loops: Ints
    out_axes: Ints
    access: Ints

    @property
    def num_layers(self) -> int:
        """Layers in the group."""
        return len(self.layer)

    @property
    def read_shape(self) -> Ints:
        """Extents of what is read."""
        return self.shape[len(self.layer) :]

    @property
    def read_moves(self) -> Ints:
        """``moves`` of what is read."""
        return self.moves[len(self.layer) :]


def flatten(group: Group) -> FlatGroup:
    """Flatten a group.

    Raises:
        MappingError: A layer reads with a falling index.
    """
    graph, layers = group.graph, [group.graph.layers[index] for index in group.layers]
    producer, leaving = {layer.output: local for local, layer in enumerate(layers)}, group.leaving
    reads = [
        (local, read)
        for local, layer in enumerate(layers)
        for read in sorted(layer.reads, key=lambda read: ROLES.index(read.role))
    ]
    axes_of = [[layer.out_axes for layer in layers], [a for _, read in reads for a in read.accesses]]
    rank = max(len(axes) for group_axes in axes_of for axes in group_axes)
    terms = max((len(axis.terms) for many in axes_of for axes in many for axis in axes), default=1)
    num_loops = max(len(DIM_NAMES), *(len(layer.loops) for layer in layers))
    width = TERMS + 2 * max(1, terms)
    layer_rows = np.zeros((len(layers), LAYER_FIELDS), np.int64)
    shape = np.ones((len(layers), rank), np.int64)
    loops = np.ones((len(layers), num_loops), np.int64)
    out_axes = np.zeros((len(layers), rank, width), np.int64)
    read_rows = np.zeros((len(reads), READ_FIELDS), np.int64)
    read_shape = np.ones((len(reads), rank), np.int64)
    access = np.zeros((sum(len(read.accesses) for _, read in reads), rank, width), np.int64)
    number = [_loop_numbers(layer) for layer in layers]
    for local, layer in enumerate(layers):
        tensor = graph.tensors[layer.output]
        own = [row for row, (reader, _) in enumerate(reads) if reader == local]
        readers = [reader for reader, read in reads if producer.get(read.tensor) == local]
        sum_bits = tensor.elem_bits if layer.workload is None else layer.workload.O.elem_bits
        layer_rows[local] = (
            layer.workload is not None, len(tensor.shape), min(own, default=0), max(own, default=-1) + 1,
            layer.num_ops_per_elem, tensor.elem_bits, sum_bits, max(readers, default=local),
            group.layers[local] in leaving,
        )  # fmt: skip
        shape[local, : len(tensor.shape)] = tensor.shape
        for name, extent in layer.loops:
            loops[local, number[local][name]] = extent
        for axis, affine in enumerate(layer.out_axes):
            _fill_axis(out_axes[local, axis], affine, number[local])
    first_access = 0
    for row, (local, read) in enumerate(reads):
        tensor = graph.tensors[read.tensor]
        used = {name for axes in read.accesses for axis in axes for name, _ in axis.terms}
        read_rows[row] = (
            local, ROLES.index(read.role), producer.get(read.tensor, -1), tensor.is_constant, tensor.elem_bits,
            len(tensor.shape), first_access, first_access + len(read.accesses), "K" in used,
        )  # fmt: skip
        read_shape[row, : len(tensor.shape)] = tensor.shape
        for axes in read.accesses:
            for axis, affine in enumerate(axes):
                if any(stride < 0 for _, stride in affine.terms):
                    raise MappingError(f"layer {layers[local].name}: reads {tensor.name} with a falling index")
                _fill_axis(access[first_access, axis], affine, number[local])
            first_access += 1
    moves = _moves(layer_rows, out_axes, read_rows, access, num_loops)
    return FlatGroup(
        layer_rows, read_rows, np.concatenate([shape, read_shape]), moves, loops, out_axes, access
    )  # fmt: skip


def moves_of_outer_loops(flat: FlatGroup) -> Ints:
    """``moves`` as long as the inner ones of loops that share an axis are whole (rows of a pixel shuffle, say)."""
    return _moves(flat.layer, flat.out_axes, flat.read, flat.access, flat.loops.shape[1], most_terms=1)


def _loop_numbers(layer: Layer) -> dict[str, int]:
    if layer.workload is not None:
        return {name: number for number, name in enumerate(DIM_NAMES)}
    return {name: number for number, (name, _) in enumerate(layer.loops)}


def _fill_axis(row: Ints, axis: Axis, number: dict[str, int]) -> None:
    row[OFFSET], row[NUM_TERMS] = axis.offset, len(axis.terms)
    for place, (name, stride) in enumerate(sorted(axis.terms, key=lambda term: -term[1])):
        row[TERMS + 2 * place], row[TERMS + 2 * place + 1] = number[name], stride


def _moves(
    layer: Ints, out_axes: Ints, read: Ints, access: Ints, num_loops: int, most_terms: int = 1 << 10
) -> Ints:  # fmt: skip
    """Which axes of the sink's output move which axes of every slot, by way of so many loops of an axis at most."""
    rank = out_axes.shape[1]
    layer_moves = np.zeros((len(layer), rank), np.int64)
    read_moves = np.zeros((len(read), rank), np.int64)
    layer_moves[-1, : layer[-1, RANK]] = 1 << np.arange(layer[-1, RANK])
    for local in range(len(layer) - 1, -1, -1):
        moved = np.zeros(num_loops, np.int64)
        for axis in range(layer[local, RANK]):
            for term in range(min(most_terms, out_axes[local, axis, NUM_TERMS])):
                moved[out_axes[local, axis, TERMS + 2 * term]] |= layer_moves[local, axis]
        for row in range(layer[local, FIRST_READ], layer[local, STOP_READ]):
            for place in range(read[row, FIRST_ACCESS], read[row, STOP_ACCESS]):
                for axis in range(read[row, READ_RANK]):
                    for term in range(access[place, axis, NUM_TERMS]):
                        read_moves[row, axis] |= moved[access[place, axis, TERMS + 2 * term]]
            if read[row, PRODUCER] >= 0:
                layer_moves[read[row, PRODUCER]] |= read_moves[row]
    return np.concatenate([layer_moves, read_moves])


def group_key(group: Group) -> tuple[object, ...]:
    """Equal for groups that cost the same with the same mapping on any accelerator: layers, accesses, connections."""
    flat = flatten(group)
    workloads = tuple(group.graph.layers[index].workload for index in group.layers)
    return (workloads, *(part for array in flat for part in (array.shape, array.tobytes())))
