"""Random programs on hardware, compared with numpy and with what the simulator says and counts."""

from __future__ import annotations

import numpy as np

from cost_model.simulator import account, record
from cost_model.simulator.log import PASS_END, PASS_START
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.build import build
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import RtlRun, run_program
from tvm_spm.rtl.words import core_program
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.stream.encode import LayerStreams, encode
from tvm_spm.workload import DIM_NAMES, Workload


def sampled(workload: Workload, arch: Arch, rng: np.random.Generator, number: int) -> list[Mapping]:
    space = MapSpace(workload=workload, arch=arch, allow_spill=bool(rng.integers(2)))
    batch = space.sample(rng, number)
    return [decode(batch, row) for row in range(len(batch.spm))]


def random_tensors(layer: LayerStreams, rng: np.random.Generator) -> dict[str, np.ndarray]:
    found = {}
    for region in layer.memory.regions:
        if region.name not in ("O", "P"):
            bounds = np.iinfo(region.dtype)
            found[region.name] = rng.integers(bounds.min, bounds.max + 1, region.shape).astype(region.dtype)
    return found


def expected(workload: Workload, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Every product of the nest, added up where it belongs."""
    index = dict(zip(DIM_NAMES, np.indices(workload.dims.as_tuple()).reshape(len(DIM_NAMES), -1), strict=True))
    inside, places = np.ones(workload.macs, bool), []
    for projection in (workload.I, workload.W, workload.O):
        axes = []
        for axis in projection.axes:
            at = axis.offset + sum(far * index[name] for name, far in axis.terms)
            inside &= (at >= 0) & (at < axis.extent)
            axes.append(at)
        places.append(axes)
    from_i, from_w, to = (tuple(axis[inside] for axis in axes) for axes in places)
    sums = np.zeros([axis.extent for axis in workload.O.axes], np.int64)
    np.add.at(sums, to, tensors["I"][from_i].astype(np.int64) * tensors["W"][from_w].astype(np.int64))
    return sums.astype(workload.O.dtype)


def run_and_compare(workload: Workload, arch: Arch, mapping: Mapping, rng: np.random.Generator) -> RtlRun:
    """Run one program: its outputs, counts, and cycles of every pass are those that numpy and the simulator have."""
    layer = encode(workload, arch, mapping)
    stream, tensors = layer.streams[0], random_tensors(layer, rng)
    image = np.frombuffer(bytes(layer.memory.image(tensors)), np.uint8)
    run = run_program(core_program(stream, arch), build(parameters_of(arch)), image, most_cycles=10_000_000)
    what = f"{arch.name}: {workload}: {mapping.line()}"

    np.testing.assert_array_equal(layer.memory.tensor(run.image.tobytes(), "O"), expected(workload, tensors), what)
    counts = account(workload, arch, mapping).counts
    assert (*run.crossed[:2], run.crossed[2] + run.crossed[3]) == counts.crossed, what
    assert run.crossed[3] == counts.left, what
    assert run.heard == counts.delivered[:2], what
    assert run.moved == (*counts.moved, counts.final, sum(counts.extras)), what
    i_pad, w_pad, partial_pad, final_pad, extra_pad = (8 * each for each in run.pad_bytes)
    assert (i_pad, w_pad, partial_pad + final_pad, extra_pad) == counts.unused_bits, what
    assert run.macs == workload.macs, what
    cycles, log = record(workload, arch, mapping, most_events=10**6)
    passes = log.passes[:, PASS_END] - log.passes[:, PASS_START]
    assert (run.cycles, run.pass_cycles) == (cycles, tuple(passes.tolist())), what
    return run
