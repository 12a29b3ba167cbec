"""Thresholds of the heuristic, found on synthetic layers of the machine model and never on the networks compared.

Procedure, fixed before any network was run: 3x3 and 1x1 layers of equal input and output channels are priced alone on
every power of two of cores; of a grid of (multiply-accumulates per core, channels per core) the pair whose choices have
the least geometric mean of cycles over the best choice is taken. Then chains of four equal layers are cut by the
heuristic with each block threshold of a grid, and that of the least geometric mean is taken. Of equal ones the least.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from tvm_spm.graph import GraphTensor, Layer, LayerGraph, Read
from tvm_spm.reproduce.dlfusion.prices import AskedPrices, PriceGroup, PriceTable
from tvm_spm.reproduce.dlfusion.strategies import POWERS_OF_TWO, Thresholds, decide, make_heuristic
from tvm_spm.reproduce.paper_table import geometric_mean
from tvm_spm.workload import Workload

CHANNELS = (32, 128, 512)
EXTENTS = (7, 14, 28, 56)
TAPS = (1, 3)
CHAIN_LAYERS = 4

MACS_PER_CORE = tuple(1 << exponent for exponent in range(10, 27, 2))
CHANNELS_PER_CORE = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BLOCK_MACS_PER_CORE = tuple(1 << exponent for exponent in range(16, 31, 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Thresholds and how far the choices they make are from the best ones of the same grid.

    Attributes:
        thresholds: What the heuristic uses.
        layer_loss: Geometric mean over single layers of cycles over the best number of cores, less 1.
        chain_loss: Geometric mean over chains of cycles over those of the best threshold for each chain, less 1.
        num_layers: Single layers priced.
        num_chains: Chains priced.
    """

    thresholds: Thresholds
    layer_loss: float
    chain_loss: float
    num_layers: int
    num_chains: int


def conv_chain(layers: Sequence[tuple[int, int, int, int]], dtype: str = "float16") -> LayerGraph:
    """Convolutions one after another.

    Args:
        layers: (output channels, input channels, rows and columns, filter rows and columns) of each.
        dtype: Of every tensor.
    """
    tensors = [
        GraphTensor(name="data", shape=(1, layers[0][1], layers[0][2], layers[0][2]), dtype=dtype),
    ]
    made: list[Layer] = []
    data = 0
    for index, (k, c, extent, taps) in enumerate(layers):
        workload = Workload.conv2d(
            K=k, C=c, OY=extent, OX=extent, FY=taps, FX=taps, padding=taps // 2, IY=extent, IX=extent, dtype=dtype
        )
        tensors.append(GraphTensor(name=f"weight{index}", shape=(k, c, taps, taps), dtype=dtype, is_constant=True))
        tensors.append(GraphTensor(name=f"conv{index}", shape=(1, k, extent, extent), dtype=dtype, producer=index))
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


def calibrate(price_group: PriceGroup, max_cores: int, *, quick: bool = False) -> Calibration:
    """Find the thresholds of one accelerator.

    Args:
        price_group: AskedPrices a group on exactly so many cores.
        max_cores: Of the accelerator.
        quick: Half the layers and chains of two.
    """
    counts = tuple(count for count in POWERS_OF_TWO if count <= max_cores)
    shapes = list(itertools.product(CHANNELS, EXTENTS[:2] if quick else EXTENTS, TAPS))
    alone = [AskedPrices(table=_table([(k, k, extent, taps)], counts, price_group)) for k, extent, taps in shapes]
    cycles = [
        {count: price.cycles for count in counts if (price := prices.on(0, 1, count)) is not None} for prices in alone
    ]
    macs = [prices.graph.layers[0].workload.macs for prices in alone if prices.graph.layers[0].workload]

    def layer_loss(rule: Thresholds) -> float:
        return geometric_mean(
            [
                found[rule.cores(work, k, counts)] / min(found.values())
                for found, work, (k, _, _) in zip(cycles, macs, shapes, strict=True)
            ]
        )

    pairs = [
        Thresholds(macs_per_core=work, channels_per_core=channels, block_macs_per_core=1)
        for work in MACS_PER_CORE
        for channels in CHANNELS_PER_CORE
    ]
    rule = min(pairs, key=layer_loss)
    length = 2 if quick else CHAIN_LAYERS
    chains = [_table([(k, k, extent, taps)] * length, counts, price_group) for k, extent, taps in shapes]
    rules = [
        Thresholds(
            macs_per_core=rule.macs_per_core, channels_per_core=rule.channels_per_core, block_macs_per_core=block
        )
        for block in BLOCK_MACS_PER_CORE
    ]
    by_rule = [[decide("", make_heuristic(each), chain).cycles for chain in chains] for each in rules]
    least = [min(column) for column in zip(*by_rule, strict=True)]
    losses = [geometric_mean([own / best for own, best in zip(row, least, strict=True)]) for row in by_rule]
    place = losses.index(min(losses))
    return Calibration(
        thresholds=rules[place],
        layer_loss=layer_loss(rule) - 1,
        chain_loss=losses[place] - 1,
        num_layers=len(shapes),
        num_chains=len(chains),
    )


def _table(layers: Sequence[tuple[int, int, int, int]], counts: tuple[int, ...], price_group: PriceGroup) -> PriceTable:
    return PriceTable(graph=conv_chain(layers), core_counts=counts, price_group=price_group)
