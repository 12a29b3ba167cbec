"""What a core is fed: registers that configure it, and two lists of instructions, made of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tvm_spm.arch import Arch
from tvm_spm.rtl.epilogue import VectorCode, vector_code
from tvm_spm.rtl.errors import RtlError
from tvm_spm.stream.check import require_program
from tvm_spm.stream.instructions import (
    AxisSetup,
    DimSetup,
    LoadTile,
    NestSetup,
    RunPass,
    StoreTile,
    Stream,
    StreamExtra,
    Sync,
    VectorStep,
)
from tvm_spm.stream.layout import DTYPES
from tvm_spm.workload import DIM_NAMES, REDUCTION_DIMS, Operand, dtype_bits

Words = NDArray[np.uint32]

PASS_WORDS, TRANSFER_WORDS = 12, 68

_LOAD, _STORE, _EXTRA = range(3)
"""Kinds of transfer."""

_PARTIAL, _FINAL, _STREAMED = 2, 3, 4
"""What a transfer counts as, behind I and W."""

_AXES, _EXTRAS = 4, 4
_PLACES = 120
"""Register of the first row of PEs."""

_INPUT_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
_SUM_TYPES = ("int8", "int16", "int32")
_OUT_TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32")
_MOST_HALF, _MOST_WORD = 0xFFFF, 0xFFFFFFFF
_EVERYWHERE = (0, _MOST_HALF)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreProgram:
    """One layer as the core reads it.

    Attributes:
        registers: Values, by number.
        passes: One row of ``PASS_WORDS`` per pass.
        transfers: One row of ``TRANSFER_WORDS`` per transfer that moves anything.
        dram_bytes: Of the memory image.
    """

    registers: Words
    passes: Words
    transfers: Words
    dram_bytes: int


@dataclass
class _Layer:
    """What of a stream is read before the first transfer."""

    nest: NestSetup
    dims: dict[str, DimSetup] = field(default_factory=dict)
    axes: dict[str, list[AxisSetup]] = field(default_factory=lambda: {operand.name: [] for operand in Operand})
    steps: list[VectorStep] = field(default_factory=list)


def core_program(stream: Stream, arch: Arch) -> CoreProgram:
    """The words of a stream for the only core of ``arch``.

    Raises:
        RtlError: The stream uses types, axes or operations that the hardware has not, or numbers beyond its words.
        StreamError: See ``require_program``.
    """
    require_program(stream)
    if stream.head.num_cores != 1:
        raise RtlError(f"stream of core {stream.head.core} of {stream.head.num_cores}: hardware has 1 core")
    layer = _read_layer(stream)
    code = vector_code(layer.steps, layer.nest)
    bases = _spm_bases(stream, arch)
    passes, transfers = _lists(stream, layer, bases, code)
    registers = _registers(arch, layer, code, len(passes), len(transfers))
    return CoreProgram(
        registers=registers,
        passes=_as_words(passes, "passes").reshape(-1, PASS_WORDS),
        transfers=_as_words(transfers, "transfers").reshape(-1, TRANSFER_WORDS),
        dram_bytes=stream.head.dram_bytes,
    )


def _as_words(rows: Sequence[Sequence[int]], what: str) -> Words:
    most = max((value for row in rows for value in row), default=0)
    if most > _MOST_WORD:
        raise RtlError(f"value {most:,} in the {what}: a word of hardware has 32 bits, must be <= {_MOST_WORD:,}")
    return np.array(rows, dtype=np.uint32)


def _read_layer(stream: Stream) -> _Layer:
    nest = stream.instructions[0]
    if not isinstance(nest, NestSetup):
        raise RtlError("stream without 'nest' as its first instruction")
    layer = _Layer(nest)
    for each in stream.instructions:
        if isinstance(each, DimSetup):
            layer.dims[each.dim] = each
        elif isinstance(each, AxisSetup):
            layer.axes[each.operand].append(each)
        elif isinstance(each, VectorStep):
            layer.steps.append(each)
    for operand, axes in layer.axes.items():
        if len(axes) > _AXES:
            raise RtlError(f"tile of {operand} has {len(axes)} axes: hardware walks <= {_AXES}")
    i_type, w_type, sum_type, out_type = nest.dtypes
    for what, dtype, known in (
        ("I", i_type, _INPUT_TYPES), ("W", w_type, _INPUT_TYPES), ("a sum", sum_type, _SUM_TYPES),
        ("O", out_type, _OUT_TYPES),
    ):  # fmt: skip
        if dtype not in known:
            raise RtlError(f"dtype {dtype} of {what}: hardware computes with {', '.join(known)}")
    if dtype_bits(out_type) > dtype_bits(sum_type):
        raise RtlError(f"outputs of {out_type} from sums of {sum_type}: must be <= {dtype_bits(sum_type)} bits")
    return layer


def _spm_bases(stream: Stream, arch: Arch) -> tuple[int, int, int]:
    """Where the address spaces of I, W and O begin: hardware has one scratchpad."""
    spm = arch.levels.SPM
    for operand, used in zip(Operand, stream.head.spm_bytes, strict=True):
        if used > spm.capacity_of(operand):
            raise RtlError(f"spm_bytes {used:,}: {arch.name} has an SPM of {spm.capacity_of(operand):,} B")
    if not stream.head.is_split:
        return 0, 0, 0
    return 0, spm.capacity_of(Operand.I), spm.capacity_of(Operand.I) + spm.capacity_of(Operand.W)


# registers ------------------------------------------------------------------------------------------------------------


def _halves(values: Sequence[int]) -> list[int]:
    """Words of pairs of 16 bits."""
    for value in values:
        if value > _MOST_HALF:
            raise RtlError(f"value {value:,} of the set-up or a tile: hardware has 16 bits, must be <= {_MOST_HALF:,}")
    return [low & 0xFFFF | (high & 0xFFFF) << 16 for low, high in zip(values[::2], values[1::2], strict=True)]


def _registers(arch: Arch, layer: _Layer, code: VectorCode, num_passes: int, num_transfers: int) -> Words:
    nest, dims = layer.nest, [layer.dims[name] for name in DIM_NAMES]
    i_type, w_type, sum_type, out_type = nest.dtypes
    sizes = [dtype_bits(dtype) // 8 for dtype in nest.dtypes]
    signs = (not i_type.startswith("u")) | (not w_type.startswith("u")) << 1
    double = sum(flag << place for place, flag in enumerate(nest.rf_double))
    rf_steps = [dim.rf_steps[operand.value] for operand in Operand for dim in dims]
    terms, spm_strides, rf_strides = [], [], []
    for operand in Operand:
        for place in range(_AXES):
            axis = layer.axes[operand.name][place] if place < len(layer.axes[operand.name]) else None
            terms += _terms(axis)
            spm_strides.append(axis.spm_stride if axis else 0)
            rf_strides.append(axis.rf_stride if axis else 0)
    values = [
        len(nest.loops) | double << 4 | signs << 8 | DTYPES.index(sum_type) << 12 | code.num_ops << 16 | sizes[3] << 24,
        sum(DIM_NAMES.index(name) << 4 * place for place, name in enumerate(nest.loops)),
        sum(depth << 4 * place for place, depth in enumerate(nest.depths))
        | sum(size << 12 + 4 * place for place, size in enumerate(sizes[:3])),
        nest.reducing[0] | nest.reducing[1] << 16,
        num_passes,
        num_transfers,
        *_halves(nest.rf_addresses),
        *_halves([dim.array for dim in dims]),
        *_halves([dim.rf for dim in dims]),
        *_halves(rf_steps),
        *terms,
        *spm_strides,
        *_halves(rf_strides),
        *code.words,
        _holes(layer.axes[Operand.O.name]),
    ]
    assert len(values) == _PLACES, len(values)
    for factors, scales, count in (
        ([dim.rows for dim in dims], [dim.cols * dim.rf for dim in dims], arch.pe.rows),
        ([dim.cols for dim in dims], [dim.rf for dim in dims], arch.pe.cols),
    ):
        for number in range(count):
            values += _place(number, factors, scales, layer.axes)
    return _as_words([values], "registers").reshape(-1)


def _terms(axis: AxisSetup | None) -> list[int]:
    """Words of an axis: the dims of its two terms, and how far an index of each goes."""
    terms = list(zip(axis.dims, axis.coefficients, strict=True)) if axis else []
    if len(terms) > 2:
        raise RtlError(f"axis over {' '.join(name for name, _ in terms)}: hardware has axes over <= 2 dims")
    for name, far in terms:
        if far > _MOST_HALF:
            raise RtlError(f"coefficient {far:,} of {name}: hardware has 16 bits, must be <= {_MOST_HALF:,}")
    terms += [("N", 0)] * (2 - len(terms))
    packed = sum(DIM_NAMES.index(name) << 4 * place | far << 8 + 16 * place for place, (name, far) in enumerate(terms))
    return [packed & 0xFFFFFFFF, packed >> 32]


def _holes(axes: Sequence[AxisSetup]) -> int:
    """The axis of outputs along which a tile may skip channels of other groups, and how far groups are apart."""
    found = 0
    for place, axis in enumerate(axes):
        if len(axis.dims) == 1:
            continue
        factors = dict(zip(axis.dims, axis.coefficients, strict=True))
        if set(factors) != {"G", "K"} or factors["K"] != 1:
            raise RtlError(
                f"axis {place} of O over {' '.join(axis.dims)}: hardware has axes over one dim, or over G and K"
            )
        found = factors["G"] | place << 16
    return found


def _place(number: int, factors: Sequence[int], scales: Sequence[int], axes: dict[str, list[AxisSetup]]) -> list[int]:
    """Words of one row or column: offsets of its pieces, its number in a sum, whether it is used, where they begin.

    PEs that add up one sum are neighbours: the summed dims are the fastest digits of the number. Pieces of I, W and O
    begin at an index along each axis, and at a byte of what an array tile would take in RF.
    """
    summed = [place for place, name in enumerate(DIM_NAMES) if name in REDUCTION_DIMS]
    others = [place for place in range(len(DIM_NAMES)) if place not in summed]
    offsets, in_sum, weight = [0] * len(DIM_NAMES), 0, 1
    for place in reversed(others + summed):
        digit, number = number % factors[place], number // factors[place]
        offsets[place] = digit * scales[place]
        if place in summed:
            in_sum += digit * weight
            weight *= factors[place]
    bases, addresses = [], []
    for operand in Operand:
        found = [
            sum(far * offsets[DIM_NAMES.index(name)] for name, far in zip(axis.dims, axis.coefficients, strict=True))
            for axis in axes[operand.name]
        ]
        bases += [*found, *[0] * (_AXES - len(found))]
        addresses.append(sum(base * axis.rf_stride for base, axis in zip(found, axes[operand.name], strict=True)))
    return [
        *_halves(offsets),
        in_sum & 0xFF | (0x100 if number == 0 else 0),
        *_halves(bases),
        *_halves([*addresses, 0]),
    ]


# instructions ---------------------------------------------------------------------------------------------------------


def _lists(
    stream: Stream, layer: _Layer, bases: tuple[int, int, int], code: VectorCode
) -> tuple[list[list[int]], list[list[int]]]:
    """Passes and transfers, each transfer with the slot it belongs to."""
    passes: list[list[int]] = []
    transfers: list[list[int]] = []
    inside: dict[int, list[tuple[int, int]]] = {}
    extras: list[StreamExtra] = []
    is_after = False
    for each in stream.instructions:
        if isinstance(each, Sync):
            is_after = bool(passes)
        elif isinstance(each, RunPass):
            passes.append(_pass(each, layer, bases, inside.get(each.buffers[0], [])))
            is_after = False
        elif isinstance(each, LoadTile):
            if each.operand == "I":
                inside[each.buffer] = _inside(each, layer)
            if each.num_bursts:
                transfers.append(_load(each, bases, len(passes), is_after))
        elif isinstance(each, StreamExtra):
            extras.append(each)
        elif isinstance(each, StoreTile):
            transfers += _stores(each, bases[2], extras, code, (len(passes), is_after))
            extras = []
    for this, following in zip(transfers, [*transfers[1:], None], strict=True):
        if following is None or following[1] != this[1]:
            this[0] |= 1 << 3
    return passes, transfers


def _pass(run: RunPass, layer: _Layer, bases: tuple[int, int, int], inside: list[tuple[int, int]]) -> list[int]:
    tile = [
        (count - 1) * layer.dims[name].array + last
        for name, count, last in zip(DIM_NAMES, run.counts, run.lasts, strict=True)
    ]
    bounds = [*inside, *[_EVERYWHERE] * (_AXES - len(inside))]
    flags = run.loads_i | run.loads_w << 1 | run.reads_o << 2 | run.o_leaves << 3 | run.clears_o << 4
    return [
        flags, *(base + address for base, address in zip(bases, run.spm, strict=True)), *_halves(tile),
        *_halves([low for low, _ in bounds]), *_halves([high for _, high in bounds]),
    ]  # fmt: skip


def _inside(load: LoadTile, layer: _Layer) -> list[tuple[int, int]]:
    """Per axis of I that hardware walks, first index of the tile that is no padding, and the one behind the last."""
    axes = layer.axes["I"]
    if not load.num_bursts:
        return [(0, 0)] * _AXES
    found = [_EVERYWHERE] * len(axes)
    for count, stride, front, back in zip(load.counts, load.spm_strides, load.fronts, load.backs, strict=True):
        if front or back:
            place = next((place for place, axis in enumerate(axes) if axis.spm_stride == stride), None)
            if place is None:
                strides = ", ".join(f"{axis.spm_stride:,}" for axis in axes)
                raise RtlError(f"padded axis of I with spm_stride {stride:,}: hardware pads axes set up, {strides}")
            found[place] = (front, front + count)
    return found


def _boxed(values: Sequence[int], unused: int) -> list[int]:
    return [unused] * (5 - len(values)) + list(values)


def _transfer(
    kind: int,
    what: int,
    place: tuple[int, bool],
    each: LoadTile | StoreTile | StreamExtra,
    spm: tuple[int, Sequence[int]],
) -> list[int]:
    slot, is_after = place
    address, strides = spm
    size = dtype_bits(each.dtype) // 8
    head = kind | (slot > 0 and is_after) << 2 | size << 8 | what << 12
    box = [*_boxed(each.counts, 1), *_boxed(each.dram_strides, 0), *_boxed(strides, 0)]
    return [head, slot, each.dram, address, *box]


def _load(load: LoadTile, bases: tuple[int, int, int], slot: int, is_after: bool) -> list[int]:
    operand = Operand[load.operand].value
    start = bases[operand] + load.spm + sum(f * s for f, s in zip(load.fronts, load.spm_strides, strict=True))
    words = _transfer(_LOAD, operand, (slot, is_after), load, (start, load.spm_strides))
    return [*words, *[1] * 10, *[0] * (7 * _EXTRAS + 11)]


def _stores(
    store: StoreTile, base: int, extras: Sequence[StreamExtra], code: VectorCode, place: tuple[int, bool]
) -> list[list[int]]:
    """A store, which says what the vector unit works on meanwhile, and before it the extras for that."""
    if len(extras) > _EXTRAS:
        raise RtlError(f"{len(extras)} extras of an epilogue: hardware streams <= {_EXTRAS}")
    what = _FINAL if store.is_final else _PARTIAL
    streams = [[0] * 7 for _ in range(_EXTRAS)]
    for extra in extras:
        if extra.extra >= _EXTRAS:
            raise RtlError(f"extra {extra.extra} of an epilogue: hardware numbers them < {_EXTRAS}")
        streams[extra.extra] = [extra.buffer, *_boxed(extra.steps, 0), DTYPES.index(extra.dtype)]
    work = [word for stream in streams for word in stream]
    work += [base + store.spm, *_boxed(store.counts, 1), *_boxed(store.spm_strides, 0)]
    found = []
    for extra in extras:
        words = _transfer(_EXTRA, _STREAMED, place, extra, (extra.buffer, extra.buffer_strides))
        found.append([*words, *[1] * 10, *[0] * len(work)])
    words = _transfer(_STORE, what, place, store, (base + store.spm, store.spm_strides))
    words[0] |= bool(store.is_final and code.num_ops) << 4
    found.append([*words, *_boxed(store.periods, 1), *_boxed(store.runs, 1), *work])
    return found
