"""Finds attention in a network: a matrix product, a softmax over its last axis, and a product with the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx

from tvm_spm.attention import Attention
from tvm_spm.errors import WorkloadError
from tvm_spm.frontend.calls import called_functions
from tvm_spm.frontend.tir.affine import Affine, Piece, affine_of
from tvm_spm.frontend.tir.blocks import Block, constant, count_ops, loads_of, read_blocks, strip_casts
from tvm_spm.lowering.blocks import substitute
from tvm_spm.workload import DIM_NAMES, Axis, Dims, Epilogue, Projection, Workload

_LEADING_DIMS = ("OY", "N", "G")
"""Dims that stand for heads and batch, the last one for the innermost axis."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """A function that multiplies two tensors into ``(..., rows, columns)``, with element-wise work around the sum.

    Attributes:
        func: The function.
        blocks: Its blocks.
        mac: The block that sums up.
        left: The load that follows the rows.
        right: The load that follows the columns.
        out: The block that writes the result.
        inputs: Parameters but the result.
    """

    func: tirx.PrimFunc
    blocks: tuple[Block, ...]
    mac: Block
    left: tvm.ir.TensorLoad
    right: tvm.ir.TensorLoad
    out: Block
    inputs: tuple[tvm.ir.Var, ...]

    @property
    def summed(self) -> tvm.ir.Var:
        """The variable that the sum runs over."""
        return next(var for var, _, reduces in self.mac.iters if reduces)

    @property
    def is_swapped_left(self) -> bool:
        """Whether rows run faster in memory than terms."""
        return _is_first(self.left, self.summed, self.mac.store.indices[-2])

    @property
    def is_swapped_right(self) -> bool:
        """Whether columns run faster in memory than terms."""
        return _is_first(self.right, self.summed, self.mac.store.indices[-1])

    def element(self, load: tvm.ir.TensorLoad, at: Sequence[tvm.ir.Expr], term: tvm.ir.Expr) -> tvm.ir.Expr:
        """What a load of the sum reads, in terms of the parameters, for one element of the result and one term."""
        variables = [var for var, _, reduces in self.mac.iters if not reduces]
        return self._inline(substitute(load, {**dict(zip(variables, at, strict=True)), self.summed: term}), None)

    def result(self, at: Sequence[tvm.ir.Expr], total: tvm.ir.Expr) -> tvm.ir.Expr:
        """One element of the result, given its sum."""
        if self.out is self.mac:
            return total
        value = substitute(self.out.store.value, dict(zip(self.out.store.indices, at, strict=True)))
        return self._inline(value, total)

    def _inline(self, value: tvm.ir.Expr, total: tvm.ir.Expr | None) -> tvm.ir.Expr:
        def load(node: tvm.ir.TensorLoad) -> tvm.ir.Expr:
            if node.source.same_as(self.mac.buffer):
                return total
            block = next((block for block in self.blocks if block.buffer.same_as(node.source)), None)
            if block is None:
                return node
            env = dict(zip(block.store.indices, node.indices, strict=True))
            return self._inline(substitute(block.store.value, env), total)

        return tvm_ffi.structural_map(value, (tvm.ir.TensorLoad, load), order="post")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionSite:
    """Three calls of a network that are one attention.

    Attributes:
        bindings: Variables of scores, probabilities and result; only the last is read elsewhere.
        scores: The first product.
        context: The second product; its left operand is the probabilities.
        values: The parameter of the second product that is not the probabilities.
        args: Arguments of a function that does all three: those of the first product, then the values.
        is_zero_when_empty: Whether rows that see no key are 0.
        work: The same without TVM, for cost models.
    """

    bindings: tuple[relax.Var, relax.Var, relax.Var]
    scores: Product
    context: Product
    values: tvm.ir.Var
    args: tuple[relax.Expr, ...]
    is_zero_when_empty: bool
    work: Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A softmax between two products that is no attention we can generate, and why."""

    name: str
    reason: str


class _NoAttentionError(Exception):
    """Leaves the reader early; never leaves this module."""


def find_attention(mod: tvm.IRModule) -> tuple[tuple[AttentionSite, ...], tuple[Refusal, ...]]:
    """Every attention of a module whose operators are fused TIR functions, and the softmaxes that are none.

    Args:
        mod: As ``extract(...).mod``.
    """
    called = [each.func for each in called_functions(mod)]
    calls = {binding.var: binding.value for func in called for binding in _bindings(func)}
    uses = Counter(var for func in called for var in _uses(func).elements())
    sites, refused = [], []
    for last, call in calls.items():
        if not _is_call_tir(call):
            continue
        for probabilities in call.args[1].fields:
            middle = calls.get(probabilities) if isinstance(probabilities, relax.Var) else None
            if middle is None or not _is_call_tir(middle) or not is_softmax(mod[middle.args[0]]):
                continue
            scores = middle.args[1].fields[0]
            try:
                if not isinstance(scores, relax.Var) or not _is_call_tir(calls.get(scores)):
                    raise _NoAttentionError("what the softmax reads is no TIR function")
                for name, var in (("scores", scores), ("probabilities", probabilities)):
                    if uses[var] != 1:
                        raise _NoAttentionError(f"the {name} are read {uses[var]} times")
                is_zero = is_zero_when_empty(mod[middle.args[0]])
                sites.append(_site(mod, (scores, probabilities, last), (calls[scores], call), is_zero=is_zero))
            except (_NoAttentionError, WorkloadError) as error:
                refused.append(Refusal(name=str(call.args[0].name_hint), reason=str(error)))
    return tuple(sites), tuple(refused)


def is_softmax(func: tirx.PrimFunc) -> bool:
    """Whether a function is ``exp(x - max) / sum`` over the last axis, maybe 0 where the sum is, and nothing else."""
    blocks = read_blocks(func)
    if isinstance(blocks, str) or len(blocks) != 4:
        return False
    largest, powers, total, norm = blocks
    data = func.params[0]
    over_last = [
        block.has_init and [reduces for _, _, reduces in block.iters] == [False] * (len(block.iters) - 1) + [True]
        for block in (largest, total)
    ]
    if not all(over_last) or not isinstance(largest.store.value, tirx.Max):
        return False
    power = strip_casts(powers.store.value)
    if not isinstance(power, tvm.ir.Call) or not power.op.name.endswith(".exp"):
        return False
    shifted, quotient, summed = strip_casts(power.args[0]), strip_casts(norm.store.value), total.store.value
    if is_zero_when_empty(func):
        if not _reads(norm, quotient.condition.a, total.buffer, 1):
            return False
        quotient = quotient.false_value
    return (
        isinstance(shifted, tirx.Sub)
        and isinstance(summed, tirx.Add)
        and isinstance(quotient, tirx.Div)
        and _reads(largest, largest.store.value.b, data, 0)
        and _reads(powers, shifted.a, data, 0)
        and _reads(powers, shifted.b, largest.buffer, 1)
        and _reads(total, summed.b, powers.buffer, 0)
        and _reads(norm, quotient.a, powers.buffer, 0)
        and _reads(norm, quotient.b, total.buffer, 1)
    )


def is_zero_when_empty(func: tirx.PrimFunc) -> bool:
    """Whether the last value of a softmax is 0 where something is 0."""
    blocks = read_blocks(func)
    value = None if isinstance(blocks, str) else strip_casts(blocks[-1].store.value)
    if not isinstance(value, tirx.Select) or not isinstance(value.condition, tirx.EQ):
        return False
    return all(constant(each) == 0 for each in (value.condition.b, value.true_value))


def _reads(block: Block, value: tvm.ir.Expr, source: tvm.ir.Var, num_dropped: int) -> bool:
    """Whether a value is the element of ``source`` where the loops stand, but for the last axes, of any width."""
    value = strip_casts(value)
    if not isinstance(value, tvm.ir.TensorLoad) or not value.source.same_as(source):
        return False
    variables = [var for var, _, _ in block.iters][: len(block.iters) - num_dropped]
    return [*value.indices] == variables or all(
        index.same_as(var) for index, var in zip(value.indices, variables, strict=True)
    )


def _bindings(func: relax.Function) -> Iterator[relax.Binding]:
    for block in func.body.blocks:
        yield from block.bindings


def _uses(func: relax.Function) -> Counter[relax.Var]:
    """How often every variable is read."""
    found: Counter[relax.Var] = Counter()

    def count(var: relax.Var) -> None:
        found[var] += 1

    for binding in _bindings(func):
        tvm_ffi.structural_walk(binding.value, (relax.Var, count), order="post")
    tvm_ffi.structural_walk(func.body.body, (relax.Var, count), order="post")
    return found


def _is_call_tir(value: object) -> bool:
    if not isinstance(value, relax.Call) or not isinstance(value.op, tvm.ir.Op) or value.op.name != "relax.call_tir":
        return False
    return isinstance(value.args[1], relax.Tuple)


def _site(
    mod: tvm.IRModule,
    bindings: tuple[relax.Var, relax.Var, relax.Var],
    calls: tuple[relax.Call, relax.Call],
    *,
    is_zero: bool,
) -> AttentionSite:
    # Both calls may be of one function, whose parameters then stand for different tensors.
    scores, context = _product(mod[calls[0].args[0]]), _product(s_tir.renew_defs(mod[calls[1].args[0]]))
    position = next(i for i, arg in enumerate(calls[1].args[1].fields) if arg.same_as(bindings[1]))
    probabilities = context.inputs[position]
    if context.right.source.same_as(probabilities):
        raise _NoAttentionError("the probabilities are the right operand of the second product")
    if not context.left.source.same_as(probabilities) or not _is_row(context):
        raise _NoAttentionError("the second product does not read the probabilities where its loops stand")
    others = [i for i in range(len(context.inputs)) if i != position]
    if len(others) != 1:
        raise _NoAttentionError(f"the second product reads {len(context.inputs)} tensors, two are expected")
    if scores.out.dtype != str(probabilities.dtype) or scores.out.shape[:-1] != context.out.shape[:-1]:
        raise _NoAttentionError("scores and result differ in rows, or the softmax changes the type")
    args = (*calls[0].args[1].fields, calls[1].args[1].fields[others[0]])
    work = Attention(scores=_workload(scores), context=_workload(context))
    if is_zero:
        # A comparison and a choice per element of the result.
        epilogue = work.context.epilogue
        epilogue = replace(epilogue, num_ops_per_elem=epilogue.num_ops_per_elem + 2)
        work = replace(work, context=replace(work.context, epilogue=epilogue))
    return AttentionSite(
        bindings=bindings,
        scores=scores,
        context=context,
        values=context.inputs[others[0]],
        args=args,
        is_zero_when_empty=is_zero,
        work=work,
    )


def _product(func: tirx.PrimFunc) -> Product:
    blocks = read_blocks(func)
    if isinstance(blocks, str):
        raise _NoAttentionError(blocks)
    macs = [block for block in blocks if block.reduces]
    written = [block for block in blocks if any(block.buffer.same_as(param) for param in func.params)]
    if len(macs) != 1 or len(written) != 1:
        raise _NoAttentionError(f"{len(macs)} sums and {len(written)} results, one of each is expected")
    mac, out = macs[0], written[0]
    for block in blocks:
        if not all(isinstance(index, tvm.ir.Var) for index in block.store.indices):
            raise _NoAttentionError(f"block {block.name} does not write where its loops stand")
    loops = [var for var, _, reduces in mac.iters if not reduces]
    if len(loops) < 2 or len(mac.iters) != len(loops) + 1 or not _same(mac.store.indices, loops):
        raise _NoAttentionError("the sum is no matrix product")
    if out.shape != mac.shape:
        raise _NoAttentionError("what follows the sum changes its shape")
    value = mac.store.value
    factors = strip_casts(value.b) if isinstance(value, tirx.Add) else None
    if not isinstance(factors, tirx.Mul):
        raise _NoAttentionError("the sum is not one of products")
    operands = [strip_casts(factors.a), strip_casts(factors.b)]
    if not all(isinstance(operand, tvm.ir.TensorLoad) for operand in operands):
        raise _NoAttentionError("a factor of the sum is no element of a tensor")
    left, right = operands
    if depends(left, loops[-1]) or depends(right, loops[-2]):
        left, right = right, left
    if depends(left, loops[-1]) or depends(right, loops[-2]):
        raise _NoAttentionError("an operand follows rows and columns")
    inputs = tuple(param for param in func.params if not param.same_as(out.buffer))
    return Product(func=func, blocks=blocks, mac=mac, left=left, right=right, out=out, inputs=inputs)


def _is_row(product: Product) -> bool:
    """Whether the left operand is read at the rows and the term, whatever its leading axes are."""
    loops = [var for var, _, reduces in product.mac.iters if not reduces]
    wanted = [*loops[:-1], product.summed]
    extents = [int(extent) for extent in product.left.source.shape]
    found = list(product.left.indices)
    return len(found) == len(wanted) and all(
        index.same_as(var) or extent == 1 for index, var, extent in zip(found, wanted, extents, strict=True)
    )


def _workload(product: Product) -> Workload:
    """The nest with rows as OX and columns as K, heads and batch as G, N and OY."""
    mac = product.mac
    loops = [(var, extent) for var, extent, reduces in mac.iters if not reduces]
    leading = [(var, extent) for var, extent in loops[:-2] if extent > 1]
    if len(leading) > len(_LEADING_DIMS):
        raise _NoAttentionError(f"{len(leading)} axes of heads and batch, at most {len(_LEADING_DIMS)} are supported")
    names = dict(zip([var for var, _ in leading], _LEADING_DIMS[len(_LEADING_DIMS) - len(leading) :], strict=True))
    names |= {loops[-2][0]: "OX", loops[-1][0]: "K", product.summed: "C"}
    extents = {name: next(e for v, e, _ in mac.iters if v.same_as(var)) for var, name in names.items()}
    at = [var for var, _ in loops]
    left, right = (product.element(load, at, product.summed) for load in (product.left, product.right))
    value = product.result(at, tirx.const(1, mac.dtype))
    extras = {_projection(load, names): None for load in loads_of(value)}
    sources = [loads_of(operand) for operand in (left, right)]
    if any(len(found) != 1 for found in sources):
        raise _NoAttentionError("an operand is made of several tensors")
    num_ops = sum(
        count_ops(block.store.value)
        for block in product.blocks
        if block is not mac and block.num_iterations == product.out.num_iterations and _follows(product, block)
    )
    return Workload(
        kind="matmul",
        dims=Dims(**extents),
        I=_projection(sources[0][0], names),
        W=_projection(sources[1][0], names),
        O=_projection(mac.store, names),
        out_dtype=product.out.dtype,
        epilogue=Epilogue(num_ops_per_elem=num_ops, extras=tuple(extras)),
    )


def _follows(product: Product, block: Block) -> bool:
    """Whether a block depends on the sum."""
    sources = [load.source for load in loads_of(block.store.value)]
    if any(source.same_as(product.mac.buffer) for source in sources):
        return True
    return any(
        _follows(product, other) for other in product.blocks if any(other.buffer.same_as(source) for source in sources)
    )


def _projection(access: tvm.ir.TensorLoad | tirx.BufferStore, names: Mapping[tvm.ir.Var, str]) -> Projection:
    buffer = access.source if isinstance(access, tvm.ir.TensorLoad) else access.buffer
    pieces = {var: Piece(position, 0, 1, 1, False) for position, var in enumerate(names)}
    env = {var: Affine.of_pieces((piece,)) for var, piece in pieces.items()}
    named = {pieces[var].position: name for var, name in names.items()}
    axes = []
    for index, extent in zip(access.indices, buffer.shape, strict=True):
        form = affine_of(index, _with_units(index, env))
        if form is None or any(factor < 0 for _, factor in form.terms):
            raise _NoAttentionError(f"index {index} of {buffer.name} is not affine")
        terms = {named[piece.position]: factor for piece, factor in form.terms}
        ordered = tuple((name, terms[name]) for name in DIM_NAMES if name in terms)
        axes.append(Axis(terms=ordered, extent=int(extent), offset=form.offset))
    return Projection(axes=tuple(axes), dtype=str(buffer.dtype))


def _with_units(index: tvm.ir.Expr, env: dict[tvm.ir.Var, Affine]) -> dict[tvm.ir.Var, Affine]:
    """Variables without a name iterate once."""
    unnamed = {var: Affine((), 0) for var in tirx.analysis.undefined_vars(index) if var not in env}
    return {**env, **unnamed}


def _same(found: Sequence[tvm.ir.Expr], wanted: Sequence[tvm.ir.Expr]) -> bool:
    return len(found) == len(wanted) and all(a.same_as(b) for a, b in zip(found, wanted, strict=True))


def depends(load: tvm.ir.TensorLoad, var: tvm.ir.Var) -> bool:
    """Whether an index of a load uses a variable."""
    return any(var in tirx.analysis.undefined_vars(index) for index in load.indices)


def _is_first(load: tvm.ir.TensorLoad, first: tvm.ir.Var, second: tvm.ir.Var) -> bool:
    """Whether ``first`` indexes an axis outside the one that ``second`` indexes."""

    def axis(var: tvm.ir.Var) -> int:
        axes = range(len(load.indices))
        return next((i for i in axes if var in tirx.analysis.undefined_vars(load.indices[i])), len(axes))

    return axis(first) < axis(second)
