"""A mapping survives printing, packing and trimming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mapspace_cases import any_mapping, machines, small_arch, workloads
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality import check, rf_terms, spm_terms
from tvm_spm.space.mapping_batch import concat, decode, encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import DIM_NAMES, Dims, Workload

SEEDS = st.integers(0, 2**32 - 1)


@given(workload=workloads(), seed=SEEDS)
@settings(deadline=None)
def test_parse_reads_what_str_prints(workload: Workload, seed: int):
    mapping = any_mapping(np.random.default_rng(seed), workload)
    assert Mapping.parse(str(mapping)) == mapping
    assert Mapping.parse(mapping.line()) == mapping
    assert "\n" not in mapping.line()


@given(workload=workloads(), seed=SEEDS)
@settings(deadline=None)
def test_a_batch_keeps_every_mapping(workload: Workload, seed: int):
    rng = np.random.default_rng(seed)
    mappings = [any_mapping(rng, workload) for _ in range(6)]
    batch = concat([encode(mappings[:2]), encode(mappings[2:])])
    assert [decode(batch, row) for row in range(batch.num_mappings)] == mappings


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(deadline=None)
def test_canonical_is_the_same_execution(workload: Workload, machine: Arch, seed: int):
    """Loops that iterate once and dims of extent 1 may be named or not."""
    rng = np.random.default_rng(seed)
    for row in range(5):
        mapping = decode(MapSpace(workload=workload, arch=machine).sample(rng, 5), row)
        missing = [
            tuple(str(name) for name in rng.permutation(DIM_NAMES) if name not in order)
            for order in (mapping.dram_order, mapping.spm_order)
        ]
        longer = replace(
            mapping, dram_order=missing[0] + mapping.dram_order, spm_order=mapping.spm_order + missing[1]
        )  # fmt: skip
        assert longer.canonical(workload) == mapping
        assert mapping.canonical(workload) == mapping
        assert (check(workload, machine, longer) is None) == (check(workload, machine, mapping) is None)
        assert longer.dram_factors(workload.dims) == mapping.dram_factors(workload.dims)


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(deadline=None)
def test_canonical_is_idempotent_and_trims_to_the_extents(workload: Workload, machine: Arch, seed: int):
    canonical = any_mapping(np.random.default_rng(seed), workload).canonical(workload)
    assert canonical.canonical(workload) == canonical
    for name in DIM_NAMES:
        assert canonical.rf[name] <= canonical.spm[name] <= workload.dims[name]


@given(workload=workloads(), seed=SEEDS)
@settings(deadline=None)
def test_footprints_grow_with_tiles(workload: Workload, seed: int):
    rng = np.random.default_rng(seed)
    mapping = any_mapping(rng, workload)
    larger = Dims.of([tile + int(rng.integers(0, 3)) for tile in mapping.spm])
    machine = small_arch()
    for (_, small), (_, large) in zip(
        spm_terms(workload, machine, mapping, mapping.spm), spm_terms(workload, machine, mapping, larger), strict=True
    ):
        assert small <= large
    assert sum(v for _, v in rf_terms(workload, mapping, mapping.spm)) <= sum(
        v for _, v in rf_terms(workload, mapping, larger)
    )
