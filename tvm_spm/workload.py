"""What is computed: loop extents and how the operands ``I W O`` are indexed by them; no hardware, no decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tvm_spm.axes import (
    DIM_NAMES,
    MAX_DIM,
    MAX_ELEM_BITS,
    MAX_EXTENT,
    MAX_MACS,
    REDUCTION_DIMS,
    Axis,
    Dims,
    Operand,
    Projection,
    Window,
    check_axis,
    dtype_bits,
    grouped_axis,
    require_positive,
    sliding_axis,
)
from tvm_spm.errors import WorkloadError
from tvm_spm.units import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Epilogue:
    """Element-wise work on finished outputs, done by the vector unit while a tile leaves SPM.

    ``extras`` are tensors read once per output tile (a bias, a residual); they stream through and hold no SPM.
    """

    num_ops_per_elem: int = 0
    extras: tuple[Projection, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A multiply-accumulate loop nest: ``O[...] += I[...] * W[...]`` over ``dims``."""

    kind: str
    dims: Dims
    I: Projection  # noqa: E741
    W: Projection
    O: Projection  # noqa: E741
    out_dtype: str
    epilogue: Epilogue = Epilogue()

    def __post_init__(self) -> None:
        for operand in Operand:
            seen: set[str] = set()
            for axis in self.projection(operand).axes:
                names = {name for name, _ in axis.terms}
                if seen & names:
                    raise WorkloadError(f"operand {operand.name}: dim {sorted(seen & names)[0]} indexes two axes")
                seen |= names
                check_axis(f"operand {operand.name}", axis)
        for dtype in (*(self.projection(operand).dtype for operand in Operand), self.out_dtype):
            dtype_bits(dtype)
        for name in DIM_NAMES:
            if self.dims[name] > MAX_EXTENT:
                raise WorkloadError(
                    f"{self.kind}: extent {name} = {self.dims[name]:,}: must be <= {MAX_EXTENT:,}; split the layer "
                    f"along {name}"
                )
        if self.macs > MAX_MACS:
            raise WorkloadError(
                f"{self.kind} {self.dims}: {shown(self.macs)} multiply-accumulates: must be <= {MAX_MACS:,}; "
                "split the layer"
            )
        for projection in (*(self.projection(operand) for operand in Operand), *self.epilogue.extras):
            if projection.tensor_elems() > MAX_MACS:
                raise WorkloadError(
                    f"{self.kind} {self.dims}: a tensor of {shown(projection.tensor_elems())} elements: must be "
                    f"<= {MAX_MACS:,}; split the layer"
                )

    def projection(self, operand: Operand) -> Projection:
        """The projection of one operand."""
        return (self.I, self.W, self.O)[operand.value]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole nest, those on padding included."""
        return self.dims.product()

    @property
    def out_bits(self) -> int:
        """Element width of the tensor finally written; partial sums have ``O.elem_bits``."""
        return dtype_bits(self.out_dtype)

    def final_projection(self) -> Projection:
        """The output as it is written to DRAM after the epilogue."""
        return replace(self.O, dtype=self.out_dtype)

    def __str__(self) -> str:
        types = f"{self.I.dtype}x{self.W.dtype}->{self.O.dtype}"
        if self.out_dtype != self.O.dtype:
            types += f"->{self.out_dtype}"
        return f"{self.kind} {self.dims} {types}"

    @classmethod
    def conv2d(
        cls,
        *,
        N: int = 1,
        K: int,
        C: int,
        OY: int,
        OX: int,
        FY: int,
        FX: int,
        stride: int | tuple[int, int] = 1,
        dilation: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
        groups: int = 1,
        IY: int | None = None,
        IX: int | None = None,
        dtype: str = "int16",
        out_dtype: str | None = None,
        layout: str = "NCHW",
    ) -> Workload:
        """A convolution; ``K`` and ``C`` are the channels of the whole layer, over all groups.

        Args:
            N: Batch.
            K: Output channels.
            C: Input channels.
            OY: Output rows.
            OX: Output columns.
            FY: Filter rows.
            FX: Filter columns.
            stride: One number, or (vertical, horizontal).
            dilation: One number, or (vertical, horizontal).
            padding: One number, (vertical, horizontal) or (top, left, bottom, right).
            groups: Divides K and C; ``groups == C`` is a depthwise convolution.
            IY: Input rows without padding; a stride leaves them open. Default: the smallest that fits.
            IX: Input columns without padding; like ``IY``.
            dtype: Of input and weight.
            out_dtype: Of the accumulated output; default ``dtype``.
            layout: ``NCHW`` (weights OIHW) or ``NHWC`` (weights HWIO).

        Raises:
            WorkloadError: An extent is not a positive integer, groups do not divide the channels, or the padded
                input is smaller than the outputs need.
        """
        for name, value in {"N": N, "K": K, "C": C, "OY": OY, "OX": OX, "FY": FY, "FX": FX, "groups": groups}.items():
            require_positive(f"conv2d: {name}", value)
        for name, channels in (("K", K), ("C", C)):
            if channels % groups:
                raise WorkloadError(f"conv2d: groups = {groups} does not divide {name} = {channels}")
        if layout not in ("NCHW", "NHWC"):
            raise WorkloadError(f"conv2d: layout {layout!r}: must be 'NCHW' or 'NHWC'")
        stride_y, stride_x = _pair("conv2d: stride", stride, 1)
        dilation_y, dilation_x = _pair("conv2d: dilation", dilation, 1)
        top, left, bottom, right = _padding(padding)
        k_group, c_group = K // groups, C // groups
        rows = sliding_axis("OY", "FY", Window(OY, FY, stride_y, dilation_y, top, bottom), IY)
        cols = sliding_axis("OX", "FX", Window(OX, FX, stride_x, dilation_x, left, right), IX)
        batch = Axis(terms=(("N", 1),), extent=N)
        channel_in = grouped_axis(groups, "C", c_group)
        channel_out = grouped_axis(groups, "K", k_group)
        filter_in = Axis(terms=(("C", 1),), extent=c_group)
        filter_y, filter_x = Axis(terms=(("FY", 1),), extent=FY), Axis(terms=(("FX", 1),), extent=FX)
        out_y, out_x = Axis(terms=(("OY", 1),), extent=OY), Axis(terms=(("OX", 1),), extent=OX)
        if layout == "NCHW":
            axes_i = (batch, channel_in, rows, cols)
            axes_w = (channel_out, filter_in, filter_y, filter_x)
            axes_o = (batch, channel_out, out_y, out_x)
        else:
            axes_i = (batch, rows, cols, channel_in)
            axes_w = (filter_y, filter_x, filter_in, channel_out)
            axes_o = (batch, out_y, out_x, channel_out)
        accumulate = dtype if out_dtype is None else out_dtype
        return cls(
            kind="conv2d",
            dims=Dims(N=N, G=groups, K=k_group, C=c_group, OY=OY, OX=OX, FY=FY, FX=FX),
            I=Projection(axes=axes_i, dtype=dtype),
            W=Projection(axes=axes_w, dtype=dtype),
            O=Projection(axes=axes_o, dtype=accumulate),
            out_dtype=accumulate,
        )

    @classmethod
    def matmul(
        cls,
        *,
        m: int,
        k: int,
        n: int,
        batch: int = 1,
        dtype: str = "int16",
        out_dtype: str | None = None,
        transposed_weight: bool = False,
    ) -> Workload:
        """``(batch, m, k) @ (batch, k, n)`` as ``OX=m, C=k, K=n, G=batch``.

        Args:
            m: Rows of the result.
            k: Summed extent.
            n: Columns of the result.
            batch: Independent products, each with weights of its own.
            dtype: Of both inputs.
            out_dtype: Of the accumulated output; default ``dtype``.
            transposed_weight: The second input is stored as (n, k).

        Raises:
            WorkloadError: An extent is not a positive integer.
        """
        for name, value in {"m": m, "k": k, "n": n, "batch": batch}.items():
            require_positive(f"matmul: {name}", value)
        outer = (Axis(terms=(("G", 1),), extent=batch),) if batch > 1 else ()
        row, inner, col = (Axis(terms=((d, 1),), extent=e) for d, e in (("OX", m), ("C", k), ("K", n)))
        accumulate = dtype if out_dtype is None else out_dtype
        return cls(
            kind="matmul",
            dims=Dims(G=batch, OX=m, C=k, K=n),
            I=Projection(axes=(*outer, row, inner), dtype=dtype),
            W=Projection(axes=(*outer, col, inner) if transposed_weight else (*outer, inner, col), dtype=dtype),
            O=Projection(axes=(*outer, row, col), dtype=accumulate),
            out_dtype=accumulate,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorWork:
    """Work that is no multiply-accumulate nest: it streams through the vector unit."""

    operator: str
    read_bytes: int
    write_bytes: int
    num_ops: int

    def __str__(self) -> str:
        return f"{self.operator} reads {self.read_bytes:,} B writes {self.write_bytes:,} B {self.num_ops:,} ops"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Equal pieces of work found in a module; ``count`` is how often they occur."""

    name: str
    work: Workload | VectorWork
    count: int = 1

    @property
    def kind(self) -> str:
        """``conv2d``, ``matmul`` or ``vector``."""
        return self.work.kind if isinstance(self.work, Workload) else "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNode:
    """One call in the network: which task it is and which earlier nodes it reads."""

    name: str
    task: int
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCall:
    """A call that is not tuned, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGraph:
    """The network as tasks, in execution order."""

    tasks: tuple[Task, ...]
    nodes: tuple[TaskNode, ...]
    host_calls: tuple[HostCall, ...] = ()


def _pair(what: str, value: int | tuple[int, ...], least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and least <= v <= MAX_DIM for v in pair):
        raise WorkloadError(f"{what} = {shown(value)}: must be one or two integers >= {least} and <= {MAX_DIM:,}")
    return pair[0], pair[1]


def _padding(value: int | tuple[int, ...]) -> tuple[int, int, int, int]:
    sides = (value,) * 4 if isinstance(value, int) else tuple(value)
    if len(sides) == 2:
        sides = (sides[0], sides[1], sides[0], sides[1])
    if len(sides) != 4 or not all(isinstance(v, int) and 0 <= v <= MAX_DIM for v in sides):
        raise WorkloadError(
            f"conv2d: padding = {shown(value)}: must be one, two or four integers >= 0 and <= {MAX_DIM:,}"
        )
    return sides[0], sides[1], sides[2], sides[3]


__all__ = [
    "DIM_NAMES",
    "MAX_DIM",
    "MAX_ELEM_BITS",
    "MAX_EXTENT",
    "MAX_MACS",
    "REDUCTION_DIMS",
    "Axis",
    "Dims",
    "Epilogue",
    "HostCall",
    "Operand",
    "Projection",
    "Task",
    "TaskGraph",
    "TaskNode",
    "VectorWork",
    "Workload",
    "dtype_bits",
]
