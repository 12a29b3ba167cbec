"""Members of boosted trees as arrays, evaluated a block of mappings at a time.

The library answers one booster at a time, each time over all rows; here a few rows stay at hand while all trees of all
members see them. Sums are taken as the library takes them, in single precision and in the order of the trees, so what
a member says is the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_spm.jit import entry

if TYPE_CHECKING:
    import xgboost

DEPTH = 5
"""Levels of splits of every tree here; a branch that ends earlier goes on with splits that send everything left."""

SPLITS = 2**DEPTH - 1

ABREAST = 4
"""Rows that go down a tree side by side, since a row waits for each comparison; as many as are written out below."""

# numba checks signed indices for counting from the end, at every split of every tree of every row
_ONE, _TWO, _SPLITS = np.uint64(1), np.uint64(2), np.uint64(SPLITS)


class Forest(NamedTuple):
    """Trees whose splits are numbered from 0 at the root: split ``n`` is followed by ``2 n + 1`` and ``2 n + 2``.

    Attributes:
        columns: uint32 ``(members, trees, SPLITS)``: what a split looks at.
        limits: float32 ``(members, trees, SPLITS)``: values below it go to the first of the two.
        leaves: float32 ``(members, trees, SPLITS + 1)``: ``log(measured / formula)`` that is added.
        bases: float32 ``(members,)``: what each sum begins with.
    """

    columns: NDArray[np.uint32]
    limits: NDArray[np.float32]
    leaves: NDArray[np.float32]
    bases: NDArray[np.float32]


def forest_of(members: Sequence[xgboost.Booster], columns: NDArray[np.int64]) -> Forest:
    """Boosters as arrays.

    Args:
        members: Of equally many trees, none of more than ``DEPTH`` levels.
        columns: Where the features of the boosters are in the rows that the forest will see.
    """
    learners = [json.loads(bytes(each.save_raw("json")))["learner"] for each in members]
    trees = [tree for learner in learners for tree in learner["gradient_booster"]["model"]["trees"]]
    sizes = [len(tree["left_children"]) for tree in trees]
    begin = np.cumsum([0, *sizes[:-1]])
    here, offset = np.arange(sum(sizes)), np.repeat(begin, sizes)
    left, right, feature, number = (
        np.concatenate([tree[what] for tree in trees])
        for what in ("left_children", "right_children", "split_indices", "split_conditions")
    )
    is_leaf = left < 0
    # below a leaf comes the leaf again
    left, right = (np.where(is_leaf, here, child + offset) for child in (left, right))
    column, limit = np.where(is_leaf, 0, columns[feature]), np.where(is_leaf, np.inf, number)
    nodes, splits = begin.reshape(-1, 1), []
    for _ in range(DEPTH):
        splits.append(nodes)
        nodes = np.stack([left[nodes], right[nodes]], axis=-1).reshape(len(trees), -1)
    assert is_leaf[nodes].all()
    inner, shape = np.concatenate(splits, axis=1), (len(members), -1)
    return Forest(
        columns=column[inner].astype(np.uint32).reshape(*shape, SPLITS),
        limits=limit[inner].astype(np.float32).reshape(*shape, SPLITS),
        leaves=number[nodes].astype(np.float32).reshape(*shape, SPLITS + 1),
        bases=np.array([_base(each["learner_model_param"]["base_score"]) for each in learners], dtype=np.float32),
    )


def _base(text: str) -> float:
    """A number that the library writes as a list of one since its third version."""
    return float(text.strip("[]"))


@entry
def evaluate_forest(
    forest: Forest, rows: NDArray[np.float32], mean: NDArray[np.float64], variance: NDArray[np.float64]
) -> None:
    """Mean and variance, over members, of what they say of each row.

    Args:
        forest: Members.
        rows: float32 ``(n, columns)``, none missing.
        mean: ``(n,)`` for the answer.
        variance: ``(n,)`` for the answer.
    """
    num_members, num_trees = forest.columns.shape[:2]
    said = np.empty((ABREAST, num_members), np.float64)
    last = len(rows) - 1
    for begin in range(0, len(rows), ABREAST):
        row_0, row_1 = rows[begin], rows[min(begin + 1, last)]
        row_2, row_3 = rows[min(begin + 2, last)], rows[min(begin + 3, last)]
        for member in range(num_members):
            sum_0 = sum_1 = sum_2 = sum_3 = forest.bases[member]
            for tree in range(num_trees):
                columns, limits = forest.columns[member, tree], forest.limits[member, tree]
                at_0 = at_1 = at_2 = at_3 = np.uint64(0)
                for _ in range(DEPTH):
                    at_0 = _TWO * at_0 + _ONE + np.uint64(row_0[columns[at_0]] >= limits[at_0])
                    at_1 = _TWO * at_1 + _ONE + np.uint64(row_1[columns[at_1]] >= limits[at_1])
                    at_2 = _TWO * at_2 + _ONE + np.uint64(row_2[columns[at_2]] >= limits[at_2])
                    at_3 = _TWO * at_3 + _ONE + np.uint64(row_3[columns[at_3]] >= limits[at_3])
                leaves = forest.leaves[member, tree]
                sum_0 += leaves[at_0 - _SPLITS]
                sum_1 += leaves[at_1 - _SPLITS]
                sum_2 += leaves[at_2 - _SPLITS]
                sum_3 += leaves[at_3 - _SPLITS]
            said[0, member], said[1, member], said[2, member], said[3, member] = sum_0, sum_1, sum_2, sum_3
        for place in range(min(ABREAST, len(rows) - begin)):
            mean[begin + place] = said[place].mean()
            variance[begin + place] = said[place].var()
