"""StableHLO texts compute what they say: against numpy, and with calls, windows and attention as JAX writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tvm_spm.deploy.runtime import build, run
from tvm_spm.errors import ModelError
from tvm_spm.frontend import Extraction, extract, load_model
from tvm_spm.frontend.attention import find_attention
from tvm_spm.workload import Workload

pytest.importorskip(
    "jaxlib", reason='StableHLO is parsed by jaxlib, which is optional: pip install "tvm-spm[stablehlo]"'
)

Arrays = list[NDArray[np.float32]]


def draw(*shapes: tuple[int, ...]) -> Arrays:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


def read(tmp_path: Path, text: str) -> Extraction:
    path = tmp_path / "model.mlir"
    path.write_text(text)
    return extract(load_model(path))


def check(extraction: Extraction, arrays: list[NDArray[np.generic]], expected: NDArray[np.generic]) -> None:
    assert [call.name for call in extraction.graph.host_calls if "a view" not in call.reason] == []
    found = run(build(extraction.mod, "edge-256"), arrays)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


LAYER = """
module @jit_f {
  func.func public @main(%arg0: tensor<3x4xf32>, %arg1: tensor<4x5xf32>, %arg2: tensor<5xf32>) -> tensor<3x5xf32> {
    %0 = stablehlo.dot_general %arg0, %arg1, contracting_dims = [1] x [0]
      : (tensor<3x4xf32>, tensor<4x5xf32>) -> tensor<3x5xf32>
    %1 = stablehlo.broadcast_in_dim %arg2, dims = [1] : (tensor<5xf32>) -> tensor<3x5xf32>
    %2 = stablehlo.add %0, %1 : tensor<3x5xf32>
    %3 = call @relu(%2) : (tensor<3x5xf32>) -> tensor<3x5xf32>
    return %3 : tensor<3x5xf32>
  }
  func.func private @relu(%arg0: tensor<3x5xf32>) -> tensor<3x5xf32> {
    %cst = stablehlo.constant dense<0.0> : tensor<f32>
    %0 = stablehlo.broadcast_in_dim %cst, dims = [] : (tensor<f32>) -> tensor<3x5xf32>
    %1 = stablehlo.maximum %arg0, %0 : tensor<3x5xf32>
    return %1 : tensor<3x5xf32>
  }
}
"""


def test_layer_and_calls(tmp_path: Path):
    x, w, b = draw((3, 4), (4, 5), (5,))
    extraction = read(tmp_path, LAYER)
    check(extraction, [x, w, b], np.maximum(x @ w + b, 0))
    assert len(extraction.graph.nodes) == 1


def test_convolution_and_windows(tmp_path: Path):
    # 3x3 filters over an image with channels last, then the largest of 2x2 pixels, then sums of 2x2.
    text = """
    module {
      func.func @main(%x: tensor<1x7x6x3xf32>, %w: tensor<3x3x3x4xf32>) -> tensor<1x2x2x4xf32> {
        %0 = stablehlo.convolution(%x, %w) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
          window = {stride = [1, 1], pad = [[1, 0], [1, 1]]}
          {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
          : (tensor<1x7x6x3xf32>, tensor<3x3x3x4xf32>) -> tensor<1x6x6x4xf32>
        %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
        %1 = "stablehlo.reduce_window"(%0, %low) <{window_dimensions = array<i64: 1, 2, 2, 1>,
          window_strides = array<i64: 1, 2, 2, 1>}> ({
          ^bb0(%a: tensor<f32>, %b: tensor<f32>):
            %m = stablehlo.maximum %a, %b : tensor<f32>
            stablehlo.return %m : tensor<f32>
        }) : (tensor<1x6x6x4xf32>, tensor<f32>) -> tensor<1x3x3x4xf32>
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %2 = "stablehlo.reduce_window"(%1, %zero) <{window_dimensions = array<i64: 1, 2, 2, 1>}> ({
          ^bb0(%a: tensor<f32>, %b: tensor<f32>):
            %m = stablehlo.add %a, %b : tensor<f32>
            stablehlo.return %m : tensor<f32>
        }) : (tensor<1x3x3x4xf32>, tensor<f32>) -> tensor<1x2x2x4xf32>
        return %2 : tensor<1x2x2x4xf32>
      }
    }
    """
    x, w = draw((1, 7, 6, 3), (3, 3, 3, 4))
    padded = np.pad(x[0], ((1, 0), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    image = np.einsum("yxcij,ijck->yxk", windows, w)
    largest = image.reshape(3, 2, 3, 2, 4).max((1, 3))
    sums = np.lib.stride_tricks.sliding_window_view(largest, (2, 2), axis=(0, 1)).sum((-1, -2))
    check(read(tmp_path, text), [x, w], sums[None])


def test_causal_attention(tmp_path: Path):
    # As JAX writes einsum, tril, where and softmax.
    text = """
    module {
      func.func @main(%q: tensor<2x3x5x8xf32>, %k: tensor<2x3x5x8xf32>, %v: tensor<2x3x5x8xf32>)
          -> tensor<2x3x5x8xf32> {
        %0 = stablehlo.dot_general %q, %k, batching_dims = [0, 1] x [0, 1], contracting_dims = [3] x [3]
          : (tensor<2x3x5x8xf32>, tensor<2x3x5x8xf32>) -> tensor<2x3x5x5xf32>
        %scale = stablehlo.constant dense<2.0> : tensor<f32>
        %1 = stablehlo.broadcast_in_dim %scale, dims = [] : (tensor<f32>) -> tensor<2x3x5x5xf32>
        %2 = stablehlo.divide %0, %1 : tensor<2x3x5x5xf32>
        %3 = stablehlo.iota dim = 0 : tensor<5x5xi32>
        %4 = stablehlo.iota dim = 1 : tensor<5x5xi32>
        %5 = stablehlo.compare GE, %3, %4, SIGNED : (tensor<5x5xi32>, tensor<5x5xi32>) -> tensor<5x5xi1>
        %6 = stablehlo.broadcast_in_dim %5, dims = [2, 3] : (tensor<5x5xi1>) -> tensor<2x3x5x5xi1>
        %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
        %7 = stablehlo.broadcast_in_dim %low, dims = [] : (tensor<f32>) -> tensor<2x3x5x5xf32>
        %8 = stablehlo.select %6, %2, %7 : tensor<2x3x5x5xi1>, tensor<2x3x5x5xf32>
        %9 = stablehlo.reduce(%8 init: %low) applies stablehlo.maximum across dimensions = [3]
          : (tensor<2x3x5x5xf32>, tensor<f32>) -> tensor<2x3x5xf32>
        %10 = stablehlo.broadcast_in_dim %low, dims = [] : (tensor<f32>) -> tensor<2x3x5xf32>
        %11 = stablehlo.maximum %10, %9 : tensor<2x3x5xf32>
        %12 = stablehlo.broadcast_in_dim %11, dims = [0, 1, 2] : (tensor<2x3x5xf32>) -> tensor<2x3x5x5xf32>
        %13 = stablehlo.subtract %8, %12 : tensor<2x3x5x5xf32>
        %14 = stablehlo.exponential %13 : tensor<2x3x5x5xf32>
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %15 = stablehlo.reduce(%14 init: %zero) applies stablehlo.add across dimensions = [3]
          : (tensor<2x3x5x5xf32>, tensor<f32>) -> tensor<2x3x5xf32>
        %16 = stablehlo.broadcast_in_dim %15, dims = [0, 1, 2] : (tensor<2x3x5xf32>) -> tensor<2x3x5x5xf32>
        %17 = stablehlo.divide %14, %16 : tensor<2x3x5x5xf32>
        %18 = stablehlo.dot_general %17, %v, batching_dims = [0, 1] x [0, 1], contracting_dims = [3] x [2]
          : (tensor<2x3x5x5xf32>, tensor<2x3x5x8xf32>) -> tensor<2x3x5x8xf32>
        return %18 : tensor<2x3x5x8xf32>
      }
    }
    """
    q, k, v = draw(*[(2, 3, 5, 8)] * 3)
    scores = np.where(np.tri(5, dtype=bool), np.einsum("bhmd,bhnd->bhmn", q, k) / 2, -np.inf)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    extraction = read(tmp_path, text)
    check(extraction, [q, k, v], powers / powers.sum(-1, keepdims=True) @ v)
    assert len(find_attention(extraction.mod)[0]) == 1
    assert len(extraction.graph.nodes) == 3


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("has_bias", [False, True])
def test_attention_for_groups_of_heads(tmp_path: Path, batch: int, has_bias: bool):
    # As jax.nn.dot_product_attention is exported: an axis of one for the heads that share keys, in varying places.
    q, wide, s, e = f"{batch}x6x4x8xf32", f"{batch}x4x6x1x6xf32", f"{batch}x4x6x1", f"{batch}x4x6x6xf32"
    added = f"""
        %bias = stablehlo.reshape %b : (tensor<{e}>) -> tensor<{wide}>
        %4 = stablehlo.add %3, %bias : tensor<{wide}>"""
    text = f"""
    module {{
      func.func @main(%q: tensor<{q}>, %k: tensor<{q}>, %v: tensor<{q}>, %b: tensor<{e}>) -> tensor<{q}> {{
        %zero = stablehlo.constant dense<0.0> : tensor<f32>
        %low = stablehlo.constant dense<0xFF800000> : tensor<f32>
        %scale = stablehlo.constant dense<0.5> : tensor<f32>
        %0 = stablehlo.reshape %q : (tensor<{q}>) -> tensor<{batch}x6x4x1x8xf32>
        %1 = stablehlo.dot_general %0, %k, batching_dims = [0, 2] x [0, 2], contracting_dims = [4] x [3]
          : (tensor<{batch}x6x4x1x8xf32>, tensor<{q}>) -> tensor<{wide}>
        %2 = stablehlo.broadcast_in_dim %scale, dims = [] : (tensor<f32>) -> tensor<{wide}>
        %3 = stablehlo.multiply %1, %2 : tensor<{wide}>{added if has_bias else ""}
        %5 = stablehlo.reduce({"%4" if has_bias else "%3"} init: %low) applies stablehlo.maximum across dimensions = [4]
          : (tensor<{wide}>, tensor<f32>) -> tensor<{s}xf32>
        %6 = stablehlo.broadcast_in_dim %low, dims = [] : (tensor<f32>) -> tensor<{s}xf32>
        %7 = stablehlo.maximum %6, %5 : tensor<{s}xf32>
        %8 = stablehlo.transpose %7, dims = [3, 0, 1, 2] : (tensor<{s}xf32>) -> tensor<1x{batch}x4x6xf32>
        %9 = stablehlo.broadcast_in_dim %8, dims = [0, 1, 2, 3]
          : (tensor<1x{batch}x4x6xf32>) -> tensor<1x{batch}x4x6x1xf32>
        %10 = stablehlo.transpose {"%4" if has_bias else "%3"}, dims = [3, 0, 1, 2, 4]
          : (tensor<{wide}>) -> tensor<1x{e}>
        %11 = stablehlo.broadcast_in_dim %9, dims = [0, 1, 2, 3, 4] : (tensor<1x{batch}x4x6x1xf32>) -> tensor<1x{e}>
        %12 = stablehlo.subtract %10, %11 : tensor<1x{e}>
        %13 = stablehlo.exponential %12 : tensor<1x{e}>
        %14 = stablehlo.reduce(%13 init: %zero) applies stablehlo.add across dimensions = [4]
          : (tensor<1x{e}>, tensor<f32>) -> tensor<1x{batch}x4x6xf32>
        %15 = stablehlo.broadcast_in_dim %14, dims = [0, 1, 2, 3]
          : (tensor<1x{batch}x4x6xf32>) -> tensor<1x{batch}x4x6x1xf32>
        %16 = stablehlo.broadcast_in_dim %15, dims = [0, 1, 2, 3, 4] : (tensor<1x{batch}x4x6x1xf32>) -> tensor<1x{e}>
        %17 = stablehlo.divide %13, %16 : tensor<1x{e}>
        %18 = stablehlo.dot_general %v, %17, batching_dims = [0, 2] x [1, 2], contracting_dims = [1] x [4]
          : (tensor<{q}>, tensor<1x{e}>) -> tensor<{batch}x4x8x1x6xf32>
        %19 = stablehlo.transpose %18, dims = [3, 0, 4, 1, 2]
          : (tensor<{batch}x4x8x1x6xf32>) -> tensor<1x{q}>
        %20 = stablehlo.reshape %19 : (tensor<1x{q}>) -> tensor<{q}>
        return %20 : tensor<{q}>
      }}
    }}
    """
    query, key, value = draw(*[(batch, 6, 4, 8)] * 3)
    (bias,) = draw((batch, 4, 6, 6))
    scores = np.einsum("bmhd,bnhd->bhmn", query, key) / 2 + (bias if has_bias else 0)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    extraction = read(tmp_path, text)
    expected = np.einsum("bhmn,bnhd->bmhd", powers / powers.sum(-1, keepdims=True), value)
    check(extraction, [query, key, value, bias], expected)
    assert len(find_attention(extraction.mod)[0]) == 1


def test_products_over_any_axes(tmp_path: Path):
    text = """
    module {
      func.func @main(%a: tensor<4x2x3x5xf32>, %b: tensor<5x6x4x7xf32>) -> tensor<4x2x3x6x7xf32> {
        %0 = stablehlo.dot_general %a, %b, batching_dims = [0] x [2], contracting_dims = [3] x [0]
          : (tensor<4x2x3x5xf32>, tensor<5x6x4x7xf32>) -> tensor<4x2x3x6x7xf32>
        return %0 : tensor<4x2x3x6x7xf32>
      }
    }
    """
    a, b = draw((4, 2, 3, 5), (5, 6, 4, 7))
    check(read(tmp_path, text), [a, b], np.einsum("bmnk,kpbq->bmnpq", a, b))


def test_rows_of_a_table(tmp_path: Path):
    text = """
    module {
      func.func @main(%t: tensor<7x4xf32>, %i: tensor<2x3xi32>) -> tensor<2x3x4xf32> {
        %0 = stablehlo.broadcast_in_dim %i, dims = [0, 1] : (tensor<2x3xi32>) -> tensor<2x3x1xi32>
        %1 = "stablehlo.gather"(%t, %0) <{dimension_numbers = #stablehlo.gather<offset_dims = [2],
          collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 2>, indices_are_sorted = false,
          slice_sizes = array<i64: 1, 4>}> : (tensor<7x4xf32>, tensor<2x3x1xi32>) -> tensor<2x3x4xf32>
        return %1 : tensor<2x3x4xf32>
      }
    }
    """
    (table,) = draw((7, 4))
    # The definition takes the nearest row for a number outside.
    places = np.array([[0, 6, 3], [-2, 9, 1]], "int32")
    check(read(tmp_path, text), [table, places], table[np.clip(places, 0, 6)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("module {", r'model.mlir: no StableHLO that can be parsed: "-":1:7: expected operation name in quotes'),
        (LAYER[: len(LAYER) // 2], "no StableHLO that can be parsed"),
        ("module { func.func @f() { return } }", r"the module has no function 'main' \(it has 'f'\)"),
        (
            "module { func.func @main(%a: tensor<?xf32>) -> tensor<?xf32> { return %a : tensor<?xf32> } }",
            r"argument 0 of main: tensor<\?xf32> is no tensor of known shape",
        ),
        (
            "module { func.func @main(%a: tensor<3xf32>) -> tensor<3xf32> {\n"
            "%0 = stablehlo.custom_call @foo(%a) : (tensor<3xf32>) -> tensor<3xf32>\n return %0 : tensor<3xf32> } }",
            r'operator stablehlo.custom_call at "-":2:6: unknown \("foo"\)',
        ),
        (
            "module { func.func @main(%a: tensor<3xf32>) -> tensor<3xf32> {\n"
            "%0 = call @main(%a) : (tensor<3xf32>) -> tensor<3xf32>\n return %0 : tensor<3xf32> } }",
            "calls nest deeper than 64; functions cannot recur",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def loop(*, backwards: bool = False, condition: str = "compare LT, %i, %n, SIGNED", update: str = "%j") -> str:
    """Running products by a matrix, plus a row each; JAX writes a scan so."""
    at = (
        "%j = stablehlo.subtract %last, %i : tensor<i32>" if backwards else "%j = stablehlo.add %i, %zero : tensor<i32>"
    )
    return f"""
module @jit_f {{
  func.func public @main(%rows: tensor<40x3x4xf32>, %start: tensor<3x4xf32>, %matrix: tensor<4x4xf32>)
      -> (tensor<3x4xf32>, tensor<40x3x4xf32>) {{
    %none = stablehlo.constant dense<0.0> : tensor<40x3x4xf32>
    %first = stablehlo.constant dense<0> : tensor<i32>
    %1:5 = stablehlo.while(%xs = %rows, %w = %matrix, %i = %first, %h = %start, %ys = %none)
        : tensor<40x3x4xf32>, tensor<4x4xf32>, tensor<i32>, tensor<3x4xf32>, tensor<40x3x4xf32>
    cond {{
      %n = stablehlo.constant dense<40> : tensor<i32>
      %2 = stablehlo.{condition} : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %2 : tensor<i1>
    }} do {{
      %zero = stablehlo.constant dense<0> : tensor<i32>
      %last = stablehlo.constant dense<39> : tensor<i32>
      {at}
      %2 = func.call @row(%xs, %j) : (tensor<40x3x4xf32>, tensor<i32>) -> tensor<3x4xf32>
      %3 = stablehlo.dot_general %h, %w, contracting_dims = [1] x [0]
        : (tensor<3x4xf32>, tensor<4x4xf32>) -> tensor<3x4xf32>
      %4 = stablehlo.convert %i : (tensor<i32>) -> tensor<f32>
      %5 = stablehlo.broadcast_in_dim %4, dims = [] : (tensor<f32>) -> tensor<3x4xf32>
      %6 = stablehlo.add %2, %5 : tensor<3x4xf32>
      %7 = stablehlo.add %3, %6 : tensor<3x4xf32>
      %8 = stablehlo.reshape %7 : (tensor<3x4xf32>) -> tensor<1x3x4xf32>
      %9 = stablehlo.dynamic_update_slice %ys, %8, {update}, %zero, %zero
        : (tensor<40x3x4xf32>, tensor<1x3x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<40x3x4xf32>
      %one = stablehlo.constant dense<1> : tensor<i32>
      %10 = stablehlo.add %i, %one : tensor<i32>
      stablehlo.return %xs, %w, %10, %7, %9
        : tensor<40x3x4xf32>, tensor<4x4xf32>, tensor<i32>, tensor<3x4xf32>, tensor<40x3x4xf32>
    }}
    return %1#3, %1#4 : tensor<3x4xf32>, tensor<40x3x4xf32>
  }}
  func.func private @row(%arg0: tensor<40x3x4xf32>, %arg1: tensor<i32>) -> tensor<3x4xf32> {{
    %c = stablehlo.constant dense<0> : tensor<i32>
    %0 = stablehlo.dynamic_slice %arg0, %arg1, %c, %c, sizes = [1, 3, 4]
      : (tensor<40x3x4xf32>, tensor<i32>, tensor<i32>, tensor<i32>) -> tensor<1x3x4xf32>
    %1 = stablehlo.reshape %0 : (tensor<1x3x4xf32>) -> tensor<3x4xf32>
    return %1 : tensor<3x4xf32>
  }}
}}
"""


@pytest.mark.parametrize("backwards", [False, True])
def test_a_loop_that_counts_is_a_step_that_runs_many_times(tmp_path: Path, backwards: bool):
    extraction = read(tmp_path, loop(backwards=backwards))
    products = [task for task in extraction.graph.tasks if isinstance(task.work, Workload)]
    assert [(task.work.macs, task.count) for task in products] == [(3 * 4 * 4, 40)]
    assert [call.name for call in extraction.graph.host_calls if "a view" not in call.reason] == []
    rows, state, matrix = draw((40, 3, 4), (3, 4), (4, 4))
    matrix /= 4
    found = run(build(extraction.mod, "edge-256"), [rows, state, matrix])
    made = np.zeros_like(rows)
    for number in range(40):
        at = 39 - number if backwards else number
        state = state @ matrix + rows[at] + np.float32(number)
        made[at] = state
    for got, wanted in zip(found, (state, made), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            loop(condition="compare NE, %i, %n, SIGNED"),
            "stablehlo.while at .*: a loop that does not count",
        ),
        (
            loop(update="%zero"),
            "dynamic_update_slice at .*: a loop that writes elsewhere than at its counter",
        ),
    ],
)
def test_other_loops_are_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ModelError, match=message):
        read(tmp_path, text)


def test_a_file_of_no_text(tmp_path: Path):
    path = tmp_path / "model.mlir"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="no StableHLO that can be parsed"):
        load_model(path)
    path.write_bytes(b"ML\xefR" + bytes(40))
    with pytest.raises(ModelError, match="no StableHLO that can be parsed"):
        load_model(path)
