"""Streams of functions as the front end makes them: interpreted, they compute what the unscheduled code computes."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm import relax

from schedules.layer import schedule
from schedules.layer.program import program_from_tir
from tests.numeric.fused import NETWORKS, functions, fuse, network
from tests.numeric.plain import nest, prim_func
from tests.numeric.sampled import LAYERS, sample_mapping
from tests.program_mapping import mapping_of
from tests.stream_cases import roomy
from tvm_spm.arch import load_arch
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.frontend.tir.vector_steps import vector_steps
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.space.legality import check
from tvm_spm.stream.binary import to_bytes
from tvm_spm.stream.encode import encode
from tvm_spm.stream.interpret import interpret
from tvm_spm.stream.vector import num_timed
from tvm_spm.workload import Operand


def scaled(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    """Requantised by a float scale, rounded and clipped."""
    total = builder.emit(relax.op.nn.conv2d(p[0], p[1], out_dtype="int32"))
    real = builder.emit(relax.op.multiply(builder.emit(relax.op.astype(total, "float32")), p[2]))
    rounded = builder.emit(relax.op.clip(builder.emit(relax.op.round(real)), -128, 127))
    return builder.emit(relax.op.astype(rounded, "int8"))


def chosen(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    """The larger of two sums, by comparison; one parameter is read at two places."""
    total = builder.emit(relax.op.matmul(p[0], p[1], out_dtype="int32"))
    first = builder.emit(relax.op.add(total, builder.emit(relax.op.strided_slice(p[2], [0], [0], [1]))))
    second = builder.emit(relax.op.add(total, builder.emit(relax.op.strided_slice(p[2], [0], [1], [2]))))
    return builder.emit(relax.op.where(builder.emit(relax.op.greater(first, second)), first, second))


def halves(builder: relax.BlockBuilder, p: list[relax.Var]) -> relax.Expr:
    total = builder.emit(relax.op.matmul(p[0], p[1], out_dtype="int32"))
    return builder.emit(relax.op.round(builder.emit(relax.op.multiply(total.astype("float32"), relax.const(0.5)))))


MORE = {
    "int8 conv, scaled, rounded": network(
        [((1, 3, 5, 6), "int8"), ((4, 3, 2, 2), "int8"), ((4, 1, 1), "float32")], scaled
    ),
    "matmul, rounded halves": network([((5, 7), "int8"), ((7, 3), "int8")], halves),
    "bfloat16 matmul, relu": network(
        [((5, 7), "bfloat16"), ((7, 3), "bfloat16")],
        lambda builder, p: builder.emit(relax.op.nn.relu(builder.emit(relax.op.matmul(p[0], p[1])))),
    ),
    "matmul, larger of two": network([((5, 7), "int8"), ((7, 3), "int8"), ((2, 3), "int32")], chosen),
}


def drawn(buffer: tvm.ir.Var, rng: np.random.Generator) -> np.ndarray:
    shape = [int(extent) for extent in buffer.shape]
    if str(buffer.dtype).startswith("float"):
        return rng.uniform(0.1, 1.0, shape).astype(str(buffer.dtype))
    # of bfloat16, small whole numbers whose sums it holds exactly
    bound = 3 if str(buffer.dtype) == "bfloat16" else 100
    return rng.integers(-bound, bound, shape).astype(str(buffer.dtype))


@pytest.mark.parametrize("name", [*NETWORKS, *MORE])
def test_streams_compute_what_functions_compute(name: str):
    rng, arch, checked = random.Random(name), roomy(load_arch("quad-edge")), 0
    for func in functions(fuse({**NETWORKS, **MORE}[name])):
        nest = read_nest(func)
        if not isinstance(nest, TirNest):
            continue
        steps = vector_steps(func, nest)
        assert num_timed(steps) <= nest.workload.epilogue.num_ops_per_elem
        draw = np.random.default_rng(1)
        params = [drawn(param, draw) for param in func.params]
        expected = tvm.runtime.tensor(params[-1])
        compiled = tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), target="llvm")
        compiled["main"](*(tvm.runtime.tensor(each) for each in params[:-1]), expected)
        reads = {"I": 0, "W": 1} | {f"E{number}": at for number, at in enumerate(nest.extra_params)}
        for trial in range(6):
            mapping = sample_mapping(nest.workload, rng, spills=trial % 2 == 1)
            if check(nest.workload, arch, mapping) is not None:
                continue
            layer = encode(nest.workload, arch, mapping, steps)
            image = layer.memory.image({region: params[at] for region, at in reads.items()})
            interpret(layer.streams, image)
            outputs, checked = layer.memory.tensor(image, "O"), checked + 1
            if str(outputs.dtype).startswith(("int", "bfloat")):
                np.testing.assert_array_equal(outputs, expected.numpy())
            else:
                np.testing.assert_allclose(outputs, expected.numpy(), rtol=2e-5, atol=1e-5)
    assert checked >= 3


@pytest.mark.parametrize("name", ["odd extents, uneven padding", "groups", "NHWC", "batched matmul"])
def test_streams_are_those_of_the_code(name: str):
    """The program that is read back from scheduled code has the same words as the mapping it was made from."""
    workload, rng, arch = LAYERS[name], random.Random(f"streams {name}"), roomy(load_arch("quad-edge"))
    for trial in range(3):
        mapping = sample_mapping(workload, rng, spills=trial == 2)
        if trial == 2:
            mapping = replace(mapping, spm_double=(Operand.I, Operand.W))
        executed = program_from_tir(
            exact_tiles(schedule(prim_func(workload), nest(workload), mapping).mod["main"]), nest(workload)
        )
        read_back = mapping_of(executed)
        words = [[to_bytes(stream) for stream in encode(workload, arch, each).streams] for each in (mapping, read_back)]
        assert words[0] == words[1]
