"""Named features of a nest small enough to count by hand."""

from __future__ import annotations

import numpy as np

from cost_model.learned import NO_LOOP_RANK, Estimate, feature_names, features
from tests.mapspace_cases import small_arch
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import Dims, Operand, Workload

# O[OX=4, K=8] += I[OX, C=2] * W[C, K], int16.
WORKLOAD = Workload.matmul(m=4, k=2, n=8)
ARCH = small_arch(cores=1, rows=2, cols=2, rf=64, spm=128, bank=1)
# DRAM: OX twice, K twice inside; SPM tile OX=2 K=4 C=2; SPM: K twice (4 / 2 columns), C twice inside; rows hold OX.
MAPPING = Mapping(
    spm=Dims(OX=2, K=4, C=2), rows=Dims(OX=2), cols=Dims(K=2), dram_order=("OX", "K"), spm_order=("K", "C"),
    spm_double=(Operand.W,),
)  # fmt: skip


def named(mapping: Mapping, estimate: Estimate | None = None) -> dict[str, float]:
    row = features(WORKLOAD, ARCH, encode([mapping]), estimate)[0]
    return dict(zip(feature_names(with_estimate=estimate is not None), map(float, row), strict=True))


def test_names_are_distinct():
    assert len(set(feature_names())) == len(feature_names())


def test_tiles_and_factors():
    found = named(MAPPING)
    assert found["log2_extent_K_elems"] == 3
    assert found["log2_spm_tile_K_elems"] == 2
    assert found["log2_rf_tile_K_elems"] == 0
    assert found["log2_dram_K_factor"] == 1
    assert found["log2_spm_K_factor"] == 1
    assert (found["log2_row_OX_factor"], found["log2_col_K_factor"]) == (1, 1)


def test_ranks_count_loops_inside():
    found = named(MAPPING)
    assert (found["dram_rank_OX_loops"], found["dram_rank_K_loops"]) == (1, 0)
    assert (found["spm_rank_K_loops"], found["spm_rank_C_loops"]) == (1, 0)
    assert found["dram_rank_C_loops"] == NO_LOOP_RANK


def test_footprints():
    # I 2*2, W 2*4, O 2*4 elements of 2 B.
    found = named(MAPPING)
    assert [found[f"log2_spm_footprint_{name}_bytes"] for name in "IWO"] == [3, 4, 4]
    # The array: OX=2 K=2 C=1.
    assert [found[f"log2_array_footprint_{name}_bytes"] for name in "IWO"] == [2, 2, 3]
    assert found["spm_filled_ratio"] == (8 + 2 * 16 + 16) / 128
    assert found["rf_filled_ratio"] == 3 * 2 / 64


def test_fetches_follow_the_static_positions():
    found = named(MAPPING)
    # I depends on OX and C: it stays while K loops at DRAM. W and O change with K, 2 * 2 passes.
    assert [found[f"log2_spm_fetch_{name}_count"] for name in "IWO"] == [1, 2, 2]
    assert [found[f"log2_dram_reuse_{name}_iterations"] for name in "IWO"] == [1, 0, 0]
    # At SPM, C is innermost: it moves I and W at each of 4 steps, O only leaves after both: 16, 16 and 8 of 4 * 4.
    assert [found[f"log2_rf_fetch_{name}_count"] for name in "IWO"] == [4, 4, 3]
    assert [found[f"log2_spm_reuse_{name}_iterations"] for name in "IWO"] == [0, 0, 1]


def test_reuse_in_the_array_reaches_through_dram_loops():
    # No SPM loop moves W, and at DRAM OX runs inside K: W stays in the array over both OX passes.
    mapping = Mapping(
        spm=Dims(OX=2, K=2, C=2), cols=Dims(K=2), rf=Dims(C=2), dram_order=("K", "OX"), spm_order=("OX",)
    )  # fmt: skip
    found = named(mapping)
    # K 4 passes * OX 2 passes * 2 steps = 16 steps; W arrives once per K.
    assert found["log2_rf_fetch_W_count"] == 2
    assert found["log2_rf_fetch_I_count"] == 4


def test_traffic_and_intensity():
    found = named(MAPPING)
    # I 2 * 8 B, W 4 * 16 B, O 4 * 16 B = 144 B for 4*2*8 = 64 MACs.
    assert found["log2_dram_traffic_W_bytes"] == 6
    assert found["log2_macs_per_dram_byte"] == np.float32(np.log2(64 / 144))


def test_buffers_and_array():
    found = named(MAPPING)
    assert [found[f"spm_buffers_{name}_count"] for name in "IWO"] == [1, 2, 1]
    assert found["busy_pes_ratio"] == 1
    assert found["log2_reduction_pes"] == 0
    assert found["spill_flag"] == 0


def test_estimate_adds_columns():
    # Ideal: 64 MACs on 4 PEs = 16 cycles.
    found = named(MAPPING, Estimate(cycles=np.array([64.0]), energy_pj=np.array([8.0])))
    assert found["log2_estimated_cycles"] == 6
    assert found["log2_estimated_energy_pj"] == 3
    assert found["log2_cycles_per_ideal_cycle"] == 2


def test_an_empty_batch_has_columns():
    assert features(WORKLOAD, ARCH, encode([])).shape == (0, len(feature_names(with_estimate=False)))
