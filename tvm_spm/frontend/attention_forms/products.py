"""Products of batches in the axes that their operands have, with factors of both operands behind them."""

from __future__ import annotations

from collections import Counter

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.attention_forms.expressions import number_of, op_name, shape_of, uses_of


@mutator
class BatchedProducts(PyExprMutator):
    """Rewrites products of two computed operands.

    Before::

        reshape(matmul(reshape(a * 0.5, (B * H, M, D)), reshape(b * 0.5, (B * H, D, N))), (B, H, M, N))

    After::

        matmul(a, b) * 0.25

    and an operand that is copied along the batch is read where it is stored.

    Factors stay where they are in float16, in which the products could leave the range without them.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._old_uses = uses_of(mod)
        self._uses: Counter[relax.Var] = Counter()

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Keep count of the readers of what is bound."""
        super().visit_var_binding_(binding)
        self._uses[self.visit_expr(binding.var)] += self._old_uses[binding.var]

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        """A view of a product, or a product."""
        call = self.visit_expr_post_order(call)
        name = op_name(call)
        if name == "astype" and call.args[0].ty.dtype == call.ty.dtype:
            return call.args[0]
        if name in ("broadcast_to", "reshape") and shape_of(call):
            same = self._same(call)
            if same is not None:
                return same
        if name == "reshape":
            made = self._unfolded(call)
            return call if made is None else self._scaled(made)
        return self._scaled(self._spread_once(call)) if name == "matmul" else call

    def _bound(self, expr: relax.Expr, *, is_read_once: bool = True) -> relax.Expr:
        """What an expression is bound to, through other names of it."""
        while isinstance(expr, relax.Var):
            if is_read_once and self._uses[expr] > 1:
                return expr
            value = self.lookup_binding(expr)
            if value is None:
                return expr
            expr = value
        return expr

    def _same(self, view: relax.Expr) -> relax.Expr | None:
        """What a view shows as it is, through others that only move it."""
        wanted = shape_of(view)
        while op_name(view) in ("reshape", "expand_dims", "broadcast_to"):
            source = view.args[0]
            if op_name(view) == "broadcast_to" and shape_of(source) != shape_of(view):
                return None
            if shape_of(source) == wanted:
                return source
            view = self._bound(source, is_read_once=False)
        return None

    def _unfolded(self, call: relax.Call) -> relax.Call | None:
        """The product behind a view that splits its batch, on operands that had the axes before."""
        product = self._bound(call.args[0])
        if op_name(product) != "matmul":
            return None
        wanted, found = shape_of(call), shape_of(product)
        if len(wanted) < 3 or len(found) != 3 or wanted[-2:] != found[-2:]:
            return None
        if any(shape_of(operand)[:-2] != found[:-2] for operand in product.args):
            return None
        sources = [self._source(operand, wanted[:-2]) for operand in product.args]
        if all(source is None for source in sources):
            return None
        operands = [
            self.builder_.emit(relax.op.reshape(operand, (*wanted[:-2], *shape_of(operand)[-2:])))
            if source is None
            else source
            for operand, source in zip(product.args, sources, strict=True)
        ]
        return relax.op.matmul(*operands, out_dtype=product.attrs.out_dtype)

    def _source(self, operand: relax.Expr, lead: tuple[int, ...]) -> relax.Expr | None:
        """What an operand is a view of, if that has other leading axes only."""
        view = self._bound(operand, is_read_once=False)
        if op_name(view) != "reshape":
            return None
        source = view.args[0]
        return source if shape_of(source) == (*lead, *shape_of(operand)[-2:]) else None

    def _spread_once(self, product: relax.Call) -> relax.Call:
        """The product on operands that are not copied along the batch first: it spreads them itself."""
        operands = []
        for operand in product.args:
            copies = self._bound(operand, is_read_once=False)
            matrix = shape_of(operand)[-2:]
            is_copy = op_name(copies) == "broadcast_to" and len(matrix) == 2 and shape_of(copies.args[0])[-2:] == matrix
            operands.append(copies.args[0] if is_copy else operand)
        made = self.builder_.normalize(relax.op.matmul(*operands, out_dtype=product.attrs.out_dtype))
        return made if shape_of(made) == shape_of(product) else product

    def _scaled(self, product: relax.Call) -> relax.Expr:
        factors = [self._factor(operand) for operand in product.args]
        product = self.builder_.normalize(product)
        dtype = str(product.ty.dtype)
        if all(factor is None for factor in factors) or dtype not in ("float32", "float64", "bfloat16"):
            return product
        operands, total = [], 1.0
        for operand, factor in zip(product.args, factors, strict=True):
            operands.append(operand if factor is None else factor[0])
            total *= 1.0 if factor is None else factor[1]
        plain = self.builder_.emit(relax.op.matmul(*operands, out_dtype=product.attrs.out_dtype))
        return relax.op.multiply(plain, relax.const(total, dtype))

    def _factor(self, operand: relax.Expr) -> tuple[relax.Expr, float] | None:
        """An operand without the number that it is multiplied by."""
        value = self._bound(operand)
        if op_name(value) not in ("multiply", "divide") or shape_of(value.args[0]) != shape_of(value):
            return None
        number = number_of(value.args[1])
        if number is None or (op_name(value) == "divide" and number == 0):
            return None
        return value.args[0], number if op_name(value) == "multiply" else 1 / number
