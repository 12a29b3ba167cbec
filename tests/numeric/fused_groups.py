"""Small networks of every shape that becomes one fused group, and mappings of it with every awkward feature."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import relax

from schedules.group.code import FusedFunction
from tests.numeric.fused import network
from tvm_spm.deploy.grouping import GroupedModule, group_calls
from tvm_spm.frontend.extract import extract
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.units import ceil_div
from tvm_spm.workload import DIM_NAMES, Dims, Workload

R = relax.op
Builder = relax.BlockBuilder
Params = list[relax.Var]
F, B, H = "float32", "int8", "float16"
BRANCHES = [((1, 6, 10, 11), F), ((4, 6, 1, 1), F), ((3, 6, 1, 1), F), ((5, 3, 3, 3), F), ((2, 6, 1, 1), F)]
BYTES = [((1, 3, 9, 11), B), ((6, 3, 3, 3), B), ((5, 6, 3, 3), B), ((4, 5, 3, 3), B)]


def conv(b: Builder, x: relax.Expr, w: relax.Expr, *, relu: bool = True, **options: object) -> relax.Expr:
    made = b.emit(R.nn.conv2d(x, w, **options))
    return b.emit(R.nn.relu(made)) if relu else made


def chain(b: Builder, p: Params) -> relax.Expr:
    x = conv(b, p[0], p[1], padding=(1, 0, 2, 1), strides=2)
    x = conv(b, x, p[2], padding=2, dilation=2)
    x = conv(b, x, p[3])
    return conv(b, x, p[4], padding=1)


def identity_shortcut(b: Builder, p: Params) -> relax.Expr:
    x = conv(b, p[0], p[1], padding=1)
    return b.emit(R.nn.relu(b.emit(R.add(conv(b, x, p[2], relu=False, padding=1), p[0]))))


def inner_shortcut(b: Builder, p: Params) -> relax.Expr:
    first = conv(b, p[0], p[1], padding=1)
    x = conv(b, conv(b, first, p[2], padding=1), p[3], relu=False, padding=1)
    return b.emit(R.nn.relu(b.emit(R.add(x, first))))


def projection_shortcut(b: Builder, p: Params) -> relax.Expr:
    x = conv(b, conv(b, p[0], p[1], padding=1, strides=2), p[2], relu=False, padding=1)
    shortcut = conv(b, p[0], p[3], relu=False, strides=2)
    return b.emit(R.nn.relu(b.emit(R.add(x, shortcut))))


def inverted_bottleneck(b: Builder, p: Params) -> relax.Expr:
    x = b.emit(R.nn.relu6(b.emit(R.nn.conv2d(conv(b, p[0], p[1]), p[2], padding=1, groups=12))))
    return b.emit(R.add(conv(b, x, p[3], relu=False), p[0]))


def branches(b: Builder, p: Params) -> relax.Expr:
    narrow = conv(b, p[0], p[1])
    wide = conv(b, conv(b, p[0], p[2]), p[3], padding=1)
    pooled = conv(b, b.emit(R.nn.max_pool2d(p[0], (3, 3), padding=(1, 1))), p[4])
    return b.emit(R.concat([narrow, wide, pooled], axis=1))


def pooled(b: Builder, p: Params) -> relax.Expr:
    return b.emit(R.nn.max_pool2d(conv(b, p[0], p[1], padding=1), (3, 3), strides=(2, 2), padding=(1, 1)))


def pool_inside(b: Builder, p: Params) -> relax.Expr:
    x = b.emit(R.nn.avg_pool2d(conv(b, p[0], p[1], padding=1), (2, 2), strides=(2, 2)))
    return conv(b, x, p[2], padding=2, dilation=2)


def attention(b: Builder, p: Params) -> relax.Expr:
    scores = b.emit(R.nn.softmax(b.emit(R.matmul(p[0], p[1]))))
    return b.emit(R.matmul(scores, p[2]))


def grouped(b: Builder, p: Params) -> relax.Expr:
    return conv(b, conv(b, p[0], p[1], padding=1, groups=2), p[2], padding=1, groups=4)


def requantised(b: Builder, p: Params) -> relax.Expr:
    x = p[0]
    for weight in p[1:]:
        x = b.emit(R.nn.conv2d(x, weight, padding=1, out_dtype="int32"))
        x = b.emit(R.astype(b.emit(R.right_shift(x, relax.const(3, "int32"))), B))
    return x


def skip(b: Builder, p: Params) -> relax.Expr:
    first = conv(b, p[0], p[1], padding=1)
    low = conv(b, b.emit(R.nn.max_pool2d(first, (2, 2), strides=(2, 2))), p[2], padding=1)
    up = conv(b, b.emit(R.nn.conv2d_transpose(low, p[3], strides=(2, 2))), p[4])
    return b.emit(R.concat([up, first], axis=1))


def next_block(b: Builder, p: Params) -> relax.Expr:
    total = b.emit(R.nn.relu(b.emit(R.add(conv(b, p[0], p[1], relu=False, padding=1), p[0]))))
    x = conv(b, conv(b, total, p[2], padding=1), p[3], relu=False, padding=1)
    return b.emit(R.nn.relu(b.emit(R.add(x, total))))


def squeeze(b: Builder, p: Params) -> relax.Expr:
    wide = conv(b, p[0], p[1], padding=1, groups=6)
    gate = b.emit(R.sigmoid(conv(b, b.emit(R.nn.avg_pool2d(wide, (9, 7))), p[2])))
    return b.emit(R.multiply(wide, gate))


def several(b: Builder, p: Params) -> relax.Expr:
    first = conv(b, p[0], p[1], padding=1, groups=2)
    second = conv(b, first, p[2])
    third = conv(b, second, p[3], padding=1, strides=2)
    outside = conv(b, conv(b, second, p[4], relu=False), p[5])
    return b.emit(relax.Tuple([first, outside, third]))


def several_quantised(b: Builder, p: Params) -> relax.Expr:
    made = []
    x = p[0]
    for weight in p[1:]:
        x = b.emit(R.nn.conv2d(x, weight, padding=1, out_dtype="int32"))
        x = b.emit(R.astype(b.emit(R.right_shift(x, relax.const(3, "int32"))), B))
        made.append(x)
    return b.emit(relax.Tuple(made))


Shapes = list[tuple[tuple[int, ...], str]]
NETWORKS: dict[str, tuple[Shapes, Callable[[Builder, Params], relax.Expr]]] = {
    "chain": (
        [((1, 3, 19, 17), F), ((5, 3, 3, 2), F), ((4, 5, 3, 3), F), ((6, 4, 1, 1), F), ((3, 6, 3, 3), F)],
        chain,
    ),
    "identity shortcut": ([((1, 6, 13, 11), F), ((6, 6, 3, 3), F), ((6, 6, 3, 3), F)], identity_shortcut),
    "inner shortcut": (
        [((1, 3, 13, 11), F), ((6, 3, 3, 3), F), ((6, 6, 3, 3), F), ((6, 6, 3, 3), F)],
        inner_shortcut,
    ),
    "projection shortcut": (
        [((2, 6, 14, 12), F), ((7, 6, 3, 3), F), ((7, 7, 3, 3), F), ((7, 6, 1, 1), F)],
        projection_shortcut,
    ),
    "inverted bottleneck": (
        [((1, 6, 12, 11), F), ((12, 6, 1, 1), F), ((12, 1, 3, 3), F), ((6, 12, 1, 1), F)],
        inverted_bottleneck,
    ),
    "branches": (BRANCHES, branches),
    "pooled": ([((1, 3, 14, 13), F), ((5, 3, 3, 3), F)], pooled),
    "pool inside": ([((2, 3, 16, 14), F), ((5, 3, 3, 3), F), ((4, 5, 3, 3), F)], pool_inside),
    "attention": ([((3, 10, 8), F), ((3, 8, 12), F), ((3, 12, 8), F)], attention),
    "grouped": ([((1, 6, 10, 11), F), ((8, 3, 3, 3), F), ((12, 2, 3, 3), F)], grouped),
    "requantised": (BYTES, requantised),
    "skip": (
        [((1, 3, 12, 10), F), ((6, 3, 3, 3), F), ((4, 6, 3, 3), F), ((4, 5, 2, 2), F), ((6, 5, 1, 1), F)],
        skip,
    ),
    "next block": ([((1, 6, 13, 11), F), *[((6, 6, 3, 3), F)] * 3], next_block),
    "squeeze": ([((1, 6, 9, 7), F), ((6, 1, 3, 3), F), ((6, 6, 1, 1), F)], squeeze),
    "squeeze of halves": ([((1, 6, 9, 7), H), ((6, 1, 3, 3), H), ((6, 6, 1, 1), H)], squeeze),
    "attention of halves": ([((3, 10, 8), H), ((3, 8, 12), H), ((3, 12, 8), H)], attention),
    "several": (
        [
            ((2, 4, 11, 9), F),
            ((6, 2, 3, 3), F),
            ((5, 6, 1, 1), F),
            ((7, 5, 3, 3), F),
            ((4, 5, 1, 1), F),
            ((2, 4, 1, 1), F),
        ],
        several,
    ),
    "several quantised": (BYTES, several_quantised),
    "first branch": (BRANCHES, branches),
    "branches apart": (BRANCHES, branches),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network that is one group."""

    mod: tvm.IRModule
    grouped: GroupedModule
    group: Group
    fused: FusedFunction


LAYERS = {
    "skip": (0, 1, 2), "next block": (0, 1), "squeeze": (0, 1), "squeeze of halves": (0, 1), "several": (0, 1, 2),
    "several quantised": (0, 1, 2), "first branch": (0, 5), "branches apart": (0, 2, 4, 5),
}  # fmt: skip
"""The group where it is not the whole network: what it writes is read behind it as well, or branches stand between."""


def case(name: str) -> Case:
    extraction = extract(network(*NETWORKS[name]))
    layers = layer_graph(extraction)
    group = Group(graph=layers.graph, layers=LAYERS.get(name, tuple(range(len(layers.graph.layers)))))
    made = group_calls(extraction.mod, [[layers.bindings[index] for index in group.layers]])
    return Case(mod=extraction.mod, grouped=made, group=group, fused=made.function(0, layers, group))


def sample_group_mapping(group: Group, rng: random.Random, *, kept: tuple[int, ...], streamed: bool) -> GroupMapping:
    """Cores, tiles and orders at random; capacities do not matter."""
    shape = group.sink_shape
    cores, free = [], 4
    for extent in shape:
        parts = rng.randint(1, min(free, extent)) if rng.random() < 0.5 else 1
        cores.append(ceil_div(extent, ceil_div(extent, parts)))
        free //= cores[-1]
    chunk = [ceil_div(extent, parts) for extent, parts in zip(shape, cores, strict=True)]
    tile = [rng.choice([extent, rng.randint(1, extent), min(3, extent)]) for extent in chunk]
    k_tile, inner = [], []
    for index in group.layers:
        work = group.graph.layers[index].workload
        channels = 1 if work is None else rng.randint(1, work.dims.K) if streamed else work.dims.K
        k_tile.append(channels)
        inner.append(None if work is None else _inner(work, rng, channels))
    return GroupMapping(cores=tuple(cores), tile=tuple(tile), kept=kept, k_tile=tuple(k_tile), inner=tuple(inner))


def _inner(work: Workload, rng: random.Random, channels: int) -> Mapping:
    extents = work.dims.with_dim("K", channels)
    rows, cols, rf, free = {}, {}, {}, [4, 4]
    for name in rng.sample(DIM_NAMES, len(DIM_NAMES)):
        for level, factors in enumerate((rows, cols)):
            factors[name] = rng.randint(1, min(free[level], extents[name]))
            free[level] //= factors[name]
        rf[name] = rng.randint(1, min(3, extents[name]))
    return Mapping(
        spm=extents, rows=Dims(**rows), cols=Dims(**cols), rf=Dims(**rf),
        spm_order=tuple(rng.sample(DIM_NAMES, len(DIM_NAMES))),
    )  # fmt: skip
