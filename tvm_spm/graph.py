"""A network as layers that read and write tensors: which part of each input a part of an output needs."""

from __future__ import annotations

from collections.abc import Mapping as StringMapping
from dataclasses import dataclass

from tvm_spm.workload import Axis, Workload, dtype_bits

Range = tuple[int, int]
"""First index and the one behind the last."""

Box = tuple[Range, ...]
"""One range per axis of a tensor."""

ROLES = ("I", "W", "extra", "vector")
"""What a layer does with a tensor it reads: input or weight of the sum, read by the epilogue, or by the vector unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphTensor:
    """A tensor between layers, an input of the network, or a constant.

    Attributes:
        name: Unique in its graph.
        shape: Extents, outermost axis first.
        dtype: Of one element.
        producer: The layer that writes it; None for inputs, constants and results of calls that are no layers.
        is_constant: Whether it is the same in every run (weights).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    producer: int | None = None
    is_constant: bool = False

    @property
    def elem_bits(self) -> int:
        """Width of one element."""
        return dtype_bits(self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """One tensor that a layer reads.

    Attributes:
        tensor: Index in the graph.
        role: One of ``ROLES``.
        accesses: How loops index it, one affine map per place where the layer reads it; each has one ``Axis`` per axis
            of the tensor, whose terms name loops of the layer.
    """

    tensor: int
    role: str
    accesses: tuple[tuple[Axis, ...], ...]

    def box(self, loops: StringMapping[str, Range]) -> Box:
        """What the given ranges of the loops need of the tensor: a bounding box, padding excluded; may be empty."""
        if any(stop <= first for first, stop in loops.values()):
            return tuple((0, 0) for _ in self.accesses[0])
        every = [tuple(_axis_range(axis, loops) for axis in access) for access in self.accesses]
        boxes = [box for box in every if box_elems(box)] or every[:1]
        return tuple(
            (min(first for first, _ in ranges), max(stop for _, stop in ranges)) for ranges in zip(*boxes, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One call of the network.

    Attributes:
        name: Of the TIR function, made unique.
        output: The tensor it writes.
        loops: Name and extent of every loop: the dims of the workload, or ``d0 d1 ..`` over the axes of the output and
            ``r0 r1 ..`` over windows and rows of vector work.
        out_axes: How loops index the output.
        reads: Every tensor it reads.
        workload: For multiply-accumulate layers.
        num_ops_per_elem: Vector operations per output element: of the epilogue, or of all the vector work.
        refusal: Why it cannot be fused with other layers, if so.
    """

    name: str
    output: int
    loops: tuple[tuple[str, int], ...]
    out_axes: tuple[Axis, ...]
    reads: tuple[Read, ...]
    workload: Workload | None = None
    num_ops_per_elem: int = 0
    refusal: str | None = None

    def loop_ranges(self, box: Box) -> dict[str, Range]:
        """The loops that a box of the output needs; loops that do not index the output run in full.

        Where two loops share an axis (groups and channels in a group) both cover at least the box.
        """
        ranges = {name: (0, extent) for name, extent in self.loops}
        for axis, (first, stop) in zip(self.out_axes, box, strict=True):
            terms = sorted(axis.terms, key=lambda term: -term[1])
            for position, (name, stride) in enumerate(terms):
                low, high = (first - axis.offset) // stride, (stop - 1 - axis.offset) // stride + 1
                if position == 0:
                    ranges[name] = (low, high)
                if position == len(terms) - 1 or high - low > 1:
                    break
                # The box lies within one group: the rest of the index is the channel in the group.
                first, stop = first - low * stride, stop - low * stride
                inner, inner_stride = terms[position + 1]
                ranges[inner] = (
                    (first - axis.offset) // inner_stride, (stop - 1 - axis.offset) // inner_stride + 1,
                )  # fmt: skip
        return ranges

    def needs_all_of(self, tensor: int) -> bool:
        """Whether boxes of the output, whose union is all of it, together need every element of a tensor."""
        extents, moved = dict(self.loops), {name for axis in self.out_axes for name, _ in axis.terms}
        return any(
            all(_leaves_no_gap(axis, extents, moved) for axis in access) and _is_independent(access, extents, moved)
            for read in self.reads if read.tensor == tensor for access in read.accesses
        )  # fmt: skip


def _leaves_no_gap(axis: Axis, extents: StringMapping[str, int], moved: set[str]) -> bool:
    """Whether boxes around the indices of one output after the other cover an axis; loops but ``moved`` are whole."""
    if axis.offset > 0 or any(stride < 0 for _, stride in axis.terms):
        return False
    reach = 1 + sum(stride * (extents[name] - 1) for name, stride in axis.terms if name not in moved)
    for stride, name in sorted((stride, name) for name, stride in axis.terms if name in moved and extents[name] > 1):
        if stride > reach:
            return False
        reach += stride * (extents[name] - 1)
    return axis.offset + reach >= axis.extent


def _is_independent(access: tuple[Axis, ...], extents: StringMapping[str, int], moved: set[str]) -> bool:
    """Whether no loop moves two axes."""
    names = [name for axis in access for name, _ in axis.terms if name in moved and extents[name] > 1]
    return len(names) == len(set(names))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGraph:
    """Layers in an order in which they can run.

    Attributes:
        tensors: Every tensor.
        layers: A layer reads only tensors of earlier layers and tensors without a producer.
        outputs: Tensors that are needed after the network, or by calls that are no layers.
        behind: Pairs of layers of which the second reads what the first writes by way of calls that are no layers.
    """

    tensors: tuple[GraphTensor, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]
    behind: tuple[tuple[int, int], ...] = ()

    @property
    def before(self) -> tuple[frozenset[int], ...]:
        """Per layer those that it reads, directly or by way of calls that are no layers."""
        # a layer may write several tensors, of which ``output`` is the first
        makers = [{self.tensors[read.tensor].producer for read in layer.reads} for layer in self.layers]
        found = [{maker for maker in own if maker is not None} for own in makers]
        for first, second in self.behind:
            found[second].add(first)
        return tuple(map(frozenset, found))

    def consumers(self, tensor: int) -> tuple[int, ...]:
        """Layers that read a tensor, in order."""
        return tuple(
            index for index, layer in enumerate(self.layers) if any(read.tensor == tensor for read in layer.reads)
        )


def box_elems(box: Box) -> int:
    """Elements of a box; 0 if any range is empty."""
    elems = 1
    for first, stop in box:
        elems *= max(0, stop - first)
    return elems


def _axis_range(axis: Axis, loops: StringMapping[str, Range]) -> Range:
    return axis.range_inside(
        {name: loops[name][0] for name in axis.dims},
        {name: loops[name][1] - loops[name][0] for name in axis.dims},
    )
