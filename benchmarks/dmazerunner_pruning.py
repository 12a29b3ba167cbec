"""What the pruning of the published search saves and loses, on ResNet-18 at batch 4 and step by step on conv5_2.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019: 9,020x fewer methods, 2.56 % loss.
Compared: number of tilings, and the certified optimum, of the whole space and of what the prunes leave; the time to
price each tiling against the time of branch and bound; random search with 10,000 tilings and five seeds.
Budget: none, every optimum is proved.
Expected time: under two minutes on two cores; ``--quick`` does not price millions of tilings one by one and takes half
a minute.
Differences: the paper counts over its networks, here over the six layers that the released tool ships. Seconds are of
our compiled model; the released tool prices about 1,500 methods per second.

    python benchmarks/dmazerunner_pruning.py [--quick] [--csv FILE]
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from paper_script import script_text

from tvm_spm.reproduce.dmazerunner.setup import optimum_jobs, pruning_jobs, runs_of
from tvm_spm.reproduce.dmazerunner.tables import optimum_tables, pruning_tables
from tvm_spm.reproduce.paper_table import PaperTable

EXPECTED = Path(__file__).parent / "expected" / "dmazerunner_pruning.csv"


def run(quick: bool) -> pd.DataFrame:
    """All rows, without the longest if ``quick``."""
    return runs_of([*pruning_jobs(quick=quick), *optimum_jobs()])


def tables(frame: pd.DataFrame) -> list[PaperTable]:
    """All layers, then step by step."""
    return [*optimum_tables(frame), *pruning_tables(frame)]


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, tables))
