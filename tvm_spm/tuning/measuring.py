"""Run measurements so that no answer is lost: one that fails is an answer too, and those behind it still count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future

from tvm_spm.cost import Cost
from tvm_spm.tuning.measurer import MeasureError, Measurer, MeasureRequest, costs_of

Answer = Cost | str
"""A cost, or why there is none."""


class NoMeasurementError(MeasureError):
    """No measurement of a task succeeded."""


class WorkersLostError(MeasureError):
    """The workers that measure are gone; what came back before is kept."""


def measure_in_order(
    requests: Sequence[MeasureRequest], measurer: Measurer, executor: Executor | None
) -> Iterator[list[tuple[int, Answer]]]:
    """Measure mappings, and give what is back as soon as it is.

    Args:
        requests: What to measure.
        measurer: Who measures. With an attribute ``batch_size`` it is asked for at most so many at once.
        executor: Runs one measurement per call; in this process if None.

    Yields:
        Positions in ``requests`` with their answers; in order, but for what is saved when workers are lost.

    Raises:
        WorkersLostError: The executor takes no more work, or its workers died.
    """
    if executor is not None:
        yield from _from_workers(requests, measurer, executor)
        return
    size = getattr(measurer, "batch_size", None) or len(requests)
    for start in range(0, len(requests), size):
        position = start
        for answers in _measure_batch(requests[start : start + size], measurer):
            yield list(enumerate(answers, start=position))
            position += len(answers)


def _measure_batch(requests: Sequence[MeasureRequest], measurer: Measurer) -> Iterator[Sequence[Answer]]:
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


def _measure_one(request: MeasureRequest, measurer: Measurer) -> Answer:
    """In a worker: a failure is data, so that it comes back like everything else."""
    try:
        return costs_of([request], measurer)[0]
    except MeasureError as error:
        return _reason(error)


def _from_workers(
    requests: Sequence[MeasureRequest], measurer: Measurer, executor: Executor
) -> Iterator[list[tuple[int, Answer]]]:
    futures: list[Future[Answer]] = []
    try:
        for request in requests:
            futures.append(_submit(executor, request, measurer))
        for position, future in enumerate(futures):
            error = future.exception()
            if error is None:
                yield [(position, future.result())]
                continue
            saved = [
                (later, each.result()) for later, each in enumerate(futures) if later > position and _is_back(each)
            ]
            if saved:
                yield saved
            if isinstance(error, BrokenExecutor):
                raise _lost(error, len(requests) - position - len(saved)) from error
            raise error
    finally:
        for future in futures:
            future.cancel()


def _submit(executor: Executor, request: MeasureRequest, measurer: Measurer) -> Future[Answer]:
    try:
        return executor.submit(_measure_one, request, measurer)
    except RuntimeError as error:
        # A broken executor, and one that was shut down.
        raise _lost(error, 1) from error


def _is_back(future: Future[Answer]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _lost(error: Exception, num_missing: int) -> WorkersLostError:
    return WorkersLostError(
        f"the workers that measure are gone ({_reason(error)}); {num_missing} answers are missing, all others are in "
        "the log if there is a work directory: make a new executor and tune with the same workdir to continue"
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
