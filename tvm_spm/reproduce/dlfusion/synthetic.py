"""Convolutions made up to calibrate on: single ones and chains, none taken from a network that is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.workload import Workload


class ConvShape(NamedTuple):
    """A square convolution with padding that keeps its extent.

    Attributes:
        K: Output channels.
        C: Input channels.
        extent: Rows and columns of the output.
        taps: Rows and columns of the filter.
        stride: In both directions.
        groups: Of channels.
    """

    K: int
    C: int
    extent: int
    taps: int
    stride: int = 1
    groups: int = 1


def conv_chain(layers: Sequence[tuple[int, ...]], dtype: str = "float16") -> LayerGraph:
    """Convolutions one after another.

    Args:
        layers: Fields of a ``ConvShape`` each.
        dtype: Of every tensor.
    """
    shapes = [ConvShape(*layer) for layer in layers]
    extent = shapes[0].extent * shapes[0].stride
    tensors = [GraphTensor(name="data", shape=(1, shapes[0].C, extent, extent), dtype=dtype)]
    made: list[Layer] = []
    data = 0
    for index, shape in enumerate(shapes):
        extent = shape.extent * shape.stride
        workload = Workload.conv2d(
            K=shape.K, C=shape.C, OY=shape.extent, OX=shape.extent, FY=shape.taps, FX=shape.taps, stride=shape.stride,
            padding=shape.taps // 2, groups=shape.groups, IY=extent, IX=extent, dtype=dtype,
        )  # fmt: skip
        filters = (shape.K, shape.C // shape.groups, shape.taps, shape.taps)
        out_shape = (1, shape.K, shape.extent, shape.extent)
        tensors.append(GraphTensor(name=f"weight{index}", shape=filters, dtype=dtype, is_constant=True))
        tensors.append(GraphTensor(name=f"conv{index}", shape=out_shape, dtype=dtype, producer=index))
        weight, output = len(tensors) - 2, len(tensors) - 1
        made.append(
            Layer(
                name=f"conv{index}",
                output=output,
                loops=tuple(workload.dims.as_dict().items()),
                out_axes=workload.O.axes,
                reads=(
                    Read(tensor=data, role="I", accesses=(workload.I.axes,)),
                    Read(tensor=weight, role="W", accesses=(workload.W.axes,)),
                ),
                workload=workload,
            )
        )
        data = output
    return LayerGraph(tensors=tuple(tensors), layers=tuple(made), outputs=(data,))


def single_layers(sizes: Sequence[tuple[int, int]]) -> list[list[ConvShape]]:
    """Dense, depthwise, widening, narrowing, strided and fully connected layers, each a chain of one.

    Args:
        sizes: Channels and extent of each of these kinds.
    """
    found = []
    for k, extent in sizes:
        found += [
            ConvShape(k, k, extent, 1), ConvShape(k, k, extent, 3), ConvShape(k, k, extent, 3, groups=k),
            ConvShape(4 * k, k, extent, 1), ConvShape(k, 4 * k, extent, 1), ConvShape(2 * k, k, extent, 3, stride=2),
            ConvShape(8 * k, 8 * k, 1, 1),
        ]  # fmt: skip
    return [[shape] for shape in found]


def layer_chains(sizes: Sequence[tuple[int, int]]) -> list[list[ConvShape]]:
    """Equal layers, bottlenecks, depthwise layers between wide ones, and fully connected layers.

    Args:
        sizes: Channels and extent of each of these kinds.
    """
    found = []
    for k, extent in sizes:
        wide = 6 * k
        found += [
            [ConvShape(k, k, extent, 1)] * 4,
            [ConvShape(k, k, extent, 3)] * 4,
            [ConvShape(k, 4 * k, extent, 1), ConvShape(k, k, extent, 3), ConvShape(4 * k, k, extent, 1)] * 2,
            [ConvShape(wide, k, extent, 1), ConvShape(wide, wide, extent, 3, groups=wide),
             ConvShape(k, wide, extent, 1)] * 2,
            [ConvShape(8 * k, 8 * k, 1, 1)] * 3,
        ]  # fmt: skip
    return found
