"""Tiny runs whose every cycle can be counted by hand.

The machine: a burst of the DMA costs 10 cycles and a byte 1, a network moves 1 element per cycle, data are int8.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_model.simulator import SimulatorModel, simulate_batch
from tvm_spm.arch import Arch, Cores, parse_arch
from tvm_spm.cost import Cost
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Axis, Dims, Epilogue, Operand, Projection, VectorWork, Workload

TOY = parse_arch(
    """
name = "toy"
description = "round numbers"
clock_hz = 1e9
word_bits = 8
[cores]
count = 1
[pe]
rows = 2
cols = 2
[mac]
op_pj = 1.0
[levels.RF]
capacity_bytes = 64
access_pj = 1.0
fill_pj = 1.0
[levels.SPM]
capacity_bytes = 1024
bank_bytes = 1
access_pj = 10.0
[levels.DRAM]
access_pj = 100.0
channels = 1
channel_bytes_per_cycle = 1.0
[noc]
elems_per_cycle = 1.0
elem_pj = 1.0
delivery_pj = 1.0
reduction_hop_pj = 1.0
[dma]
clock_hz = 1e9
startup_cycles = 10.0
cycles_per_byte = 1.0
[vector]
ops_per_cycle = 1.0
op_pj = 1.0
""",
    origin="toy",
)

I, W, O = Operand.I, Operand.W, Operand.O  # noqa: E741


def run(workload: Workload, mapping: Mapping, arch: Arch = TOY) -> Cost:
    return SimulatorModel().cost(workload, arch, mapping)


def column(m: int, k: int = 1) -> Workload:
    return Workload.matmul(m=m, k=k, n=1, dtype="int8", out_dtype="int8")


def test_one_pass_of_one_step():
    # load I 10+2 and W 10+1, fill max(2, 1), 2 MACs one by one, drain 2, store 10+2
    cost = run(column(2), Mapping(spm=Dims(OX=2), rf=Dims(OX=2)))
    assert cost.cycles == 12 + 11 + 2 + 2 + 2 + 12
    assert (cost.compute_cycles, cost.noc_stall_cycles, cost.dma_stall_cycles) == (2, 4, 35)
    assert (cost.dma_busy_cycles, cost.dram_bytes) == (35, (2, 1, 2, 0))
    assert cost.utilization == 2 / (41 * 4)


def test_energy_of_one_pass_of_one_step():
    energy = run(column(2), Mapping(spm=Dims(OX=2), rf=Dims(OX=2))).energy
    assert energy.mac_pj == 2
    # each MAC touches I, W and O twice; the RF receives I 2, W 1 and gives O 2
    assert energy.rf_pj == 2 * 4 + (2 + 1 + 2)
    assert energy.noc_pj == 2 * (2 + 1 + 2)
    # SPM: 5 elements to and from the array, 5 to and from DRAM
    assert energy.spm_pj == 10 * (5 + 5)
    assert energy.dram_pj == 100 * 5
    assert energy.vector_pj == 0


@pytest.mark.parametrize(
    ("doubled", "cycles"),
    [
        # load I W 22; pass 3; store O, load I 22; pass 3; store O 11
        ((), 22 + 3 + 22 + 3 + 11),
        # the second I loads beside the first pass
        ((I,), 22 + max(3, 11) + 11 + 3 + 11),
        # the first O is stored beside the second pass
        ((O,), 22 + 3 + 11 + max(3, 11) + 11),
        ((I, O), 22 + max(3, 11) + max(3, 11) + 11),
        # W never comes again
        ((W,), 22 + 3 + 22 + 3 + 11),
    ],
)
def test_spm_buffers(doubled: tuple[Operand, ...], cycles: int):
    # a pass: fill 1, one MAC, drain 1
    assert run(column(2), Mapping(dram_order=("OX",), spm_double=doubled)).cycles == cycles


@pytest.mark.parametrize(
    ("doubled", "pass_cycles"),
    [
        # fill 1; MAC 1 then at once I in and O out 1; MAC 1; drain 1
        ((), 1 + (1 + 1) + 1 + 1),
        # I comes beside the first MAC, O leaves after it
        ((I,), 1 + (1 + 1) + 1 + 1),
        # O leaves beside the second MAC, I comes before it
        ((O,), 1 + (1 + 1) + 1 + 1),
        ((I, O), 1 + 1 + 1 + 1),
    ],
)
def test_rf_buffers(doubled: tuple[Operand, ...], pass_cycles: int):
    cost = run(column(2), Mapping(spm=Dims(OX=2), spm_order=("OX",), rf_double=doubled))
    assert cost.cycles == 12 + 11 + pass_cycles + 12


def with_port(bytes_per_cycle: float) -> Arch:
    return replace(TOY, levels=replace(TOY.levels, SPM=replace(TOY.levels.SPM, bytes_per_cycle=bytes_per_cycle)))


def test_port_of_the_scratchpad_serves_one_network_after_the_other():
    # fill: 2 cycles of I, then 1 of W; the drain stays 2
    mapping = Mapping(spm=Dims(OX=2), rf=Dims(OX=2))
    assert run(column(2), mapping, with_port(1.0)).cycles == 41 + 1
    # half a byte per cycle: I 4, W 2, drain 4
    assert run(column(2), mapping, with_port(0.5)).cycles == 41 - 4 + 4 + 2 + 4


@pytest.mark.parametrize(
    ("doubled", "pass_cycles"),
    [
        # fill 1 + 1; MAC 1 then I 1 and O out 1; MAC 1; drain 1
        ((), 2 + (1 + 2) + 1 + 1),
        # I comes beside the first MAC, O leaves beside the second
        ((I, O), 2 + 1 + 1 + 1),
    ],
)
def test_port_between_steps(doubled: tuple[Operand, ...], pass_cycles: int):
    mapping = Mapping(spm=Dims(OX=2), spm_order=("OX",), rf_double=doubled)
    assert run(column(2), mapping, with_port(1.0)).cycles == 12 + 11 + pass_cycles + 12


@pytest.mark.parametrize(
    ("doubled", "pass_cycles"),
    [
        # fill 1; MAC 1, then I beside 3 cycles of pipeline and O out 1; MAC 1, pipeline 3, drain 1
        ((), 1 + (1 + 4) + 1 + 3 + 1),
        # O leaves beside the second MAC, 3 cycles late
        ((I, O), 1 + 1 + max(1, 3 + 1) + 3 + 1),
    ],
)
def test_sums_leave_when_the_mac_pipelines_are_empty(doubled: tuple[Operand, ...], pass_cycles: int):
    arch = replace(TOY, pe=replace(TOY.pe, mac_stages=4))
    mapping = Mapping(spm=Dims(OX=2), spm_order=("OX",), rf_double=doubled)
    assert run(column(2), mapping, arch).cycles == 12 + 11 + pass_cycles + 12
    # once a pass, where every pass is one step
    assert run(column(2), Mapping(dram_order=("OX",)), arch).cycles == 61 + 2 * 3


def test_sums_that_return_at_once_do_so_between_steps():
    # OX = 2 + 1, C = 2 outside OX. First pass: fill 1; 4 MACs, each beside sums that move, 3 turns with I 1; drain 1
    # second pass: fill 1; MAC 1, then the only sum leaves and returns 2, beside I and W; MAC 1; drain 1
    mapping = Mapping(spm=Dims(OX=2, C=2), dram_order=("OX",), spm_order=("C", "OX"), rf_double=(O,))
    cycles = run(column(3, k=2), mapping).cycles
    assert cycles == 14 + 12 + (1 + 4 + 3 + 1) + 12 + 12 + (1 + 1 + 2 + 1 + 1) + 11


def test_sums_do_not_overtake_those_that_leave():
    # tiles of K x OX: 2x2 2x2 2x1 1x2 1x2 1x1, for C = 0 and 1; per step MACs or sums (out, in), then I and W
    mapping = Mapping(
        spm=Dims(OX=5, K=3, C=2), rf=Dims(OX=2, K=2), spm_order=("C", "K", "OX"), rf_double=(O,)
    )  # fmt: skip
    work = Workload.matmul(m=5, k=2, n=3, dtype="int8", out_dtype="int8")
    first = (4 + 2) + (4 + 1) + (4 + 2) + (2 + 2) + (2 + 1) + (4 + 2)
    # beside the first 1x2 the sums of 2x1 leave, and those of the second 1x2 come when they are gone: 2 + 2
    second = (4 + 2) + (4 + 1) + (4 + 2) + (2 + 2 + 2) + (2 + 1) + 2
    assert run(work, mapping).cycles == 20 + 16 + (2 + first + second + 1) + 25


def test_launch_is_overhead():
    arch = replace(TOY, cores=Cores(count=1, launch_cycles=7))
    cost = run(column(2), Mapping(spm=Dims(OX=2), rf=Dims(OX=2)), arch)
    assert (cost.cycles, cost.overhead_cycles) == (41 + 7, 7)


def test_spatial_reduction_costs_a_hop_per_row_and_column():
    # C = 4 as 2 rows x 2 columns: drain 1 + (2 - 1) + (2 - 1); load I 14, W 14; fill 4; one MAC; store 11
    cost = run(column(1, k=4), Mapping(spm=Dims(C=4), rows=Dims(C=2), cols=Dims(C=2)))
    assert cost.cycles == 14 + 14 + 4 + 1 + 3 + 11
    # one output is added up over 3 hops; 4 + 4 + 1 elements cross and are delivered
    assert cost.energy.noc_pj == 2 * 9 + 3


def test_spilled_sums_come_back():
    # passes (C0 OX0) (C0 OX1) (C1 OX0) (C1 OX1), 3 cycles each; every load or store is 11
    # load I W | store O, load I | store O, load I W O | store O, load I O | store O
    mapping = Mapping(dram_order=("C", "OX"), spill=True)
    cost = run(column(2, k=2), mapping)
    assert cost.cycles == 22 + (3 + 22) + (3 + 44) + (3 + 33) + (3 + 11)
    assert cost.dram_bytes == (4, 2, 2 + 2 + 2, 0)


def test_a_tile_is_as_many_bursts_as_it_has_runs():
    image = Workload.conv2d(K=1, C=1, OY=4, OX=4, FY=1, FX=1, dtype="int8")
    # half the rows: one run of 8; half the columns: 4 runs of 2
    whole_rows = Mapping(spm=Dims(OY=2, OX=4), rf=Dims(OY=2, OX=4), dram_order=("OY",))
    half_rows = Mapping(spm=Dims(OY=4, OX=2), rf=Dims(OY=4, OX=2), dram_order=("OX",))
    # W 11, and twice: load I, pass 8 + 8 + 8, store O
    assert run(image, whole_rows).cycles == 11 + 2 * (18 + 24 + 18)
    assert run(image, half_rows).cycles == 11 + 2 * (48 + 24 + 48)


def test_padding_is_not_read():
    # one row of input, three taps: the first and the last tap see padding only
    work = Workload.conv2d(K=1, C=1, OY=1, OX=1, FY=3, FX=1, padding=(1, 0), IY=1, dtype="int8")
    cost = run(work, Mapping(dram_order=("FY",)))
    # load W; fill 1, MAC 1; load I W; fill 1, MAC 1; load W; fill 1, MAC 1, drain 1; store O
    assert cost.cycles == 11 + 2 + 22 + 2 + 11 + 3 + 11
    assert cost.dram_bytes == (1, 3, 1, 0)


def test_edge_tile_is_exact():
    # OX = 3 as 2 + 1: load I 12, W 11; pass 2+2+2; store 12, load I 11; pass 1+1+1; store 11
    cost = run(column(3), Mapping(spm=Dims(OX=2), rf=Dims(OX=2), dram_order=("OX",)))
    assert cost.cycles == 23 + 6 + 12 + 11 + 3 + 11
    assert cost.compute_cycles == 3


def test_extras_stream_with_the_store():
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=1),), dtype="int32")
    work = replace(column(2), epilogue=Epilogue(num_ops_per_elem=1, extras=(bias,)))
    cost = run(work, Mapping(spm=Dims(OX=2), rf=Dims(OX=2)))
    # 4 B of bias are one burst of 14 cycles
    assert cost.cycles == 41 + 14
    assert cost.dram_bytes == (2, 1, 2, 4)


def test_vector_unit_starts_when_its_extras_are_there():
    bias = Projection(axes=(Axis(terms=(("K", 1),), extent=1),), dtype="int32")
    work = replace(column(2), epilogue=Epilogue(num_ops_per_elem=40, extras=(bias,)))
    # 14 cycles of bias, then 2 x 40 operations beside the store of 12
    assert run(work, Mapping(spm=Dims(OX=2), rf=Dims(OX=2))).cycles == 41 + 14 - 12 + 80


def test_vector_unit_may_hold_back_the_store():
    # 2 outputs x 40 operations at 1 per cycle instead of 12 cycles
    work = replace(column(2), epilogue=Epilogue(num_ops_per_elem=40))
    cost = run(work, Mapping(spm=Dims(OX=2), rf=Dims(OX=2)))
    assert cost.cycles == 41 - 12 + 80
    assert cost.energy.vector_pj == 80


def test_two_cores_share_one_channel_first_come_first_served():
    # core 0: I 0-11                          W 22-33, pass 33-36, O 44-55
    # core 1: I (asked at 0, as core 0) 11-22, W 33-44, pass 44-47, O 55-66
    arch = replace(TOY, cores=Cores(count=2))
    cost = run(column(2), Mapping(cores=Dims(OX=2)), arch)
    assert cost.cycles == 66
    assert cost.dma_busy_cycles == 6 * 11
    assert (cost.compute_cycles, cost.noc_stall_cycles, cost.dma_stall_cycles) == (1, 2, 63)


def test_two_channels_serve_two_cores():
    dram = replace(TOY.levels.DRAM, channels=2)
    arch = replace(TOY, cores=Cores(count=2), levels=replace(TOY.levels, DRAM=dram))
    assert run(column(2), Mapping(cores=Dims(OX=2)), arch).cycles == 11 + 11 + 3 + 11


def test_smaller_last_core_finishes_first():
    # OX = 3 as 2 + 1 on two channels: the first core decides
    dram = replace(TOY.levels.DRAM, channels=2)
    arch = replace(TOY, cores=Cores(count=2), levels=replace(TOY.levels, DRAM=dram))
    cost = run(column(3), Mapping(cores=Dims(OX=2), spm=Dims(OX=2), rf=Dims(OX=2)), arch)
    assert (cost.cycles, cost.compute_cycles) == (41, 2)


def test_empty_batch():
    assert simulate_batch(column(2), TOY, []) == []


def test_model_says_who_it_is():
    assert run(column(1), Mapping()).model == "simulator"
    assert SimulatorModel().vector_cost(
        VectorWork(operator="relu", read_bytes=1, write_bytes=1, num_ops=1), TOY
    ).model == ("simulator")


def test_a_billion_macs_in_unit_tiles_are_counted_not_walked():
    # 1,000 x 1,000 x 1,000 passes of 3 cycles with 11-cycle transfers; walking them would take minutes
    work = Workload.matmul(m=1000, k=1000, n=1000, dtype="int8", out_dtype="int8")
    cost = run(work, Mapping(dram_order=("OX", "K", "C")))
    # I and W for each pass; the outputs stay during C: fill and MAC in each pass, drain and store in each thousandth
    assert cost.cycles == 10**9 * (22 + 2) + 10**6 * (1 + 11)
