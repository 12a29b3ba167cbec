"""Runs of the published model's searches, one row each, in the columns that every benchmark shares."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cost_model.published.search import pruned_search, published_exact, published_random
from cost_model.published.space import Prunes
from tvm_spm.arch import Arch, load_arch
from tvm_spm.workload import Workload

BOUNDS, ENUMERATION, RANDOM = "bounds", "enumeration", "random"
"""Searchers: every tiling priced or excluded by a bound; every tiling priced; tilings drawn uniformly."""

RANDOM_TRIALS = 10_000
"""Tilings a random search draws: what the search with bounds prices of the largest layers."""

COLUMNS = (
    "commit", "arch", "arch_sha256", "workload", "layer", "space", "objective", "searcher", "seed", "budget_trials",
    "sim_calls", "wall_s", "num_tilings", "cycles", "energy_pj", "edp_pj_cycles", "lower_bound", "mapping", "source",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerJob:
    """One search of one layer.

    Attributes:
        layer: Short name of the layer.
        workload: The layer.
        space: Short name of ``prunes``.
        prunes: What the search leaves out.
        objective: ``edp``, ``energy`` or ``latency``.
        searcher: ``BOUNDS``, ``ENUMERATION`` or ``RANDOM``.
        seed: Of ``RANDOM``.
    """

    layer: str
    workload: Workload
    space: str
    prunes: Prunes
    objective: str = "edp"
    searcher: str = BOUNDS
    seed: int = 0


def measure(jobs: Sequence[LayerJob], arch_name: str) -> pd.DataFrame:
    """One row per distinct job; searches run on as many threads as there are processors.

    Raises:
        NoMappingError: The prunes of a job leave nothing.
    """
    arch = load_arch(arch_name)
    # Compiles both searches, so that no job's time includes it.
    tiny = Workload.conv2d(K=2, C=2, OY=1, OX=1, FY=1, FX=1)
    for searcher in (BOUNDS, ENUMERATION, RANDOM):
        _values(LayerJob(layer="", workload=tiny, space="", prunes=Prunes(), searcher=searcher), arch)
    common = {"commit": source_commit(), "arch": arch.name, "arch_sha256": arch.sha256()}
    distinct = list(dict.fromkeys(jobs))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        rows = [{**common, **values} for values in pool.map(lambda job: _values(job, arch), distinct)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def make_frame(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """Rows as they are, whole numbers staying whole; what a row lacks is empty."""
    return pd.DataFrame(
        [{name: row.get(name, "") for name in columns} for row in rows], columns=list(columns), dtype=object
    )


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Writes every digit."""
    frame.to_csv(path, index=False, lineterminator="\n")


def _values(job: LayerJob, arch: Arch) -> dict[str, object]:
    begin = time.perf_counter()
    if job.searcher == ENUMERATION:
        best = pruned_search(job.workload, arch, prunes=job.prunes, objective=job.objective)
    elif job.searcher == BOUNDS:
        best = published_exact(job.workload, arch, job.objective, prunes=job.prunes)
    else:
        rng = np.random.default_rng(job.seed)
        best = published_random(
            job.workload, arch, job.objective, num_evaluated=RANDOM_TRIALS, rng=rng, prunes=job.prunes
        )
    return {
        "workload": str(job.workload),
        "layer": job.layer,
        "space": job.space,
        "objective": job.objective,
        "searcher": job.searcher,
        "seed": job.seed,
        "budget_trials": best.num_evaluated,
        "sim_calls": 0,
        "wall_s": round(time.perf_counter() - begin, 4),
        "num_tilings": best.num_tilings,
        "cycles": best.cycles,
        "energy_pj": best.energy_pj,
        "edp_pj_cycles": best.edp,
        "lower_bound": best.lower_bound,
        "mapping": _text(best.named_factors()),
        "source": "analytical",
    }


def _text(named: dict[str, dict[str, int]]) -> str:
    """Factors as ``DRAM K4 C32 | SPM C8 | RF N2 | spatial K16``."""
    return " | ".join(
        " ".join([level, *(f"{dim}{factor}" for dim, factor in row.items())]) for level, row in named.items()
    )


def source_commit() -> str:
    """The commit of the source tree, with ``-dirty`` if files differ; ``unknown`` for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
