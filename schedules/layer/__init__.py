"""Schedules of single layers, and what is read back from them."""

from __future__ import annotations

from schedules.layer.program import check_timed_is_executed
from schedules.layer.template import refuse, schedule

__all__ = ["check_timed_is_executed", "refuse", "schedule"]
