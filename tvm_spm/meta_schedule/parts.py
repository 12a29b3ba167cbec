"""Everything that MetaSchedule is given to tune for one accelerator."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import tvm
from tvm.s_tir.meta_schedule.builder import Builder
from tvm.s_tir.meta_schedule.cost_model import CostModel
from tvm.s_tir.meta_schedule.runner import Runner
from tvm.s_tir.meta_schedule.search_strategy import SearchStrategy
from tvm.s_tir.meta_schedule.space_generator import SpaceGenerator
from tvm.s_tir.meta_schedule.task_scheduler import GradientBased, TaskScheduler

from tvm_spm.arch import Arch
from tvm_spm.arguments import check_count, check_executor, check_flag, check_measurer
from tvm_spm.lowering.target import arch_of, target_of
from tvm_spm.meta_schedule.measure import MappingBuilder, SimulatedRunner
from tvm_spm.meta_schedule.model import MappingCostModel
from tvm_spm.meta_schedule.queue import QueueOptions
from tvm_spm.meta_schedule.space import NUM_DESIGNS, MappingSpaceGenerator
from tvm_spm.meta_schedule.strategy import MappingStrategy
from tvm_spm.meta_schedule.tasks import TaskTable
from tvm_spm.tuning.measurer import Measurer

_NUM_STATES = 2**31 - 2
"""TVM's random states start at 1."""


class PartKeywords(TypedDict):
    """The parts by the names of the arguments of TVM's ``tune_tir`` and ``tune_relax``."""

    space: SpaceGenerator
    strategy: SearchStrategy
    builder: Builder
    runner: Runner
    cost_model: CostModel
    task_scheduler: TaskScheduler


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """What belongs together in one run; none of it serves another accelerator.

    Attributes:
        target: The accelerator.
        space: Sketches that carry mappings.
        strategy: Searches mappings.
        builder: Checks that code does what is timed.
        runner: Times it.
        cost_model: Scores mappings.
        task_scheduler: Spends trials on tasks.
    """

    target: tvm.target.Target
    space: SpaceGenerator
    strategy: SearchStrategy
    builder: Builder
    runner: Runner
    cost_model: CostModel
    task_scheduler: TaskScheduler

    def keywords(self) -> PartKeywords:
        """Arguments for TVM's own ``tune_tir`` and ``tune_relax``."""
        return {
            "space": self.space, "strategy": self.strategy, "builder": self.builder, "runner": self.runner,
            "cost_model": self.cost_model, "task_scheduler": self.task_scheduler,
        }  # fmt: skip


def parts(
    target: tvm.target.Target | Arch | str | Path,
    *,
    strategy: SearchStrategy | None = None,
    measurer: Measurer | None = None,
    executor: Executor | None = None,
    learns: bool = True,
    num_designs: int = NUM_DESIGNS,
    seed: int = 0,
) -> Parts:
    """The parts of a run of MetaSchedule for an accelerator.

    Args:
        target: ``spm/<accelerator>`` as text or as a TVM target, an accelerator, or the path of its file.
        strategy: Searches mappings; one of TVM's works too, such as ``SearchStrategy.create("evolutionary",
            population_size=64)``. By default the exact start and evolution of this package.
        measurer: Says how many cycles a mapping takes; the simulator if None.
        executor: Runs measurements, for example a process pool; in this process if None.
        learns: Whether the cost model learns from what was measured; otherwise it is the analytical formula.
        num_designs: Sketches of a task that a strategy of TVM starts from.
        seed: Of the choice among tasks that promise the same gain. All else follows from the seed that TVM is given.

    Raises:
        ArchError: The accelerator is not known, or the target is none of ours.
        SpmError: Another argument is wrong.
    """
    accelerator = target_of(target)
    check_measurer(measurer)
    check_executor(executor)
    check_flag("learns", learns)
    check_count("num_designs", num_designs, at_least=1)
    check_count("seed", seed, at_least=0)
    tasks = TaskTable(arch_of(accelerator))
    return Parts(
        target=accelerator,
        space=MappingSpaceGenerator(tasks, num_designs),
        strategy=MappingStrategy(tasks, QueueOptions()) if strategy is None else strategy,
        builder=MappingBuilder(tasks, with_program=measurer is not None),
        runner=SimulatedRunner(tasks, measurer, executor),
        cost_model=MappingCostModel(tasks, learns=learns),
        task_scheduler=GradientBased(seed=seed % _NUM_STATES + 1),
    )
