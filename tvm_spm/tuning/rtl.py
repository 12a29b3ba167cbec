"""Hardware as the measurer: every mapping runs on the simulated RTL of the accelerator, and its cycles are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_model.simulator import simulate_batch
from tvm_spm.arch import Arch
from tvm_spm.mapping import Mapping
from tvm_spm.rtl.build import build
from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import parameters_of
from tvm_spm.rtl.run import run_stream
from tvm_spm.stream.encode import encode
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.instructions import VectorStep
from tvm_spm.tuning.measurer import MeasureError, Measurement, MeasureRequest
from tvm_spm.workload import Projection, Workload, dtype_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class RtlMeasurer:
    """Cycles that the hardware takes, on zeros: no duration depends on a value.

    Numbers of other types move and are multiplied as whole numbers of their width, which takes the same time. Energy
    is the simulator's: hardware moves and hears as many elements.

    Attributes:
        machine: What the simulator was compiled for.
        version: Of its sources.
    """

    machine: str
    version: str
    name: str = "rtl"

    @classmethod
    def of(cls, arch: Arch) -> RtlMeasurer:
        """The measurer of an accelerator; compiles its simulator.

        Raises:
            RtlError: It is not built as hardware, or Verilator is missing.
        """
        return cls(machine=arch.sha256(), version=build(parameters_of(arch)).parent.name)

    @property
    def identity(self) -> str:
        """Name, and version of the sources."""
        return f"{self.name}/{self.version}"

    def measure(self, requests: Sequence[MeasureRequest]) -> list[Measurement]:
        """Run one mapping after the other.

        Raises:
            MeasureError: A mapping is for another accelerator, or hardware cannot execute it; says why.
        """
        return [self._measure(request.workload, request.arch, request.mapping) for request in requests]

    def _measure(self, workload: Workload, arch: Arch, mapping: Mapping) -> Measurement:
        if arch.sha256() != self.machine:
            raise MeasureError(f"{arch.name}: not the accelerator whose hardware measures")
        try:
            whole = _whole(workload)
            layer = encode(whole, arch, mapping, _epilogue(whole))
            run = run_stream(layer.streams[0], arch, np.zeros(layer.memory.num_bytes, np.uint8))
        except (RtlError, StreamError) as error:
            raise MeasureError(f"{workload}: {error}") from error
        energy_pj = simulate_batch(workload, arch, [mapping])[0].energy_pj
        return Measurement(cycles=run.cycles, energy_pj=energy_pj)


def _whole(workload: Workload) -> Workload:
    """The same layer in whole numbers as wide."""
    extras = tuple(_whole_projection(extra) for extra in workload.epilogue.extras)
    return replace(
        workload,
        I=_whole_projection(workload.I),
        W=_whole_projection(workload.W),
        O=_whole_projection(workload.O),
        out_dtype=f"int{dtype_bits(workload.out_dtype)}",
        epilogue=replace(workload.epilogue, extras=extras),
    )


def _whole_projection(projection: Projection) -> Projection:
    return replace(projection, dtype=f"int{projection.elem_bits}")


def _epilogue(workload: Workload) -> tuple[VectorStep, ...]:
    """As many operations as are timed, which read every extra once while there are any."""
    count, sums = workload.epilogue.num_ops_per_elem, workload.O.dtype
    steps = [
        VectorStep(operation="extra", dtype=extra.dtype, target=1 + number, immediate=number)
        for number, extra in enumerate(workload.epilogue.extras)
    ]
    last = 0
    for number in range(count):
        other = 1 + number if number < len(workload.epilogue.extras) else last
        dtype = workload.out_dtype if number == count - 1 else sums
        target = 31 - number % 2
        steps.append(VectorStep(operation="add", dtype=dtype, target=target, sources=(last, other, 0)))
        last = target
    return tuple(steps)
