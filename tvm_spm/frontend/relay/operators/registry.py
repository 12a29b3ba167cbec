"""The table of operators: what each takes, its attributes with their defaults, and what makes it."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.relay.tensors import Builder, Tensor, Value
from tvm_spm.frontend.relay.tree import AttrValue


class Required:
    """Marks an attribute without default."""


REQUIRED = Required()


class Attrs:
    """Attributes of one call, defaults filled in; every reader checks the type."""

    def __init__(self, values: dict[str, AttrValue]) -> None:
        self._values = values

    def _wrong(self, key: str, expected: str) -> ModelError:
        return ModelError(f"attribute {key} = {reprlib.repr(self._values[key])}: expected {expected}")

    def given(self, key: str) -> bool:
        """Whether it has a value."""
        return self._values[key] is not None

    def but(self, **changes: AttrValue) -> Attrs:
        """The same with some changed."""
        return Attrs(self._values | changes)

    def raw(self, key: str) -> AttrValue:
        """Whatever was written."""
        return self._values[key]

    def integer(self, key: str) -> int:
        """A whole number."""
        value = self._values[key]
        if isinstance(value, float) and _is_whole(value):
            return int(value)
        if not isinstance(value, int) or not _fits(value):
            raise self._wrong(key, "a whole number of 64 bits")
        return int(value)

    def real(self, key: str) -> float:
        """A number."""
        value = self._values[key]
        if not isinstance(value, (int, float)):
            raise self._wrong(key, "a number")
        return float(value)

    def flag(self, key: str) -> bool:
        """A truth value, also written as 0 or 1."""
        value = self._values[key]
        if not isinstance(value, (bool, int)):
            raise self._wrong(key, "True or False")
        return bool(value)

    def text(self, key: str) -> str:
        """A string; empty for None."""
        value = self._values[key]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong(key, "a string")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers; one number is a list of one."""
        value = self._values[key]
        items = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, (int, float)) and _is_whole(item) and _fits(item) for item in items):
            raise self._wrong(key, "a list of whole numbers of 64 bits")
        return tuple(int(item) for item in items if isinstance(item, (int, float)))

    def reals(self, key: str) -> tuple[float, ...]:
        """A list of numbers."""
        value = self._values[key]
        items = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(item, (int, float)) for item in items):
            raise self._wrong(key, "a list of numbers")
        return tuple(float(item) for item in items if isinstance(item, (int, float)))

    def pairs(self, key: str) -> tuple[tuple[int, int], ...]:
        """A list of pairs of whole numbers."""
        value = self._values[key]
        found = []
        for item in value if isinstance(value, tuple) else (value,):
            if not (
                isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, (int, float)) for part in item)
            ):
                raise self._wrong(key, "a list of pairs")
            first, second = item
            assert isinstance(first, (int, float))
            assert isinstance(second, (int, float))
            found.append((int(first), int(second)))
        return tuple(found)


def _is_whole(value: float) -> bool:
    return math.isfinite(value) and value == int(value)


def _fits(value: float) -> bool:
    return -(1 << 63) <= value < 1 << 63


Handler = Callable[..., Value]
"""Takes a ``Builder``, the ``Attrs`` and one value per argument."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorSpec:
    """One operator.

    Attributes:
        name: As Relay prints it.
        args: Names of the arguments.
        tuples: Those that may be tuples of tensors.
        attrs: Attributes with their defaults.
        weights: Indices of arguments that are weights wherever they are parameters.
        role: What a parameter is that the operator reads. ``layer``: a weight or not, by its index; ``map``: what the
            result is, for example behind a ``reshape``; ``broadcast``: a weight if it is a vector beside more.
        handler: Makes it.
    """

    name: str
    args: tuple[str, ...]
    tuples: frozenset[str]
    attrs: dict[str, AttrValue | Required]
    weights: tuple[int, ...]
    role: str
    handler: Handler


OPERATORS: dict[str, OperatorSpec] = {}
"""Every operator that can be imported."""


def operator(
    names: str,
    args: str,
    *,
    weights: tuple[int, ...] = (),
    role: str = "layer",
    common: Mapping[str, AttrValue] | None = None,
    **attrs: AttrValue | Required,
) -> Callable[[Handler], Handler]:
    """Enter a function into the table, under one or several names.

    An argument that may be a tuple has a star in front; ``common`` are attributes that other operators have too.
    """
    merged: dict[str, AttrValue | Required] = {**(common or {}), **attrs}

    def enter(handler: Handler) -> Handler:
        for name in names.split():
            OPERATORS[name] = OperatorSpec(
                name=name,
                args=tuple(arg.lstrip("*") for arg in args.split()),
                tuples=frozenset(arg[1:] for arg in args.split() if arg[0] == "*"),
                attrs=merged,
                weights=weights,
                role=role,
                handler=handler,
            )
        return handler

    return enter


def describe_operators() -> str:
    """One line per operator: name, arguments, attributes with their defaults; the last line counts them."""
    lines = []
    for name, spec in sorted(OPERATORS.items()):
        attrs = [key if isinstance(value, Required) else f"{key}={value!r}" for key, value in spec.attrs.items()]
        lines.append(f"{name}({', '.join([*spec.args, *attrs])})")
    return "\n".join([*lines, f"{len(lines)} operators", ""])


def find(name: str) -> OperatorSpec:
    """An operator.

    Raises:
        ModelError: It is unknown; names the nearest.
    """
    if name not in OPERATORS:
        close = did_you_mean(name, OPERATORS)
        hint = close if close.startswith("did you") else f"{len(OPERATORS)} operators are known"
        raise ModelError(f"unknown operator {name!r}: {hint}")
    return OPERATORS[name]


def apply(builder: Builder, spec: OperatorSpec, args: tuple[Value, ...], given: dict[str, AttrValue]) -> Value:
    """Call an operator.

    Raises:
        ModelError: Wrong arguments or attributes, or one that this operator cannot have here.
    """
    if len(args) != len(spec.args):
        raise ModelError(f"{len(args)} arguments, {len(spec.args)} are needed ({', '.join(spec.args)})")
    for arg, name in zip(args, spec.args, strict=True):
        if isinstance(arg, tuple) and name not in spec.tuples:
            raise ModelError(f"{name} is a tuple of {len(arg)}, one tensor is needed")
    unknown = [key for key in given if key not in spec.attrs]
    if unknown:
        known = did_you_mean(unknown[0], spec.attrs) if spec.attrs else "it has none"
        raise ModelError(f"unknown attribute {unknown[0]!r}: {known}")
    values: dict[str, AttrValue] = {}
    for key, default in spec.attrs.items():
        value = given.get(key, default)
        if isinstance(value, Required):
            raise ModelError(f"attribute {key!r} is missing")
        values[key] = value
    params = _note_roles(builder, spec, args)
    result = spec.handler(builder, Attrs(values), *args)
    if params and isinstance(result, Tensor):
        result.params = params
    return result


def _note_roles(builder: Builder, spec: OperatorSpec, args: tuple[Value, ...]) -> frozenset[str]:
    """Remember what parameters are used for; returns those whose use the result will tell."""
    tensors = [(index, arg) for index, arg in enumerate(args) if isinstance(arg, Tensor)]
    if spec.role == "map":
        return frozenset[str]().union(*(arg.params for _, arg in tensors))
    if spec.role == "broadcast":
        (_, left), (_, right) = tensors if len(tensors) == 2 else (tensors[0], tensors[0])
        for small, large in ((left, right), (right, left)):
            if small.params and large.array is None and _is_vector_of(small.shape, large.shape):
                builder.roles.weights |= small.params
                return large.params - small.params
        return left.params | right.params
    for index, arg in tensors:
        (builder.roles.weights if index in spec.weights else builder.roles.data).update(arg.params)
    return frozenset()


def _is_vector_of(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Whether a tensor has at most one axis and broadcasts against a larger one, as a bias or a scale does."""
    num_wide = sum(extent > 1 for extent in small)
    return num_wide <= 1 and num_wide < sum(extent > 1 for extent in large)
