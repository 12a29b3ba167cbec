"""Weights of four bits lie packed in DRAM, are counted so, and are taken out on the way in."""

from __future__ import annotations

import random

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper
from tvm import te, tirx

from cost_model.simulator import SimulatorModel
from schedules.layer import check_timed_is_executed, schedule
from tests.numeric.sampled import sample_mapping
from tests.numeric.test_onnx_quantised import convolved as window_sums
from tests.numeric.test_onnx_quantised import loaded, operand_bits, requantised, run
from tvm_spm.arch import load_arch
from tvm_spm.deploy.verify.compare import verify_task
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.frontend.tir.packed import Windows, convolution, pack, per_byte, sums, unpack, unpacked
from tvm_spm.space.mapspace import MapSpace

SHAPES = {"one block": (3, 1, 24, 10), "blocks": (2, 3, 8, 12), "a row": (1, 4, 32, 16)}
TYPES = {"bytes by signed": ("int8", "int8", "int32"), "floats by unsigned": ("float32", "uint8", "float32")}


def product(shape: tuple[int, int, int, int], types: tuple[str, str, str], bits: int = 4) -> tirx.PrimFunc:
    rows, blocks, depth, columns = shape
    x = te.placeholder((rows, blocks, depth), types[0], "x")
    w = te.placeholder((columns, blocks, depth // per_byte(bits)), "uint8", "w")
    return te.create_prim_func([x, w, sums(x, unpacked(w, types[1], bits), types[2])])


def convolved(stride: int, groups: int, order: tuple[int, ...], types: tuple[str, str, str]) -> tirx.PrimFunc:
    x = te.placeholder((1, 8, 7, 6), types[0], "x")
    extents = (12, 8 // groups, 3, 2)
    stored = [extents[axis] for axis in order]
    w = te.placeholder((*stored[:-1], stored[-1] // 2), "uint8", "w")
    windows = Windows(strides=(stride, 1), dilation=(1, 2), padding=(1, 0, 1, 1), groups=groups)
    return te.create_prim_func([x, w, convolution(x, unpacked(w, types[1]), order, windows, types[2])])


def nest_of(func: tirx.PrimFunc) -> TirNest:
    found = read_nest(func)
    assert isinstance(found, TirNest)
    return found


def check_scheduled(func: tirx.PrimFunc, bits: int, seed: str) -> None:
    nest, rng = nest_of(func), random.Random(seed)
    assert nest.workload.W.elem_bits == bits
    for trial in range(5):
        mapping = sample_mapping(nest.workload, rng)
        scheduled = schedule(func, nest, mapping).mod["main"]
        assert check_timed_is_executed(scheduled, nest, mapping) is None, mapping.line()
        outcome = verify_task(func, scheduled, rng=np.random.default_rng(trial))
        assert outcome.passed, f"{mapping.line()}: {outcome}"


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4])
def test_scheduled_code_computes_and_moves_what_is_timed(shape: str, types: str, bits: int):
    check_scheduled(product(SHAPES[shape], TYPES[types], bits), bits, f"{shape} {types} {bits}")


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize(
    ("stride", "groups", "order"), [(1, 1, (0, 2, 3, 1)), (2, 1, (1, 2, 3, 0)), (1, 4, (0, 2, 3, 1))]
)
def test_scheduled_windows_compute_and_move_what_is_timed(types: str, stride: int, groups: int, order: tuple[int, ...]):
    check_scheduled(convolved(stride, groups, order, TYPES[types]), 4, f"{types} {stride} {groups} {order}")


def test_a_bit_that_is_not_read_is_found():
    func = product((2, 1, 8, 4), TYPES["bytes by signed"])
    wrong = tvm.script.from_source(func.script().replace("T.uint8(15)", "T.uint8(7)"))
    assert not verify_task(func, wrong, rng=np.random.default_rng(0)).passed


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_numbers_come_back(bits: int):
    rng, half = np.random.default_rng(0), 1 << (bits - 1)
    for dtype, low, high in (("int8", -half, half), ("uint8", 0, 2 * half)):
        numbers = rng.integers(low, high, (3, 2, 8)).astype(dtype)
        packed = te.placeholder((3, 2, 8 // per_byte(bits)), "uint8", "packed")
        func = te.create_prim_func([packed, unpacked(packed, dtype, bits)]).with_attr("global_symbol", "main")
        out = tvm.runtime.tensor(np.zeros((3, 2, 8), dtype))
        compiled = tvm.compile(tvm.IRModule({"main": func}), target="llvm")
        compiled["main"](tvm.runtime.tensor(pack(numbers, bits)), out)
        np.testing.assert_array_equal(out.numpy(), numbers)
        np.testing.assert_array_equal(
            unpack(pack(numbers, bits), bits, is_signed=dtype == "int8"), numbers.astype("int8")
        )


def test_half_a_byte_a_weight_is_moved():
    # All 24 x 10 weights once, at 4 bits: 120 bytes; at 8 bits 240. Nothing else differs.
    work = nest_of(product((3, 1, 24, 10), TYPES["bytes by signed"])).workload
    arch = load_arch("edge-256")
    mapping = MapSpace(workload=work, arch=arch).default_mapping()
    assert mapping is not None
    cost = SimulatorModel().cost(work, arch, mapping)
    # I: 3 x 24 bytes, W: 240 nibbles, O: 30 sums of 4 bytes.
    assert cost.dram_bytes == (72, 120, 120, 0)


def of_blocks(numbers: np.ndarray, scale: np.ndarray, zero: np.ndarray | float, block: int) -> np.ndarray:
    """Weights (rows, columns) with a scale for each block of rows."""
    spread = [np.repeat(np.broadcast_to(each, scale.shape), block, axis=0) for each in (scale, np.asarray(zero))]
    return (numbers - spread[1]) * spread[0]


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("zeros", [False, True])
def test_weights_in_blocks_stay_packed_while_that_moves_less(rows: int, zeros: bool):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 16, (64, 12))
    scale = np.exp2(rng.integers(-3, 3, (2, 12))).astype("float32")
    zero = rng.integers(0, 16, (2, 12)) if zeros else np.full((2, 12), 8)
    x = rng.integers(-8, 9, (1, rows, 64)).astype("float32")
    # Columns one after the other, then blocks, then bytes with the first number low.
    constants = {"w": pack(numbers.T.reshape(12, 2, 32)), "s": scale.T.reshape(-1).copy()}
    if zeros:
        constants["z"] = pack(zero.T.copy()).reshape(-1)
    layer = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=64, N=12, bits=4, block_size=32
    )
    found = loaded([layer], {"x": x}, {"y": "float32"}, constants)
    # Scales are powers of two, and all sums small: nothing is rounded.
    np.testing.assert_array_equal(run(found, {"x": x})[0], x @ of_blocks(numbers, scale, zero, 32).astype("float32"))
    # A row: 16 B of weights, 4 B for a scale, 8 B for a sum that leaves and comes back, less than 128 B of floats.
    # 16 rows: 16 + 4 + 128 B.
    assert operand_bits(found)[0] == ((32, 4, 32) if rows == 1 else (32, 32, 32))


def stored(name: str, numbers: np.ndarray, kind: int) -> TensorProto:
    return helper.make_tensor(name, kind, numbers.shape, numbers.reshape(-1).tolist())


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("kind", ["int4, a scale per column", "uint4, one scale", "int4 in blocks"])
def test_dequantised_weights_of_stored(kind: str, rows: int):
    rng = np.random.default_rng(1)
    low, high, dtype = (0, 16, TensorProto.UINT4) if kind.startswith("u") else (-8, 8, TensorProto.INT4)
    numbers, x = rng.integers(low, high, (32, 10)), rng.integers(-8, 9, (rows, 32)).astype("float32")
    block = 16 if kind.endswith("blocks") else 0
    shape = (2, 10) if block else (10,) if kind.endswith("column") else ()
    scale = np.exp2(rng.integers(-3, 3, shape)).astype("float32")
    zero = 5 if dtype == TensorProto.UINT4 else 0
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    constants = {"w": stored("w", numbers, dtype), "s": scale}
    if zero:
        constants["z"] = stored("z", np.array(zero), dtype)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", *list(constants)[1:]], ["f"], **attributes),
        helper.make_node("MatMul", ["x", "f"], ["y"]),
    ]
    found = loaded(nodes, {"x": x}, {"y": "float32"}, constants, opset=21)
    weights = of_blocks(numbers, scale, zero, 16) if block else (numbers - zero) * scale
    np.testing.assert_array_equal(run(found, {"x": x})[0], x @ weights.astype("float32"))
    # 16 numbers of a block: 8 + 4 + 8 B against 64 B of floats for a row, 8 + 4 + 128 B for 16 rows.
    assert (32, 32 if block and rows == 16 else 4, 32) in operand_bits(found)


def test_bytes_by_weights_of_four_bits_are_sums_of_integers():
    rng = np.random.default_rng(2)
    numbers, x = rng.integers(-8, 8, (32, 10)), rng.integers(0, 256, (6, 32)).astype("uint8")
    scale = np.exp2(rng.integers(-6, -3, 10)).astype("float32")
    constants = {
        "xs": np.float32(0.5), "xz": np.uint8(120), "w": stored("w", numbers, TensorProto.INT4), "s": scale,
        "ys": np.float32(4), "yz": np.int8(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["g"], axis=1),
        helper.make_node("MatMul", ["f", "g"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "ys", "yz"], ["y"]),
    ]
    found = loaded(nodes, {"x": x}, {"y": "int8"}, constants, opset=21)
    sums = (x.astype(np.int64) - 120) @ numbers
    want = np.clip(np.rint(sums * 0.5 * scale / 4) + 3, -128, 127)
    np.testing.assert_array_equal(run(found, {"x": x})[0], want)
    assert operand_bits(found) == [(8, 4, 32)]


KINDS = {4: TensorProto.INT4, 8: TensorProto.INT8} | ({2: TensorProto.INT2} if hasattr(TensorProto, "INT2") else {})
FILTERS = {
    "per filter": ((8, 6, 3, 3), {"pads": [1, 0, 1, 2]}, "per filter"),
    "one scale, strides": ((8, 4, 3, 3), {"strides": [2, 1], "dilations": [1, 2]}, "one"),
    "groups": ((8, 4, 1, 1), {"group": 2}, "per filter"),
    "a filter for each channel": ((8, 1, 3, 3), {"group": 8}, "per filter"),
    "three channels, three filters": ((3, 3, 3, 3), {}, "one"),
    "one axis": ((4, 8, 5), {"auto_pad": "SAME_UPPER"}, "per filter"),
}  # fmt: skip


def filters(name: str, bits: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, dict[str, object]]:
    shape, attributes, scales = FILTERS[name]
    numbers = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), shape)
    scale = np.exp2(rng.integers(-3, 3, shape[0] if scales == "per filter" else ())).astype("float32")
    return numbers, scale, attributes


def packed_bits(shape: tuple[int, ...], bits: int) -> int:
    """Bytes where neither channels nor filters fill whole ones."""
    return bits if any(extent % per_byte(bits) == 0 for extent in shape[:2]) else 8


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("bits", KINDS)
def test_filters_of_few_bits_stay_so(name: str, bits: int):
    rng = np.random.default_rng(3)
    numbers, scale, attributes = filters(name, bits, rng)
    channels = numbers.shape[1] * attributes.get("group", 1)
    x = rng.integers(-4, 5, (1, channels, *(9, 7)[: numbers.ndim - 2])).astype("float32")
    bias = rng.integers(-9, 9, numbers.shape[0]).astype("float32")
    constants = {"w": stored("w", numbers, KINDS[bits]), "s": scale, "b": bias}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=0),
        helper.make_node("Conv", ["x", "f", "b"], ["y"], **attributes),
    ]
    found = loaded(nodes, {"x": x}, {"y": "float32"}, constants, opset=25 if bits == 2 else 21)
    plain = {"f": (numbers * scale.reshape(-1, *[1] * (numbers.ndim - 1))).astype("float32"), "b": bias}
    floats = loaded(nodes[1:], {"x": x}, {"y": "float32"}, plain)
    # Scales are powers of two, and all sums small: nothing is rounded.
    np.testing.assert_array_equal(run(found, {"x": x})[0], run(floats, {"x": x})[0])
    assert operand_bits(found)[0] == (32, packed_bits(numbers.shape, bits), 32)


@pytest.mark.parametrize("zero", [0, -3])
@pytest.mark.parametrize("bits", [bits for bits in KINDS if bits < 8])
def test_windows_of_bytes_by_filters_of_few_bits_are_sums_of_integers(bits: int, zero: int):
    rng = np.random.default_rng(4)
    numbers = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (8, 4, 3, 3))
    x = rng.integers(-128, 128, (1, 4, 6, 5)).astype("int8")
    constants = {
        "xs": np.float32(0.5), "xz": np.int8(zero), "w": stored("w", numbers, KINDS[bits]), "s": np.float32(0.25),
        "ys": np.float32(2), "yz": np.int8(3),
    }  # fmt: skip
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "xs", "xz"], ["f"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["g"]),
        helper.make_node("Conv", ["f", "g"], ["c"], pads=[1] * 4),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["y"]),
    ]
    found = loaded(nodes, {"x": x}, {"y": "int8"}, constants, opset=25 if bits == 2 else 21)
    sums = window_sums(x.astype(np.int64) - zero, numbers, 1, 1, 1)
    np.testing.assert_array_equal(run(found, {"x": x})[0], requantised(sums / 16, 3, "int8"))
    assert operand_bits(found) == [(8, bits, 32)]


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("flips", [0, 1])
def test_a_gemm_keeps_weights_of_few_bits(bits: int, flips: int):
    rng = np.random.default_rng(5)
    numbers = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (12, 16))
    scale = np.exp2(rng.integers(-3, 3, 12)).astype("float32")
    x, bias = rng.integers(-8, 9, (20, 16)).astype("float32"), rng.integers(-9, 9, 12).astype("float32")
    weights = numbers if flips else numbers.T
    constants = {"w": stored("w", weights, KINDS[bits]), "s": scale, "b": bias}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["f"], axis=1 - flips),
        helper.make_node("Gemm", ["x", "f", "b"], ["y"], transB=flips, alpha=0.5, beta=2.0),
    ]
    found = loaded(nodes, {"x": x}, {"y": "float32"}, constants, opset=25 if bits == 2 else 21)
    want = 0.5 * x @ (numbers * scale[:, None]).T.astype("float32") + 2 * bias
    np.testing.assert_array_equal(run(found, {"x": x})[0], want)
    assert operand_bits(found) == [(32, bits, 32)]


@pytest.mark.parametrize("bits", [2, 8])
def test_blocks_of_other_widths_stay_packed_for_a_row(bits: int):
    rng = np.random.default_rng(6)
    numbers, scale = rng.integers(0, 1 << bits, (64, 12)), np.exp2(rng.integers(-3, 3, (2, 12))).astype("float32")
    x = rng.integers(-8, 9, (1, 64)).astype("float32")
    rows = numbers.T.reshape(12, 2, 32)
    constants = {"w": pack(rows, bits) if bits < 8 else rows.astype("uint8"), "s": scale.T.reshape(-1).copy()}
    layer = helper.make_node(
        "MatMulNBits", ["x", *constants], ["y"], domain="com.microsoft", K=64, N=12, bits=bits, block_size=32
    )
    found = loaded([layer], {"x": x}, {"y": "float32"}, constants)
    want = x @ of_blocks(numbers, scale, np.full((2, 12), 1 << (bits - 1)), 32).astype("float32")
    np.testing.assert_array_equal(run(found, {"x": x})[0], want)
    assert operand_bits(found)[0] == (32, bits, 32)
