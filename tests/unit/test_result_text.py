"""Tables that fit the terminal, and words for what a result is above or below of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tvm_spm.cost import Cost, Energy
from tvm_spm.mapping import Mapping
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.tuning.text import Column, changes_text, choose_columns

COLUMNS = (
    Column(heading="task", justify="left", folds=True),
    Column(heading="cycles"),
    Column(heading="util.", rank=1),
    Column(heading="EDP", rank=2),
)
ROWS = [("fused_conv2d_expand_dims_add_relu", "1,234,627", "37%", "2.08e+15")]


def test_every_column_where_there_is_room():
    # Text folds at 22; 22 + 9 + 5 + 8 characters, three around each column, a line at the end.
    assert choose_columns(COLUMNS, ROWS, 22 + 9 + 5 + 8 + 4 * 3 + 1) == [0, 1, 2, 3]


def test_the_highest_rank_goes_first():
    assert choose_columns(COLUMNS, ROWS, 22 + 9 + 5 + 8 + 4 * 3) == [0, 1, 2]
    assert choose_columns(COLUMNS, ROWS, 22 + 9 + 5 + 3 * 3) == [0, 1]


def test_rank_0_stays_in_the_narrowest_terminal():
    assert choose_columns(COLUMNS, ROWS, 10) == [0, 1]


COST = Cost(
    cycles=100_000, energy=Energy(mac_pj=100.0), model="simulator", macs=1, utilization=1.0, compute_cycles=100_000,
    noc_stall_cycles=0, dma_stall_cycles=0, overhead_cycles=0, dram_bytes=(0, 0, 0, 0), dma_busy_cycles=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("cycles", "pj", "text"),
    [
        (50_000, 80.0, "2.00x faster, 1.25x less energy, 2.50x lower EDP"),
        (118_000, 125.0, "1.18x slower, 1.25x more energy, 1.48x higher EDP"),
        (200_000, 40.0, "2.00x slower, 2.50x less energy, 1.25x lower EDP"),
        (100_000, 100.0, "1.00x faster, 1.00x less energy, 1.00x lower EDP"),
        (100_400, 100.0, "1.00x faster, 1.00x less energy, 1.00x lower EDP"),
        (100_600, 0.0, "1.01x slower, infx less energy, infx lower EDP"),
    ],
)
def test_a_factor_below_1_is_a_loss(cycles: int, pj: float, text: str):
    assert changes_text(COST, replace(COST, cycles=cycles, energy=Energy(mac_pj=pj))) == text


def test_something_where_nothing_was_is_a_loss():
    nothing = replace(COST, energy=Energy())
    assert changes_text(nothing, COST) == "1.00x faster, infx more energy, infx higher EDP"


@pytest.mark.parametrize(
    ("bound", "certified", "text"),
    [
        (100_000.0, True, "certified optimum of X"),
        (99_999.75, False, "less than 0.1% above the lower bound of X"),
        (99_900.0, False, "at most 0.1% above the lower bound of X"),
        (80_000.0, False, "at most 25.0% above the lower bound of X"),
    ],
)
def test_no_gap_is_printed_as_none(bound: float, certified: bool, text: str):
    result = SearchResult(
        mapping=Mapping(), cost=COST, objective=Objective.LATENCY, lower_bound=bound, certified=certified,
        num_evaluated=1, space="X",
    )  # fmt: skip
    assert str(result).endswith(f"1 mappings evaluated; {text}")
