"""The instructions of one core as values; addresses and strides are bytes, dims and operands go by their letters.

Tuples hold one number per operand (I, W, O), per dim (``N G K C OY OX FY FX``) or per axis of a box, outermost first.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm_spm.stream.errors import StreamError

MOST_AXES = 5
"""Axes of a tile along which it holds more than one element."""

_NUM_SOURCES = {"const": 0, "extra": 0, "select": 3, "qmul": 3} | dict.fromkeys(
    ("cast", "abs", "sqrt", "rsqrt", "exp", "log", "tanh", "sigmoid", "erf", "floor", "ceil", "round", "trunc"), 1
)

MOST_INSTRUCTIONS = 1 << 20
"""Longest stream: about as many passes take minutes to encode, and the words of a longer one would be no small file."""


def num_sources(operation: str) -> int:
    """Registers an operation takes."""
    return _NUM_SOURCES.get(operation, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class NestSetup:
    """The loops inside a pass and what enters the array when one of them moves; first instruction of a stream.

    Attributes:
        loops: Dims of the loops over array tiles in SPM, outermost first.
        rf_double: Per operand, whether a PE has two buffers for it.
        spm_double: Per operand, whether SPM has; where instructions stand says it too.
        spills: Whether any partial sum leaves SPM.
        depths: Per operand, how many outer loops make its tile another one: when loop ``m`` moves, an operand enters
            (and outputs leave) if ``m`` is less.
        dtypes: Of I and W, of a sum, and of a finished output in DRAM.
        reducing: PEs along rows and along columns that add up one sum.
        num_ops_per_elem: Operations of the vector unit that are timed for one finished output.
        num_passes: ``run`` instructions in the stream.
        rf_addresses: First and second buffer of I, of W, of O; both the same if there is one.
        rf_bytes: Of one PE that are used.
        num_vector_steps: ``vector`` instructions in the stream.
    """

    loops: tuple[str, ...]
    rf_double: tuple[int, int, int]
    spm_double: tuple[int, int, int]
    spills: int
    depths: tuple[int, int, int]
    dtypes: tuple[str, str, str, str]
    reducing: tuple[int, int]
    num_ops_per_elem: int
    num_passes: int
    rf_addresses: tuple[int, int, int, int, int, int]
    rf_bytes: int
    num_vector_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DimSetup:
    """One dim: how the array divides it, and how far an index of it is from the next in tiles.

    Attributes:
        dim: Which.
        array: Elements that all PEs hold together, ``rows * cols * rf``.
        rows: Factor along the rows of PEs.
        cols: Factor along the columns.
        rf: Elements that one PE holds.
        spm_steps: Per operand, bytes in its SPM tile; 0 if it does not depend on the dim.
        rf_steps: Per operand, bytes in its RF tile.
    """

    dim: str
    array: int
    rows: int
    cols: int
    rf: int
    spm_steps: tuple[int, int, int]
    rf_steps: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisSetup:
    """One axis of an operand's tile: it spans ``1 + sum(coefficient * (elements of the dim - 1))`` elements.

    Attributes:
        operand: Whose.
        axis: Its number, 0 is outermost.
        dims: That index the axis.
        coefficients: Of each of them.
        spm_stride: Bytes from one element to the next in SPM.
        rf_stride: Likewise in RF.
    """

    operand: str
    axis: int
    dims: tuple[str, ...]
    coefficients: tuple[int, ...]
    spm_stride: int
    rf_stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStep:
    """One operation on every finished output; register 0 holds the sum at first, the last step's result is stored.

    Attributes:
        operation: One of ``layout.OPERATIONS``.
        dtype: Of the result; whole numbers wrap.
        target: Register of the result.
        sources: Registers it is made of; those that an operation does not take are 0.
        immediate: 64 bits: the bits of a constant, or the number of an extra.
    """

    operation: str
    dtype: str
    target: int
    sources: tuple[int, int, int] = (0, 0, 0)
    immediate: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadTile:
    """A tile from DRAM into SPM, for the pass ``number``; what of its box lies outside of the tensor becomes 0.

    Attributes:
        operand: Whose; outputs are partial sums that come back.
        buffer: Which of two in SPM.
        dtype: Of an element.
        number: Of the pass.
        dram: Address of the first element that moves; 0 if none moves.
        spm: Address of the box.
        num_bursts: Contiguous runs in DRAM; 0 if nothing of the box lies in the tensor.
        burst_bytes: Of one run, before it is rounded to what the memory moves.
        counts: Per axis, elements that move.
        dram_strides: Per axis.
        spm_strides: Per axis.
        fronts: Per axis, zeros in front of the elements that move.
        backs: Per axis, zeros behind them.
    """

    operand: str
    buffer: int
    dtype: str
    number: int
    dram: int
    spm: int
    num_bursts: int
    burst_bytes: int
    counts: tuple[int, ...]
    dram_strides: tuple[int, ...]
    spm_strides: tuple[int, ...]
    fronts: tuple[int, ...]
    backs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTile:
    """A tile of outputs from SPM into DRAM, after the pass ``number``.

    Attributes:
        operand: Always O.
        buffer: Which of two in SPM.
        is_final: Whether it passes the vector unit; otherwise it holds partial sums, stored as they are.
        dtype: Of an element in DRAM.
        number: Of the pass.
        dram: Address of the first element.
        spm: Address of the box.
        num_bursts: Contiguous runs in DRAM, gaps included.
        burst_bytes: Of one run, before it is rounded to what the memory moves.
        counts: Per axis, elements of the box.
        dram_strides: Per axis.
        spm_strides: Per axis.
        periods: Per axis, see ``runs``.
        runs: Per axis: the element at ``p`` is written if ``p % period < run``; others belong to another tile.
    """

    operand: str
    buffer: int
    is_final: int
    dtype: str
    number: int
    dram: int
    spm: int
    num_bursts: int
    burst_bytes: int
    counts: tuple[int, ...]
    dram_strides: tuple[int, ...]
    spm_strides: tuple[int, ...]
    periods: tuple[int, ...]
    runs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamExtra:
    """What the vector unit reads from DRAM beside the tile of the store that follows; part of that one transfer.

    Attributes:
        extra: Its number.
        dtype: Of an element.
        number: Of the pass.
        dram: Address of the first element.
        buffer: Address of the box in the stream buffer of the vector unit.
        num_bursts: Contiguous runs in DRAM.
        burst_bytes: Of one run, before it is rounded to what the memory moves.
        counts: Per axis, elements of the box.
        dram_strides: Per axis.
        buffer_strides: Per axis.
        steps: Per axis of the store, bytes in the stream buffer from one output of a run to the next.
        period_steps: Per axis of the store, from one period to the next.
    """

    extra: int
    dtype: str
    number: int
    dram: int
    buffer: int
    num_bursts: int
    burst_bytes: int
    counts: tuple[int, ...]
    dram_strides: tuple[int, ...]
    buffer_strides: tuple[int, ...]
    steps: tuple[int, ...]
    period_steps: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPass:
    """One pass of the array over the tiles in SPM.

    Attributes:
        number: Of the pass, from 0.
        loads_i: Whether I enters the array before the first step.
        loads_w: Whether W does.
        reads_o: Whether sums are read back before the first step.
        clears_o: Whether sums start at 0 there; if neither, those of the pass before stay in the PEs.
        o_leaves: Whether sums leave the array after the last step.
        buffers: Per operand, which of two in SPM.
        spm: Per operand, address of its tile.
        counts: Per dim, array tiles.
        lasts: Per dim, elements of the last of them; the others are full.
    """

    number: int
    loads_i: int
    loads_w: int
    reads_o: int
    clears_o: int
    o_leaves: int
    buffers: tuple[int, int, int]
    spm: tuple[int, int, int]
    counts: tuple[int, ...]
    lasts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sync:
    """Nothing behind it starts before the units it names have finished all they were given.

    Attributes:
        array: Whether the PE array is waited for.
        dma: Whether the DMA engine is, with the vector unit.
    """

    array: int = 1
    dma: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """The last instruction."""


Setup = NestSetup | DimSetup | AxisSetup | VectorStep
Transfer = LoadTile | StoreTile | StreamExtra
Instruction = Setup | Transfer | RunPass | Sync | End


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHead:
    """What a stream needs of the machine.

    Attributes:
        core: Its number.
        num_cores: That run the layer together, each with a stream of its own.
        arch: First 32 bits of the hash of the accelerator's numbers.
        dram_bytes: Of the memory image that all cores share.
        spm_bytes: Of SPM that are used: all in the first number, or per operand if it is split.
        is_split: Whether each operand has a scratchpad of its own.
        rf_bytes: Of one PE that are used.
        buffer_bytes: Of the vector unit's stream buffer that are used.
    """

    core: int
    num_cores: int
    arch: int
    dram_bytes: int
    spm_bytes: tuple[int, int, int]
    is_split: int
    rf_bytes: int
    buffer_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One layer on one core."""

    head: StreamHead
    instructions: tuple[Instruction, ...]

    def __post_init__(self) -> None:
        ends = [number for number, each in enumerate(self.instructions) if isinstance(each, End)]
        if len(self.instructions) > MOST_INSTRUCTIONS:
            raise StreamError(f"stream of {len(self.instructions):,} instructions: must be <= {MOST_INSTRUCTIONS:,}")
        if not ends or ends[0] != len(self.instructions) - 1:
            where = f"'end' is number {ends[0]:,}" if ends else "none is 'end', it is cut short"
            raise StreamError(f"stream of {len(self.instructions):,} instructions: {where}; 'end' must be the last")
