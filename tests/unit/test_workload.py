"""Shape arithmetic by hand, and the text of every refused shape."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from tvm_spm.errors import WorkloadError
from tvm_spm.workload import (
    DIM_NAMES,
    Axis,
    Dims,
    Operand,
    Projection,
    Task,
    VectorWork,
    Workload,
    dtype_bits,
)

CONV = {"K": 8, "C": 4, "OY": 5, "OX": 6, "FY": 3, "FX": 3}


def test_dims():
    dims = Dims(K=3, OX=2)
    assert dims.as_tuple() == (1, 1, 3, 1, 1, 2, 1, 1)
    assert dims.product() == 6
    assert dims["K"] == 3
    assert str(dims) == "K=3 OX=2"
    assert str(Dims()) == "1"
    assert Dims.of(list(dims)) == dims
    assert dims.with_dim("C", 4) == Dims(K=3, OX=2, C=4)
    assert dims.combine(Dims(K=2), max) == dims
    assert dims.as_dict() == {"N": 1, "K": 3, "C": 1, "OY": 1, "OX": 2, "FY": 1, "FX": 1}
    assert Dims(G=2).as_dict()["G"] == 2
    assert len({dims, Dims(K=3, OX=2)}) == 1


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None])
def test_dims_are_positive_integers(value: Any):
    with pytest.raises(WorkloadError) as caught:
        Dims(K=value)
    assert str(caught.value) == f"dim K = {value!r}: must be an integer >= 1"


def test_unknown_dim():
    with pytest.raises(KeyError):
        Dims()["Q"]


def test_nouns_are_frozen():
    with pytest.raises(FrozenInstanceError):
        Workload.conv2d(**CONV).kind = "other"


def test_conv2d_footprints():
    workload = Workload.conv2d(**CONV)
    # (5-1)+3 = 7 rows and (6-1)+3 = 8 columns of 4 channels.
    assert workload.I.tensor_elems() == 4 * 7 * 8
    assert workload.W.tensor_elems() == 8 * 4 * 3 * 3
    assert workload.O.tensor_elems() == 8 * 5 * 6
    assert workload.macs == 8 * 4 * 5 * 6 * 3 * 3
    # 2 channels, 3 output rows with 3 taps -> 5, 2 columns with 1 tap -> 2.
    assert workload.I.tile_elems(Dims(C=2, OY=3, FY=3, OX=2)) == 2 * 5 * 2
    assert workload.I.tile_bytes(Dims(C=2, OY=3, FY=3, OX=2)) == 40


def test_stride_and_dilation():
    # Stride 2, 3 taps, 4 outputs: (4-1)*2 + 3 = 9; 2 channels -> 2*9*9.
    strided = Workload.conv2d(K=1, C=2, OY=4, OX=4, FY=3, FX=3, stride=2)
    assert strided.I.tile_elems(strided.dims) == 162
    # Dilation 2: (4-1)*1 + (3-1)*2 + 1 = 8 rows; stride 3 across: (4-1)*3 + (3-1)*1 + 1 = 12 columns.
    mixed = Workload.conv2d(K=1, C=1, OY=4, OX=4, FY=3, FX=3, stride=(1, 3), dilation=(2, 1))
    assert mixed.I.tile_elems(mixed.dims) == 8 * 12


def test_relevance_is_read_off_the_axes():
    workload = Workload.conv2d(**CONV)
    assert workload.I.relevant_dims == ("N", "C", "OY", "OX", "FY", "FX")
    assert workload.W.relevant_dims == ("K", "C", "FY", "FX")
    assert workload.O.relevant_dims == ("N", "K", "OY", "OX")
    assert [workload.projection(operand) for operand in Operand] == [workload.I, workload.W, workload.O]


def test_depthwise():
    workload = Workload.conv2d(K=16, C=16, OY=4, OX=4, FY=3, FX=3, groups=16)
    assert (workload.dims.G, workload.dims.K, workload.dims.C) == (16, 1, 1)
    assert workload.macs == 16 * 4 * 4 * 9
    assert all("G" in workload.projection(operand).relevant_dims for operand in Operand)
    # 3 of the channels: 3 input planes of 6 x 6.
    assert workload.I.tile_elems(Dims(G=3, OY=4, OX=4, FY=3, FX=3)) == 3 * 36


def test_groups():
    # 2 groups of 4 output and 3 input channels; group 1 starts at input channel 3 and output channel 4.
    workload = Workload.conv2d(K=8, C=6, OY=1, OX=1, FY=1, FX=1, groups=2)
    assert workload.I.axes[1].terms == (("G", 3), ("C", 1))
    assert workload.O.axes[1].terms == (("G", 4), ("K", 1))
    # Both groups, 1 of 3 channels each: the bounding box spans channels 0..3.
    assert workload.I.tile_elems(Dims(G=2)) == 4


def test_padding_is_not_in_the_tensor():
    workload = Workload.conv2d(K=1, C=1, OY=4, OX=4, FY=3, FX=3, padding=1)
    # (4-1)+3 = 6 padded, 4 without.
    rows = workload.I.axes[2]
    assert (rows.extent, rows.offset) == (4, -1)
    # Output rows 0..1 read padded rows -1..2, of which 3 exist; rows 2..3 read 1..4, of which 3 exist.
    assert rows.tile_elems(Dims(OY=2, FY=3)) == 4
    assert rows.clipped_elems({}, Dims(OY=2, FY=3)) == 3
    assert rows.clipped_elems({"OY": 2}, Dims(OY=2, FY=3)) == 3
    # The first tap of the first output is padding.
    assert rows.clipped_elems({}, Dims()) == 0


def test_padding_per_side():
    workload = Workload.conv2d(K=1, C=1, OY=4, OX=4, FY=3, FX=3, padding=(0, 1, 2, 3))
    # top 0, left 1, bottom 2, right 3: 6 - 0 - 2 = 4 rows and 6 - 1 - 3 = 2 columns.
    assert [(axis.extent, axis.offset) for axis in workload.I.axes[2:]] == [(4, 0), (2, -1)]


def test_stride_leaves_the_input_open():
    # 3 outputs at stride 2 with 3 taps: 7 rows are needed; 8 have one that nothing reads.
    assert Workload.conv2d(K=1, C=1, OY=3, OX=3, FY=3, FX=3, stride=2).I.axes[2].extent == 7
    assert Workload.conv2d(K=1, C=1, OY=3, OX=3, FY=3, FX=3, stride=2, IY=8, IX=8).I.axes[2].extent == 8


def test_layouts():
    rows_last = Workload.conv2d(**CONV, layout="NHWC")
    assert [axis.extent for axis in rows_last.I.axes] == [1, 7, 8, 4]
    assert [axis.extent for axis in rows_last.W.axes] == [3, 3, 4, 8]
    assert [axis.extent for axis in rows_last.O.axes] == [1, 5, 6, 8]
    channels_first = Workload.conv2d(**CONV)
    for operand in Operand:
        assert rows_last.projection(operand).tile_elems(rows_last.dims) == channels_first.projection(
            operand
        ).tile_elems(channels_first.dims)


def test_matmul():
    workload = Workload.matmul(m=128, k=256, n=512)
    assert workload.dims == Dims(OX=128, C=256, K=512)
    assert workload.macs == 128 * 256 * 512
    # 10 x 20 of the left, 20 x 30 of the right, 10 x 30 of the result.
    tile = Dims(OX=10, C=20, K=30)
    assert [workload.projection(operand).tile_elems(tile) for operand in Operand] == [200, 600, 300]
    assert [axis.extent for axis in workload.W.axes] == [256, 512]
    assert [axis.extent for axis in Workload.matmul(m=1, k=2, n=3, transposed_weight=True).W.axes] == [3, 2]


def test_batched_matmul():
    workload = Workload.matmul(m=2, k=3, n=4, batch=5)
    assert workload.dims.G == 5
    assert all("G" in workload.projection(operand).relevant_dims for operand in Operand)


def test_dtypes():
    workload = Workload.conv2d(**CONV, dtype="int8", out_dtype="int32")
    assert [workload.projection(operand).elem_bits for operand in Operand] == [8, 8, 32]
    assert str(workload) == "conv2d K=8 C=4 OY=5 OX=6 FY=3 FX=3 int8xint8->int32"
    # 3 elements of 4 bits take 2 whole bytes.
    assert Projection(axes=(Axis(terms=(("K", 1),), extent=8),), dtype="int4").tile_bytes(Dims(K=3)) == 2
    assert (dtype_bits("bool"), dtype_bits("bfloat16")) == (8, 16)


@pytest.mark.parametrize("name", ["int", "int0", "complex64", "", "int8x4"])
def test_unknown_dtype(name: str):
    with pytest.raises(WorkloadError) as caught:
        dtype_bits(name)
    assert str(caught.value) == (
        f"dtype {name!r}: expected a name like 'int8', 'int16', 'float16' or 'float32' of at most 128 bits"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"K": 0}, "conv2d: K = 0: must be an integer >= 1"),
        ({"OX": -3}, "conv2d: OX = -3: must be an integer >= 1"),
        ({"FY": 2.0}, "conv2d: FY = 2.0: must be an integer >= 1"),
        ({"N": True}, "conv2d: N = True: must be an integer >= 1"),
        ({"IY": 0}, "conv2d: IY = 0: must be an integer >= 1"),
        ({"groups": 3}, "conv2d: groups = 3 does not divide K = 8"),
        ({"groups": 8}, "conv2d: groups = 8 does not divide C = 4"),
        ({"layout": "HWCN"}, "conv2d: layout 'HWCN': must be 'NCHW' or 'NHWC'"),
        ({"stride": 0}, "conv2d: stride = 0: must be one or two integers >= 1 and <= 2,147,483,647"),
        ({"stride": (1, 2, 3)}, "conv2d: stride = (1, 2, 3): must be one or two integers >= 1 and <= 2,147,483,647"),
        ({"dilation": -1}, "conv2d: dilation = -1: must be one or two integers >= 1 and <= 2,147,483,647"),
        ({"padding": -1}, "conv2d: padding = -1: must be one, two or four integers >= 0 and <= 2,147,483,647"),
        (
            {"padding": (1, 2, 3)},
            "conv2d: padding = (1, 2, 3): must be one, two or four integers >= 0 and <= 2,147,483,647",
        ),
        # 6 outputs with 3 taps need 8 columns; 6 + 1 + 0 = 7 give (7 - 3) + 1 = 5 outputs.
        (
            {"IX": 6, "padding": (0, 1, 0, 0)},
            "conv2d: IX = 6 with padding 1 + 0: needs >= 8 padded elements for OX = 6 "
            "at stride 1 with 3 taps; OX <= 5 fits",
        ),
    ],
)
def test_impossible_convolutions(change: dict[str, Any], text: str):
    with pytest.raises(WorkloadError) as caught:
        Workload.conv2d(**{**CONV, **change})
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["m", "k", "n", "batch"])
def test_impossible_matmuls(name: str):
    with pytest.raises(WorkloadError) as caught:
        Workload.matmul(**{"m": 1, "k": 1, "n": 1, name: 0})
    assert str(caught.value) == f"matmul: {name} = 0: must be an integer >= 1"


def test_a_dim_indexes_one_axis_of_an_operand():
    axis = Axis(terms=(("K", 1),), extent=2)
    square = Projection(axes=(axis, axis), dtype="int8")
    line = Projection(axes=(axis,), dtype="int8")
    with pytest.raises(WorkloadError) as caught:
        Workload(kind="other", dims=Dims(K=2), I=line, W=square, O=line, out_dtype="int8")
    assert str(caught.value) == "operand W: dim K indexes two axes"


def test_an_axis_has_elements():
    line = Projection(axes=(Axis(terms=(("K", 1),), extent=2),), dtype="int8")
    nothing = Projection(axes=(Axis(terms=(), extent=0),), dtype="int8")
    with pytest.raises(WorkloadError) as caught:
        Workload(kind="other", dims=Dims(K=2), I=nothing, W=line, O=line, out_dtype="int8")
    assert str(caught.value) == "operand I: axis extent 0: must be >= 1"


def test_task_kinds():
    work = VectorWork(operator="add", read_bytes=2000, write_bytes=1000, num_ops=500)
    assert str(work) == "add reads 2,000 B writes 1,000 B 500 ops"
    assert Task(name="a", work=work).kind == "vector"
    assert Task(name="b", work=Workload.matmul(m=1, k=1, n=1), count=2).kind == "matmul"


def test_canonical_order_of_dims():
    assert DIM_NAMES == ("N", "G", "K", "C", "OY", "OX", "FY", "FX")
