"""A Relay text as a Relax module."""

from __future__ import annotations

import collections.abc
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import tvm
from tvm import relax

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.inputs import random_array
from tvm_spm.frontend.memory import default_memory_bytes, require_memory
from tvm_spm.frontend.relay import tree
from tvm_spm.frontend.relay.arrays import Array
from tvm_spm.frontend.relay.evaluate import MAX_TUPLE_DEPTH, Evaluator
from tvm_spm.frontend.relay.metadata import CONSTANT, Constants
from tvm_spm.frontend.relay.params import ParamsLike, match_params, read_params
from tvm_spm.frontend.relay.parse import parse
from tvm_spm.frontend.relay.source import Source, split_metadata
from tvm_spm.frontend.relay.tensors import Builder, ParamUses, Tensor, Value

ENTRY = "main"
_DTYPES = ("bool", "float16", "float32", "float64", *(f"{s}int{bits}" for s in ("", "u") for bits in (8, 16, 32, 64)))
_SEED = 0
_MAX_LISTED = 8
_log = logging.getLogger(__name__)

Shapes = collections.abc.Mapping[str, tuple[int, ...]]


def import_relay(
    text: str,
    *,
    origin: str,
    params: ParamsLike = None,
    shapes: Shapes | None = None,
    max_memory_bytes: int | None = None,
) -> tvm.IRModule:
    """Import a text.

    Parameters of ``main`` that an operator takes as a weight (a kernel, a bias, statistics) are weights; a weight that
    is not given becomes a constant drawn at random, which a warning says. All others are inputs.

    Args:
        text: As ``mod.astext()`` prints it, or ``print(mod)``.
        origin: What errors call the text.
        params: Weights; see ``read_params``.
        shapes: Dims of parameters by name, where the text leaves them open.
        max_memory_bytes: Refuse weights, given or drawn, that need more; by default a quarter of this machine's memory.

    Returns:
        A module whose ``main`` takes the inputs; its attribute ``num_input`` counts them.

    Raises:
        ModelError: The text cannot be read or imported; says where.
    """
    allowed = default_memory_bytes() if max_memory_bytes is None else max_memory_bytes
    source, metadata = split_metadata(text, origin)
    program = parse(source)
    constants = Constants(source, metadata)
    _refuse_missing(source, program, constants)
    if ENTRY not in program.functions:
        names = ", ".join(f"@{name}" for name in sorted(program.functions))
        raise ModelError(f"{origin}: there is no function @{ENTRY} (there is {names}); rename the one to tune")
    main = program.functions[ENTRY]
    declared = _declared(source, main, shapes or {})
    known = match_params(
        {name: (ty.shape, ty.dtype) for name, ty in declared.items()}, read_params(params, allowed), origin
    )
    declared = {name: _with_shape(ty, known.get(name)) for name, ty in declared.items()}
    _refuse_unknown(origin, declared)
    require_memory(sum(_num_bytes(ty) for ty in declared.values()), allowed, origin, "parameters")
    evaluator = partial(Evaluator, source=source, program=program, constants=constants)
    open_names = [name for name in declared if name not in known]
    if open_names:
        roles = _build(Builder(allowed), evaluator, declared, known)[1]
        lacking = _weights(roles, open_names)
        if lacking and params is not None and not known:
            raise ModelError(
                f"{origin}: the parameters given hold no weight (at most examples, in: and out:), and "
                f"{_listed(lacking)} need one; pass the file that was written with this text"
            )
        known |= _draw(origin, declared, lacking, len(known))
    return _build(Builder(allowed), evaluator, declared, known)[0]


def _declared(source: Source, main: tree.Function, shapes: Shapes) -> dict[str, tree.TensorType]:
    found: dict[str, tree.TensorType] = {}
    for param in main.params:
        if not isinstance(param.type, tree.TensorType):
            source.refuse(param.at, f"parameter %{param.name} is no tensor of known type")
        if param.type.dtype not in _DTYPES:
            source.refuse(
                param.at,
                f"parameter %{param.name}: unknown dtype {param.type.dtype!r}: "
                f"{did_you_mean(param.type.dtype, _DTYPES)}",
            )
        if param.name in found:
            source.refuse(param.at, f"parameter %{param.name} is declared twice")
        found[param.name] = param.type
    if shapes:
        from tvm_spm.frontend.onnx.load import choose_shapes

        dims = {name: tuple("?" if dim is None else dim for dim in ty.shape) for name, ty in found.items()}
        asked = {name: dims.get(name) for name in found if name in shapes}
        chosen = choose_shapes(asked or dims, shapes, source.origin)
        found |= {name: tree.TensorType(chosen[name], found[name].dtype) for name in chosen if name in shapes}
    return found


def _with_shape(ty: tree.TensorType, array: Array | None) -> tree.TensorType:
    return ty if array is None else tree.TensorType(array.shape, ty.dtype)


def _refuse_unknown(origin: str, declared: dict[str, tree.TensorType]) -> None:
    for name, ty in declared.items():
        if None in ty.shape:
            dims = ", ".join("?" if dim is None else str(dim) for dim in ty.shape)
            example = ",".join("1" if dim is None else str(dim) for dim in ty.shape)
            raise ModelError(
                f"{origin}: input {name!r} has dims ({dims}); fix them, for example --shape {name}={example}"
            )


def _refuse_missing(source: Source, program: tree.ParsedText, constants: Constants) -> None:
    """A text printed without its constants has holes; say which."""
    used: dict[int, tree.Meta] = {}
    for function in program.functions.values():
        for expr in _expressions(function):
            if isinstance(expr, tree.Meta) and expr.key == CONSTANT:
                used.setdefault(expr.index, expr)
    missing = constants.missing(list(used.values()))
    if missing:
        listed = ", ".join(f"meta[{CONSTANT}][{meta.index}]" for meta in missing[:_MAX_LISTED])
        more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        source.refuse(
            missing[0].at,
            f"{len(missing)} constants are missing: {listed}{more}; the text has no #[metadata] section: print it with "
            "mod.astext(), which shows the metadata, not with print(mod)",
        )  # fmt: skip


def _expressions(root: tree.Expr) -> Iterator[tree.Expr]:
    """Everything inside an expression, in the order of the text; on a stack of its own."""
    stack = [root]
    while stack:
        expr = stack.pop()
        yield expr
        stack += reversed(list(_parts(expr)))


def _parts(expr: tree.Expr) -> Iterator[tree.Expr]:
    if isinstance(expr, tree.Call):
        yield expr.callee
        yield from expr.args
    elif isinstance(expr, tree.TupleOf):
        yield from expr.fields
    elif isinstance(expr, tree.TupleItem):
        yield expr.source
    elif isinstance(expr, tree.Function):
        yield expr.body
    elif isinstance(expr, tree.If):
        yield from (expr.condition, expr.then, expr.otherwise)
    elif isinstance(expr, tree.Sequence):
        yield from (step.value for step in expr.steps if step.value is not None)
        yield expr.result


def _weights(roles: ParamUses, names: list[str]) -> list[str]:
    """Parameters that are nothing but weights; one input is left in any case."""
    found = [name for name in names if name in roles.weights and name not in roles.data]
    return found if len(found) < len(names) else found[1:]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(repr(name) for name in names[:_MAX_LISTED]) + more


def _draw(origin: str, declared: dict[str, tree.TensorType], names: list[str], num_given: int) -> dict[str, Array]:
    if not names:
        return {}
    rng = np.random.default_rng(_SEED)
    drawn = {name: random_array(_dims(declared[name]), declared[name].dtype, rng, is_weight=True) for name in names}
    num_elems = sum(math.prod(array.shape) for array in drawn.values())
    beside = f" (beside {num_given} given)" if num_given else ""
    _log.warning(
        "%s: %d weight%s not given, drawn at random (%s elements): %s%s: outputs are not the network's; pass them "
        "with --params FILE",
        origin, len(names), "" if len(names) == 1 else "s", f"{num_elems:,}", _listed(names), beside,
    )  # fmt: skip
    return drawn


def _num_bytes(ty: tree.TensorType) -> int:
    try:
        itemsize = np.dtype(ty.dtype).itemsize
    except TypeError:
        itemsize = 1
    return math.prod(_dims(ty)) * itemsize


def _dims(ty: tree.TensorType) -> tuple[int, ...]:
    return tuple(extent for extent in ty.shape if extent is not None)


def _build(
    builder: Builder,
    evaluator: Callable[..., Evaluator],
    declared: dict[str, tree.TensorType],
    known: dict[str, Array],
) -> tuple[tvm.IRModule, ParamUses]:
    """The module, and what its parameters are used for."""
    inputs = [
        relax.Var(name, relax.TensorType(_dims(ty), ty.dtype)) for name, ty in declared.items() if name not in known
    ]
    by_name = {var.name: var for var in inputs}
    args: list[Value] = []
    for name, ty in declared.items():
        if name in known:
            args.append(builder.const(known[name]))
        else:
            args.append(Tensor(shape=_dims(ty), dtype=ty.dtype, expr=by_name[name], params=frozenset({name})))
    run = evaluator(builder=builder)
    try:
        with builder.relax.function(ENTRY, inputs):
            with builder.relax.dataflow():
                output = builder.relax.emit_output(_output(builder, run.run(ENTRY, args), run.source.origin))
            builder.relax.emit_func_output(output)
    except ModelError:
        # TVM leaves the function open, and says so on stderr when the builder goes.
        builder.relax._end_block()
        raise
    mod = builder.relax.get()
    mod[ENTRY] = mod[ENTRY].with_attr("num_input", len(inputs))
    return mod, builder.roles


def _output(builder: Builder, value: Value, origin: str, depth: int = 0) -> relax.Expr:
    if isinstance(value, Tensor):
        return builder.expr(value)
    if depth >= MAX_TUPLE_DEPTH:
        raise ModelError(
            f"{origin}: the result is a tuple inside {depth} tuples, at most {MAX_TUPLE_DEPTH} are written"
        )
    return relax.Tuple([_output(builder, part, origin, depth + 1) for part in value])
