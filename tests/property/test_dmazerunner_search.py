"""The search with bounds finds what pricing every tiling finds, and counts as many tilings."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.published.batch import batch_best, nest_arrays
from cost_model.published.nest import published_machine, published_nest
from cost_model.published.search import pruned_search, published_exact, published_random, random_tilings, tiling_space
from cost_model.published.space import Prunes
from tests.unit.published_orders import best_over_orders
from tvm_spm.arch import Arch, load_arch
from tvm_spm.errors import NoMappingError
from tvm_spm.objective import Objective
from tvm_spm.space.case import Case
from tvm_spm.workload import Workload

DMAZERUNNER = load_arch("dmazerunner-256")


@st.composite
def layers(draw: st.DrawFn) -> Workload:
    kind = draw(st.sampled_from(("conv", "depthwise", "matmul")))
    size = st.sampled_from((1, 2, 3, 4, 6, 8, 9, 12))
    if kind == "matmul":
        return Workload.matmul(
            m=draw(size),
            n=draw(size),
            k=draw(st.sampled_from((1, 6, 8, 12, 24))),
            batch=draw(st.sampled_from((1, 2, 4))),
        )
    channels = draw(st.sampled_from((1, 2, 4, 6)))
    shape = {
        "N": draw(st.sampled_from((1, 2, 4))),
        "OY": draw(st.sampled_from((1, 2, 4, 7))),
        "OX": draw(st.sampled_from((1, 2, 3, 6))),
        "FY": draw(st.sampled_from((1, 2, 3))),
        "FX": draw(st.sampled_from((1, 3))),
        "stride": draw(st.sampled_from((1, 1, 2, 3))),
        "padding": draw(st.sampled_from((0, 1))),
    }
    if kind == "depthwise":
        return Workload.conv2d(K=channels, C=channels, groups=channels, **shape)
    return Workload.conv2d(K=draw(st.sampled_from((1, 2, 4, 6))), C=channels, **shape)


@st.composite
def accelerators(draw: st.DrawFn) -> Arch:
    """The published accelerator, smaller and with other prices, so that each limit and each cost decides sometimes."""
    levels = DMAZERUNNER.levels
    bank_bytes = draw(st.sampled_from((2, 16, 64)))
    rf = replace(levels.RF, capacity_bytes=2 * draw(st.sampled_from((3, 8, 24, 256))))
    spm = replace(
        levels.SPM,
        bank_bytes=bank_bytes,
        capacity_bytes=2 * bank_bytes * draw(st.sampled_from((8, 32, 256))),
        access_pj=draw(st.sampled_from((0.0, 13.5, 100.0))),
    )
    return replace(
        DMAZERUNNER,
        pe=replace(DMAZERUNNER.pe, rows=draw(st.sampled_from((1, 2, 4))), cols=draw(st.sampled_from((1, 3, 8)))),
        levels=replace(
            levels, RF=rf, SPM=spm, DRAM=replace(levels.DRAM, access_pj=draw(st.sampled_from((0.0, 200.0))))
        ),
        noc=replace(DMAZERUNNER.noc, delivery_pj=draw(st.sampled_from((0.0, 2.0, 50.0)))),
        dma=replace(DMAZERUNNER.dma, startup_cycles=draw(st.sampled_from((0, 10, 291)))),
    )


@st.composite
def prunes_of_any_kind(draw: st.DrawFn) -> Prunes:
    share = st.sampled_from((0.0, 0.0, 0.0, 0.3))
    return Prunes(
        min_pe_share=draw(share),
        min_rf_share=draw(share),
        min_spm_share=draw(share),
        whole_filters=draw(st.booleans()),
        no_spatial_reduction=draw(st.booleans()),
        unrolled=draw(st.sampled_from((None, None, None, ("K",), ("OY", "OX"), ("K", "C")))),
        unroll_others=draw(st.booleans()),
    )


@settings(max_examples=300, deadline=None)
@given(
    workload=layers(),
    arch=accelerators(),
    prunes=st.just(Prunes()) | prunes_of_any_kind(),
    objective=st.sampled_from(list(Objective)),
)
def test_optimum_equals_enumeration(workload: Workload, arch: Arch, prunes: Prunes, objective: Objective):
    try:
        plain = pruned_search(workload, arch, prunes=prunes, objective=objective)
    except NoMappingError:
        with pytest.raises(NoMappingError):
            published_exact(workload, arch, objective, prunes=prunes)
        return
    found = published_exact(workload, arch, objective, prunes=prunes)
    assert found.num_tilings == plain.num_evaluated
    assert found.num_evaluated <= found.num_tilings
    assert found.certified
    assert found.lower_bound == found.value
    assert found.value == plain.value == best_over_orders(workload, arch, found.named_factors()).of(objective)


def walk(workload: Workload, arch: Arch, prunes: Prunes) -> np.ndarray:
    """Every way to split every bound over the four levels that fits and that the prunes leave, ``(n, 4, 7)``."""
    nest = published_nest(workload)
    splits = []
    for extent in nest.extents:
        divisors = [d for d in range(1, extent + 1) if extent % d == 0]
        splits.append([way for way in itertools.product(divisors, repeat=4) if math.prod(way) == extent])
    places = np.indices([len(ways) for ways in splits]).reshape(len(splits), -1)
    found = np.stack([np.array(ways)[place] for ways, place in zip(splits, places, strict=True)], axis=2)
    dram, _, rf, spatial = found.swapaxes(0, 1)
    tile, elem_bytes = found[:, 1:].prod(axis=1), arch.word_bits // 8

    def elems(sizes: np.ndarray) -> list[np.ndarray]:
        return [
            math.prod(1 + sum(step * (sizes[:, loop] - 1) for loop, step in axis.terms) for axis in axes)
            * np.ones(len(sizes), int)
            for axes in nest.tensors
        ]

    num_pes, rf_elems = arch.pe.rows * arch.pe.cols, arch.levels.RF.capacity_bytes // elem_bytes
    buffer_bytes, bank_bytes = arch.levels.SPM.capacity_bytes // 2, arch.levels.SPM.bank_bytes
    used, held = spatial.prod(axis=1), sum(elems(rf))
    kept = (used <= num_pes) & (used >= prunes.min_pe_share * num_pes)
    kept &= (held <= rf_elems) & (held >= prunes.min_rf_share * rf_elems)
    kept &= sum(-(-each * elem_bytes // bank_bytes) for each in elems(tile)) <= buffer_bytes // bank_bytes
    kept &= sum(elems(tile)) * elem_bytes >= prunes.min_spm_share * buffer_bytes
    for loop, name in enumerate(nest.dims):
        if prunes.whole_filters and name in ("FY", "FX") and workload.kind != "matmul":
            kept &= dram[:, loop] == 1
        if prunes.no_spatial_reduction and name in ("C", "FY", "FX"):
            kept &= spatial[:, loop] == 1
        if prunes.unrolled is not None and name in prunes.unrolled:
            kept &= spatial[:, loop] > 1
        elif prunes.unrolled is not None and not prunes.unroll_others:
            kept &= spatial[:, loop] == 1
    return found[kept]


@st.composite
def small_layers(draw: st.DrawFn) -> Workload:
    size = st.sampled_from((1, 2, 3, 4))
    kind = draw(st.sampled_from(("conv", "depthwise", "matmul")))
    if kind == "matmul":
        return Workload.matmul(m=draw(size), n=draw(size), k=draw(size) * 2, batch=draw(size))
    shape = {name: draw(st.sampled_from((1, 2))) for name in ("N", "OY", "OX", "stride")}
    shape |= {"FY": draw(st.sampled_from((1, 3))), "FX": draw(st.sampled_from((1, 2))), "padding": draw(st.booleans())}
    channels = draw(size)
    if kind == "depthwise":
        return Workload.conv2d(K=channels, C=channels, groups=channels, **shape)
    return Workload.conv2d(K=draw(size), C=channels, **shape)


@settings(max_examples=80, deadline=None)
@given(
    workload=small_layers(),
    arch=accelerators(),
    prunes=st.just(Prunes()) | prunes_of_any_kind(),
    objective=st.sampled_from(list(Objective)),
)
def test_enumeration_equals_a_literal_walk(workload: Workload, arch: Arch, prunes: Prunes, objective: Objective):
    valid = walk(workload, arch, prunes)
    if len(valid) == 0:
        with pytest.raises(NoMappingError):
            pruned_search(workload, arch, prunes=prunes, objective=objective)
        return
    found = pruned_search(workload, arch, prunes=prunes, objective=objective)
    nest = published_nest(workload)
    values = batch_best(nest_arrays(nest, published_machine(arch)), np.ascontiguousarray(valid), objective.code)
    assert found.num_tilings == found.num_evaluated == len(valid)
    assert found.value == found.lower_bound == values.min()
    # Of equally good ones the first by spatial, RF and SPM factors.
    first = min(valid[values == values.min()].tolist(), key=lambda factors: factors[::-1])
    assert found.named_factors() == nest.named(first)


@settings(max_examples=50, deadline=None)
@given(workload=layers(), arch=accelerators(), seed=st.integers(0, 2**32 - 1))
def test_random_tilings_are_valid_and_repeat(workload: Workload, arch: Arch, seed: int):
    best = published_exact(workload, arch)
    drawn, again = (
        published_random(workload, arch, num_evaluated=20, rng=np.random.default_rng(seed)) for _ in range(2)
    )
    assert drawn == again
    assert drawn.value == best_over_orders(workload, arch, drawn.named_factors()).min_edp
    assert drawn.lower_bound <= best.value <= drawn.value
    spatial = drawn.named_factors()["spatial"]
    assert math.prod(spatial.values()) <= arch.num_pes


def test_every_tiling_is_drawn_alike_often():
    # 2 loops of 2 over 4 levels make 16 tilings, all of which fit; 16,000 draws give each 1,000 with a deviation of 31.
    workload, num = Workload.conv2d(K=2, C=2, OY=1, OX=1, FY=1, FX=1), 16_000
    counts: Counter[object] = Counter()
    rng, space = np.random.default_rng(0), tiling_space(Case(workload=workload, arch=DMAZERUNNER), Prunes())
    for _ in range(num // 100):
        counts.update(factors.tobytes() for factors in random_tilings(space, 100, rng))
    assert len(counts) == space.num_tilings == 16
    assert max(abs(count - 1_000) for count in counts.values()) < 6 * 31
