"""One mapping tried, of a task or of layers that run as one, as a value and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping as StringMapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from tvm_spm.cost import Cost, Energy
from tvm_spm.mapping import Mapping
from tvm_spm.rejection import Rejection

_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model said before the measurement; cycles may be fractions."""

    model: str
    cycles: float
    energy_pj: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One mapping of one task: what was predicted, and what was measured or why it was not.

    Nothing in it depends on an objective, so a run with another one uses it as it stands.

    Attributes:
        index: Position among the trials of its task, from 0.
        task: Key of the task.
        mapping: What was tried.
        measurer: Who measured it, with version or settings, for example ``simulator/2``.
        model: Name of the network for which it was tried.
        arch_sha256: Start of the hash of the accelerator.
        seed: Of the run.
        predicted: What models said before.
        cost: The measurement.
        rejection: Why the mapping was refused.
        failure: Why the measurement failed; an empty text if it did not.
    """

    index: int
    task: str
    mapping: Mapping
    measurer: str
    model: str = ""
    arch_sha256: str = ""
    seed: int = 0
    predicted: tuple[Prediction, ...] = ()
    cost: Cost | None = None
    rejection: Rejection | None = None
    failure: str = ""

    def __post_init__(self) -> None:
        if (self.cost is not None) + (self.rejection is not None) + bool(self.failure) != 1:
            raise ValueError("a trial has either a cost, a rejection or a failure")

    @property
    def measured_cost(self) -> Cost:
        """The cost of a trial that was measured.

        Raises:
            ValueError: It was not.
        """
        if self.cost is None:
            raise ValueError(f"no cost: {self.rejection or self.failure}")
        return self.cost

    def __str__(self) -> str:
        return f"trial {self.index} of {self.task}: {self.cost or self.rejection or self.failure}"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupTrial:
    """One mapping of layers that run as one, measured by a user's measurer.

    Attributes:
        group: Key of the group, as ``tvm_spm.tuning.group_trials.key_of_group``.
        names: Of the layers for which it was tried.
        mapping: As text.
        measurer: Who measured it, with version or settings.
        cost: The measurement.
        failure: Why the measurement failed; an empty text if it did not.
    """

    group: str
    names: tuple[str, ...]
    mapping: str
    measurer: str
    cost: Cost | None = None
    failure: str = ""

    def __post_init__(self) -> None:
        if (self.cost is None) != bool(self.failure):
            raise ValueError("a trial of a group has either a cost or a failure")


def group_trial_to_json(trial: GroupTrial) -> dict[str, Any]:
    """A trial of a group as plain data."""
    return {
        "group": trial.group,
        "names": list(trial.names),
        "mapping": trial.mapping,
        "measurer": trial.measurer,
        "cost": None if trial.cost is None else asdict(trial.cost),
        "failure": trial.failure,
    }


def group_trial_from_json(found: StringMapping[str, Any]) -> GroupTrial:
    """What ``group_trial_to_json`` was given.

    Raises:
        ValueError: A field is missing, or holds what no trial has; names it.
    """
    names: list[Any] = _field(found, "names", list)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("field 'names': must be a list of texts")
    return GroupTrial(
        group=text(found, "group"),
        names=tuple(names),
        mapping=text(found, "mapping"),
        measurer=text(found, "measurer"),
        cost=None if _present(found, "cost") is None else cost_from_json(found["cost"]),
        failure=text(found, "failure"),
    )


def trial_to_json(trial: Trial) -> dict[str, Any]:
    """A trial as plain data; the mapping on one line of text."""
    return {
        "index": trial.index,
        "task": trial.task,
        "model": trial.model,
        "arch_sha256": trial.arch_sha256,
        "measurer": trial.measurer,
        "seed": trial.seed,
        "mapping": trial.mapping.line(),
        "predicted": [asdict(each) for each in trial.predicted],
        "cost": None if trial.cost is None else asdict(trial.cost),
        "rejection": None if trial.rejection is None else asdict(trial.rejection),
        "failure": trial.failure,
    }


def trial_from_json(found: StringMapping[str, Any]) -> Trial:
    """What ``trial_to_json`` was given.

    Raises:
        ValueError: A field is missing, or holds what no trial has; names it.
        MappingError: The mapping's text is damaged.
    """
    return Trial(
        index=whole(found, "index"),
        task=text(found, "task"),
        model=text(found, "model"),
        arch_sha256=text(found, "arch_sha256"),
        measurer=text(found, "measurer"),
        seed=whole(found, "seed"),
        mapping=Mapping.parse(text(found, "mapping")),
        predicted=tuple(_filled(Prediction, each) for each in _field(found, "predicted", list)),
        cost=None if _present(found, "cost") is None else cost_from_json(found["cost"]),
        rejection=None if _present(found, "rejection") is None else _rejection_from_json(found["rejection"]),
        failure=text(found, "failure"),
    )


def trial_from_json_1(found: StringMapping[str, Any]) -> Trial:
    """A trial as format 1 wrote it.

    Its predictions are values of an objective that it does not name, so they are left out; its simulator is the first.

    Raises:
        ValueError: A field is missing, or holds what no trial has; names it.
        MappingError: The mapping's text is damaged.
    """
    source = text(found, "source")
    return Trial(
        index=whole(found, "index"),
        task=text(found, "task"),
        measurer="simulator/1" if source == "simulator" else source,
        mapping=Mapping.parse(text(found, "mapping")),
        cost=None if _present(found, "cost") is None else cost_from_json(found["cost"]),
        rejection=None if _present(found, "rejection") is None else _rejection_from_json(found["rejection"]),
    )


def cost_from_json(found: object) -> Cost:
    """A cost from ``dataclasses.asdict`` of one.

    Raises:
        ValueError: A field is missing, or holds what no cost has; names it.
    """
    cost = _filled(Cost, found, "cost.")
    if cost.cycles < 1:
        raise ValueError(f"field 'cost.cycles' = {cost.cycles}: must be a whole number >= 1")
    parts = cost.compute_cycles + cost.noc_stall_cycles + cost.dma_stall_cycles + cost.overhead_cycles
    if parts != cost.cycles:
        raise ValueError(f"field 'cost.cycles' = {cost.cycles}: its parts add up to {parts}")
    return cost


def text(found: StringMapping[str, Any], name: str) -> str:
    """A text field.

    Raises:
        ValueError: It is missing or something else.
    """
    return _field(found, name, str)


def whole(found: StringMapping[str, Any], name: str) -> int:
    """A field that is a whole number >= 0.

    Raises:
        ValueError: It is missing or something else.
    """
    return _whole(_present(found, name), name)


def _filled(kind: type[_Kind], found: object, prefix: str = "") -> _Kind:
    """A dataclass of numbers, texts and energies from plain data; every value checked."""
    if not isinstance(found, dict):
        raise ValueError(f"field {prefix.removesuffix('.') or kind.__name__.lower()!r}: must be an object")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for name in found:
        if name not in known:
            raise ValueError(f"field {prefix + str(name)!r} is unknown")
    values: dict[str, Any] = {}
    for name, each in known.items():
        if name not in found:
            if each.default is MISSING:
                raise ValueError(f"field {prefix + name!r} is missing")
            continue
        values[name] = _checked(str(each.type), found[name], prefix + name)
    return kind(**values)


def _checked(kind: str, value: object, name: str) -> object:
    if kind == "int":
        return _whole(value, name)
    if kind == "float":
        return _number(value, name)
    if kind == "Energy":
        return _filled(Energy, value, f"{name}.")
    if kind == "tuple[int, int, int, int]":
        if not isinstance(value, (list, tuple)) or len(value) != 4:
            raise ValueError(f"field {name!r}: must be a list of 4 whole numbers")
        return tuple(_whole(each, name) for each in value)
    if kind == "str" and isinstance(value, str):
        return value
    raise ValueError(f"field {name!r} = {value!r}: must be a text")


def _rejection_from_json(found: object) -> Rejection:
    if not isinstance(found, dict):
        raise ValueError("field 'rejection': must be an object")
    terms: list[Any] = _field(found, "terms", list)
    if not all(isinstance(term, (list, tuple)) and len(term) == 2 and isinstance(term[0], str) for term in terms):
        raise ValueError("field 'rejection.terms': must be a list of names with numbers")
    return Rejection(
        reason=text(found, "reason"), subject=text(found, "subject"), needed=whole(found, "needed"),
        available=whole(found, "available"), unit=text(found, "unit"), nearest=text(found, "nearest"),
        terms=tuple((name, _whole(value, f"rejection.terms.{name}")) for name, value in terms),
    )  # fmt: skip


def _present(found: StringMapping[str, object], name: str) -> object:
    if name not in found:
        raise ValueError(f"field {name!r} is missing")
    return found[name]


def _field(found: StringMapping[str, object], name: str, kind: type[_Kind]) -> _Kind:
    value = _present(found, name)
    if not isinstance(value, kind):
        raise ValueError(f"field {name!r} = {value!r}: must be a {'text' if kind is str else kind.__name__}")
    return value


def _whole(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"field {name!r} = {value!r}: must be a whole number >= 0")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"field {name!r} = {value!r}: must be a number >= 0")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not 0 <= number < math.inf:
        raise ValueError(f"field {name!r} = {value!r}: must be a finite number >= 0")
    return number
