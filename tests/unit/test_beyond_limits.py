"""Sizes beyond what can be counted or kept: one clear message at the boundary, never an overflow behind it."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from typing import Any

import pytest

from tvm_spm import units
from tvm_spm.arch import Arch, load_arch, parse_arch
from tvm_spm.errors import ArchError, MappingError, NoMappingError, SpmError, WorkloadError
from tvm_spm.mapping import Mapping
from tvm_spm.space.constraints import Constraints
from tvm_spm.space.countable import most_counted, require_countable
from tvm_spm.tuner import evaluate, search
from tvm_spm.workload import Dims, Workload

MATMUL = {"m": 4, "k": 4, "n": 4}
CONV = {"K": 8, "C": 4, "OY": 5, "OX": 6, "FY": 3, "FX": 3}
HUGE = 10**5000


@pytest.mark.parametrize("name", ["m", "k", "n", "batch"])
@pytest.mark.parametrize("value", [2**24 + 1, 10**9, 2**31, 2**63, 10**20, HUGE], ids=units.shown)
def test_no_extent_beyond_the_searches(name: str, value: int):
    with pytest.raises(WorkloadError, match="must be <="):
        Workload.matmul(**{**MATMUL, name: value})


@pytest.mark.parametrize("name", ["stride", "dilation", "padding", "IY", "OY", "FX", "groups", "N"])
@pytest.mark.parametrize("value", [2**31, 2**63, HUGE], ids=units.shown)
def test_no_number_of_a_convolution_beyond_them(name: str, value: int):
    with pytest.raises(WorkloadError):
        Workload.conv2d(**{**CONV, name: value})


def test_the_limits_are_in_the_message():
    with pytest.raises(WorkloadError) as caught:
        Workload.matmul(m=4, k=10**9, n=4)
    assert str(caught.value) == "matmul: extent C = 1,000,000,000: must be <= 16,777,216; split the layer along C"
    with pytest.raises(WorkloadError) as caught:
        Workload.matmul(m=2**17, k=2**17, n=2**17)  # 2**51
    assert str(caught.value) == (
        "matmul K=131072 C=131072 OX=131072: 2251799813685248 multiply-accumulates: must be <= 1,125,899,906,842,624; "
        "split the layer"
    )
    with pytest.raises(WorkloadError) as caught:
        Dims(K=HUGE)
    assert str(caught.value) == "dim K = (2**16609 or more): must be <= 2,147,483,647"


@pytest.mark.parametrize("dtype", ["float99999", "int129", "int0", "int" + "9" * 5000, "int\u0663"], ids=units.shown)
def test_no_element_wider_than_128_bits(dtype: str):
    with pytest.raises(WorkloadError, match="of at most 128 bits"):
        Workload.matmul(**MATMUL, dtype=dtype)


@pytest.mark.parametrize(
    "text",
    [
        "cores: K=" + "9" * 5000,
        "rows: K=2147483648",
        "rows: K=2147483647 C=2",
        "rows: K=65536; cols: K=65536",
        "SPM tile: K=\u0663",
        "SPM tile: K=\u00b2",
        "RF tile: K=0",
        "for K in DRAM by 5; SPM tile: K=4",
        "rows: K=2; rows: K=3",
        "RF tile: K=2; RF tile: K=3",
        "cores: 1;" * 10_000,
        "(" * 5000,
    ],
    ids=units.shown,
)
def test_a_mapping_text_beyond_reason_is_refused(text: str):
    with pytest.raises(MappingError) as caught:
        Mapping.parse(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "clause", ["SPM.K=" + "9" * 5000, "SPM.K=\u0663", "SPM.K=2147483648", "cores.K>=0"], ids=units.shown
)
def test_a_constraint_beyond_reason_is_refused(clause: str):
    with pytest.raises(SpmError) as caught:
        Constraints.parse([clause])
    assert len(str(caught.value)) < 300


def arch_text(old: str, new: str) -> str:
    text = (files("tvm_spm") / "archs" / "edge-256.toml").read_text(encoding="utf-8")
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("line", "value", "problem"),
    [
        ("rows = 16", "rows = " + "1" * 5000, "not valid TOML: Exceeds the limit"),
        ("rows = 16", "rows = " + "[" * 5000 + "]" * 5000, "not valid TOML: brackets or tables are nested too deeply"),
        ("rows = 16", "rows = 0x" + "f" * 5000, "pe.rows"),
        ("rows = 16", "rows = " + "[" * 100 + "]" * 100, "pe.rows"),
        ("rows = 16", "rows = " + "{a=" * 5000 + "1" + "}" * 5000, "nested too deeply"),
        ("channel_bytes_per_cycle =", "channel_bytes_per_cycle = 1e-300 #", "must be >= 1e-06"),
        ("elems_per_cycle =", "elems_per_cycle = 1e-300 #", "must be >= 1e-06"),
        ("ops_per_cycle =", "ops_per_cycle = nan #", "ops_per_cycle"),
        ("op_pj =", "op_pj = inf #", "must be <="),
    ],
    ids=units.shown,
)
def test_an_arch_number_beyond_reason_is_refused(line: str, value: str, problem: str):
    with pytest.raises(ArchError) as caught:
        parse_arch(arch_text(line, value), origin="mine.toml")
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 400


def slow_arch() -> Arch:
    """The longest start-up that the fields allow: 1e9 cycles of a 1 kHz engine beside a 1 THz clock."""
    arch = load_arch("edge-256")
    return replace(arch, clock_hz=1e12, dma=replace(arch.dma, clock_hz=1e3, startup_cycles=1e9))


def test_no_pair_whose_cycles_overflow():
    small = Workload.matmul(m=4, k=4, n=4)
    # 64 MACs x 8 operands x 1e18 cycles of start-up a burst are more than 2**62 = 4.6e18.
    assert most_counted(small, slow_arch()) > 64 * 8 * 10**18
    for call in (
        lambda: require_countable(small, slow_arch()),
        lambda: search(small, slow_arch()),
        lambda: evaluate(small, slow_arch(), Mapping()),
    ):
        with pytest.raises(NoMappingError, match="the models count up to"):
            call()
    require_countable(Workload.matmul(m=2048, k=12288, n=49152), load_arch("mlu100-32"))


def test_whole_bursts_count():
    # One element may move a burst of 65,536 B for each of 64 MACs, and the bits of it are added up.
    arch, small = load_arch("edge-256"), Workload.matmul(m=4, k=4, n=4)
    dram = replace(arch.levels.DRAM, burst_bytes=65_536)
    coarse = replace(arch, levels=replace(arch.levels, DRAM=dram))
    assert most_counted(small, arch) < 64 * 8 * 65_536 < most_counted(small, coarse)


def without_energy(arch: Arch) -> Arch:
    levels, noc = arch.levels, arch.noc
    return replace(
        arch,
        mac=replace(arch.mac, op_pj=0.0),
        vector=replace(arch.vector, op_pj=0.0),
        noc=replace(noc, elem_pj=0.0, delivery_pj=0.0, reduction_hop_pj=0.0),
        levels=replace(
            levels,
            RF=replace(levels.RF, access_pj=0.0, fill_pj=0.0),
            SPM=replace(levels.SPM, access_pj=0.0),
            DRAM=replace(levels.DRAM, access_pj=0.0),
        ),
    )


def test_an_arch_without_energies_has_latency_only():
    arch, workload = without_energy(load_arch("edge-256")), Workload.matmul(m=8, k=8, n=8)
    for objective in ("edp", "energy"):
        with pytest.raises(SpmError, match=f"all energies are 0 pJ, so no mapping has a better {objective}"):
            search(workload, arch, objective=objective)
    found = search(workload, arch, objective="latency")
    assert found.cost.energy_pj == 0
    assert found.cost.cycles == search(workload, "edge-256", objective="latency").cost.cycles


def test_a_task_without_energy_has_ratios():
    arch = without_energy(load_arch("edge-256"))
    arch = replace(arch, vector=replace(arch.vector, op_pj=1.0))  # not used by a matrix product
    found = search(Workload.matmul(m=8, k=8, n=8), arch, objective="edp")
    assert (found.cost.edp_pj_cycles, found.gap, found.as_dict()["gain_over_default"]) == (0, 0, 1)


@pytest.mark.parametrize(("above", "below", "ratio"), [(4, 2, 2), (0, 2, 0), (0, 0, 1), (1, 0, float("inf"))])
def test_ratio(above: float, below: float, ratio: float):
    assert units.ratio(above, below) == ratio
    assert units.finite(ratio) == (None if ratio == float("inf") else ratio)


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("12", 12), ("9" * 18, 10**18 - 1)])
def test_whole_numbers(text: str, value: int):
    assert units.parse_whole(text) == value


@pytest.mark.parametrize("text", ["", "-1", "+1", "1.0", "\u00b2", "\u0663", "1_0", " 1", "9" * 19, "x"])
def test_texts_that_are_no_whole_number(text: str):
    assert units.parse_whole(text) is None


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


@pytest.mark.parametrize("value", [HUGE, -HUGE, [HUGE] * 1000, nested(10**5), "x" * 10**6, {"a": HUGE}], ids=range(6))
def test_any_value_can_be_shown(value: object):
    assert len(units.shown(value)) < 300
