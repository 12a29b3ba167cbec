"""Which layers of a network run as one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cost_model.simulator import SimulatorModel
from tvm_spm import frontend
from tvm_spm.arch import Arch
from tvm_spm.deploy.groups import FusedNetwork, GroupScheduler
from tvm_spm.deploy.task_checks import TaskChecks, verify_function
from tvm_spm.deploy.verify.outcome import Verification
from tvm_spm.fusion.measured import Ratio
from tvm_spm.fusion.network import Alone, FusedGroup, NetworkPlan, Surroundings, groups_of, plan_network
from tvm_spm.lowering.target import target_of
from tvm_spm.objective import Objective
from tvm_spm.result import SearchResult
from tvm_spm.tuning.attention import attention_groups, plan_attention
from tvm_spm.tuning.group_trials import GroupTrials
from tvm_spm.tuning.measuring import Answer
from tvm_spm.tuning.parts import LeftOut
from tvm_spm.tuning.requests import GroupRequest
from tvm_spm.tuning.run import Run
from tvm_spm.tuning.side_by_side import PlannedSides, plan_sides
from tvm_spm.workload import VectorWork, Workload

if TYPE_CHECKING:
    import tvm

    from tvm_spm.frontend import Extraction, NetworkLayers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planned:
    """How a network is cut into groups.

    Attributes:
        plan: The best way that was found.
        layers: Of the network.
        scheduler: Makes the code of its groups.
        verify: Compares a scheduled function with the plain one.
        left_out: What there was no time for.
        sides: What of it runs at the same time; None if that was not asked for or cannot pay.
    """

    plan: NetworkPlan
    layers: NetworkLayers
    scheduler: GroupScheduler
    verify: Callable[[tvm.tirx.PrimFunc, tvm.tirx.PrimFunc], Verification]
    left_out: tuple[LeftOut, ...]
    sides: PlannedSides | None = None

    def fuse(self) -> FusedNetwork:
        """The network with every group as one call, in the order of the plan."""
        if self.sides is None or not self.sides.plan.together:
            return self.scheduler.fuse(self.plan.groups)
        return self.sides.fuse()


def plan_groups(
    extraction: Extraction,
    arch: Arch,
    objective: Objective,
    outcomes: dict[int, SearchResult],
    checks: TaskChecks,
    run: Run,
    *,
    machine: Arch,
    most_measured: int,
) -> Planned:
    """Cut a network into groups by the tuned costs of its layers and the costs of groups.

    Args:
        extraction: The network.
        arch: The accelerator.
        objective: Of the whole network.
        outcomes: Per index of a task that can be mapped, how it runs alone.
        checks: Of these; code of groups is compared between them.
        run: Its seed, its progress and its request to stop count, and its measurer, if it has one: then groups are
            expected to cost what they do on ``machine``, and those of the plan are measured.
        machine: The accelerator as it is known: with fitted numbers, or as declared.
        most_measured: So many groups are measured at most.
    """
    run.progress.phase("fusion", total=1, unit="groups")
    attention, num_skipped = plan_attention(
        extraction.mod, machine, objective=objective, should_stop=run.should_stop
    )  # fmt: skip
    sites = [planned.site for planned in attention]
    # Scores and probabilities right before what reads them, so that the three calls of an attention are neighbours.
    layers = frontend.layer_graph(extraction, late={var for site in sites for var in site.bindings[:2]})
    target, numbers = target_of(arch), itertools.count()

    def verify_group(plain: tvm.tirx.PrimFunc, scheduled: tvm.tirx.PrimFunc) -> Verification:
        rng = np.random.default_rng([run.seed, next(numbers)])
        return verify_function(plain, scheduled, rng=rng, target=target, asks=checks.ask)

    scheduler = GroupScheduler(extraction, layers, sites, verify_group)
    alone = _alone(extraction, layers, machine, outcomes)
    trials = None if run.measurer is None else GroupTrials(run, run.measurer)

    def measure(ways: Sequence[FusedGroup]) -> list[Answer | None]:
        requests = [
            GroupRequest(
                group=way.group, arch=arch, mapping=way.mapping, expected=way.cost,
                attention=scheduler.attention(way), program=scheduler.program(way),
            )
            for way in ways
        ]  # fmt: skip
        return [] if trials is None else trials.measure(requests)

    num_groups = len(groups_of(layers.graph, alone).layers)
    run.progress.phase("price groups of layers", total=max(1, num_groups), unit="groups")
    plan = plan_network(
        layers.graph, machine, objective, alone,
        known=attention_groups(layers, machine, attention), why_not=scheduler.why_not,
        around=Surroundings(
            should_stop=run.should_stop, report=partial(run.progress.step, "price groups of layers"),
            workers=run.workers, measure=None if trials is None else measure, most_measured=most_measured,
            ratios=() if trials is None else _ratios(extraction, outcomes, machine),
        ),
    )  # fmt: skip
    counts = (
        ("attentions searched", len(attention), num_skipped),
        ("groups priced", plan.num_priced, plan.num_unpriced),
        ("groups refined", len(plan.groups) - plan.num_unrefined, plan.num_unrefined),
    )
    left_out = tuple(
        LeftOut(what=what, num_done=num_done, num_asked=num_done + num_left)
        for what, num_done, num_left in counts if num_left
    )  # fmt: skip
    return Planned(plan=plan, layers=layers, scheduler=scheduler, verify=verify_group, left_out=left_out)


def plan_beside(
    planned: Planned, extraction: Extraction, arch: Arch, outcomes: dict[int, SearchResult], run: Run
) -> Planned:
    """Let branches of a planned network run at the same time where that pays; arguments as for ``plan_groups``."""
    run.progress.phase("side by side", total=1, unit="plans")
    sides = plan_sides(
        extraction, planned.layers, arch, outcomes, planned.plan, planned.scheduler, verify=planned.verify,
        should_stop=run.should_stop,
    )  # fmt: skip
    return replace(planned, sides=sides)


def _ratios(extraction: Extraction, outcomes: dict[int, SearchResult], machine: Arch) -> tuple[Ratio, ...]:
    """What was measured of tuned layers over what the simulator of the machine, as it is known, says."""
    simulator, found = SimulatorModel(), list[Ratio]()
    for index, best in outcomes.items():
        work = extraction.graph.tasks[index].work
        if isinstance(work, Workload):
            expected = simulator.cost(work, machine, best.mapping)
            found.append(Ratio.of(best.cost, expected.cycles, expected.energy_pj))
    return tuple(found)


def _alone(extraction: Extraction, layers: NetworkLayers, arch: Arch, outcomes: dict[int, SearchResult]) -> list[Alone]:
    simulator = SimulatorModel()
    found = []
    for node, times in zip(layers.node_of_layer, layers.times, strict=True):
        index = extraction.graph.nodes[node].task
        work = extraction.graph.tasks[index].work
        if isinstance(work, VectorWork):
            cost = simulator.vector_cost(work, arch)
            found.append(Alone(task=index, cost=cost, num_cores=arch.cores.count, times=times))
        elif index in outcomes:
            best = outcomes[index]
            found.append(Alone(task=index, cost=best.cost, num_cores=best.mapping.cores.product(), times=times))
        else:
            found.append(Alone(task=index, cost=None, num_cores=0, times=times))
    return found
