"""Images per second of GoogLeNet and DenseNet-121 on the model of the MLU100, beside the published ones.

Source: public calibration points of the machine, fp16: GoogLeNet 2,302 images/s at batch 64, DenseNet-121 730 images/s
at batch 32.
Compared: throughput of the model, layer by layer and in groups of at most four layers, on as many of the 32 cores as
the output of a group can be split over. The networks are the light models of the ``onnx`` package with their inputs
changed to that batch; the batch is split over cores like any other axis.
Budget: none.
Expected time: some minutes on two cores; ``--quick`` is GoogLeNet alone.
Differences: nothing is fitted to the published numbers; on-chip sizes and rates of the model are assumed, and neither
the host nor the start of a kernel costs anything.

    python benchmarks/dlfusion_throughput.py [--quick] [--csv FILE]
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import onnx
import pandas as pd
from onnx import numpy_helper
from paper_script import script_text

from tvm_spm.arch import load_arch
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.graph import LayerGraph
from tvm_spm.reproduce.dlfusion.groups import warm_up
from tvm_spm.reproduce.dlfusion.networks import retype
from tvm_spm.reproduce.dlfusion.prices import AskedPrices
from tvm_spm.reproduce.dlfusion.setup import ARCH_NAME, DTYPE, EXTRA_COLUMNS, decision_row, price_table
from tvm_spm.reproduce.dlfusion.strategies import Chosen, decide, fixed_cores, optimal_groups
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit

EXPECTED = Path(__file__).parent / "expected" / "dlfusion_throughput.csv"

MAX_GROUP = 4
"""Most layers in a group."""

OBJECTIVE = "throughput"
"""``objective`` of the rows."""

MOST_BYTES = 1 << 35
"""Of all tensors of a network that is only looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A throughput that is published for the machine.

    Attributes:
        network: Name.
        model: Light model of the ``onnx`` package.
        batch: Images at a time.
        images_per_s: Published.
    """

    network: str
    model: str
    batch: int
    images_per_s: int


PUBLISHED = (
    Published(network="GoogLeNet", model="inception_v1", batch=64, images_per_s=2302),
    Published(network="DenseNet-121", model="densenet121", batch=32, images_per_s=730),
)


def batched_graph(model: str, batch: int, dtype: str) -> LayerGraph:
    """The layers of a light model of the ``onnx`` package at another batch."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{model}.onnx"
    # Nothing runs, so that the results of its layers, which a batch makes large, take no memory.
    module = load_model(with_batch(onnx.load(str(path)), batch), max_memory_bytes=MOST_BYTES)
    return retype(layer_graph(extract(module)).graph, dtype)


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A copy whose inputs have another first extent, as have the shapes that reshapes of results name."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in constants:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    for value in graph.output:
        value.type.tensor_type.shape.dim[0].dim_value = batch
    del graph.value_info[:]
    computed = {name for node in graph.node if node.op_type != "ConstantOfShape" for name in node.output}
    for node in graph.node:
        if node.op_type == "Reshape" and node.input[0] in computed and node.input[1] in constants:
            shape = constants[node.input[1]]
            extents = numpy_helper.to_array(shape).copy()
            extents[0] = batch
            shape.CopyFrom(numpy_helper.from_array(extents, shape.name))
    return changed


def throughput_rows(published: Published) -> list[dict[str, object]]:
    """Layer by layer, and in groups of at most ``MAX_GROUP`` layers, both on as many of all cores as can be used."""
    arch, graph = load_arch(ARCH_NAME), batched_graph(published.model, published.batch, DTYPE)
    table = price_table(graph, arch)
    warm_up(arch)

    def grouped(prices: AskedPrices) -> Chosen:
        counts = (arch.cores.count,)
        blocks, num_groups, num_excluded = optimal_groups(
            prices, lambda first, stop: (prices.usable(stop, *counts),), max_group=MAX_GROUP
        )
        return blocks, f"{num_groups:,} groups, {num_excluded:,} excluded by bounds"

    return [
        {
            **decision_row(decide(name, strategy, table), arch, graph),
            "workload": f"{published.network}, batch {published.batch}, {DTYPE}",
            "layer": published.network,
            "space": f"batch {published.batch}",
            "objective": OBJECTIVE,
        }
        for name, strategy in (("fixed cores", fixed_cores), (f"groups of up to {MAX_GROUP}", grouped))
    ]


def throughput_table(frame: pd.DataFrame, clock_hz: float) -> PaperTable:
    """Ours beside the published ones."""
    rows = []
    for published in PUBLISHED:
        for _, run in frame[(frame["layer"] == published.network) & (frame["objective"] == OBJECTIVE)].iterrows():
            images_per_s = published.batch * clock_hz / float(run["cycles"])
            rows.append(
                {
                    "network": published.network,
                    "batch": published.batch,
                    "strategy": run["searcher"],
                    "images/s, model": f"{images_per_s:,.0f}",
                    "images/s, published": f"{published.images_per_s:,}",
                    "ratio": images_per_s / published.images_per_s,
                    "groups": int(run["num_groups"]),
                    "DRAM MB per image": f"{float(run['dram_bytes']) / published.batch / 1e6:.2f}",
                    "TFLOPS": f"{2 * float(run['macs_needed']) * clock_hz / float(run['cycles']) / 1e12:.2f}",
                }
            )
    return PaperTable(
        title=f"Throughput of {ARCH_NAME}, fp16, beside public calibration points",
        frame=pd.DataFrame(rows),
        notes=(
            "a model of that machine with an ideal schedule: no host, no launch cost, no synchronisation of cores.",
            "normalisation over channels (GoogLeNet) and concatenations run on the vector units.",
        ),
    )


def run(quick: bool) -> pd.DataFrame:
    """Two rows per network."""
    if quick:
        found = [throughput_rows(PUBLISHED[0])]
    else:
        with ProcessPoolExecutor(max_workers=os.cpu_count(), mp_context=get_context("spawn")) as pool:
            found = list(pool.map(throughput_rows, PUBLISHED))
    rows = [{"commit": source_commit(), **row} for each in found for row in each]
    return make_frame(rows, [*COLUMNS, *EXTRA_COLUMNS])


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """One table."""
    return [throughput_table(frame, load_arch(ARCH_NAME).clock_hz)]


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables))
