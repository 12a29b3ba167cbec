"""What a measurer is asked: a mapping of one layer, or of layers that run as one."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tvm_spm.arch import Arch
from tvm_spm.attention import Attention, AttentionMapping
from tvm_spm.cost import Cost
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Operand, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """One mapping to measure.

    Attributes:
        workload: What runs.
        arch: Where.
        mapping: How; legal.
        program: The scheduled TIR PrimFunc as TVMScript text, for who runs code; None if there is none.
    """

    workload: Workload
    arch: Arch
    mapping: Mapping
    program: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRequest:
    """One mapping of a group to measure.

    Attributes:
        group: The layers that run as one.
        arch: Where, as declared.
        mapping: How; legal.
        expected: What that is expected to cost, for all that is not measured.
        attention: What the three layers of an attention compute; None for any other group.
        program: The scheduled TIR PrimFunc as TVMScript text, for who runs code; None if there is none.
    """

    group: Group
    arch: Arch
    mapping: GroupMapping | AttentionMapping
    expected: Cost
    attention: Attention | None = None
    program: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers."""
        return tuple(self.group.graph.layers[index].name for index in self.group.layers)


Request = MeasureRequest | GroupRequest


def shown_mapping(request: Request) -> str:
    """On one line."""
    if isinstance(request, MeasureRequest):
        return request.mapping.line()
    return f"{' > '.join(request.names)}: {'; '.join(str(request.mapping).splitlines())}"


def request_to_json(request: Request) -> dict[str, object]:
    """What a ``CommandMeasurer``'s command reads."""
    arch = request.arch
    found: dict[str, object] = {
        "arch": {"name": arch.name, "sha256": arch.sha256(), "numbers": dict(arch.numbers())},
    }
    if isinstance(request, GroupRequest):
        layers = (request.group.graph.layers[index] for index in request.group.layers)
        found |= {
            "kind": "attention" if request.attention is not None else "group",
            "layers": [
                {"name": layer.name, **({"kind": "vector"} if layer.workload is None else _workload(layer.workload))}
                for layer in layers
            ],
            "mapping": str(request.mapping),
        }
    else:
        found |= {**_workload(request.workload), "mapping": request.mapping.line()}
    return {**found, "program": request.program}


def _workload(workload: Workload) -> dict[str, object]:
    types = {operand.name: workload.projection(operand).dtype for operand in Operand}
    return {
        "workload": str(workload),
        "kind": workload.kind,
        "dims": {field.name: workload.dims[field.name] for field in fields(workload.dims)},
        "dtypes": {**types, "out": workload.out_dtype},
    }
