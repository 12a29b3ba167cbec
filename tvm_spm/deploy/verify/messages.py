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
class ReferenceRequest:
    """Find out what a module computes, as JSON; its last parameters are the constants."""

    reference: str
    constants: tuple[Array, ...]
    inputs: tuple[Array, ...] | None
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NetworkRequest:
    """Compare a module, as JSON, with a reference; with the last one that this process was asked for if it is None."""

    reference: ReferenceRequest | None
    tuned: str
    arch: Arch


@dataclass(frozen=True, slots=True)
class ReferenceKept:
    """The answer to a ``ReferenceRequest``: the process keeps what it found out."""


Request = TaskRequest | ReferenceRequest | NetworkRequest
