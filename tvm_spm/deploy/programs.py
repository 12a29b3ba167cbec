"""The streams of a task of a network, and per call of it the tensors that are known already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_spm.arch import Arch
from tvm_spm.deploy.task_code import make_schedule
from tvm_spm.frontend.calls import ENTRY, CalledFunction, called_functions, function_calls
from tvm_spm.frontend.inputs import num_inputs, random_inputs
from tvm_spm.frontend.tir.blocks import loads_of, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.frontend.tir.vector_steps import vector_steps
from tvm_spm.mapping import Mapping
from tvm_spm.stream.encode import LayerStreams, encode
from tvm_spm.stream.errors import StreamError

DRAWN_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallTensors:
    """What one call of a task reads, by the name of the region in memory.

    Attributes:
        constants: Tensors whose elements are known.
        sources: Of the others, where they come from; of those that were drawn, what for.
    """

    constants: dict[str, NDArray[np.generic]]
    sources: dict[str, str]


def streams_of(func: tvm.tirx.PrimFunc, arch: Arch, mapping: Mapping) -> LayerStreams:
    """The streams of one function, whose scheduled code was read back and is what they say.

    Args:
        func: Not scheduled.
        arch: The accelerator.
        mapping: Of the function's nest.

    Raises:
        MappingError: The mapping is not legal.
        StreamError: The function is no nest, instructions cannot express the mapping or what follows the sum, or the
            code of the mapping does something else.
    """
    nest = read_nest(func)
    if not isinstance(nest, TirNest):
        raise StreamError(f"no stream: {nest.reason}")
    layer = encode(nest.workload, arch, mapping, vector_steps(func, nest))
    made = make_schedule(func, nest, mapping)
    if isinstance(made, str):
        raise StreamError(f"no stream: the mapping has no code: {made}")
    return layer


Weights = dict[str, NDArray[np.generic]]


def drawn_weights(mod: tvm.IRModule) -> Weights:
    """Numbers for the weights of a network that holds none, as a built-in one: those that verification draws.

    Args:
        mod: A network as ``frontend.extract`` gives it.

    Returns:
        By the name of the parameter; none for inputs, and for weights that are constants.
    """
    params, count = mod[ENTRY].params, num_inputs(mod[ENTRY])
    if count == len(params):
        return {}
    drawn = random_inputs(mod, np.random.default_rng(DRAWN_SEED))
    return {str(param): array for param, array in zip(params[count:], drawn[count:], strict=True)}


def calls_of(mod: tvm.IRModule, names: Sequence[str], weights: Weights) -> tuple[CallTensors, ...]:
    """Per call of one of some functions, in order, what it reads; one that runs many times counts as one.

    Args:
        mod: A network as ``frontend.extract`` gives it.
        names: Of functions that are one task.
        weights: Drawn for parameters.
    """
    called = called_functions(mod)
    constants = _constants(called)
    return tuple(
        _tensors(mod, call, each, constants, weights if each.name == ENTRY else {})
        for each in called for call in _calls(each.func)
        if isinstance(call.op, tvm.ir.Op) and _callee(call) in names
    )  # fmt: skip


def params_of(func: tvm.tirx.PrimFunc, nest: TirNest) -> dict[str, int]:
    """Per region that is read, the position of the parameter that is the tensor."""
    blocks = read_blocks(func)
    assert not isinstance(blocks, str)
    mac = next(block for block in blocks if block.name == nest.block)
    data = mac.sblock.reads[nest.input_read].source
    if nest.pad_block is not None:
        pad = next(block for block in blocks if block.name == nest.pad_block)
        data = loads_of(pad.store.value)[0].source
    weight = mac.sblock.reads[nest.weight_read].source

    def at(buffer: tvm.ir.Var) -> int:
        return next(i for i, param in enumerate(func.params) if param.same_as(buffer))

    extras = {f"E{number}": position for number, position in enumerate(nest.extra_params)}
    return {"I": at(data), "W": at(weight), **extras}


def _constants(called: Sequence[CalledFunction]) -> dict[relax.Var, tvm.ir.GenericConst]:
    """Parameters of functions that are the same constant in every call."""
    found: dict[relax.Var, tvm.ir.GenericConst | None] = {}
    funcs = {each.name: each.func for each in called}
    for each in called:
        for name, binding in function_calls(each.func):
            for param, argument in zip(funcs[name].params if name in funcs else (), binding.value.args, strict=False):
                given = argument if isinstance(argument, tvm.ir.GenericConst) else found.get(argument)
                is_same = param not in found or (given is not None and given.same_as(found[param]))
                found[param] = given if is_same else None
    return {param: constant for param, constant in found.items() if constant is not None}


def _calls(func: relax.Function) -> Iterator[relax.Call]:
    for block in func.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.value


def _callee(call: relax.Call) -> str:
    return str(call.args[0].name_hint) if call.op.name.startswith("relax.call_tir") else ""


def _tensors(
    mod: tvm.IRModule,
    call: relax.Call,
    caller: CalledFunction,
    known: dict[relax.Var, tvm.ir.GenericConst],
    weights: Weights,
) -> CallTensors:
    func = mod[_callee(call)]
    nest = read_nest(func)
    assert isinstance(nest, TirNest)
    constants: dict[str, NDArray[np.generic]] = {}
    sources: dict[str, str] = {}
    params = [str(param) for param in caller.func.params]
    place = "the network" if caller.name == ENTRY else caller.name
    for region, position in params_of(func, nest).items():
        argument = call.args[1][position]
        argument = known.get(argument, argument)
        if isinstance(argument, tvm.ir.GenericConst):
            constants[region] = argument.value.numpy()
        else:
            name = str(argument)
            sources[region] = f"parameter {name} of {place}" if name in params else f"result {name}"
            if name in weights:
                constants[region] = weights[name]
                sources[region] = f"drawn for {sources[region]}, seed {DRAWN_SEED}"
    return CallTensors(constants=constants, sources=sources)
