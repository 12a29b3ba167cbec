"""Thousands of small layers and groups through the compiled models, each equal to a literal walk.

Run as a process of its own with an allocator that overwrites what is freed (``MALLOC_PERTURB_``, glibc without its
thread cache), so that a record read after its memory was given away shows as a wrong number or a crash:

    GLIBC_TUNABLES=glibc.malloc.tcache_count=0 MALLOC_PERTURB_=165 python -m tests.memory_walk 2000
"""

from __future__ import annotations

import math
import random
import sys
from dataclasses import replace

from cost_model.analytical.model import evaluate_batch
from cost_model.attention.model import attention_cost
from cost_model.attention.stages import best_inner
from cost_model.fused import group_cost
from cost_model.fused.inner_mapper import InnerMapper
from cost_model.fused.passes import CROSSED, MAC_CYCLES
from cost_model.simulator import simulate_batch
from tests import fused_reference, simulator_reference
from tests.fused_cases import GROUPS, random_group_mapping
from tests.oracle.attention import AttentionWalk
from tests.oracle.boxes import num_parts
from tests.simulator_cases import random_arch, random_case
from tvm_spm.arch import Cores, load_arch
from tvm_spm.attention import Attention, AttentionMapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import Workload

MOST_MACS = 400
"""Of a layer: the walks are in Python."""


def check_layer(seed: int) -> None:
    """Simulator and, on one core, the batched formula."""
    rng = random.Random(seed)
    num_cores = rng.choice([1, 1, 2, 3])
    workload, arch, mapping = random_case(rng, num_cores=num_cores, num_channels=rng.choice([1, 2]))
    while workload.macs > MOST_MACS:
        workload, arch, mapping = random_case(rng, num_cores=num_cores, num_channels=rng.choice([1, 2]))
    walk = simulator_reference.simulate(workload, arch, mapping)
    for cost in simulate_batch(workload, arch, [mapping, mapping]):
        assert (cost.cycles, cost.dram_bytes) == (walk.cycles, tuple(walk.dram_bytes)), (seed, cost, walk)
        assert cost.compute_cycles == walk.compute_cycles, (seed, cost, walk)
    if mapping.cores.product() == 1:
        assert evaluate_batch(workload, arch, encode([mapping])).cycles[0] == walk.cycles, (seed, walk)


def check_group(seed: int) -> bool:
    """A group with random mappings inside; False if its walk would take too long."""
    rng = random.Random(seed)
    group = GROUPS[rng.choice(sorted(GROUPS))]()
    num_cores = rng.choice([1, 2])
    arch = random_arch(rng, num_cores=num_cores)
    mapping = random_group_mapping(rng, group, max_cores=num_cores)
    chunk = mapping.chunk(group.sink_shape)
    if math.prod(num_parts(c, t) for c, t in zip(chunk, mapping.tile, strict=True)) > 6:
        return False
    walk, found = fused_reference.run(group, arch, mapping), group_cost(group, arch, mapping)
    assert (found.cost.cycles, found.macs_executed) == (walk.cycles, walk.macs), (seed, found, walk)
    return True


def check_product(seed: int) -> None:
    """One product that fits SPM, as groups run it below SPM: operations and elements of its pass."""
    rng = random.Random(seed)
    m, k, n = (rng.randint(1, 12) for _ in range(3))
    product = Workload.matmul(m=m, k=k, n=n, dtype="int16")
    arch = replace(load_arch("edge-256"), cores=Cores(count=1, launch_cycles=0))
    mapper, shape = InnerMapper(arch, "edp"), product.dims.as_tuple()
    number = mapper.number(product)
    found = mapper.records(number, shape, [shape])[0]
    walk = simulator_reference.simulate(product, arch, mapper.mapping(number, shape, shape))
    assert found[MAC_CYCLES] == walk.compute_cycles, (seed, walk)
    assert tuple(found[CROSSED : CROSSED + 3]) == tuple(walk.crossed[x] for x in "IWO"), (seed, walk)


def check_attention(seed: int) -> None:
    """Queries and keys in pieces, on one core or two."""
    rng = random.Random(seed)
    work = Attention.of(heads=2, queries=rng.randint(1, 8), keys=rng.randint(1, 8), depth=rng.randint(1, 4))
    arch = load_arch("quad-edge")
    arch = replace(arch, dma=replace(arch.dma, startup_cycles=rng.choice([0, 37])))
    tiles = AttentionMapping(
        cores=rng.choice([(1, 1), (2, 1)]), query_tile=rng.randint(1, work.queries),
        key_tile=rng.randint(1, work.keys), double=rng.random() < 0.5, beside=rng.random() < 0.5,
    )  # fmt: skip
    scores, context = tiles.stage_dims(tiles.query_tile, tiles.key_tile, work)
    inner = (
        best_inner(work.scores, arch, scores, accumulates=False, objective="edp"),
        best_inner(work.context, arch, context, accumulates=True, objective="edp"),
    )
    mapping = replace(tiles, inner=inner)
    walk = AttentionWalk(work, arch, mapping)
    assert attention_cost(work, arch, mapping).cycles == walk.cycles(), (seed, mapping)


def main(num_layers: int) -> None:
    """Check, and say how many."""
    for seed in range(num_layers):
        check_layer(seed)
        if seed % 10 == 0:
            check_product(seed)
            check_attention(seed)
    num_groups = sum(check_group(seed) for seed in range(num_layers // 40))
    sys.stdout.write(f"{num_layers} layers and {num_groups} groups equal their walks\n")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
