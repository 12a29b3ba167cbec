"""What tuning gives back: costs, tables, schedules and executables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cost_model.calibration import FittedArch
from tvm_spm import durable
from tvm_spm.arch import Arch
from tvm_spm.cost import Cost
from tvm_spm.errors import SpmError, did_you_mean
from tvm_spm.objective import Objective
from tvm_spm.tuning.parts import NO_WAITS, GroupResult, LeftOut, TaskResult, TogetherResult, total_cost
from tvm_spm.tuning.plan_data import HOST, drawn_units, saved_plan, side_by_side_data
from tvm_spm.tuning.saved_run import SavedGroup, save_plan
from tvm_spm.units import finite, ratio, shown
from tvm_spm.workload import HostCall, TaskGraph

BASELINES = {
    "dataflow": "the best of the dataflows OS, WS, RS and MC",
    "random": "random search",
    "default": "the default mapping",
}
"""What results are compared with, by the names of ``baseline_cost``; the first one heads a result."""

if TYPE_CHECKING:
    import pandas as pd
    import tvm

    from tvm_spm.deploy.verify.compare import Verification
    from tvm_spm.fusion.network import NetworkPlan
    from tvm_spm.fusion.sides import SidePlan
    from tvm_spm.stream.encode import LayerStreams
    from tvm_spm.tuning.export import Exported


FITTED_FILE = "fitted.toml"
"""The accelerator with the numbers that were fitted to measurements."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningResult:
    """The whole network: every task's mapping, its cost, and the module with the schedules in place.

    Attributes:
        tasks: One result per distinct task, in order of first occurrence.
        groups: Layers that run as one, in order of first occurrence.
        together: Layers and groups that run at the same time on cores of their own; everything else runs alone.
        arch: The accelerator.
        objective: What was minimised.
        graph: Calls of the network and the tasks they are.
        module: Relax module whose PrimFuncs carry the schedules.
        reference: The same module without schedules.
        verification: Comparison of the whole network; None if the run ended before it.
        plan: How the layers were cut into groups; None if fusion was not asked for.
        side_plan: In which order these run, and which at the same time; None if that was not asked for or cannot pay.
        seconds: Wall time by phase.
        interrupted: Whether Ctrl-C or SIGTERM ended the search early.
        time_limit_s: Until the end of the search, as asked for; None without one.
        stopped_by: ``time limit``, ``Ctrl-C`` or ``SIGTERM`` if that ended the search early; None if nothing did.
        left_out: What was not done then.
        chosen_dtype: Of a built-in network, if the accelerator's word decided it; None if it was asked for.
        fitted: The accelerator as a measurer showed it; None with the simulator.
    """

    tasks: tuple[TaskResult, ...]
    groups: tuple[GroupResult, ...] = ()
    together: tuple[TogetherResult, ...] = ()
    arch: Arch
    objective: Objective
    graph: TaskGraph
    module: tvm.IRModule
    reference: tvm.IRModule
    verification: Verification | None
    plan: NetworkPlan | None = None
    side_plan: SidePlan | None = None
    seconds: tuple[tuple[str, float], ...]
    interrupted: bool = False
    time_limit_s: float | None = None
    stopped_by: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    chosen_dtype: str | None = None
    fitted: FittedArch | None = None

    def __str__(self) -> str:
        """One line a task, and the network; ``table`` has the numbers, the command line a table."""
        verdict = {True: "verified", False: "NOT VERIFIED", None: "not verified"}
        lines = [f"{len(self.tasks)} tasks on {self.arch.name} for least {self.objective}, {verdict[self.verified]}:"]
        for each in self.tasks:
            how = "vector unit" if each.mapping is None else each.mapping.line()
            lines.append(f"  {each.task.count} x {shown(each.task.name)}: {each.cost.cycles:,} cycles, {how}")
        lines += [
            f"  {each.count} x {len(each.names)} layers as one: {each.cost.cycles:,} cycles" for each in self.groups
        ]
        lines += [
            f"  {each.count} x {each.num_layers} layers side by side: {each.cost.cycles:,} cycles"
            for each in self.together
        ]
        lines += [f"  on the host: {shown(call.name)} ({shown(call.reason)})" for call in self.host_calls]
        lines += [f"not modelled: {each}" for each in self.not_modelled]
        return "\n".join([*lines, f"network: {self.cost}"])

    @property
    def host_calls(self) -> tuple[HostCall, ...]:
        """Calls left on the host, with the reason."""
        return self.graph.host_calls

    @property
    def machine(self) -> Arch:
        """The accelerator with the numbers that were fitted to measurements, if there are any."""
        return self.arch if self.fitted is None else self.fitted.arch

    @property
    def not_modelled(self) -> tuple[str, ...]:
        """What the accelerator has and these numbers leave out."""
        return () if self.arch.levels.DRAM.pages is None else (NO_WAITS,)

    @property
    def cost(self) -> Cost:
        """Sum over all steps: groups, what runs side by side, and layers that run alone."""
        parts = [(result.cost, self.count_alone(result)) for result in self.tasks]
        parts += [(group.cost, group.count) for group in self.groups]
        parts += [(step.cost, step.count) for step in self.together]
        return total_cost(parts, self.arch)

    @property
    def unfused_cost(self) -> Cost:
        """The sum if every layer ran alone."""
        return total_cost([(result.cost, result.task.count) for result in self.tasks], self.arch)

    def count_alone(self, result: TaskResult) -> int:
        """Occurrences of a task outside of groups, with nothing at the same time."""
        others = [(task, group.count) for group in self.groups for task in group.tasks]
        others += [(task, step.count) for step in self.together for task in step.tasks]
        return result.task.count - sum(count for task, count in others if self.graph.tasks[task] == result.task)

    @property
    def default_cost(self) -> Cost | None:
        """The same sum for the untuned default mappings; None if one of them was not measured."""
        return self.baseline_cost("default")

    def baseline_cost(self, baseline: str) -> Cost | None:
        """The sum over all layers, each alone, in another way to map them; None if it is not known of one of them.

        Args:
            baseline: ``dataflow``: of each layer the best of the prior dataflows OS, WS, RS and MC, each optimised;
                ``random``: the median of five random searches; ``default``: the untuned default mapping.
        """
        parts = [(cost, each.task.count) for each in self.tasks if (cost := each.cost_of(baseline)) is not None]
        return total_cost(parts, self.arch) if len(parts) == len(self.tasks) else None

    @property
    def verified(self) -> bool | None:
        """Whether every task and the whole network compute what the untuned module computes; None if unknown."""
        verdicts = [result.verified for result in self.tasks if result.mapping is not None]
        verdicts += [group.verified for group in self.groups]
        verdicts += [side.verification.passed for step in self.together for side in step.sides]
        verdicts.append(None if self.verification is None else self.verification.passed)
        if False in verdicts:
            return False
        return None if None in verdicts else True

    def speedup_over(self, baseline: TuningResult | Cost | str = "default") -> float:
        """Baseline cycles over ours; above 1 is better.

        Args:
            baseline: Another result, a cost, or a name that ``baseline_cost`` knows.

        Raises:
            SpmError: Another name, or a baseline that is not known of some task.
        """
        if isinstance(baseline, str):
            if baseline not in BASELINES:
                raise SpmError(f"speedup_over: unknown baseline {baseline!r}; {did_you_mean(baseline, BASELINES)}")
            known = self.baseline_cost(baseline)
            if known is None:
                name = next(each.task.name for each in self.tasks if each.cost_of(baseline) is None)
                what = (
                    f"the default mapping of {name} could not be measured" if baseline == "default"
                    else f"{BASELINES[baseline]} of {name} was not looked for, or there was no time for it"
                )  # fmt: skip
                raise SpmError(f"speedup_over: {what}; give a cost instead")
            baseline = known
        other = baseline.cost if isinstance(baseline, TuningResult) else baseline
        return ratio(other.cycles, self.cost.cycles)

    def rows(self) -> list[dict[str, object]]:
        """One plain dictionary per task; what ``table`` and ``--json`` show."""
        network = None if self.verification is None else self.verification.passed
        return [
            {
                "name": result.task.name,
                "count": result.task.count,
                "count_alone": self.count_alone(result),
                "kind": result.task.kind,
                "dims": result.task.work.dims.as_dict() if hasattr(result.task.work, "dims") else {},
                "mapping": None if result.mapping is None else result.mapping.line(),
                "cycles": result.cost.cycles,
                "utilization": result.cost.utilization,
                "bound_by": result.cost.bound_by,
                **result.roof_columns(self.machine),
                "energy_pj": result.cost.energy_pj,
                "edp_pj_cycles": result.cost.edp_pj_cycles,
                "optimal": "" if result.bound is None else str(result.bound),
                "lower_bound": None if result.bound is None else _finite(result.bound.value),
                "gap": None if result.bound is None else _finite(result.bound.gap),
                "optimal_in": "" if result.bound is None else result.bound.space,
                "gain_over_dataflow": _finite(result.gain(self.objective, "dataflow")),
                "best_dataflow": None if result.baselines is None else result.baselines.dataflow,
                "gain_over_random": _finite(result.gain(self.objective, "random")),
                "random_mappings": None if result.baselines is None else result.baselines.num_random,
                "gain_over_default": _finite(result.gain(self.objective)),
                # Vector work runs as imported, so the whole network is what checks it.
                "verified": network if result.mapping is None else result.verified,
                "model": result.cost.model,
                "trials": result.num_trials,
                "failed_trials": len(result.failures),
                "last_failure": result.failures[-1] if result.failures else "",
            }
            for result in self.tasks
        ]

    def group_rows(self) -> list[dict[str, object]]:
        """One plain dictionary per group."""
        return [
            {
                "layers": list(group.names),
                "count": group.count,
                "cores": group.mapping.num_cores,
                "tile": group.tile,
                "overlap": group.overlap,
                "mapping": str(group.mapping),
                "cycles": group.cost.cycles,
                "utilization": group.cost.utilization,
                "bound_by": group.cost.bound_by,
                "energy_pj": group.cost.energy_pj,
                "edp_pj_cycles": group.cost.edp_pj_cycles,
                "dram_bytes": sum(group.cost.dram_bytes),
                "spm_bytes": group.spm_bytes,
                "recompute_share": group.recompute_share,
                "gain_over_alone": finite(group.gain(self.objective)),
                "verified": group.verified,
            }
            for group in self.groups
        ]

    def plan_groups(self) -> list[SavedGroup]:
        """The whole plan, single layers included, in the order in which it runs; empty without fusion."""
        if self.plan is None:
            return []
        mappings = {result.task: result.mapping for result in self.tasks}
        return saved_plan(self.plan, self.side_plan, [mappings.get(task, HOST) for task in self.graph.tasks])

    def totals(self) -> dict[str, object]:
        """Sums over the network, with what was left on the host."""
        cost, unfused, objective = self.cost, self.unfused_cost, self.objective
        gains: dict[str, object] = {}
        for name in BASELINES:
            other = self.baseline_cost(name)
            gains[f"gain_over_{name}"] = other and finite(ratio(other.objective(objective), cost.objective(objective)))
            gains[f"speedup_over_{name}"] = other and finite(ratio(other.cycles, cost.cycles))
        return {
            "arch": self.arch.name,
            "objective": str(self.objective),
            "chosen_dtype": self.chosen_dtype,
            "fitted": None if self.fitted is None else self.fitted.as_dict(),
            "cycles": cost.cycles,
            "energy_pj": cost.energy_pj,
            "edp_pj_cycles": cost.edp_pj_cycles,
            "utilization": cost.utilization,
            **gains,
            "gain_of_fusion": finite(ratio(unfused.objective(objective), cost.objective(objective))),
            "speedup_of_fusion": finite(ratio(unfused.cycles, cost.cycles)),
            "dram_bytes": sum(cost.dram_bytes),
            "dram_unused_bytes": cost.dram_unused_bytes,
            "dram_bytes_unfused": sum(unfused.dram_bytes),
            "verified": self.verified,
            "network_verification": None if self.verification is None else self.verification.as_dict(),
            "host_calls": [{"name": call.name, "reason": call.reason} for call in self.host_calls],
            "seconds": {name: round(value, 3) for name, value in self.seconds},
            "interrupted": self.interrupted,
            "time_limit_s": self.time_limit_s,
            "stopped_by": self.stopped_by,
            "left_out": [asdict(each) for each in self.left_out],
            "not_modelled": list(self.not_modelled),
        }

    def as_dict(self) -> dict[str, object]:
        """Tasks, groups and totals as plain data for JSON."""
        found: dict[str, object] = {"tasks": self.rows(), "groups": self.group_rows(), "totals": self.totals()}
        if self.plan is not None:
            found["refused_groups"] = {
                "not_scheduled": [
                    {"layers": list(refused.names), "reason": refused.reason} for refused in self.plan.unscheduled
                ],
                "by_reason": self.plan.num_refused(),
            }
            found["plan"] = {
                "objective": self.plan.plan.objective,
                # What runs side by side, and what that gives, is told apart below.
                "order": "one after the other",
                "value": self.plan.value,
                "lower_bound": self.plan.lower_bound,
                "gap": self.plan.gap,
                "space": self.plan.space,
                "limits": list(self.plan.limits),
                "num_measured": self.plan.num_measured,
                "failed_measurements": [
                    {"layers": list(names), "reason": reason} for names, reason in self.plan.failed_measurements
                ],
            }
        if self.side_plan is not None:
            found["side_by_side"] = side_by_side_data(self.side_plan, self.together, self.objective)
        return found

    def table(self) -> pd.DataFrame:
        """One row per task, as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def build(self) -> object:
        """Compile the module for its target.

        Returns:
            An executable for ``tvm.relax.VirtualMachine``.
        """
        from tvm_spm.deploy.runtime import build
        from tvm_spm.lowering.target import target_of

        return build(self.module, target_of(self.arch))

    def program(self, task: str) -> LayerStreams:
        """What every core executes for one task, run alone: one stream of instructions per core.

        Args:
            task: Its name, see ``tasks``.

        Raises:
            SpmError: No such task, or it runs on the vector unit.
            StreamError: Instructions cannot express its mapping or what follows its sum; names the field and its bound.
        """
        from tvm_spm.tuning.export import program_of

        return program_of(self, task)

    def export(self, directory: str | Path) -> Exported:
        """Write the streams of all tasks with their constants, memory map, C header and manual into a directory.

        Raises:
            NoMappingError: Not one task has streams.
            WorkdirError: The directory cannot be written.
        """
        from tvm_spm.tuning.export import export_tasks, mapped_tasks

        return export_tasks(self.reference, self.arch, list(mapped_tasks(self).values()), Path(directory))

    def draw(self, path: str | Path) -> None:
        """Draw the layers, their groups and their cores into an ``.svg`` or ``.png`` file.

        Raises:
            SpmError: The network was tuned without fusion, or the file cannot be written or has another suffix.
        """
        from tvm_spm.report.plan_picture import draw_plan

        if self.plan is None:
            raise SpmError("nothing to draw: the network was tuned without fusion; leave out fusion=False")
        title = f"{self.arch.name}: {self.cost.cycles:,} cycles, {self.unfused_cost.cycles:,} layer by layer"
        groups = self.plan.drawn_groups() if self.side_plan is None else drawn_units(self.plan, self.side_plan)
        draw_plan(self.plan.graph, groups, path, title=title)

    def save(self, directory: str | Path) -> Path:
        """Write ``result.json``, ``table.csv`` and what else there is into a directory.

        That is ``plan.json`` of a network tuned with fusion, and ``fitted.toml`` if a measurer showed other numbers of
        the accelerator than its file.

        Raises:
            WorkdirError: The directory cannot be written.
        """
        path = Path(directory)
        durable.make_directory(path)
        durable.write_file(path / "result.json", json.dumps(self.as_dict(), indent=1).encode() + b"\n")
        durable.write_file(path / "table.csv", self.table().to_csv(index=False).encode())
        save_plan(path, self.plan_groups())
        if self.fitted is not None and self.fitted.numbers:
            durable.write_file(path / FITTED_FILE, self.fitted.toml().encode())
        return path


def _finite(value: float | None) -> float | None:
    return None if value is None else finite(value)
