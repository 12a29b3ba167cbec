"""The design space of MetaSchedule: sketches that carry a mapping, and how they are changed and realised.

A trace of a schedule cannot be replayed with other tiles, because which loops exist, and where copies stand, follows
from the tiles. So a design is a sketch, one annotation with the mapping; a post-processor schedules by it, and a
mutator exchanges it. Any search strategy of MetaSchedule can work with that.
"""

from __future__ import annotations

import numpy as np
import tvm
from numpy.random import Generator
from tvm import s_tir
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule import TuneContext
from tvm.s_tir.meta_schedule.mutator import Mutator, PyMutator
from tvm.s_tir.meta_schedule.postproc import Postproc, PyPostproc
from tvm.s_tir.meta_schedule.space_generator import PySpaceGenerator, SpaceGenerator
from tvm.s_tir.schedule import Trace

from tvm_spm.mapping import Mapping
from tvm_spm.meta_schedule.tasks import MAPPING, TASK, NestTask, TaskTable, mapping_of, realise
from tvm_spm.space.mapping_batch import MappingBatch, decode, encode

NUM_DESIGNS = 64
"""Sketches of one task that strategies of TVM start from."""

_NUM_ROUNDS = 8
"""Draws are repeated so many times where they are not legal."""

_SEED_BITS = (1 << 63) - 1
"""TVM's random states may be negative."""


@derived_object
class MappingSpaceGenerator(PySpaceGenerator):
    """Sketches with legal mappings: the default first, then random ones; asked again it gives others.

    A task without mappings has one design, the function as it is.

    Args:
        tasks: Shared by all parts of a run.
        num_designs: Given each time.
    """

    def __init__(self, tasks: TaskTable, num_designs: int = NUM_DESIGNS) -> None:
        super().__init__()
        self._tasks, self._num_designs = tasks, num_designs
        self._rng = np.random.default_rng(0)
        self._given: set[Mapping] = set()
        self.sch_rules: list[object] = []
        self.postprocs = [RealiseMapping(tasks)]
        self.mutator_probs = {ChangeMapping(tasks): 1.0}

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        self._rng = np.random.default_rng(int(context.rand_state))

    def generate_design_space(self, mod: tvm.IRModule) -> list[s_tir.Schedule]:
        """The next designs."""
        task = self._tasks.mapped(mod)
        if task is None:
            return [s_tir.Schedule(mod)]
        found = [] if task.default in self._given else [task.default]
        for _ in range(_NUM_ROUNDS):
            missing = self._num_designs - len(found)
            if missing <= 0:
                break
            drawn = legal(task, task.space.sample(self._rng, missing))
            found += [each for each in dict.fromkeys(drawn) if each not in found and each not in self._given]
        if not found:
            # TVM asks until it has enough, however small the space is: it starts over.
            self._given.clear()
            found = [task.default]
        self._given.update(found)
        return [task.sketch(mapping) for mapping in found]

    def clone(self) -> SpaceGenerator:
        """One that has given nothing yet."""
        return MappingSpaceGenerator(self._tasks, self._num_designs)


@derived_object
class RealiseMapping(PyPostproc):
    """Schedules a sketch by its mapping; whatever carries none stays as it is."""

    def __init__(self, tasks: TaskTable) -> None:
        super().__init__()
        self._tasks = tasks

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        """Nothing: a sketch says which task it is of."""

    def apply(self, sch: s_tir.Schedule) -> bool:
        """Whether the code could be made."""
        mapping, task = mapping_of(sch.mod), self._tasks.mapped(sch.mod)
        return mapping is None or task is None or not realise(sch, task, mapping)

    def clone(self) -> Postproc:
        """Another one."""
        return RealiseMapping(self._tasks)


@derived_object
class ChangeMapping(PyMutator):
    """Changes the mapping of a sketch in one or a few of its knobs."""

    def __init__(self, tasks: TaskTable) -> None:
        super().__init__()
        self._tasks = tasks

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        """Nothing: a sketch says which task it is of."""

    def apply(self, trace: Trace, rand_state: int) -> Trace | None:
        """The trace of a sketch with another legal mapping; None if none was found."""
        found = {str(inst.attrs[0]): str(inst.inputs[1]) for inst in trace.insts if inst.kind.name == "Annotate"}
        task = self._tasks.keyed(found[TASK]) if TASK in found else None
        if not isinstance(task, NestTask):
            return None
        mapping = changed(task, Mapping.parse(found[MAPPING]), np.random.default_rng(rand_state & _SEED_BITS))
        return None if mapping is None else task.sketch(mapping).trace

    def clone(self) -> Mutator:
        """Another one."""
        return ChangeMapping(self._tasks)


def legal(task: NestTask, batch: MappingBatch) -> list[Mapping]:
    """The mappings of a batch that may run."""
    return [decode(batch, int(row)) for row in np.flatnonzero(task.space.check(batch) == 0)]


def changed(task: NestTask, mapping: Mapping, rng: Generator) -> Mapping | None:
    """Another legal mapping, a few knobs away."""
    for _ in range(_NUM_ROUNDS):
        for found in legal(task, task.space.mutate(encode([mapping]), rng)):
            if found != mapping:
                return found
    return None
