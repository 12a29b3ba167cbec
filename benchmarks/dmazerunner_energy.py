"""Energy of three dataflows on conv5_2 beside the numbers of Yang et al. and of Dave et al.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, which prints both columns.
Compared: for each dataflow the certified optimum of the published execution model with those loops unrolled, for least
EDP and for least energy, with and without further loops unrolled.
Budget: none, every optimum is proved; a random search has no part in a comparison of energies.
Expected time: seconds, half a minute when the kernels are compiled first; ``--quick`` changes nothing.
Differences: a quoted number comes without its mapping; nothing is fitted to it. The model of Yang et al. is not
computed.

    python benchmarks/dmazerunner_energy.py [--quick] [--csv FILE]
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from paper_script import script_text

from tvm_spm.reproduce.dmazerunner.setup import energy_jobs, runs_of
from tvm_spm.reproduce.dmazerunner.tables import energy_tables

EXPECTED = Path(__file__).parent / "expected" / "dmazerunner_energy.csv"


def run(quick: bool) -> pd.DataFrame:
    """All rows; there is nothing long to leave out."""
    return runs_of(energy_jobs(), with_quoted_energy=True)


if __name__ == "__main__":
    print(script_text(__doc__, EXPECTED, run, energy_tables))
