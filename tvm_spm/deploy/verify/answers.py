"""What the process that runs generated code does when it is asked."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_spm.deploy.verify.messages import NetworkRequest, Request, TaskRequest
from tvm_spm.deploy.verify.network import Networks, run_networks
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.deploy.verify.task import run_task
from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.lowering.target import register_arch


def answer(request: Request) -> Verification | ModelError:
    """The outcome of a comparison, or why there can be none."""
    try:
        return _task(request) if isinstance(request, TaskRequest) else _network(request)
    except ModelError as error:
        return error
    except (*TVM_ERRORS, MemoryError) as error:
        return Verification.failed(f"the code cannot be compared: {first_line(error)}")


def _task(request: TaskRequest) -> Verification:
    target = None if request.arch is None else register_arch(request.arch)
    func, scheduled = (tvm.ir.load_json(text) for text in (request.func, request.scheduled))
    return run_task(func, scheduled, rng=np.random.default_rng(request.seed), target=target)


def _network(request: NetworkRequest) -> Verification:
    target = register_arch(request.arch)
    reference, tuned = (tvm.ir.load_json(text) for text in (request.reference, request.tuned))
    lowered = relax.transform.LegalizeOps()(reference)
    networks = Networks(reference=lowered, tuned=tuned, constants=request.constants, target=target)
    return run_networks(networks, request.inputs, request.seed)
