"""The nest of each template as text, for a reader to review."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from schedules.layer import schedule
from tests.numeric.plain import nest, prim_func
from tvm_spm.lowering.tiles import exact_tiles
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Epilogue, Operand, Projection, Workload

INT = {"dtype": "int8", "out_dtype": "int32"}

CONV = Workload.conv2d(K=8, C=6, OY=7, OX=14, FY=3, FX=3, padding=1, **INT)
BIASED = replace(
    CONV,
    epilogue=Epilogue(num_ops_per_elem=2, extras=(Projection(axes=(CONV.O.axes[1],), dtype="int32"), CONV.O)),
)

CASES = {
    # Rows are cut into 4 + 3, channels summed inside: outputs stay in RF until they are complete.
    "conv2d": (
        Workload.conv2d(K=8, C=6, OY=7, OX=14, FY=3, FX=3, padding=1, **INT),
        Mapping(
            cores=Dims(K=2), spm=Dims(K=4, C=3, OY=4, OX=14, FY=3, FX=3), rows=Dims(K=4), cols=Dims(OX=7),
            rf=Dims(OX=2, C=3, FY=3, FX=3), dram_order=("OY", "C"), spm_order=("OY",),
        ),
    ),
    # The same, but a step sums over one filter row only: unfinished outputs leave RF for SPM.
    "conv2d_accumulate_in_spm": (
        Workload.conv2d(K=8, C=6, OY=7, OX=14, FY=3, FX=3, padding=1, **INT),
        Mapping(
            spm=Dims(K=4, C=6, OY=7, OX=14, FY=3, FX=3), rows=Dims(K=4), cols=Dims(OX=7),
            rf=Dims(OX=2, C=6, FX=3), dram_order=("K",), spm_order=("FY", "OY"),
        ),
    ),
    # Input channels outside of output channels: unfinished outputs leave SPM for DRAM and come back.
    "matmul_spill": (
        Workload.matmul(m=8, k=12, n=10, **INT),
        Mapping(
            spm=Dims(OX=8, C=4, K=5), rows=Dims(K=5), cols=Dims(C=4), rf=Dims(OX=4), dram_order=("C", "K"),
            spm_order=("OX",), spm_double=(Operand.I, Operand.O), rf_double=(Operand.W, Operand.O), spill=True,
        ),
    ),
    "depthwise": (
        Workload.conv2d(K=6, C=6, OY=4, OX=4, FY=3, FX=3, groups=6, stride=2, **INT),
        Mapping(
            spm=Dims(G=4, OY=4, OX=4, FY=3, FX=3), rows=Dims(G=4), rf=Dims(OX=4, FY=3, FX=3), dram_order=("G",),
            spm_order=("OY",),
        ),
    ),
    # The bias is held for the tile that leaves, the residual passes by.
    "bias_and_residual": (
        BIASED,
        Mapping(
            spm=Dims(K=4, C=6, OY=4, OX=14, FY=3, FX=3), rows=Dims(K=4), cols=Dims(OX=7),
            rf=Dims(OX=2, C=6, FY=3, FX=3), dram_order=("K", "OY"), spm_order=("OY",),
        ),
    ),
    "matmul": (
        Workload.matmul(m=8, k=12, n=10, **INT),
        Mapping(
            spm=Dims(OX=8, C=4, K=5), rows=Dims(K=5), cols=Dims(C=4), rf=Dims(OX=4), dram_order=("K", "C"),
            spm_order=("OX",),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_schedule_text(name: str, matches: Callable[[str, str], None]):
    workload, mapping = CASES[name]
    sch = schedule(prim_func(workload), nest(workload), mapping)
    code = exact_tiles(sch.mod["main"]).script()
    matches(f"schedule_{name}", f"{workload}\n\n{mapping}\n\n{code}\n")
