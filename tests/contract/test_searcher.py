"""What every searcher promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.mapspace_cases import satisfies, small_arch
from tvm_spm.arch import load_arch
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.searchers import SEARCHERS as NAMED
from tvm_spm.searchers import Searcher, searcher_named
from tvm_spm.space.constraints import Constraints, dataflow
from tvm_spm.space.mapping_batch import MappingBatch, decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

MakeSearcher = Callable[[MapSpace, np.random.Generator], Searcher]

SEARCHERS: dict[str, MakeSearcher] = {
    **{name: lambda space, rng, named=named: named(space, rng=rng) for name, named in NAMED.items()},
    **{
        f"{name}-with-start": lambda space, rng, named=named: named(
            space, rng=rng, start=space.sample(np.random.default_rng(5), 3)
        )
        for name, named in NAMED.items()
    },
}

LARGE = MapSpace(
    workload=Workload.conv2d(K=64, C=64, OY=56, OX=56, FY=3, FX=3, padding=1, IY=56, IX=56),
    arch=load_arch("dmazerunner-256"),
)
SMALL = MapSpace(workload=Workload.matmul(m=1, k=2, n=2), arch=small_arch(rows=1, cols=1))
EMPTY = MapSpace(workload=Workload.matmul(m=2, k=2, n=2), arch=small_arch(rf=5))
CONSTRAINED = {
    "strict": replace(LARGE, constraints=dataflow("OS")),
    "replicated": replace(LARGE, constraints=dataflow("TPU", strict=False) + Constraints.parse("SPM.double=IWO")),
    "tiles": replace(LARGE, constraints=Constraints.parse("SPM.K=32 RF.FX=3 DRAM.C>=2 rows!=FY cols.OX=8")),
    "orders": replace(LARGE, constraints=Constraints.parse("DRAM.outer=K>OY SPM.inner=FY>FX SPM.order=K>C")),
}


@pytest.fixture(params=sorted(SEARCHERS))
def make(request: pytest.FixtureRequest) -> MakeSearcher:
    return SEARCHERS[request.param]


def test_a_name_stands_for_a_searcher_and_an_unknown_one_is_an_error() -> None:
    assert [searcher_named(name) for name in NAMED] == list(NAMED.values())
    with pytest.raises(SpmError, match="unknown searcher 'evolution': did you mean 'evolutionary'?"):
        searcher_named("evolution")


def mappings_of(batch: MappingBatch) -> list[Mapping]:
    return [decode(batch, row) for row in range(batch.num_mappings)]


def iterations(batch: MappingBatch) -> np.ndarray:
    """A score with a clear direction: few passes."""
    extents = np.array(LARGE.workload.dims.as_tuple())
    return np.ceil(extents / batch.spm).prod(axis=1)


def run(searcher: Searcher, rounds: int, size: int) -> list[Mapping]:
    asked = []
    for _ in range(rounds):
        batch = searcher.ask(size)
        searcher.tell(batch, iterations(batch))
        asked += mappings_of(batch)
    return asked


def test_stays_in_the_space_and_never_repeats(make: MakeSearcher):
    asked = run(make(LARGE, np.random.default_rng(0)), 5, 30)
    assert len(asked) == len(set(asked)) == 150
    assert all(LARGE.contains(mapping) for mapping in asked)


@pytest.mark.parametrize("name", sorted(CONSTRAINED))
def test_keeps_to_constraints(make: MakeSearcher, name: str):
    space = CONSTRAINED[name]
    searcher = make(space, np.random.default_rng(0))
    asked = run(searcher, 5, 20)
    assert len(asked) == len(set(asked)) == 100
    assert all(space.contains(mapping) and satisfies(space.constraints, mapping, space.workload) for mapping in asked)
    # Proposals are made within the constraints, not sorted out afterwards.
    assert searcher.legal_share > 0.5


def test_exhausts_a_small_constrained_space(make: MakeSearcher):
    space = replace(SMALL, constraints=Constraints.parse("SPM.order=C>K SPM.double=IW RF.K=1"))
    legal = set(space.enumerate())
    asked = mappings_of(make(space, np.random.default_rng(0)).ask(1000))
    assert 0 < len(legal) == len(asked)
    assert set(asked) == legal


def test_impossible_constraints_yield_nothing(make: MakeSearcher):
    searcher = make(replace(LARGE, constraints=Constraints.parse("SPM.K=65")), np.random.default_rng(0))
    assert searcher.ask(10).num_mappings == 0
    assert set(searcher.rejected) == {"constraint"}


def test_same_seed_same_mappings(make: MakeSearcher):
    first, again = (run(make(LARGE, np.random.default_rng(7)), 4, 20) for _ in range(2))
    assert first == again
    assert run(make(LARGE, np.random.default_rng(8)), 4, 20) != first


def test_exhausts_a_small_space_and_then_asks_nothing(make: MakeSearcher):
    searcher = make(SMALL, np.random.default_rng(0))
    legal = set(SMALL.enumerate())
    asked: list[Mapping] = []
    for _ in range(len(legal) // 100 + 2):
        batch = searcher.ask(100)
        searcher.tell(batch, np.arange(float(batch.num_mappings)))
        asked += mappings_of(batch)
    assert len(asked) == len(legal)
    assert set(asked) == legal
    assert searcher.ask(10).num_mappings == 0


def test_an_empty_space_yields_nothing_and_says_why(make: MakeSearcher):
    searcher = make(EMPTY, np.random.default_rng(0))
    assert searcher.ask(10).num_mappings == 0
    assert searcher.legal_share == 0
    assert set(searcher.rejected) == {"rf-capacity"}


def test_inputs_stay_unchanged(make: MakeSearcher):
    searcher = make(LARGE, np.random.default_rng(0))
    batch = searcher.ask(20)
    scores = iterations(batch)
    before = [column.copy() for column in (*batch, scores)]
    searcher.tell(batch, scores)
    searcher.ask(20)
    searcher.tell(searcher.ask(20), np.zeros(20))
    assert all(np.array_equal(a, b) for a, b in zip(before, (*batch, scores), strict=True))


def test_scores_that_are_no_numbers_are_survived(make: MakeSearcher):
    searcher = make(LARGE, np.random.default_rng(0))
    for value in (np.nan, np.inf, -np.inf):
        batch = searcher.ask(20)
        searcher.tell(batch, np.full(20, value))
    assert searcher.ask(20).num_mappings == 20


def test_scores_must_fit_the_batch(make: MakeSearcher):
    searcher = make(LARGE, np.random.default_rng(0))
    batch = searcher.ask(20)
    with pytest.raises(ValueError, match="20 mappings with scores of shape"):
        searcher.tell(batch, np.zeros(19))


def test_scores_of_others_are_welcome(make: MakeSearcher):
    """Measurements of an earlier run may be told without being asked for."""
    searcher = make(LARGE, np.random.default_rng(0))
    batch = LARGE.sample(np.random.default_rng(1), 30)
    searcher.tell(batch, iterations(batch))
    assert searcher.ask(10).num_mappings == 10


def test_asking_for_nothing(make: MakeSearcher):
    assert make(LARGE, np.random.default_rng(0)).ask(0).num_mappings == 0


def test_legal_share_and_reasons_start_clean(make: MakeSearcher):
    searcher = make(LARGE, np.random.default_rng(0))
    assert (searcher.legal_share, searcher.rejected) == (1.0, {})
