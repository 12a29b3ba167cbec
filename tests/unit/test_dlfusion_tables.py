"""Tables of the comparison with DLFusion, from rows made by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
import pytest
from dlfusion_throughput import PUBLISHED, throughput_table

from tvm_spm.reproduce.dlfusion import tables as dlfusion
from tvm_spm.reproduce.dlfusion.calibration import Loss
from tvm_spm.reproduce.dlfusion.heuristic import Rule
from tvm_spm.reproduce.dlfusion.setup import CALIBRATION, SPM_KIB, STRATEGIES

RULE = Rule(macs_weight=0.1, channels_weight=-0.05, offset=0.5, block_score=16.0, block_channels_weight=0.25)
LOSS = Loss(layers=0.012, layers_least=0.001, chains=0.3, chains_least=0.2, chains_alone=0.5)


def decided(network: str, strategy: str, cycles: int, spm_kib: int = SPM_KIB[1]) -> dict[str, object]:
    return {
        "layer": network, "searcher": strategy, "space": f"SPM {spm_kib} KiB", "objective": "latency",
        "spm_kib": spm_kib, "cycles": cycles, "budget_trials": 7, "cost_s": 1.5, "decide_s": 0.25, "num_groups": 3,
        "most_cores": 32, "lower_bound": 500_000, "dram_bytes": 4_000_000, "macs_executed": 1_100, "macs_needed": 1_000,
        "note": "",
    }  # fmt: skip


@pytest.fixture
def frame() -> pd.DataFrame:
    # No optimisation takes 8 ms; the strategies behind it 4, 2, 8, 4, 2.5, 2 and 1 ms.
    milliseconds = (8, 4, 2, 8, 4, 2.5, 2, 1)
    rows = [decided("alexnet", name, int(ms * 1e6)) for name, ms in zip(STRATEGIES, milliseconds, strict=True)]
    rows.append(
        {
            "layer": CALIBRATION, "space": "SPM 1024 KiB", "workload": "24 layers",
            "mapping": json.dumps(asdict(RULE)), "note": json.dumps({"fit": asdict(LOSS), "held out": asdict(LOSS)}),
            "wall_s": 9.0,
        }
    )  # fmt: skip
    return pd.DataFrame(rows)


def lines(table: object) -> list[str]:
    return [" ".join(line.split()) for line in str(table).splitlines()]


def test_speedups_divide_by_no_optimisation(frame: pd.DataFrame):
    # The floor is 0.5 ms, a sixteenth of 8 ms.
    found = lines(dlfusion.speedup_table(frame))
    assert "alexnet 8.000 2.00x 4.00x 1.00x 2.00x 3.20x 4.00x 8.00x 16.00x" in found
    assert "geo. mean - 2.00x 4.00x 1.00x 2.00x 3.20x 4.00x 8.00x -" in found


def test_the_papers_range_stands_beside_ours(frame: pd.DataFrame):
    found = lines(dlfusion.range_table(frame))
    assert "Liu et al., the paper (quoted) 3.60x 7.90x 1.0000 1.0000" in found
    # 3.2 / 3.6 = 0.8889, 3.2 / 7.9 = 0.4051; 8 / 3.6 = 2.2222, 8 / 7.9 = 1.0127.
    assert "this model, heuristic 3.20x 3.20x 0.8889 0.4051" in found
    assert "this model, exact 8.00x 8.00x 2.2222 1.0127" in found


def test_distances_are_above_the_optimum(frame: pd.DataFrame):
    # 4, 2, 8, 4, 2.5 and 2 ms over 1 ms.
    assert "alexnet 300.0% 100.0% 700.0% 300.0% 150.0% 100.0%" in lines(dlfusion.distance_table(frame))


def test_rates_follow_from_bytes_and_cycles(frame: pd.DataFrame):
    # 4 MB in 1 ms at 1 GHz are 4 GB/s; 1,100 MACs executed for 1,000 needed are 10 % more.
    found = lines(dlfusion.traffic_table(frame))
    assert "alexnet 8 exact 1.000 3 32 4.00 4.0 0.00 10.0%" in found


def test_constants_are_printed_as_ours(frame: pd.DataFrame):
    table = dlfusion.calibration_table(frame)
    assert "ours" in table.title
    found = lines(table)
    assert "fit 1.2% 0.1% 30.0% 20.0% 50.0%" in found
    assert any("log2 cores = 0.1 log2 MACs + -0.05 log2 channels + 0.5; a block closes when" in line for line in found)


def test_sizes_without_rows_are_left_out(frame: pd.DataFrame):
    assert lines(dlfusion.size_table(frame))[2] == "1024 alexnet 8.000 4.00x 3.20x 8.00x 1.000"


def test_throughput_counts_images():
    # 64 images in 32 ms at 1 GHz are 2,000 images per second; 2,000 / 2,302 = 0.8688.
    rows = [{"layer": published.network, "searcher": "exact", "objective": "throughput", "cycles": 32_000_000,
             "most_cores": 32, "num_groups": 4, "dram_bytes": 10, "macs_needed": 1, "note": ""}
            for published in PUBLISHED[:1]]  # fmt: skip
    found = lines(throughput_table(pd.DataFrame(rows), clock_hz=1e9))
    assert any(line.startswith("GoogLeNet 64 exact 2,000 2,302 0.8688") for line in found)
