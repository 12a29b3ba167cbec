"""Layers and groups at the same time: against a literal walk, and against the simulators of one layer and one group."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.fused import group_cost
from cost_model.side_by_side import Job, finish_together
from cost_model.simulator import simulate_batch
from tests import side_by_side_reference
from tests.fused_cases import GROUPS, conv_chain, conv_pool, random_group_mapping, residual_block
from tests.simulator_cases import random_arch, random_case, random_mapping, random_workload
from tvm_spm.arch import Arch
from tvm_spm.group import Group
from tvm_spm.units import ceil_div
from tvm_spm.workload import Dims, Workload

seeds = st.integers(0, 2**32)

SMALL_GROUPS: tuple[Callable[[], Group], ...] = (
    lambda: conv_chain(2, 3, 2, size=4), lambda: conv_chain(2, 2, 2, 1, size=4, taps=1), lambda: residual_block(2, 4),
    lambda: conv_pool(2, 5),
)  # fmt: skip
"""The literal walk of a group takes seconds where layers have a few hundred elements."""


def random_job(rng: random.Random, arch: Arch) -> Job:
    """A layer, or one time in three a group, on at most three cores."""
    most = rng.randint(1, 3)
    if rng.random() < 0.66:
        work = random_workload(rng)
        return Job(work=work, mapping=random_mapping(rng, work, replace(arch, cores=replace(arch.cores, count=most))))
    while True:
        group = rng.choice(SMALL_GROUPS)()
        mapping = random_group_mapping(rng, group, max_cores=most)
        chunk = mapping.chunk(group.sink_shape)
        if math.prod(ceil_div(c, t) for c, t in zip(chunk, mapping.tile, strict=True)) <= 6:
            return Job(work=group, mapping=mapping)


@settings(max_examples=100, deadline=None)
@given(seed=seeds)
def test_jobs_at_the_same_time_equal_the_literal_walk(seed: int):
    rng = random.Random(seed)
    arch = random_arch(rng, num_cores=9, num_channels=rng.choice([1, 1, 2, 3]))
    jobs = [random_job(rng, arch) for _ in range(rng.choice([2, 2, 3]))]
    found = finish_together(arch, jobs)
    assert [finish.cycles for finish in found] == side_by_side_reference.finish_together(
        arch, [(job.work, job.mapping) for job in jobs]
    )


@settings(max_examples=60, deadline=None)
@given(seed=seeds)
def test_one_layer_alone_takes_what_the_simulator_of_layers_says(seed: int):
    rng = random.Random(seed)
    workload, arch, mapping = random_case(rng, num_cores=rng.randint(1, 5), num_channels=rng.randint(1, 3))
    cost, (found,) = (
        simulate_batch(workload, arch, [mapping])[0],
        finish_together(arch, [Job(work=workload, mapping=mapping)]),
    )
    assert found.cycles == cost.cycles
    assert found.compute_cycles == cost.compute_cycles
    assert found.pass_cycles == cost.compute_cycles + cost.noc_stall_cycles


@settings(max_examples=15, deadline=None)
@given(seed=seeds)
def test_one_group_alone_takes_what_the_simulator_of_groups_says(seed: int):
    rng = random.Random(seed)
    group = GROUPS[rng.choice(list(GROUPS))]()
    arch = random_arch(rng, num_cores=4, num_channels=rng.choice([1, 2, 4]))
    mapping = random_group_mapping(rng, group)
    cost, (found,) = group_cost(group, arch, mapping).cost, finish_together(arch, [Job(work=group, mapping=mapping)])
    assert found.cycles == cost.cycles
    assert found.compute_cycles == cost.compute_cycles
    assert found.pass_cycles == cost.compute_cycles + cost.noc_stall_cycles


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_with_a_channel_for_every_core_nobody_waits_for_another(seed: int):
    rng = random.Random(seed)
    arch = random_arch(rng, num_cores=9, num_channels=9)
    jobs = [random_job(rng, arch) for _ in range(3)]
    assert list(finish_together(arch, jobs)) == [finish_together(arch, [job])[0] for job in jobs]


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_cores_that_all_run_one_program_may_be_told_so_one_by_one(seed: int):
    """A batch cut over cores is as many jobs of one image each, core by core."""
    rng = random.Random(seed)
    num, arch = rng.randint(2, 4), random_arch(rng, num_channels=rng.randint(1, 3))
    extents = {name: rng.randint(1, 6) for name in ("K", "C", "OY", "OX")} | {"FY": 3, "FX": rng.choice([1, 3])}
    image, batch = (Workload.conv2d(N=count, **extents) for count in (1, num))
    mapping = random_mapping(rng, image, arch)
    (together,) = finish_together(arch, [Job(work=batch, mapping=replace(mapping, cores=Dims(N=num)))])
    apart = finish_together(arch, [Job(work=image, mapping=mapping)] * num)
    assert together.cycles == max(finish.cycles for finish in apart)
