"""What a tuned network is made of: results of tasks and of groups, and the work that was left out."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_spm.arch import Arch
from tvm_spm.attention import AttentionMapping
from tvm_spm.cost import Cost, Energy, dma_channels
from tvm_spm.group import GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.report.roofs import roof_columns
from tvm_spm.units import ratio
from tvm_spm.workload import Task, Workload

if TYPE_CHECKING:
    from tvm_spm.deploy.verify.outcome import Verification

NO_WAITS = (
    "pages of DRAM: vector work is timed without waits for rows, since it has no addresses, and no layers run as one, "
    "since groups would be timed without them too"
)
"""What is not modelled of a network on an accelerator with open pages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baselines:
    """What a task costs when it is mapped in the ways that results are compared with, each measured.

    Attributes:
        dataflow: The best of ``OS`` (OY|OX), ``WS`` (FY|FX), ``RS`` (OY|FY) and ``MC`` (K|C): only its two dims are
            unrolled along rows and columns, everything else is optimised; empty if none of them can run the task.
        dataflow_cost: Of that.
        random_cost: Of the median of five random searches.
        num_random: Mappings that each of these priced.
    """

    dataflow: str
    dataflow_cost: Cost
    random_cost: Cost
    num_random: int

    @classmethod
    def same(cls, cost: Cost) -> Baselines:
        """Of what runs in one way only, such as work on the vector unit."""
        return cls(dataflow="", dataflow_cost=cost, random_cost=cost, num_random=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastValue:
    """What the objective of a task can be at least.

    Attributes:
        value: At least.
        gap: How far the measured value is above it, as a share; 0 if it is proved to be the least.
        space: The mappings of which it is true.
    """

    value: float
    gap: float
    space: str

    def __str__(self) -> str:
        # rounded up, as it is an upper bound
        if self.gap == 0:
            return "proved"
        if self.gap >= 1:
            return f"within {math.ceil(self.gap * 10 - 1e-9) / 10 + 1:.1f}x"
        return f"within {math.ceil(self.gap * 1000 - 1e-9) / 10:.1f} %"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """The outcome for one task; costs are of one occurrence.

    Attributes:
        task: What was tuned.
        mapping: The best mapping; None for work on the vector unit.
        cost: Measured cost of ``mapping``.
        default_cost: Measured cost of the untuned default mapping; None if its measurement failed.
        baselines: What other ways to map it cost; None if they were not asked for, or there was no time for them.
        verification: Comparison of the schedule with the unscheduled code; None if the run ended before it.
        num_trials: Mappings measured, those of earlier runs in the same work directory included.
        rejected: Mappings refused, by reason.
        failures: Why measurements failed, one text per failed trial.
        bound: What no mapping can be below; None if nothing is known, as of vector work.
    """

    task: Task
    mapping: Mapping | None
    cost: Cost
    default_cost: Cost | None
    baselines: Baselines | None = None
    verification: Verification | None = None
    num_trials: int = 0
    rejected: tuple[tuple[str, int], ...] = ()
    failures: tuple[str, ...] = ()
    bound: LeastValue | None = None

    def roof_columns(self, arch: Arch) -> dict[str, object]:
        """The resource that no mapping can be faster than, as ``tvm_spm.report.roofs``; None for vector work."""
        if isinstance(self.task.work, Workload):
            return roof_columns(self.task.work, arch, self.cost)
        return {"roof": None, "roof_cycles": None, "of_roof": None}

    def of_roof_text(self, arch: Arch) -> str:
        """How near the cycles come to that roof, and whose it is; empty for vector work.

        A measurer may be faster than the numbers of a file allow.
        """
        found = self.roof_columns(arch)
        if found["roof"] is None:
            return ""
        return f"above {found['roof']}" if self.is_above_roof(arch) else f"{found['of_roof']:.1%} {found['roof']}"

    def is_above_roof(self, arch: Arch) -> bool:
        """Whether it took fewer cycles than the numbers of the accelerator allow."""
        share = self.roof_columns(arch)["of_roof"]
        return isinstance(share, float) and share > 1

    @property
    def verified(self) -> bool | None:
        """Whether the schedule computes what the unscheduled code computes; None if unknown."""
        return None if self.verification is None else self.verification.passed

    def cost_of(self, baseline: str) -> Cost | None:
        """Of a baseline; None if it is not known.

        Args:
            baseline: ``dataflow``, ``random`` or ``default``.
        """
        if baseline == "default":
            return self.default_cost
        if self.baselines is None:
            return None
        return self.baselines.dataflow_cost if baseline == "dataflow" else self.baselines.random_cost

    def gain(self, objective: str, baseline: str = "default") -> float | None:
        """Value of the objective of a baseline over the tuned one; above 1 is better, None if it is not known.

        Args:
            objective: What is compared.
            baseline: As for ``cost_of``.
        """
        other = self.cost_of(baseline)
        return None if other is None else ratio(other.objective(objective), self.cost.objective(objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """Layers that run as one; costs are of one occurrence.

    Attributes:
        names: The layers of the first occurrence.
        tasks: Per layer the index of its task in the graph.
        count: How often equal layers run the same way.
        mapping: How the group runs: tile by tile of the last output, or as attention with an online softmax.
        tile: What one core works on at a time: a tile of the output, or of the scores.
        overlap: What happens to the overlap of neighbouring tiles, or how the softmax is computed.
        cost: By the simulator, or by the measurer of the run.
        alone_cost: Of the same layers, each tuned and run alone.
        spm_bytes: Most that one core holds at a time.
        recompute_share: Multiply-accumulates done more than once, as a share of those needed.
        verification: Comparison of the fused schedule with the unscheduled layers; None if the run ended before it.
    """

    names: tuple[str, ...]
    tasks: tuple[int, ...]
    count: int
    mapping: GroupMapping | AttentionMapping
    tile: str
    overlap: str
    cost: Cost
    alone_cost: Cost
    spm_bytes: int
    recompute_share: float
    verification: Verification | None = None

    @property
    def verified(self) -> bool | None:
        """Whether the fused schedule computes what the layers compute; None if unknown."""
        return None if self.verification is None else self.verification.passed

    def gain(self, objective: str) -> float:
        """Value of the objective layer by layer over that of the group; above 1 is better.

        A group may lose here and still serve the network, whose energy and cycles are what counts.
        """
        return ratio(self.alone_cost.objective(objective), self.cost.objective(objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class SideResult:
    """A layer, or layers that run as one, beside others.

    Attributes:
        names: The layers of the first occurrence.
        tasks: Per layer the index of its task in the graph.
        mapping: How it runs on its cores.
        cores: Their numbers.
        finish_cycles: When it has finished, beside the others.
        cost: By itself on these cores.
        verification: Comparison of the scheduled code with the unscheduled.
    """

    names: tuple[str, ...]
    tasks: tuple[int, ...]
    mapping: Mapping | GroupMapping
    cores: range
    finish_cycles: int
    cost: Cost
    verification: Verification

    @property
    def mapping_text(self) -> str:
        """In one line, or one a layer for a group."""
        return self.mapping.line() if isinstance(self.mapping, Mapping) else str(self.mapping)


@dataclass(frozen=True, slots=True, kw_only=True)
class TogetherResult:
    """Layers and groups that run side by side; costs are of one occurrence.

    Attributes:
        sides: In order of cores.
        count: How often equal ones run the same way.
        cost: Until the last has finished, by the simulator of all cores.
        serial_cost: Of the same layers one after the other, each as it runs alone.
    """

    sides: tuple[SideResult, ...]
    count: int
    cost: Cost
    serial_cost: Cost

    @property
    def tasks(self) -> tuple[int, ...]:
        """Per layer the index of its task."""
        return tuple(task for side in self.sides for task in side.tasks)

    @property
    def num_layers(self) -> int:
        """Of all sides."""
        return sum(len(side.names) for side in self.sides)

    def gain(self, objective: str) -> float:
        """Value of the objective one after the other over that side by side; above 1 is better."""
        return ratio(self.serial_cost.objective(objective), self.cost.objective(objective))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Work that was asked for and not done, because a time limit struck or a signal came.

    Attributes:
        what: ``trials`` of a task, ``attentions searched``, ``groups priced``, ``groups refined`` or ``baselines``.
        task: Whose trials; empty for the others.
        num_done: How many were done.
        num_asked: Of how many.
    """

    what: str
    task: str = ""
    num_done: int
    num_asked: int


def total_cost(parts: list[tuple[Cost, int]], arch: Arch) -> Cost:
    """Costs of tasks that run one after the other, each as often as its count says."""
    sums: Counter[str] = Counter()
    energy = {name: 0.0 for name in Energy.__dataclass_fields__}
    dram_bytes = [0, 0, 0, 0]
    models = set()
    for cost, count in parts:
        for name in _SUMMED:
            sums[name] += count * getattr(cost, name)
        for name in energy:
            energy[name] += count * getattr(cost.energy, name)
        dram_bytes = [total + count * part for total, part in zip(dram_bytes, cost.dram_bytes, strict=True)]
        models.add(cost.model)
    peak = max(1, sums["cycles"]) * arch.peak_macs_per_cycle
    return Cost(
        **{name: sums[name] for name in _SUMMED},
        energy=Energy(**energy),
        model="+".join(sorted(models)),
        utilization=sums["macs"] / peak,
        dram_bytes=(dram_bytes[0], dram_bytes[1], dram_bytes[2], dram_bytes[3]),
        dma_channels=dma_channels(arch),
    )


_SUMMED = (
    "cycles", "macs", "compute_cycles", "noc_stall_cycles", "dma_stall_cycles", "overhead_cycles", "dma_busy_cycles",
    "dram_unused_bytes",
)  # fmt: skip
