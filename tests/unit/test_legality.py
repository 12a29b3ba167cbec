"""Each reason to refuse a mapping, one step either side of its limit, with the text a user reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tvm_spm.arch import Arch, SplitBytes, load_arch
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import REASONS
from tvm_spm.space.legality import RULES, check, spilling_loops
from tvm_spm.space.legality_batch import check_batch, count_reasons
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import Dims, Operand, Workload

EDGE = load_arch("edge-256")
MATMUL = Workload.matmul(m=4, k=8, n=6)
# OX=4 C=8 K=6 as one tile in SPM, one element per PE and step.
WHOLE = Mapping(spm=MATMUL.dims, spm_order=("K", "OX", "C"))


def arch(
    *, cores: int = 1, rows: int = 4, cols: int = 4, rf: int = 64, spm: int | SplitBytes = 4096, bank: int = 1
) -> Arch:
    return replace(
        EDGE,
        cores=replace(EDGE.cores, count=cores),
        pe=replace(EDGE.pe, rows=rows, cols=cols),
        levels=replace(
            EDGE.levels,
            RF=replace(EDGE.levels.RF, capacity_bytes=rf),
            SPM=replace(EDGE.levels.SPM, capacity_bytes=spm, bank_bytes=bank),
        ),
    )


def verdict(workload: Workload, machine: Arch, mapping: Mapping) -> tuple[str, str]:
    """The reason and the text; the batched check must agree."""
    rejection = check(workload, machine, mapping)
    code = int(check_batch(workload, machine, encode([mapping]))[0])
    assert code == (0 if rejection is None else 1 + REASONS.index(rejection.reason))
    return ("legal", "") if rejection is None else (rejection.reason, str(rejection))


def test_every_reason_has_one_rule():
    # Constraints are checked by the map space.
    assert (*RULES, "constraint") == REASONS


def test_legal():
    assert verdict(MATMUL, arch(), WHOLE) == ("legal", "")


def test_cores():
    # 3 x 2 = 6 cores; K = 6 over 3 cores leaves 2 each, OX = 4 over 2 leaves 2 each.
    mapping = replace(WHOLE, cores=Dims(K=3, OX=2), spm=Dims(K=2, OX=2, C=8))
    assert verdict(MATMUL, arch(cores=6), mapping)[0] == "legal"
    assert verdict(MATMUL, arch(cores=5), mapping) == (
        "cores",
        "cores K=3 x OX=2: needs 6 cores, has 5 cores, over by 1 cores; cores K <= 2 fits",
    )


def test_core_factor_that_would_idle_is_not_suggested():
    # K = 9: 8 or 7 or 6 cores each get ceil(9/f) = 2, which only 5 need; 5 x 2 > 8, 4 -> ceil(9/4) = 3, needs 3.
    workload = Workload.matmul(m=4, k=8, n=9)
    mapping = replace(WHOLE, cores=Dims(K=5, OX=2), spm=Dims(K=2, OX=2, C=8))
    assert verdict(workload, arch(cores=8), mapping)[1].endswith("cores K <= 3 fits")


def test_core_reduction():
    mapping = replace(WHOLE, cores=Dims(C=2), spm=Dims(K=6, OX=4, C=4))
    assert verdict(MATMUL, arch(cores=2), mapping) == (
        "core-reduction",
        "reduction dim C across cores: needs 2 cores, has 1 cores, over by 1 cores; cores C = 1 is legal",
    )


def test_idle_core():
    # 6 elements over 4 cores: ceil(6/4) = 2 each, so 3 cores do it all.
    mapping = replace(WHOLE, cores=Dims(K=4), spm=Dims(K=2, OX=4, C=8))
    assert verdict(MATMUL, arch(cores=4), mapping) == (
        "idle-core",
        "K = 6 in chunks of 2 across cores: needs 4 cores, has 3 cores, over by 1 cores; cores K = 3 fits",
    )
    assert verdict(MATMUL, arch(cores=4), replace(mapping, cores=Dims(K=3)))[0] == "legal"


@pytest.mark.parametrize("axis", ["rows", "cols"])
def test_array_axis(axis: str):
    mapping = replace(WHOLE, **{axis: Dims(C=3, K=2)})
    assert verdict(MATMUL, arch(rows=6, cols=6), mapping)[0] == "legal"
    small = arch(rows=5, cols=6) if axis == "rows" else arch(rows=6, cols=5)
    assert verdict(MATMUL, small, mapping) == (
        axis,
        f"{axis} K=2 x C=3: needs 6 PEs, has 5 PEs, over by 1 PEs; {axis} C <= 2 fits",
    )


def test_array_axis_no_single_dim():
    # 2 x 2 x 2 = 8 on 1 row: giving up one dim still leaves 4.
    text = verdict(MATMUL, arch(rows=1), replace(WHOLE, rows=Dims(C=2, K=2, OX=2)))[1]
    assert text.endswith("over by 7 PEs; no single dim alone is enough")


def test_idle_pe():
    # 6 by 2 gives work to 3 PEs; by 1 to 6. With 4 PEs, 3 of them must leave something: 3 * rf < 6, so rf <= 1.
    mapping = replace(WHOLE, rows=Dims(K=2), cols=Dims(K=2), rf=Dims(K=2))
    assert verdict(MATMUL, arch(), mapping) == (
        "idle-pe",
        "K unrolled over an SPM tile of 6 by 2: needs 4 PEs, has 3 PEs, over by 1 PEs; RF tile K <= 1 fits",
    )
    assert verdict(MATMUL, arch(), replace(mapping, rf=Dims()))[0] == "legal"
    assert verdict(MATMUL, arch(), replace(mapping, cols=Dims()))[0] == "legal"


def test_idle_pe_more_pes_than_elements():
    mapping = replace(WHOLE, rows=Dims(OX=3), cols=Dims(OX=2))
    assert verdict(MATMUL, arch(), mapping)[1].endswith(
        "needs 6 PEs, has 4 PEs, over by 2 PEs; rows x cols of OX <= 4 fits"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"spm": Dims(K=7, OX=4, C=8)},
            "SPM tile of K exceeds a core's share: needs 7 elements, has 6 elements, "
            "over by 1 elements; SPM tile K <= 6 fits",
        ),
        (
            {"rf": Dims(OX=5)},
            "RF tile of OX exceeds the SPM tile: needs 5 elements, has 4 elements, "
            "over by 1 elements; RF tile OX <= 4 fits",
        ),
    ],
)
def test_tile(change: dict[str, Dims], text: str):
    assert verdict(MATMUL, arch(), replace(WHOLE, **change)) == ("tile", text)


def test_order():
    assert verdict(MATMUL, arch(), replace(WHOLE, spm_order=("K", "OX"))) == (
        "order",
        "SPM order without C: needs 8 iterations, has 1 iterations, over by 7 iterations; add C to the SPM order",
    )
    # ceil(6/4) = 2 SPM tiles.
    tiled = replace(WHOLE, spm=Dims(K=4, OX=4, C=8))
    assert verdict(MATMUL, arch(), tiled) == (
        "order",
        "DRAM order without K: needs 2 iterations, has 1 iterations, over by 1 iterations; add K to the DRAM order",
    )
    assert verdict(MATMUL, arch(), replace(tiled, dram_order=("K",)))[0] == "legal"


CONV = Workload.conv2d(K=2, C=3, OY=4, OX=4, FY=3, FX=3, stride=2)
CONV_WHOLE = Mapping(spm=CONV.dims, spm_order=("K", "C", "OY", "OX", "FY", "FX"))


def test_spm_capacity():
    # I 3 * 9 * 9 (stride 2: (4-1)*2+3 = 9) = 243, W 2*3*3*3 = 54, O 2*4*4 = 32 elements of 2 B: 486 + 108 + 64 = 658 B.
    assert verdict(CONV, arch(spm=658), CONV_WHOLE)[0] == "legal"
    # OY = 3: I 3*7*9 = 189 -> 378, O 2*3*4 = 24 -> 48: 378 + 108 + 48 = 534 B.
    assert verdict(CONV, arch(spm=657), CONV_WHOLE) == (
        "spm-capacity",
        "tile does not fit SPM: needs 658 B (I 486 + W 108 + O 64), has 657 B, over by 1 B; OY <= 3 fits",
    )


def test_spm_capacity_counts_second_buffers():
    # Twice 486 + 64, once 108: 1,208 B.
    mapping = replace(CONV_WHOLE, spm_double=(Operand.I, Operand.O))
    assert verdict(CONV, arch(spm=1208), mapping)[0] == "legal"
    assert "needs 1,208 B (I 972 + W 108 + O 128), has 1,207 B" in verdict(CONV, arch(spm=1207), mapping)[1]


def test_spm_capacity_takes_whole_banks():
    # Banks of 100 B: 500 + 200 + 100 = 800 B.
    assert verdict(CONV, arch(spm=800, bank=100), CONV_WHOLE)[0] == "legal"
    assert "needs 800 B (I 500 + W 200 + O 100), has 799 B" in verdict(CONV, arch(spm=799, bank=100), CONV_WHOLE)[1]


def test_spm_capacity_of_wide_outputs():
    # int8 operands, int32 partial sums and int8 outputs: O is held at 32 bit. I 243 + W 54 + O 32*4 = 425 B.
    workload = replace(Workload.conv2d(K=2, C=3, OY=4, OX=4, FY=3, FX=3, stride=2, dtype="int8", out_dtype="int32"),
                       out_dtype="int8")  # fmt: skip
    assert verdict(workload, arch(spm=425), CONV_WHOLE)[0] == "legal"
    assert "needs 425 B (I 243 + W 54 + O 128), has 424 B" in verdict(workload, arch(spm=424), CONV_WHOLE)[1]


def test_spm_capacity_when_outputs_are_wider_than_sums():
    # int8 sums that the epilogue widens to int32: the tile is held as it leaves.
    workload = replace(Workload.conv2d(K=2, C=3, OY=4, OX=4, FY=3, FX=3, stride=2, dtype="int8"), out_dtype="int32")
    assert "O 128" in verdict(workload, arch(spm=424), CONV_WHOLE)[1]


def test_spm_capacity_split():
    room = {"I": 486, "W": 108, "O": 64}
    assert verdict(CONV, arch(spm=SplitBytes(**room)), CONV_WHOLE)[0] == "legal"
    # K = 1 halves W to 54 B; nothing else shrinks it so little... C, FY and FX to 2 leave 72 B, 2/3 of the tile.
    assert verdict(CONV, arch(spm=SplitBytes(**{**room, "W": 107})), CONV_WHOLE) == (
        "spm-capacity",
        "tile of W does not fit its SPM: needs 108 B (W 108), has 107 B, over by 1 B; FY <= 2 fits",
    )


def test_spm_capacity_no_single_dim():
    # OY = 1: I 3*3*9 = 81 -> 162 alone is more than 100 B, and so for every other dim.
    assert verdict(CONV, arch(spm=100), CONV_WHOLE)[1].endswith("over by 558 B; shrinking one dim alone is not enough")


def test_suggested_spm_tile_keeps_all_pes_busy():
    # K = 2 is unrolled, so it cannot shrink to 1; W at 54 B would need just that.
    machine = arch(spm=SplitBytes(I=486, W=54, O=64))
    assert verdict(CONV, machine, CONV_WHOLE)[1].endswith("K <= 1 fits")
    unrolled = verdict(CONV, machine, replace(CONV_WHOLE, cols=Dims(K=2)))[1]
    assert not unrolled.endswith("K <= 1 fits")


def test_rf_capacity():
    # RF tile OX=4 C=8 K=1 -> I 32, W 8, O 4 elements of 2 B: 64 + 16 + 8 = 88 B.
    mapping = replace(WHOLE, rf=Dims(OX=4, C=8), spm_order=("K",))
    assert verdict(MATMUL, arch(rf=88), mapping)[0] == "legal"
    # C = 7: 56 + 14 + 8 = 78 B; 7/8 of C is less of a change than 3/4 of OX.
    assert verdict(MATMUL, arch(rf=87), mapping) == (
        "rf-capacity",
        "tile does not fit RF: needs 88 B (I 64 + W 16 + O 8), has 87 B, over by 1 B; C <= 7 fits",
    )
    # A second buffer for W: 16 B more.
    assert verdict(MATMUL, arch(rf=104), replace(mapping, rf_double=(Operand.W,)))[0] == "legal"
    assert verdict(MATMUL, arch(rf=103), replace(mapping, rf_double=(Operand.W,)))[0] == "rf-capacity"


def test_spill():
    # C loops twice (8/4) outside K, which changes the output tile.
    mapping = Mapping(spm=Dims(K=3, OX=4, C=4), dram_order=("C", "K"), spm_order=("K", "OX", "C"))
    assert verdict(MATMUL, arch(), mapping) == (
        "spill",
        "unfinished outputs leave SPM inside the DRAM loop over C: needs 2 iterations, has 1 iterations, "
        "over by 1 iterations; move C inside K, or allow spill",
    )
    assert verdict(MATMUL, arch(), replace(mapping, spill=True))[0] == "legal"
    assert verdict(MATMUL, arch(), replace(mapping, dram_order=("K", "C")))[0] == "legal"


def test_no_spill_without_a_loop_over_outputs():
    # The only other DRAM loop iterates once, so the output tile never changes.
    mapping = Mapping(spm=Dims(K=6, OX=4, C=4), dram_order=("C", "K"), spm_order=("K", "OX", "C"))
    assert spilling_loops(MATMUL, mapping) == ()
    assert verdict(MATMUL, arch(), mapping)[0] == "legal"


def test_only_outer_reduction_loops_spill():
    workload = Workload.conv2d(K=2, C=4, OY=4, OX=1, FY=3, FX=1)
    mapping = Mapping(spm=Dims(K=1, C=2), dram_order=("C", "K", "FY", "OY"), spm_order=("C",))
    assert spilling_loops(workload, mapping) == ("C", "FY")
    assert spilling_loops(workload, replace(mapping, dram_order=("C", "K", "OY", "FY"))) == ("C",)


def test_reasons_are_checked_in_order():
    # Everything is wrong here; cores come first.
    mapping = Mapping(cores=Dims(C=9), rows=Dims(K=9), cols=Dims(K=9), spm=Dims(K=99), rf=Dims(K=100))
    assert verdict(MATMUL, arch(), mapping)[0] == "cores"
    assert verdict(MATMUL, arch(cores=9), mapping)[0] == "core-reduction"
    assert verdict(MATMUL, arch(cores=9), replace(mapping, cores=Dims()))[0] == "rows"


def test_absurd_tiles_are_refused_and_do_not_overflow():
    # 2**10 in five dims: 2**50 multiply-accumulates are the most that a workload may have.
    workload = Workload.conv2d(K=2**10, C=2**10, OY=2**10, OX=2**10, FY=1, FX=1, N=2**10)
    mapping = Mapping(spm=workload.dims, rf=workload.dims)
    assert verdict(workload, arch(), mapping)[0] == "spm-capacity"


def test_count_reasons():
    codes = np.array([0, 1, 9, 9, 11, 0], dtype=np.int8)
    assert count_reasons(codes) == {"cores": 1, "spm-capacity": 2, "spill": 1}
    assert count_reasons(codes[:1]) == {}
