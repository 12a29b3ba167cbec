"""The operations of the vector unit as words of its program: few registers, constants and extras as sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_spm.rtl.errors import RtlError
from tvm_spm.stream.instructions import NestSetup, VectorStep
from tvm_spm.stream.layout import DTYPES, OPERATIONS
from tvm_spm.workload import dtype_bits

_OPS, _REGISTERS, _CONSTANTS = 16, 8, 8
_FIRST_CONSTANT, _FIRST_EXTRA, _SUM = 8, 16, 31
"""Sources: registers, constants, extras and the sum have numbers of their own."""

_BOTH = ("abs", "add", "cast", "div", "eq", "le", "lt", "max", "min", "mul", "ne", "select", "sub")
_OF_INTEGERS = frozenset((*_BOTH, "and", "or", "qmul", "shl", "shr", "truncmod", "xor"))
_OF_FLOATS = frozenset((*_BOTH, "ceil", "floor", "round", "trunc"))
_NUM_SOURCES = {"cast": 1, "select": 3, "qmul": 3} | dict.fromkeys(("abs", "ceil", "floor", "round", "trunc"), 1)

_TYPES = (*DTYPES[:7], "float32")


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorCode:
    """What the vector unit runs for one output.

    Attributes:
        num_ops: Operations that take time.
        words: Registers of the core: the program, then its constants.
    """

    num_ops: int
    words: tuple[int, ...]


def vector_code(steps: Sequence[VectorStep], nest: NestSetup) -> VectorCode:
    """The program of an epilogue; a layer that only says how many operations it takes gets as many that change nothing.

    Raises:
        RtlError: An operation or a type that the hardware has not, or more of something than it has.
    """
    constants: list[int] = []
    sources, types = {0: _SUM}, {0: nest.dtypes[2]}
    program: list[int] = []
    last_use = {source: place for place, step in enumerate(steps) for source in step.sources[: _num_sources(step)]}
    free = list(range(_REGISTERS))
    in_use: dict[int, int] = {}
    for place, step in enumerate(steps):
        known_type = types.get(step.sources[0], step.dtype)
        types[step.target] = step.dtype
        if step.dtype not in _TYPES:
            raise RtlError(f"dtype {step.dtype} in an epilogue: hardware computes with {', '.join(_TYPES)}")
        if step.operation == "const":
            if len(constants) == _CONSTANTS:
                raise RtlError(f"epilogue with more than {_CONSTANTS} constants: hardware holds <= {_CONSTANTS}")
            constants.append(_signed(step.immediate, step.dtype))
            sources[step.target] = _FIRST_CONSTANT + len(constants) - 1
        elif step.operation == "extra":
            sources[step.target] = _FIRST_EXTRA + step.immediate
        else:
            used = [sources[source] for source in step.sources[: _num_sources(step)]]
            for register in [register for register, last in in_use.items() if last <= place]:
                free.append(register)
                del in_use[register]
            if not free:
                raise RtlError(f"epilogue with more than {_REGISTERS} values alive: hardware holds <= {_REGISTERS}")
            target = free.pop(0)
            in_use[target] = last_use.get(step.target, place)
            sources[step.target] = target
            program.append(_word(step, known_type, target, used))
    if steps and steps[-1].operation in ("const", "extra"):
        code = DTYPES.index(steps[-1].dtype)
        program.append(OPERATIONS["cast"] | code << 8 | code << 12 | sources[steps[-1].target] << 24)
    if not program:
        copy = OPERATIONS["cast"] | DTYPES.index(nest.dtypes[3]) << 8 | _SUM << 24
        program = [copy] * nest.num_ops_per_elem
    if len(program) > _OPS:
        raise RtlError(f"epilogue of {len(program)} operations: hardware holds <= {_OPS}")
    words: list[int] = []
    for values, length in ((program, _OPS), (constants, _CONSTANTS)):
        for value in [*values, *[0] * (length - len(values))]:
            words += [value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF]
    return VectorCode(num_ops=len(program), words=tuple(words))


def _num_sources(step: VectorStep) -> int:
    return 0 if step.operation in ("const", "extra") else _NUM_SOURCES.get(step.operation, 2)


def _word(step: VectorStep, known_type: str, target: int, sources: Sequence[int]) -> int:
    """An operation on what its first source has as type, which alone says how others are meant."""
    known = _OF_FLOATS if known_type == "float32" else _OF_INTEGERS
    if step.operation not in known:
        raise RtlError(f"epilogue operation {step.operation} of {known_type}: hardware has {', '.join(sorted(known))}")
    found = OPERATIONS[step.operation] | DTYPES.index(step.dtype) << 8 | DTYPES.index(known_type) << 12 | target << 16
    return found | sum(source << 24 + 8 * place for place, source in enumerate(sources))


def _signed(bits: int, dtype: str) -> int:
    """A constant of ``dtype``, extended to 64 bits."""
    width = dtype_bits(dtype)
    value = bits & (1 << width) - 1
    if dtype.startswith("int") and value >> width - 1:
        value -= 1 << width
    return value & (1 << 64) - 1
