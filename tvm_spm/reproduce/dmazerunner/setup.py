"""Layers, dataflows and reported numbers of Dave et al., and the searches that compute them again.

Source: Dave, Kim, Avancha, Lee, Shrivastava: dMazeRunner, ACM TECS 18(5s), 2019, and the authors' released tool (2022
state). The paper's M, Ox, Oy, Fx, Fy are K, OX, OY, FX, FY here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from cost_model.published.space import AUTO, Prunes
from tvm_spm.reproduce.runs import BOUNDS, COLUMNS, ENUMERATION, RANDOM, LayerJob, measure
from tvm_spm.workload import Workload

ARCH_NAME = "dmazerunner-256"

LAYERS = {
    # The stride never touches the last row and column of conv1; the tool's own model file leaves them out.
    "conv1": Workload.conv2d(N=4, K=64, C=3, OY=112, OX=112, FY=7, FX=7, stride=2, padding=3, IY=223, IX=223),
    "conv2_2": Workload.conv2d(N=4, K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1),
    "conv3_2": Workload.conv2d(N=4, K=128, C=128, OY=28, OX=28, FY=3, FX=3, padding=1),
    "conv4_2": Workload.conv2d(N=4, K=256, C=256, OY=14, OX=14, FY=3, FX=3, padding=1),
    "conv5_1": Workload.conv2d(N=4, K=512, C=256, OY=7, OX=7, FY=3, FX=3, stride=2, padding=1, IY=14, IX=14),
    "conv5_2": Workload.conv2d(N=4, K=512, C=512, OY=7, OX=7, FY=3, FX=3, padding=1),
}
"""The distinct shapes of ResNet-18 that the paper evaluates, at batch 4."""

DATAFLOWS = {
    "OS OY|OX": ("OY", "OX"),
    "WS FY|FX": ("FY", "FX"),
    "RS OY|FY": ("OY", "FY"),
    "TPU K|C": ("K", "C"),
}
"""The prior dataflows the paper compares with, and the loops each unrolls over the PEs."""

STRICT, REPLICATED = "strict", "replicated"
"""Only the two named loops are unrolled, or others may be unrolled besides; everything else is optimised."""

EVERYTHING, PRUNED = "everything", "automatic prunes"
STEPS: tuple[tuple[str, ...], ...] = (
    (), ("OPT1",), ("OPT2",), ("OPT3",), ("OPT1", "OPT2"), ("OPT1", "OPT3"), ("OPT2", "OPT3"), ("OPT1", "OPT2", "OPT3"),
)  # fmt: skip
STEP_LAYER = "conv5_2"
RANDOM_SEEDS = range(5)

LONG_STEPS = ((), ("OPT2",), ("OPT3",), ("OPT2", "OPT3"))
"""Steps that leave millions of tilings; pricing each of them takes most of a minute."""


class Quoted(NamedTuple):
    """Energy of conv5_2 under one dataflow, in pJ, as printed."""

    unrolled: tuple[str, str]
    yang_pj: int
    dave_pj: int


PAPER_EDP_RATIO, PAPER_TIME_RATIO = 9.16, 5.83
TOOL_EDP_RATIO, TOOL_TIME_RATIO = 9.68, 7.87
PAPER_REDUCTION, PAPER_LOSS = 9_020, 0.0256
PAPER_ENERGY = (
    Quoted(("FX", "FY"), 3_231_953_920, 3_307_286_692),
    Quoted(("OX", "OY"), 3_207_345_152, 3_199_142_134),
    Quoted(("K", "FY"), 3_084_006_400, 3_527_055_770),
)
YANG, DAVE = "Yang et al.", "Dave et al."
QUOTED = "quoted"

TOOL_TILINGS = {
    (): 17_545_176, ("OPT1",): 14_980, ("OPT2",): 7_205_961, ("OPT3",): 3_909_306, ("OPT1", "OPT2"): 5_090,
    ("OPT1", "OPT3"): 1_928, ("OPT2", "OPT3"): 1_291_594, ("OPT1", "OPT2", "OPT3"): 753,
}  # fmt: skip
"""Tilings the released tool has left after each step on conv5_2."""


def space_name(rule: str, unrolled: tuple[str, ...]) -> str:
    """Such as ``strict OY|OX``."""
    return f"{rule} {'|'.join(unrolled)}"


def step_name(steps: tuple[str, ...]) -> str:
    """Such as ``OPT1+OPT2``."""
    return "+".join(steps) or EVERYTHING


def optimum_jobs() -> list[LayerJob]:
    """The optimum of each layer, what the paper's automatic prunes leave of it, and random searches."""
    jobs = []
    for layer, workload in LAYERS.items():
        jobs.append(LayerJob(layer=layer, workload=workload, space=EVERYTHING, prunes=Prunes()))
        jobs.append(LayerJob(layer=layer, workload=workload, space=PRUNED, prunes=AUTO, searcher=ENUMERATION))
        for seed in RANDOM_SEEDS:
            jobs.append(
                LayerJob(layer=layer, workload=workload, space=EVERYTHING, prunes=Prunes(), searcher=RANDOM, seed=seed)
            )
    return jobs


def dataflow_jobs() -> list[LayerJob]:
    """The optimum of each layer under each prior dataflow, by both rules."""
    return [
        LayerJob(layer=layer, workload=workload, space=space_name(rule, unrolled), prunes=_unroll(rule, unrolled))
        for layer, workload in LAYERS.items()
        for unrolled in DATAFLOWS.values()
        for rule in (STRICT, REPLICATED)
    ]


def pruning_jobs(*, quick: bool) -> list[LayerJob]:
    """Each combination of prunes on one layer, by bounds and, if it is not too long, tiling by tiling."""
    jobs = []
    for steps in STEPS:
        job = LayerJob(layer=STEP_LAYER, workload=LAYERS[STEP_LAYER], space=step_name(steps), prunes=Prunes.of(*steps))
        jobs.append(job)
        if not (quick and steps in LONG_STEPS):
            jobs.append(replace(job, searcher=ENUMERATION))
    # The longest first, so that no thread is left with it at the end.
    return sorted(jobs, key=lambda job: job.searcher == BOUNDS or len(job.space))


def energy_jobs() -> list[LayerJob]:
    """The dataflows of the energy comparison on conv5_2, by both rules, for least EDP and for least energy."""
    return [
        LayerJob(
            layer=STEP_LAYER,
            workload=LAYERS[STEP_LAYER],
            space=space_name(rule, quoted.unrolled),
            prunes=_unroll(rule, quoted.unrolled),
            objective=objective,
        )
        for quoted in PAPER_ENERGY
        for rule in (STRICT, REPLICATED)
        for objective in ("edp", "energy")
    ]


def runs_of(jobs: list[LayerJob], *, with_quoted_energy: bool = False) -> pd.DataFrame:
    """One row per run, and one per quoted energy if asked for."""
    frame = measure(jobs, ARCH_NAME)
    if not with_quoted_energy:
        return frame
    first = frame.iloc[0]
    rows = [
        {
            **{name: first[name] for name in ("commit", "arch", "arch_sha256")},
            "workload": str(LAYERS[STEP_LAYER]),
            "layer": STEP_LAYER,
            "space": "|".join(quoted.unrolled),
            "searcher": authors,
            "energy_pj": energy_pj,
            "source": QUOTED,
        }
        for quoted in PAPER_ENERGY
        for authors, energy_pj in ((YANG, quoted.yang_pj), (DAVE, quoted.dave_pj))
    ]
    quoted_frame = pd.DataFrame(rows, columns=list(COLUMNS)).astype(object)
    return pd.concat([frame.astype(object), quoted_frame], ignore_index=True).fillna("")


def _unroll(rule: str, unrolled: tuple[str, ...]) -> Prunes:
    return Prunes(unrolled=unrolled, unroll_others=rule == REPLICATED)
