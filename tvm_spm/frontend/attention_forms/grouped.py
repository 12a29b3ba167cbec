"""Heads of queries that share keys and values: no copies of these, and every key is read once for all of a group."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_spm.frontend.attention_forms.expressions import array_of, op_name, shape_of, swaps_last_axes, uses_of

_ELEMENTWISE = (
    "add", "astype", "divide", "equal", "full_like", "isnan", "logical_not", "maximum", "minimum", "multiply",
    "subtract", "where",
)  # fmt: skip
_OVER_ROWS = ("nn.softmax", "max")
"""Over the last axis only."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Site:
    """A product with weights of attention, on values that are copies.

    Attributes:
        query: (batch, heads, rows, depth).
        keys: (batch, shared heads, keys, depth), not copied.
        values: The same.
        chain: Variables from the first product on, but for the last.
        others: What the chain reads besides.
    """

    query: relax.Expr
    keys: relax.Expr
    values: relax.Expr
    chain: dict[relax.Var, relax.Call] = field(default_factory=dict)
    others: list[relax.Expr] = field(default_factory=list)

    @property
    def group(self) -> int:
        """Heads of queries per head of keys."""
        return shape_of(self.query)[1] // shape_of(self.keys)[1]


@mutator
class GroupedHeads(PyExprMutator):
    """Rewrites attention on copied heads.

    Before, ``K`` and ``V`` with 2 heads of 8::

        softmax(f(Q repeat(K, 4))) repeat(V, 4)

    After, where all queries of a group see the same keys, such as one token after a cache::

        reshape(softmax(f(reshape(Q, (B, 2, 4 * M, D)) K)) V)

    and else with an axis for the queries of a group, along which keys and values are one.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self._uses = uses_of(mod)
        self._values: dict[relax.Var, relax.Expr] = {}
        self._sites: dict[relax.Var, _Site] = {}
        for _, func in mod.functions_items():
            if isinstance(func, relax.Function):
                bindings = [binding for block in func.body.blocks for binding in block.bindings]
                self._values |= {binding.var: binding.value for binding in bindings if hasattr(binding, "value")}
        for var, value in self._values.items():
            site = self._site(value) if op_name(value) == "matmul" else None
            if site is not None:
                self._sites[var] = site

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        """Replace the last product of an attention."""
        site = self._sites.get(binding.var)
        if site is None:
            super().visit_var_binding_(binding)
            return
        made = self._rewritten(site, binding.value)
        is_output = isinstance(binding.var, relax.DataflowVar)
        self.set_var_remap(binding.var, self.builder_.emit(made) if is_output else self.builder_.emit_output(made))

    def _site(self, context: relax.Call) -> _Site | None:
        values = self._shared(context.args[1])
        if values is None:
            return None
        site = _Site(query=values, keys=values, values=values)
        reads: Counter[relax.Var] = Counter()
        if not self._follow(context.args[0], site, reads) or not site.chain:
            return None
        reads.update([context.args[0]])
        if any(self._uses[var] != reads[var] for var in site.chain):
            return None
        heads, shared = shape_of(site.query)[1], shape_of(site.keys)[1]
        is_alike = shape_of(site.values)[:3] == shape_of(site.keys)[:3] and heads % shared == 0
        whole = shape_of(context.args[0])
        fits = all(_spreads(shape_of(other), whole) for other in site.others)
        return site if is_alike and fits and len(whole) == 4 else None

    def _follow(self, expr: relax.Expr, site: _Site, reads: Counter[relax.Var]) -> bool:
        """Add what leads from the first product to an expression; whether anything does."""
        if not isinstance(expr, relax.Var):
            return False
        if expr in site.chain:
            return True
        value: relax.Expr = self._values.get(expr)
        if op_name(value) == "matmul":
            keys = self._shared_keys(value.args[1])
            if keys is not None:
                site.query, site.keys = value.args[0], keys
                site.chain[expr] = value
            return keys is not None
        name = op_name(value)
        if name not in (*_ELEMENTWISE, *_OVER_ROWS) or (name in _OVER_ROWS and not _is_over_last(value)):
            return False
        follows = [self._follow(arg, site, reads) for arg in value.args]
        if not any(follows):
            return False
        for arg, does in zip(value.args, follows, strict=True):
            if does:
                reads.update([arg])
            elif isinstance(getattr(arg, "ty", None), relax.TensorType):
                site.others.append(arg)
        site.chain[expr] = value
        return True

    def _shared_keys(self, expr: relax.Expr) -> relax.Expr | None:
        """Keys before their copies, if they are read with their last two axes exchanged."""
        value = self._values.get(expr)
        return self._shared(value.args[0]) if value is not None and swaps_last_axes(value) else None

    def _shared(self, expr: relax.Expr) -> relax.Expr | None:
        """Heads before every one is copied beside itself."""
        copies: relax.Expr = self._values.get(expr) if isinstance(expr, relax.Var) else None
        if op_name(copies) == "repeat":
            source = copies.args[0]
            is_copy = source.ty.ndim == 4 and copies.attrs.axis is not None and int(copies.attrs.axis) % 4 == 1
            return source if is_copy and int(copies.attrs.repeats) > 1 else None
        spread: relax.Expr = self._values.get(copies.args[0]) if op_name(copies) == "reshape" else None
        single: relax.Expr = self._values.get(spread.args[0]) if op_name(spread) == "broadcast_to" else None
        if op_name(single) not in ("expand_dims", "reshape"):
            return None
        before, wide, after = shape_of(single.args[0]), shape_of(spread), shape_of(copies)
        if len(before) != 4 or len(wide) != 5 or wide[2] == 1:
            return None
        is_copy = shape_of(single) == (*before[:2], 1, *before[2:]) and wide == (*before[:2], wide[2], *before[2:])
        return single.args[0] if is_copy and after == (before[0], before[1] * wide[2], *before[2:]) else None

    def _rewritten(self, site: _Site, context: relax.Call) -> relax.Call:
        batch, heads, rows, _ = shape_of(site.query)
        shared, group = heads // site.group, site.group
        # A mask that differs between rows, but not between heads, has no axis for both.
        folds = rows == 1 or all(
            _extent(shape_of(other), -2) == 1 if _extent(shape_of(other), -3) == 1 else _extent(shape_of(other), -2) > 1
            for other in site.others
        )
        lead = (batch, shared) if folds else (batch, shared, group)
        tall = group * rows if folds else rows

        def regrouped(expr: relax.Expr) -> relax.Expr:
            """The same numbers beside the scores."""
            shape = shape_of(expr)
            if not isinstance(getattr(expr, "ty", None), relax.TensorType) or prod(shape) == 1:
                return expr
            b, h, m, n = (_extent(shape, axis) for axis in (-4, -3, -2, -1))
            if folds:
                wanted: tuple[int, ...] = (b, shared, group * m, n) if h > 1 else (b, 1, m, n)
            else:
                wanted = (b, shared, group, m, n) if h > 1 else (b, 1, 1, m, n)
            if h == 1 and (folds or b == 1):
                return expr  # It spreads over the new axes as it is.
            array = array_of(expr)
            if array is not None:
                return relax.const(array.reshape(wanted), str(expr.ty.dtype))
            return self.builder_.emit(relax.op.reshape(expr, wanted))

        def shared_heads(expr: relax.Expr) -> relax.Expr:
            expr = self.visit_expr(expr)
            return expr if folds else self.builder_.emit(relax.op.expand_dims(expr, 2))

        query = self.visit_expr(site.query)
        query = self.builder_.emit(relax.op.reshape(query, (*lead, tall, shape_of(query)[-1])))
        keys = shared_heads(site.keys)
        rank = len(lead) + 2
        turned = self.builder_.emit(relax.op.permute_dims(keys, [*range(rank - 2), rank - 1, rank - 2]))
        made: dict[relax.Var, relax.Expr] = {}
        for var, value in site.chain.items():
            name = op_name(value)
            if name == "matmul":
                call = relax.op.matmul(query, turned, out_dtype=value.attrs.out_dtype)
            else:
                args = [made[arg] if arg in made else regrouped(self.visit_expr(arg)) for arg in value.args]
                call = _again(value, name, args)
            made[var] = self.builder_.emit(call)
        values = shared_heads(site.values)
        total = self.builder_.emit(relax.op.matmul(made[context.args[0]], values, out_dtype=context.attrs.out_dtype))
        return relax.op.reshape(total, shape_of(context))


def _again(call: relax.Call, name: str, args: list[relax.Expr]) -> relax.Call:
    """The same operator on operands of other axes."""
    if name == "nn.softmax":
        return relax.op.nn.softmax(args[0], axis=-1)
    if name == "max":
        return relax.op.max(args[0], -1, keepdims=True)
    return relax.Call(call.op, args, call.attrs)


def _is_over_last(call: relax.Call) -> bool:
    axes = [int(call.attrs.axis)] if op_name(call) == "nn.softmax" else [int(axis) for axis in call.attrs.axis or ()]
    keeps = op_name(call) == "nn.softmax" or bool(call.attrs.keepdims)
    return keeps and axes in ([-1], [call.args[0].ty.ndim - 1])


def _extent(shape: tuple[int, ...], axis: int) -> int:
    """Of an axis counted from the last; axes in front are 1."""
    return shape[axis] if -axis <= len(shape) else 1


def _spreads(shape: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    """Whether a tensor has the extents of another or 1."""
    return len(shape) <= 4 and all(_extent(shape, axis) in (1, _extent(whole, axis)) for axis in range(-4, 0))
