"""Texts of mappings, damaged: what is read prints and reads back the same, and the rules and models take it."""

from __future__ import annotations

from random import Random

from cost_model.analytical.model import AnalyticalModel
from tests.fuzz.mutate import ODD_TEXTS, damaged_text
from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm.arch import load_arch
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import REASONS
from tvm_spm.space import legality
from tvm_spm.space.legality_batch import check_batch
from tvm_spm.space.mapping_batch import encode
from tvm_spm.workload import DIM_NAMES, Dims, Operand, Workload

ARCH = load_arch("edge-256")
WORKLOADS = (
    Workload.matmul(m=8, k=12, n=6),
    Workload.conv2d(N=2, K=4, C=6, OY=5, OX=7, FY=3, FX=3, stride=2, padding=1, groups=2),
)


def _dims(random: Random, extents: Dims) -> Dims:
    return Dims.of([random.choice((1, 1, 2, random.randint(1, extent))) for extent in extents])


def _mapping(random: Random, workload: Workload) -> Mapping:
    def order() -> tuple[str, ...]:
        return tuple(random.sample(DIM_NAMES, random.choice((8, 8, random.randrange(9)))))

    def operands() -> tuple[Operand, ...]:
        return tuple(operand for operand in Operand if random.random() < 0.5)

    spm = _dims(random, workload.dims)
    return Mapping(
        spm=spm,
        rows=random.choice((Dims(), _dims(random, spm))),
        cols=random.choice((Dims(), _dims(random, spm))),
        rf=random.choice((Dims(), _dims(random, spm))),
        dram_order=order(), spm_order=order(), spm_double=operands(), rf_double=operands(), spill=random.random() < 0.5,
    )  # fmt: skip


def run(random: Random) -> str:
    """One case."""
    workload = random.choice(WORKLOADS)
    mapping = _mapping(random, workload)
    text = random.choice((str, Mapping.line))(mapping)
    if random.random() < 0.85:
        text = damaged_text(text, random)
    elif random.random() < 0.3:
        text = random.choice(ODD_TEXTS) + ("; ".join([text] * random.choice((1, 2, 50))))
    try:
        read = Mapping.parse(text)
    except SpmError:
        return REFUSED
    assert Mapping.parse(str(read)) == read == Mapping.parse(read.line())
    rejection = legality.check(workload, ARCH, read)
    (code,) = check_batch(workload, ARCH, encode([read]))
    assert (rejection.reason if rejection else None) == (REASONS[code - 1] if code else None)
    if rejection is None:
        cost = AnalyticalModel().cost(workload, ARCH, read)
        assert cost.cycles * ARCH.peak_macs_per_cycle >= workload.macs
        assert cost.energy_pj > 0
    else:
        assert str(rejection)
    return RIGHT
