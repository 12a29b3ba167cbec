"""When a search ends early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

TIME, STEPS, REQUEST = "time limit", "budget of steps", "request to stop"
"""What can end a search before its proof."""


class Stops:
    """A deadline, a budget of steps, and whoever else may end a search; once ended it stays so.

    Args:
        time_limit_s: Of wall time.
        most_steps: Counted in steps of the search itself, the same on each run and machine.
        should_stop: Asked between and in steps.
        report: Told how many steps there were, after each.

    Attributes:
        struck: What ended the search, one of the texts above; empty while nothing did.
        num_steps: So far.
    """

    def __init__(
        self,
        time_limit_s: float | None,
        most_steps: int | None,
        should_stop: Callable[[], bool] | None,
        report: Callable[[int], None] | None = None,
    ) -> None:
        self._deadline = math.inf if time_limit_s is None else time.monotonic() + time_limit_s
        self._most_steps = math.inf if most_steps is None else most_steps
        self._should_stop, self._report = should_stop, report
        self._part = 0.0
        self.num_steps = 0
        self.struck = ""

    @property
    def spent(self) -> float:
        """Share of the budget of steps that was used; 0 without one."""
        return self.num_steps / self._most_steps if self._most_steps else 1.0

    def is_late(self) -> bool:
        """Whether to end in the middle of a step."""
        if not self.struck:
            if time.monotonic() >= self._deadline:
                self.struck = TIME
            elif self._should_stop is not None and self._should_stop():
                self.struck = REQUEST
        return self.struck != ""

    def ends_step(self) -> bool:
        """Whether to end before the next step; counts it."""
        return self._ends(1)

    def ends_work(self, steps: float) -> bool:
        """Whether to end in the middle of a step after work that makes it longer, as a number of further steps."""
        self._part += steps
        whole = int(self._part)
        self._part -= whole
        return self._ends(whole)

    def _ends(self, steps: int) -> bool:
        self.num_steps += steps
        if not self.struck and self.num_steps > self._most_steps:
            self.struck = STEPS
        if steps and self._report is not None:
            self._report(self.num_steps)
        return self.is_late()
