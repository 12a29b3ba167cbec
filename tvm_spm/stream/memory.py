"""Where the tensors of a layer lie in the memory that all cores share, and images of that memory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes  # noqa: F401 (gives numpy the types that it has not)
import numpy as np
from numpy.typing import NDArray

from tvm_spm.addresses import locate
from tvm_spm.stream.errors import StreamError
from tvm_spm.stream.layout import DTYPES, WORD_BITS
from tvm_spm.units import format_bytes
from tvm_spm.workload import Projection, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One tensor, row-major.

    Attributes:
        name: ``I``, ``W``, ``O``; ``P`` for partial sums that leave SPM; ``E0``, ``E1``, ... for what epilogues read.
        address: Of its first byte.
        dtype: One of ``layout.DTYPES``.
        shape: Elements per axis, outermost first.
    """

    name: str
    address: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """All elements."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape)) or "1"
        return f"{self.name} at {self.address:#010x}: {shape} of {self.dtype}, {format_bytes(self.num_bytes)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryMap:
    """All tensors of a layer, in the order of their addresses."""

    regions: tuple[Region, ...]

    @property
    def num_bytes(self) -> int:
        """Of an image."""
        last = self.regions[-1]
        return last.address + last.num_bytes

    def region(self, name: str) -> Region:
        """The tensor of that name.

        Raises:
            StreamError: There is none.
        """
        for region in self.regions:
            if region.name == name:
                return region
        names = ", ".join(region.name for region in self.regions)
        raise StreamError(f"memory map: no tensor {name}; there are {names}")

    def image(self, tensors: Mapping[str, NDArray[np.generic]]) -> bytearray:
        """An image that holds tensors; the others are zeros.

        Args:
            tensors: By the name of their regions.

        Raises:
            StreamError: A tensor has another shape or type than its region.
        """
        image = bytearray(self.num_bytes)
        for name, tensor in tensors.items():
            region = self.region(name)
            data = self.bytes_of(region, tensor)
            image[region.address : region.address + len(data)] = data
        return image

    def bytes_of(self, region: Region, tensor: NDArray[np.generic]) -> bytes:
        """A tensor as its region holds it.

        Raises:
            StreamError: It has another shape or type.
        """
        if tensor.shape != region.shape or tensor.dtype != np.dtype(region.dtype):
            raise StreamError(
                f"memory map: tensor {region.name} is {tensor.shape} of {tensor.dtype}: must be {region.shape} of "
                f"{region.dtype}"
            )
        return np.ascontiguousarray(tensor).tobytes()

    def tensor(self, image: bytes | bytearray, name: str) -> NDArray[np.generic]:
        """A tensor as an image holds it.

        Raises:
            StreamError: The image is too small for it.
        """
        region = self.region(name)
        needed = region.address + region.num_bytes
        if len(image) < needed:
            raise StreamError(
                f"memory image of {format_bytes(len(image))}: must be >= {format_bytes(needed)} for {name}"
            )
        return np.frombuffer(image, region.dtype, math.prod(region.shape), region.address).reshape(region.shape).copy()


def memory_map(workload: Workload, *, spills: bool) -> MemoryMap:
    """Tensors one after the other from address 0 on.

    Args:
        workload: Whose.
        spills: Whether partial sums leave SPM and need a place.

    Raises:
        StreamError: A type of element is not known to streams, or the tensors need more than 32 bits address.
    """
    tensors = locate(workload, spills=spills)
    require_dtype("of sums", workload.O)
    regions = []
    for name, projection, address, _ in tensors:
        require_dtype(name, projection)
        shape = tuple(axis.extent for axis in projection.axes)
        regions.append(Region(name=name, address=address, dtype=projection.dtype, shape=shape))
    memory = MemoryMap(regions=tuple(regions))
    if memory.num_bytes > 1 << WORD_BITS:
        sizes = " + ".join(f"{region.name} {format_bytes(region.num_bytes)}" for region in regions)
        raise StreamError(
            f"{workload}: tensors of {format_bytes(memory.num_bytes)} ({sizes}): an address has {WORD_BITS} bits, must "
            f"be <= {format_bytes(1 << WORD_BITS)}; split the layer"
        )
    return memory


def require_dtype(name: str, projection: Projection) -> None:
    """Refuse elements that streams have no code for.

    Raises:
        StreamError: Names the tensor and the types that have one.
    """
    if projection.dtype not in DTYPES:
        raise StreamError(f"tensor {name} of {projection.dtype}: must be one of {', '.join(DTYPES)}")
