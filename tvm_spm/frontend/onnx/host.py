"""ONNX nodes that TVM cannot import, evaluated by ONNX's own reference when the network runs.

One odd operator does not keep a network out. A node stays in the Relax module as a call of ``FUNCTION`` with its own
text, so that any process that has imported this file can run it.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from tvm import relax

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.onnx.check import checked_skeleton
from tvm_spm.frontend.onnx.writer import captured

FUNCTION = "tvm_spm.onnx_node"
"""The packed function that evaluates a node: its text, then its inputs."""

_LOOP = "Loop"

_MOST_ROUNDS = 100_000
"""Of a loop that the data ends; one that does not end would never be seen to fail."""

_RANDOM = (
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
)  # fmt: skip
"""No two runs agree on what these give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorKind:
    """Dtype and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def relax(self) -> relax.TensorType:
        """As Relax writes it."""
        return relax.TensorType(self.shape, self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostNodes:
    """The nodes of a graph, should TVM not take one.

    Attributes:
        nodes: By name.
        kinds: Of tensors, as far as known.
        constants: Of the graph.
        opsets: Of the graph.
    """

    nodes: dict[str, onnx.NodeProto]
    kinds: dict[str, TensorKind]
    constants: dict[str, onnx.TensorProto]
    opsets: list[onnx.OperatorSetIdProto]

    def refusal(self, name: str) -> str | None:
        """Why the reference cannot evaluate a node; None if it may be able to."""
        node = self.nodes.get(name)
        if node is None:
            return "it stands in a body"
        if node.op_type in _RANDOM:
            return "no two runs agree on random numbers; export the model for inference"
        if not captured(node) <= set(self.constants):
            return f"its body reads {sorted(captured(node) - set(self.constants))[0]!r}, which depends on the inputs"
        unknown = [each for each in (*node.input, *node.output) if each and each not in self.kinds]
        if not unknown:
            return None
        if not onnx.defs.has(node.op_type, domain=node.domain.removesuffix("ai.onnx")):
            return f"neither TVM nor ONNX knows an operator of this name in {node.domain!r}"
        if node.domain not in ("", "ai.onnx"):
            return f"ONNX infers no shape of {unknown[0]!r} from an operator of {node.domain!r}"
        return (
            f"the data decides the shape of {unknown[0]!r}, or it is no tensor of numbers; fix the input that does "
            "(--value NAME=NUMBERS), or cut the model before it (onnx.utils.extract_model)"
        )

    def may_call(self, name: str) -> bool:
        """Whether the reference may be able to evaluate a node."""
        return self.refusal(name) is None

    def add(self, graph: onnx.GraphProto, origin: str) -> None:
        """The nodes of a graph that takes the place of one of them; named as they are.

        Args:
            graph: Its nodes get names.
            origin: What errors call the model.
        """
        for position, node in enumerate(graph.node):
            node.name = f"{next(each for each in node.output if each)}/{node.op_type}_{position}"
            self.nodes[node.name] = node
        self.constants.update((init.name, init) for init in graph.initializer)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        self.kinds.update(tensor_kinds(model, origin))

    def call(self, name: str, inputs: Sequence[relax.Expr | None]) -> relax.Expr:
        """The value of a node in Relax.

        Args:
            name: Of the node.
            inputs: All, in its order.

        Raises:
            ModelError: The reference has no such operator, or it fails on tensors of these kinds.
        """
        node = self.nodes[name]
        present = [(each, at) for each, at in zip(node.input, inputs, strict=False) if each not in self.constants]
        arguments = [(each, at) for each, at in present if each and at is not None]
        if any(not isinstance(expr.ty, relax.TensorType) for _, expr in arguments):
            raise ModelError(f"operator {node.op_type} reads what is no tensor")
        text = self._text(node, [each for each, _ in arguments])
        outputs = [self.kinds[each] for each in node.output if each]
        _try(node.op_type, text, [self.kinds[each] for each, _ in arguments], outputs)
        kinds = [kind.relax for kind in outputs]
        found = kinds[0] if len(kinds) == 1 else relax.TupleType(kinds)
        exprs = [expr for _, expr in arguments]
        return relax.op.call_pure_packed(FUNCTION, tvm.ir.StringImm(text), *exprs, ty_args=found)

    def _text(self, node: onnx.NodeProto, arguments: list[str]) -> str:
        """A model of this node alone with its constants; it reads ``x0``, ``x1``, ... and makes ``y0``, ``y1``, ..."""
        alone = onnx.NodeProto()
        alone.CopyFrom(node)
        named = {each: f"x{number}" for number, each in reversed(list(enumerate(arguments)))}
        made = {each: f"y{number}" for number, each in enumerate(each for each in node.output if each)}
        alone.input[:] = [named.get(each, each) for each in node.input]
        alone.output[:] = [made.get(each, "") for each in node.output]
        inputs = [value_of(f"x{number}", self.kinds[each]) for number, each in enumerate(arguments)]
        outputs = [value_of(new, self.kinds[each]) for each, new in made.items()]
        read = dict.fromkeys([*node.input, *sorted(captured(node))])
        own = [self.constants[each] for each in read if each in self.constants]
        graph = helper.make_graph([alone], "node", inputs, outputs, own)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=10)
        return base64.b64encode(model.SerializeToString()).decode()


def _try(operator: str, text: str, inputs: list[TensorKind], outputs: list[TensorKind]) -> None:
    """Refuse what the reference cannot evaluate.

    Raises:
        ModelError: It fails on ones, or makes other kinds of tensors.
    """
    ones = {f"x{number}": np.ones(kind.shape, kind.dtype) for number, kind in enumerate(inputs)}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = _results(text, ones, most_rounds=1)
    except (*TVM_ERRORS, OSError, ImportError) as error:
        raise ModelError(f"operator {operator}: it fails on tensors of ones: {first_line(error)}") from error
    for each, kind in zip(found, outputs, strict=True):
        array = np.asarray(each)
        if array.shape != kind.shape or str(array.dtype) != kind.dtype:
            raise ModelError(
                f"operator {operator}: the reference of ONNX makes {array.dtype} {list(array.shape)}, shape inference "
                f"says {kind.dtype} {list(kind.shape)}"
            )


def host_nodes(model: onnx.ModelProto, origin: str) -> HostNodes:
    """The nodes of a model; every node gets a name of its own.

    Args:
        model: Its nodes are named here.
        origin: What errors call the model.
    """
    nodes: dict[str, onnx.NodeProto] = {}
    for position, node in enumerate(model.graph.node):
        if not node.name or node.name in nodes:
            node.name = f"{node.op_type}_{position}"
        nodes[node.name] = node
    constants = {init.name: init for init in model.graph.initializer}
    kinds = tensor_kinds(model, origin)
    for node in model.graph.node:
        if node.op_type == _LOOP:
            # ONNX says nothing of shapes that a round may change; what could is refused before.
            kinds |= {
                made: kinds[given]
                for given, made in zip(node.input[2:], node.output, strict=False) if made and given in kinds
            }  # fmt: skip
    return HostNodes(nodes=nodes, kinds=kinds, constants=constants, opsets=list(model.opset_import))


def tensor_kinds(model: onnx.ModelProto, origin: str) -> dict[str, TensorKind]:
    """By name, the tensors whose dtype and shape follow from the inputs."""
    kinds = known_kinds(shape_inference.infer_shapes(checked_skeleton(model, origin)))
    for init in model.graph.initializer:
        dtype = str(helper.tensor_dtype_to_np_dtype(init.data_type))
        kinds[init.name] = TensorKind(dtype=dtype, shape=tuple(init.dims))
    return kinds


def known_kinds(model: onnx.ModelProto) -> dict[str, TensorKind]:
    """By name, the tensors of a graph of which it says everything."""
    kinds: dict[str, TensorKind] = {}
    for value in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        tensor = value.type.tensor_type
        dims = tensor.shape.dim
        if tensor.elem_type and tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
            kinds[value.name] = TensorKind(dtype=dtype, shape=tuple(dim.dim_value for dim in dims))
    return kinds


def value_of(name: str, kind: TensorKind) -> onnx.ValueInfoProto:
    """What a graph says of a tensor."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind.dtype)), kind.shape)


@lru_cache(maxsize=256)
def _evaluator(text: str) -> ReferenceEvaluator:
    return ReferenceEvaluator(onnx.load_from_string(base64.b64decode(text)))


@lru_cache(maxsize=256)
def _loop_of(text: str) -> tuple[onnx.ModelProto, ReferenceEvaluator] | None:
    """A model whose node is a Loop, and its body; the reference itself mixes up what goes from round to round."""
    model = onnx.load_from_string(base64.b64decode(text))
    node = model.graph.node[0]
    if node.op_type != _LOOP:
        return None
    body = next(attr.g for attr in node.attribute if attr.name == "body")
    return model, ReferenceEvaluator(helper.make_model(body, opset_imports=model.opset_import, ir_version=10))


def _results(text: str, inputs: dict[str, np.ndarray], *, most_rounds: int | None = None) -> list[np.ndarray]:
    """What a node makes of its inputs.

    Args:
        text: Of the node.
        inputs: By name.
        most_rounds: After so many, a Loop ends in any case.
    """
    loop = _loop_of(text)
    if loop is None:
        return list(_evaluator(text).run(None, inputs))
    model, body = loop
    node = model.graph.node[0]
    known = {init.name: numpy_helper.to_array(init) for init in model.graph.initializer} | inputs
    limits = [int(np.ravel(known[name])[0]) for name in node.input[:1] if name]
    limits += [] if most_rounds is None else [most_rounds]
    goes_on = bool(np.ravel(known[node.input[1]])[0]) if node.input[1] else True
    states = [known[name] for name in node.input[2:]]
    number = 0
    while goes_on and all(number < limit for limit in limits):
        if number == _MOST_ROUNDS:
            raise RuntimeError(f"a Loop does not end within {_MOST_ROUNDS:,} rounds")
        given = [np.array(number, np.int64), np.array(True), *states]
        condition, *states = body.run(None, dict(zip(body.input_names, given, strict=True)))
        goes_on, number = bool(np.ravel(condition)[0]), number + 1
    return [state for state, name in zip(states, node.output, strict=False) if name]


@tvm.register_global_func(FUNCTION, override=True)
def _evaluate(text: str, *tensors: tvm.runtime.Tensor) -> Any:  # noqa: ANN401 (a tensor, or several)
    inputs = {f"x{i}": tensor.numpy() for i, tensor in enumerate(tensors)}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = _results(str(text), inputs)
    made = [tvm.runtime.tensor(np.asarray(array, order="C")) for array in found]
    return made[0] if len(made) == 1 else made


def operator_of(text: str) -> str:
    """The operator of a node's text."""
    return str(onnx.load_from_string(base64.b64decode(text)).graph.node[0].op_type)
