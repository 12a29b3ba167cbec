"""Small layer graphs, built by hand, and random mappings of their groups."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from tests.simulator_cases import random_mapping
from tvm_spm.arch import load_arch
from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Axis, Dims, Epilogue, Projection, Workload


@dataclass
class Builder:
    """Appends layers one by one; tensors are known by their index."""

    dtype: str = "int16"
    tensors: list[GraphTensor] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)

    def tensor(self, name: str, shape: tuple[int, ...], *, const: bool = False, dtype: str | None = None) -> int:
        self.tensors.append(GraphTensor(name=name, shape=shape, dtype=dtype or self.dtype, is_constant=const))
        return len(self.tensors) - 1

    def _output(self, name: str, shape: tuple[int, ...], dtype: str | None = None) -> int:
        index = self.tensor(name, shape, dtype=dtype)
        self.tensors[index] = replace(self.tensors[index], producer=len(self.layers))
        return index

    def mac(
        self, name: str, work: Workload, source: int, weight: int | None = None, *, extras: tuple[int, ...] = (),
        num_ops: int = 0,
    ) -> int:  # fmt: skip
        """A convolution or matmul; extras are tensors of the output's shape, or one value per channel."""
        if weight is None:
            weight = self.tensor(f"{name}.w", _shape(work.W), const=True)
        reads = [
            Read(tensor=source, role="I", accesses=(work.I.axes,)),
            Read(tensor=weight, role="W", accesses=(work.W.axes,)),
        ]
        projections = []
        for extra in extras:
            axes = work.O.axes
            if len(self.tensors[extra].shape) == 1:
                channel = next(axis for axis in work.O.axes if {d for d, _ in axis.terms} & {"K", "G"})
                axes = (channel,)
            reads.append(Read(tensor=extra, role="extra", accesses=(axes,)))
            projections.append(Projection(axes=axes, dtype=self.tensors[extra].dtype))
        work = replace(work, epilogue=Epilogue(num_ops_per_elem=num_ops, extras=tuple(projections)))
        output = self._output(f"{name}.out", _shape(work.O), work.out_dtype)
        self.layers.append(
            Layer(
                name=name,
                output=output,
                loops=tuple(zip(DIM_NAMES, work.dims, strict=True)),
                out_axes=work.O.axes,
                reads=tuple(reads),
                workload=work,
                num_ops_per_elem=num_ops,
            )  # fmt: skip
        )
        return output

    def conv(
        self, name: str, source: int, k: int, *, taps: int = 3, stride: int = 1, padding: int | None = None,
        groups: int = 1, extras: tuple[int, ...] = (), num_ops: int = 1, dilation: int = 1,
    ) -> int:  # fmt: skip
        n, c, iy, ix = self.tensors[source].shape
        pad = dilation * (taps // 2) if padding is None else padding
        oy, ox = ((i + 2 * pad - dilation * (taps - 1) - 1) // stride + 1 for i in (iy, ix))
        work = Workload.conv2d(
            N=n, K=k, C=c, OY=oy, OX=ox, FY=taps, FX=taps, stride=stride, padding=pad, groups=groups, IY=iy, IX=ix,
            dtype=self.dtype, dilation=dilation,
        )  # fmt: skip
        return self.mac(name, work, source, extras=extras, num_ops=num_ops)

    def matmul(
        self, name: str, source: int, n: int, *, weight: int | None = None, num_ops: int = 0, transposed: bool = False
    ) -> int:
        *batch, m, k = self.tensors[source].shape
        work = Workload.matmul(
            m=m, k=k, n=n, batch=batch[0] if batch else 1, dtype=self.dtype, transposed_weight=transposed
        )
        return self.mac(name, work, source, weight, num_ops=num_ops)

    def elementwise(self, name: str, *sources: int, num_ops: int = 1) -> int:
        shape = self.tensors[sources[0]].shape
        axes = tuple(Axis(terms=((f"d{i}", 1),), extent=extent) for i, extent in enumerate(shape))
        reads = tuple(Read(tensor=source, role="vector", accesses=(axes,)) for source in sources)
        return self._vector(name, shape, tuple((f"d{i}", e) for i, e in enumerate(shape)), axes, reads, num_ops)

    def softmax(self, name: str, source: int) -> int:
        shape = self.tensors[source].shape
        last = len(shape) - 1
        axes = tuple(Axis(terms=((f"d{i}", 1),), extent=extent) for i, extent in enumerate(shape))
        row = (*axes[:-1], Axis(terms=(("r0", 1),), extent=shape[-1]))
        loops = (*((f"d{i}", e) for i, e in enumerate(shape)), ("r0", shape[last]))
        reads = (Read(tensor=source, role="vector", accesses=(axes, row)),)
        return self._vector(name, shape, loops, axes, reads, 5)

    def pool(self, name: str, source: int, *, taps: int, stride: int, padding: int = 0) -> int:
        n, c, iy, ix = self.tensors[source].shape
        oy, ox = ((i + 2 * padding - taps) // stride + 1 for i in (iy, ix))
        shape = (n, c, oy, ox)
        axes = tuple(Axis(terms=((f"d{i}", 1),), extent=extent) for i, extent in enumerate(shape))
        windows = tuple(
            Axis(terms=((f"d{2 + i}", stride), (f"r{i}", 1)), extent=extent, offset=-padding)
            for i, extent in enumerate((iy, ix))
        )
        loops = (*((f"d{i}", e) for i, e in enumerate(shape)), ("r0", taps), ("r1", taps))
        reads = (Read(tensor=source, role="vector", accesses=((*axes[:2], *windows),)),)
        return self._vector(name, shape, loops, axes, reads, taps * taps)

    def concat(self, name: str, *sources: int) -> int:
        shapes = [self.tensors[source].shape for source in sources]
        n, _, oy, ox = shapes[0]
        shape = (n, sum(s[1] for s in shapes), oy, ox)
        axes = tuple(Axis(terms=((f"d{i}", 1),), extent=extent) for i, extent in enumerate(shape))
        reads, first = [], 0
        for source, one in zip(sources, shapes, strict=True):
            channel = Axis(terms=(("d1", 1),), extent=one[1], offset=-first)
            reads.append(Read(tensor=source, role="vector", accesses=((axes[0], channel, *axes[2:]),)))
            first += one[1]
        return self._vector(name, shape, tuple((f"d{i}", e) for i, e in enumerate(shape)), axes, tuple(reads), 1)

    def shuffle(self, name: str, source: int, factor: int) -> int:
        """Channels that become rows and columns."""
        n, c, iy, ix = self.tensors[source].shape
        shape = (n, c // factor**2, factor * iy, factor * ix)
        axes = (
            *(Axis(terms=((f"d{i}", 1),), extent=shape[i]) for i in range(2)),
            *(Axis(terms=((f"d{i}_0", factor), (f"d{i}_1", 1)), extent=shape[i]) for i in (2, 3)),
        )
        channel = Axis(terms=(("d1", factor**2), ("d2_1", factor), ("d3_1", 1)), extent=c)
        rows = (Axis(terms=((f"d{i}_0", 1),), extent=extent) for i, extent in ((2, iy), (3, ix)))
        loops = (
            ("d0", n), ("d1", shape[1]), ("d2_0", iy), ("d2_1", factor), ("d3_0", ix), ("d3_1", factor),
        )  # fmt: skip
        reads = (Read(tensor=source, role="vector", accesses=((axes[0], channel, *rows),)),)
        return self._vector(name, shape, loops, axes, reads, 1)

    def _vector(
        self, name: str, shape: tuple[int, ...], loops: tuple[tuple[str, int], ...], axes: tuple[Axis, ...],
        reads: tuple[Read, ...], num_ops: int,
    ) -> int:  # fmt: skip
        output = self._output(f"{name}.out", shape)
        self.layers.append(
            Layer(name=name, output=output, loops=loops, out_axes=axes, reads=reads, num_ops_per_elem=num_ops)
        )
        return output

    def group(self, stop: int | None = None) -> Group:
        """All layers as one group, or the first ones."""
        return Group.interval(self.graph(), 0, len(self.layers) if stop is None else stop)

    def graph(self) -> LayerGraph:
        return LayerGraph(tensors=tuple(self.tensors), layers=tuple(self.layers), outputs=(self.layers[-1].output,))


def _shape(projection: Projection) -> tuple[int, ...]:
    return tuple(axis.extent for axis in projection.axes)


def conv_chain(*channels: int, size: int = 12, taps: int = 3, batch: int = 1) -> Group:
    """Convolutions one after the other."""
    b = Builder()
    at = b.tensor("x", (batch, channels[0], size, size))
    for number, k in enumerate(channels[1:]):
        at = b.conv(f"conv{number}", at, k, taps=taps)
    return b.group()


def residual_block(c: int = 4, size: int = 10) -> Group:
    """Two convolutions whose result is added to what the first reads."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    first = b.conv("conv0", x, c)
    b.conv("conv1", first, c, extras=(x,), num_ops=2)
    return b.group()


def inner_residual(c: int = 3, size: int = 9) -> Group:
    """A residual whose branches both start inside the group."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    stem = b.conv("stem", x, c, taps=1)
    left = b.conv("conv0", stem, c)
    left = b.conv("conv1", left, c)
    b.elementwise("add", left, stem)
    return b.group()


def bottleneck(c: int = 8, size: int = 8, stride: int = 1) -> Group:
    """1x1, 3x3, 1x1 with the residual in the epilogue."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    at = b.conv("reduce", x, c // 4, taps=1)
    at = b.conv("conv", at, c // 4, stride=stride)
    b.conv("expand", at, c, taps=1, extras=(x,) if stride == 1 else (), num_ops=2)
    return b.group()


def inverted_bottleneck(c: int = 3, expand: int = 3, size: int = 9, stride: int = 1) -> Group:
    """1x1 up, depthwise 3x3, 1x1 down."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    at = b.conv("expand", x, c * expand, taps=1)
    at = b.conv("depthwise", at, c * expand, groups=c * expand, stride=stride)
    b.conv("project", at, c, taps=1)
    return b.group()


def inception(c: int = 4, size: int = 7) -> Group:
    """Three branches and a concatenation."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    stem = b.conv("stem", x, c, taps=1)
    one = b.conv("one", stem, 2, taps=1)
    three = b.conv("three", b.conv("reduce", stem, 2, taps=1), 3)
    pooled = b.conv("project", b.pool("pool", stem, taps=3, stride=1, padding=1), 2, taps=1)
    b.concat("concat", one, three, pooled)
    return b.group()


def conv_pool(c: int = 3, size: int = 11) -> Group:
    """A convolution and a pooling with stride."""
    b = Builder()
    at = b.conv("conv", b.tensor("x", (2, c, size, size)), 4)
    b.pool("pool", at, taps=3, stride=2, padding=1)
    return b.group()


def attention(heads: int = 2, length: int = 6, depth: int = 4) -> Group:
    """Softmax of a product, times values."""
    b = Builder()
    q, k, v = (b.tensor(name, (heads, length, depth)) for name in "qkv")
    scores = b.matmul("scores", q, length, weight=k, transposed=True)
    b.matmul("values", b.softmax("softmax", scores), depth, weight=v)
    return b.group()


def skip(c: int = 3, size: int = 8) -> Group:
    """An encoder's step and what follows: the decoder reads the step's result, too."""
    b = Builder()
    wide = b.conv("wide", b.conv("conv", b.tensor("x", (1, c, size, size)), c), c)
    low = b.conv("low", b.pool("pool", wide, taps=2, stride=2), c + 1)
    b.concat("concat", wide, b.conv("up", b.tensor("y", (1, 2, size, size)), c, extras=(), taps=1), wide)
    b.elementwise("later", low)
    return b.group(4)


def upsampled(c: int = 3, size: int = 5, factor: int = 2) -> Group:
    """A transposed convolution as products for every residue, whose results are interleaved; beside a skip.

    Rows move channels, too, where boxes keep less than could stay.
    """
    b = Builder()
    x = b.tensor("x", (1, 2, size, size))
    b.conv("conv", b.concat("concat", b.shuffle("shuffle", b.conv("up", x, c * factor**2), factor),
           b.tensor("y", (1, 2, factor * size, factor * size))), c)  # fmt: skip
    return b.group()


def next_block(c: int = 4, size: int = 9) -> Group:
    """The end of a residual block and the next one's first layer; the sum is added again behind that block."""
    b = Builder()
    x = b.tensor("x", (1, c, size, size))
    total = b.conv("conv0", x, c, extras=(x,), num_ops=2)
    at = b.conv("conv1", total, c, num_ops=1)
    b.conv("conv2", at, c, extras=(total,), num_ops=2)
    return b.group(2)


def squeeze(c: int = 6, size: int = 5) -> Group:
    """A depthwise layer and the mean of each of its channels, both of which are read later."""
    b = Builder()
    wide = b.conv("depthwise", b.tensor("x", (1, c, size, size)), c, groups=c)
    b.elementwise("gate", b.pool("mean", wide, taps=size, stride=1))
    b.elementwise("scaled", wide)
    return b.group(2)


def dense(c: int = 3, size: int = 6) -> Group:
    """Layers that later ones read one and all."""
    b = Builder()
    x = b.tensor("x", (2, c, size, size))
    one = b.conv("one", x, 2)
    two = b.conv("two", b.concat("concat0", x, one), 3, taps=1)
    b.concat("concat1", x, one, two)
    b.elementwise("later", two)
    return b.group(4)


GROUPS = {
    "chain": lambda: conv_chain(3, 4, 5),
    "long chain": lambda: conv_chain(2, 3, 2, 3, 2, size=9),
    "batch": lambda: conv_chain(2, 3, 3, size=6, batch=3),
    "residual": residual_block,
    "inner residual": inner_residual,
    "bottleneck": bottleneck,
    "strided bottleneck": lambda: bottleneck(stride=2),
    "inverted bottleneck": inverted_bottleneck,
    "strided inverted bottleneck": lambda: inverted_bottleneck(stride=2),
    "inception": inception,
    "pool": conv_pool,
    "attention": attention,
    "skip": skip,
    "next block": next_block,
    "squeeze": squeeze,
    "dense": dense,
}


def random_group_mapping(rng: random.Random, group: Group, *, max_cores: int = 4) -> GroupMapping:
    """Cores, tiles, kept axes and array at random; capacities are not looked at."""
    shape = group.sink_shape
    cores, left = [1] * len(shape), max_cores
    for axis in rng.sample(range(len(shape)), len(shape)):
        choices = [p for p in range(1, left + 1) if ceil_div(shape[axis], ceil_div(shape[axis], p)) == p]
        cores[axis] = rng.choice(choices)
        left //= cores[axis]
    chunk = [ceil_div(extent, parts) for extent, parts in zip(shape, cores, strict=True)]
    tile = [rng.choice([extent, rng.randint(1, extent)]) for extent in chunk]
    # channels are left out: along them a concatenation needs other layers from tile to tile, where boxes keep less
    # than sets of elements
    kept = tuple(axis for axis in range(len(shape)) if (len(shape) < 4 or axis != 1) and rng.random() < 0.4)
    layers = [group.graph.layers[index] for index in group.layers]
    k_tile, inner = [], []
    for layer in layers:
        if layer.workload is None:
            k_tile.append(1)
            inner.append(None)
            continue
        k_tile.append(rng.choice([layer.workload.dims.K, rng.randint(1, layer.workload.dims.K)]))
        inner.append(random_inner(rng, layer.workload))
    return GroupMapping(
        cores=tuple(cores), tile=tuple(tile), kept=kept, k_tile=tuple(k_tile), inner=tuple(inner),
        double=rng.random() < 0.6,
    )  # fmt: skip


def random_inner(rng: random.Random, workload: Workload) -> Mapping:
    """An array mapping whose SPM tile is the whole layer, so that every stage fits under it."""
    mapping = random_mapping(rng, workload, load_arch("edge-256"))
    return replace(mapping, cores=Dims(), spm=workload.dims, dram_order=(), spm_double=(), spill=False)
