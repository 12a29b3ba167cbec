"""Random instructions over all their width; random layers with their tensors and outputs, by brute force."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tests.numeric.sampled import brute_force
from tests.simulator_cases import random_case
from tvm_spm.arch import Arch, SplitBytes
from tvm_spm.mapping import Mapping
from tvm_spm.space.legality import check
from tvm_spm.stream.instructions import End, Instruction, Stream, StreamHead, VectorStep
from tvm_spm.stream.layout import HEAD, LAYOUTS, Field
from tvm_spm.stream.memory import MemoryMap
from tvm_spm.stream.vector import bits_of
from tvm_spm.workload import DIM_NAMES, Axis, Workload


def random_fields(rng: random.Random, fields: tuple[Field, ...]) -> dict[str, object]:
    """Values for all fields, the largest and the smallest often among them."""
    lengths: dict[tuple[int, int, int], int] = {}
    found: dict[str, object] = {}
    for field in fields:
        length = field.most
        if field.length_at is not None:
            length = lengths.setdefault(field.length_at, rng.randint(0, field.most))
        values = tuple(_random_value(rng, field) for _ in range(max(1, length) if not field.most else length))
        found[field.name] = values if field.most else values[0]
    return found


def _random_value(rng: random.Random, field: Field) -> int | str:
    if field.kind.names is not None:
        return rng.choice(list(field.kind.names.values()))
    return rng.choice([0, field.bound() - 1, rng.randrange(field.bound()), rng.randrange(min(9, field.bound()))])


def random_instruction(rng: random.Random) -> Instruction:
    """Any but the last one."""
    kind = rng.choice([kind for kind in LAYOUTS if kind is not End])
    return kind(**random_fields(rng, LAYOUTS[kind].fields))


def random_stream(rng: random.Random) -> Stream:
    """Instructions in no order that makes sense."""
    body = [random_instruction(rng) for _ in range(rng.randint(0, 12))]
    return Stream(head=StreamHead(**random_fields(rng, HEAD)), instructions=(*body, End()))


def roomy(arch: Arch) -> Arch:
    """The same machine with memories that hold any tile."""
    rf, spm, most = arch.levels.RF, arch.levels.SPM, 1 << 36
    capacity = SplitBytes(I=most, W=most, O=most) if spm.is_split else most
    return replace(
        arch,
        levels=replace(
            arch.levels, RF=replace(rf, capacity_bytes=1 << 30), SPM=replace(spm, capacity_bytes=capacity)
        ),
    )  # fmt: skip


class Drawn(NamedTuple):
    """A layer with an epilogue that says what it computes, a machine and a mapping."""

    workload: Workload
    arch: Arch
    mapping: Mapping
    vector: tuple[VectorStep, ...]


def random_layer(rng: random.Random, *, num_cores: int = 1) -> Drawn:
    """Anything that ``simulator_cases`` draws, with as many vector operations as are timed."""
    while True:
        workload, arch, mapping = random_case(rng, num_cores=num_cores, num_channels=rng.choice([1, 2]))
        workload, vector = with_vector(workload, rng)
        arch = roomy(arch)
        if check(workload, arch, mapping) is None:
            return Drawn(workload, arch, mapping, vector)


def with_vector(workload: Workload, rng: random.Random) -> tuple[Workload, tuple[VectorStep, ...]]:
    """An epilogue: adds its extras, then perhaps multiplies, shifts and clips, and converts."""
    epilogue, total = workload.epilogue, workload.O.dtype
    if not epilogue.extras and not epilogue.num_ops_per_elem:
        return workload, ()
    steps = []
    for number, extra in enumerate(epilogue.extras):
        steps.append(VectorStep(operation="extra", dtype=extra.dtype, target=2, immediate=number))
        if extra.dtype != total:
            steps.append(VectorStep(operation="cast", dtype=total, target=2, sources=(2, 0, 0)))
        steps.append(VectorStep(operation="add", dtype=total, target=0, sources=(0, 2, 0)))
    for operation, value in (("mul", 3), ("shr", 2), ("max", -7), ("min", 90)):
        if rng.random() < 0.5:
            steps.append(VectorStep(operation="const", dtype=total, target=1, immediate=bits_of(value, total)))
            steps.append(VectorStep(operation=operation, dtype=total, target=0, sources=(0, 1, 0)))
    steps.append(VectorStep(operation="cast", dtype=workload.out_dtype, target=0, sources=(0, 0, 0)))
    taken = sum(step.operation not in ("const", "extra") for step in steps)
    epilogue = replace(epilogue, num_ops_per_elem=max(epilogue.num_ops_per_elem, taken))
    return replace(workload, epilogue=epilogue), tuple(steps)


def random_tensors(workload: Workload, memory: MemoryMap, rng: random.Random) -> dict[str, np.ndarray]:
    """What a layer reads, by region, over all their types hold; outputs and partial sums are noise."""
    draw = np.random.default_rng(rng.randrange(2**32))
    found = {}
    for region in memory.regions:
        limits = np.iinfo(region.dtype)
        found[region.name] = draw.integers(limits.min, limits.max, region.shape, region.dtype, endpoint=True)
    return found


def expected_outputs(layer: Drawn, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Every product by index arithmetic, then the epilogue over whole tensors."""
    workload, total = layer.workload, layer.workload.O.dtype
    sums = brute_force(workload, tensors["I"], tensors["W"]).astype(total)
    at = dict(zip(DIM_NAMES, np.indices(workload.dims.as_tuple(), sparse=True), strict=True))
    registers = {0: sums}
    operations = {
        "add": lambda a, b: a + b, "mul": lambda a, b: a * b, "shr": lambda a, b: a >> b, "max": np.maximum,
        "min": np.minimum, "cast": lambda a, b: a,
    }  # fmt: skip
    where = np.broadcast_arrays(*(_index(axis, at) for axis in workload.O.axes))
    with np.errstate(over="ignore"):
        for step in layer.vector:
            if step.operation == "const":
                value = np.array(step.immediate & (2 ** (8 * np.dtype(total).itemsize) - 1), np.uint64).astype(total)
            elif step.operation == "extra":
                extra = workload.epilogue.extras[step.immediate]
                read = np.broadcast_arrays(*(_index(axis, at) for axis in extra.axes), where[0])[:-1]
                value = np.zeros(sums.shape, extra.dtype)
                value[tuple(where)] = tensors[f"E{step.immediate}"][tuple(read)]
            else:
                value = operations[step.operation](registers[step.sources[0]], registers.get(step.sources[1]))
            registers[step.target] = np.asarray(value).astype(step.dtype)
    return (registers[layer.vector[-1].target] if layer.vector else sums).astype(workload.out_dtype)


def _index(axis: Axis, at: dict[str, np.ndarray]) -> np.ndarray:
    return sum((at[d] * c for d, c in axis.terms), np.zeros((1,) * len(DIM_NAMES), np.int64)) + axis.offset
