"""What can go wrong with workers."""

from __future__ import annotations

from tvm_spm.errors import SpmError


class WorkersError(SpmError):
    """Work cannot be given to workers; the text says why."""


class WorkersLostError(WorkersError):
    """All workers are gone; what came back before is kept."""


class WorkerDiedError(WorkersError):
    """The worker that had a job ended before it answered."""
