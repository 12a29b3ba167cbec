"""The strategies that Liu et al. compare, on a model of their machine, and what each costs to find.

Source: Liu, Leng, Chen, Li, Zheng, Li, Guo: DLFusion, ISPA 2020. The paper measures a Cambricon accelerator; here the
machine is a model built from public data sheets, whose scratchpad, on-chip rates and energies are assumed, so a speedup
is a property of the model and stands beside the paper's range without being one of its numbers. The constants of its
heuristic are not public: ours are calibrated (``calibration``) and printed as ours.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd

from tvm_spm.report.plan_picture import DrawnGroup, draw_plan
from tvm_spm.reproduce.dlfusion.halo import halo_rows, halo_tables
from tvm_spm.reproduce.dlfusion.setup import (
    ARCH_NAME,
    CALIBRATION,
    CORE_COUNTS,
    DTYPE,
    EXACT,
    HEURISTIC,
    NETWORKS,
    NO_OPTIMISATION,
    PAPER,
    PAPER_LEAST_SPEEDUP,
    PAPER_MOST_SPEEDUP,
    SENSITIVITY,
    SPM_KIB,
    STRATEGIES,
    all_rows,
)
from tvm_spm.reproduce.dlfusion.strategies import MAX_CUTS, MAX_GROUP
from tvm_spm.reproduce.paper_table import PaperTable, geometric_mean

SHORT = {
    "fixed cores": "2 fixed cores", "best cores per layer": "3 best cores", "fuse everything": "4 fuse all",
    "fuse, one count": "5 one count", "heuristic": "6 heuristic", "reduced brute force": "7 reduced",
    "exact": "8 exact", "no optimisation": "1 none",
}  # fmt: skip
"""Headings of columns."""


def all_runs(*, quick: bool) -> pd.DataFrame:
    """Every row behind every table; ``quick`` is one network on one size, and a smaller calibration."""
    return pd.concat([all_rows(quick=quick), halo_rows(quick=quick)], ignore_index=True).fillna("")


def tables_of(frame: pd.DataFrame) -> list[PaperTable]:
    """All tables of given rows."""
    return [
        speedup_table(frame), range_table(frame), distance_table(frame), seconds_table(frame), traffic_table(frame),
        size_table(frame), calibration_table(frame), *halo_tables(frame),
    ]  # fmt: skip


def speedup_table(frame: pd.DataFrame) -> PaperTable:
    """Speedup of every strategy over no optimisation."""
    rows, speedups = [], _speedups(frame, SPM_KIB[1])
    for network, of in speedups.items():
        base = _run(frame, network, NO_OPTIMISATION)
        rows.append(
            {
                "network": network,
                "1 none, ms": _ms(base),
                **{SHORT[name]: of[name] for name in STRATEGIES[1:]},
                "floor": base["cycles"] / float(base["lower_bound"]),
            }
        )
    means = {SHORT[name]: geometric_mean([of[name] for of in speedups.values()]) for name in STRATEGIES[1:]}
    rows.append({"network": "geo. mean", "1 none, ms": math.nan, **means, "floor": math.nan})
    return PaperTable(
        title=f"Speedup over no optimisation, {ARCH_NAME} with {SPM_KIB[1]} KiB per core, fp16, batch 1",
        frame=_times(pd.DataFrame(rows)),
        notes=(
            "a model of that machine, not a measurement: its scratchpad, rates on the chip and energies are assumed.",
            "1: one core, layer by layer. 2: as many of all cores as the layer can be split over. 3: the best number",
            "per layer. 4: groups that grow while they fit, on all cores. 5: optimal groups on one number of cores,",
            "the best for the network. 6: cores from operations and channels, a block closed at a threshold. 7: every",
            f"set of cuts at up to {MAX_CUTS} places, first where shapes change, powers of two of cores. 8: the",
            f"optimum over groups of at most {MAX_GROUP} layers on {' '.join(map(str, CORE_COUNTS))} cores; 5 has that",
            "limit of layers too.",
            "floor: no plan is faster, for all weights have to come from DRAM once and all cores have a peak rate.",
        ),
    )


def range_table(frame: pd.DataFrame) -> PaperTable:
    """Least and most speedup over the networks beside the paper's."""
    rows = [
        {
            "reported by": f"{PAPER}, the paper (quoted)", "least": PAPER_LEAST_SPEEDUP, "most": PAPER_MOST_SPEEDUP,
            "least ratio": 1.0, "most ratio": 1.0,
        }
    ]  # fmt: skip
    for strategy in (HEURISTIC, EXACT):
        found = [of[strategy] for of in _speedups(frame, SPM_KIB[1]).values()]
        rows.append(
            {
                "reported by": f"this model, {strategy}", "least": min(found), "most": max(found),
                "least ratio": min(found) / PAPER_LEAST_SPEEDUP, "most ratio": max(found) / PAPER_MOST_SPEEDUP,
            }
        )  # fmt: skip
    shown = pd.DataFrame(rows)
    for column in ("least", "most"):
        shown[column] = [f"{value:.2f}x" for value in shown[column]]
    return PaperTable(title="Range of speedups over no optimisation, beside the paper's", frame=shown)


def distance_table(frame: pd.DataFrame) -> PaperTable:
    """How much slower than the optimum each strategy is."""
    rows = []
    for network in _networks(frame):
        best = _run(frame, network, EXACT)["cycles"]
        losses = {SHORT[name]: _run(frame, network, name)["cycles"] / best - 1 for name in STRATEGIES[1:-1]}
        rows.append({"network": network, **losses})
    shown = pd.DataFrame(rows)
    return PaperTable(
        title="Cycles above the exact optimum",
        frame=shown.map(lambda value: value if isinstance(value, str) else f"{value:.1%}"),
    )


def seconds_table(frame: pd.DataFrame) -> PaperTable:
    """What each strategy costs to find."""
    rows = []
    for network in _networks(frame):
        for what, column, show in (
            ("groups priced", "budget_trials", "{:,.0f}"), ("pricing s", "cost_s", "{:.2f}"),
            ("deciding s", "decide_s", "{:.3f}"),
        ):  # fmt: skip
            values = {SHORT[name]: show.format(float(_run(frame, network, name)[column])) for name in STRATEGIES}
            rows.append({"network": network, "": what, **values})
    return PaperTable(
        title="Search: groups priced, and seconds to price them and to decide",
        frame=pd.DataFrame(rows),
        notes=(
            "a group counts once per number of cores. Prices are shared: each strategy is charged the seconds that its",
            "groups took when they were first priced, as if it were alone; groups that look alike are priced once.",
        ),
    )


def traffic_table(frame: pd.DataFrame) -> PaperTable:
    """Where the time goes: bytes from DRAM, work done again, groups and cores."""
    rows = []
    for network in _networks(frame):
        for name in STRATEGIES:
            run = _run(frame, network, name)
            seconds = _ms(run) / 1e3
            rows.append(
                {
                    "network": network,
                    "strategy": SHORT[name],
                    "ms": f"{_ms(run):.3f}",
                    "groups": int(run["num_groups"]),
                    "most cores": int(run["most_cores"]),
                    "DRAM MB": f"{run['dram_bytes'] / 1e6:.2f}",
                    "DRAM GB/s": f"{run['dram_bytes'] / seconds / 1e9:.1f}",
                    "TFLOPS": f"{2 * run['macs_needed'] / seconds / 1e12:.2f}",
                    "recomputed": f"{run['macs_executed'] / run['macs_needed'] - 1:.1%}",
                    "remark": run["note"],
                }
            )
    return PaperTable(
        title="What the strategies do: groups, traffic and work",
        frame=pd.DataFrame(rows),
        notes=("the machine has 102.4 GB/s and 65.5 TFLOPS; one core has one channel of 25.6 GB/s and 2.05 TFLOPS.",),
    )


def size_table(frame: pd.DataFrame) -> PaperTable:
    """Speedups by assumed size of the scratchpad."""
    rows = []
    for size in SPM_KIB:
        for network in _networks(frame, size):
            of = {name: _run(frame, network, name, size) for name in SENSITIVITY}
            base = of[NO_OPTIMISATION]
            rows.append(
                {
                    "SPM KiB": size,
                    "network": network,
                    "1 none, ms": f"{_ms(base):.3f}",
                    **{SHORT[name]: base["cycles"] / of[name]["cycles"] for name in SENSITIVITY[1:]},
                    "8 exact, ms": f"{_ms(of[EXACT]):.3f}",
                }
            )
    return PaperTable(
        title="Speedup over no optimisation by assumed scratchpad per core",
        frame=_times(pd.DataFrame(rows)),
        notes=(f"the heuristic keeps the constants fitted for {SPM_KIB[1]} KiB.",),
    )


def calibration_table(frame: pd.DataFrame) -> PaperTable:
    """The constants of the heuristic, and what they lose on synthetic layers."""
    run = frame[frame["layer"] == CALIBRATION].iloc[0]
    rule, losses = json.loads(str(run["mapping"])), json.loads(str(run["note"]))
    rows = [
        {
            "synthetic": what, "layers": loss["layers"], "layers, least": loss["layers_least"],
            "chains": loss["chains"], "chains, own constants": loss["chains_least"],
            "chains, not fused": loss["chains_alone"],
        }
        for what, loss in losses.items()
    ]  # fmt: skip
    shown = pd.DataFrame(rows)
    return PaperTable(
        title="Loss of the heuristic on synthetic layers; its constants are ours, the paper's are not public",
        frame=shown.map(lambda value: value if isinstance(value, str) else f"{value:.1%}"),
        notes=(
            f"log2 cores = {rule['macs_weight']:.4g} log2 MACs + {rule['channels_weight']:.4g} log2 channels"
            f" + {rule['offset']:.4g}; a block closes when",
            f"log2 MACs per core + {rule['block_channels_weight']:.4g} log2 channels >= {rule['block_score']:.4g}.",
            f"fitted on {run['workload']} in {float(run['wall_s']):.0f} s; held out are other sizes of the same kinds.",
            "loss: geometric mean of cycles over the best number of cores (layers) or over the reduced brute force",
            "(chains), less 1. least: of any choice that knows operations and channels only. own constants: as if",
            "every chain had its own number of cores and threshold. not fused: the best number of cores per layer.",
        ),
    )


def draw(frame: pd.DataFrame, out_dir: Path) -> list[Path]:
    """Draws the speedups of every network, and the exact plan of each: layers, groups and cores."""
    from tvm_spm.reproduce.dlfusion.networks import network_graph
    from tvm_spm.reproduce.picture import ratio_bars, save

    speedups = _speedups(frame, SPM_KIB[1])
    # The speedup of fusing everything is too far below 1 to be seen.
    shown = [name for name in STRATEGIES if name not in (NO_OPTIMISATION, "fuse everything")]
    figure = ratio_bars(
        list(speedups),
        {SHORT[name]: [of[name] for of in speedups.values()] for name in shown},
        label="speedup over no optimisation",
        title=f"Fusion and cores on the model {ARCH_NAME}, {SPM_KIB[1]} KiB per core, fp16, batch 1",
        band=(PAPER_LEAST_SPEEDUP, PAPER_MOST_SPEEDUP, f"measured by {PAPER} (range, quoted)"),
    )
    paths = save(figure, out_dir, "dlfusion_speedups")
    for network in speedups:
        run = _run(frame, network, EXACT)
        path = out_dir / f"dlfusion_plan_{network}.svg"
        title = f"{network}, exact plan on the model {ARCH_NAME}: {speedups[network][EXACT]:.2f}x over no optimisation"
        draw_plan(network_graph(network, DTYPE), _drawn(str(run["mapping"])), path, title=title)
        paths.append(path)
    return paths


def _drawn(blocks: str) -> list[DrawnGroup]:
    """The blocks of a row, written ``first-last@cores``."""
    found = []
    for block in blocks.split():
        first, last, cores = map(int, block.replace("@", "-").split("-"))
        found.append(DrawnGroup(layers=tuple(range(first, last + 1)), num_cores=cores))
    return found


def _networks(frame: pd.DataFrame, spm_kib: int = SPM_KIB[1]) -> list[str]:
    present = set(frame[frame["space"] == f"SPM {spm_kib} KiB"]["layer"])
    return [network for network in NETWORKS if network in present]


def _run(frame: pd.DataFrame, network: str, strategy: str, spm_kib: int = SPM_KIB[1]) -> pd.Series:
    chosen = {"layer": network, "searcher": strategy, "space": f"SPM {spm_kib} KiB"}
    return frame[(frame[list(chosen)] == pd.Series(chosen)).all(axis=1)].iloc[0]


def _speedups(frame: pd.DataFrame, spm_kib: int) -> dict[str, dict[str, float]]:
    """By network and strategy."""
    return {
        network: {
            name: _run(frame, network, NO_OPTIMISATION, spm_kib)["cycles"]
            / _run(frame, network, name, spm_kib)["cycles"]
            for name in STRATEGIES
        }
        for network in _networks(frame, spm_kib)
    }


def _ms(run: pd.Series) -> float:
    # The machine runs at 1 GHz.
    return float(run["cycles"]) / 1e6


def _times(shown: pd.DataFrame) -> pd.DataFrame:
    """Ratios as ``2.50x``, times with three digits."""

    def show(name: str, value: object) -> object:
        if not isinstance(value, float) or math.isnan(value):
            return value
        return f"{value:.3f}" if name.endswith("ms") else f"{value:.2f}x"

    return pd.DataFrame({name: [show(name, value) for value in shown[name]] for name in shown.columns})
