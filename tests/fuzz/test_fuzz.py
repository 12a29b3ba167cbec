"""Damaged and odd inputs of every kind end in a right answer or in an ``SpmError``: no traceback, crash or hang."""

from __future__ import annotations

import pytest

from tests.fuzz.budget import CI_CASES, SLOW_TIMES
from tests.fuzz.outcome import REFUSED, RIGHT
from tests.fuzz.supervisor import KINDS, fuzz


def check(kind: str, first: int, num: int, record) -> None:
    tally = fuzz(kind, range(first, first + num))
    record("fuzz", str(tally))
    assert not tally.findings, "\n\n".join(str(finding) for finding in tally.findings[:5])
    assert sum(tally.counts.values()) == num
    # Damage that is always refused at the door, or always harmless, tests nothing. Graphs are odd, not damaged.
    assert tally.counts[RIGHT] > num // 50
    assert tally.counts[REFUSED] > num // 50 or kind == "onnx_graphs"


@pytest.mark.parametrize("kind", KINDS)
def test_no_input_gets_past_its_check(kind: str, record_property):
    check(kind, 0, CI_CASES[kind], record_property)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_many_more_inputs(kind: str, record_property):
    check(kind, CI_CASES[kind], CI_CASES[kind] * SLOW_TIMES, record_property)


def test_the_budget():
    assert sum(CI_CASES.values()) == 2_000
    assert 2_000 * SLOW_TIMES == 50_000
    assert set(CI_CASES) == set(KINDS)
