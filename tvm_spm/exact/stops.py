"""When a search ends early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class Stops:
    """A deadline, a budget of steps, and whoever else may end a search; once ended it stays so.

    Args:
        time_limit_s: Of wall time.
        most_steps: Counted in steps of the search itself, the same on each run and machine.
        should_stop: Asked between and in steps.
    """

    def __init__(
        self, time_limit_s: float | None, most_steps: int | None, should_stop: Callable[[], bool] | None
    ) -> None:
        self._deadline = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
        self._most_steps = math.inf if most_steps is None else most_steps
        self._should_stop = should_stop
        self._num_steps = 0
        self._is_over = False

    def is_late(self) -> bool:
        """Whether to end in the middle of a step."""
        if not self._is_over:
            self._is_over = time.monotonic() >= self._deadline or (
                self._should_stop is not None and self._should_stop()
            )
        return self._is_over

    def ends_step(self) -> bool:
        """Whether to end before the next step; counts it."""
        self._num_steps += 1
        self._is_over = self._is_over or self._num_steps > self._most_steps
        return self.is_late()
