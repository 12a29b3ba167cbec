"""The rough count of cycles behind the default mapping, against a literal one for a single mapping."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tests.oracle import boxes
from tests.simulator_cases import random_workload
from tvm_spm.arch import Arch, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.estimate import SERIAL_SHARE, rough_cycles
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Dims, Operand, Workload


def trips_of(loops: list[tuple[str, int]], relevant: tuple[str, ...]) -> int:
    """Iterations down to the innermost loop that matters, one loop after the other."""
    while loops and (loops[-1][0] not in relevant or loops[-1][1] == 1):
        loops = loops[:-1]
    return math.prod(factor for _, factor in loops)


def literal_cycles(workload: Workload, arch: Arch, mapping: Mapping) -> float:
    dram, spm = mapping.dram_factors(workload.dims), mapping.spm_factors()
    outer = [(name, dram[name]) for name in mapping.dram_order]
    inner = [(name, spm[name]) for name in mapping.spm_order]
    waiting = math.ceil(mapping.cores.product() / arch.levels.DRAM.channels)
    array = Dims.of([min(a, s) for a, s in zip(mapping.array, mapping.spm, strict=True)])
    dma, crossings = [], []
    for operand in Operand:
        projection = workload.projection(operand)
        box = [min(boxes.spanned_elems((axis,), mapping.spm), axis.extent) for axis in projection.axes]
        # a burst takes all axes inside the innermost one that the box does not fill
        split = max((i for i, axis in enumerate(projection.axes) if box[i] < axis.extent), default=0)
        bursts, burst_elems = math.prod(box[:split]), math.prod(box[split:])
        burst_bits = math.ceil(burst_elems * projection.elem_bits / arch.burst_bits) * arch.burst_bits
        cycles = bursts * arch.burst_startup_cycles + bursts * burst_bits / 8 / arch.dma_bytes_per_cycle
        dma.append(waiting * trips_of(outer, projection.relevant_dims) * cycles)
        held = boxes.spanned_elems(projection.axes, array)
        crossings.append(trips_of(outer + inner, projection.relevant_dims) * held / arch.noc.elems_per_cycle)
    parts = [sum(dma), max(crossings), float(dram.product() * spm.product() * mapping.rf.product())]
    return max(parts) + SERIAL_SHARE * (sum(parts) - max(parts))


@pytest.mark.parametrize("name", ["dmazerunner-256", "quad-edge"])
@pytest.mark.parametrize("seed", range(20))
def test_a_batch_has_the_rough_cycles_of_its_mappings(seed: int, name: str):
    workload, arch = random_workload(random.Random(seed)), load_arch(name)
    batch = MapSpace(workload=workload, arch=arch).sample(np.random.default_rng(seed), 20)
    found = rough_cycles(workload, arch, batch, (batch.dram_order[:, None], batch.spm_order[:, None]))
    assert found.shape == (20, 1)
    expected = [literal_cycles(workload, arch, decode(batch, row)) for row in range(20)]
    assert found[:, 0].tolist() == pytest.approx(expected, rel=1e-12)
