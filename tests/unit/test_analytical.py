"""Cycles and energy of tiny mappings, by arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_model.analytical.model import AnalyticalModel, evaluate_batch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost
from tvm_spm.errors import WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import Dims, Epilogue, Operand, VectorWork, Workload

MATMUL = Workload.matmul(m=2, k=3, n=4)
"""I 2x3, W 3x4, O 2x4, int16."""

ALL = (Operand.I, Operand.W, Operand.O)


def plain_arch(*, cores: int = 1, launch_cycles: int = 0) -> Arch:
    """NoC 1 element per cycle; DMA 5 cycles per burst and 1 byte per cycle; no limit on the SPM port."""
    arch = load_arch("dmazerunner-256")
    return replace(
        arch,
        cores=replace(arch.cores, count=cores, launch_cycles=launch_cycles),
        dma=replace(arch.dma, clock_hz=arch.clock_hz, startup_cycles=5.0, cycles_per_byte=1.0),
    )


def cost_of(mapping: Mapping, arch: Arch, workload: Workload = MATMUL) -> Cost:
    cost = AnalyticalModel().cost(workload, arch, mapping)
    batch = evaluate_batch(workload, arch, encode([mapping]))
    assert (int(batch.cycles[0]), float(batch.energy_pj[0])) == (cost.cycles, cost.energy_pj)
    return cost


def test_one_pass_of_one_step_pays_fill_and_drain() -> None:
    cost = cost_of(Mapping(spm=MATMUL.dims, rf=MATMUL.dims), plain_arch(launch_cycles=9))
    # loads: I 5 + 12 bytes, W 5 + 24 bytes; store: O 5 + 16 bytes; each tensor is one burst
    # pass: fill with the larger of 6 and 12 elements, 2*3*4 MACs on one PE, drain 8 elements
    assert cost.cycles == 9 + (17 + 29) + (12 + 24 + 8) + 21
    assert (cost.compute_cycles, cost.noc_stall_cycles) == (24, 20)
    assert (cost.dma_stall_cycles, cost.overhead_cycles, cost.dma_busy_cycles) == (67, 9, 67)
    assert cost.bound_by == "DMA"


HALF_K = Mapping(spm=Dims(K=2, C=3, OX=2), rf=Dims(K=2, C=3, OX=2), dram_order=("K",))
"""Two passes: I stays; W comes in 3 bursts of 2 elements (15 + 12), O leaves in 2 bursts (10 + 8).

A pass fills 6 elements of W, takes 12 MACs and drains 4 outputs: 22 cycles."""


def test_double_buffers_overlap_transfers_with_passes() -> None:
    cost = cost_of(replace(HALF_K, spm_double=ALL), plain_arch())
    # loads I 17 and W 27; the load of W beside pass 0; the store beside pass 1; the last store
    assert cost.cycles == 17 + 27 + max(22, 27) + max(22, 18) + 18


def test_single_buffers_take_turns() -> None:
    cost = cost_of(HALF_K, plain_arch())
    assert cost.cycles == 17 + 27 + (22 + 18 + 27) + (22 + 18)


def test_cores_queue_for_the_channel() -> None:
    mapping = replace(HALF_K, cores=Dims(K=2), dram_order=())
    cost = cost_of(mapping, plain_arch(cores=2))
    # alone: 17 + 27 + 22 + 18; the second core gets its last load after both have loaded
    assert cost.cycles == 2 * (17 + 27) + 22 + 18
    assert cost.utilization == pytest.approx(24 / (cost.cycles * 512))


def test_a_slow_vector_unit_stretches_the_store() -> None:
    workload = replace(MATMUL, epilogue=Epilogue(num_ops_per_elem=100))
    cost = cost_of(Mapping(spm=MATMUL.dims, rf=MATMUL.dims), plain_arch(), workload)
    # 8 outputs of 100 operations at 16 per cycle are 50 cycles, the store itself 21
    assert cost.cycles == 17 + 29 + (12 + 24 + 8) + 50
    assert cost.energy.vector_pj == pytest.approx(800 * 0.075)


def test_energy_counts_every_access() -> None:
    cost = cost_of(Mapping(spm=MATMUL.dims, rf=MATMUL.dims), plain_arch())
    # words of 16 bits are elements: 6 + 12 in, 8 out; each crosses SPM on both sides, and the NoC to one PE
    assert cost.energy.mac_pj == pytest.approx(24 * 0.075)
    assert cost.energy.rf_pj == pytest.approx((4 * 24 + 26) * 0.96)
    assert cost.energy.noc_pj == pytest.approx(26 * 2.0)
    assert cost.energy.spm_pj == pytest.approx(2 * 26 * 13.5)
    assert cost.energy.dram_pj == pytest.approx(26 * 200.0)
    assert cost.dram_bytes == (12, 24, 16, 0)


def test_vector_work_is_priced_under_this_name() -> None:
    work = VectorWork(operator="relu", read_bytes=64, write_bytes=64, num_ops=32)
    assert AnalyticalModel().vector_cost(work, plain_arch()).model == "analytical"


def test_an_empty_batch_costs_nothing() -> None:
    batch = encode([HALF_K]).take(slice(0, 0))
    assert evaluate_batch(MATMUL, plain_arch(), batch).cycles.tolist() == []


def test_threads_do_not_change_results() -> None:
    batch = encode([HALF_K, replace(HALF_K, spm_double=ALL)] * 700)
    one, two = (evaluate_batch(MATMUL, plain_arch(), batch, num_threads=n) for n in (1, 2))
    assert one.cycles.tolist() == two.cycles.tolist()
    assert one.energy_pj.tolist() == two.energy_pj.tolist()


def test_more_extras_than_a_batch_has_room_for_are_refused() -> None:
    workload = replace(MATMUL, epilogue=Epilogue(extras=(MATMUL.O,) * 14))
    with pytest.raises(WorkloadError, match=r"^epilogue: 14 extras: must be <= 13$"):
        evaluate_batch(workload, plain_arch(), encode([HALF_K]))
