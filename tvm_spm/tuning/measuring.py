"""Run measurements so that no answer is lost: one that fails is an answer too, and those behind it still count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tvm_spm.cost import Cost
from tvm_spm.tuning.measurer import MeasureError, Measurer, costs_of
from tvm_spm.tuning.requests import Request
from tvm_spm.workers import Workers

Answer = Cost | str
"""A cost, or why there is none."""


class NoMeasurementError(MeasureError):
    """No measurement of a task succeeded."""


def measure_in_order(
    requests: Sequence[Request],
    measurer: Measurer,
    workers: Workers,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[tuple[int, Answer]]]:
    """Measure mappings, and give what is back as soon as it is.

    Args:
        requests: What to measure: all mappings of layers, or all of groups.
        measurer: Who measures. With an attribute ``batch_size`` it is asked for at most so many at once; with a true
            attribute ``waits`` it only waits for another process, so that threads do for workers.
        workers: Who runs the measurer, one measurement per job if they are others.
        should_stop: Once true no further measurement is begun, but for the first.

    Yields:
        Positions in ``requests`` with their answers; in order, but for what is saved when workers are lost.

    Raises:
        WorkersLostError: The executor takes no more work, or its workers died.
        WorkersError: The measurer cannot be sent to workers.
    """
    if workers.are_others:
        jobs = [(request, measurer) for request in requests]
        waits = bool(getattr(measurer, "waits", False))
        for found in workers.in_order(
            _measure_one, jobs, should_stop=should_stop, waits=waits, given_up=_reason
        ):  # fmt: skip
            yield [found]
        return
    size = getattr(measurer, "batch_size", None) or len(requests)
    for start in range(0, len(requests), size):
        position = start
        for answers in _measure_batch(requests[start : start + size], measurer):
            yield list(enumerate(answers, start=position))
            position += len(answers)
            if should_stop():
                return


def _measure_batch(requests: Sequence[Request], measurer: Measurer) -> Iterator[Sequence[Answer]]:
    """All at once; one by one if that fails, because the error does not say which of them it was."""
    try:
        answers = costs_of(requests, measurer)
    except MeasureError as error:
        if len(requests) == 1:
            yield [_reason(error)]
            return
    else:
        yield answers
        return
    for request in requests:
        yield [_measure_one(request, measurer)]


def _measure_one(request: Request, measurer: Measurer) -> Answer:
    """In a worker: a failure is data, so that it comes back like everything else."""
    try:
        return costs_of([request], measurer)[0]
    except MeasureError as error:
        return _reason(error)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
