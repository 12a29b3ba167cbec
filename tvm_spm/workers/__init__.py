"""Where jobs run that do not depend on each other: here, in processes of this machine, or on a cluster.

``jobs`` is the one idea: a list of jobs in, their results in order out, whoever runs them and whatever happens to him.
``processes`` is an executor whose workers may be killed, ``cluster`` one of Dask. What goes to another process is
packed by ``calls`` and travels through the pipes of ``child``.
"""

from __future__ import annotations

from tvm_spm.workers.errors import WorkerDiedError, WorkersError, WorkersLostError
from tvm_spm.workers.jobs import LONG, QUICK, Patience, Workers
from tvm_spm.workers.processes import ProcessWorkers

__all__ = [
    "LONG", "QUICK", "Patience", "ProcessWorkers", "WorkerDiedError", "Workers", "WorkersError", "WorkersLostError",
]  # fmt: skip
