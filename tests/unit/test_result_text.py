"""Tables that fit the terminal."""

from __future__ import annotations

from tvm_spm.tuning.text import Column, choose_columns

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
