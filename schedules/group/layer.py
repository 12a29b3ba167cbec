"""The blocks of one layer of a fused function: what is summed up, and what follows element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx

from schedules.group.emit import Expr, with_loads
from tvm_spm.errors import ScheduleError
from tvm_spm.frontend.tir.blocks import Block, loads_of, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.graph import Layer
from tvm_spm.lowering.blocks import substitute

Load = Callable[[tirx.Buffer, list[Expr]], Expr]
"""Gives an element of a tensor that the layer does not compute element by element."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LayerCode:
    """What one layer computes.

    Attributes:
        layer: Its noun.
        blocks: In order; the last writes the output.
        nest: For multiply-accumulate layers.
    """

    layer: Layer
    blocks: tuple[Block, ...]
    nest: TirNest | None

    @property
    def output(self) -> tirx.Buffer:
        """The tensor that leaves the layer."""
        return self.blocks[-1].buffer

    @property
    def sums(self) -> tuple[Block, ...]:
        """Blocks that cannot be computed element by element from tensors of other layers."""
        return tuple(block for block in self.blocks if block.reduces)

    @property
    def mac(self) -> Block:
        """The block that multiplies and accumulates."""
        return next(block for block in self.blocks if self.nest is not None and block.name == self.nest.block)

    def element(self, buffer: tirx.Buffer, at: Sequence[Expr], load: Load) -> Expr:
        """One element of a tensor, computed from what ``load`` gives."""
        block = next((block for block in self.blocks if block.buffer.same_as(buffer)), None)
        if block is None or block.reduces:
            return load(buffer, list(at))
        return self.value(block, at, load)

    def value(self, block: Block, at: Sequence[Expr], load: Load) -> Expr:
        """What a block stores at an element; its reads of other blocks of the layer are computed on the way."""
        env = bound(block, at)
        return with_loads(
            substitute(block.store.value, env), lambda source, indices: self.element(source, indices, load)
        )


def bound(block: Block, at: Sequence[Expr]) -> dict[tirx.Var, Expr]:
    """The variables of a block at one element of what it writes.

    Raises:
        ScheduleError: It does not write where its loops stand.
    """
    env: dict[tirx.Var, Expr] = {}
    for index, value in zip(block.store.indices, at, strict=True):
        if isinstance(index, tirx.Var):
            env[index] = value
        elif not isinstance(index, tirx.IntImm):
            raise ScheduleError(f"block {block.name}: does not write where its loops stand")
    left = [var for var, extent, reduces in block.iters if var not in env and not reduces and extent > 1]
    if left:
        raise ScheduleError(f"block {block.name}: loop {left[0].name} does not index what it writes")
    zero = tirx.IntImm("int32", 0)
    return {**{var: zero for var, extent, reduces in block.iters if extent == 1 and not reduces}, **env}


def read_layers(func: tirx.PrimFunc, names: Sequence[Sequence[str]], layers: Sequence[Layer]) -> list[LayerCode]:
    """Split a fused function into its layers.

    Args:
        func: One block per loop nest, in the order of the layers.
        names: Per layer its blocks.
        layers: Their nouns.

    Raises:
        ScheduleError: A block is missing or not simple, or the blocks of a layer are not what its noun says.
    """
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        raise ScheduleError(f"the fused function cannot be read: {blocks}")
    named = {block.name: block for block in blocks}
    missing = [name for group in names for name in group if name not in named]
    if missing or sum(map(len, names)) != len(blocks):
        raise ScheduleError(
            f"the layers name {sum(map(len, names))} blocks, the function has {len(blocks)}"
            + (f" and no block {missing[0]}" if missing else "")
        )
    body = func.body.block.body
    stmts = list(body.seq) if isinstance(body, tirx.SeqStmt) else [body]
    by_name = {block.name: stmt for block, stmt in zip(blocks, stmts, strict=True)}
    codes = []
    for layer, group in zip(layers, names, strict=True):
        own = tuple(named[name] for name in group)
        nest = None
        if layer.workload is not None:
            nest = _nest(layer, own, [by_name[name] for name in group])
        codes.append(LayerCode(layer=layer, blocks=own, nest=nest))
    return codes


def _nest(layer: Layer, blocks: tuple[Block, ...], stmts: Sequence[tirx.Stmt]) -> TirNest:
    output = blocks[-1].buffer
    inner = [block.buffer for block in blocks if not block.buffer.same_as(output)]
    outside: list[tirx.Buffer] = []
    for block in blocks:
        for load in loads_of(block.store.value):
            if not any(load.source.same_as(known) for known in (*inner, *outside, output)):
                outside.append(load.source)
    root = s_tir.SBlock([], [], [], "root", tirx.SeqStmt(stmts) if len(stmts) > 1 else stmts[0], None, inner)
    nest = read_nest(tirx.PrimFunc([*outside, output], s_tir.SBlockRealize([], True, root)))
    if not isinstance(nest, TirNest):
        raise ScheduleError(f"layer {layer.name}: {nest.reason}")
    work, wanted = nest.workload, layer.workload
    assert wanted is not None
    if (work.dims, work.I, work.W, work.O, work.out_dtype) != (
        wanted.dims, wanted.I, wanted.W, wanted.O, wanted.out_dtype,
    ):  # fmt: skip
        raise ScheduleError(f"layer {layer.name}: block {nest.block} computes another workload than the layer's")
    return nest
