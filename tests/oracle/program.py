"""A program walked literally, every iteration of every loop, to count what its copies move."""

from __future__ import annotations

import math
from collections import Counter

from cost_model.simulator.program import Compute, Copy, Finish, Loop, Node, Program
from tests.oracle.boxes import clipped_box, num_elems, num_parts, reached, tile_loops
from tvm_spm.workload import REDUCTION_DIMS, Dims, Operand, Projection, Workload


def count_moves(workload: Workload, program: Program) -> Counter[str]:
    """What happens how often.

    Elements by DMA (``DMA I``, ``DMA O`` for partial sums, ``DMA final``, ``extra 0``, ...) and NoC (``NoC I``, ...),
    steps, and operations of the vector unit.
    """
    found: Counter[str] = Counter()
    _walk(workload, program.body, {}, workload.dims, [], found)
    return found


def _walk(
    workload: Workload, body: tuple[Node, ...], first: dict[str, int], size: Dims, sums: list[tuple[int, int]],
    found: Counter[str],
) -> None:  # fmt: skip
    for node in body:
        if isinstance(node, Loop):
            count = num_parts(size[node.dim], node.tile)
            assert count in node.trip_counts
            for i in range(count):
                moved = {**first, node.dim: first.get(node.dim, 0) + i * node.tile}
                tile = size.with_dim(node.dim, min(node.tile, size[node.dim] - i * node.tile))
                inner = [*sums, (i, count)] if node.dim in REDUCTION_DIMS else sums
                _walk(workload, node.body, moved, tile, inner, found)
        elif isinstance(node, Compute):
            found["steps"] += 1
            array = Dims.of([r * c * t for r, c, t in zip(node.rows, node.cols, node.rf, strict=True)])
            assert all(left <= most for left, most in zip(size, array, strict=True))
            found["macs"] += size.product()
        else:
            _count(workload, node, first, size, sums, found)


def _count(
    workload: Workload, copy: Copy | Finish, first: dict[str, int], size: Dims, sums: list[tuple[int, int]],
    found: Counter[str],
) -> None:  # fmt: skip
    is_last = all(i == count - 1 for i, count in sums)
    happens = {
        "always": True, "revisit": any(i for i, _ in sums), "unfinished": not is_last, "finished": is_last,
    }[copy.when]  # fmt: skip
    if not happens:
        return
    if isinstance(copy, Finish):
        for number, (extra, box) in enumerate(zip(workload.epilogue.extras, copy.streams, strict=True)):
            assert all(now <= full for now, full in zip(_box(extra, size), box, strict=True))
            found[f"extra {number}"] += num_elems(clipped_box(extra.axes, first, size))
        outputs = size.product() // math.prod(size[name] for name in REDUCTION_DIMS)
        found["operations"] += outputs * copy.num_ops_per_elem
        return
    projection = workload.projection(copy.operand)
    assert all(now <= full for now, full in zip(_box(projection, size), copy.tile_elems, strict=True))
    if copy.path == "NoC":
        found[f"NoC {copy.operand.name}"] += math.prod(_box(projection, size))
        return
    is_final = copy.operand is Operand.O and copy.when in ("always", "finished")
    name = "final" if is_final else copy.operand.name
    found[f"DMA {name}"] += num_elems(clipped_box(projection.axes, first, size))


def _box(projection: Projection, tile: Dims) -> list[int]:
    loops = tile_loops(tile)
    return [len(range(*reached(axis, loops))) for axis in projection.axes]
