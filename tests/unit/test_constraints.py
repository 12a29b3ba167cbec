"""Constraints as text, what each kind allows, and what an impossible set says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.mapspace_cases import satisfies, small_arch
from tvm_spm.arch import load_arch
from tvm_spm.errors import NoMappingError, SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.space.constraints import Constraints, dataflow
from tvm_spm.space.constraints_batch import allows_rows, rules_of
from tvm_spm.space.mapping_batch import encode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Dims, Operand, Workload

CONV = Workload.conv2d(K=64, C=16, OY=14, OX=14, FY=3, FX=3, padding=1)
MAPPING = Mapping(
    cores=Dims(K=4), spm=Dims(K=8, C=16, OY=7, OX=14, FY=3, FX=3), rows=Dims(OY=7), cols=Dims(OX=14), rf=Dims(FX=3),
    dram_order=("K", "OY"), spm_order=("K", "C", "FY"), spm_double=(Operand.I, Operand.W), rf_double=(),
)  # fmt: skip


def allows(text: str, mapping: Mapping = MAPPING, workload: Workload = CONV) -> bool:
    """Both verdicts, which must agree."""
    constraints = Constraints.parse(text)
    verdict = satisfies(constraints, mapping, workload)
    assert allows_rows(rules_of(constraints, workload), encode([mapping])).tolist() == [verdict]
    return verdict


@pytest.mark.parametrize(
    "text",
    [
        "rows=OY", "cols=OX,FX", "rows!=C", "rows=none", "SPM.K=32", "RF.FX=3", "cores.K=4", "rows.OY>=2", "DRAM.K<=8",
        "DRAM.order=K>C>OY", "SPM.inner=FY>FX", "DRAM.outer=N", "SPM.double=IW", "RF.double=none", "strict:OY|OX",
        "replicated:K|C", "strict:OY,N|OX", "rows=OY cols=OX SPM.K=32 DRAM.order=K>C", "",
    ],
)  # fmt: skip
def test_text_is_read_back(text: str):
    constraints = Constraints.parse(text)
    assert str(constraints) == text
    assert Constraints.parse(str(constraints)) == constraints
    assert bool(constraints) == bool(text)
    hash(constraints)


def test_parse_takes_one_clause_per_item():
    assert Constraints.parse(["rows=OY", "SPM.K=32"]) == Constraints.parse("rows=OY; SPM.K=32")
    assert Constraints.parse(["rows=OY"]) + Constraints.parse("SPM.K=32") == Constraints.parse("rows=OY SPM.K=32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows=OZ", "constraint 'rows=OZ': unknown dim 'OZ'; did you mean 'OY'?"),
        ("SPM.Q=3", "constraint 'SPM.Q=3': unknown dim 'Q'; "),
        ("SPM.K=0", "constraint 'SPM.K=0': 0 must be >= 1"),
        ("DRAM.order=K>K", "constraint 'DRAM.order=K>K': a dim is named twice"),
        ("RF.order=K>C", "constraint 'RF.order=K>C': expected rows=DIMS, "),
        ("tile K 3", "constraint 'tile': expected rows=DIMS, "),
        ("strict:OSX", "unknown dataflow 'OSX'; did you mean 'OS'?"),
        ("SPM.double=I SPM.double=W", "SPM.double=I and SPM.double=W cannot both hold: a level has one set of"),
        ("DRAM.order=K>C DRAM.order=C>K", "DRAM.order=K>C and DRAM.order=C>K cannot both hold: K > C > K at DRAM"),
        ("DRAM.outer=K DRAM.outer=C", "DRAM.outer=K and DRAM.outer=C cannot both hold: K > C > K at DRAM"),
        (
            "SPM.order=K>C SPM.order=C>OY SPM.order=OY>K",
            "SPM.order=K>C, SPM.order=C>OY and SPM.order=OY>K cannot all hold: K > C > OY > K at SPM",
        ),
    ],
)
def test_what_cannot_be_read_is_named(text: str, message: str):
    with pytest.raises(SpmError) as error:
        Constraints.parse(text)
    assert str(error.value).startswith(message)


def test_factors_and_tiles():
    # K = 64 over 4 cores: 16 each, two tiles of 8.
    for yes in ("cores.K=4", "DRAM.K=2", "SPM.K=8", "rows.OY=7", "cols.OX<=14", "RF.FX>=3", "SPM.K<=8", "SPM.K>=8"):
        assert allows(yes), yes
    for no in ("cores.K=3", "DRAM.K=8", "SPM.K=16", "rows.OY>=8", "cols.OX<=13", "RF.FX=1", "SPM.K<=7", "SPM.K>=9"):
        assert not allows(no), no


def test_axes():
    for yes in ("rows=OY", "cols=OX,K", "rows!=C", "cols!=OY,K"):
        assert allows(yes), yes
    for no in ("rows=OX", "rows!=OY", "cols=none"):
        assert not allows(no), no


def test_orders_count_only_loops_that_iterate():
    for yes in ("DRAM.order=K>OY", "DRAM.order=K>C>OY", "DRAM.order=C>K", "DRAM.outer=K", "DRAM.inner=OY",
                "SPM.inner=FY", "SPM.outer=K>C", "SPM.order=K>FY", "DRAM.outer=C", "SPM.inner=FY>FX"):  # fmt: skip
        assert allows(yes), yes
    for no in ("DRAM.order=OY>K", "DRAM.outer=OY", "DRAM.inner=K", "SPM.outer=C", "SPM.order=FY>C", "SPM.inner=C>FY>K"):
        assert not allows(no), no


def test_buffering_is_exact():
    assert allows("SPM.double=IW")
    assert allows("RF.double=none")
    assert not allows("SPM.double=I")
    assert not allows("SPM.double=IWO")
    assert not allows("RF.double=W")


def test_dataflows():
    assert dataflow("OS") == dataflow("output-stationary") == Constraints.parse("strict:OY|OX")
    assert str(dataflow("weight-stationary", strict=False)) == "replicated:FY|FX"
    assert str(dataflow("RS")) == "strict:OY|FY"
    assert Constraints.parse("strict:TPU") == dataflow("tpu") == Constraints.parse("strict:K|C")
    assert allows("strict:OY|OX")
    assert not allows("strict:K|C")
    # With K beside OY on the rows, only the replicated reading holds; without OX on the columns none.
    shared = replace(MAPPING, rows=Dims(OY=7, K=2))
    assert (allows("strict:OY|OX", shared), allows("replicated:OY|OX", shared)) == (False, True)
    assert not allows("replicated:OY|OX", replace(MAPPING, cols=Dims(K=2)))
    # Extents of 1 cannot be unrolled and need not be.
    pointwise = Workload.conv2d(K=64, C=16, OY=14, OX=14, FY=1, FX=1)
    assert allows("strict:FY|FX", Mapping(), pointwise)


def space_of(text: str, workload: Workload = CONV, *, cores: int = 4, spill: bool = False, **sizes: int) -> MapSpace:
    machine = small_arch(cores=cores, rows=sizes.get("rows", 16), cols=sizes.get("cols", 16), rf=512, spm=1 << 17)
    return MapSpace(workload=workload, arch=machine, allow_spill=spill, constraints=Constraints.parse(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # 64 over 4 cores.
        ("SPM.K=64 cores.K=4", "SPM.K=64 and cores.K=4 cannot both hold: a core has 16 of K"),
        ("rows=OY SPM.K=64 cols!=C cores.K=4", "SPM.K=64 and cores.K=4 cannot both hold: a core has 16 of K"),
        ("cores.C=2", "cores.C=2 cannot hold: C is summed, so it stays on one core"),
        # 14 over 4 cores: ceil(14/4) = 4 each, which 4 cores share; over 5 there are none.
        ("cores.OY=5", "cores.OY=5 cannot hold: OY = 14 splits across 1 2 3 or 4 of 4 cores"),
        ("SPM.K=65", "SPM.K=65 cannot hold: a core has 64 of K"),
        # ceil(64/f) = 64 32 22 16 13 ..., and no core has more.
        ("SPM.K=40 cores.K=1", "SPM.K=40 cannot hold: SPM tiles of K = 64 are 13 16 22 32 or 64"),
        ("rows.OY=17", "rows.OY=17 cannot hold: the array has 16 rows"),
        (
            "rows=OY rows.K>=2",
            "rows=OY and rows.K>=2 cannot both hold: rows of K would have to be at least 2 and at most 1",
        ),
        ("RF.FX=3 SPM.FX=1", "RF.FX=3 and SPM.FX=1 cannot both hold: a PE has at most 1 of FX"),
        (
            "SPM.OX=2 cols.OX=7",
            "SPM.OX=2 and cols.OX=7 cannot both hold: an SPM tile has at most 2 of OX for at least 7 PEs",
        ),
        ("DRAM.K=2 SPM.K=64", "DRAM.K=2 and SPM.K=64 cannot both hold: K has 1 iterations at DRAM"),
        (
            "cores.K=2 rows.K=8 rows.C=4",
            "rows.K=8 and rows.C=4 cannot both hold: rows K=8 x C=4: needs 32 PEs, has 16 PEs, over by 16 PEs; "
            "rows K <= 4 fits",
        ),
        (
            "cores.K=2 cores.OY=2 cores.OX=2",
            "cores.K=2, cores.OY=2 and cores.OX=2 cannot all hold: cores K=2 x OY=2 x OX=2: needs 8 cores, has 4 "
            "cores, over by 4 cores; cores K <= 1 fits",
        ),
    ],
)  # fmt: skip
def test_impossible_sets_name_what_conflicts(text: str, message: str):
    space = space_of(text)
    assert space.default_mapping() is None
    assert space.conflict() == message
    assert space.explain_empty(50) == {f"constraint ({message})": 50}
    with pytest.raises(NoMappingError) as error:
        space.require_default()
    assert str(error.value).endswith(f": {message}")
    assert (space.check(space.sample(np.random.default_rng(0), 20)) != 0).all()


def test_tiles_that_do_not_fit_together_are_named():
    # RF: W = C * FX * FY = 16 * 3 * 3 = 144, I = 16 * 3 * 3 = 144, O = 1 elements of 2 B: 288 + 288 + 2 = 578 B of 512.
    space = space_of("rows=OY RF.C=16 RF.FY=3 RF.FX=3")
    assert space.conflict() == (
        "RF.C=16, RF.FY=3 and RF.FX=3 cannot all hold: tile does not fit RF: needs 578 B (I 288 + W 288 + O 2), has "
        "512 B, over by 66 B; C <= 14 fits"
    )
    assert replace(space, constraints=Constraints.parse("RF.C=8 RF.FY=3 RF.FX=3")).conflict() == ""


def test_orders_that_evict_outputs_are_named():
    text = "DRAM.order=C>K DRAM.C=2 DRAM.K=2"
    assert space_of(text).conflict() == (
        "DRAM.order=C>K, DRAM.C=2 and DRAM.K=2 cannot all hold: unfinished outputs leave SPM inside the DRAM loop over "
        "C: needs 2 iterations, has 1 iterations, over by 1 iterations; move C inside K, or allow spill"
    )
    spilling = space_of(text, spill=True).require_default()
    assert (spilling.spill, spilling.dram_order.index("C") < spilling.dram_order.index("K")) == (True, True)
    assert Constraints.parse(text).wants_spill
    assert not Constraints.parse("DRAM.order=K>C SPM.order=C>K").wants_spill
    # Without the factors one of the two loops may stay away.
    assert space_of("DRAM.order=C>K").default_mapping() is not None


def test_no_conflict_without_constraints():
    tiny = MapSpace(workload=CONV, arch=small_arch(rf=5), constraints=Constraints.parse("rows=OY"))
    assert tiny.conflict() == ""
    with pytest.raises(NoMappingError, match="no legal mapping; of those tried, rf-capacity"):
        tiny.require_default()


@pytest.mark.parametrize("flow", ["OS", "WS", "RS", "TPU"])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("name", ["dmazerunner-256", "eyeriss-168", "quad-edge"])
def test_default_mapping_of_dataflows(flow: str, strict: bool, name: str):
    constraints = dataflow(flow, strict=strict)
    space = MapSpace(workload=CONV, arch=load_arch(name), constraints=constraints)
    default = space.require_default()
    assert space.contains(default)
    assert default == space.default_mapping()
    rows, cols = (
        {"OS": "OY", "WS": "FY", "RS": "OY", "TPU": "K"}[flow],
        {"OS": "OX", "WS": "FX", "RS": "FY", "TPU": "C"}[flow],
    )
    assert default.rows[rows] > 1
    assert default.cols[cols] > 1
    assert not strict or (default.rows.product(), default.cols.product()) == (default.rows[rows], default.cols[cols])


def test_default_that_already_complies_stays():
    free = MapSpace(workload=CONV, arch=load_arch("dmazerunner-256"))
    default = free.require_default()
    held = Constraints.parse(
        [f"SPM.K={default.spm.K}", f"rows!={next(d for d in ('FX', 'N') if default.rows[d] == 1)}"]
    )
    assert replace(free, constraints=held).require_default() == default


def test_num_mappings_with_constraints():
    # K = 3 on one PE: (SPM, RF) of (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), and 64 ways to buffer.
    free = MapSpace(workload=Workload.matmul(m=1, k=1, n=3), arch=small_arch(rows=1, cols=1))

    def count(text: str) -> int:
        return replace(free, constraints=Constraints.parse(text)).num_mappings

    assert count("SPM.K=3") == 3 * 64
    assert count("RF.K=1") == 3 * 64
    assert count("DRAM.K=1") == 3 * 64
    assert count("DRAM.K=2 RF.K>=2") == 1 * 64
    assert count("SPM.double=IW") == 6 * 8
    assert count("SPM.double=IW RF.double=none SPM.K=1") == 1
    assert count("SPM.K=3 SPM.K=2") == 0


def test_num_mappings_counts_constrained_orders():
    # K = 2 and C = 2 on one PE: 10 with one extra order where both loop at SPM; see the test of the map space.
    free = MapSpace(workload=Workload.matmul(m=1, k=2, n=2), arch=small_arch(rows=1, cols=1))
    assert free.num_mappings == 10 * 64
    assert replace(free, constraints=Constraints.parse("SPM.order=K>C")).num_mappings == 9 * 64
    assert replace(free, constraints=Constraints.parse("DRAM.order=K>C")).num_mappings == 10 * 64
    # C outside K at DRAM spills, so that both must not loop there.
    assert replace(free, constraints=Constraints.parse("DRAM.order=C>K")).num_mappings == 9 * 64
    spilling = replace(free, allow_spill=True, constraints=Constraints.parse("DRAM.order=C>K"))
    assert spilling.num_mappings == 10 * 64
