"""The map space: what it draws it contains, what it counts it enumerates, and both checks of legality agree."""

from __future__ import annotations

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mapspace_cases import any_mapping, machines, small_arch, workloads
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import REASONS
from tvm_spm.space.legality import check
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode
from tvm_spm.space.mapspace import MapSpace, fingerprints
from tvm_spm.workload import Workload

SEEDS = st.integers(0, 2**32 - 1)


def spaces_of(workload: Workload, machine: Arch) -> list[MapSpace]:
    return [
        MapSpace(workload=workload, arch=machine, perfect=perfect, allow_spill=spill)
        for perfect, spill in itertools.product((False, True), (False, True))
    ]


def mappings_of(batch: MappingBatch) -> list[Mapping]:
    return [decode(batch, row) for row in range(batch.num_mappings)]


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_both_checks_agree(workload: Workload, machine: Arch, seed: int):
    rng = np.random.default_rng(seed)
    mappings = [any_mapping(rng, workload) for _ in range(40)]
    mappings += mappings_of(MapSpace(workload=workload, arch=machine, allow_spill=True).sample(rng, 10))
    rejections = [check(workload, machine, mapping) for mapping in mappings]
    expected = [0 if rejection is None else 1 + REASONS.index(rejection.reason) for rejection in rejections]
    assert check_batch(workload, machine, encode(mappings)).tolist() == expected


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_rejections_are_true_inequalities(workload: Workload, machine: Arch, seed: int):
    rng = np.random.default_rng(seed)
    for _ in range(40):
        rejection = check(workload, machine, any_mapping(rng, workload))
        if rejection is not None:
            assert rejection.needed > rejection.available
            assert not rejection.terms or sum(value for _, value in rejection.terms) == rejection.needed


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_draws_changes_and_crossings_stay_in_the_space(workload: Workload, machine: Arch, seed: int):
    rng = np.random.default_rng(seed)
    for space in spaces_of(workload, machine):
        drawn = space.sample(rng, 12)
        changed = space.mutate(drawn, rng)
        crossed = space.cross(drawn, changed, rng)
        for batch in (drawn, changed, crossed):
            for mapping, code in zip(mappings_of(batch), space.check(batch), strict=True):
                assert mapping == mapping.canonical(workload)
                assert space.contains(mapping) == (code == 0)
                # Only sizes can be wrong, and only if nothing smaller is left.
                assert code == 0 or REASONS[code - 1] in ("spm-capacity", "rf-capacity")


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_default_mapping_is_legal_whenever_any_is(workload: Workload, machine: Arch, seed: int):
    rng = np.random.default_rng(seed)
    for space in spaces_of(workload, machine):
        default = space.default_mapping()
        if default is not None:
            assert space.contains(default)
            assert default == space.default_mapping()
            assert space.explain_empty() == {}
            assert not space.check(space.sample(rng, 30)).any()
        else:
            assert sum(space.explain_empty(50).values()) == 50
            assert space.check(space.sample(rng, 30)).all()
            assert all(check(workload, machine, any_mapping(rng, workload)) is not None for _ in range(10))


def tuples_from_first_principles(extent: int, machine: Arch, *, reduction: bool, perfect: bool) -> set[tuple[int, ...]]:
    """One dim's (cores, SPM tile, rows, cols, RF tile), straight from the definition of the choices."""
    found = set()
    for cores in range(1, 2 if reduction else machine.cores.count + 1):
        chunk = math.ceil(extent / cores)
        if math.ceil(extent / chunk) != cores or (perfect and extent % cores):
            continue
        for spm in {math.ceil(chunk / f) for f in range(1, chunk + 1) if not perfect or chunk % f == 0}:
            for rows in range(1, machine.pe.rows + 1):
                for cols in range(1, machine.pe.cols + 1):
                    pes = rows * cols
                    for steps in range(1, spm + 1):
                        rf = math.ceil(spm / (pes * steps))
                        if perfect and spm != rf * pes * steps:
                            continue
                        if pes <= math.ceil(spm / rf):
                            found.add((cores, spm, rows, cols, rf))
    return found


@given(
    extent=st.integers(1, 14), cores=st.integers(1, 4), rows=st.integers(1, 4), cols=st.integers(1, 4),
    perfect=st.booleans(), reduction=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_choices_of_one_dim(extent: int, cores: int, rows: int, cols: int, perfect: bool, reduction: bool):
    machine = small_arch(cores=cores, rows=rows, cols=cols)
    workload = Workload.matmul(m=1, k=extent, n=1) if reduction else Workload.matmul(m=1, k=1, n=extent)
    space = MapSpace(workload=workload, arch=machine, perfect=perfect)
    choices = space.dim_choices("C" if reduction else "K")
    assert len(set(choices)) == len(choices)
    assert set(choices) == tuples_from_first_principles(extent, machine, reduction=reduction, perfect=perfect)


@given(
    m=st.integers(1, 3), k=st.integers(1, 3), n=st.integers(1, 3), cores=st.integers(1, 3), rows=st.integers(1, 2),
    cols=st.integers(1, 2), seed=SEEDS,
)  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_count_equals_enumeration(m: int, k: int, n: int, cores: int, rows: int, cols: int, seed: int):
    workload = Workload.matmul(m=m, k=k, n=n)
    for space in spaces_of(workload, small_arch(cores=cores, rows=rows, cols=cols, rf=12)):
        points = list(space.enumerate(legal_only=False))
        assert space.num_mappings == len(points) == len(set(points))
        keys = set(fingerprints(encode(points)).tolist())
        assert len(keys) == len(points)
        assert set(fingerprints(space.sample(np.random.default_rng(seed), 200)).tolist()) <= keys


def test_every_legal_mapping_can_be_drawn():
    # Some points do not fit: the smallest RF tile takes 6 of 12 B, a larger one of them or second buffers may not.
    machine = small_arch(cores=2, rows=2, cols=1, rf=12, spm=64)
    for space in spaces_of(Workload.matmul(m=2, k=2, n=1), machine):
        legal = list(space.enumerate())
        # The rarest point comes up about once in 30,000 draws.
        drawn = space.sample(np.random.default_rng(3), 500_000)
        assert 0 < len(legal) < space.num_mappings
        assert set(fingerprints(drawn).tolist()) == set(fingerprints(encode(legal)).tolist())


@given(workload=workloads(), machine=machines(), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_unit_dims_change_nothing(workload: Workload, machine: Arch, seed: int):
    """A loop over a dim of extent 1 neither helps nor hurts."""
    rng = np.random.default_rng(seed)
    unit = {name for name, extent in workload.dims.as_dict().items() if extent == 1}
    for mapping in mappings_of(MapSpace(workload=workload, arch=machine, allow_spill=True).sample(rng, 5)):
        for name in unit:
            assert (mapping.cores[name], mapping.spm[name], mapping.rows[name], mapping.rf[name]) == (1, 1, 1, 1)
            assert name not in mapping.dram_order + mapping.spm_order
