"""Which elements of its parameters a TIR function reads for an element of its output, as affine maps."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

import tvm
import tvm_ffi

from tvm_spm.errors import ModelError
from tvm_spm.frontend.layers.loads import block_loads, expr_loads
from tvm_spm.frontend.tir.affine import Affine, Piece, affine_of
from tvm_spm.frontend.tir.blocks import Block, constant, read_blocks
from tvm_spm.frontend.tir.nest import TirNest
from tvm_spm.workload import DIM_NAMES, Axis

Shape = tuple[int, ...]

Splits = tuple[tuple[int, ...], ...]
"""Per output axis the divisors by which its loop is split, largest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamRead:
    """Where a function reads one of its parameters.

    Attributes:
        param: Index of the parameter.
        role: As in ``Read``.
        accesses: As in ``Read``.
    """

    param: int
    role: str
    accesses: tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionAccess:
    """The loops of a function and what they read.

    Attributes:
        loops: As in ``Layer``.
        out_axes: As in ``Layer``.
        num_inputs: Parameters that a call passes; those behind them are made for its results.
        reads: One entry per parameter and role.
        refusal: As in ``Layer``.
        widened: Axes that are read in full because their index is not affine or runs backwards.
    """

    loops: tuple[tuple[str, int], ...]
    out_axes: tuple[Axis, ...]
    num_inputs: int
    reads: tuple[ParamRead, ...]
    refusal: str | None = None
    widened: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """Elements ``form`` of a buffer, and what they are needed for."""

    buffer: tvm.ir.Var
    form: tuple[Affine, ...]
    role: str


@dataclass(slots=True, kw_only=True, eq=False)
class _Tracer:
    """Walks from the output to the parameters; loops that do not index the output run in full."""

    blocks: tuple[Block, ...]
    params: tuple[tvm.ir.Var, ...]
    nest: TirNest | None
    pieces: list[tuple[str, Piece]] = field(default_factory=list)
    """Loops over the output and, for a nest, its dims."""
    full: dict[tuple[str, str], Piece] = field(default_factory=dict)
    """Loops that run in full, by block and variable."""
    seen: set[_Step] = field(default_factory=set)
    found: dict[tuple[int, str], dict[tuple[Affine, ...], None]] = field(default_factory=dict)
    wanted: set[tuple[str, int]] = field(default_factory=set)
    """Loops over the output that must be split at a divisor for an index to be affine."""
    widened: dict[str, None] = field(default_factory=dict)
    refusal: str | None = None

    def loop(self, name: str, extent: int) -> Affine:
        """A loop over the output or of the nest; made where it is not known."""
        for known, piece in self.pieces:
            if known == name:
                return Affine.of_pieces((piece,))
        piece = Piece(len(self.pieces), 0, extent, 1, False)
        self.pieces.append((name, piece))
        return Affine.of_pieces((piece,))

    def whole(self, block: str, what: str, extent: int) -> Affine:
        """A loop that runs in full."""
        if extent == 1:
            return Affine(())
        piece = self.full.setdefault((block, what), Piece(1000 + len(self.full), 0, extent, 1, True))
        return Affine.of_pieces((piece,))

    def run(self, start: _Step) -> None:
        """Visit everything that a step needs."""
        pending = [start]
        while pending:
            step = pending.pop()
            if step in self.seen:
                continue
            self.seen.add(step)
            writers = [block for block in self.blocks if block.buffer.same_as(step.buffer)]
            if not writers:
                self._record(step)
            for block in writers:
                pending += self._reads_of(block, step)

    def _record(self, step: _Step) -> None:
        index = next((i for i, param in enumerate(self.params) if param.same_as(step.buffer)), None)
        if index is None:
            self.refusal = f"buffer {step.buffer.name} is read but not written"
            return
        self.found.setdefault((index, step.role), {})[step.form] = None

    def _reads_of(self, block: Block, step: _Step) -> list[_Step]:
        env = self._bind(block, step.form)
        is_mac = self.nest is not None and block.name == self.nest.block
        steps = []
        for number, load in enumerate(block_loads(block)):
            if load.source.same_as(block.buffer):
                if not _same_indices(load.indices, block.store.indices):
                    self.refusal = f"block {block.name} reads what it wrote before"
                continue
            role = step.role
            if is_mac and self.nest is not None:
                sources = [region.source for region in block.sblock.reads]
                role = "I" if load.source.same_as(sources[self.nest.input_read]) else "W"
            form = tuple(
                self._index(block, number, axis, index, int(extent), env, str(load.source.name))
                for axis, (index, extent) in enumerate(zip(load.indices, load.source.shape, strict=True))
            )
            steps.append(_Step(buffer=load.source, form=form, role=role))
        return steps

    def _bind(self, block: Block, form: tuple[Affine, ...]) -> dict[tvm.ir.Var, Affine]:
        """Iteration variables at the elements ``form`` of what a block writes; those not told by them run in full."""
        env: dict[tvm.ir.Var, Affine] = {}
        variables = {var: reduces for var, _, reduces in block.iters}
        for index, value in zip(block.store.indices, form, strict=True):
            if isinstance(index, tvm.ir.Var) and variables.get(index) is False and index not in env:
                env[index] = value
        dims: dict[tvm.ir.Var, tuple[str, ...]] = {}
        if self.nest is not None and block.name == self.nest.block:
            dims = {var: names for (var, _, _), names in zip(block.iters, self.nest.iter_dims, strict=True)}
        for var, extent, reduces in block.iters:
            if var in env:
                continue
            names = dims.get(var, ()) if reduces else ()
            env[var] = self._of_dims(names) if names else self.whole(block.name, var.name, extent)
        return env

    def _of_dims(self, names: tuple[str, ...]) -> Affine:
        if self.nest is None:
            return Affine(())
        dims, form = self.nest.workload.dims, Affine(())
        for position, name in enumerate(names):
            inner = prod(dims[other] for other in names[position + 1 :])
            form = form.plus(self.loop(name, dims[name]).times(inner))
        return form

    def _index(
        self, block: Block, number: int, axis: int, index: tvm.ir.Expr, extent: int, env: dict[tvm.ir.Var, Affine],
        tensor: str,
    ) -> Affine:  # fmt: skip
        form = affine_of(index, env)
        if form is not None:
            return form
        if expr_loads(index):
            self.refusal = f"block {block.name} reads {tensor} where data says"
        self._want_splits(index, env)
        self.widened[f"{block.name}: {tensor} axis {axis}"] = None
        return self.whole(block.name, f"{number}.{axis}", extent)

    def _want_splits(self, expr: tvm.ir.Expr, env: dict[tvm.ir.Var, Affine]) -> None:
        if isinstance(expr, (tvm.tirx.FloorDiv, tvm.tirx.FloorMod)):
            form, divisor = affine_of(expr.a, env), constant(expr.b)
            if form is not None and isinstance(divisor, int) and divisor > 0:
                names = {piece: name for name, piece in self.pieces}
                for piece, factor in form.terms:
                    if piece in names and factor > 0 and divisor % factor == 0 and 1 < divisor // factor:
                        self.wanted.add((names[piece], divisor // factor))
        if hasattr(expr, "a") and hasattr(expr, "b"):
            self._want_splits(expr.a, env)
            self._want_splits(expr.b, env)


def function_access(func: tvm.tirx.PrimFunc, nest: TirNest | None) -> FunctionAccess:
    """How a function reads its parameters.

    Boxes made of the result may be too large, never too small: where an index is not affine, its whole axis is read.

    Args:
        func: Not scheduled, made of simple blocks.
        nest: As ``read_nest`` returns it, None for vector work; its dims are then the loops.

    Raises:
        ModelError: The function is not made of simple blocks.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        raise ModelError(f"a function cannot be a layer: {blocks}")
    params = tuple(func.params)
    outputs = tuple(i for i, p in enumerate(params) if any(block.buffer.same_as(p) for block in blocks))
    if not outputs:
        raise ModelError("a function cannot be a layer: it writes no parameter")
    why = _why_everything(blocks, params, outputs)
    if nest is not None and nest.unpack_block is not None:
        why = "its weights are packed, several to a byte"
    if why is not None:
        inputs = tuple(_shape(param) for index, param in enumerate(params) if index not in outputs)
        return whole_access(inputs, _shape(params[outputs[0]]), why)
    shape = _shape(params[outputs[0]])
    splits: Splits = tuple(() for _ in shape)
    while True:
        tracer = _Tracer(blocks=blocks, params=params, nest=nest)
        form, out_axes = _output(tracer, shape, splits)
        role = "vector" if nest is None else "extra"
        tracer.run(_Step(buffer=params[outputs[0]], form=form, role=role))
        finer = splits if nest is not None else _split_further(shape, splits, tracer)
        if finer == splits:
            return _access(tracer, out_axes)
        splits = finer


def _output(tracer: _Tracer, shape: Shape, splits: Splits) -> tuple[tuple[Affine, ...], tuple[Axis, ...]]:
    """The loops over the output: the dims of the nest, or one loop or several digits per axis."""
    if tracer.nest is not None:
        work = tracer.nest.workload
        named = [axis.terms for axis in work.O.axes]
        extents = work.dims.as_tuple()
        for name, extent in zip(DIM_NAMES, extents, strict=True):
            if any(name == term for projection in (work.I, work.W, work.O, *work.epilogue.extras)
                   for axis in projection.axes for term, _ in axis.terms):  # fmt: skip
                tracer.loop(name, extent)
        out_axes = work.O.axes
        offsets = [axis.offset for axis in out_axes]
    else:
        named, offsets = [], [0] * len(shape)
        for axis, (extent, divisors) in enumerate(zip(shape, splits, strict=True)):
            bounds = [extent, *divisors, 1]
            names = [f"d{axis}"] if not divisors else [f"d{axis}_{digit}" for digit in range(len(divisors) + 1)]
            for name, outer, inner in zip(names, bounds, bounds[1:], strict=False):
                tracer.loop(name, outer // inner)
            named.append(tuple(zip(names, bounds[1:], strict=True)))
        out_axes = tuple(Axis(terms=terms, extent=extent) for terms, extent in zip(named, shape, strict=True))
    pieces = dict(tracer.pieces)
    form = tuple(
        Affine.build({pieces[name]: stride for name, stride in terms}, offset)
        for terms, offset in zip(named, offsets, strict=True)
    )
    return form, out_axes


def _split_further(shape: Shape, splits: Splits, tracer: _Tracer) -> Splits:
    """Splits with those that the tracer wants, as far as they divide each other."""
    finer = [list(divisors) for divisors in splits]
    strides = {}
    for axis, divisors in enumerate(splits):
        names = [f"d{axis}"] if not divisors else [f"d{axis}_{digit}" for digit in range(len(divisors) + 1)]
        strides.update({name: (axis, inner) for name, inner in zip(names, [*divisors, 1], strict=True)})
    for name, divisor in sorted(tracer.wanted):
        axis, stride = strides[name]
        bounds = sorted({shape[axis], *finer[axis], divisor * stride, 1}, reverse=True)
        divides = all(outer % inner == 0 for outer, inner in zip(bounds, bounds[1:], strict=False))
        if bounds[0] == shape[axis] and divides:
            finer[axis] = bounds[1:-1]
    return tuple(tuple(divisors) for divisors in finer)


def _access(tracer: _Tracer, out_axes: tuple[Axis, ...]) -> FunctionAccess:
    names = {piece: name for name, piece in tracer.pieces}
    full: dict[tuple[int, int], str] = {}
    reads = []
    extras = [] if tracer.nest is None else [extra.axes for extra in tracer.nest.workload.epilogue.extras]
    for (param, role), forms in sorted(tracer.found.items()):
        shape = _shape(tracer.params[param])
        backwards = [axis for form in forms for axis, index in enumerate(form) if any(f < 0 for _, f in index.terms)]
        tracer.widened.update(dict.fromkeys(f"{tracer.params[param].name} axis {axis}" for axis in backwards))
        accesses = dict.fromkeys(_axes(form, shape, names, full) for form in forms)
        whole = {Axis(terms=((name, 1),), extent=extent) for (extent, _), name in full.items()}
        kept = [access for access in accesses if not any(_covers(other, access, whole) for other in accesses)]
        reads.append(ParamRead(param=param, role=role, accesses=tuple(kept)))
    reads.sort(key=lambda read: (read.role == "extra", _place(read, extras), read.param))
    loops = [(name, piece.extent) for name, piece in tracer.pieces]
    used = {name for read in reads for access in read.accesses for axis in access for name, _ in axis.terms}
    loops += [(name, extent) for (extent, _), name in full.items() if name in used]
    return FunctionAccess(
        loops=tuple(loops),
        out_axes=out_axes,
        num_inputs=len(tracer.params) - 1,
        reads=tuple(reads),
        refusal=tracer.refusal,
        widened=tuple(tracer.widened),
    )


def _place(read: ParamRead, extras: list[tuple[Axis, ...]]) -> int:
    """Where the workload lists what an epilogue reads."""
    return extras.index(read.accesses[0]) if read.accesses[0] in extras else len(extras)


def _axes(
    form: tuple[Affine, ...], shape: tuple[int, ...], names: dict[Piece, str], full: dict[tuple[int, int], str]
) -> tuple[Axis, ...]:
    """One access; loops that run in full have one name wherever their extents are the same."""
    mine: dict[Piece, str] = {}
    count: Counter[int] = Counter()

    def named(extent: int) -> str:
        key = (extent, count[extent])
        count[extent] += 1
        return full.setdefault(key, f"r{len(full)}")

    axes = []
    for index, extent in zip(form, shape, strict=True):
        if any(factor < 0 for _, factor in index.terms):
            # Boxes are made for indices that grow with their loops.
            axes.append(Axis(terms=((named(extent), 1),), extent=extent))
            continue
        for piece, _ in index.terms:
            if piece not in names and piece not in mine:
                mine[piece] = named(piece.extent)
        terms = tuple((names.get(piece) or mine[piece], factor) for piece, factor in index.terms)
        if any(name == "G" for name, _ in terms):
            # As in a workload: a channel of extent 1 inside a group is no term of its own.
            terms = tuple(
                term for term, (piece, _) in zip(terms, index.terms, strict=True) if piece.extent > 1 or term[0] == "G"
            )
        axes.append(Axis(terms=terms, extent=extent, offset=index.offset))
    return tuple(axes)


def _covers(wide: tuple[Axis, ...], narrow: tuple[Axis, ...], whole: set[Axis]) -> bool:
    """Whether one access reads some axes in full and is otherwise the same."""
    return wide != narrow and all(a == b or a in whole for a, b in zip(wide, narrow, strict=True))


def _why_everything(blocks: tuple[Block, ...], params: tuple[tvm.ir.Var, ...], outputs: tuple[int, ...]) -> str | None:
    """Why reads are not followed; all of every input is read then."""
    if len(outputs) > 1:
        return f"it writes {len(outputs)} tensors"
    out = params[outputs[0]]
    try:
        loads = [(block, load) for block in blocks for load in block_loads(block)]
    except ModelError as error:
        return str(error)
    reads_out = any(load.source.same_as(out) and not block.buffer.same_as(out) for block, load in loads)
    return "it reads the tensor that it writes" if reads_out else None


def whole_access(inputs: tuple[Shape, ...], out: Shape, refusal: str) -> FunctionAccess:
    """A function that is not looked into: it reads all of every input."""
    loops = {f"d{axis}": extent for axis, extent in enumerate(out)}
    out_axes = tuple(Axis(terms=((name, 1),), extent=extent) for name, extent in loops.items())
    reads = []
    for index, shape in enumerate(inputs):
        names = [f"r{len(loops) + axis}" for axis in range(len(shape))]
        loops.update(zip(names, shape, strict=True))
        access = tuple(Axis(terms=((name, 1),), extent=loops[name]) for name in names)
        reads.append(ParamRead(param=index, role="vector", accesses=(access,)))
    return FunctionAccess(
        loops=tuple(loops.items()), out_axes=out_axes, num_inputs=len(inputs), reads=tuple(reads), refusal=refusal
    )


def _same_indices(left: list[tvm.ir.Expr], right: list[tvm.ir.Expr]) -> bool:
    return all(tvm_ffi.structural_equal(a, b, map_free_vars=False) for a, b in zip(left, right, strict=True))


def _shape(buffer: tvm.ir.Var) -> Shape:
    return tuple(int(extent) for extent in buffer.shape)
