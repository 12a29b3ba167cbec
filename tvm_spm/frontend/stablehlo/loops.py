"""Loops of a StableHLO program that count to a known number, as JAX writes ``scan`` and ``fori_loop``.

Every round counts one up. Rows that it reads at the counter, from either end, are sequences of a step that runs many
times; rows that it writes there are collected.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from tvm_spm.frontend.rounds import MOST_ROUNDS, Rounds
from tvm_spm.frontend.stablehlo.operators import kind_of
from tvm_spm.frontend.stablehlo.value import Emitter, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCount:
    """Which state counts, from where, and how often."""

    state: int
    first: int
    num_rounds: int


def count_of(operation: Any, operands: list[Value]) -> LoopCount:  # noqa: ANN401 (MLIR's own)
    """How often a loop runs.

    Raises:
        NotImplementedError: It does not count one up to a known number.
    """
    condition, body = (region.blocks[0] for region in operation.regions)
    compare = _maker(list(condition.operations)[-1].operands[0])
    refused = NotImplementedError("a loop that does not count up to a known number")
    if compare is None or compare.name != "stablehlo.compare":
        raise refused
    if "LT" not in str(compare.attributes["comparison_direction"]):
        raise refused
    arguments = list(condition.arguments)
    if compare.operands[0] not in arguments:
        raise refused
    state = arguments.index(compare.operands[0])
    last = _number(compare.operands[1])
    if last is None and compare.operands[1] in arguments:
        last = _of(operands[arguments.index(compare.operands[1])])
    first = _of(operands[state])
    counted = _maker(list(body.operations)[-1].operands[state])
    steps = [] if counted is None or counted.name != "stablehlo.add" else list(counted.operands)
    is_one = len(steps) == 2 and steps[0] == body.arguments[state] and _number(steps[1]) == 1
    if first is None or last is None or not is_one:
        raise refused
    if not 1 <= last - first <= MOST_ROUNDS:
        raise NotImplementedError(f"a loop of {last - first:,} rounds: must be >= 1 and <= {MOST_ROUNDS:,}")
    return LoopCount(state=state, first=first, num_rounds=last - first)


def _maker(value: Any) -> Any:  # noqa: ANN401 (as above)
    owner = value.owner
    return getattr(owner, "operation", owner) if hasattr(owner, "name") else None


def _number(value: Any) -> int | None:  # noqa: ANN401 (as above)
    maker = _maker(value)
    if maker is None or maker.name != "stablehlo.constant":
        return None
    return int(np.array(maker.attributes["value"]).reshape(-1)[0])


def _of(value: Value) -> int | None:
    return None if value.array is None or value.array.size != 1 else int(value.array.reshape(-1)[0])


@dataclass(slots=True, kw_only=True)
class LoopBody:
    """What is known of the values inside of a loop while it is read.

    Attributes:
        count: Of the loop.
        states: What stands for the states inside.
        counter: One row of the numbers that the counter takes.
        affine: Of scalars that follow the counter, its factor, 1 or -1, and what is added.
        rows: Per state and factor, the row of it that a round reads.
        collected: Of values that are a state with one more row written: the state, the row, and the factor.
    """

    count: LoopCount
    states: list[relax.Var]
    counter: relax.Var
    affine: dict[relax.Var, tuple[int, int]] = field(default_factory=dict)
    rows: dict[tuple[int, int], relax.Var] = field(default_factory=dict)
    collected: dict[relax.Var, tuple[int, Value, int]] = field(default_factory=dict)

    def follow(self, name: str, operands: list[Value], made: Value) -> None:
        """Note that a sum or a difference follows the counter."""
        if name not in ("stablehlo.add", "stablehlo.subtract") or made.shape:
            return
        known = [self.affine.get(each.expr) for each in operands]
        numbers = [_of(each) for each in operands]
        sign = 1 if name == "stablehlo.add" else -1
        if known[0] is not None and numbers[1] is not None:
            self.affine[made.expr] = known[0][0], known[0][1] + sign * numbers[1]
        elif known[1] is not None and numbers[0] is not None:
            self.affine[made.expr] = sign * known[1][0], numbers[0] + sign * known[1][1]

    def row(self, _emitter: Emitter, operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401 (as above)
        """What a round reads of a sequence."""
        state, factor = self._place(operands[0], operands[1:], "reads")
        shape, dtype = kind_of(operation.results[0])
        if shape != (1, *operands[0].shape[1:]):
            raise NotImplementedError("a slice at an index of the data that is no row")
        if (state, factor) not in self.rows:
            self.rows[state, factor] = relax.Var(f"row{state}", relax.TensorType(list(shape), dtype))
        return Value(expr=self.rows[state, factor], shape=shape)

    def written(self, _emitter: Emitter, _operation: Any, operands: list[Value]) -> Value:  # noqa: ANN401 (as above)
        """A state after a round wrote a row of it."""
        state, factor = self._place(operands[0], operands[2:], "writes")
        if operands[1].shape != (1, *operands[0].shape[1:]):
            raise NotImplementedError("an update at an index of the data that is no row")
        made = relax.Var(f"written{state}", operands[0].expr.ty)
        self.collected[made] = state, operands[1], factor
        return Value(expr=made, shape=operands[0].shape)

    def _place(self, data: Value, indices: list[Value], does: str) -> tuple[int, int]:
        state = next((number for number, var in enumerate(self.states) if var.same_as(data.expr)), None)
        found = self.affine.get(indices[0].expr)
        others = [_of(each) for each in indices[1:]]
        if state is None or found is None or any(others):
            raise NotImplementedError(f"a loop that {does} elsewhere than at its counter")
        factor, offset = found
        begin = factor * self.count.first + offset
        wanted = 0 if factor == 1 else self.count.num_rounds - 1
        if data.shape[0] != self.count.num_rounds or begin != wanted:
            raise NotImplementedError(
                f"a loop of {self.count.num_rounds} rounds that {does} some of {data.shape[0]} rows"
            )
        return state, factor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoopStep:
    """A body as a step.

    Attributes:
        module: Its ``main``.
        rounds: How it runs.
        given: States that are its first arguments.
        sequences: States that are its sequences; the numbers of the rounds for None.
        results: Per value that it makes, the state that is it in the end.
    """

    module: tvm.IRModule
    rounds: Rounds
    given: tuple[int, ...]
    sequences: tuple[int | None, ...]
    results: tuple[int, ...]


def step_of(
    module: tvm.IRModule, body: LoopBody, same: list[int], changing: list[int], collected: dict[int, int]
) -> LoopStep:
    """The step of a body, without what it does not read.

    Args:
        module: Its ``main`` takes the states that change, those that do not, those that are collected, the rows and the
            counter; it makes the new states and the rows to collect.
        body: What was found.
        same: States that no round changes.
        changing: The other ones, but for the counter.
        collected: States of which every round writes a row; 1, or -1 where the first round writes the last.

    Raises:
        NotImplementedError: Rows are read that the loop itself writes.
    """
    lean = relax.transform.DeadCodeElimination()(module)["main"]
    used = set(relax.analysis.free_vars(lean.body))
    places: list[tuple[int, int] | int | None] = [*changing, *same, *collected, *body.rows, None]
    by_place = dict(zip(places, lean.params, strict=True))
    if any(by_place[n] in used or any(state == n for state, _ in body.rows) for n in collected):
        raise NotImplementedError("a loop that reads rows which it writes")
    given = [n for n in same if by_place[n] in used]
    rows = [place for place in body.rows if by_place[place] in used]
    sequences: list[tuple[int | None, int]] = [*rows]
    params = [*(by_place[n] for n in (*changing, *given)), *(by_place[place] for place in rows)]
    if by_place[None] in used:
        sequences.append((None, 1))
        params.append(by_place[None])
    func = relax.Function(params, lean.body, lean.ret_ty, lean.is_pure, lean.attrs)
    rounds = Rounds(
        num_rounds=body.count.num_rounds, num_states=len(changing), num_same=len(given),
        is_backward=tuple(factor < 0 for _, factor in sequences),
        collects_backward=tuple(factor < 0 for factor in collected.values()),
    )  # fmt: skip
    return LoopStep(
        module=tvm.IRModule({"main": func}), rounds=rounds, given=(*changing, *given),
        sequences=tuple(state for state, _ in sequences), results=(*changing, *collected),
    )  # fmt: skip
