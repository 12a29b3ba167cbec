"""Runs the scheduled code of one task or group against the unscheduled function it was made from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import tirx

from schedules.host import schedule_for_host
from tvm_spm.deploy.verify.outcome import Array, Verification, compare, epsilon, is_float
from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.tir.blocks import Block, count_ops, loads_of, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, Unsupported, read_nest
from tvm_spm.lowering.processor import compiled_for
from tvm_spm.lowering.target import HOST, PIPELINE
from tvm_spm.workload import REDUCTION_DIMS, dtype_bits

REFERENCE = tvm.target.Target(HOST)
ROUNDINGS_PER_OP = 4
"""Per operation behind a sum: compilers may contract, and library functions may err, differently."""

_MAX_DRAW = 3
"""Floats are drawn as small whole numbers: their products and sums are exact, so a single wrong term shows."""

DEVIATIONS = 8
"""Standard deviations that a sum of independent terms never leaves."""


Code = Callable[..., None]
"""A compiled function, called with all its tensors in order."""


def run_task(
    func: tirx.PrimFunc,
    scheduled_func: tirx.PrimFunc,
    *,
    rng: np.random.Generator,
    target: tvm.target.Target | None,
    reference: Code | None = None,
) -> Verification:
    """What ``verify.verify_task`` says, in this process.

    Args:
        func: Not scheduled.
        scheduled_func: Scheduled.
        rng: Draws the inputs.
        target: What the scheduled code is compiled for; the host if None.
        reference: ``func`` as compiled for the host; compiled here if None.

    Raises:
        ModelError: ``func`` is not made of simple blocks, so its output cannot be told from its inputs.
    """
    blocks, nest = read_blocks(func), read_nest(func)
    if isinstance(blocks, str):
        raise ModelError(f"function cannot be verified: {blocks}")
    num_terms = num_terms_of(nest)
    if reference is None:
        module = _module(schedule_for_host(func))
        reference = tvm.compile(module, target=compiled_for(REFERENCE, module))["main"]
    try:
        module = _module(scheduled_func)
        goal = compiled_for(target or tvm.target.Target(HOST), module)
        tuned = tvm.compile(module, target=goal, tir_pipeline=PIPELINE)
    except TVM_ERRORS as error:
        return Verification.failed(f"the code cannot be compiled: {first_line(error)}")
    inputs, expected = _telling(
        [_draw(func, blocks, nest, rng, of_bytes=bound) for bound in _bounds_of_bytes(nest)],
        lambda drawn: _call(reference, func, blocks, drawn),
    )
    actual = _call(tuned["main"], func, blocks, inputs)
    if isinstance(nest, Unsupported):
        roundings = 0 if all(map(is_exact, expected)) else _roundings_of_layers(blocks)
    else:
        roundings = ROUNDINGS_PER_OP * nest.workload.epilogue.num_ops_per_elem
        roundings += 0 if _sums_exactly(nest, num_terms) else num_terms
    return compare(expected, actual, num_roundings=roundings)


def _module(func: tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def _call(
    compiled: Code,
    func: tirx.PrimFunc,
    blocks: Sequence[Block],
    inputs: dict[int, tvm.runtime.Tensor],
) -> list[Array]:
    """Run once into fresh outputs that start with a value no sum leaves in place unnoticed."""
    args: list[tvm.runtime.Tensor] = []
    results: list[tvm.runtime.Tensor] = []
    for position, param in enumerate(func.params):
        if position in inputs:
            args.append(inputs[position])
            continue
        marked = np.full([int(extent) for extent in param.shape], 113).astype(str(param.dtype))
        results.append(tvm.runtime.tensor(marked))
        args.append(results[-1])
    if not results:
        raise ModelError(f"function with blocks {[block.name for block in blocks]} writes no parameter")
    compiled(*args)
    return [result.numpy() for result in results]


_Inputs = dict[int, tvm.runtime.Tensor]


def _telling(draws: Sequence[_Inputs], call: Callable[[_Inputs], list[Array]]) -> tuple[_Inputs, list[Array]]:
    """Of several draws the one whose results differ most from element to element, and those.

    What a layer of bytes makes is rounded to bytes again: by a scale that is not known here, so that small numbers may
    all become 0, and large ones all saturate.
    """
    made = [(drawn, call(drawn)) for drawn in draws]
    return max(made, key=lambda pair: sum(map(_entropy, pair[1]))) if len(made) > 1 else made[0]


def _entropy(values: Array) -> float:
    """Bits that one element tells."""
    counts = np.unique(values, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _bounds_of_bytes(nest: TirNest | Unsupported) -> tuple[int, ...]:
    """Largest numbers to draw for bytes that are multiplied: small ones, and all where a result is bytes again."""
    if isinstance(nest, Unsupported) or is_float(nest.workload.O.dtype):
        return (_MAX_DRAW,)
    work = nest.workload
    is_rounded = dtype_bits(work.out_dtype) < work.O.elem_bits and not is_float(work.out_dtype)
    return (_MAX_DRAW, 31, 127) if is_rounded else (_MAX_DRAW,)


def _draw(
    func: tirx.PrimFunc,
    blocks: Sequence[Block],
    nest: TirNest | Unsupported,
    rng: np.random.Generator,
    *,
    of_bytes: int,
) -> _Inputs:
    """Small whole numbers for every input; those the nest does not multiply are positive, for roots and logarithms.

    If bytes are drawn larger, what is added to their sums is as large as these.
    """
    multiplied, num_terms = multiplied_params(func, blocks), num_terms_of(nest)
    written = [block.buffer for block in blocks]
    packed = _packed_param(func, blocks, nest)
    inputs = {}
    for position, param in enumerate(func.params):
        if any(param.same_as(buffer) for buffer in written):
            continue
        dtype, shape = str(param.dtype), [int(extent) for extent in param.shape]
        bound = _amplitude(dtype, num_terms)
        if of_bytes > _MAX_DRAW and not is_float(dtype) and dtype != "bool":
            bound = of_bytes if dtype_bits(dtype) <= 8 else math.ceil(of_bytes**2 * math.sqrt(num_terms))
            bound = min(bound, int(np.iinfo(dtype).max))
        if position == packed:
            # Every byte holds two numbers.
            bound = 255
        low = 0 if dtype.startswith("uint") or dtype == "bool" else -bound
        if position not in multiplied:
            low = 1 if dtype != "bool" else 0
        high = 1 if dtype == "bool" else bound
        drawn = rng.integers(low, high, size=shape, dtype=np.int8 if high <= 127 else np.int64, endpoint=True)
        inputs[position] = tvm.runtime.tensor(drawn.astype(dtype))
    return inputs


def _packed_param(func: tirx.PrimFunc, blocks: Sequence[Block], nest: TirNest | Unsupported) -> int | None:
    """The parameter whose bytes hold several numbers each."""
    if isinstance(nest, Unsupported) or nest.unpack_block is None:
        return None
    source = next(load.source for b in blocks if b.name == nest.unpack_block for load in loads_of(b.store.value))
    return next(position for position, param in enumerate(func.params) if param.same_as(source))


def _amplitude(dtype: str, num_terms: int) -> int:
    """Largest number drawn, so that sums stay exact; at least 1."""
    fitting = [bound for bound in range(1, _MAX_DRAW + 1) if _largest_sum(num_terms, bound**2) <= exact_limit(dtype)]
    return max(fitting, default=1)


def _largest_sum(num_terms: int, largest_product: int) -> float:
    """What no partial sum exceeds: products of both signs wander."""
    return largest_product * min(float(num_terms), DEVIATIONS * math.sqrt(num_terms))


def exact_limit(dtype: str) -> float:
    """Whole numbers up to this are exact in a float type; integers wrap around equally in any order."""
    return 2.0 / epsilon(dtype) if is_float(dtype) else math.inf


def is_exact(values: Array) -> bool:
    """Whether whole numbers must have stayed whole on the way to these: in all of them, no fraction, no large sum.

    What layers pass to each other is rarely larger than what the last makes of it by more than the factor left here.
    """
    wide = values.astype(np.float64)
    return bool(np.all(wide == np.rint(wide)) and np.abs(wide).max(initial=0) < exact_limit(str(values.dtype)) / 16)


def _roundings_of_layers(blocks: Sequence[Block]) -> int:
    """Roundings of all sums and operations on the way to one element, taken as independent of each other."""
    terms = sum(
        math.prod(extent for _, extent, reduces in block.iters if reduces)
        + ROUNDINGS_PER_OP * count_ops(block.store.value)
        for block in blocks
    )
    return math.ceil(DEVIATIONS * math.sqrt(terms))


def _sums_exactly(nest: TirNest, num_terms: int) -> bool:
    largest = _amplitude(nest.workload.I.dtype, num_terms) * _amplitude(nest.workload.W.dtype, num_terms)
    if nest.unpack_block is not None:
        largest = _amplitude(nest.workload.I.dtype, num_terms) * 2**nest.workload.W.elem_bits
    return _largest_sum(num_terms, largest) <= exact_limit(nest.workload.O.dtype)


def num_terms_of(nest: TirNest | Unsupported) -> int:
    """Terms of one sum."""
    if isinstance(nest, Unsupported):
        return 1
    return math.prod(nest.workload.dims[name] for name in REDUCTION_DIMS)


def multiplied_params(func: tirx.PrimFunc, blocks: Sequence[Block]) -> set[int]:
    """Parameters that a sum depends on."""
    pending = [load.source for block in blocks if block.reduces for load in loads_of(block.store.value)]
    found: set[int] = set()
    seen: list[object] = []
    while pending:
        buffer = pending.pop()
        if any(buffer.same_as(known) for known in seen):
            continue
        seen.append(buffer)
        found |= {position for position, param in enumerate(func.params) if param.same_as(buffer)}
        for block in blocks:
            if block.buffer.same_as(buffer):
                pending += [load.source for load in loads_of(block.store.value)]
    return found
