"""The untuned baseline is a decent one: on the layers of ResNet-18 and MobileNet-V2 no worse than the median draw."""

from __future__ import annotations

import numpy as np
import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.simulator import simulate_batch
from tvm_spm.arch import archs, load_arch
from tvm_spm.objective import Objective
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

CONVOLUTIONS = (
    (64, 3, 112, 7, 2), (64, 64, 56, 3, 1), (128, 64, 28, 3, 2), (128, 128, 28, 3, 1), (128, 64, 28, 1, 2),
    (256, 128, 14, 3, 2), (256, 256, 14, 3, 1), (256, 128, 14, 1, 2), (512, 256, 7, 3, 2), (512, 512, 7, 3, 1),
    (512, 256, 7, 1, 2), (32, 3, 112, 3, 2), (16, 32, 112, 1, 1), (96, 16, 112, 1, 1), (24, 96, 56, 1, 1),
    (144, 24, 56, 1, 1), (24, 144, 56, 1, 1), (32, 144, 28, 1, 1), (192, 32, 28, 1, 1), (32, 192, 28, 1, 1),
    (64, 192, 14, 1, 1), (384, 64, 14, 1, 1), (64, 384, 14, 1, 1), (96, 384, 14, 1, 1), (576, 96, 14, 1, 1),
    (96, 576, 14, 1, 1), (160, 576, 7, 1, 1), (960, 160, 7, 1, 1), (160, 960, 7, 1, 1), (320, 960, 7, 1, 1),
    (1280, 320, 7, 1, 1),
)  # fmt: skip
"""Output and input channels, rows of the output, rows of the filter, stride."""
DEPTHWISE = (
    (32, 112, 1), (96, 56, 2), (144, 56, 1), (144, 28, 2), (192, 28, 1), (192, 14, 2), (384, 14, 1), (576, 14, 1),
    (576, 7, 2), (960, 7, 1),
)  # fmt: skip
"""Channels, rows of the output, stride; filters of 3x3."""
PRODUCTS = ((512, 1000), (1280, 1000))


def convolution(channels: int, inputs: int, rows: int, filter_rows: int, stride: int, *, groups: int = 1) -> Workload:
    return Workload.conv2d(
        K=channels, C=inputs, OY=rows, OX=rows, FY=filter_rows, FX=filter_rows, stride=stride,
        padding=filter_rows // 2, IY=rows * stride, IX=rows * stride, groups=groups,
    )  # fmt: skip


SEPARATE = tuple(convolution(n, n, rows, 3, stride, groups=n) for n, rows, stride in DEPTHWISE)
LAYERS = (
    *(convolution(*each) for each in CONVOLUTIONS),
    *SEPARATE,
    *(Workload.matmul(m=1, k=k, n=n) for k, n in PRODUCTS),
)


def drawn(space: MapSpace, num_mappings: int) -> MappingBatch:
    batch = space.sample(np.random.default_rng(0), num_mappings)
    return batch.take(np.flatnonzero(space.check(batch) == 0))


@pytest.mark.parametrize("name", archs())
def test_default_is_no_worse_than_the_median_draw_by_the_formula(name: str):
    arch = load_arch(name)
    for layer in LAYERS:
        space = MapSpace(workload=layer, arch=arch)
        priced = evaluate_batch(layer, arch, drawn(space, 100))
        own = evaluate_batch(layer, arch, encode([space.require_default()]))
        for objective in Objective:
            median = np.median(objective.value_of(priced.cycles.astype(float), priced.energy_pj))
            value = objective.value_of(own.cycles.astype(float), own.energy_pj)[0]
            assert value <= median, f"{layer} on {name}, {objective}: {value:.4g} is above the median {median:.4g}"


@pytest.mark.parametrize("name", ["quad-edge", "mlu100-32"])
def test_default_is_no_worse_than_the_median_draw_where_cores_wait_for_each_other(name: str):
    arch = load_arch(name)
    for layer in (*SEPARATE, *LAYERS[5:8]):
        space = MapSpace(workload=layer, arch=arch)
        batch = drawn(space, 24)
        chosen = [space.require_default(), *(decode(batch, row) for row in range(batch.num_mappings))]
        own, *others = simulate_batch(layer, arch, chosen)
        for objective in Objective:
            median = np.median([cost.objective(objective) for cost in others])
            assert own.objective(objective) <= median, f"{layer} on {name}, {objective}"


def test_filters_stay_whole_where_rows_of_inputs_would_be_loaded_again():
    # Growing tile by tile ended with OY > OX > FY at DRAM: every row of the filter loaded its rows of the input anew.
    layer = convolution(144, 144, 28, 3, 2, groups=144)
    default = MapSpace(workload=layer, arch=load_arch("dmazerunner-256")).require_default()
    assert (default.spm["FY"], default.spm["FX"]) == (3, 3)
