"""What the process that runs generated code does when it is asked."""

from __future__ import annotations

import numpy as np
import tvm
from tvm import relax

from tvm_spm.deploy.verify.expected import Reference, expect
from tvm_spm.deploy.verify.messages import NetworkRequest, ReferenceKept, ReferenceRequest, Request, TaskRequest
from tvm_spm.deploy.verify.network import check_network, compile_tuned
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.deploy.verify.task import run_task
from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.lowering.target import register_arch


class Responder:
    """Of one process, which remembers the last reference that it was asked for."""

    def __init__(self) -> None:
        self._reference: Reference | None = None

    def answer(self, request: Request) -> Verification | ModelError | ReferenceKept:
        """The outcome of a comparison, or why there can be none."""
        try:
            if isinstance(request, TaskRequest):
                return self._task(request)
            if isinstance(request, NetworkRequest):
                return self._network(request)
            self._reference = _expected(request)
            return ReferenceKept()
        except ModelError as error:
            return error
        except (*TVM_ERRORS, MemoryError) as error:
            return Verification.failed(f"the code cannot be compared: {first_line(error)}")

    def _task(self, request: TaskRequest) -> Verification:
        target = None if request.arch is None else register_arch(request.arch)
        func, scheduled = (tvm.ir.load_json(text) for text in (request.func, request.scheduled))
        network = None if self._reference is None else self._reference.network
        # What the network that is known was made of need not be compiled again.
        known = None if network is None else network.compiled(func)
        rng = np.random.default_rng(request.seed)
        return run_task(func, scheduled, rng=rng, target=target, reference=known)

    def _network(self, request: NetworkRequest) -> Verification:
        tuned = compile_tuned(tvm.ir.load_json(request.tuned), register_arch(request.arch))
        if isinstance(tuned, Verification):
            return tuned
        reference = self._reference if request.reference is None else _expected(request.reference)
        assert reference is not None
        return check_network(reference, tuned)


def _expected(request: ReferenceRequest) -> Reference:
    lowered = relax.transform.LegalizeOps()(tvm.ir.load_json(request.reference))
    return expect(lowered, request.constants, request.inputs, request.seed)
