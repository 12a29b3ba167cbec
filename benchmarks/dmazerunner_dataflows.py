"""Prior dataflows on ResNet-18 at batch 4: EDP and time over the pruned search and over the certified optimum.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019: 9.16x EDP and 5.83x time, averaged
over OS (Oy|Ox), WS (Fy|Fx), RS (Oy|Fy) and TPU style (M|C).
Compared: for each layer and dataflow the certified optimum with those loops unrolled, in the published execution model.
Budget: none, every optimum is proved; five random searches of 10,000 tilings per layer stand beside them.
Expected time: half a minute on two cores, some more when the kernels are compiled first; ``--quick`` changes nothing.
Differences: the paper does not say whether further loops may be unrolled, so both readings are shown. Layers are the
six that the released tool ships. The paper averages arithmetically; geometric means stand beside.

    python benchmarks/dmazerunner_dataflows.py [--quick] [--csv FILE] [--pictures DIR]
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from paper_script import script_text

from tvm_spm.reproduce.dmazerunner.setup import dataflow_jobs, optimum_jobs, runs_of
from tvm_spm.reproduce.dmazerunner.tables import dataflow_tables, draw, optimum_tables
from tvm_spm.reproduce.paper_table import PaperTable

EXPECTED = Path(__file__).parent / "expected" / "dmazerunner_dataflows.csv"


def run(quick: bool) -> pd.DataFrame:
    """All rows; there is nothing long to leave out."""
    return runs_of([*optimum_jobs(), *dataflow_jobs()])


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """The optima, then the dataflows."""
    return [*optimum_tables(frame), *dataflow_tables(frame)]


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables, draw))
