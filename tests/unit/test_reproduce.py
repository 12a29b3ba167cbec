"""Tables of papers: formats, pins and errors, on rows made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from paper_script import differences, read_csv

from tvm_spm.errors import SpmError, WorkdirError
from tvm_spm.reproduce import reproduce
from tvm_spm.reproduce.dmazerunner.setup import (
    DATAFLOWS,
    LAYERS,
    LONG_STEPS,
    PAPER_ENERGY,
    PRUNED,
    STRICT,
    dataflow_jobs,
    pruning_jobs,
    space_name,
    step_name,
)
from tvm_spm.reproduce.dmazerunner.tables import dataflow_ratios
from tvm_spm.reproduce.paper_table import PaperTable
from tvm_spm.reproduce.runs import BOUNDS, COLUMNS, ENUMERATION, write_csv


def row(**values: object) -> dict[str, object]:
    made = dict.fromkeys(COLUMNS, "")
    made.update({"objective": "edp", "searcher": BOUNDS, "seed": 0, "source": "analytical"}, **values)
    return made


def test_unknown_paper_names_the_nearest():
    with pytest.raises(SpmError) as error:
        reproduce("dmazeruner")
    assert str(error.value) == "reproduce: unknown paper 'dmazeruner'; did you mean 'dmazerunner'?"


def test_unwritable_directory_is_named_before_anything_runs(tmp_path: Path):
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(WorkdirError, match="file: cannot write: File exists"):
        reproduce("dmazerunner", quick=True, out_dir=occupied)


def test_a_table_shows_each_number_in_its_own_format():
    # 1234567 tilings get commas, 0.0256 is 2.56 %, a ratio has two digits and an x, a missing number is a dash.
    frame = pd.DataFrame(
        {"layer": ["a", "b"], "tilings": [1_234_567, 8], "loss": [0.0256, math.nan], "OS EDP": [9.163, 1.0]}
    )
    text = str(PaperTable(title="Title", frame=frame, notes=("a note",))).splitlines()
    assert text[0] == "Title"
    assert text[2].split() == ["a", "1,234,567", "2.56%", "9.16x"]
    assert text[3].split() == ["b", "8", "-", "1.00x"]
    assert text[4] == "  a note"


def test_ratios_divide_by_the_pruned_search():
    # Dataflow number i takes 2 + i times the EDP and half as many times the cycles of the pruned search.
    rows = []
    for layer in LAYERS:
        rows.append(row(layer=layer, space=PRUNED, searcher=ENUMERATION, edp_pj_cycles=8.0, cycles=4))
        for i, unrolled in enumerate(DATAFLOWS.values()):
            space = space_name(STRICT, unrolled)
            rows.append(row(layer=layer, space=space, edp_pj_cycles=8.0 * (2 + i), cycles=2 * (2 + i)))
    ratios = dataflow_ratios(pd.DataFrame(rows), STRICT)
    assert set(ratios) == set(LAYERS)
    for of_layer in ratios.values():
        assert list(of_layer.values()) == [(2.0, 1.0), (3.0, 1.5), (4.0, 2.0), (5.0, 2.5)]


def test_pins_show_what_moved(tmp_path: Path):
    pinned = pd.DataFrame([row(layer="a", cycles=10, wall_s=1.5, commit="old"), row(layer="b", cycles=20)])
    write_csv(pinned, tmp_path / "pins.csv")
    read = read_csv(tmp_path / "pins.csv")
    same = pd.DataFrame([row(layer="a", cycles=10, wall_s=99.0, commit="new")])
    assert differences(same, read) == "all 1 rows equal the pinned ones"
    moved = pd.DataFrame([row(layer="b", cycles=21), row(layer="c", cycles=1)])
    assert differences(moved, read).splitlines() == [
        "b /  / edp / bounds / 0 / analytical: cycles was 20, is 21",
        "c /  / edp / bounds / 0 / analytical: not pinned",
    ]


def test_jobs_cover_each_claim_once():
    jobs = dataflow_jobs()
    assert len(jobs) == len(set(jobs)) == 6 * 4 * 2
    assert {job.prunes.unroll_others for job in jobs} == {False, True}
    # 8 combinations of 3 prunes by bounds; tiling by tiling too, but for the 4 long ones if quick.
    assert len(pruning_jobs(quick=False)) == 16
    quick = pruning_jobs(quick=True)
    assert len(quick) == 12
    assert not {job.space for job in quick if job.searcher == ENUMERATION} & {step_name(steps) for steps in LONG_STEPS}


def test_quoted_energies_differ_as_the_paper_says():
    # The paper's largest difference over all its dataflows is 14.37 %: 3,527,055,770 / 3,084,006,400 = 1.1437.
    assert max(abs(quoted.dave_pj / quoted.yang_pj - 1) for quoted in PAPER_ENERGY) == pytest.approx(0.1437, abs=5e-5)
