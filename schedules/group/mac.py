"""One stage of a multiply-accumulate layer of a fused group: everything lies in SPM, the array runs by a mapping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import tirx

from schedules.group.dual import Dual
from schedules.group.emit import Expr, Tile, nested, number, only_if, sequence, simplified
from schedules.group.spans import Region, Span
from tvm_spm.errors import ScheduleError
from tvm_spm.mapping import Mapping
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Axis, Dims, Workload

Element = Callable[[list[Expr]], Expr]
"""Gives one element of a tensor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """What a stage works on.

    Attributes:
        name: Of the layer.
        workload: Of the layer.
        inner: How the array runs the largest stage.
        spans: Per dim, what the stage computes.
        within: The box of the output it computes; smaller than ``spans`` where it cuts through groups.
        input: Gives an element of the input, inside of the tensor.
        weight: Gives an element of the weight.
        sums: Where the output is summed up.
    """

    name: str
    workload: Workload
    inner: Mapping
    spans: dict[str, Span]
    within: Region
    input: Element
    weight: Element
    sums: Tile

    def extent(self, dim: str) -> Dual:
        """Elements along a dim."""
        first, stop = self.spans[dim]
        return (stop - first).simplified()

    def largest(self, dim: str) -> int:
        """Elements along a dim at the largest stage."""
        return int(self.extent(dim).values.max())


def output_at(workload: Workload, dims: dict[str, Expr]) -> list[Expr]:
    """The element of the output at some loop indices."""
    return [_index(axis, dims) for axis in workload.O.axes]


def outside_box(workload: Workload, region: Region, at: Sequence[Expr]) -> Expr | None:
    """The condition that an element lies in a box, where loops over dims may leave it; None if they cannot."""
    conditions = []
    for axis, (first, stop), index in zip(workload.O.axes, region, at, strict=True):
        whole = first.constant == 0 and stop.constant == axis.extent
        if sum(workload.dims[name] > 1 for name, _ in axis.terms) > 1 and not whole:
            conditions += [first.expr <= index, index < stop.expr]
    return tirx.all(*conditions) if conditions else None


def over_dims(workload: Workload, spans: dict[str, Span], body: Callable[[dict[str, Expr]], tirx.Stmt]) -> tirx.Stmt:
    """Loops over the dims of the output, in storage order."""
    names = [name for axis in workload.O.axes for name, _ in sorted(axis.terms, key=lambda term: -term[1])]

    def shifted(indices: list[Expr]) -> tirx.Stmt:
        dims = {name: number(0) for name in DIM_NAMES}
        return body({**dims, **{n: spans[n][0].expr + i for n, i in zip(names, indices, strict=True)}})

    return nested([name.lower() for name in names], [spans[n][1].expr - spans[n][0].expr for n in names], shifted)


def mac_stage(stage: Stage) -> tuple[tirx.Stmt, list[tirx.Buffer]]:
    """The code of a stage, and the buffers in RF that it uses.

    Raises:
        ScheduleError: The mapping's order leaves out a dim that has to loop.
    """
    array = stage.inner.array
    looping = [name for name in DIM_NAMES if stage.largest(name) > array[name]]
    missing = [name for name in looping if name not in stage.inner.spm_order]
    if missing:
        name = missing[0]
        raise ScheduleError(
            f"layer {stage.name}: {name} = {stage.largest(name)} > {array[name]} of the array, "
            f"but the SPM order {' '.join(stage.inner.spm_order) or '-'} does not name it"
        )
    order = [name for name in stage.inner.spm_order if name in looping]
    steps = _Steps(stage=stage, order=order)
    return steps.code(), [steps.input, steps.weight, steps.sum]


class _Steps:
    """Writes the loops over steps, with the copies between SPM and RF at their static positions."""

    def __init__(self, *, stage: Stage, order: list[str]) -> None:
        self.stage, self.order, self.work = stage, order, stage.workload
        array = stage.inner.array
        self.tile = {name: min(array[name], stage.largest(name)) for name in DIM_NAMES}
        self.var = {name: tirx.Var(f"{name.lower()}_step", "int32") for name in order}
        self.count_var = {name: tirx.Var(f"{name.lower()}_count", "int32") for name in DIM_NAMES}
        self.first: dict[str, Expr] = {}
        self.count: dict[str, Expr] = {}
        self.binds: dict[str, tirx.Stmt] = {}
        for name in DIM_NAMES:
            self._tile_of(name, array[name])
        outputs = [name for name in DIM_NAMES if name in self.work.O.relevant_dims]
        widest = max(outputs, key=lambda name: (min(self.tile[name], 8), name == "OX", self.tile[name]))
        self.outputs = [name for name in outputs if name != widest] + [widest]
        self.weights = [n for n in (*REDUCTION_DIMS, *self.outputs) if n in self.work.W.relevant_dims]
        shapes = [axis.tile_elems(Dims(**self.tile)) for axis in self.work.I.axes]
        self.input = _rf(f"{stage.name}_I_rf", shapes, self.work.I.dtype)
        self.weight = _rf(f"{stage.name}_W_rf", [self.tile[n] for n in self.weights], self.work.W.dtype)
        self.sum = _rf(f"{stage.name}_O_rf", [self.tile[n] for n in self.outputs], self.work.O.dtype)

    def _tile_of(self, name: str, array: int) -> None:
        start, extent = self.stage.spans[name][0].expr, self.stage.extent(name)
        step = self.var.get(name)
        self.first[name] = simplified(start + step * array) if step is not None else start
        if step is None:
            self.count[name] = extent.expr
        elif bool((extent.values % array == 0).all()):
            self.count[name] = number(array)
        else:
            var = self.count_var[name]
            self.binds[name] = tirx.Bind(var, tirx.min(number(array), extent.expr - step * array))
            self.count[name] = var

    def code(self) -> tirx.Stmt:
        """All steps."""
        stmt = self._from(0)
        assert stmt is not None
        return stmt

    def _position(self, relevant: Sequence[str]) -> int:
        """Loops around the copy of an operand."""
        return max((depth + 1 for depth, name in enumerate(self.order) if name in relevant), default=0)

    def _from(self, depth: int) -> tirx.Stmt | None:
        work = self.work
        before, after = [], []
        if depth == self._position(work.I.relevant_dims):
            before.append(self._load_input())
        if depth == self._position(work.W.relevant_dims):
            before.append(self._load_weight())
        if depth == self._position(work.O.relevant_dims):
            before.append(self._start_sums(depth))
            after.append(self._finish_sums())
        if depth == len(self.order):
            inside: tirx.Stmt | None = self._step()
        else:
            name = self.order[depth]
            body = sequence([self.binds.get(name), self._from(depth + 1)])
            array = self.stage.inner.array[name]
            extent = simplified(((self.stage.extent(name) + (array - 1)) // array).simplified().expr)
            notes = {"spm.level": "step", "spm.dim": name}
            inside = tirx.For(self.var[name], 0, extent, tirx.ForKind.SERIAL, body, None, notes)
        return sequence([*before, inside, *after])

    def _load_input(self) -> tirx.Stmt:
        axes = self.work.I.axes
        extents = [_span(axis, self.count) for axis in axes]

        def copy(indices: list[Expr]) -> tirx.Stmt:
            at = [_index(axis, self.first) + index for axis, index in zip(axes, indices, strict=True)]
            inside = [
                condition for axis, index in zip(axes, at, strict=True) for condition in _inside(axis, index, self.work)
            ]
            value = self.stage.input([simplified(index) for index in at])
            if inside:
                value = tirx.if_then_else(tirx.all(*inside), value, tirx.const(0, self.work.I.dtype))
            return tirx.BufferStore(self.input, value, indices)

        return nested([f"i{axis}" for axis in range(len(axes))], extents, copy)

    def _load_weight(self) -> tirx.Stmt:
        def copy(indices: list[Expr]) -> tirx.Stmt:
            dims = {name: number(0) for name in DIM_NAMES}
            dims |= {name: self.first[name] + i for name, i in zip(self.weights, indices, strict=True)}
            value = self.stage.weight([simplified(_index(axis, dims)) for axis in self.work.W.axes])
            return tirx.BufferStore(self.weight, value, indices)

        return nested([name.lower() for name in self.weights], [self.count[name] for name in self.weights], copy)

    def _over_sums(self, body: Callable[[list[Expr], list[Expr]], tirx.Stmt]) -> tirx.Stmt:
        """Loops over the sums in RF; ``body`` gets their indices there and in the output."""

        def shifted(indices: list[Expr]) -> tirx.Stmt:
            dims = {name: number(0) for name in DIM_NAMES}
            dims |= {name: self.first[name] + i for name, i in zip(self.outputs, indices, strict=True)}
            at = [simplified(index) for index in output_at(self.work, dims)]
            return body(indices, at)

        return nested([name.lower() for name in self.outputs], [self.count[name] for name in self.outputs], shifted)

    def _start_sums(self, depth: int) -> tirx.Stmt:
        zero = tirx.const(0, self.work.O.dtype)
        clear = self._over_sums(lambda here, _at: tirx.BufferStore(self.sum, zero, here))
        outside = [self.var[name] for name in self.order[:depth] if name in REDUCTION_DIMS]
        if not outside:
            return clear
        back = self._over_sums(
            lambda here, at: _guarded(self, at, tirx.BufferStore(self.sum, self.stage.sums.load(at), here))
        )
        return tirx.IfThenElse(tirx.all(*(var == 0 for var in outside)), clear, back)

    def _finish_sums(self) -> tirx.Stmt:
        return self._over_sums(
            lambda here, at: _guarded(self, at, self.stage.sums.store(at, tirx.BufferLoad(self.sum, here)))
        )

    def _step(self) -> tirx.Stmt:
        work, inner = self.work, self.stage.inner
        names = [name for name in REDUCTION_DIMS if name in (*work.I.relevant_dims, *work.W.relevant_dims)]
        names += self.outputs
        notes = {
            name.lower(): {"spm.dim": name, "spm.rows": inner.rows[name], "spm.cols": inner.cols[name],
                           "spm.rf": inner.rf[name]}
            for name in names
        }  # fmt: skip

        def multiply(indices: list[Expr]) -> tirx.Stmt:
            local = {**{name: number(0) for name in DIM_NAMES}, **dict(zip(names, indices, strict=True))}
            at = [local[name] for name in self.outputs]
            data = tirx.BufferLoad(self.input, [_index(axis, local, offset=False) for axis in work.I.axes])
            weight = tirx.BufferLoad(self.weight, [local[name] for name in self.weights])
            product = data.astype(work.O.dtype) * weight.astype(work.O.dtype)
            return tirx.BufferStore(self.sum, tirx.BufferLoad(self.sum, at) + product, at)

        return nested([name.lower() for name in names], [self.count[name] for name in names], multiply, notes)


def _guarded(steps: _Steps, at: list[Expr], stmt: tirx.Stmt) -> tirx.Stmt:
    made = only_if(outside_box(steps.work, steps.stage.within, at), stmt)
    assert made is not None
    return made


def _index(axis: Axis, dims: dict[str, Expr], *, offset: bool = True) -> Expr:
    total = number(axis.offset if offset else 0)
    for name, stride in axis.terms:
        total = total + dims[name] * stride
    return simplified(total)


def _span(axis: Axis, count: dict[str, Expr]) -> Expr:
    total = number(1)
    for name, stride in axis.terms:
        total = total + (count[name] - 1) * stride
    return simplified(total)


def _inside(axis: Axis, index: Expr, workload: Workload) -> list[Expr]:
    """Conditions that an index lies in the tensor, as far as the loops leave it."""
    last = axis.offset + sum(stride * (workload.dims[name] - 1) for name, stride in axis.terms)
    return [index >= 0] * (axis.offset < 0) + [index < axis.extent] * (last >= axis.extent)


def _rf(name: str, shape: Sequence[int], dtype: str) -> tirx.Buffer:
    return tirx.decl_buffer(list(shape) or [1], dtype, name, scope="global.rf")
