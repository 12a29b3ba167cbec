"""Constants of functions that ``main`` calls become arguments of the calls.

Then all weights of a network are in one place, whoever reads them: they can be counted, drawn and compared there. And
functions that differ in their weights alone are one.
"""

from __future__ import annotations

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.calls import ENTRY, called_functions, callee_of


@tvm.transform.module_pass(opt_level=0, name="tvm_spm.LiftConstants")
def lift_constants(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
    """Give every called function its constants as parameters, behind its own."""
    called = called_functions(mod)
    names = {each.name for each in called}
    others = [str(var.name_hint) for var in mod.get_global_vars() if str(var.name_hint) not in names]
    if len(called) <= 1 or any(isinstance(mod[name], relax.Function) for name in others):
        # What is no part of the network may call these functions too.
        return mod
    builder = relax.BlockBuilder()
    known = {name: builder.add_func(mod[name], name) for name in others}
    needed: dict[str, list[tvm.ir.GenericConst]] = {}
    for each in reversed(called):
        lifter = _Lifter(known, needed, is_entry=each.name == ENTRY)
        func = lifter.visit_expr(each.func)
        if lifter.constants:
            func = relax.Function([*func.params, *lifter.params], func.body, func.ret_ty, func.is_pure, func.attrs)
        known[each.name] = builder.add_func(func, each.name)
        needed[each.name] = lifter.constants
    return builder.get()


@mutator
class _Lifter(PyExprMutator):
    """Puts parameters in the place of constants, but for ``main``, and passes those that a callee needs."""

    def __init__(
        self, known: dict[str, tvm.ir.GlobalVar], needed: dict[str, list[tvm.ir.GenericConst]], *, is_entry: bool
    ) -> None:
        super().__init__()
        self._known, self._needed, self._is_entry = known, needed, is_entry
        self._places: dict[int, int] = {}
        self.constants: list[tvm.ir.GenericConst] = []
        self.params: list[relax.Var] = []

    def visit_global_var_(self, var: tvm.ir.GlobalVar) -> relax.Expr:
        """The function in the new module."""
        return self._known[str(var.name_hint)]

    def visit_generic_const_(self, constant: tvm.ir.GenericConst) -> relax.Expr:
        """A parameter, one for each constant."""
        if self._is_entry:
            return constant
        key = hash(constant)
        if key not in self._places:
            self._places[key] = len(self.constants)
            self.constants.append(constant)
            self.params.append(relax.Var(f"constant_{len(self.params)}", constant.ty))
        return self.params[self._places[key]]

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """Calls of lifted functions pass the constants."""
        name = callee_of(call)
        if name is None:
            return self.visit_expr_post_order(call)
        more = [self.visit_generic_const_(constant) for constant in self._needed[name]]
        return relax.Call(self._known[name], [*(self.visit_expr(arg) for arg in call.args), *more])
