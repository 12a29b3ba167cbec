"""Index expressions as sums of loop pieces; a piece is one digit of an iteration variable."""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from tvm_spm.frontend.tir.blocks import Block, constant, loads_of


@dataclass(frozen=True, slots=True)
class Piece:
    """Digit ``index`` of the iteration variable at ``position``: ``variable // weight % extent``."""

    position: int
    index: int
    extent: int
    weight: int
    reduces: bool


@dataclass(frozen=True, slots=True)
class Affine:
    """``offset + sum(factor * piece)``; terms are sorted by piece and no factor is 0."""

    terms: tuple[tuple[Piece, int], ...]
    offset: int = 0

    @classmethod
    def build(cls, terms: dict[Piece, int], offset: int) -> Affine:
        """Drop zero factors and sort."""
        kept = [(piece, factor) for piece, factor in terms.items() if factor != 0]
        return cls(tuple(sorted(kept, key=lambda term: (term[0].position, term[0].index))), offset)

    @classmethod
    def of_pieces(cls, pieces: tuple[Piece, ...]) -> Affine:
        """The variable that the pieces are digits of."""
        return cls.build({piece: piece.weight for piece in pieces}, 0)

    def plus(self, other: Affine, sign: int = 1) -> Affine:
        """Sum, or difference for a sign of -1."""
        terms = dict(self.terms)
        for piece, factor in other.terms:
            terms[piece] = terms.get(piece, 0) + sign * factor
        return Affine.build(terms, self.offset + sign * other.offset)

    def times(self, factor: int) -> Affine:
        """Product with a number."""
        return Affine.build({piece: f * factor for piece, f in self.terms}, self.offset * factor)

    def divided(self, divisor: int) -> tuple[Affine, Affine] | None:
        """Quotient and remainder, if both are affine over the whole iteration domain."""
        whole = {piece: factor // divisor for piece, factor in self.terms if factor % divisor == 0}
        rest = {piece: factor for piece, factor in self.terms if factor % divisor != 0}
        base, offset = divmod(self.offset, divisor)
        low = offset + sum(min(0, factor * (piece.extent - 1)) for piece, factor in rest.items())
        high = offset + sum(max(0, factor * (piece.extent - 1)) for piece, factor in rest.items())
        if low < 0 or high >= divisor:
            return None
        return Affine.build(whole, base), Affine.build(rest, offset)


def affine_of(expr: tvm.ir.Expr, env: dict[tvm.ir.Var, Affine]) -> Affine | None:
    """An integer expression as a sum of pieces, or ``None`` if it is none."""
    number = constant(expr)
    if number is not None:
        # A number with a fraction scales an index that is rounded somewhere around it.
        return Affine((), number) if isinstance(number, int) else None
    if isinstance(expr, tvm.ir.Var):
        return env.get(expr)
    if isinstance(expr, tvm.tirx.Cast):
        return affine_of(expr.value, env)
    if not (hasattr(expr, "a") and hasattr(expr, "b")):
        return None
    left, right = affine_of(expr.a, env), affine_of(expr.b, env)
    if left is None or right is None:
        return None
    if isinstance(expr, tvm.tirx.Add):
        return left.plus(right)
    if isinstance(expr, tvm.tirx.Sub):
        return left.plus(right, -1)
    if isinstance(expr, tvm.tirx.Mul):
        if left.terms and right.terms:
            return None
        return left.times(right.offset) if not right.terms else right.times(left.offset)
    if isinstance(expr, (tvm.tirx.FloorDiv, tvm.tirx.FloorMod)) and not right.terms and right.offset > 0:
        both = left.divided(right.offset)
        return None if both is None else both[isinstance(expr, tvm.tirx.FloorMod)]
    return None


def split_vars(block: Block) -> dict[tvm.ir.Var, tuple[Piece, ...]] | str:
    """The pieces of every iteration variable, outer to inner, or why a variable has none.

    A variable that an index divides (``v // 4``, ``v % 4``) is two pieces; any other is one.
    """
    divisors: dict[tvm.ir.Var, set[int]] = {var: set() for var, _, _ in block.iters}
    for load in loads_of(block.store.value):
        for index in load.indices:
            _collect_divisors(index, divisors)
    pieces: dict[tvm.ir.Var, tuple[Piece, ...]] = {}
    for position, (var, extent, reduces) in enumerate(block.iters):
        bounds = [extent, *sorted((d for d in divisors[var] if 1 < d < extent), reverse=True), 1]
        if extent == 1:
            bounds = [1, 1]
        if any(outer % inner for outer, inner in zip(bounds, bounds[1:], strict=False)):
            cuts = ", ".join(str(bound) for bound in bounds[1:-1])
            return f"loop {var.name} of extent {extent} is divided by {cuts}, which leaves a remainder"
        pieces[var] = tuple(
            Piece(position, i, outer // inner, inner, reduces)
            for i, (outer, inner) in enumerate(zip(bounds, bounds[1:], strict=False))
        )
    return pieces


def _collect_divisors(expr: tvm.ir.Expr, divisors: dict[tvm.ir.Var, set[int]]) -> None:
    if isinstance(expr, (tvm.tirx.FloorDiv, tvm.tirx.FloorMod)):
        inner, factor = expr.a, 1
        if isinstance(expr, tvm.tirx.FloorMod) and isinstance(inner, tvm.tirx.FloorDiv):
            inner, factor = inner.a, int(constant(inner.b) or 0)
        divisor = constant(expr.b)
        if isinstance(inner, tvm.ir.Var) and inner in divisors and divisor is not None:
            divisors[inner].add(int(divisor) * factor)
    if hasattr(expr, "a") and hasattr(expr, "b"):
        _collect_divisors(expr.a, divisors)
        _collect_divisors(expr.b, divisors)
