"""Who says how long a mapping takes: the simulator, or whatever a user brings instead (RTL simulation, a board).

A measurer is one method, ``measure``. What can be started as a command and prints cycles needs no Python of its own:

    measurer = CommandMeasurer(name="board", command=("./run_on_board.sh",))
    cost = measure(workload, "edge-256", [mapping], measurer)[0]

The command reads one JSON object from its standard input,

    {"arch": {"name": ..., "sha256": ..., "numbers": {...}}, "workload": "conv2d K=...", "kind": "conv2d",
     "dims": {"N": 1, ...}, "dtypes": {"I": "int8", "W": "int8", "O": "int32", "out": "int8"},
     "mapping": "cores: ...", "program": "# from tvm.script import ..." or null}

and prints one JSON object as the last line of its standard output: ``{"cycles": 1234}``, with ``"energy_pj"`` if it
knows. ``tvm_spm.mapping.Mapping.parse`` reads the mapping, ``tvm.script.from_source`` the program.

Layers run as one only if somebody says how long that takes: a method ``measure_groups``, which is given mappings of
groups (``GroupRequest``), or ``CommandMeasurer(times_groups=True)``, whose command then reads objects of the kind
``group`` or ``attention``, too:

    {"arch": {...}, "kind": "group", "layers": [{"name": "conv2d", "kind": "conv2d", "workload": "conv2d K=...", ...},
     {"name": "relu", "kind": "vector"}], "mapping": "cores: ...", "program": "# from tvm.script import ..."}

``tvm_spm.group.GroupMapping.parse`` reads the mapping of a group.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

from cost_model.analytical.model import AnalyticalModel
from cost_model.simulator import simulate_batch
from tvm_spm.arch import Arch, load_arch
from tvm_spm.cost import Cost, Energy
from tvm_spm.errors import SpmError
from tvm_spm.group import GroupMapping
from tvm_spm.interrupt import add_child, forget_child
from tvm_spm.mapping import Mapping
from tvm_spm.space import legality
from tvm_spm.tuning.requests import GroupRequest, MeasureRequest, Request, request_to_json, shown_mapping
from tvm_spm.workload import Workload

__all__ = [
    "CommandMeasurer", "GroupRequest", "MeasureError", "MeasureRequest", "Measurement", "Measurer",
    "SimulatorMeasurer", "cost_of", "costs_of", "identity_of", "measure", "times_groups",
]  # fmt: skip

SIMULATOR_VERSION = 2
"""Raised when the simulator comes to say other numbers; trials of an earlier one are kept, but measured again."""

MOST_CYCLES = 2**63 - 1
"""Of one measurement."""

MOST_KILLS = 3
"""Of a command, by a signal that nobody of ours sent, before a measurement counts as failed."""

MOST_ENERGY_PJ = 1e100
"""Of one measurement: sums and products of a network's stay finite."""


class MeasureError(SpmError):
    """A measurement failed; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured.

    Attributes:
        cycles: From the launch of the task until its last output is in DRAM.
        energy_pj: For that; None if it was not measured.
        cost: The whole breakdown, if the measurer knows it; then the other two are its own.
    """

    cycles: int
    energy_pj: float | None = None
    cost: Cost | None = None

    def __post_init__(self) -> None:
        cycles, energy_pj = self.cycles, self.energy_pj
        if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
            raise MeasureError(f"measured cycles = {cycles!r}: must be an integer >= 1")
        if self.cost is not None and (not isinstance(self.cost, Cost) or self.cost.cycles != cycles):
            raise MeasureError(f"measured cost = {self.cost!r:.80}: must be a Cost of {cycles} cycles, as measured")
        if cycles > MOST_CYCLES:
            raise MeasureError(f"measured cycles = {float(min(cycles, 10**300)):.3g}: more than 64 bits count")
        if energy_pj is None:
            return
        if (
            isinstance(energy_pj, bool)
            or not isinstance(energy_pj, (int, float))
            or not 0 <= energy_pj <= MOST_ENERGY_PJ
        ):
            raise MeasureError(f"measured energy_pj = {energy_pj!r:.40}: must be a number from 0 to {MOST_ENERGY_PJ:g}")


class Measurer(Protocol):
    """Anything that says how long mappings take.

    Three attributes may be left out: ``batch_size``, the most requests of one call (answers are kept call by call);
    ``waits``, whether it does nothing but wait for another process, so that workers need no process of their own for
    it; and ``identity``, under which answers are kept in a work directory; the name if there is none. Give another one
    whenever the same mapping may come to take another time, so that old answers are not used for new ones.

    What it promises: one answer per request, in their order; the same answer for the same request as far as the
    hardware allows; requests are not changed; no answer is made up: what fails raises ``MeasureError``.

    A second method, ``measure_groups(requests: Sequence[GroupRequest]) -> list[Measurement]``, promises the same of
    layers that run as one. Without it every layer runs alone.
    """

    @property
    def name(self) -> str:
        """Named in ``Cost.model`` and in logs; one or more of letters, digits, ``-`` and ``_``."""
        ...

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """Measure mappings, in any way that is not slower than one after the other.

        Raises:
            MeasureError: A measurement failed.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorMeasurer:
    """The default: the cycle-level simulator; it runs the mapping and does not look at the program.

    Attributes:
        num_threads: At most so many; default one per CPU. Results do not depend on it.
    """

    num_threads: int | None = None
    name: str = "simulator"

    @property
    def identity(self) -> str:
        """Name and version."""
        return f"{self.name}/{SIMULATOR_VERSION}"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """Simulate; requests for one workload and accelerator that follow each other are one batch."""
        found: list[Measurement] = []
        while len(found) < len(requests):
            rest = requests[len(found) :]
            batch = [rest[0]]
            for request in rest[1:]:
                if (request.workload, request.arch) != (rest[0].workload, rest[0].arch):
                    break
                batch.append(request)
            costs = simulate_batch(
                rest[0].workload, rest[0].arch, [request.mapping for request in batch], num_threads=self.num_threads
            )
            found += [Measurement(cycles=cost.cycles, energy_pj=cost.energy_pj, cost=cost) for cost in costs]
        return found

    def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
        """Simulate groups, one after the other."""
        costs = [_simulated_group(request) for request in requests]
        return [Measurement(cycles=cost.cycles, energy_pj=cost.energy_pj, cost=cost) for cost in costs]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandMeasurer:
    """A command that reads a request as JSON and prints cycles as JSON; see the top of this module.

    Attributes:
        name: Named in logs.
        command: Program and arguments; started once per mapping, without a shell.
        timeout_s: Give up on a measurement after so long.
        times_groups: Whether the command also reads objects of groups.
    """

    name: str
    command: tuple[str, ...]
    timeout_s: float = 600.0
    times_groups: bool = False

    @property
    def batch_size(self) -> int:
        """One after the other, so each answer is kept as soon as it is there."""
        return 1

    @property
    def waits(self) -> bool:
        """For the command."""
        return True

    @property
    def identity(self) -> str:
        """Name and command: another command is another board."""
        return f"{self.name}/{hashlib.sha256(json.dumps(self.command).encode()).hexdigest()[:12]}"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """Start the command for one request after the other.

        Raises:
            MeasureError: It cannot be started, takes too long, fails, or prints something else.
        """
        return [self._measure(request) for request in requests]

    def measure_groups(self, requests: Sequence[GroupRequest]) -> list[Measurement]:
        """As ``measure``."""
        return [self._measure(request) for request in requests]

    def _measure(self, request: Request) -> Measurement:
        shown = " ".join(self.command)
        try:
            for _ in range(MOST_KILLS):
                code, output, errors = _run(self.command, json.dumps(request_to_json(request)), self.timeout_s)
                # Who kills a process does not judge its mapping.
                if code != -signal.SIGKILL:
                    break
        except subprocess.TimeoutExpired:
            raise MeasureError(
                f"{shown}: no answer after {self.timeout_s:g} s for {shown_mapping(request)}; "
                "raise timeout_s, or --measure-timeout"
            ) from None
        except OSError as error:
            raise MeasureError(f"{shown}: cannot start: {error.strerror}") from error
        if code == -signal.SIGKILL:
            raise MeasureError(f"{shown}: was killed {MOST_KILLS} times")
        if code:
            raise MeasureError(f"{shown}: exit code {code}: {errors.strip()[-500:] or 'no message'}")
        lines = output.strip().splitlines()
        try:
            answer = json.loads(lines[-1] if lines else "")
            return Measurement(cycles=answer["cycles"], energy_pj=answer.get("energy_pj"))
        except (ValueError, KeyError, TypeError, AttributeError):
            last = lines[-1][:200] if lines else "nothing"
            raise MeasureError(
                f'{shown}: the last line must be an object such as {{"cycles": 1234}}, but is: {last}'
            ) from None


def _run(command: Sequence[str], text: str, timeout_s: float) -> tuple[int, str, str]:
    """Exit code, output and errors of a command that reads a text; bytes that are no text are marked as such.

    It runs in a session of its own: what it starts ends with it when time is up, and Ctrl-C in a terminal, which asks
    the search to finish, does not fail the measurement that runs.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as started:
        add_child(started.pid)
        try:
            output, errors = started.communicate(text.encode(), timeout=timeout_s)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            raise
        finally:
            forget_child(started.pid)
    return started.returncode, output.decode(errors="replace"), errors.decode(errors="replace")


def identity_of(measurer: Measurer | None) -> str:
    """Under which name answers of a measurer are kept; None is the simulator."""
    known = SimulatorMeasurer() if measurer is None else measurer
    return str(getattr(known, "identity", known.name))


def measure(workload: Workload, arch: Arch | str | Path, mappings: Sequence[Mapping], measurer: Measurer) -> list[Cost]:
    """Measure mappings of one workload.

    Args:
        workload: What runs.
        arch: An accelerator, the name of one, or the path of its file.
        mappings: How it runs.
        measurer: Who says how long it takes.

    Returns:
        Costs in the order of ``mappings``; see ``cost_of`` for what was not measured.

    Raises:
        MappingError: A mapping is not legal; says which rule it breaks.
        MeasureError: A measurement failed.
    """
    accelerator = load_arch(arch)
    for mapping in mappings:
        legality.require(workload, accelerator, mapping)
    return costs_of([MeasureRequest(workload=workload, arch=accelerator, mapping=each) for each in mappings], measurer)


def times_groups(measurer: Measurer | None) -> bool:
    """Whether a measurer says how long groups take; None is the simulator."""
    if measurer is None:
        return True
    return callable(getattr(measurer, "measure_groups", None)) and bool(getattr(measurer, "times_groups", True))


def costs_of(requests: Sequence[Request], measurer: Measurer) -> list[Cost]:
    """Costs of legal mappings, all of layers or all of groups, in the order of the requests.

    Raises:
        MeasureError: A measurement failed.
    """
    of_groups = bool(requests) and isinstance(requests[0], GroupRequest)
    if of_groups:
        measurements = getattr(measurer, "measure_groups")(requests)  # noqa: B009 (not every measurer has it)
    else:
        measurements = measurer.measure([each for each in requests if isinstance(each, MeasureRequest)])
    _check_answers(measurements, measurer.name, "measure_groups" if of_groups else "measure")
    if len(measurements) != len(requests):
        raise MeasureError(f"{measurer.name}: {len(measurements)} answers to {len(requests)} requests")
    return [cost_of(request, found, measurer.name) for request, found in zip(requests, measurements, strict=True)]


def _check_answers(measurements: object, name: str, method: str) -> None:
    """A measurer is a user's code; what it returns may be anything."""
    if not isinstance(measurements, Sequence) or isinstance(measurements, (str, bytes)):
        raise MeasureError(
            f"{name}: {method} returned {measurements!r:.200}; must be a list with one Measurement per request"
        )
    for position, found in enumerate(measurements, start=1):
        if not isinstance(found, Measurement):
            raise MeasureError(
                f"{name}: answer {position} of {len(measurements)} is {found!r:.200}; must be a Measurement"
            )


def cost_of(request: Request, measurement: Measurement, name: str) -> Cost:
    """A measurement as a cost.

    What was not measured comes from the analytical model, for groups from what was expected, which count what a mapping
    asks for: bytes, energy by part (scaled to the measured energy, if there is one), and the cycles of launch and MACs;
    all other measured cycles count as stalls of the DMA.
    """
    if measurement.cost is not None:
        return measurement.cost
    if isinstance(request, GroupRequest):
        model = request.expected
    else:
        model = AnalyticalModel().cost(request.workload, request.arch, request.mapping)
    cycles, energy = measurement.cycles, model.energy
    if measurement.energy_pj is not None:
        energy = _scaled(energy, measurement.energy_pj)
    overhead_cycles = min(model.overhead_cycles, cycles)
    compute_cycles = min(model.compute_cycles, cycles - overhead_cycles)
    return replace(
        model,
        cycles=cycles,
        energy=energy,
        model=name,
        utilization=model.macs / (cycles * request.arch.peak_macs_per_cycle),
        compute_cycles=compute_cycles,
        noc_stall_cycles=0,
        dma_stall_cycles=cycles - overhead_cycles - compute_cycles,
        overhead_cycles=overhead_cycles,
    )


def _simulated_group(request: GroupRequest) -> Cost:
    """By the simulator of groups, which searches of layers do not load."""
    from cost_model.attention.model import attention_cost
    from cost_model.fused.cost import group_cost

    if isinstance(request.mapping, GroupMapping):
        return group_cost(request.group, request.arch, request.mapping).cost
    if request.attention is None:
        raise MeasureError(f"{' > '.join(request.names)}: mapped as an attention, of which nothing is known")
    return attention_cost(request.attention, request.arch, request.mapping)


def _scaled(energy: Energy, total_pj: float) -> Energy:
    """The same parts, but adding up to ``total_pj``; all of it for MACs if there are none."""
    if energy.total_pj == 0:
        return Energy(mac_pj=total_pj)
    factor = total_pj / energy.total_pj
    return Energy(**{field.name: getattr(energy, field.name) * factor for field in fields(energy)})
