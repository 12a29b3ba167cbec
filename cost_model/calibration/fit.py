"""Fit the numbers of an accelerator to measured cycles, of all tasks together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cost_model.calibration.numbers import FITTED, Number, Scale
from cost_model.calibration.predictions import FAITHFUL, Floats, Measured, Predictions
from cost_model.calibration.result import FittedArch, FittedNumber
from tvm_spm.arch import Arch

MOST_CALLS = 60
"""Steps of one least-squares fit."""

NUM_TRIED = 2
"""Numbers that are fitted before one of them becomes free; the others explain less at the best point of a grid."""

EXACT = 5e-4
"""A spread below which nothing is left to explain."""

POOR = 0.5
"""A spread of the logarithm above which the formula does not describe the measurements at all."""

_RATES = (-3.0, -2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0)
_OVERHEADS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0, 11.0)
_STAGES = (1, 2, 3, 4, 6, 8, 12, 16, 32)


def fit_arch(arch: Arch, measured: Sequence[Measured], numbers: Sequence[Number] = FITTED) -> FittedArch:
    """The accelerator whose numbers explain measurements best.

    One number after the other becomes free, the one that explains most first, until the next would explain no more than
    chance does. Those that are free are fitted together, by robust least squares of ``log(formula / measured)``, from
    the best of a grid, because the formula is a maximum of rates and flat where another one bounds.

    Args:
        arch: With declared numbers.
        measured: Measurements of all tasks.
        numbers: What may be fitted.

    Returns:
        Fitted numbers with their uncertainty. The declared ones, with the reason, if there are too few measurements,
        none explains them better, or the formula is far off with any.
    """
    predictions = Predictions(arch, measured, numbers)
    best = predictions.declared
    before = predictions.spread(best)
    if predictions.num_measured < 2:
        return _kept(predictions, f"{predictions.num_measured} measurements, at least 2 are needed")
    while (better := _better(predictions, best)) is not None:
        best = better
    after = predictions.spread(best)
    if after > POOR:
        return _kept(predictions, f"measured and predicted cycles differ {math.exp(after):.2g}-fold after a fit too")
    if best is predictions.declared:
        return _kept(predictions, "no other numbers explain the measurements better" if before > 0 else "")
    return FittedArch(
        arch=predictions.machine(best), numbers=_fitted(predictions, best), num_measured=predictions.num_measured,
        spread_before=before, spread_after=after, reason="",
    )  # fmt: skip


def _better(predictions: Predictions, position: Floats) -> Floats | None:
    if predictions.spread(position) < EXACT:
        return None
    more = _with_one_more(predictions, position)
    return _with_another(predictions, position) if more is None else more


def _with_one_more(predictions: Predictions, position: Floats, barred: int | None = None) -> Floats | None:
    """The fit with one more number free; None if none explains enough.

    Args:
        predictions: Of any position.
        position: The fit so far.
        barred: A number that stays as it is.
    """
    every = range(len(predictions.numbers))
    fixed = [at for at in every if at != barred and not predictions.is_free(position, at)]
    enough = predictions.cost(position) - _slack(predictions, position)
    starts = sorted((_moved(predictions, position, at) for at in fixed), key=predictions.cost)
    tried = []
    for start in starts[:NUM_TRIED]:
        free = [at for at in every if predictions.is_free(start, at)]
        if free:
            tried.append(_plain(predictions, _polished(predictions, start, free), free))
    best = min(tried, key=predictions.cost, default=position)
    return best if predictions.cost(best) < enough else None


def _with_another(predictions: Predictions, position: Floats) -> Floats | None:
    """The fit with one of the free numbers given up for another that explains more; None if none does.

    What explains most of the first number alone is not always among those that explain most together.
    """
    for at in range(len(predictions.numbers)):
        if not predictions.is_free(position, at):
            continue
        without = position.copy()
        without[at] = predictions.declared[at]
        free = [other for other in range(len(predictions.numbers)) if predictions.is_free(without, other)]
        found = _with_one_more(predictions, _polished(predictions, without, free) if free else without, barred=at)
        if found is not None and predictions.cost(found) < predictions.cost(position) - _slack(predictions, position):
            return found
    return None


def _slack(predictions: Predictions, position: Floats) -> float:
    """By how much another number must explain more: as if it explained three measurements away."""
    return 0.1 + 3.0 * predictions.cost(position) / predictions.num_measured


def _moved(predictions: Predictions, position: Floats, at: int) -> Floats:
    """The best of a grid along one number."""
    number = predictions.numbers[at]
    if number.scale is Scale.OVERHEAD:
        grid: Sequence[float] = _OVERHEADS
    elif number.is_whole:
        grid = [math.log(stages) for stages in _STAGES]
    else:
        grid = [position[at] + step for step in _RATES]
    trials = [position]
    for place in grid:
        trials.append(position.copy())
        trials[-1][at] = min(max(place, predictions.low[at]), predictions.high[at])
    return min(trials, key=predictions.cost)


def _polished(predictions: Predictions, start: Floats, free: list[int]) -> Floats:
    """Least squares of the free numbers."""

    def whole(part: Floats) -> Floats:
        position = start.copy()
        position[free] = part
        return position

    # only a run with a measurer needs it, and every run would wait for its import
    from scipy.optimize import least_squares

    found = least_squares(
        lambda part: predictions.residuals(whole(part)), start[free],
        jac=lambda part: predictions.jacobian(whole(part), free),
        bounds=(predictions.low[free], predictions.high[free]), loss="soft_l1", f_scale=FAITHFUL, max_nfev=MOST_CALLS,
    )  # fmt: skip
    return min((start, whole(np.asarray(found.x))), key=predictions.cost)


def _plain(predictions: Predictions, position: Floats, free: list[int]) -> Floats:
    """As many declared, whole or short numbers as explain the measurements about as well.

    The formula rounds up, so that 32 elements a cycle are far from 31.99; and a declared number is believed until
    measurements contradict it.
    """
    for at in free:
        number = predictions.numbers[at]
        value, declared = number.value(float(position[at])), number.of(predictions.arch)
        for wanted in (declared, float(round(value)), *(float(f"{value:.{digits}g}") for digits in (1, 2, 3, 4))):
            if wanted is not None and wanted <= 0 and number.scale is Scale.RATE:
                continue
            trial = position.copy()
            trial[at] = number.position(wanted)
            may_lose = _slack(predictions, position) if wanted == declared else 1e-3
            if predictions.cost(trial) <= predictions.cost(position) + may_lose:
                position = trial
                break
    return position


def _kept(predictions: Predictions, reason: str) -> FittedArch:
    spread = predictions.spread(predictions.declared)
    return FittedArch(
        arch=predictions.arch, numbers=(), num_measured=predictions.num_measured, spread_before=spread,
        spread_after=spread, reason=reason,
    )  # fmt: skip


def _fitted(predictions: Predictions, position: Floats) -> tuple[FittedNumber, ...]:
    deviations = predictions.deviations(position)
    found = []
    for at, (number, value) in enumerate(zip(predictions.numbers, predictions.values(position), strict=True)):
        is_seen = predictions.is_seen(position, at)
        low, high = (number.value(float(position[at] + sign * 2 * deviations[at])) for sign in (-1, 1))
        found.append(
            FittedNumber(
                path=number.path, meaning=number.meaning, declared=number.of(predictions.arch), value=value,
                low=low if is_seen else None, high=high if is_seen else None,
            )
        )  # fmt: skip
    return tuple(found)
