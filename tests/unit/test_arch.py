"""Accelerator files: presets with sources, derived rates by hand, and the text of every refused field."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import tvm_spm.arch
from tvm_spm.arch import SplitBytes, archs, load_arch, parse_arch
from tvm_spm.errors import ArchError
from tvm_spm.pages import Pages
from tvm_spm.workload import Operand

TEXT = (Path(tvm_spm.arch.__file__).parent / "archs" / "edge-256.toml").read_text(encoding="utf-8")


def refusal(old: str, new: str) -> str:
    """What is said about the preset after one change."""
    assert old in TEXT
    with pytest.raises(ArchError) as caught:
        parse_arch(TEXT.replace(old, new, 1), origin="mine.toml")
    return str(caught.value)


def test_presets():
    assert archs() == (
        "dmazerunner-256", "edge-256", "edge-256-ddr4", "edge-256-lpddr4", "eyeriss-168", "mlu100-32", "quad-edge",
        "vta-1x16x16",
    )  # fmt: skip


@pytest.mark.parametrize("name", archs())
def test_every_number_has_a_source(name: str):
    arch = load_arch(name)
    assert arch.name == name
    assert arch.description
    assert {path for path, _ in arch.sources} == {path for path, _ in arch.numbers()}
    assert all(source.strip() for _, source in arch.sources)


@pytest.mark.parametrize("name", archs())
def test_every_number_in_a_file_has_a_unit(name: str):
    text = (Path(tvm_spm.arch.__file__).parent / "archs" / f"{name}.toml").read_text(encoding="utf-8")
    body = text.split("[sources]")[0]
    unitless = [
        line for line in body.splitlines() if line and not line.startswith(("[", "name", "desc")) and "#" not in line
    ]
    # Counts of things whose name is the unit.
    assert [line for line in unitless if not line.startswith(("count", "channels"))] == []


@pytest.mark.parametrize("name", archs())
def test_presets_are_hashable(name: str):
    assert len({load_arch(name), load_arch(f"spm/{name}")}) == 1


def test_dmazerunner_rates():
    arch = load_arch("dmazerunner-256")
    # 291 DMA cycles at 3200 MHz are 291 * 500 / 3200 = 45.46875 at 500 MHz.
    assert arch.burst_startup_cycles == 45.46875
    # 3200 MHz / 0.24 cycles per byte = 13.33 GB/s, at 500 MHz 26.67 B per cycle.
    assert arch.dma_bytes_per_cycle == pytest.approx(3200 / 0.24 / 500)
    assert arch.num_pes == arch.peak_macs_per_cycle == 256
    # Two buffers of 32 banks of 2 KiB.
    assert arch.levels.SPM.capacity_of(Operand.I) == 2 * 32 * 2048


def test_the_slower_of_engine_and_channel_counts():
    arch = load_arch("edge-256")
    slow = replace(arch, levels=replace(arch.levels, DRAM=replace(arch.levels.DRAM, channel_bytes_per_cycle=2.0)))
    assert slow.dma_bytes_per_cycle == 2.0
    # 500 MHz engine, 0.5 cycles per byte: 2 B per DMA cycle; the clock doubled: 4.
    assert replace(arch, dma=replace(arch.dma, clock_hz=1e9, cycles_per_byte=0.5)).dma_bytes_per_cycle == 4.0


def test_least_transfers():
    # Bursts of 64 B are 512 bits; without bursts elements move bit by bit, and tiles in whole bytes.
    assert {name: load_arch(name).levels.DRAM.burst_bytes for name in archs()} == {
        "dmazerunner-256": 1, "edge-256": 1, "edge-256-ddr4": 64, "edge-256-lpddr4": 32, "eyeriss-168": 64,
        "mlu100-32": 64, "quad-edge": 1, "vta-1x16x16": 64,
    }  # fmt: skip
    assert load_arch("vta-1x16x16").burst_bits == 512
    assert load_arch("edge-256").burst_bits == 1
    assert "burst_bytes = 0: must be >= 1" in refusal("burst_bytes = 1 ", "burst_bytes = 0 ")


def test_a_file_without_least_transfers_is_the_machine_it_was():
    old = "\n".join(line for line in TEXT.splitlines() if "burst_bytes" not in line)
    assert parse_arch(old, origin="mine.toml").levels.DRAM.burst_bytes == 1
    assert parse_arch(old, origin="mine.toml").sha256() == load_arch("edge-256").sha256()
    # the hash that logs carry which were written before
    assert load_arch("edge-256").sha256().startswith("daf45d071e39")
    whole = replace(load_arch("edge-256").levels.DRAM, burst_bytes=64)
    changed = replace(load_arch("edge-256"), levels=replace(load_arch("edge-256").levels, DRAM=whole))
    assert changed.sha256() != load_arch("edge-256").sha256()


def test_pages_of_real_memories():
    ddr, lp = load_arch("edge-256-ddr4"), load_arch("edge-256-lpddr4")
    # 3200 MT/s of 8 B and of 2 B, at 500 MHz
    assert (ddr.dma_bytes_per_cycle, lp.dma_bytes_per_cycle) == (3200 * 8 / 500, 3200 * 2 / 500)
    # 22 + 22 clocks of 0.625 ns are 27.5 ns, 13.75 cycles of 2 ns; 18 + 18 ns are 18
    assert (ddr.levels.DRAM.pages, lp.levels.DRAM.pages) == (
        Pages(banks=16, row_bytes=8192, interleave_bytes=8192, miss_cycles=14),
        Pages(banks=8, row_bytes=2048, interleave_bytes=2048, miss_cycles=18),
    )
    assert ddr.burst_startup_cycles == 0
    waits = replace(ddr.levels.DRAM, pages=Pages(banks=16, row_bytes=8192, hit_cycles=5, miss_cycles=14))
    # every run waits for a hit at least
    assert replace(ddr, levels=replace(ddr.levels, DRAM=waits)).burst_startup_cycles == 5
    assert str(ddr).endswith("of whole 64 B, 16 banks with open rows of 8 KiB + 14 cycles/miss")


def test_a_file_without_pages_is_the_machine_it_was():
    pages = Pages(banks=16, row_bytes=8192, miss_cycles=14)
    arch = load_arch("edge-256")
    assert arch.levels.DRAM.pages is None
    paged = replace(arch, levels=replace(arch.levels, DRAM=replace(arch.levels.DRAM, pages=pages)))
    assert paged.sha256() != arch.sha256()
    assert "levels.DRAM.pages.miss_cycles" in dict(paged.numbers())


PAGES = """[levels.DRAM.pages]
banks = 16
row_bytes = 8192
miss_cycles = 14

[noc]"""


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("banks = 16", "banks = 12",
         "mine.toml: levels.DRAM.pages.banks = 12: must be a power of two, such as 8 or 16"),
        ("banks = 16", "banks = 0", "mine.toml: levels.DRAM.pages.banks = 0: must be >= 1"),
        ("banks = 16", "bank = 16", "mine.toml: levels.DRAM.pages.bank: unknown field; did you mean 'banks'?"),
        ("row_bytes = 8192", "row_bytes = 1000",
         "mine.toml: levels.DRAM.pages.row_bytes = 1000: must be a power of two, such as 512 or 1,024"),
        ("row_bytes = 8192", "row_bytes = 4", "mine.toml: levels.DRAM.pages.row_bytes = 4: must be >= 8"),
        ("miss_cycles = 14", "miss_cycles = -1", "mine.toml: levels.DRAM.pages.miss_cycles = -1: must be >= 0"),
        ("miss_cycles = 14", "miss_cycles = 13.75",
         "mine.toml: levels.DRAM.pages.miss_cycles = 13.75: input should be a valid integer"),
        ("row_bytes = 8192\n", "",
         "mine.toml: levels.DRAM.pages.row_bytes: missing; this section has banks, miss_cycles"),
        ("miss_cycles = 14", "miss_cycles = 14\nhit_cycles = 15",
         "mine.toml: levels.DRAM.pages.miss_cycles = 14: must be >= hit_cycles = 15"),
        ("miss_cycles = 14", "miss_cycles = 14\ninterleave_bytes = 16384",
         "mine.toml: levels.DRAM.pages.interleave_bytes = 16,384: must be <= row_bytes = 8,192"),
        ("burst_bytes = 1 ", "burst_bytes = 48 ",
         "mine.toml: levels.DRAM.burst_bytes = 48: must divide the 8,192 B in one bank (pages)"),
    ],
)  # fmt: skip
def test_refused_pages(old: str, new: str, text: str):
    whole = TEXT.replace("[noc]", PAGES, 1)
    assert old in whole
    with pytest.raises(ArchError) as caught:
        parse_arch(whole.replace(old, new, 1), origin="mine.toml")
    assert any(line.startswith(text) for line in str(caught.value).splitlines())


def test_many_cores():
    arch = load_arch("mlu100-32")
    # 32 cores of 32 x 32.
    assert arch.peak_macs_per_cycle == 32 * 32 * 32
    assert arch.num_pes == 1024


def test_split_scratchpad():
    spm = load_arch("vta-1x16x16").levels.SPM
    assert spm.is_split
    assert [spm.capacity_of(operand) for operand in Operand] == [32 * 1024, 256 * 1024, 128 * 1024]
    assert not load_arch("edge-256").levels.SPM.is_split


def test_str():
    assert str(load_arch("vta-1x16x16")) == (
        "vta-1x16x16: 1 x 16x16 PEs at 100 MHz, RF 32 B, SPM I 32 KiB + W 256 KiB + O 128 KiB, "
        "DMA 8 B/cycle + 32 cycles/burst of whole 64 B"
    )


def test_hash_is_of_the_numbers_only():
    arch = load_arch("edge-256")
    assert replace(arch, name="mine", description="other", sources=()).sha256() == arch.sha256()
    assert replace(arch, word_bits=8).sha256() != arch.sha256()
    assert len({load_arch(name).sha256() for name in archs()}) == len(archs())


def test_an_arch_is_passed_through():
    arch = load_arch("edge-256")
    assert load_arch(arch) is arch


def test_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace('name = "edge-256"', 'name = "mine"').replace("rows = 16", "rows = 8"))
    assert load_arch(path).pe.rows == 8
    assert load_arch(str(path)).name == "mine"


def test_sources_may_be_left_out():
    arch = parse_arch(TEXT.split("[sources]")[0], origin="mine.toml")
    assert arch.sources == ()
    assert arch.sha256() == load_arch("edge-256").sha256()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("rows = 16", "rowz = 16", "mine.toml: pe.rowz: unknown field; did you mean 'rows'?"),
        ("[noc]", "[nok]", "mine.toml: nok: unknown field; did you mean 'noc'?"),
        ("rows = 16", "qqq = 16", "mine.toml: pe.qqq: unknown field; allowed: rows, cols, mac_stages"),
        ("rows = 16", "rows = -3", "mine.toml: pe.rows = -3: must be >= 1"),
        ("rows = 16", "rows = 0", "mine.toml: pe.rows = 0: must be >= 1"),
        ("rows = 16", "rows = 70000", "mine.toml: pe.rows = 70000: must be <= 65,536"),
        ("capacity_bytes = 512", "capacity_bytes = 2000000000000",
         "mine.toml: levels.RF.capacity_bytes = 2000000000000: must be <= 1,099,511,627,776"),
        ("clock_hz = 500e6", "clock_hz = 1.0", "mine.toml: clock_hz = 1.0: must be >= 1,000"),
        ("clock_hz = 500e6", "clock_hz = 1e13",
         "mine.toml: clock_hz = 10000000000000.0: must be <= 1,000,000,000,000"),
        ("op_pj = 0.075", "op_pj = -0.1", "mine.toml: mac.op_pj = -0.1: must be >= 0"),
        ("cycles_per_byte = 0.24", "cycles_per_byte = 0", "mine.toml: dma.cycles_per_byte = 0: must be >= 1e-09"),
        ("capacity_bytes = 512", "capacity_bytes = 0", "mine.toml: levels.RF.capacity_bytes = 0: must be >= 1"),
        ("channels = 1\n", "channels = 0\n", "mine.toml: levels.DRAM.channels = 0: must be >= 1"),
    ],
)  # fmt: skip
def test_refused_fields(old: str, new: str, text: str):
    assert text in refusal(old, new).splitlines()


def test_a_number_of_another_type():
    assert refusal("rows = 16", "rows = 1.5").startswith("mine.toml: pe.rows = 1.5: input should be a valid integer")
    assert refusal("rows = 16", 'rows = "16"').startswith("mine.toml: pe.rows = '16': input should be a valid integer")
    assert refusal("rows = 16", "rows = true").startswith("mine.toml: pe.rows = True: input should be a valid integer")
    assert refusal("clock_hz = 500e6", "clock_hz = nan").startswith("mine.toml: clock_hz = nan:")


def test_a_missing_field_shows_what_is_there():
    assert (
        refusal("cols = 16            # PEs\n", "") == "mine.toml: pe.cols: missing; this section has mac_stages, rows"
    )


def test_a_missing_section():
    text = refusal("[mac]\nop_pj = 0.075        # pJ\n", "")
    assert text.startswith("mine.toml: mac: missing; this section has ")


def test_a_split_scratchpad_needs_all_three():
    text = refusal("capacity_bytes = 131072", "capacity_bytes = { I = 1024, W = 1024 }")
    assert text == "mine.toml: levels.SPM.capacity_bytes.O: missing; this section has I, W"


def test_a_scratchpad_of_neither_form():
    assert refusal("capacity_bytes = 131072", "capacity_bytes = -1") == (
        "mine.toml: levels.SPM.capacity_bytes = -1: must be >= 1"
    )
    assert refusal("capacity_bytes = 131072", "capacity_bytes = { I = 1, W = 2, O = 0 }") == (
        "mine.toml: levels.SPM.capacity_bytes.O = 0: must be >= 1"
    )
    assert refusal("capacity_bytes = 131072", "capacity_bytes = { I = 1, W = 2, O = 3, Q = 4 }") == (
        "mine.toml: levels.SPM.capacity_bytes.Q: unknown field; allowed: I, W, O"
    )
    assert refusal("capacity_bytes = 131072", 'capacity_bytes = "128 KiB"').startswith(
        "mine.toml: levels.SPM.capacity_bytes = '128 KiB': input should be a valid integer"
    )


def test_a_split_scratchpad_works():
    arch = parse_arch(
        TEXT.split("[sources]")[0].replace("capacity_bytes = 131072", "capacity_bytes = { I = 1, W = 2, O = 3 }"),
        origin="mine.toml",
    )
    assert arch.levels.SPM.capacity_bytes == SplitBytes(I=1, W=2, O=3)


def test_a_source_for_nothing():
    text = refusal('"pe.rows" =', '"pe.rowz" =')
    assert text == "mine.toml: sources.'pe.rowz': no such numeric field; did you mean 'pe.rows'?"


def test_sources_are_texts():
    assert refusal('"word_bits" = "Dave et al. 2019: 16-bit data"', '"word_bits" = 3') == (
        "mine.toml: sources: must map field paths to texts"
    )


def test_names_are_plain():
    assert refusal('name = "edge-256"', 'name = "../x"').startswith("mine.toml: name = '../x':")


def test_not_toml():
    assert refusal("[cores]", "[cores").startswith("mine.toml: not valid TOML: ")


def test_unknown_preset():
    with pytest.raises(ArchError) as caught:
        load_arch("spm/edge-265")
    assert str(caught.value) == (
        "unknown accelerator 'spm/edge-265': did you mean 'edge-256'? (or give the path of a .toml file)"
    )


def test_unknown_preset_lists_all():
    with pytest.raises(ArchError, match="unknown accelerator 'zzz': choose one of 'dmazerunner-256', 'edge-256'"):
        load_arch("zzz")


def test_a_missing_file(tmp_path: Path):
    path = tmp_path / "none.toml"
    with pytest.raises(ArchError) as caught:
        load_arch(path)
    assert str(caught.value) == f"{path}: cannot read: No such file or directory"


def test_a_file_that_is_not_text(tmp_path: Path):
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchError) as caught:
        load_arch(path)
    assert str(caught.value) == f"{path}: cannot read: not a UTF-8 text file"
