"""Counts of tiny map spaces by hand, the default mapping, and why a space is empty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.mapspace_cases import small_arch
from tvm_spm.arch import SplitBytes, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality import check
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.space.tiles import num_tiles, snap_factor, snap_rf, snap_tile, tile_above, tile_at, tile_below
from tvm_spm.workload import Dims, Operand, Workload

CONV2_2 = Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1, IY=56, IX=56)


def test_tiles_of_ten():
    # ceil(10/f) for f = 1..10: 10 5 4 3 2 2 2 2 2 1.
    assert [tile_at(10, i) for i in range(num_tiles(10))] == [1, 2, 3, 4, 5, 10]
    assert snap_tile(10, 9, 1, False) == 5
    assert snap_tile(10, 5, 6, False) == 10
    assert (tile_below(10, 10, 1, False), tile_above(10, 5, 1, False)) == (5, 10)
    assert tile_below(10, 1, 1, False) == 0


def test_perfect_tiles_of_twelve():
    # Divisors: 1 2 3 4 6 12; multiples of 2 among them: 2 4 6 12.
    assert [snap_tile(12, wanted, 1, True) for wanted in (1, 5, 7, 11, 12)] == [1, 4, 6, 6, 12]
    assert [snap_tile(12, wanted, 2, True) for wanted in (1, 3, 5)] == [2, 2, 4]
    assert tile_above(12, 6, 1, True) == 12


def test_factors_leave_nothing_idle():
    # 7 over 5: chunks of 2, which 4 parts cover.
    assert snap_factor(7, 5, False) == 4
    assert snap_factor(12, 5, True) == 4


def test_rf_tile_gives_every_pe_something():
    # 10 over 7 PEs: tiles of 2 would leave 2 PEs idle, so 1; over 5 PEs 2 is right.
    assert snap_rf(10, 7, 2, False) == 1
    assert snap_rf(10, 5, 2, False) == 2


def test_num_mappings_of_one_dim():
    # K = 3 on one PE: tiles 1, 2 and 3 (ceil(3/f) = 3 2 1).
    #   SPM 1: RF 1;  SPM 2: RF 1, 2;  SPM 3: RF 1, 2, 3: six (SPM, RF) pairs, each loop order is forced.
    # Two levels of three operands with one or two buffers: 2^6 = 64.
    space = MapSpace(workload=Workload.matmul(m=1, k=1, n=3), arch=small_arch(rows=1, cols=1))
    assert space.num_mappings == 6 * 64
    # Perfect: tiles divide, so SPM 1: RF 1; SPM 3: RF 1, 3.
    assert replace(space, perfect=True).num_mappings == 3 * 64


def test_num_mappings_counts_orders():
    # K = 2 and C = 2 on one PE. Per dim: (SPM, RF) of (1, 1) loops at DRAM, (2, 1) loops at SPM, (2, 2) does not loop.
    # Both at DRAM: one order, K outside C, as unfinished outputs must not leave. Both at SPM: two orders. Else one.
    # 9 pairs with one extra order: 10.
    space = MapSpace(workload=Workload.matmul(m=1, k=2, n=2), arch=small_arch(rows=1, cols=1))
    assert space.num_mappings == 10 * 64
    # With spilling both orders at DRAM count.
    assert replace(space, allow_spill=True).num_mappings == 11 * 64


def test_num_mappings_counts_axes():
    # K = 2 on 2 rows and 2 columns: besides the three of one PE, both elements at once on rows or on columns.
    space = MapSpace(workload=Workload.matmul(m=1, k=1, n=2), arch=small_arch(rows=2, cols=2))
    assert space.num_mappings == 5 * 64
    assert replace(space, rows_dims=("C",)).num_mappings == 4 * 64
    # Two cores with one element each: one more.
    assert replace(space, arch=small_arch(rows=2, cols=2, cores=2)).num_mappings == 6 * 64


def test_reduction_stays_on_one_core():
    space = MapSpace(workload=Workload.matmul(m=1, k=2, n=1), arch=small_arch(rows=1, cols=1, cores=2))
    assert space.num_mappings == 3 * 64


def test_sampling_is_repeatable():
    space = MapSpace(workload=CONV2_2, arch=load_arch("dmazerunner-256"))
    first, again, other = (space.sample(np.random.default_rng(seed), 20) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.spm, other.spm)


def test_axes_take_several_dims():
    # 7 x 7 outputs on 16 rows: one dim alone fills at most 7 of them.
    workload = Workload.conv2d(K=1, C=1, OY=7, OX=7, FY=1, FX=1)
    batch = MapSpace(workload=workload, arch=small_arch(rows=16, cols=1)).sample(np.random.default_rng(0), 500)
    assert batch.rows.prod(axis=1).max() > 7


def test_default_mapping_of_conv2_2():
    space = MapSpace(workload=CONV2_2, arch=load_arch("dmazerunner-256"))
    default = space.default_mapping()
    assert default is not None
    assert (default.cols, default.rows) == (Dims(K=16), Dims(C=16))
    assert default.spm_double == tuple(Operand)
    assert not default.spill
    assert space.contains(default)


@pytest.mark.parametrize("name", ["dmazerunner-256", "vta-1x16x16", "eyeriss-168", "mlu100-32", "quad-edge"])
def test_default_mapping_exists_on_every_machine(name: str):
    for workload in (
        CONV2_2,
        Workload.conv2d(K=32, C=32, OY=7, OX=7, FY=3, FX=3, stride=2, groups=32),
        Workload.conv2d(K=64, C=3, OY=112, OX=112, FY=7, FX=7, stride=2, padding=3, IY=224, IX=224),
        Workload.matmul(m=1, k=512, n=1000),
    ):
        space = MapSpace(workload=workload, arch=load_arch(name))
        default = space.default_mapping()
        assert default is not None
        assert space.contains(default)


def test_contains_refuses_what_the_knobs_do_not_offer():
    space = MapSpace(workload=Workload.matmul(m=4, k=8, n=10), arch=small_arch())
    # OX = 4, C = 8 and 5 of 10 K: 10 = 2 * 5.
    mapping = Mapping(spm=Dims(K=5, OX=4, C=8), dram_order=("K",), spm_order=("K", "OX", "C"))
    assert space.contains(mapping)
    # 9 needs two passes, and so does 5: legal, but not a choice.
    wasteful = replace(mapping, spm=Dims(K=9, OX=4, C=8))
    assert check(space.workload, space.arch, wasteful) is None
    assert not space.contains(wasteful)
    # 4 divides neither 10 nor 5; ceil(10/3) = 4 is a choice without perfect.
    assert space.contains(replace(mapping, spm=Dims(K=4, OX=4, C=8)))
    assert not replace(space, perfect=True).contains(replace(mapping, spm=Dims(K=4, OX=4, C=8)))
    assert not space.contains(replace(mapping, dram_order=("K", "C")))
    assert not space.contains(replace(mapping, spill=True))
    assert not replace(space, rows_dims=()).contains(replace(mapping, rows=Dims(OX=2)))


def test_contains_spilling_orders_only_where_allowed():
    space = MapSpace(workload=Workload.matmul(m=1, k=2, n=2), arch=small_arch())
    spilling = Mapping(dram_order=("C", "K"), spill=True)
    assert not space.contains(spilling)
    assert replace(space, allow_spill=True).contains(spilling)
    assert not replace(space, allow_spill=True).contains(replace(spilling, spill=False))


def test_empty_space_says_why():
    # Three operands, one element each in a bank of 16 B: 48 B.
    workload = Workload.matmul(m=2, k=2, n=2)
    space = MapSpace(workload=workload, arch=small_arch(spm=47, bank=16))
    assert space.default_mapping() is None
    assert space.explain_empty(100) == {
        "spm-capacity (tile does not fit SPM: needs 48 B (I 16 + W 16 + O 16), has 47 B, over by 1 B; "
        "shrinking one dim alone is not enough)": 100
    }
    assert space.check(space.sample(np.random.default_rng(0), 50)).all()
    assert list(space.enumerate()) == []
    assert replace(space, arch=small_arch(spm=48, bank=16)).explain_empty() == {}


def test_empty_space_names_the_register_file():
    # 3 operands * 2 B = 6 B.
    space = MapSpace(workload=Workload.matmul(m=2, k=2, n=2), arch=small_arch(rf=5))
    (reason,) = space.explain_empty(10)
    assert reason.startswith("rf-capacity (tile does not fit RF: needs 6 B (I 2 + W 2 + O 2), has 5 B")
    assert MapSpace(workload=space.workload, arch=small_arch(rf=6)).default_mapping() is not None


def test_single_buffers_when_two_do_not_fit():
    split = SplitBytes(I=16, W=32, O=16)
    default = MapSpace(workload=Workload.matmul(m=2, k=2, n=2), arch=small_arch(spm=split, bank=16)).default_mapping()
    assert default is not None
    assert default.spm_double == ()
