"""Lowering of partial sums: outputs that leave a level before their last addition are copied out, and back in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import s_tir, sym, tirx

from tvm_spm.lowering.blocks import (
    Placed,
    parts_of,
    placed_blocks,
    rebuilt,
    sequence,
    substitute,
    with_block_body,
    with_loop_body,
)

DOUBLE = "spm.double"
"""Annotation of a copy whose level has two buffers for the operand; on a block that sums up it means the sums in RF."""

ACCUMULATE = "spm.accumulate"
"""Annotation of a block whose sums leave the array unfinished; the value is how far they go, ``SPM`` or ``DRAM``."""

_SPATIAL, _REDUCE = 0, 2
"""Kinds of iteration variables."""


def stage_partial_sums(func: tirx.PrimFunc) -> tirx.PrimFunc:
    """Give sums that are interrupted a tile in RF, and in SPM if they go to DRAM, with copies where tiles change.

    Before::

        for c in range(2):
            for k in range(4):
                for ...: mac_spm[tile k] = (0 if first) + ...
        for k in range(4): O[tile k] = relu(mac_spm[tile k])

    After, where ``partial`` lies in DRAM; without an epilogue, it is the output itself::

        for c in range(2):
            for k in range(4):
                where c >= 1: mac_spm[tile k] = partial[tile k]
                where c <= 0: mac_rf[tile k] = 0
                where c >= 1: mac_rf[tile k] = mac_spm[tile k]
                for ...: mac_rf[tile k] = mac_rf[tile k] + ...
                mac_spm[tile k] = mac_rf[tile k]
                where c <= 0: partial[tile k] = mac_spm[tile k]
                where c >= 1: O[tile k] = relu(mac_spm[tile k])

    Args:
        func: Scheduled, its blocks not lowered yet; one without interrupted sums, or whose schedule already starts them
            apart, is returned as it is.
    """
    placed = list(placed_blocks(func.body))
    interrupted = (block for block in placed if ACCUMULATE in block.block.annotations and block.block.init is not None)
    mac = next(interrupted, None)
    if mac is None:
        return func
    sums = _Sums(mac)
    spm = mac.block.writes[0].source
    rf = tirx.decl_buffer(spm.shape, spm.dtype, f"{spm.name}_rf", scope="global.rf", layout=None)
    body = rebuilt(func.body, block=lambda realize: _accumulate_in(realize, rf) if realize.block == mac.block else None)
    allocated = [rf]
    at = sums.evicting_loop(("dram", "spm"))
    before = [sums.clear(at, rf), sums.copy(at, spm, rf, "noc", when=sums.revisits(at), like=mac)]
    after = [sums.copy(at, rf, spm, "noc", like=mac)]
    body = _around_body(body, at, before, after)
    if str(mac.block.annotations[ACCUMULATE]) == "DRAM":
        store = next(block for block in placed if str(block.block.annotations.get("spm.dma", "")) == "O")
        partial = _workspace(store, spm)
        allocated += [] if partial.same_as(store.block.writes[0].source) else [partial]
        at = sums.evicting_loop(("dram",))
        before = [sums.copy(at, partial, spm, "dma", when=sums.revisits(at), like=store)]
        after = [
            sums.copy(at, spm, partial, "dma", when=sums.is_unfinished(at), like=store, carried=True),
            _moved_store(store.loops[0], mac, sums.is_finished(at)),
        ]
        body = _around_body(_without(body, store.loops[0]), at, before, after)
    return func.with_body(with_block_body(body, body.block.body, allocated))


@dataclass(frozen=True, slots=True)
class _Sums:
    """The block that sums up, and what can be told from its loops."""

    mac: Placed

    def evicting_loop(self, levels: Sequence[str]) -> tirx.For:
        """The innermost loop of some levels that moves on to other outputs."""
        spatial = self._used_by(_SPATIAL)
        return next(
            loop
            for loop in reversed(self.mac.loops)
            if str(loop.annotations.get("spm.level", "")) in levels and loop.loop_var in spatial
        )

    def _used_by(self, kind: int) -> set[tirx.Var]:
        pairs = zip(self.mac.block.iter_vars, self.mac.realize.iter_values, strict=True)
        return {
            var
            for iter_var, value in pairs
            if int(iter_var.iter_type) == kind
            for var in tirx.analysis.undefined_vars(value)
        }

    def _outside(self, at: tirx.For) -> tuple[tirx.For, ...]:
        return self.mac.loops[: self.mac.loops.index(at) + 1]

    def _reduction_outside(self, at: tirx.For) -> list[tirx.For]:
        reduced = self._used_by(_REDUCE)
        return [loop for loop in self._outside(at) if loop.loop_var in reduced]

    def _index_sum(self, at: tirx.For) -> tirx.PrimExpr:
        first, *rest = [loop.loop_var for loop in self._reduction_outside(at)]
        return sum(rest, first)

    def _last_sum(self, at: tirx.For) -> int:
        return sum(int(loop.extent) - 1 for loop in self._reduction_outside(at))

    def revisits(self, at: tirx.For) -> tirx.PrimExpr:
        """Whether there are partial sums of the tile that a loop moves to."""
        return _at_most(-self._index_sum(at), -1)

    def is_unfinished(self, at: tirx.For) -> tirx.PrimExpr:
        """Whether the tile that a loop moves away from will be visited again."""
        return _at_most(self._index_sum(at), self._last_sum(at) - 1)

    def is_finished(self, at: tirx.For) -> tirx.PrimExpr:
        """The opposite."""
        return _at_most(-self._index_sum(at), -self._last_sum(at))

    def clear(self, at: tirx.For, buffer: tirx.Buffer) -> tirx.Stmt:
        """Zeros for the tile of one iteration of a loop, at the first visit."""
        return self._nest(at, f"{buffer.name}_init", None, buffer, {}, _at_most(self._index_sum(at), 0))

    def copy(
        self,
        at: tirx.For,
        source: tirx.Buffer,
        target: tirx.Buffer,
        path: str,
        when: tirx.PrimExpr | None = None,
        *,
        like: Placed,
        carried: bool = False,
    ) -> tirx.Stmt:
        """Move the tile of one iteration of a loop.

        Args:
            at: The loop.
            source: Indexed as the sums are.
            target: Indexed as the sums are.
            path: ``dma`` or ``noc``.
            when: Always if None.
            like: A block whose level has as many buffers.
            carried: Later iterations of the loop nest read what is written.
        """
        notes: dict[str, object] = {f"spm.{path}": "O"}
        notes |= {DOUBLE: 1} if DOUBLE in like.block.annotations else {}
        return self._nest(at, f"{target.name}_{path}", source, target, notes, when, carried=carried)

    def _nest(
        self,
        at: tirx.For,
        name: str,
        source: tirx.Buffer | None,
        target: tirx.Buffer,
        notes: dict[str, object],
        when: tirx.PrimExpr | None,
        *,
        carried: bool = False,
    ) -> tirx.Stmt:
        """One block over the outputs of one iteration of a loop, guarded like the sums; zeros without a source."""
        spatial = self._used_by(_SPATIAL)
        inner = self.mac.loops[self.mac.loops.index(at) + 1 :]
        loops = [loop for loop in inner if loop.loop_var in spatial]
        fresh = {loop.loop_var: tirx.Var(f"{loop.loop_var.name}_o", loop.loop_var.ty) for loop in loops}
        # A loop that sums up does not move the tile; its first iteration stands for it.
        at_first = {loop.loop_var: tirx.const(0, loop.loop_var.ty.dtype) for loop in inner if loop not in loops}
        moved = {**fresh, **at_first}
        iter_vars, values, renamed = [], [], {}
        for iter_var, bound in zip(self.mac.block.iter_vars, self.mac.realize.iter_values, strict=True):
            if int(iter_var.iter_type) == _SPATIAL:
                renamed[iter_var.var] = tirx.Var(iter_var.var.name, iter_var.var.ty)
                iter_vars.append(tirx.IterVar(iter_var.dom, renamed[iter_var.var], _SPATIAL))
                values.append(substitute(bound, moved))
        for loop in self._reduction_outside(at) if carried else ():
            dom = tvm.ir.Range.from_min_extent(loop.min, loop.extent)
            iter_vars.append(tirx.IterVar(dom, tirx.Var(f"v_{loop.loop_var.name}", loop.loop_var.ty), _REDUCE))
            values.append(loop.loop_var)
        indices = [substitute(axis.min, renamed) for axis in self.mac.block.writes[0].region]
        region = [tvm.ir.Range.from_min_extent(index, 1) for index in indices]
        value = tirx.const(0, str(target.dtype)) if source is None else tirx.BufferLoad(source, indices)
        guards = self._guards(moved, loops)
        block = s_tir.SBlock(
            iter_vars, [] if source is None else [tirx.BufferRegion(source, region)],
            [tirx.BufferRegion(target, region)], name, tirx.BufferStore(target, value, indices), None, [], [],
            notes,
        )  # fmt: skip
        guards += [] if when is None else [when]
        predicate = tirx.all(*guards) if guards else tirx.const(True, "bool")
        stmt: tirx.Stmt = s_tir.SBlockRealize(values, predicate, block)
        for loop in reversed(loops):
            stmt = tirx.For(fresh[loop.loop_var], loop.min, loop.extent, tirx.ForKind.SERIAL, stmt)
        return stmt

    def _guards(self, moved: dict[tirx.Var, tirx.PrimExpr], loops: Sequence[tirx.For]) -> list[tirx.PrimExpr]:
        analyzer = sym.Analyzer()
        for loop in self.mac.loops:
            domain = tvm.ir.Range.from_min_extent(loop.min, loop.extent)
            analyzer.bind(moved[loop.loop_var] if loop in loops else loop.loop_var, domain)
        guards = [substitute(condition, moved) for condition in parts_of(self.mac.realize.predicate)]
        return [guard for guard in guards if not analyzer.can_prove(guard)]


def _at_most(left: tirx.PrimExpr, right: tirx.PrimExpr | int) -> tirx.LE:
    """The form of guards that loops are bounded by."""
    return tirx.LE(left, tirx.const(right, left.ty.dtype) if isinstance(right, int) else right)


def _accumulate_in(realize: s_tir.SBlockRealize, buffer: tirx.Buffer) -> s_tir.SBlockRealize:
    """The block without its start, summing up in another buffer.

    What was summed over becomes an ordinary loop: TVM would keep the buffer alive over all iterations of a reduction.
    """
    block = realize.block
    sums = block.writes[0].source

    def load(node: tvm.ir.TensorLoad) -> tvm.ir.TensorLoad:
        return tirx.BufferLoad(buffer, node.indices) if node.source.same_as(sums) else node

    value = tvm_ffi.structural_map(block.body.value, (tvm.ir.TensorLoad, load), order="post")
    region = tirx.BufferRegion(buffer, block.writes[0].region)
    reads = [read for read in block.reads if not read.source.same_as(sums)]
    iter_vars = [tirx.IterVar(iter_var.dom, iter_var.var, _SPATIAL) for iter_var in block.iter_vars]
    inner = s_tir.SBlock(
        iter_vars, [region, *reads], [region], block.name_hint,
        tirx.BufferStore(buffer, value, block.body.indices), None, block.alloc_buffers, block.match_buffers,
        {str(note): block.annotations[note] for note in block.annotations if str(note) not in (ACCUMULATE, DOUBLE)},
    )  # fmt: skip
    return s_tir.SBlockRealize(realize.iter_values, realize.predicate, inner)


def _workspace(store: Placed, spm: tirx.Buffer) -> tirx.Buffer:
    """Where partial sums lie in DRAM: in the output if they are stored as they are, else in a buffer of their own."""
    body, output = store.block.body, store.block.writes[0].source
    if isinstance(body.value, tvm.ir.TensorLoad) and body.value.source.same_as(spm) and output.dtype == spm.dtype:
        return output
    return tirx.decl_buffer(spm.shape, spm.dtype, f"{spm.name}_partial", scope="global", layout=None)


def _moved_store(nest: tirx.For, mac: Placed, when: tirx.PrimExpr) -> tirx.Stmt:
    """The store of one tile, and the reads of extras with it, in terms of the loops around the block that sums up."""
    around = {_level_and_dim(loop): loop.loop_var for loop in mac.loops if "spm.level" in loop.annotations}
    shared: dict[tirx.Var, tirx.PrimExpr] = {}

    def loop(node: tirx.For, inner: tirx.Stmt) -> tirx.Stmt:
        if "spm.level" not in node.annotations:
            return with_loop_body(node, inner)
        shared[node.loop_var] = around[_level_and_dim(node)]
        return inner

    def guarded(realize: s_tir.SBlockRealize) -> s_tir.SBlockRealize:
        predicate = tirx.all(*parts_of(realize.predicate), when)
        return s_tir.SBlockRealize(realize.iter_values, predicate, realize.block)

    return substitute(rebuilt(nest, loop=loop, block=guarded), shared)


def _level_and_dim(loop: tirx.For) -> tuple[str, str]:
    return str(loop.annotations["spm.level"]), str(loop.annotations["spm.dim"])


def _around_body(body: tirx.Stmt, at: tirx.For, before: Sequence[tirx.Stmt], after: Sequence[tirx.Stmt]) -> tirx.Stmt:
    """Do something before and after every iteration of a loop."""

    def loop(node: tirx.For, inner: tirx.Stmt) -> tirx.Stmt:
        stmts = inner.seq if isinstance(inner, tirx.SeqStmt) else [inner]
        is_here = node.loop_var.same_as(at.loop_var)
        return with_loop_body(node, sequence([*before, *stmts, *after]) if is_here else inner)

    return rebuilt(body, loop=loop)


def _without(body: tirx.Stmt, left_out: tirx.For) -> tirx.Stmt:
    def loop(node: tirx.For, inner: tirx.Stmt) -> tirx.Stmt:
        return tirx.Evaluate(0) if node.loop_var.same_as(left_out.loop_var) else with_loop_body(node, inner)

    return rebuilt(body, loop=loop)
