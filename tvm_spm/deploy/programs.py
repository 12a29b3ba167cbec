"""The streams of a task of a network, and per call of it the tensors that are known already."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from tvm_spm.arch import Arch
from tvm_spm.deploy.network import make_schedule
from tvm_spm.frontend.calls import ENTRY, CalledFunction, called_functions, function_calls
from tvm_spm.frontend.tir.blocks import loads_of, read_blocks
from tvm_spm.frontend.tir.nest import TirNest, read_nest
from tvm_spm.frontend.tir.vector_steps import vector_steps
from tvm_spm.mapping import Mapping
from tvm_spm.stream.encode import LayerStreams, encode
from tvm_spm.stream.errors import StreamError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CallTensors:
    """What one call of a task reads, by the name of the region in memory.

    Attributes:
        constants: Tensors whose elements are known.
        sources: Of the others, where they come from.
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


def calls_of(mod: tvm.IRModule, names: Sequence[str]) -> tuple[CallTensors, ...]:
    """Per call of one of some functions, in order, what it reads; one that runs many times counts as one.

    Args:
        mod: A network as ``frontend.extract`` gives it.
        names: Of functions that are one task.
    """
    called = called_functions(mod)
    constants = _constants(called)
    return tuple(
        _tensors(mod, call, each, constants)
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
    return CallTensors(constants=constants, sources=sources)
