"""Calibration: machines whose numbers the file does not say, measured by the simulator."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cost_model.analytical.model import evaluate_batch
from cost_model.calibration import Measured, fit_arch
from cost_model.calibration.numbers import FITTED
from cost_model.simulator import simulate_batch
from tvm_spm.arch import load_arch
from tvm_spm.space.mapping_batch import decode
from tvm_spm.space.mapspace import MapSpace
from tvm_spm.workload import Workload

LAYERS = (
    Workload.conv2d(K=64, C=64, OY=28, OX=28, FY=3, FX=3, padding=1),
    Workload.conv2d(K=128, C=64, OY=28, OX=28, FY=1, FX=1, stride=2),
    Workload.matmul(m=128, k=768, n=768),
)
NUMBERS = {number.path: number for number in FITTED}
FOREIGN = (
    {"dma.startup_cycles": 198.0},
    {"dma.startup_cycles": 40.0, "noc.elems_per_cycle": 8.0},
    {"dma.cycles_per_byte": 0.5, "cores.launch_cycles": 20_000.0},
    {"pe.mac_stages": 6.0, "levels.DRAM.channel_bytes_per_cycle": 12.0},
    {"levels.SPM.bytes_per_cycle": 20.0},
)


def foreign(arch, values):
    for path, value in values.items():
        arch = NUMBERS[path].set(arch, value)
    return arch


def drawn(layer, arch, rng, count):
    space = MapSpace(workload=layer, arch=arch)
    batch = space.sample(rng, 400)
    return batch.take(np.flatnonzero(space.check(batch) == 0)[:count])


def cycles_of(layer, arch, batch):
    mappings = [decode(batch, row) for row in range(batch.num_mappings)]
    return np.array([cost.cycles for cost in simulate_batch(layer, arch, mappings)], dtype=np.float64)


def measured(declared, true, rng, count=5, noise=0.0):
    found = []
    for layer in LAYERS:
        batch = drawn(layer, declared, rng, count)
        cycles = cycles_of(layer, true, batch) * np.exp(rng.normal(0, noise, count))
        found.append(Measured(workload=layer, batch=batch, cycles=cycles))
    return found


def errors_of(found, true, declared, rng):
    """Of mappings that were not measured."""
    errors = []
    for layer in LAYERS:
        batch = drawn(layer, declared, rng, 20)
        predicted = evaluate_batch(layer, found.arch, batch).cycles
        errors += np.abs(np.log(predicted / cycles_of(layer, true, batch))).tolist()
    return np.array(errors)


@pytest.mark.parametrize("values", FOREIGN, ids=lambda values: " ".join(values))
def test_what_the_file_does_not_say_is_found(values):
    rng = np.random.default_rng(3)
    declared = load_arch("edge-256")
    true = foreign(declared, values)
    found = fit_arch(declared, measured(declared, true, rng))
    assert not found.reason
    assert found.spread_after < 0.005 < found.spread_before
    errors = errors_of(found, true, declared, rng)
    assert np.median(errors) < 0.005
    assert np.quantile(errors, 0.9) < 0.05
    assert any(number.is_changed for number in found.numbers)
    assert "the file says" in str(found)


def test_the_number_itself_is_found_where_no_other_does_the_same():
    declared = load_arch("edge-256")
    data = measured(declared, foreign(declared, FOREIGN[0]), np.random.default_rng(4))
    found = {number.path: number for number in fit_arch(declared, data).numbers}
    assert found["dma.startup_cycles"].value == 198
    assert [path for path, number in found.items() if number.is_changed] == ["dma.startup_cycles"]
    assert str(found["dma.startup_cycles"]).startswith("dma.startup_cycles is 198 (")


def test_several_cores_that_share_a_channel():
    """The formula only estimates how they wait for it."""
    rng = np.random.default_rng(5)
    declared = load_arch("quad-edge")
    true = foreign(declared, FOREIGN[0])
    found = fit_arch(declared, measured(declared, true, rng))
    assert np.median(errors_of(found, true, declared, rng)) < 0.03


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_noise_and_wild_answers_move_it_little(noise):
    rng = np.random.default_rng(6)
    declared = load_arch("edge-256")
    data = measured(declared, foreign(declared, FOREIGN[0]), rng, count=12, noise=noise)
    for each in data:
        each.cycles[::6] *= 30  # answers that are wrong altogether
    numbers = {number.path: number for number in fit_arch(declared, data).numbers}
    startup = numbers["dma.startup_cycles"]
    assert startup.value == pytest.approx(198, rel=3 * noise)
    assert startup.low is not None
    assert startup.low < startup.value < startup.high


def test_exact_numbers_stay_as_they_are():
    declared = load_arch("edge-256")
    found = fit_arch(declared, measured(declared, declared, np.random.default_rng(7)))
    assert (found.arch, found.numbers, found.reason) == (declared, (), "")


def test_noise_alone_changes_no_number():
    declared = load_arch("edge-256")
    changed = 0
    for seed in range(5):
        found = fit_arch(declared, measured(declared, declared, np.random.default_rng(seed), noise=0.05))
        changed += sum(number.is_changed for number in found.numbers)
    assert changed <= 1


@pytest.mark.parametrize(
    ("answers", "said"),
    [(lambda rng, n: np.full(n, 1000.0), "fold after a fit too"),
     (lambda rng, n: np.exp(rng.uniform(0, 20, n)), "fold after a fit too")],
    ids=["always the same", "contradictions"],
)  # fmt: skip
def test_answers_that_nothing_explains_keep_the_declared_numbers(answers, said):
    rng = np.random.default_rng(8)
    declared = load_arch("edge-256")
    data = [Measured(workload=layer, batch=drawn(layer, declared, rng, 6), cycles=answers(rng, 6)) for layer in LAYERS]
    found = fit_arch(declared, data)
    assert found.arch == declared
    assert said in found.reason
    assert said in str(found)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_measurements_say_so(count):
    declared = load_arch("edge-256")
    data = measured(declared, declared, np.random.default_rng(9), count=1)[:count]
    assert f"{count} measurements" in fit_arch(declared, data).reason


def test_a_number_that_no_measurement_sees_stays_and_says_so():
    """Words that fit the port need no start-up: what bounds is the array."""
    declared = load_arch("edge-256")
    true = foreign(declared, {"cores.launch_cycles": 5e5})
    found = fit_arch(declared, measured(declared, true, np.random.default_rng(10)))
    numbers = {number.path: number for number in found.numbers}
    assert numbers["cores.launch_cycles"].value == pytest.approx(5e5, rel=0.01)
    unseen = [number for number in found.numbers if number.low is None]
    assert all(number.value == number.declared and "no measurement sees it" in str(number) for number in unseen)


def test_the_same_measurements_give_the_same_numbers():
    declared = load_arch("edge-256")
    found = [
        fit_arch(declared, measured(declared, foreign(declared, FOREIGN[1]), np.random.default_rng(11)))
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert all(math.isfinite(number.value or 0) for number in found[0].numbers)
