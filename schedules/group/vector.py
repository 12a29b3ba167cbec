"""One stage of a layer on the vector unit: everything lies in SPM, sums over windows and rows included."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from schedules.group.dual import dual, largest, least
from schedules.group.emit import Expr, Tile, number, over_region, sequence, with_loads
from schedules.group.layer import LayerCode, bound
from schedules.group.spans import Region, Span
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import Block
from tvm_spm.lowering.blocks import substitute

ReadBuffer = Callable[[tirx.Buffer], Tile]
"""Where a tensor that the layer does not compute lies."""


def vector_stage(
    code: LayerCode, region: Region, target: Tile, source: ReadBuffer
) -> tuple[tirx.Stmt, list[tirx.Buffer]]:
    """The code of a stage, and the buffers of the vector unit that it uses.

    Args:
        code: The layer.
        region: What to compute of its output.
        target: Where to.
        source: Where the tensors lie that it reads.

    Raises:
        ScheduleError: An index of a sum cannot be understood.
    """
    last = code.blocks[-1]
    regions = _regions(code, region)
    places: dict[str, Tile] = {last.name: target}
    held: list[tirx.Buffer] = []
    for block in code.sums:
        if block.name not in places:
            extents = [int((stop - first).values.max()) for first, stop in regions[block.name]]
            buffer = tirx.decl_buffer(extents, block.dtype, f"{block.buffer.name}_sum", scope="global.rf")
            held.append(buffer)
            first = tuple(first.expr for first, _ in regions[block.name])
            places[block.name] = Tile(buffer=buffer, first=first, rings=(None,) * len(first))

    def load(buffer: tirx.Buffer, at: list[Expr]) -> Expr:
        for block in code.sums:
            if block.buffer.same_as(buffer):
                return places[block.name].load(at)
        return source(buffer).load(at)

    stmts = [_sum(code, block, regions[block.name], places[block.name], load) for block in code.sums]
    if not last.reduces:
        stmts.append(over_region(region, lambda at: target.store(at, code.value(last, at, load))))
    stmt = sequence(stmts)
    assert stmt is not None
    return stmt, held


def _regions(code: LayerCode, region: Region) -> dict[str, Region]:
    """Per sum the box that the blocks behind it need."""
    found: dict[str, Region] = {code.blocks[-1].name: region}
    for block in reversed(code.blocks):
        if block.name not in found or not (block.reduces or block is code.blocks[-1]):
            continue
        axes = [tirx.Var(f"v{axis}", "int32") for axis in range(len(found[block.name]))]
        spans = dict(zip(axes, found[block.name], strict=True))
        spans |= {var: (dual(0), dual(extent)) for var, extent, reduces in block.iters if reduces}

        def record(
            buffer: tirx.Buffer, at: list[Expr], spans: dict[tirx.Var, Span] = spans, own: Block = block
        ) -> Expr:
            for other in code.sums:
                if other is not own and other.buffer.same_as(buffer):
                    box = tuple(_span(index, spans) for index in at)
                    found[other.name] = _joined(found[other.name], box) if other.name in found else box
            return tirx.BufferLoad(buffer, at)

        code.value(block, axes, record)
    unused = [block.name for block in code.sums if block.name not in found]
    if unused:
        raise ScheduleError(f"layer {code.layer.name}: nothing reads block {unused[0]}")
    return found


def _joined(left: Region, right: Region) -> Region:
    return tuple((least(a, c), largest(b, d)) for (a, b), (c, d) in zip(left, right, strict=True))


def _span(index: Expr, spans: dict[tirx.Var, Span]) -> Span:
    """First value of an index and the one behind the last.

    Raises:
        ScheduleError: It is not made of sums, products and quotients by numbers.
    """
    if isinstance(index, tirx.IntImm):
        return dual(int(index)), dual(int(index) + 1)
    if isinstance(index, tirx.Var) and index in spans:
        return spans[index]
    if isinstance(index, tirx.Add):
        (a, b), (c, d) = _span(index.a, spans), _span(index.b, spans)
        return a + c, b + d - 1
    if isinstance(index, tirx.Sub):
        (a, b), (c, d) = _span(index.a, spans), _span(index.b, spans)
        return a - d + 1, b - c
    if isinstance(index, (tirx.Mul, tirx.FloorDiv)) and isinstance(index.b, tirx.IntImm) and int(index.b) > 0:
        first, stop = _span(index.a, spans)
        factor = int(index.b)
        if isinstance(index, tirx.FloorDiv):
            return first // factor, (stop - 1) // factor + 1
        return first * factor, (stop - 1) * factor + 1
    if isinstance(index, tirx.FloorMod) and isinstance(index.b, tirx.IntImm):
        return dual(0), dual(int(index.b))
    raise ScheduleError(f"index {index} of a sum is not understood")


def _sum(
    code: LayerCode, block: Block, region: Region, place: Tile, load: Callable[[tirx.Buffer, list[Expr]], Expr]
) -> tirx.Stmt:
    summed = [(var, extent) for var, extent, reduces in block.iters if reduces]

    def own_or_other(at: list[Expr]) -> Callable[[tirx.Buffer, list[Expr]], Expr]:
        return lambda buffer, indices: place.load(at) if buffer.same_as(block.buffer) else load(buffer, indices)

    def element(at: list[Expr]) -> tirx.Stmt:
        env = bound(block, at)
        start = with_loads(substitute(block.sblock.init.value, env), load)
        value = code.value(block, at, own_or_other(at))
        value = substitute(value, {var: number(0) for var, extent in summed if extent == 1})
        stmt: tirx.Stmt = place.store(at, value)
        for var, extent in reversed(summed):
            if extent > 1:
                stmt = tirx.For(var, 0, extent, tirx.ForKind.SERIAL, stmt)
        return tirx.SeqStmt([place.store(at, start), stmt])

    return over_region(region, element)
