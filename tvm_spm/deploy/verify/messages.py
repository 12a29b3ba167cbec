"""What the process that runs generated code is asked."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.arch import Arch
from tvm_spm.deploy.verify.outcome import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaskRequest:
    """Compare two functions, as JSON."""

    func: str
    scheduled: str
    seed: int
    arch: Arch | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkRequest:
    """Compare two modules, as JSON; the last parameters of both are the constants."""

    reference: str
    tuned: str
    constants: tuple[Array, ...]
    inputs: tuple[Array, ...] | None
    seed: int
    arch: Arch


Request = TaskRequest | NetworkRequest
