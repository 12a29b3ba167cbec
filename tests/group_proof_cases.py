"""Small random groups, and all their mappings one by one; ``python -m tests.group_proof_cases 300`` counts agreements.

The oracle walks every mapping of the stated space in plain loops and times each with the simulator of single mappings.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Iterator
from dataclasses import replace

from cost_model.fused.flat import flatten
from cost_model.fused.inner_mapper import InnerMapper
from tests.fused_cases import Builder
from tvm_spm.arch import Arch, load_arch
from tvm_spm.fusion.candidates import Candidate
from tvm_spm.fusion.prover import GroupProver
from tvm_spm.fusion.timing import Timer
from tvm_spm.group import Group, refuse_group
from tvm_spm.objective import Objective

OBJECTIVES = ("edp", "energy", "latency")


def draw_arch(rng: random.Random) -> Arch:
    """``quad-edge`` with one, two or four cores, little scratchpad or much, and sometimes dear bursts."""
    arch = load_arch("quad-edge")
    spm = replace(arch.levels.SPM, capacity_bytes=rng.choice([640, 1024, 2048, 4096, 131072]), bank_bytes=64)
    dram = replace(arch.levels.DRAM, channels=rng.choice([1, 2]), burst_bytes=rng.choice([1, 1, 16]))
    return replace(
        arch, levels=replace(arch.levels, SPM=spm, DRAM=dram),
        cores=replace(arch.cores, count=rng.choice([1, 1, 2, 4]), launch_cycles=rng.choice([0, 7])),
        dma=replace(arch.dma, startup_cycles=rng.choice([0, 0, 40])),
    )  # fmt: skip


def draw_group(rng: random.Random, *, most_size: int = 5, most_channels: int = 8) -> Group:
    """Two or three layers: convolutions of any kind, pools, shortcuts, matrices."""
    b = Builder(dtype=rng.choice(["int8", "int16", "float32"]))
    if rng.random() < 0.15:
        at = b.tensor("x", (rng.randint(2, most_size), rng.randint(1, most_channels)))
        for number in range(2):
            at = b.matmul(f"m{number}", at, rng.randint(1, most_channels), num_ops=rng.randint(0, 1))
        return b.group()
    channels = rng.randint(1, most_channels)
    x = at = b.tensor("x", (1, channels, rng.randint(3, most_size), rng.randint(3, most_size)))
    for number in range(rng.randint(2, 3)):
        shape = b.tensors[at].shape
        kind = rng.choice(["conv", "conv", "conv", "depthwise", "pool", "add"])
        if kind == "add" and shape == b.tensors[x].shape and number:
            at = b.elementwise(f"add{number}", at, x)
        elif kind == "pool" and min(shape[2:]) > 2:
            at = b.pool(f"pool{number}", at, taps=3, stride=rng.choice([1, 2]), padding=1)
        elif kind == "depthwise":
            at = b.conv(f"depthwise{number}", at, shape[1], groups=shape[1])
        else:
            at = b.conv(
                f"conv{number}", at, rng.randint(1, most_channels), taps=rng.choice([1, 3]),
                stride=rng.choice([1, 1, 2]), num_ops=rng.randint(0, 2),
            )  # fmt: skip
    num_layers = len(b.layers)
    if rng.random() < 0.4:
        # what a layer writes is also read behind the group, if the group needs all of it
        outputs = [layer.output for layer in b.layers[:-1]]
        for tensor in rng.sample(outputs, rng.randint(1, len(outputs))):
            b.elementwise(f"later{tensor}", tensor)
    group = b.group(num_layers)
    return group if refuse_group(group) is None else Builder(b.dtype, b.tensors, b.layers[:num_layers]).group()


def sizes(extent: int) -> list[int]:
    """Least sizes for each number of pieces."""
    return sorted({math.ceil(extent / pieces) for pieces in range(1, extent + 1)})


def mappings(group: Group, arch: Arch) -> Iterator[tuple[Candidate, bool]]:
    """The stated space."""
    shape, layers = group.sink_shape, [group.graph.layers[index] for index in group.layers]
    counts = {1 << power for power in range(8) if 1 << power <= arch.cores.count} | {arch.cores.count}
    channels = [
        [size for size in sizes(layer.workload.dims.K) if size >= min(4, layer.workload.dims.K)]
        if layer.workload else [1]
        for layer in layers
    ]  # fmt: skip
    windows = [[], []]
    for layer in layers:
        for read in layer.reads:
            if read.role in ("I", "vector") and len(read.accesses[0]) == 4:
                for place in range(2):
                    axis = read.accesses[0][2 + place]
                    strides = [s for d, s in axis.terms if d in ("OY", "OX", "d2", "d3")]
                    taps = (
                        dict(layer.loops)[("FY", "FX")[place]]
                        if layer.workload
                        else dict(layer.loops).get(f"r{place}", 1)
                    )
                    windows[place].append(taps > min(strides, default=99))
    halo = [2 + place for place in range(2) if any(windows[place])]
    is_whole = whole_channels(layers)
    for cores in itertools.product(*(range(1, extent + 1) for extent in shape)):
        if math.prod(cores) not in counts:
            continue
        share = [math.ceil(extent / parts) for extent, parts in zip(shape, cores, strict=True)]
        if any(len(range(0, e, s)) != p for e, s, p in zip(shape, share, cores, strict=True)):
            continue
        options = [[s] if is_whole and axis == len(shape) - (3 if len(shape) == 4 else 1) else sizes(s)
                   for axis, s in enumerate(share)]  # fmt: skip
        for tile in itertools.product(*options):
            cut = [axis for axis in halo if tile[axis] < share[axis]]
            for num in range(len(cut) + 1):
                for kept in itertools.combinations(cut, num):
                    for k_tile in itertools.product(*channels):
                        for double in (False, True):
                            yield Candidate(cores, tile, kept, k_tile), double


def whole_channels(layers: list) -> bool:
    """Whether some layer behind the first mixes all channels of what is inside, so that tiles of channels share it."""
    return any(layer.workload is not None and layer.workload.dims.C > 1 or _mixes(layer) for layer in layers[1:])


def _mixes(layer: object) -> bool:
    """A convolution of one channel also needs that one for every output channel."""
    work = layer.workload  # type: ignore[attr-defined]
    return work is not None and work.kind == "conv2d" and work.dims.G == 1 or work is not None and work.kind != "conv2d"


def brute_force(group: Group, arch: Arch, objective: str) -> tuple[float, int]:
    """Least objective of all mappings, and how many there are; infinite if none fits."""
    flat, best, num = flatten(group), math.inf, 0
    mappers = [InnerMapper(arch, name) for name in OBJECTIVES]
    for candidate, double in mappings(group, arch):
        for mapper in mappers:
            timer = Timer(group, flat, arch, mapper)
            num += 1
            if timer.time(candidate, double) == "":
                best = min(best, timer.front()[0][1].cost.objective(objective))
    return best, num


def check(seed: int, **limits: int) -> tuple[GroupProver, int]:
    """Compare a search of the whole space with every mapping; returns it and how many mappings there were."""
    rng = random.Random(seed)
    group, arch, objective = draw_group(rng, **limits), draw_arch(rng), rng.choice(OBJECTIVES)
    prover = GroupProver(group, arch, Objective(objective).value_of, most_cuts=0)
    prover.start()
    limits_hit = prover.improve(10**6)
    best, num = brute_force(group, arch, objective)
    what = f"seed {seed}: {objective}, {num} mappings: {prover.value} found, {best} by enumeration: {prover.best}"
    assert limits_hit == (), what
    assert prover.lower_bound == prover.value, what
    assert prover.value == best or math.isclose(prover.value, best, rel_tol=1e-9), what
    return prover, num


def main() -> None:
    """Check as many random groups as the first argument says, from the seed of the second on."""
    num_groups, first = (int(sys.argv[1]) if len(sys.argv) > 1 else 100), (int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    done = [check(seed) for seed in range(first, first + num_groups)]
    priced = sum(prover.num_priced for prover, _ in done)
    fitting = sum(prover.best is not None for prover, _ in done)
    sys.stdout.write(
        f"{len(done):,} of {num_groups:,} groups agree ({fitting:,} have a mapping that fits): "
        f"{sum(num for _, num in done):,} mappings enumerated, {priced:,} priced by the proofs\n"
    )


if __name__ == "__main__":
    main()
