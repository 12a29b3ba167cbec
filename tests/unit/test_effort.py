"""Effort follows what a network can still gain: by hand for small numbers, and on tasks of very different weight."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tvm_spm.arch import load_arch
from tvm_spm.errors import NoMappingError
from tvm_spm.interrupt import StopRequest
from tvm_spm.objective import Objective
from tvm_spm.space.countable import require_countable
from tvm_spm.tuning.effort import Stake, shares_of, stake_of, trials_of
from tvm_spm.workload import Workload


def stake(cycles: float, pj: float, least_cycles: float, least_pj: float) -> Stake:
    return Stake(cycles=cycles, energy_pj=pj, least_cycles=least_cycles, least_energy_pj=least_pj)


STAKES = (stake(100, 40, 70, 30), stake(300, 60, 290, 20))


@pytest.mark.parametrize(
    ("objective", "gains"),
    [
        # 100 - 70 and 300 - 290 cycles
        (Objective.LATENCY, (30, 10)),
        # 40 - 30 and 60 - 20 pJ
        (Objective.ENERGY, (10, 40)),
        # 100 pJ and 400 cycles in all: 30 * 100 + 10 * 400, and 10 * 100 + 40 * 400
        (Objective.EDP, (7_000, 17_000)),
    ],
)
def test_shares_are_those_of_what_can_be_gained(objective: Objective, gains: tuple[int, int]):
    assert shares_of(STAKES, objective) == pytest.approx([gain / sum(gains) for gain in gains])


def test_who_can_gain_nothing_or_is_not_known_gets_a_little():
    shares = shares_of([*STAKES, stake(5, 5, 5, 5), None], Objective.EDP)
    assert sum(shares) == pytest.approx(1)
    assert shares[2] == shares[3] == pytest.approx(1 / 1024, rel=0.01)
    assert shares_of([None, None], Objective.EDP) == [0.5, 0.5]
    assert shares_of([], Objective.EDP) == []


def test_no_task_gets_more_trials_than_one_may_have_nor_fewer_than_a_batch():
    # An even share of three is a third: half of it is half of the trials.
    assert trials_of([2 / 3, 1 / 6, 1 / 6 - 0.001], most=64, least=16) == [64, 32, 32]
    assert trials_of([0.98, 0.02], most=64, least=16) == [64, 16]
    assert trials_of([0.98, 0.02], most=4, least=16) == [4, 4]


def test_often_and_far_from_the_floor_counts():
    arch = load_arch("edge-256")
    layer, small = (Workload.conv2d(K=k, C=k, OY=14, OX=14, FY=3, FX=3, padding=1) for k in (64, 8))
    once, four, little = stake_of(layer, 1, arch), stake_of(layer, 4, arch), stake_of(small, 1, arch)
    assert once is not None
    assert four is not None
    assert little is not None
    assert (four.cycles, four.least_energy_pj) == (4 * once.cycles, 4 * once.least_energy_pj)
    assert once.least_cycles < once.cycles
    assert once.least_energy_pj < once.energy_pj
    shares = shares_of([four, once, little], Objective.EDP)
    assert shares[0] == pytest.approx(4 * shares[1])
    assert shares[1] > 4 * shares[2]


def test_what_no_model_can_count_has_no_stake():
    arch = load_arch("dmazerunner-256")
    slow = replace(arch, dma=replace(arch.dma, startup_cycles=10**6))
    layer = Workload.matmul(m=1 << 17, k=1 << 17, n=1 << 16)
    with pytest.raises(NoMappingError, match="could take"):
        require_countable(layer, slow)
    assert stake_of(layer, 1, slow) is None
    assert stake_of(layer, 1, arch) is not None
    # More operands behind a sum than the formula has room for.
    small = Workload.matmul(m=2, k=2, n=2)
    crowded = replace(small, epilogue=replace(small.epilogue, extras=(small.O,) * 16))
    assert stake_of(crowded, 1, arch) is None


def test_a_part_of_the_time_left_may_be_any_share():
    whole = StopRequest(time.monotonic() + 1000)
    assert not whole.is_endless
    assert StopRequest().is_endless
    # A share of a hundred thousandth is over after 10 ms.
    part = whole.share(100_000)
    time.sleep(0.02)
    assert (part(), whole()) == (True, False)
    assert whole.share(1.5)() is False
