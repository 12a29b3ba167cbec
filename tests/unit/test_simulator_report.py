"""Breakdown, timeline and pictures of tiny runs that can be checked by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_simulator import TOY, column
from tvm_spm.arch import Arch, Cores
from tvm_spm.errors import MappingError, SpmError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.report.breakdown import explain
from tvm_spm.report.show import show_text
from tvm_spm.report.timeline import Event, Residency, Timeline, timeline
from tvm_spm.tuner import evaluate
from tvm_spm.workload import Dims, Epilogue, Operand, Workload

I, W, O = Operand.I, Operand.W, Operand.O  # noqa: E741

ONE_PASS = Mapping(spm=Dims(OX=2), rf=Dims(OX=2))


def reasons(workload: Workload, mapping: Mapping, arch: Arch = TOY) -> dict[str, int]:
    return {str(reason): reason.cycles for reason in explain(workload, arch, mapping).reasons}


def two_cores(num_channels: int = 1) -> Arch:
    dram = replace(TOY.levels.DRAM, channels=num_channels)
    return replace(TOY, cores=Cores(count=2), levels=replace(TOY.levels, DRAM=dram))


def test_reasons_of_one_pass():
    # load I 10+2 and W 10+1, fill max(2, 1), 2 MACs one by one, drain 2, store 10+2
    assert reasons(column(2), ONE_PASS) == {
        "compute": 2, "first load I": 12, "first load W": 11, "last store O out": 12, "fill": 2, "drain": 2,
    }  # fmt: skip


def test_reasons_between_passes_with_one_buffer():
    # the store of the first pass and the second I move between the passes
    assert reasons(column(2), Mapping(dram_order=("OX",))) == {
        "compute": 2, "first load I": 11, "first load W": 11, "SPM buffer I": 11, "SPM buffer O out": 11,
        "last store O out": 11, "fill": 2, "drain": 2,
    }  # fmt: skip


def test_reasons_between_passes_with_two_buffers():
    # the second I (11) outlasts the first pass (3) by 8, the first store (11) the second pass (3) by 8
    assert reasons(column(2), Mapping(dram_order=("OX",), spm_double=(I, O))) == {
        "compute": 2, "first load I": 11, "first load W": 11, "DMA I": 8, "DMA O out": 8, "last store O out": 11,
        "fill": 2, "drain": 2,
    }  # fmt: skip


def test_reasons_between_steps():
    # step 2's I (1) and step 1's O (1) share the time between the steps; the first of the slowest is charged
    assert reasons(column(2), Mapping(spm=Dims(OX=2), spm_order=("OX",)))["RF buffer I"] == 1
    wide = column(4)
    # two registers: 2 MACs by one PE, while 2 x 2 inputs cross: 4 PEs take 4 cycles of crossing, 1 MAC each
    doubled = Mapping(
        spm=Dims(OX=4), rows=Dims(OX=2), rf=Dims(OX=1), spm_order=("OX",), rf_double=(I, W, O)
    )  # fmt: skip
    # step 1: MAC 1 beside I 2; step 2: MAC 1 beside O 2
    assert reasons(wide, doubled)["network I"] == 1
    assert reasons(wide, doubled)["network O out"] == 1


def test_reasons_for_sharing_a_channel():
    # core 1 waits for core 0: 11 before I, 11 before W, 44 - 44 = 0 before the store at 47, which waits until 55
    found = reasons(column(2), Mapping(cores=Dims(OX=2)), two_cores())
    assert found["DRAM arbitration"] == 11 + 11 + 8
    assert sum(found.values()) == 66
    assert "DRAM arbitration" not in reasons(column(2), Mapping(cores=Dims(OX=2)), two_cores(2))


def test_reasons_for_the_vector_unit():
    # 2 outputs x 40 operations take 80 cycles, of which the DMA needs 12 anyway
    work = replace(column(2), epilogue=Epilogue(num_ops_per_elem=40))
    found = reasons(work, ONE_PASS)
    assert (found["last store O out"], found["vector unit"]) == (12, 68)


def test_resources_of_one_pass():
    uses = {use.resource: use for use in explain(column(2), TOY, ONE_PASS).resources}
    busy = {name: use.busy_cycles for name, use in uses.items()}
    assert busy == {
        "DMA": 35, "NoC I": 2, "NoC W": 1, "NoC O in": 0, "NoC O out": 2, "PE array": 2, "vector unit": 0,
        "DRAM channels": 35,
    }  # fmt: skip
    assert (uses["PE array"].stalled_cycles, uses["DMA"].idle_cycles) == (39, 6)
    assert uses["DMA"].busy_share == 35 / 41


def test_pes_at_an_edge():
    # OX = 3 on 2 rows: steps of 2 and 1; 4 PEs, of which 2 are mapped, and one of them is idle in the second step
    pe = explain(column(3), TOY, Mapping(spm=Dims(OX=3), rows=Dims(OX=2), spm_order=("OX",))).pe
    assert (pe.macs, pe.edge, pe.unmapped) == (3, 1, 2 * 2)


def test_levels_of_one_pass():
    # per operand: DRAM once; SPM once to DRAM and once to the array; RF: MACs and deliveries
    found = {
        (use.level, use.operand): (use.num_bytes, use.energy_pj) for use in explain(column(2), TOY, ONE_PASS).levels
    }
    assert found["DRAM", "I"] == (2, 200)
    assert found["SPM", "W"] == (2, 20)
    assert found["NoC", "O"] == (2, 2 * 2)
    assert found["RF", "O"] == (2 * 2 + 2, 2 * 2 + 2)
    assert found["DRAM", "extras"] == (0, 0)


def test_whole_bursts_of_one_pass():
    # 2 inputs, 1 weight and 2 outputs of a byte are a burst of 8 B each: 10 + 8 cycles, and 8 words of 100 pJ
    coarse = replace(TOY, levels=replace(TOY.levels, DRAM=replace(TOY.levels.DRAM, burst_bytes=8)))
    assert reasons(column(2), ONE_PASS, coarse) == {
        "compute": 2, "first load I": 18, "first load W": 18, "last store O out": 18, "fill": 2, "drain": 2,
    }  # fmt: skip
    found = explain(column(2), coarse, ONE_PASS)
    by_level = {(use.level, use.operand): (use.num_bytes, use.energy_pj) for use in found.levels}
    assert [by_level["DRAM", name] for name in ("I", "W", "O")] == [(8, 800)] * 3
    # on the chip only what is used moves
    assert by_level["SPM", "W"] == (2, 20)
    assert "whole bursts: 19 B of the 24 B of DRAM belong to no tile (79.2%)" in str(found)
    assert "whole bursts" not in str(explain(column(2), TOY, ONE_PASS))


def test_roofline_of_one_pass():
    roofline = explain(column(2), TOY, ONE_PASS).roofline
    # 2 MACs for 2 + 1 + 2 bytes in 41 cycles; 4 MACs and 1 byte per cycle are possible
    assert (roofline.intensity_macs_per_byte, roofline.ridge_macs_per_byte) == (2 / 5, 4)
    assert (roofline.achieved_macs_per_cycle, roofline.achieved_bytes_per_cycle) == (2 / 41, 5 / 41)
    assert roofline.roof_macs_per_cycle == 2 / 5
    assert roofline.is_bandwidth_bound


def test_events_of_one_pass():
    recorded = timeline(column(2), TOY, ONE_PASS)
    shown = [(e.resource, e.start, e.end, e.label) for e in recorded.events if not e.resource.startswith("DRAM")]
    assert shown == [
        ("DMA", 0, 12, "load I 2"),
        ("DMA", 12, 23, "load W 1"),
        ("NoC I", 23, 25, "give I 2 B"),
        ("NoC W", 23, 24, "give W 1 B"),
        ("PE array", 25, 27, "2 MACs"),
        ("NoC O out", 27, 29, "take O 2 B"),
        ("DMA", 29, 41, "store O 2"),
    ]
    assert (recorded.cycles, recorded.is_complete, recorded.num_cores) == (41, True, 1)


def test_events_of_two_cores_on_one_channel():
    recorded = timeline(column(2), two_cores(), Mapping(cores=Dims(OX=2)))
    waits = [(e.core, e.start, e.end) for e in recorded.events if e.is_waiting]
    # core 0 waits for W behind core 1's I, and stores behind core 1's W
    assert waits == [(1, 0, 11), (0, 11, 22), (1, 22, 33), (0, 36, 44), (1, 47, 55)]
    channel = [(e.start, e.end, e.label) for e in recorded.events if e.resource == "DRAM channel 0"]
    assert [label for _, _, label in channel] == [
        "load I 1, core 0", "load I 1, core 1", "load W 1, core 0", "load W 1, core 1", "store O 1, core 0",
        "store O 1, core 1",
    ]  # fmt: skip


def test_labels_name_the_moved_box():
    # rows 0-3 of 6 without the padding above: 4 x 6 of 3 channels
    image = Workload.conv2d(K=2, C=3, OY=6, OX=6, FY=3, FX=3, padding=1, dtype="int8")
    mapping = Mapping(
        spm=Dims(K=2, C=3, OY=3, OX=6, FY=3, FX=3), dram_order=("OY",), spm_order=("K", "C", "OY", "OX", "FY", "FX")
    )
    labels = [e.label for e in timeline(image, TOY, mapping).events if e.resource == "DMA"]
    assert labels == ["load I 3x4x6", "load W 2x3x3x3", "store O 2x3x6", "load I 3x4x6", "store O 2x3x6"]


def test_scratchpad_of_one_pass():
    recorded = timeline(column(2), TOY, ONE_PASS)
    # a tile takes room from its request on; inputs until the pass ends at 29, outputs from 23 until they are stored
    assert set(recorded.residencies) == {
        Residency(start=0, end=29, core=0, operand="I", num_bytes=2),
        Residency(start=12, end=29, core=0, operand="W", num_bytes=1),
        Residency(start=23, end=41, core=0, operand="O", num_bytes=2),
    }
    assert list(recorded.occupancy(0)) == [
        (0, (2, 0, 0)), (12, (2, 1, 0)), (23, (2, 1, 2)), (29, (0, 0, 2)), (41, (0, 0, 0)),
    ]  # fmt: skip


def test_scratchpad_with_two_buffers():
    recorded = timeline(column(2), TOY, Mapping(dram_order=("OX",), spm_double=(I,)))
    # the second I is asked for when the first pass starts
    tiles = [(tile.start, tile.end) for tile in recorded.residencies if tile.operand == "I"]
    assert tiles == [(0, 25), (22, 47)]


def test_a_cut_timeline_says_so():
    recorded = timeline(column(9), TOY, Mapping(dram_order=("OX",)), max_events=10)
    assert not recorded.is_complete
    # two loads and a store, each on engine and channel; I, W, MAC and O of a pass: 10 events until the next load at 36
    assert (recorded.cycles, len(recorded.events)) == (22 + 3 + 11, 10)
    assert max(event.start for event in recorded.events) == 22 + 3


def test_wherever_a_timeline_is_cut_nothing_before_is_missing():
    # outputs leave beside the next step, inputs come after it: what starts first must be known first
    mapping = Mapping(spm=Dims(OX=4), spm_order=("OX",), rf_double=(O,))
    whole = timeline(column(4), TOY, mapping)
    assert whole.is_complete
    # of the third step: MAC and O of the second beside it at 30, the fourth's I at 31
    assert [(e.resource, e.start) for e in whole.events if 30 <= e.start < 32] == [
        ("NoC O out", 30), ("PE array", 30), ("NoC I", 31),
    ]  # fmt: skip
    for max_events in range(1, len(whole.events)):
        cut = timeline(column(4), TOY, mapping, max_events=max_events)
        assert cut.events == tuple(e for e in whole.events if e.start < cut.cycles), max_events


def test_trace_opens_in_a_viewer(tmp_path: Path):
    recorded = timeline(column(2), two_cores(), Mapping(cores=Dims(OX=2)))
    recorded.write_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    processes = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert processes == {0: "core 0", 1: "core 1", 2: "DRAM"}
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "thread_name"}
    spans = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(spans) == len(recorded.events)
    assert all((e["pid"], e["tid"]) in threads and e["dur"] > 0 for e in spans)
    # 1 cycle is 1 us
    first = next(e for e in spans if threads[e["pid"], e["tid"]] == "DRAM channel 0")
    assert (first["ts"], first["dur"], first["name"], first["args"]["bytes"]) == (0, 11, "load I 1, core 0", 1)
    counters = [e for e in trace["traceEvents"] if e["ph"] == "C" and e["pid"] == 1]
    assert counters[-1]["args"] == {"I": 0, "W": 0, "O": 0}


@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_picture(tmp_path: Path, suffix: str, magic: bytes):
    path = tmp_path / f"timeline{suffix}"
    timeline(column(4), two_cores(), Mapping(cores=Dims(OX=2), dram_order=("OX",))).plot(path)
    assert path.read_bytes().startswith(magic)


def test_picture_names_its_rows(tmp_path: Path):
    path = tmp_path / "timeline.svg"
    timeline(column(2), TOY, ONE_PASS).plot(path, until=41)
    text = path.read_text()
    for shown in (
        "DMA",
        "NoC I",
        "PE array",
        "weights W",
        "SPM capacity",
        "first 41 of 41 cycles",
        "cycles (1000 MHz)",
    ):
        assert shown in text, shown


def test_same_picture_each_time(tmp_path: Path):
    recorded = timeline(column(2), TOY, ONE_PASS)
    for name in ("a.svg", "b.svg"):
        recorded.plot(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_text_shows_everything():
    text = show_text(column(2), TOY, ONE_PASS)
    for shown in (
        "matmul OX=2 int8xint8->int8", "SPM tile: OX=2", "41 cycles", "first load I", "29.3%", "PE array", "DRAM W",
        "roofline: 0.4 MACs/B (ridge 4); 0.04878 of 0.4 MACs/cycle under the roof of the DRAM bandwidth (12.2%)",
    ):  # fmt: skip
        assert shown in text, shown


def _show(workload: Workload, arch: Arch, mapping: Mapping) -> object:
    return show_text(workload, arch, mapping)


@pytest.mark.parametrize("function", [explain, timeline, _show, evaluate])
def test_an_illegal_mapping_is_refused(function: object):
    with pytest.raises(MappingError, match=r"illegal mapping.*: SPM tile of OX exceeds a core's share: needs 4"):
        function(column(2), TOY, Mapping(spm=Dims(OX=4)))


@pytest.mark.parametrize("function", [explain, timeline, _show, evaluate])
def test_a_mapping_for_another_workload_is_refused(function: object):
    # made for m = 2: nothing iterates over K
    with pytest.raises(
        MappingError, match=r"DRAM order without K: needs 3 iterations, has 1 .*add K to the DRAM order"
    ):
        function(Workload.matmul(m=2, k=1, n=3, dtype="int8"), TOY, ONE_PASS)


def test_sizes_of_zero_are_refused():
    with pytest.raises(WorkloadError, match=r"matmul: m = 0: must be an integer >= 1"):
        column(0)
    with pytest.raises(WorkloadError, match=r"dim OX = 0: must be an integer >= 1"):
        Mapping(spm=Dims(OX=0))
    with pytest.raises(SpmError, match=r"max_events = 0: must be >= 1"):
        timeline(column(2), TOY, ONE_PASS, max_events=0)


def test_files_that_cannot_be_written(tmp_path: Path):
    recorded: Timeline = timeline(column(2), TOY, ONE_PASS)
    with pytest.raises(SpmError, match=r"cannot write: No such file or directory; choose another file"):
        recorded.write_trace(tmp_path / "no" / "trace.json")
    with pytest.raises(SpmError, match=r"cannot write: No such file or directory; choose another file"):
        recorded.plot(tmp_path / "no" / "timeline.svg")
    with pytest.raises(SpmError, match=r"timeline.jpg: cannot draw .jpg; choose .svg or .png"):
        recorded.plot(tmp_path / "timeline.jpg")


def test_events_are_values():
    event = Event(start=0, end=1, resource="DMA", core=0, label="load I 1", operand="I", pass_number=0)
    assert hash(event) == hash(replace(event))
