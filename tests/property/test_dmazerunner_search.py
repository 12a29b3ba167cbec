"""The search with bounds finds what pricing every tiling finds, and counts as many tilings."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_model.published.model import best_over_orders
from cost_model.published.search import num_published_tilings, published_exact, published_random, random_tilings
from cost_model.published.space import Prunes, pruned_search
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import OBJECTIVES
from tvm_spm.errors import NoMappingError
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
    objective=st.sampled_from(OBJECTIVES),
)
def test_optimum_equals_enumeration(workload: Workload, arch: Arch, prunes: Prunes, objective: str):
    try:
        plain = pruned_search(workload, arch, prunes=prunes, objective=objective)
    except NoMappingError:
        assert num_published_tilings(workload, arch, prunes) == 0
        with pytest.raises(NoMappingError):
            published_exact(workload, arch, objective, prunes=prunes)
        return
    found = published_exact(workload, arch, objective, prunes=prunes)
    assert found.num_tilings == plain.num_evaluated
    assert found.num_evaluated <= found.num_tilings
    assert found.certified
    assert found.lower_bound == found.value
    expected = {"edp": plain.edp, "energy": plain.energy_pj, "latency": plain.cycles}[objective]
    assert found.value == expected
    again = best_over_orders(workload, arch, found.named_factors())
    assert {"edp": again.min_edp, "energy": again.min_energy_pj, "latency": again.min_cycles}[objective] == expected


@settings(max_examples=50, deadline=None)
@given(workload=layers(), arch=accelerators(), seed=st.integers(0, 2**32 - 1))
def test_random_tilings_are_valid_and_repeat(workload: Workload, arch: Arch, seed: int):
    best = published_exact(workload, arch)
    drawn, again = (
        published_random(workload, arch, num_evaluated=20, rng=np.random.default_rng(seed)) for _ in range(2)
    )
    assert replace(drawn, seconds=0) == replace(again, seconds=0)
    assert drawn.value == best_over_orders(workload, arch, drawn.named_factors()).min_edp
    assert drawn.lower_bound <= best.value <= drawn.value
    spatial = drawn.named_factors()["spatial"]
    assert math.prod(spatial.values()) <= arch.num_pes


def test_every_tiling_is_drawn_alike_often():
    # 2 loops of 2 over 4 levels make 16 tilings, all of which fit; 16,000 draws give each 1,000 with a deviation of 31.
    workload, num = Workload.conv2d(K=2, C=2, OY=1, OX=1, FY=1, FX=1), 16_000
    counts: Counter[object] = Counter()
    rng = np.random.default_rng(0)
    for _ in range(num // 100):
        counts.update(factors.tobytes() for factors in random_tilings(workload, DMAZERUNNER, 100, rng))
    assert len(counts) == num_published_tilings(workload, DMAZERUNNER) == 16
    assert max(abs(count - 1_000) for count in counts.values()) < 6 * 31
