"""Schedules of single layers, and what is read back from them.

``schedule`` is given a function and a mapping and gives back a ``tvm.s_tir.Schedule`` (``template``, ``primitives``),
``rewrite`` goes on with one that is there, or ``refuse`` says why not. ``program`` reads back from the scheduled code
what it makes the accelerator do, and ``check_timed_is_executed`` compares that with what the simulator times.
"""

from __future__ import annotations

from schedules.layer.program import check_timed_is_executed
from schedules.layer.template import refuse, rewrite, schedule

__all__ = ["check_timed_is_executed", "refuse", "rewrite", "schedule"]
