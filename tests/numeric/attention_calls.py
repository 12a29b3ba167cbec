"""Modules that call attention as one function, and how far its numbers may be off."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax, tirx
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.attention import AttentionMapping
from tvm_spm.frontend.attention import AttentionSite

ROUNDINGS_PER_CHUNK = 12
"""A difference, a power (4) and a product, of sum and of result."""

ROUNDINGS_PER_ROW = 24
"""In both forms a difference, a power (4), a product and a quotient, of sum and of result; rounded up."""


def num_roundings(site: AttentionSite, mapping: AttentionMapping) -> int:
    """Roundings on the way to one element in which the online and the unfused form may differ, for exact scores.

    Both add as many terms as there are keys, for the sum of the row and for the result; a power, a product and a
    quotient err by a few roundings each; the online form corrects sum and result once per chunk. Relative to the
    largest value, every rounding errs by half an epsilon.
    """
    return 4 * site.work.keys + ROUNDINGS_PER_CHUNK * mapping.num_chunks(site.work) + ROUNDINGS_PER_ROW


def replace_attention(mod: tvm.IRModule, sites: Sequence[tuple[AttentionSite, tirx.PrimFunc]]) -> tvm.IRModule:
    """A module that calls one function per site instead of three; functions without a caller are dropped."""
    return relax.transform.DeadCodeElimination()(_Replace(mod, sites).run())


@mutator
class _Replace(PyExprMutator):
    def __init__(self, mod: tvm.IRModule, sites: Sequence[tuple[AttentionSite, tirx.PrimFunc]]) -> None:
        super().__init__(mod)
        self.mod = mod
        self.names = {
            site.bindings[2]: (site, self.builder_.add_func(func.without_attr("global_symbol"), "attention"))
            for site, func in sites
        }

    def run(self) -> tvm.IRModule:
        for name, func in self.mod.functions_items():
            if isinstance(func, relax.Function):
                self.builder_.update_func(name, self.visit_expr(func))
        return self.builder_.get()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        if binding.var not in self.names:
            super().visit_var_binding_(binding)
            return
        site, name = self.names[binding.var]
        args = [self.visit_expr(arg) for arg in site.args]
        call = relax.call_tir(name, args, out_ty=binding.value.ty)
        self.set_var_remap(binding.var, self._emit(binding, call))

    def _emit(self, binding: relax.VarBinding, call: relax.Expr) -> relax.Var:
        if isinstance(binding.var, relax.DataflowVar):
            return self.builder_.emit(call)
        return self.builder_.emit_output(call)
