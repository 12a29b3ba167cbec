"""Vectors of neighbours: the host runs the array's widest dim side by side, and every number stays what it was."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import tvm

from schedules.layer import schedule
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, draw_operands, sample_mapping
from tvm_spm.lowering import target
from tvm_spm.lowering.innermost import widest_innermost
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Workload

HALVES = Workload.conv2d(K=12, C=5, OY=6, OX=8, FY=3, FX=3, padding=1, dtype="float16")


def computed(workload: Workload, scheduled: tvm.tirx.PrimFunc) -> np.ndarray:
    module = tvm.IRModule({"main": scheduled.with_attr("global_symbol", "main")})
    code = tvm.compile(module, target="llvm", tir_pipeline=target.PIPELINE)
    result = np.full([axis.extent for axis in workload.O.axes], 77).astype(workload.out_dtype)
    rng = np.random.default_rng(3)
    if workload.O.dtype.startswith("float"):
        shapes = ([axis.extent for axis in projection.axes] for projection in (workload.I, workload.W))
        operands = [rng.standard_normal(shape).astype(workload.I.dtype) for shape in shapes]
    else:
        operands = draw_operands(workload, rng)
    tensors = [tvm.runtime.tensor(array) for array in (*operands, result)]
    code["main"](*tensors)
    return tensors[-1].numpy()


def vectors_of(func: tvm.tirx.PrimFunc) -> list[int]:
    """Extents of the vectorised loops."""
    return [int(extent) for extent in re.findall(r"T\.vectorized\((?:T\.int64\()?(\d+)", func.script())]


@pytest.mark.parametrize("spills", [False, True])
@pytest.mark.parametrize("layer", [*LAYERS, "halves"])
def test_every_bit_is_that_of_the_loops_as_scheduled(layer: str, spills: bool, monkeypatch: pytest.MonkeyPatch):
    workload = LAYERS.get(layer, HALVES)
    mapping = sample_mapping(workload, random.Random(layer), spills=spills)
    scheduled = schedule(prim_func(workload), nest(workload), mapping).mod["main"]
    fast = computed(workload, scheduled)
    with monkeypatch.context() as plain:
        plain.setattr(target, "widest_innermost", lambda func: func)
        np.testing.assert_array_equal(fast, computed(workload, scheduled), err_msg=mapping.line())


def scheduled_with(mapping: Mapping, workload: Workload = HALVES) -> tvm.tirx.PrimFunc:
    made = schedule(prim_func(workload), nest(workload), mapping.canonical(workload))
    return widest_innermost(exact_tiles(made.mod["main"]))


def test_the_widest_dim_of_the_output_is_innermost_and_last_in_rf():
    # K is 2 x 3 x 2 = 12 wide, OX 2; C and the filter are summed over.
    mapping = Mapping(
        spm=HALVES.dims, rows=Dims(C=5, K=2), cols=Dims(K=3, OX=2), rf=Dims(K=2, FY=3, FX=3), spm_order=("OY", "OX"),
    )  # fmt: skip
    func = scheduled_with(mapping)
    assert vectors_of(func) == [12]
    in_rf = [text for text in func.script().splitlines() if "sblock_alloc_buffer" in text and "global.rf" in text]
    # K, the first axis of weights and the second one of outputs, became the last; inputs have none.
    assert [bool(re.search(r"12\)?\), \"float16\"", text)) for text in in_rf].count(True) == 2, in_rf


def test_wide_dims_become_several_vectors_and_narrow_ones_none():
    wide = Workload.matmul(m=1, k=3, n=200, dtype="float16")
    # 200 = 4 x 50, the largest divisor up to 64.
    assert vectors_of(scheduled_with(Mapping(spm=wide.dims, rf=wide.dims), wide)) == [50]
    narrow = Workload.matmul(m=3, k=8, n=2, dtype="float16")
    assert vectors_of(scheduled_with(Mapping(spm=narrow.dims, rf=narrow.dims), narrow)) == []


def test_a_vector_is_never_cut_off():
    # 4 rows of 2 take K = 7: a guard keeps the eighth away, within a vector along K but not along OX.
    workload = Workload.conv2d(K=7, C=2, OY=1, OX=4, FY=1, FX=1, dtype="float16")
    mapping = Mapping(spm=workload.dims, rows=Dims(K=4), rf=Dims(K=2, OX=4, C=2))
    assert vectors_of(scheduled_with(mapping, workload)) == [4]
    along_k = Mapping(spm=workload.dims, rows=Dims(K=4), rf=Dims(K=2, C=2), spm_order=("OX",))
    assert vectors_of(scheduled_with(along_k, workload)) == []
