"""What every part of every core does when: a list of events, and what fills the SPM meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cost_model.simulator import record
from cost_model.simulator.log import HORIZON, NETWORKS
from tvm_spm.arch import Arch, load_arch
from tvm_spm.errors import SpmError
from tvm_spm.mapping import Mapping
from tvm_spm.report.events import Event, Residency, events_of, residencies_of
from tvm_spm.space import legality
from tvm_spm.workload import Operand, Workload

RESOURCES = ("DMA", *NETWORKS, "PE array", "vector unit")
"""Rows of a core; DRAM channels are ``DRAM channel 0`` and so on."""

MAX_EVENTS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """What happens until ``cycles``.

    Attributes:
        events: In the order of their start; all that start before ``cycles``.
        residencies: Tiles in SPM; those still there end at ``cycles``.
        cycles: Where the list ends.
        is_complete: Whether this is the end of the task.
        num_cores: Cores in use.
        clock_hz: Of the accelerator.
        spm_bytes: Capacity of one core's SPM, of all operands together.
    """

    events: tuple[Event, ...]
    residencies: tuple[Residency, ...]
    cycles: int
    is_complete: bool
    num_cores: int
    clock_hz: float
    spm_bytes: int

    def occupancy(self, core: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """Bytes of I W O in a core's SPM, from each time at which they change."""
        changes: dict[int, list[int]] = {0: [0, 0, 0]}
        for tile in self.residencies:
            if tile.core == core:
                at = Operand[tile.operand].value
                for time, num_bytes in ((tile.start, tile.num_bytes), (tile.end, -tile.num_bytes)):
                    changes.setdefault(time, [0, 0, 0])[at] += num_bytes
        i_bytes = w_bytes = o_bytes = 0
        for time, (more_i, more_w, more_o) in sorted(changes.items()):
            i_bytes, w_bytes, o_bytes = i_bytes + more_i, w_bytes + more_w, o_bytes + more_o
            yield time, (i_bytes, w_bytes, o_bytes)

    def write_trace(self, path: str | Path) -> None:
        """Write a trace for https://ui.perfetto.dev or chrome://tracing; 1 cycle is shown as 1 us.

        Raises:
            SpmError: The file cannot be written.
        """
        names = [*RESOURCES, *sorted({event.resource for event in self.events} - set(RESOURCES))]
        rows = {name: row for row, name in enumerate(names)}
        shown: list[dict[str, object]] = []
        for core in range(self.num_cores):
            shown.append(_name("process_name", core, 0, f"core {core}"))
            shown += [_name("thread_name", core, row, name) for name, row in rows.items() if name in RESOURCES]
        shown.append(_name("process_name", self.num_cores, 0, "DRAM"))
        shown += [_name("thread_name", self.num_cores, rows[name], name) for name in names if name not in RESOURCES]
        for event in self.events:
            shown.append(
                {
                    "name": event.label,
                    "cat": event.operand or "work",
                    "ph": "X",
                    "ts": event.start,
                    "dur": event.end - event.start,
                    "pid": event.core if event.resource in RESOURCES else self.num_cores,
                    "tid": rows[event.resource],
                    "args": {"pass": event.pass_number, "bytes": event.num_bytes, "core": event.core},
                }
            )
        for core in range(self.num_cores):
            for time, amounts in self.occupancy(core):
                args = {operand.name: amounts[operand.value] for operand in Operand}
                shown.append({"name": "SPM bytes", "ph": "C", "ts": time, "pid": core, "args": args})
        other = {"unit": "1 us is 1 cycle", "clock_hz": self.clock_hz, "cycles": self.cycles}
        content = {"traceEvents": shown, "displayTimeUnit": "ns", "otherData": other}
        try:
            Path(path).write_text(json.dumps(content), encoding="utf-8")
        except OSError as error:
            raise SpmError(f"{path}: cannot write: {error.strerror}; choose another file") from error

    def plot(self, path: str | Path, *, until: int | None = None) -> None:
        """Draw the first cycles of the timeline, and the SPM under it, as ``.svg`` or ``.png``.

        Args:
            path: The file; its suffix decides the format.
            until: Last cycle shown; default: as many as make a readable picture.

        Raises:
            SpmError: The file cannot be written.
        """
        from tvm_spm.report.plot import plot_timeline

        plot_timeline(self, path, until=until)


def timeline(
    workload: Workload, arch: Arch | str | Path, mapping: Mapping, *, max_events: int = MAX_EVENTS
) -> Timeline:
    """Record what happens when a mapping runs.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mapping: How it runs.
        max_events: Stop after about as many.

    Raises:
        MappingError: The mapping is not legal; says which rule it breaks.
        SpmError: ``max_events`` is less than 1.
    """
    if max_events < 1:
        raise SpmError(f"max_events = {max_events}: must be >= 1")
    accelerator = load_arch(arch)
    legality.require(workload, accelerator, mapping)
    return timeline_of(workload, accelerator, mapping, max_events=max_events)


def timeline_of(workload: Workload, arch: Arch, mapping: Mapping, *, max_events: int = MAX_EVENTS) -> Timeline:
    """``timeline`` of a mapping that is legal but perhaps for capacities; not checked again here."""
    cycles, log = record(workload, arch, mapping, most_events=max_events)
    horizon, spm = int(log.at[HORIZON]), arch.levels.SPM
    if horizon >= 0:
        cycles = horizon
    events = [event for event in events_of(workload, log) if event.start < cycles]
    return Timeline(
        events=tuple(sorted(events, key=lambda event: (event.start, event.core, event.resource, event.end))),
        residencies=tuple(residencies_of(workload, spm.bank_bytes, log, cycles)),
        cycles=cycles,
        is_complete=horizon < 0,
        num_cores=mapping.cores.product(),
        clock_hz=arch.clock_hz,
        spm_bytes=sum(spm.capacity_of(o) for o in Operand) if spm.is_split else spm.capacity_of(Operand.I),
    )


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, object]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


__all__ = ["MAX_EVENTS", "RESOURCES", "Event", "Residency", "Timeline", "timeline", "timeline_of"]
