"""Vector work, counted by hand."""

from __future__ import annotations

import pytest

from cost_model.vector import spm_stream_burst_bytes, vector_cost
from tvm_spm.arch import load_arch
from tvm_spm.workload import VectorWork


def test_memory_bound_stream_on_one_core():
    # a burst is at most half an SPM (65,536 B) and costs 291 * 500/3200 = 45.46875 cycles; bytes move at 26.67 B/cycle
    # read 131,072 B: 2 bursts, ceil(90.9375 + 4915.2) = 5,007; write 65,536 B: ceil(45.46875 + 2457.6) = 2,504
    work = VectorWork(operator="relu", read_bytes=131072, write_bytes=65536, num_ops=16000)
    cost = vector_cost(work, load_arch("dmazerunner-256"), model="any")
    assert cost.cycles == 5007 + 2504
    # 16,000 ops on 16 lanes
    assert (cost.compute_cycles, cost.dma_stall_cycles) == (1000, 6511)
    # 98,304 words of 16 bits
    assert cost.energy.dram_pj == pytest.approx(98304 * 200.0)
    assert cost.energy.spm_pj == pytest.approx(98304 * 13.5)
    assert cost.energy.vector_pj == pytest.approx(16000 * 0.075)
    assert cost.dram_bytes == (131072, 0, 65536, 0)


def test_cores_take_turns_on_channels():
    # mlu100-32: 32 cores on 4 channels; 32 * 256 B read: each core ceil(100 + 256 / 25.6) = 110 cycles, 8 turns
    work = VectorWork(operator="copy", read_bytes=32 * 256, write_bytes=0, num_ops=0)
    cost = vector_cost(work, load_arch("mlu100-32"), model="any")
    assert cost.cycles == 8 * 110
    assert cost.dma_busy_cycles == 32 * 110


def test_streams_move_whole_bursts():
    # mlu100-32: 1,000 B over 32 cores are 32 B each, 31 cores in full and 8 B left: 32 bursts of 64 B. On 4 channels in
    # 8 turns of ceil(100 + 64 / 25.6) = 103 cycles; 1,000 B are 500 words of 16 bits, 1,048 B more are 524.
    work = VectorWork(operator="copy", read_bytes=0, write_bytes=1000, num_ops=0)
    cost = vector_cost(work, load_arch("mlu100-32"), model="any")
    assert cost.dram_bytes == (0, 0, 32 * 64, 0)
    assert cost.dram_unused_bytes == 32 * 64 - 1000
    assert cost.cycles == 8 * 103
    assert cost.energy.dram_pj == pytest.approx((500 + 524) * 200.0)
    assert cost.energy.spm_pj == pytest.approx(500 * load_arch("mlu100-32").levels.SPM.access_pj)


def test_compute_bound_work():
    # edge-256 lanes: 16 ops per cycle; 1,601 ops need 101 cycles, 32 B need 2
    work = VectorWork(operator="softmax", read_bytes=16, write_bytes=16, num_ops=1601)
    cost = vector_cost(work, load_arch("edge-256"), model="any")
    assert (cost.cycles, cost.dma_stall_cycles) == (101, 0)


def test_split_scratchpad_streams_through_half_of_all_buffers():
    assert spm_stream_burst_bytes(load_arch("vta-1x16x16")) == (32768 + 262144 + 131072) // 2


def test_nothing_costs_nothing():
    work = VectorWork(operator="view", read_bytes=0, write_bytes=0, num_ops=0)
    cost = vector_cost(work, load_arch("dmazerunner-256"), model="any")
    assert (cost.cycles, cost.energy_pj) == (0, 0.0)
