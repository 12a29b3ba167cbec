"""What a search is about: a workload, a machine, what to minimise, and what every mapping must keep to."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.arch import Arch
from tvm_spm.objective import Objective
from tvm_spm.space.constraints import ANYTHING, Constraints
from tvm_spm.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question to a search.

    Attributes:
        workload: What is computed.
        arch: The accelerator.
        objective: What is minimised.
        constraints: What every mapping satisfies.
    """

    workload: Workload
    arch: Arch
    objective: Objective = Objective.EDP
    constraints: Constraints = ANYTHING
