"""A stream, interpreted, computes the layer; what it moves is what the simulator timed, transfer by transfer."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cost_model.simulator import account, record
from cost_model.simulator.log import CORE as OF_CORE
from cost_model.simulator.log import DMA, END, MOVED, NOTE, PASS, PASS_END, PASS_START, PASS_TILE, START, TRANSFERS
from tests.stream_cases import Drawn, expected_outputs, random_layer, random_tensors
from tvm_spm.stream.binary import from_bytes, to_bytes
from tvm_spm.stream.encode import encode
from tvm_spm.stream.instructions import LoadTile, RunPass, StoreTile, Stream, Sync
from tvm_spm.stream.interpret import Execution, interpret
from tvm_spm.stream.text import from_text, to_text


def timed_transfers(layer: Drawn) -> list[tuple[int, int, str, int]]:
    """Core, pass, kind and bytes of everything that a DMA engine moves, in the order of each core."""
    _, log = record(layer.workload, layer.arch, layer.mapping, most_events=10**6)
    moved = [event for event in log.events.tolist() if DMA <= event[NOTE] < DMA + len(TRANSFERS)]
    moved.sort(key=lambda event: (event[OF_CORE], event[START], event[END]))
    return [(event[OF_CORE], event[PASS], TRANSFERS[event[NOTE] - DMA], event[MOVED]) for event in moved]


def executed_transfers(layer: Drawn, done: Execution) -> list[tuple[int, int, str, int]]:
    least = layer.arch.levels.DRAM.burst_bytes
    return [
        (each.core, each.number, each.kind, sum(count * -(-size // least) * least for count, size in each.bursts))
        for each in done.transfers
    ]


def check_time(layer: Drawn, stream: Stream) -> None:
    """One core that waits where its stream says, with the times of passes and transfers, takes the cycles simulated."""
    cycles, log = record(layer.workload, layer.arch, layer.mapping, most_events=10**6)
    moved = [event for event in log.events.tolist() if DMA <= event[NOTE] < DMA + len(TRANSFERS)]
    transfers = iter(sorted((event[START], event[END]) for event in moved))
    runs = iter([(row[PASS_START], row[PASS_END]) for row in log.passes.tolist()])
    array = dma = layer.arch.cores.launch_cycles
    for each in stream.instructions:
        if isinstance(each, RunPass):
            start, end = next(runs)
            assert array == start
            array = end
        elif isinstance(each, (LoadTile, StoreTile)) and each.num_bursts:
            start, end = next(transfers)
            assert dma == start
            dma = end
        elif isinstance(each, Sync):
            array = dma = max(array, dma)
    assert array == dma == cycles
    assert next(runs, None) is next(transfers, None) is None


def check_layer(layer: Drawn, rng: random.Random) -> None:
    encoded = encode(layer.workload, layer.arch, layer.mapping, layer.vector)
    streams = [from_text(to_text(from_bytes(to_bytes(stream)))) for stream in encoded.streams]
    assert streams == list(encoded.streams)
    tensors = random_tensors(layer.workload, encoded.memory, rng)
    image = encoded.memory.image(tensors)
    done = interpret(streams, image)
    np.testing.assert_array_equal(encoded.memory.tensor(image, "O"), expected_outputs(layer, tensors))
    for name in ("I", "W"):
        np.testing.assert_array_equal(encoded.memory.tensor(image, name), tensors[name])
    assert executed_transfers(layer, done) == timed_transfers(layer)
    if len(streams) == 1:
        check_time(layer, streams[0])
    counts = account(layer.workload, layer.arch, layer.mapping).counts
    traffic = done.traffic
    for name in ("crossed", "delivered"):
        assert tuple(sum(getattr(each, name)[o] for each in traffic) for o in range(3)) == getattr(counts, name), name
    assert sum(each.left for each in traffic) == counts.left
    assert sum(each.macs for each in traffic) == layer.workload.macs
    _, log = record(layer.workload, layer.arch, layer.mapping, most_events=10**6)
    for stream in streams:
        rows = [row for row in log.passes.tolist() if row[0] == stream.head.core]
        runs = [each for each in stream.instructions if isinstance(each, RunPass)]
        tiles = [
            tuple(
                (count - 1) * array + last
                for count, array, last in zip(run.counts, layer.mapping.array, run.lasts, strict=True)
            )
            for run in runs
        ]
        assert tiles == [tuple(row[PASS_TILE : PASS_TILE + 8]) for row in rows]


@pytest.mark.parametrize("seed", range(60))
def test_streams_compute_what_is_timed(seed: int):
    rng = random.Random(f"stream {seed}")
    check_layer(random_layer(rng, num_cores=rng.choice([1, 1, 1, 4])), rng)


@pytest.mark.slow
def test_many_streams_compute_what_is_timed():
    rng = random.Random("many streams")
    for _ in range(2000):
        check_layer(random_layer(rng, num_cores=rng.choice([1, 1, 1, 4])), rng)
