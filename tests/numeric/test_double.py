"""What a mapping buffers twice has two buffers in the code, used in turn; results stay the same."""

from __future__ import annotations

import random

import pytest
import tvm
import tvm_ffi
from tvm import tirx

from cost_model.simulator.program import program_of
from schedules.layer import schedule
from schedules.layer.program import program_from_tir
from tests.numeric.buffers import spm_bytes
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, sample_mapping
from tvm_spm.errors import ScheduleError
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Operand, Workload


@pytest.mark.parametrize("layer", ["odd extents, uneven padding", "depthwise", "batched matmul", "dilation"])
def test_spm_has_as_many_buffers_as_the_mapping_says(layer: str):
    workload, rng = LAYERS[layer], random.Random(layer)
    for trial in range(6):
        mapping = sample_mapping(workload, rng, spills=trial % 2 == 0)
        code = exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"])
        tile = mapping.spm.combine(mapping.core_tile(workload.dims), min)
        claimed = [
            mapping.num_buffers("SPM", operand) * workload.projection(operand).tile_bytes(tile) for operand in Operand
        ]
        assert spm_bytes(code) == sum(claimed), mapping.line()


# 7 of K on 2 cores are 4 + 3, in tiles of 2: 2 iterations each; C = 11 in tiles of 4 are 3; OX = 5 in steps of 2 are 3.
WORKLOAD = Workload.matmul(m=5, k=11, n=7, dtype="int8", out_dtype="int32")
MAPPING = Mapping(
    cores=Dims(K=2), spm=Dims(OX=5, C=4, K=2), rf=Dims(OX=2, C=4, K=2), dram_order=("K", "C"), spm_order=("OX",),
    spm_double=(Operand.I, Operand.W), rf_double=(Operand.I,),
)  # fmt: skip


def test_turns_by_hand():
    text = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"]).script()
    # Three tiles of C for each of K: an odd number, so the second K begins with the other buffer.
    assert 'W_global_spm = T.sblock_alloc_buffer((2, 4, 2), "int8", scope="global.spm")' in text
    assert "W_global_spm[(i1_1_0_m + C_0) % 2, " in text


@pytest.mark.parametrize("operand", ["I", "W"])
def test_work_on_the_tile_that_is_loading_is_noticed(operand: str):
    code = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"])

    def load(node: tvm.ir.TensorLoad) -> tvm.ir.TensorLoad:
        if str(node.source.name) != f"{operand}_global.spm":
            return node
        return tirx.BufferLoad(node.source, [1 - node.indices[0], *node.indices[1:]])

    body = tvm_ffi.structural_map(code.body, (tvm.ir.TensorLoad, load), order="post")
    with pytest.raises(ScheduleError, match=r"uses another buffer than the tile lies in"):
        program_from_tir(code.with_body(body), nest(WORKLOAD))


@pytest.mark.parametrize("operand", ["I", "W"])
def test_one_buffer_for_two_tiles_in_a_row_is_noticed(operand: str):
    code = exact_tiles(schedule(prim_func(WORKLOAD), nest(WORKLOAD), MAPPING).mod["main"])
    assert program_from_tir(code, nest(WORKLOAD)) == program_of(WORKLOAD, MAPPING)

    def stuck(index: tirx.FloorMod) -> tirx.PrimExpr:
        return tirx.const(0, str(index.ty.dtype))

    def load(node: tvm.ir.TensorLoad) -> tvm.ir.TensorLoad:
        name = str(node.source.name)
        return tirx.BufferLoad(node.source, [stuck(node.indices[0]), *node.indices[1:]]) if name == spm else node

    def store(node: tirx.BufferStore) -> tirx.BufferStore:
        if str(node.buffer.name) != spm:
            return node
        return tirx.BufferStore(node.buffer, node.value, [stuck(node.indices[0]), *node.indices[1:]])

    spm = f"{operand}_global.spm"
    body = tvm_ffi.structural_map(code.body, (tvm.ir.TensorLoad, load), order="post")
    body = tvm_ffi.structural_map(body, (tirx.BufferStore, store), order="post")
    with pytest.raises(ScheduleError, match=r"two tiles in a row use one buffer"):
        program_from_tir(code.with_body(body), nest(WORKLOAD))
