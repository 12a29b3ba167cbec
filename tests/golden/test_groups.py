"""The code of fused groups and of attention as text, for a reader to review."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tvm
from tvm import relax

from schedules.attention.code import attention_func
from schedules.group.code import schedule_group
from tests.numeric.fused import network
from tvm_spm.attention import AttentionMapping
from tvm_spm.deploy.grouping import group_calls
from tvm_spm.frontend.attention import find_attention
from tvm_spm.frontend.extract import extract
from tvm_spm.frontend.layers.graph import layer_graph
from tvm_spm.group import Group, GroupMapping
from tvm_spm.mapping import Mapping

op = relax.op
Builder = relax.BlockBuilder
Params = list[relax.Var]


def conv(b: Builder, x: relax.Expr, w: relax.Expr) -> relax.Expr:
    return b.emit(op.nn.conv2d(x, w, padding=int(w.ty.shape[2]) // 2, out_dtype="int32"))


def narrow(b: Builder, x: relax.Expr) -> relax.Expr:
    return b.emit(op.astype(x, "int8"))


def two_convolutions(b: Builder, p: Params) -> relax.Expr:
    return conv(b, narrow(b, conv(b, p[0], p[1])), p[2])


def residual_branch(b: Builder, p: Params) -> relax.Expr:
    first = narrow(b, conv(b, p[0], p[1]))
    return b.emit(op.add(conv(b, first, p[2]), b.emit(op.astype(first, "int32"))))


def attention(b: Builder, p: Params) -> relax.Expr:
    scores = b.emit(op.nn.softmax(b.emit(op.matmul(p[0], p[1]))))
    return b.emit(op.matmul(scores, p[2]))


IMAGE, TAPS_3, TAPS_1 = ((1, 2, 6, 5), "int8"), ((2, 2, 3, 3), "int8"), ((2, 2, 1, 1), "int8")

# Network, core factors, tile of the last output, axes kept from tile to tile.
CASES = {
    # A tile of 2 rows computes 4 of the first convolution, 2 of them again at the next tile.
    "halo_recomputed": ([IMAGE, TAPS_3, TAPS_3], two_convolutions, (1, 1, 1, 1), (1, 2, 2, 5), ()),
    # The same rows stay, in a ring; each tile adds 2.
    "halo_kept": ([IMAGE, TAPS_3, TAPS_3], two_convolutions, (1, 1, 1, 1), (1, 2, 2, 5), (2,)),
    # Two cores; what the first layer makes is read twice, once past the second.
    "residual_branch": ([IMAGE, TAPS_1, TAPS_3], residual_branch, (1, 1, 2, 1), (1, 2, 3, 5), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_group_text(name: str, matches: Callable[[str, str], None]):
    shapes, build, cores, tile, kept = CASES[name]
    extraction = extract(network(shapes, build))
    layers = layer_graph(extraction)
    group = Group.interval(layers.graph, 0, len(layers.graph.layers))
    works = [layer.workload for layer in layers.graph.layers]
    mapping = GroupMapping(
        cores=cores, tile=tile, kept=kept, k_tile=tuple(1 if work is None else work.dims.K for work in works),
        inner=tuple(None if work is None else Mapping(spm=work.dims, rf=work.dims) for work in works),
    )  # fmt: skip
    fused = group_calls(extraction.mod, [layers.bindings]).function(0, layers, group)
    code = schedule_group(fused, group, mapping).script()
    matches(f"group_{name}", f"{mapping}\n\n{code}\n")


def test_attention_text(matches: Callable[[str, str], None]):
    """Two tiles of queries, and three chunks of keys of which the last is smaller."""
    shapes = [((2, 4, 3), "float32"), ((2, 3, 5), "float32"), ((2, 5, 3), "float32")]
    (site,), _ = find_attention(extract(network(shapes, attention)).mod)
    mapping = AttentionMapping(query_tile=2, key_tile=2)
    code = tvm.IRModule({"main": attention_func(site, mapping)}).script()
    matches("attention_online_softmax", f"{mapping}\n\n{code}\n")
