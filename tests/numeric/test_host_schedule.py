"""The plain schedule for host processors computes what TVM's own code does, whatever lies side by side in memory."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import te, tirx

from schedules.host import schedule_for_host

ROWS, TERMS, COLUMNS, HEADS = 40, 96, 70, 6


def product(left: te.Tensor, right: te.Tensor, term: str) -> tirx.PrimFunc:
    """Rows times columns, with weights as ``term`` indexes them."""
    k = te.reduce_axis((0, TERMS), "k")
    index = {"k, j": lambda j: (k, j), "j, k": lambda j: (j, k)}[term]
    made = te.compute(
        (ROWS, COLUMNS), lambda i, j: te.sum(left[i, k].astype("int32") * right[index(j)], axis=k), "product"
    )
    scaled = te.compute((ROWS, COLUMNS), lambda i, j: made[i, j] * 2 + 1, "scaled")
    return te.create_prim_func([left, right, scaled])


def plain() -> tirx.PrimFunc:
    """Neighbours are elements of the result."""
    return product(te.placeholder((ROWS, TERMS), "int8"), te.placeholder((TERMS, COLUMNS), "int32"), "k, j")


def transposed() -> tirx.PrimFunc:
    """Neighbours are terms of a sum."""
    return product(te.placeholder((ROWS, TERMS), "int8"), te.placeholder((COLUMNS, TERMS), "int32"), "j, k")


def heads() -> tirx.PrimFunc:
    """Terms are neighbours within a head alone."""
    depth = TERMS // HEADS
    left, right = te.placeholder((HEADS, ROWS, depth), "int32"), te.placeholder((COLUMNS, TERMS), "int32")
    k = te.reduce_axis((0, TERMS), "k")
    made = te.compute(
        (ROWS, COLUMNS), lambda i, j: te.sum(left[k // depth, i, k % depth] * right[j, k], axis=k), "product"
    )
    return te.create_prim_func([left, right, made])


def one_row() -> tirx.PrimFunc:
    """A vector times a matrix that lies by columns."""
    left, right = te.placeholder((1, 512), "int32"), te.placeholder((COLUMNS, 512), "int32")
    k = te.reduce_axis((0, 512), "k")
    made = te.compute((1, COLUMNS), lambda i, j: te.sum(left[i, k] * right[j, k], axis=k), "product")
    return te.create_prim_func([left, right, made])


def squares() -> tirx.PrimFunc:
    """Of one tensor, as a norm adds them up: its order is the network's."""
    data, k = te.placeholder((ROWS, 1024), "int32"), te.reduce_axis((0, 1024), "k")
    return te.create_prim_func(
        [data, te.compute((ROWS,), lambda i: te.sum(data[i, k] * data[i, k], axis=k), "squares")]
    )


def largest() -> tirx.PrimFunc:
    """No sum, and two loops that reduce."""
    taken = te.placeholder((ROWS, 12, TERMS), "int32")
    r, k = te.reduce_axis((0, 12), "r"), te.reduce_axis((0, TERMS), "k")
    return te.create_prim_func([taken, te.compute((ROWS,), lambda i: te.max(taken[i, r, k], axis=[r, k]), "largest")])


def prime() -> tirx.PrimFunc:
    """No number of neighbours divides the terms."""
    left, right = te.placeholder((ROWS, 97), "int32"), te.placeholder((COLUMNS, 97), "int32")
    k = te.reduce_axis((0, 97), "k")
    made = te.compute((ROWS, COLUMNS), lambda i, j: te.sum(left[i, k] * right[j, k], axis=k), "product")
    return te.create_prim_func([left, right, made])


def result(func: tirx.PrimFunc) -> np.ndarray:
    rng = np.random.default_rng(0)
    arguments = [
        tvm.runtime.tensor(rng.integers(-100, 100, [int(extent) for extent in param.shape]).astype(str(param.dtype)))
        for param in func.params
    ]
    module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    tvm.compile(module, target=tvm.target.Target("llvm"))["main"](*arguments)
    return arguments[-1].numpy()


@pytest.mark.parametrize("make", [plain, transposed, heads, one_row, squares, largest, prime])
def test_scheduled_code_computes_the_same(make) -> None:
    func = make()
    np.testing.assert_array_equal(result(schedule_for_host(func)), result(func))


@pytest.mark.parametrize(
    ("make", "is_vector"), [(transposed, True), (heads, True), (one_row, True), (prime, False), (squares, False)]
)
def test_terms_that_lie_side_by_side_become_vectors(make, is_vector: bool) -> None:
    text = str(schedule_for_host(make()))
    assert ("T.vectorized" in text) == is_vector
    assert "T.parallel" in text
