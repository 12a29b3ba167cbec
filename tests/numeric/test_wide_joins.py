"""Joins and splits of many tensors compile, are counted as work, and compute the same."""

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import relax as R

from tvm_spm.deploy import runtime
from tvm_spm.frontend import extract, wide
from tvm_spm.frontend.wide import MOST_TENSORS
from tvm_spm.workload import VectorWork


def _split_and_join(sizes: list[int], axis: int) -> tvm.IRModule:
    """Cut a tensor in pieces, and put the pieces together from the last to the first, each doubled."""
    shape = [2, 3]
    shape[axis] = sum(sizes)
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            bounds = [int(bound) for bound in np.cumsum(sizes)[:-1]]
            whole = builder.emit(relax.op.split(x, bounds, axis))
            pieces = [builder.emit(relax.TupleGetItem(whole, index)) for index in range(len(sizes))]
            doubled = [builder.emit(relax.op.add(piece, piece)) for piece in pieces[::-1]]
            out = builder.emit_output(relax.op.concat(doubled, axis))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize(
    ("count", "most", "axis"),
    [(2, 32, 0), (32, 32, 0), (33, 32, 1), (200, 32, 0), (9, 3, 0), (10, 3, 1), (28, 3, 0), (29, 2, 1)],
)
def test_pieces_come_back_in_order(count: int, most: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "MOST_TENSORS", most)
    sizes = [1 + index % 3 for index in range(count)]
    found = extract(_split_and_join(sizes, axis))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((sum(sizes), 3) if axis == 0 else (2, sum(sizes))).astype(np.float32)
    (got,) = runtime.run(runtime.build(found.mod, "edge-256"), [x])
    pieces = np.split(x, np.cumsum(sizes)[:-1], axis=axis)
    np.testing.assert_array_equal(got, np.concatenate(pieces[::-1], axis=axis) * 2)
    works = [task.work for task in found.graph.tasks if isinstance(task.work, VectorWork)]
    assert works, "the adds are work of the vector unit"


def test_no_function_has_hundreds_of_parameters() -> None:
    mod = extract(_split_and_join([1] * 300, 0)).mod
    params = [len(func.params) for _, func in mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)]
    assert max(params) <= MOST_TENSORS + 1
