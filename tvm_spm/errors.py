"""Errors a user can cause, and the sentence that helps them out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpmError(Exception):
    """Base of every error raised on purpose; the command line prints its text and no traceback."""


class ArchError(SpmError):
    """An accelerator file is missing, malformed or physically absurd."""


class WorkloadError(SpmError):
    """A layer's shape is impossible."""


class MappingError(SpmError):
    """A mapping text cannot be read, or a mapping is used where only a legal one may be."""


class ModelError(SpmError):
    """A model file cannot be read or imported."""


class WorkdirError(SpmError):
    """A work directory cannot be used for this run."""


class NoMappingError(SpmError):
    """The map space of a task holds no legal mapping."""


class ScheduleError(SpmError):
    """A function that cannot be turned into a schedule, although its workload is understood."""


class PlanError(SpmError):
    """A network cannot be cut into groups, or the cost of a group is absurd."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A clause that suggests the nearest of ``choices``, or lists them all.

    Returns:
        Text such as ``did you mean 'edge-256'?``; starts lower case and has no leading space.
    """
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]!r}?"
    return "choose one of " + ", ".join(repr(choice) for choice in known)
