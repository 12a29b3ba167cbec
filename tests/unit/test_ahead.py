"""Searches that run beside the one that is waited for: the same answers, and none outlives its use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tvm_spm.arch import load_arch
from tvm_spm.errors import WorkloadError
from tvm_spm.result import SearchResult
from tvm_spm.space.case import Case
from tvm_spm.tuning.ahead import searches_ahead
from tvm_spm.tuning.exact_starts import ExactStart
from tvm_spm.workload import Workload

CASE = Case(workload=Workload.matmul(m=2, n=2, k=2), arch=load_arch("edge-256"))


@pytest.fixture(autouse=True)
def three_processors(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)


@dataclass(frozen=True, kw_only=True)
class Noted(ExactStart):
    """Notes its number; the last one goes on until somebody stops it."""

    number: int
    begun: list[int] = field(compare=False, hash=False)
    has_begun: threading.Event = field(compare=False, hash=False, default_factory=threading.Event)
    fails: bool = False
    is_endless: bool = False

    def search(self, should_stop: Callable[[], bool]) -> SearchResult | None:
        self.begun.append(self.number)
        self.has_begun.set()
        if self.fails:
            raise WorkloadError("no such dim")
        while self.is_endless and not should_stop():
            pass
        return None


def noted(number: int, begun: list[int], *, fails: bool = False, is_endless: bool = False) -> Noted:
    return Noted(case=CASE, most_steps=1, number=number, begun=begun, fails=fails, is_endless=is_endless)


def test_searches_together_are_those_one_by_one():
    layers = [Workload.conv2d(K=k, C=3, OY=5, OX=7, FY=3, FX=3) for k in (4, 5, 6, 7)]
    cases = [Case(workload=layer, arch=load_arch(name)) for layer in layers for name in ("edge-256", "quad-edge")]
    starts = [ExactStart(case=case, most_steps=300, perfect=False, is_simulated=True) for case in cases]
    with searches_ahead(starts, lambda: False) as finder:
        together = [finder.find(start, lambda: False) for start in starts]
    assert together == [start.search(lambda: False) for start in starts]


def test_what_nobody_asks_for_does_not_begin():
    begun = list[int]()
    starts = [noted(number, begun) for number in range(9)]
    with searches_ahead(starts, lambda: False) as finder:
        finder.find(starts[4], lambda: False)
    assert {4} <= set(begun) <= {4, 5, 6}


def test_those_that_will_be_asked_for_begin_before():
    begun = list[int]()
    starts = [noted(number, begun) for number in range(9)]
    with searches_ahead(starts, lambda: False, begins=True):
        assert all(starts[number].has_begun.wait(timeout=60) for number in range(3))
    assert sorted(begun) == [0, 1, 2]


def test_searches_under_way_end_with_the_block():
    begun = list[int]()
    starts = [noted(0, begun), noted(1, begun, is_endless=True)]
    with searches_ahead(starts, lambda: False) as finder:
        finder.find(starts[0], lambda: False)
        assert starts[1].has_begun.wait(timeout=60)


def test_an_error_is_for_who_asks():
    begun = list[int]()
    starts = [noted(0, begun), noted(1, begun, fails=True)]
    with searches_ahead(starts, lambda: False) as finder:
        assert finder.find(starts[0], lambda: False) is None
        with pytest.raises(WorkloadError, match="no such dim"):
            finder.find(starts[1], lambda: False)


def test_what_was_not_announced_is_searched_too():
    begun = list[int]()
    with searches_ahead([noted(0, begun)], lambda: False) as finder:
        assert finder.find(noted(7, begun), lambda: False) is None
    assert begun == [7]
