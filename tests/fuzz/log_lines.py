"""Trial logs, damaged: what is read was written, what is not is named, and a later run can add to the file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from tests.fuzz.mutate import ODD_TEXTS, damaged_bytes, damaged_text
from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm.arch import load_arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection
from tvm_spm.trial import Prediction, Trial
from tvm_spm.tuning.log_lines import LogHeader, RunStart, SearchEnd
from tvm_spm.tuning.saved_run import LOG_NAME, best_trials, load_plan
from tvm_spm.tuning.trial_log import TrialLog, log_warnings, read_log
from tvm_spm.workload import Dims, Operand, Workload

ARCH = load_arch("edge-256")
HEADER = LogHeader.of(ARCH)
WORKLOAD = Workload.matmul(m=4, k=8, n=4)
RUN = RunStart(
    model="m", model_sha256="cd" * 32, objective="edp", seed=7, measurer="simulator/2", tasks=(("fc", "key", WORKLOAD),)
)
ENDED = SearchEnd(
    task="key", objective="edp", seed=7, measurer="simulator/2", settings="{}", num_trials=3, rejected=(("tile", 5),)
)


def _trial(random: Random, index: int) -> Trial:
    mapping = Mapping(spm=Dims(K=random.randint(1, 4), C=8), dram_order=("K",), spm_double=(Operand.W,))
    if random.random() < 0.3:
        why = Rejection(reason="tile", subject="too large", needed=5, available=4, unit="B", nearest="K <= 1 fits")
        return Trial(index=index, task="key", mapping=mapping, measurer="simulator/2", rejection=why)
    cycles = random.randint(1, 10**9)
    cost = Cost(
        cycles=cycles, energy=Energy(mac_pj=random.random(), dram_pj=1 / 3), model="simulator",
        macs=128, utilization=0.25, compute_cycles=cycles, noc_stall_cycles=0, dma_stall_cycles=0, overhead_cycles=0,
        dram_bytes=(1, 2, 3, 0), dma_busy_cycles=1,
    )  # fmt: skip
    return Trial(
        index=index, task="key", mapping=mapping, measurer="simulator/2", model="m", seed=7, cost=cost,
        predicted=(Prediction(model="analytical", cycles=1e-3, energy_pj=1 / 3),),
    )  # fmt: skip


def run(random: Random) -> str:
    """One case."""
    trials = [_trial(random, index) for index in range(random.randint(1, 5))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LOG_NAME
        TrialLog(path, HEADER).append(RUN, *trials, ENDED)
        path.write_bytes(_damaged(path.read_bytes(), random))
        before = path.read_bytes()
        try:
            content = read_log(path, HEADER)
        except SpmError:
            assert path.read_bytes() == before
            return REFUSED
        assert set(content.trials) <= set(trials)
        assert set(content.runs) <= {RUN}
        assert set(content.searches) <= {ENDED}
        assert all(len(text) < 2000 for text in log_warnings(path, content))
        TrialLog(path, HEADER).append(trials[0])
        again = read_log(path, HEADER)
        assert again.trials == (*content.trials, trials[0])
        assert len(again.damaged) == len(content.damaged)
        try:
            for _, _, _, best in best_trials(Path(folder), "edp"):
                assert best in trials
            load_plan(Path(folder))
        except SpmError:
            return REFUSED
    return RIGHT


def _damaged(data: bytes, random: Random) -> bytes:
    how = random.randrange(4)
    if how == 0:
        return data[: random.randrange(len(data) + 1)]
    if how == 1:
        return damaged_bytes(data, random)
    if how == 2:
        return damaged_text(data.decode(), random).encode("utf-8", "replace")
    lines = data.splitlines(keepends=True)
    lines.insert(random.randrange(1, len(lines) + 1), random.choice(ODD_TEXTS).encode("utf-8", "replace") + b"\n")
    return b"".join(lines)
