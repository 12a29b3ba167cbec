"""Who works for a command line."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Annotated

import typer

from tvm_spm.errors import SpmError
from tvm_spm.workers import ProcessWorkers
from tvm_spm.workers.cluster import dask_executor

WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Measurements and searches at once.", show_default="1, in this process")
]
DaskOption = Annotated[
    str | None, typer.Option(help="Measure and search on a cluster: the address of a Dask scheduler.")
]


@contextmanager
def executor_of(workers: int | None, dask: str | None) -> Iterator[Executor | None]:
    """Who works; None is this process alone.

    Raises:
        SpmError: Both are asked for, or no cluster is there.
    """
    if workers is not None and dask is not None:
        raise SpmError(f"--workers {workers} and --dask {dask}: give one of them")
    if dask is not None:
        with dask_executor(dask) as executor:
            yield executor
    elif workers is not None:
        processes = ProcessWorkers(workers)
        try:
            yield processes
        finally:
            processes.shutdown(cancel_futures=True)
    else:
        yield None
