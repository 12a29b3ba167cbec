"""Builder and runner: what is built is checked to do what is timed, and the simulator is the device.

A failure is an answer with a text, which MetaSchedule logs; the search goes on.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, RunnerFuture, RunnerInput, RunnerResult

from cost_model.vector import vector_cost
from schedules import layer
from tvm_spm.arch import Arch
from tvm_spm.errors import ArchError, MappingError, ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.lowering.target import arch_of
from tvm_spm.mapping import Mapping
from tvm_spm.meta_schedule.tasks import HostTask, NestTask, TaskTable, mapping_of
from tvm_spm.space import legality
from tvm_spm.tuning.measurer import Measurer, MeasureRequest, SimulatorMeasurer
from tvm_spm.tuning.measuring import measure_in_order
from tvm_spm.workers import Workers, WorkersLostError
from tvm_spm.workload import VectorWork

_ARTIFACT = "mapping.json"
"""In a directory of its own, which MetaSchedule removes."""

_log = logging.getLogger(__name__)


@derived_object
class MappingBuilder(PyBuilder):
    """Makes of scheduled code what the device is given: the mapping, once the code is known to do what it says.

    Args:
        tasks: Shared by all parts of a run.
        with_program: Whether the device is given the code too, as TVMScript.
    """

    def __init__(self, tasks: TaskTable, *, with_program: bool = False) -> None:
        super().__init__()
        self._tasks, self._with_program = tasks, with_program

    def build(self, build_inputs: Sequence[BuilderInput]) -> list[BuilderResult]:
        """One result per input; one that cannot be built has an error."""
        return [self._build(each) for each in build_inputs]

    def _build(self, wanted: BuilderInput) -> BuilderResult:
        try:
            artifact = self._artifact(wanted.mod, wanted.target)
        except (ArchError, MappingError, ModelError) as error:
            artifact = str(error)
        except TVM_ERRORS as error:
            artifact = f"TVM cannot make its code: {first_line(error)}"
        if isinstance(artifact, str):
            _log.warning("not built: %s", artifact)
            return BuilderResult(None, artifact)
        path = Path(tempfile.mkdtemp(prefix="tvm_spm-")) / _ARTIFACT
        path.write_text(json.dumps(artifact), encoding="utf-8")
        return BuilderResult(str(path), None)

    def _artifact(self, mod: tvm.IRModule, target: tvm.target.Target) -> dict[str, str | None] | str:
        if arch_of(target).sha256() != self._tasks.arch.sha256():
            return f"target {target.attrs.get('model')}: these parts are for {self._tasks.arch.name}"
        task = self._tasks.of(mod)
        if isinstance(task, HostTask):
            return f"it stays on the host: {task.reason}"
        if not isinstance(task, NestTask):
            return {"task": task.key}
        mapping = mapping_of(mod)
        if mapping is None:
            return "it carries no mapping: take the space and the strategy from tvm_spm.meta_schedule.parts"
        rejection = legality.check(task.nest.workload, self._tasks.arch, mapping)
        if rejection is not None:
            return f"illegal mapping: {rejection}"
        (func,) = mod.functions.values()
        difference = layer.check_timed_is_executed(func, task.nest, mapping)
        if difference is not None:
            return f"the code does not do what is timed: {difference}"
        return {"task": task.key, "mapping": mapping.line(), "program": func.script() if self._with_program else None}


@derived_object
class SimulatedRunner(PyRunner):
    """Says how many seconds a mapping takes at the accelerator's clock.

    Args:
        tasks: Shared by all parts of a run.
        measurer: Says how many cycles; the simulator if None.
        executor: Runs measurements; in this process if None.
    """

    def __init__(self, tasks: TaskTable, measurer: Measurer | None = None, executor: Executor | None = None) -> None:
        super().__init__()
        self._tasks, self._measurer, self._workers = tasks, measurer or SimulatorMeasurer(), Workers(executor)

    def run(self, runner_inputs: Sequence[RunnerInput]) -> list[RunnerFuture]:
        """One answer per input; one that cannot be measured has an error."""
        answers: dict[int, float | str] = {}
        requests: dict[int, MeasureRequest] = {}
        for at, wanted in enumerate(runner_inputs):
            request = self._request(Path(str(wanted.artifact_path)))
            if isinstance(request, MeasureRequest):
                requests[at] = request
            else:
                answers[at] = request
        answers |= zip(requests, self._measured(list(requests.values())), strict=True)
        return [_future(self._result(answers[at])) for at in range(len(runner_inputs))]

    def _measured(self, requests: list[MeasureRequest]) -> list[float | str]:
        """Cycles, or why there are none."""
        found: dict[int, float | str] = {}
        if not requests:
            return []
        try:
            for answers in measure_in_order(requests, self._measurer, self._workers):
                found.update((at, answer if isinstance(answer, str) else answer.cycles) for at, answer in answers)
        except WorkersLostError as error:
            return [found.get(at, str(error)) for at in range(len(requests))]
        return [found[at] for at in range(len(requests))]

    def _request(self, path: Path) -> MeasureRequest | float | str:
        """What to measure, or the answer where nothing has to be."""
        try:
            artifact = json.loads(path.read_text(encoding="utf-8"))
            task = self._tasks.keyed(artifact["task"])
            if not isinstance(task, NestTask):
                return task.reason if isinstance(task, HostTask) else _vector_cycles(task.work, self._tasks.arch)
            return MeasureRequest(
                workload=task.nest.workload, arch=self._tasks.arch, mapping=Mapping.parse(artifact["mapping"]),
                program=artifact["program"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, MappingError, ModelError) as error:
            return f"{path}: not made by the builder of tvm_spm.meta_schedule ({first_line(error)})"

    def _result(self, answer: float | str) -> RunnerResult:
        if isinstance(answer, str):
            _log.warning("not measured: %s", answer)
            return RunnerResult(None, answer)
        return RunnerResult([answer / self._tasks.arch.clock_hz], None)


def _vector_cycles(work: VectorWork, arch: Arch) -> int:
    return vector_cost(work, arch, model="simulator").cycles


def _future(result: RunnerResult) -> RunnerFuture:
    return RunnerFuture(f_done=lambda: True, f_result=lambda: result)
