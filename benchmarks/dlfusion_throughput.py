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
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from tvm_spm.arch import load_arch
from tvm_spm.reproduce.dlfusion.setup import ARCH_NAME, EXTRA_COLUMNS
from tvm_spm.reproduce.dlfusion.throughput import PUBLISHED, throughput_rows, throughput_table
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.runs import COLUMNS, make_frame, source_commit
from tvm_spm.reproduce.script import script_text

EXPECTED = Path(__file__).parent / "expected" / "dlfusion_throughput.csv"


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
