"""One node of onnxruntime's own, with what is known of its tensors, and what takes its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from tvm_spm.errors import ModelError
from tvm_spm.frontend.onnx.host import TensorKind
from tvm_spm.frontend.onnx.in_place import NodeInPlace
from tvm_spm.frontend.onnx.writer import Array


class UnknownShapeError(ModelError):
    """A node cannot be written out before the shape of one of its inputs is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedNode(NodeInPlace):
    """A node whose inputs have known dtypes and shapes.

    Attributes:
        kinds: Of tensors, as far as known.
        floats: The input in whose dtype the node computes.
    """

    kinds: Mapping[str, TensorKind]
    floats: int = 0

    def computing_as(self, index: int) -> TypedNode:
        """The node with numbers and masks in the dtype of an input."""
        return replace(self, floats=index)

    @property
    def what(self) -> str:
        """How errors call the node."""
        return f"{self.origin}: cannot import: node {self.node.name or self.out!r} (operator {self.node.op_type})"

    def kind(self, index: int) -> TensorKind:
        """Dtype and shape of an input.

        Raises:
            UnknownShapeError: They are not known yet.
        """
        name = self.input(index)
        if name in self.writer.known:
            array = self.writer.known[name]
            return TensorKind(dtype=str(array.dtype), shape=array.shape)
        if name not in self.kinds:
            raise UnknownShapeError(
                f"{self.what}: the shape of its input {name!r} depends on the data: must be known; fix the input that "
                "decides it (--shape, --value)"
            )
        return self.kinds[name]

    def shape(self, index: int) -> tuple[int, ...]:
        """Shape of an input."""
        return self.kind(index).shape

    def extents(self, index: int, rank: int) -> tuple[int, ...]:
        """Shape of an input with so many axes.

        Raises:
            ModelError: It has others.
        """
        shape = self.shape(index)
        if len(shape) != rank:
            raise ModelError(f"{self.what}: its input {self.input(index)!r} is {list(shape)}: must have {rank} axes")
        return shape

    def dtype(self, index: int | None = None) -> np.dtype[np.generic]:
        """Dtype of an input; of the one in which the node computes."""
        return np.dtype(self.kind(self.floats if index is None else index).dtype)

    def number(self, value: float) -> str:
        """A constant of the dtype in which the node computes."""
        return self.writer.constant(np.array(value, self.dtype()))

    def shared(self, what: str, make: Callable[[], Array]) -> str:
        """A constant that all nodes with the same ``what`` read."""
        name = f"microsoft/{what}"
        if name not in self.writer.known:
            self.writer.known[name] = make()
        self.writer.constants[name] = self.writer.known[name]
        return name

    def text(self, name: str, default: str = "") -> str:
        """The value of an attribute that is a text."""
        found = next((attr for attr in self.node.attribute if attr.name == name), None)
        return default if found is None else found.s.decode()

    def numbers(self, name: str) -> list[float]:
        """The value of an attribute that is a list."""
        found = next((attr for attr in self.node.attribute if attr.name == name), None)
        return [] if found is None else [float(each) for each in helper.get_attribute_value(found)]

    def is_wanted(self, index: int) -> bool:
        """Whether an output has a name."""
        return index < len(self.node.output) and bool(self.node.output[index])

    def give(self, index: int, tensor: str) -> None:
        """Call a tensor by the name of an output, if that has one."""
        if self.is_wanted(index):
            self.writer.emit("Identity", tensor, out=self.node.output[index])

    def cast(self, tensor: str, dtype: np.dtype[np.generic] | type) -> str:
        """A tensor in another dtype."""
        return self.writer.emit("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def mean(self, tensor: str, num_axes: int = 1) -> str:
        """Over the last axes, which stay as one element each."""
        axes = list(range(-num_axes, 0))
        if self.writer.opset < 18:
            return self.writer.emit("ReduceMean", tensor, axes=axes, keepdims=1)
        return self.writer.emit("ReduceMean", tensor, self.writer.integers(*axes), keepdims=1)

    def reshaped(self, tensor: str, *shape: int) -> str:
        """In another shape; 0 stands for the extent that was there, -1 for what is left."""
        return self.writer.emit("Reshape", tensor, self.writer.integers(*shape))

    def refuse(self, *names: str) -> None:
        """Refuse attributes that are not 0.

        Raises:
            ModelError: One is not.
        """
        for name in names:
            if self.attribute(name):
                raise ModelError(f"{self.what}: attribute {name} = {self.attribute(name):g}: only 0 can be imported")

    def refuse_inputs(self, *indices: int) -> None:
        """Refuse inputs that are not left out.

        Raises:
            ModelError: One is given.
        """
        for index in indices:
            if self.input(index):
                raise ModelError(f"{self.what}: its input {index} ({self.input(index)!r}) must be left out")

    def own_scale(self, depth: int) -> float:
        """Of products of rows, as attribute or by their length."""
        return self.attribute("scale") or 1 / math.sqrt(depth)


TypedRewrite = Callable[[TypedNode], None]


def kind_of(value: onnx.TypeProto) -> TensorKind | None:
    """Dtype and shape of a tensor, if both are known."""
    tensor = value.tensor_type
    dims = tensor.shape.dim
    if not tensor.elem_type or not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in dims):
        return None
    dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return TensorKind(dtype=dtype, shape=tuple(dim.dim_value for dim in dims))
