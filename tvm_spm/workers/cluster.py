"""A cluster of Dask as an executor. Its scheduler gives the jobs of a worker that dies to another one by itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from tvm_spm.workers.errors import WorkersError

CONNECT_S = 15.0
"""Until a scheduler must have answered."""


@contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """The workers of a scheduler, for as long as the context lasts.

    Args:
        address: Of the scheduler, such as ``tcp://10.0.0.1:8786``.

    Raises:
        WorkersError: Dask is not installed, or no scheduler answers.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise WorkersError(
            f"--dask {address}: needs dask and distributed ({error}); pip install 'tvm-spm[dask]'"
        ) from error
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise WorkersError(f"--dask {address}: no scheduler answers there ({error})") from error
    with client:
        # Equal jobs are different ones: a second worker must really do what takes a first one too long.
        yield client.get_executor(pure=False)
