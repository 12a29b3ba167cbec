"""Work done again in halos where the rows of the last output of a block are split over cores: VGG-19.

The multiplier of a block is the multiply-accumulates that all cores execute over those of its layers. It follows from
boxes alone; the same number is read off the group model, which executes the split.
"""

from __future__ import annotations

import pandas as pd

from tvm_spm.arch import Arch
from tvm_spm.group import Group
from tvm_spm.reproduce.dlfusion.groups import executed_macs
from tvm_spm.reproduce.dlfusion.recompute import balanced_parts, recompute_factor
from tvm_spm.reproduce.dlfusion.setup import ARCH_NAME, DTYPE, SPM_KIB, sized_arch
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit
from tvm_spm.units import ceil_div

PARTS = (2, 4, 8, 16, 32)

# Positions of the first and of the last convolution of each block among the sixteen.
BLOCKS = {
    "conv1_1-1_2": (0, 1), "conv1_1-2_2": (0, 3), "conv3_1-3_4": (4, 7), "conv5_1-5_4": (12, 15),
    "all 16 convs": (0, 15),
}  # fmt: skip

REFERENCE = {
    "conv1_1-1_2": (1.00, 1.00, 1.00, 1.01, 1.01),
    "conv1_1-2_2": (1.02, 1.06, 1.13, 1.28, 1.57),
    "conv3_1-3_4": (1.05, 1.14, 1.32, 1.69, 2.41),
    "conv5_1-5_4": (1.21, 1.64, 2.43, 3.64, 3.64),
    "all 16 convs": (1.78, 3.04, 5.51, 9.24, 9.24),
}
"""Derived by arithmetic from the shapes, not printed in the paper."""

NETWORK = "vgg19"
ROWS_AXIS = 2
EVEN, CHUNKS, MODEL = "boxes, even parts", "boxes, chunks", "group model"
"""Rows per core differ by one at most; are those of ``GroupMapping.chunk``, so that cores may stay idle; executed."""


def count_macs(group: Group, arch: Arch, parts: int, how: str) -> int:
    """Executed by all cores, with the rows of the last output split over ``parts``, or over as many as there are."""
    if how == MODEL:
        return executed_macs(group, arch, parts)
    rows, graph = group.sink_shape[ROWS_AXIS], group.graph
    step = ceil_div(rows, parts)
    chunks = tuple((begin, min(begin + step, rows)) for begin in range(0, rows, step))
    bounds = balanced_parts(rows, parts) if how == EVEN else chunks
    factor = recompute_factor(graph, group.layers[0], group.sink + 1, axis=ROWS_AXIS, parts=bounds)
    return int(factor * needed_macs(group))


def needed_macs(group: Group) -> int:
    """Of all layers, each output once."""
    layers = [group.graph.layers[index] for index in group.layers]
    return sum(layer.workload.macs for layer in layers if layer.workload is not None)


def halo_rows(*, quick: bool) -> pd.DataFrame:
    """One row per block, number of parts and way to count."""
    from tvm_spm.reproduce.dlfusion.networks import network_graph

    graph, arch = network_graph(NETWORK, DTYPE), sized_arch(SPM_KIB[1])
    convs = [index for index, layer in enumerate(graph.layers) if layer.workload and layer.workload.kind == "conv2d"]
    rows = []
    for name, (begin, end) in BLOCKS.items():
        first, stop = convs[begin], convs[end] + 1
        group = Group.interval(graph, first, stop)
        for parts in PARTS[::4] if quick else PARTS:
            for how in (EVEN, CHUNKS, MODEL):
                rows.append(
                    {
                        "commit": source_commit(), "arch": arch.name, "arch_sha256": arch.sha256(),
                        "workload": f"{NETWORK}, {name}, rows over {parts} cores", "layer": name,
                        "space": f"{parts} parts", "objective": "macs", "searcher": how, "seed": 0,
                        "macs_executed": count_macs(group, arch, parts, how), "macs_needed": needed_macs(group),
                        "source": "analytical",
                    }
                )  # fmt: skip
    return make_frame(rows, [*COLUMNS, "macs_executed", "macs_needed"])


def halo_tables(frame: pd.DataFrame) -> list[PaperTable]:
    """Multipliers by block and number of cores."""
    chosen = frame[frame["objective"] == "macs"]
    rows = []
    for name in BLOCKS:
        for how in (EVEN, CHUNKS, MODEL):
            found = chosen[(chosen["layer"] == name) & (chosen["searcher"] == how)]
            values = {
                f"n={run['space'].split()[0]}": f"{run['macs_executed'] / run['macs_needed']:.2f}"
                for _, run in found.iterrows()
            }
            rows.append({"fused block": name, "by": how, **values})
        present = set(chosen["space"])
        known = {
            f"n={parts}": f"{value:.2f}"
            for parts, value in zip(PARTS, REFERENCE[name], strict=True)
            if f"{parts} parts" in present
        }
        rows.append({"fused block": name, "by": "reference", **known})
    return [
        PaperTable(
            title="Work with halos computed again: VGG-19, rows of the last output split over n cores",
            frame=pd.DataFrame(rows),
            notes=(
                "multiply-accumulates executed over those of the layers. even parts: what each part needs, backwards;",
                "rows per core differ by one at most. chunks: as groups are split here, ceil(rows / n) per core, so",
                f"cores may be idle (14 rows over 8: 7 cores). group model: executed by all cores of {ARCH_NAME}.",
                "reference: derived from the shapes by arithmetic, not printed in the paper.",
            ),
        )
    ]
