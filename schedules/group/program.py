"""Reads back from the code of a fused group what it computes and copies, to compare it with its mapping."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import tvm
from tvm import tirx

from schedules.group.walk import GroupEvent, group_events
from schedules.layer.evaluate import OPERATIONS, Operations
from tvm_spm.errors import ScheduleError
from tvm_spm.graph import Box
from tvm_spm.group import Group, GroupMapping

Values = dict[object, int]
"""Variables, and elements of small tables as pairs of buffer and index."""

Number = Callable[[Values], int]


def check_group(func: tirx.PrimFunc, group: Group, mapping: GroupMapping) -> str | None:
    """Whether the code of a group computes and copies what its mapping says.

    Loads and stores are compared box by box, what is computed by its extents: where it lies shows in the results.

    Args:
        func: As ``schedule_group`` makes it.
        group: The layers.
        mapping: That was timed.

    Returns:
        ``None`` if it does, else the first difference.
    """
    executed, expected = program_events(func, group), group_events(group, mapping)
    if len(executed) != len(expected):
        return f"the code runs on {len(executed)} cores, the mapping on {len(expected)}"
    for core, (got, want) in enumerate(zip(executed, expected, strict=True)):
        for step, (one, other) in enumerate(zip(got, want, strict=False)):
            if one != other and not _stores_part(group, one, other):
                return f"core {core}, event {step}: the code does {one}, the mapping says {other}"
        if len(got) != len(want):
            return f"core {core}: the code does {len(got)} things, the mapping says {len(want)}"
    return None


def _stores_part(group: Group, one: GroupEvent, other: GroupEvent) -> bool:
    """Whether a store differs only by leaving out channels of other chunks, which lie between those of groups."""
    layer = group.graph.layers[group.layers[one.layer]]
    if (one.kind, one.layer) != (other.kind, other.layer) or one.box is None or other.box is None:
        return False
    inside = all(low <= a and b <= high for (a, b), (low, high) in zip(one.box, other.box, strict=True))
    return inside and one.kind == "store" and layer.workload is not None and layer.workload.dims.G > 1


def program_events(func: tirx.PrimFunc, group: Group) -> list[list[GroupEvent]]:
    """Per core, what the code of a fused group does, in order.

    Raises:
        ScheduleError: It is not code that ``schedule_group`` made.
    """
    body = func.body
    if isinstance(body, tirx.For) and _level(body) == "core":
        reader = _Reader(group)
        run = reader.statement(body.body)
        return [list(run({body.loop_var: core})) for core in range(int(body.extent))]
    return [list(_Reader(group).statement(body)({}))]


Run = Callable[[Values], Iterator[GroupEvent]]


@dataclass(slots=True, eq=False)
class _Reader:
    """Translates statements once, so that they can be followed tile by tile."""

    group: Group
    numbers: dict[object, Number] = field(default_factory=dict)

    def statement(self, stmt: tirx.Stmt) -> Run:
        """What a statement outside of stages does."""
        if isinstance(stmt, tirx.SeqStmt):
            return _in_turn([self.statement(inner) for inner in stmt.seq])
        if isinstance(stmt, tirx.Bind):
            return self._bind(stmt.var, self.number(stmt.value))
        if isinstance(stmt, tirx.AllocBuffer):
            return _in_turn([])
        if isinstance(stmt, tirx.BufferStore):
            return self._bind((stmt.buffer, int(stmt.indices[0])), self.number(stmt.value))
        if isinstance(stmt, tirx.IfThenElse) and stmt.else_case is None:
            return self._if(self.number(stmt.condition), self.statement(stmt.then_case))
        if isinstance(stmt, tirx.For) and _level(stmt) in ("tile", "chunk"):
            return self._loop(stmt.loop_var, self.number(stmt.extent), self.statement(stmt.body))
        if isinstance(stmt, tirx.AttrStmt):
            return self._marked(str(stmt.attr_key), str(stmt.node), stmt.body)
        raise ScheduleError(f"a {type(stmt).__name__} stands outside of every stage")

    @staticmethod
    def _bind(name: object, value: Number) -> Run:
        def run(values: Values) -> Iterator[GroupEvent]:
            values[name] = value(values)
            return iter(())

        return run

    @staticmethod
    def _if(condition: Number, inner: Run) -> Run:
        def run(values: Values) -> Iterator[GroupEvent]:
            if condition(values):
                yield from inner(values)

        return run

    @staticmethod
    def _loop(var: tirx.Var, extent: Number, inner: Run) -> Run:
        def run(values: Values) -> Iterator[GroupEvent]:
            for index in range(extent(values)):
                values[var] = index
                yield from inner(values)

        return run

    def _marked(self, key: str, name: str, body: tirx.Stmt) -> Run:
        if key == "spm.epilogue":
            return _in_turn([])
        layer, _, read = name.partition(".")
        if key == "spm.stage":
            return self._stage(int(layer), body)
        kind = "load" if key == "spm.load" else "store"
        return self._copy(kind, int(layer), int(read or -1), body)

    def _copy(self, kind: str, layer: int, read: int, body: tirx.Stmt) -> Run:
        """A copy of a box: what it reads or writes in DRAM at its first and its last iteration."""
        loops: list[tuple[tirx.Var, Number]] = []
        while isinstance(body, tirx.For):
            loops.append((body.loop_var, self.number(body.extent)))
            body = body.body
        test: Number | None = None
        if isinstance(body, tirx.IfThenElse):
            test, body = self.number(body.condition), body.then_case
        at = body.indices if kind == "store" else body.value.indices
        indices = [self.number(index) for index in at]

        def run(values: Values) -> Iterator[GroupEvent]:
            extents = [extent(values) for _, extent in loops]
            if min(extents, default=1) <= 0:
                return
            ends = []
            for last in (False, True):
                values.update({var: extent - 1 if last else 0 for (var, _), extent in zip(loops, extents, strict=True)})
                ends.append([index(values) for index in indices])
            box: Box = tuple((first, last + 1) for first, last in zip(*ends, strict=True))
            num_elems = math.prod(extents)
            if test is not None:
                named = [(var, extent) for (var, _), extent in zip(loops, extents, strict=True)]
                box, num_elems = _guarded(values, named, indices, test)
            # Channels of a chunk lie apart in every group; their bounding box is what counts.
            if kind == "load" and num_elems != math.prod(stop - first for first, stop in box):
                raise ScheduleError(f"layer {layer}: a {kind} does not move a box")
            yield GroupEvent(
                kind=kind, layer=layer, read=read, box=box, extents=tuple(stop - first for first, stop in box)
            )

        return run

    def _stage(self, position: int, body: tirx.Stmt) -> Run:
        layer = self.group.graph.layers[self.group.layers[position]]
        if layer.workload is None:
            return self._vector(position, len(layer.out_axes), body)
        return self._array(position, [name for name, _ in layer.loops], body)

    def _vector(self, position: int, rank: int, body: tirx.Stmt) -> Run:
        """The loops of the last nest, which go over the axes of the output; those that iterate once are left out."""
        loops: dict[str, Number] = {}
        nest = body.seq[-1] if isinstance(body, tirx.SeqStmt) else body
        while isinstance(nest, tirx.For):
            loops.setdefault(str(nest.loop_var.name), self.number(nest.extent))
            nest = nest.body

        def run(values: Values) -> Iterator[GroupEvent]:
            extents = tuple(loops[f"i{axis}"](values) if f"i{axis}" in loops else 1 for axis in range(rank))
            yield GroupEvent(kind="compute", layer=position, extents=extents)

        return run

    def _array(self, position: int, dims: Sequence[str], body: tirx.Stmt) -> Run:
        """What the loops over steps and inside a step make of every dim together."""
        steps: dict[str, tuple[tirx.Var, Number]] = {}
        inside: dict[str, Number] = {}
        binds: list[tuple[tirx.Var, Number]] = []
        for node in _nodes(body):
            if isinstance(node, tirx.Bind):
                binds.append((node.var, self.number(node.value)))
            elif "spm.rows" in node.annotations:
                inside[str(node.annotations["spm.dim"])] = self.number(node.extent)
            elif _level(node) == "step":
                steps[str(node.annotations["spm.dim"])] = node.loop_var, self.number(node.extent)

        def extent(dim: str, values: Values) -> int:
            if dim not in steps:
                return inside[dim](values) if dim in inside else 1
            var, count = steps[dim]
            total = 0
            for step in range(count(values)):
                values[var] = step
                values.update({bound: value(values) for bound, value in binds})
                total += inside[dim](values) if dim in inside else 1
            values[var] = 0
            return total

        def run(values: Values) -> Iterator[GroupEvent]:
            values.update({var: 0 for var, _ in steps.values()})
            values.update({bound: value(values) for bound, value in binds})
            yield GroupEvent(kind="compute", layer=position, extents=tuple(extent(dim, values) for dim in dims))

        return run

    def number(self, expr: tirx.PrimExpr) -> Number:
        """Translate an expression."""
        found = self.numbers.get(expr)
        if found is None:
            found = self.numbers[expr] = self._number(expr)
        return found

    def _number(self, expr: tirx.PrimExpr) -> Number:
        if isinstance(expr, tirx.IntImm):
            value = int(expr)
            return lambda values: value
        if isinstance(expr, tirx.Var):
            return lambda values: values[expr]
        if isinstance(expr, tvm.ir.TensorLoad):
            key = (expr.source, int(expr.indices[0]))
            return lambda values: values[key]
        if isinstance(expr, tirx.Select):
            test, yes, no = (self.number(part) for part in (expr.condition, expr.true_value, expr.false_value))
            return lambda values: yes(values) if test(values) else no(values)
        if isinstance(expr, tirx.Not):
            inner = self.number(expr.a)
            return lambda values: int(not inner(values))
        operation = _OF_NUMBERS.get(type(expr))
        if operation is None:
            raise ScheduleError(f"{expr}: a {type(expr).__name__} is not understood")
        left, right = self.number(expr.a), self.number(expr.b)
        return lambda values: operation(left(values), right(values))


_OF_NUMBERS: Operations = {**OPERATIONS, tirx.Min: min, tirx.Max: max}


def _in_turn(runs: Sequence[Run]) -> Run:
    def run(values: Values) -> Iterator[GroupEvent]:
        for inner in runs:
            yield from inner(values)

    return run


def _level(loop: tirx.For) -> str:
    return str(loop.annotations["spm.level"]) if "spm.level" in loop.annotations else ""


def _nodes(stmt: tirx.Stmt) -> Iterator[tirx.For | tirx.Bind]:
    """Loops and bound variables, outer to inner."""
    if isinstance(stmt, tirx.SeqStmt):
        for inner in stmt.seq:
            yield from _nodes(inner)
    elif isinstance(stmt, tirx.For):
        yield stmt
        yield from _nodes(stmt.body)
    elif isinstance(stmt, tirx.IfThenElse):
        yield from _nodes(stmt.then_case)
    elif isinstance(stmt, tirx.Bind):
        yield stmt


def _guarded(
    values: Values, loops: Sequence[tuple[tirx.Var, int]], indices: Sequence[Number], test: Number
) -> tuple[Box, int]:
    """The box that is moved where a guard leaves out some iterations, and the number of elements moved."""
    moved = []
    for at in itertools.product(*(range(extent) for _, extent in loops)):
        values.update({var: index for (var, _), index in zip(loops, at, strict=True)})
        if test(values):
            moved.append(tuple(index(values) for index in indices))
    box = tuple((min(axis), max(axis) + 1) for axis in zip(*moved, strict=True))
    return box, len(set(moved))
