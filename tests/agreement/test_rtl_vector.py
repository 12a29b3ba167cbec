"""The vector unit of the hardware computes what numpy computes, bit for bit: whole numbers and float32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.rtl_cases import SMALLEST
from tvm_spm.axes import Projection
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.build import build
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import run_program
from tvm_spm.rtl.words import core_program
from tvm_spm.stream.encode import encode
from tvm_spm.stream.instructions import VectorStep
from tvm_spm.stream.interpret import interpret
from tvm_spm.stream.vector import bits_of
from tvm_spm.workload import Dims, Epilogue, Workload

pytestmark = pytest.mark.skipif(
    shutil.which("verilator") is None, reason="VERILATOR IS NOT INSTALLED: the vector unit is not checked"
)
SIZE = 16
MAPPING = Mapping(spm=Dims(OX=8, K=8), dram_order=("OX", "K"), spm_order=("OX", "K"))


def both(steps: tuple[VectorStep, ...], out: str, tensors: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of a matmul of 16 x 1 x 16 with an epilogue, from hardware and from the interpreter of the stream."""
    base = Workload.matmul(m=SIZE, k=1, n=SIZE, dtype="int8", out_dtype="int32")
    extras = tuple(
        Projection(axes=base.O.axes, dtype=str(array.dtype)) for name, array in tensors.items() if name[0] == "E"
    )
    timed = sum(step.operation not in ("const", "extra") for step in steps)
    workload = replace(base, out_dtype=out, epilogue=Epilogue(num_ops_per_elem=timed, extras=extras))
    layer = encode(workload, SMALLEST, MAPPING, steps)
    image = layer.memory.image(tensors)
    run = run_program(
        core_program(layer.streams[0], SMALLEST), build(parameters_of(SMALLEST)), np.frombuffer(bytes(image), np.uint8)
    )
    interpret(layer.streams, image)
    return layer.memory.tensor(run.image.tobytes(), "O"), layer.memory.tensor(image, "O")


def step(operation: str, dtype: str, target: int, *sources: int, immediate: int = 0) -> VectorStep:
    padded = (*sources, 0, 0, 0)
    return VectorStep(
        operation=operation, dtype=dtype, target=target, sources=(padded[0], padded[1], padded[2]), immediate=immediate
    )


def drawn_floats(rng: np.random.Generator) -> np.ndarray:
    """Of every size: any bits, numbers near each other, halves, zeros and the smallest."""
    any_bits = rng.integers(0, 1 << 32, SIZE * SIZE, dtype=np.uint64).astype(np.uint32).view(np.float32)
    any_bits[np.isnan(any_bits)] = 1.5
    near = (rng.standard_normal(SIZE * SIZE) * 4).astype(np.float32)
    halves = rng.integers(-9, 10, SIZE * SIZE).astype(np.float32) / 2
    tiny = rng.integers(0, 1 << 24, SIZE * SIZE).astype(np.uint32).view(np.float32)
    special = rng.choice(np.array([0.0, -0.0, np.inf, -np.inf, 1.0, 3.4e38, 1e-45], np.float32), SIZE * SIZE)
    choice = rng.integers(0, 5, SIZE * SIZE)
    return np.choose(choice, [any_bits, near, halves, tiny, special]).reshape(SIZE, SIZE)


TWO: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "lt": np.less, "le": np.less_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip
ONE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
    "trunc": np.trunc,
    "abs": np.abs,
}
DATA = {"I": np.zeros((SIZE, 1), np.int8), "W": np.zeros((1, SIZE), np.int8)}


@pytest.mark.parametrize("operation", [*TWO, *ONE])
def test_floats_are_those_of_ieee_754(operation: str):
    rng = np.random.default_rng(len(operation))
    out = "uint8" if operation in ("lt", "le", "eq", "ne") else "float32"
    for _ in range(6):
        a, b = drawn_floats(rng), drawn_floats(rng)
        if operation in TWO:
            sources = (step("extra", "float32", 1), step("extra", "float32", 2, immediate=1))
            found, _ = both((*sources, step(operation, out, 3, 1, 2)), out, {**DATA, "E0": a, "E1": b})
        else:
            found, _ = both((step("extra", "float32", 1), step(operation, out, 3, 1)), out, {**DATA, "E0": a})
        with np.errstate(all="ignore"):
            expected = (TWO[operation](a, b) if operation in TWO else ONE[operation](a)).astype(out)
        wrong = (found.view(np.uint8) != expected.view(np.uint8)).reshape(SIZE, SIZE, -1).any(axis=-1)
        if out == "float32":
            wrong &= ~(np.isnan(found) & np.isnan(expected))
        assert not wrong.any(), (operation, a[wrong][:3], b[wrong][:3], found[wrong][:3], expected[wrong][:3])


def test_an_int8_layer_is_scaled_rounded_and_clipped():
    rng = np.random.default_rng(1)
    steps = (
        step("extra", "int32", 1),
        step("add", "int32", 2, 0, 1),
        step("cast", "float32", 3, 2),
        step("const", "float32", 4, immediate=bits_of(0.0173, "float32")),
        step("mul", "float32", 5, 3, 4),
        step("const", "float32", 6, immediate=bits_of(0.0, "float32")),
        step("max", "float32", 7, 5, 6),
        step("round", "float32", 8, 7),
        step("const", "float32", 9, immediate=bits_of(127, "float32")),
        step("min", "float32", 10, 8, 9),
        step("cast", "int8", 11, 10),
    )
    tensors = {
        "I": rng.integers(-128, 128, (SIZE, 1)).astype(np.int8),
        "W": rng.integers(-128, 128, (1, SIZE)).astype(np.int8),
        "E0": rng.integers(-9999, 9999, (SIZE, SIZE)).astype(np.int32),
    }  # fmt: skip
    found, interpreted = both(steps, "int8", tensors)
    sums = tensors["I"].astype(np.int32) @ tensors["W"].astype(np.int32) + tensors["E0"]
    scaled = np.rint(np.maximum(sums.astype(np.float32) * np.float32(0.0173), np.float32(0)))
    np.testing.assert_array_equal(found, np.minimum(scaled, 127).astype(np.int8))
    np.testing.assert_array_equal(interpreted, found)


@pytest.mark.parametrize(("operation", "shift"), [("div", 0), ("truncmod", 0), ("qmul", 7), ("qmul", 40)])
def test_whole_numbers_go_towards_zero_and_fixed_point_rounds_halves_up(operation: str, shift: int):
    rng = np.random.default_rng(shift)
    a = rng.integers(-(1 << 30), 1 << 30, (SIZE, SIZE)).astype(np.int32)
    b = rng.choice(np.array([-7, -1, 1, 2, 3, 100, 1518500250]), (SIZE, SIZE)).astype(np.int32)
    b[0, 0], a[0, 0] = 64, 1
    steps = (
        step("extra", "int32", 1), step("extra", "int32", 2, immediate=1),
        step("const", "int32", 3, immediate=shift), step(operation, "int32", 4, 1, 2, 3 if operation == "qmul" else 0),
    )  # fmt: skip
    found, interpreted = both(steps, "int32", {**DATA, "E0": a, "E1": b})

    def exact(one: int, other: int) -> int:
        if operation == "qmul":
            return (one * other + (1 << shift >> 1)) >> shift
        whole = abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)
        return whole if operation == "div" else one - whole * other

    expected = np.array([exact(int(x), int(y)) for x, y in zip(a.ravel(), b.ravel(), strict=True)], np.int64)
    np.testing.assert_array_equal(found.ravel(), expected.astype(np.int32))
    np.testing.assert_array_equal(interpreted, found)
