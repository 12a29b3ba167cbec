"""What no mapping can be faster than, by hand, and whom a cost names as its bound."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_model.roofs import roof_of, roofs
from tests.unit.test_result_text import COST
from tvm_spm.arch import Cores, load_arch
from tvm_spm.report.roofs import roof_columns, roof_text, roofs_text
from tvm_spm.tuning.parts import TaskResult
from tvm_spm.workload import Epilogue, Task, Workload

EDGE = load_arch("edge-256")
"""16x16 PEs, DMA 26.67 B/cycle, 32 elements/cycle on each network, port 64 B/cycle, 16 vector operations/cycle."""

ROW = Workload.matmul(m=1, k=4096, n=4096, dtype="int8", out_dtype="int32")


def test_a_row_of_bytes_meets_the_dram_first():
    # 4,096 x 4,096 weights, 4,096 inputs, 4,096 sums of 4 bytes
    found = {roof.resource: roof.cycles for roof in roofs(ROW, EDGE)}
    assert found == {
        "DRAM": 629_914,  # (16,777,216 + 4,096 + 16,384) B / (80 / 3)
        "NoC W": 524_288,  # 16,777,216 / 32
        "SPM port": 262_464,  # (16,777,216 + 4,096 + 16,384) B / 64
        "PEs": 65_536,  # 16,777,216 / 256
        "NoC I": 128, "NoC O": 128,
    }  # fmt: skip
    assert list(found)[0] == "DRAM"


def test_a_row_of_half_bytes_meets_the_network_first():
    # 8,388,608 B of weights need 314,573 cycles of DRAM, but 16,777,216 elements still cross 32 at a time
    narrow = replace(ROW, W=replace(ROW.W, dtype="int4"))
    assert roof_of(narrow, EDGE).resource == "NoC W"
    assert roof_of(narrow, EDGE).utilization == 32 / 256


def test_many_rows_meet_the_array_first():
    # 128 rows use every weight 128 times
    roof = roof_of(Workload.matmul(m=128, k=4096, n=4096, dtype="int8", out_dtype="int32"), EDGE)
    assert (roof.resource, roof.cycles, roof.utilization) == ("PEs", 128 * 65_536, 1.0)


def test_a_long_epilogue_meets_the_vector_unit_first():
    # 4 x 4 outputs of 160 operations, 16 at a time; the launch comes first
    work = replace(Workload.matmul(m=4, k=4, n=4), epilogue=Epilogue(num_ops_per_elem=160))
    late = replace(EDGE, cores=Cores(count=1, launch_cycles=7))
    assert (roof_of(work, late).resource, roof_of(work, late).cycles) == ("vector unit", 7 + 160)


def test_cores_share_a_channel_but_not_their_networks():
    quad = {roof.resource: roof.cycles for roof in roofs(ROW, load_arch("quad-edge"))}
    assert (quad["DRAM"], quad["NoC W"], quad["PEs"]) == (629_914, 524_288 // 4, 65_536 // 4)


def test_texts_and_columns():
    cost = replace(COST, cycles=700_000)
    assert roof_text(ROW, EDGE, cost) == (
        "roof of all mappings: DRAM: at least 629,914 cycles, utilization at most 10.4%; 90.0% of it reached"
    )
    assert roof_columns(ROW, EDGE, cost) == {"roof": "DRAM", "roof_cycles": 629_914, "of_roof": 629_914 / 700_000}
    assert roofs_text(ROW, EDGE, cost).splitlines()[:3] == [
        "roof of all mappings   cycles  utilization  reached",
        "DRAM                  629,914        10.4%    90.0%",
        "NoC W                 524,288        12.5%    74.9%",
    ]


def test_a_measurement_above_the_roof_is_called_so():
    """A board may be faster than its file; a share above 100 % reads as a fault of the table."""
    task = Task(name="row", work=ROW)
    for cycles, text in ((629_914, "100.0% DRAM"), (629_913, "above DRAM"), (100, "above DRAM")):
        found = TaskResult(task=task, mapping=None, cost=replace(COST, cycles=cycles), default_cost=None)
        assert (found.of_roof_text(EDGE), found.is_above_roof(EDGE)) == (text, cycles < 629_914)


@pytest.mark.parametrize(
    ("busy", "channels", "bound"),
    [
        (91, 1, "DMA"),  # moves longer than array and networks take together: 20 + 70
        (90, 1, "NoC"),
        (91, 2, "NoC"),  # of two channels, either moves for 45.5
        (181, 2, "DMA"),
    ],
)
def test_a_wait_that_the_dma_outlasts_is_its_own(busy: int, channels: int, bound: str):
    cost = replace(
        COST, cycles=100, compute_cycles=20, noc_stall_cycles=70, dma_stall_cycles=10, dma_busy_cycles=busy,
        dma_channels=channels,
    )  # fmt: skip
    assert cost.bound_by == bound


def test_an_array_that_works_most_of_the_time_stays_the_bound():
    cost = replace(COST, cycles=100, compute_cycles=60, noc_stall_cycles=0, dma_stall_cycles=40, dma_busy_cycles=99)
    assert cost.bound_by == "compute"
