"""Models come in, tasks come out, and the fused module still computes the model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from tvm_spm.deploy import runtime
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model, random_inputs
from tvm_spm.frontend.models import models
from tvm_spm.workload import Workload

LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


def image_model(nodes, tensors, shape=(1, 4, 6, 6)):
    graph = helper.make_graph(
        nodes, "small",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def residual_model(shape=(1, 4, 6, 6)):
    """Convolution, batch norm, scale and shift, activation; a grouped one beside it; sum; dropout; classifier."""
    rng = np.random.default_rng(3)

    def normal(*extents):
        return rng.standard_normal(extents).astype("float32")

    tensors = {"w1": normal(4, 4, 3, 3), "w2": normal(4, 2, 1, 1), "b2": normal(4), "fc": normal(5, 4), "fb": normal(5)}
    tensors |= {"gamma": normal(4), "beta": normal(4), "mean": normal(4), "var": np.abs(normal(4)) + 0.5}
    tensors |= {"scale": normal(4), "shift": normal(1, 4, 1, 1), "axes": np.array([1, 2])}
    node = helper.make_node
    nodes = [
        node("Conv", ["data", "w1"], ["c1"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c1", "gamma", "beta", "mean", "var"], ["n1"], epsilon=1e-3),
        node("Unsqueeze", ["scale", "axes"], ["scale3"]),
        node("Mul", ["n1", "scale3"], ["m1"]),
        node("Add", ["shift", "m1"], ["a1"]),
        node("Conv", ["data", "w2", "b2"], ["c2"], group=2),
        node("Sum", ["a1", "c2", "data"], ["s"]),
        node("Relu", ["s"], ["r"]),
        node("BatchNormalization", ["r", "gamma", "beta", "mean", "var"], ["n2"]),
        node("Dropout", ["n2"], ["d"]),
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "fc", "fb"], ["out"], transB=1),
    ]
    return image_model(nodes, tensors, shape)


def test_the_fused_module_computes_the_model():
    model = residual_model()
    data = np.random.default_rng(4).standard_normal((1, 4, 6, 6)).astype("float32")
    expected = ReferenceEvaluator(model).run(None, {"data": data})[0]
    extraction = extract(load_model(model))
    found = runtime.run(runtime.build(extraction.mod, "edge-256"), [data])[0]
    # Sums of at most 4*3*3 + 2 products of normal numbers; float32 keeps 24 bits of each.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    kinds = Counter(task.kind for task in extraction.graph.tasks for _ in range(task.count))
    assert (kinds["conv2d"], kinds["matmul"]) == (2, 1)
    assert not any("batch_norm" in name or "dropout" in name for name, _ in extraction.functions)


def test_edges_follow_the_data_through_views():
    graph = extract(load_model(residual_model())).graph
    by_name = {node.name: index for index, node in enumerate(graph.nodes)}
    last = graph.nodes[-1]
    pool = next(index for name, index in by_name.items() if "mean" in name or "pool" in name)
    # Between the pool and the classifier stands a flatten, which moves no data.
    assert last.inputs == (pool,)
    assert [call.reason for call in graph.host_calls] == ["a view: no data moves"]
    assert all(source < index for index, node in enumerate(graph.nodes) for source in node.inputs)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_every_layer_of_a_real_network_becomes_a_task(path):
    layers = Counter(node.op_type for node in onnx.load(str(path)).graph.node)
    extraction = extract(load_model(path))
    graph = extraction.graph
    counts = Counter({"conv2d": 0, "matmul": 0})
    for task in graph.tasks:
        counts[task.kind] += task.count
    assert counts["conv2d"] == layers["Conv"]
    assert counts["matmul"] == layers["Gemm"]
    assert {call.reason for call in graph.host_calls} <= {"a view: no data moves"}
    assert sum(counts.values()) == len(graph.nodes)
    assert len(extraction.nests) == len(graph.tasks)
    functions = {
        name.name_hint for name, func in extraction.mod.functions_items() if isinstance(func, tvm.tirx.PrimFunc)
    }
    assert functions == {name for name, _ in extraction.functions} | {call.name for call in graph.host_calls}


# Multiply-accumulates, convolutions and products of the networks as published: torchvision's model tables (GFLOPS) for
# classifiers, Ultralytics' for YOLOv8n (8.7 GFLOPs are two a MAC); the others are counted by hand below.
BLOCK = 4 * 768 * 768 + 2 * 768 * 3072
"""Products of one transformer block with weights, per token."""
LLAMA = 2 * 2048 * 2048 + 2 * 2048 * 512 + 3 * 2048 * 8192
"""The same for Llama 3.2 1B: its own queries and results, keys and values of 8 heads, a gated product."""
PUBLISHED = {
    "alexnet": (0.71e9, 5, 3), "efficientnet_b0": (0.386e9, 81, 1), "mobilenet_v2": (0.30e9, 52, 1),
    "resnet18": (1.81e9, 20, 1), "resnet50": (4.09e9, 53, 1), "vgg19": (19.63e9, 16, 3), "vit_b16": (17.56e9, 1, 97),
    "yolov8n": (4.37e9, 63, 0),
    "bert_base": (12 * 128 * (BLOCK + 2 * 128 * 768), 0, 12 * 8),
    "bert_base_layer": (128 * (BLOCK + 2 * 128 * 768), 0, 8),
    "vit_tiny_block": (197 * (4 * 192 * 192 + 2 * 192 * 768 + 2 * 197 * 192), 0, 8),
    # All 512 tokens are looked at, those hidden by the mask too.
    "llama_layer": (512 * (LLAMA + 2 * 512 * 2048), 0, 7 + 2),
    "llama_layer_decode": (LLAMA + 2 * 2049 * 2048, 0, 7 + 4),
    "gpt2": (12 * 128 * (BLOCK + 2 * 128 * 768) + 768 * 50257, 0, 12 * 8 + 1),
    # A token looks at 1,023 earlier ones and itself.
    "gpt2_decode": (12 * (BLOCK + 2 * 1024 * 768) + 768 * 50257, 0, 12 * 10 + 1),
    # Steps after the first of each layer multiply their state; all inputs are one product.
    "lstm": (32 * (128 + 256) * 1024 + 2 * 31 * 256 * 1024 + 32 * 256 * 64, 0, 2 + 2 * 31 + 1),
    # The transposed convolution runs as one for each row and column modulo 2.
    "fsrcnn": (560 * 960 * (25 * 56 + 2 * 56 * 12 + 4 * 9 * 144 + 81 * 56), 7 + 4, 0),
    # Two 3x3 a level down and up, a 3x3 after each upsampling, a 1x1 at the end.
    "unet": (
        sum(9 * (256 >> level) ** 2 * (64 << level) * (3 if level == 0 else 32 << level) for level in range(5))
        + sum(9 * (256 >> level) ** 2 * (64 << level) ** 2 for level in range(5))
        + sum(9 * (256 >> level) ** 2 * (64 << level) ** 2 * (2 + 2 + 1) for level in range(4)) + 256 * 256 * 64 * 2,
        10 + 12 + 1, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", models())
def test_built_in_networks_have_the_published_size(name):
    mod = load_model(name)
    assert int(mod["main"].attrs["num_input"]) == {"gpt2_decode": 25, "llama_layer_decode": 3}.get(name, 1)
    tasks = [task for task in extract(mod).graph.tasks if isinstance(task.work, Workload)]
    macs, convs, products = PUBLISHED[name]
    assert sum(task.count * task.work.macs for task in tasks) == pytest.approx(macs, rel=0.01)
    assert sum(task.count for task in tasks if task.kind == "conv2d") == convs
    assert sum(task.count for task in tasks if task.kind == "matmul") == products


@pytest.mark.parametrize("name", ["bert_base", "efficientnet_b0", "lstm"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_built_in_networks_of_two_bytes_run_as_such(name, dtype):
    tasks = [task for task in extract(load_model(name, dtype=dtype)).graph.tasks if isinstance(task.work, Workload)]
    assert {(task.work.I.elem_bits, task.work.W.elem_bits) for task in tasks} == {(16, 16)}


@pytest.mark.parametrize(
    ("name", "shapes", "said"),
    [
        ("unet", {"data": (1, 3, 250, 256)}, "must be BATCH,3,ROWS,COLS with ROWS and COLS multiples of 16"),
        ("vgg19", {"data": (1, 3, 200, 200)}, "must be BATCH,3,224,224, for example 1,3,224,224"),
        ("bert_base", {"data": (1, 64, 512)}, "must be BATCH,LENGTH,768, for example 1,128,768"),
        ("gpt2_decode", {"data": (2, 1, 768)}, "batches of 1, 2: must be one for all inputs"),
        ("lstm", {"dtaa": (1, 32, 128)}, "shape given for 'dtaa', which is no input: did you mean 'data'"),
    ],
)
def test_a_shape_that_a_built_in_network_cannot_take_is_refused(name, shapes, said):
    with pytest.raises(ModelError, match=f"{name}: .*{said}"):
        load_model(name, shapes=shapes)


def test_extraction_is_repeatable():
    first, second = (extract(load_model("mobilenet_v2")) for _ in range(2))
    assert first.graph == second.graph
    assert first.functions == second.functions
    assert first.nests == second.nests
    tvm.ir.assert_structural_equal(first.mod, second.mod)


def test_equal_layers_are_one_task():
    tasks = extract(load_model("resnet18")).graph.tasks
    # Both blocks of stage 1 start with 64 -> 64, 3x3 and a ReLU; both end with a residual add before it.
    stage = [task for task in tasks if task.kind == "conv2d" and task.work.dims.K == 64 and task.work.dims.C == 64]
    assert [task.count for task in stage] == [2, 2]
    assert [len(task.work.epilogue.extras) for task in stage] == [1, 2]


@I.ir_module
class Mixed:
    @R.function
    def main(
        x: R.Tensor((1, 2, 4, 4, 4), "float32"), w: R.Tensor((3, 2, 3, 3, 3), "float32"),
        a: R.Tensor((4, 6), "float16"), b: R.Tensor((5, 6), "float16"),
    ):  # fmt: skip
        with R.dataflow():
            volume = R.nn.conv3d(x, w)
            turned = R.permute_dims(b, [1, 0])
            product = R.matmul(a, turned, out_dtype="float32")
            library = R.call_dps_packed("vendor.activate", (product,), out_ty=R.Tensor((4, 5), "float32"))
            ordered = R.sort(library)
            gram = R.matmul(a, R.permute_dims(a, [1, 0]))
            R.output(volume, ordered, gram)
        return volume, ordered, gram


def test_what_cannot_be_a_task_is_named_with_its_reason():
    graph = extract(Mixed).graph
    assert [(call.name, call.reason) for call in graph.host_calls] == [
        ("conv3d", "a window slides along 3 axes, two are supported"),
        ("vendor.activate", "a library function: its loops are not in the module"),
        ("relax.sort", "TVM has no TIR for this operator"),
    ]
    product = next(task.work for task in graph.tasks if task.name == "matmul_transposed")
    # The transposed operand is read where it is stored: (n, k).
    assert product == Workload.matmul(m=4, k=6, n=5, dtype="float16", out_dtype="float32", transposed_weight=True)


def test_vector_work_counts_bytes_and_operations():
    model = image_model([helper.make_node("MaxPool", ["data"], ["out"], kernel_shape=[2, 2], strides=[2, 2])], {})
    (task,) = extract(load_model(model)).graph.tasks
    # Reads 1*4*6*6 floats, writes 1*4*3*3, and takes 4 maxima for each of the 36 results.
    assert (task.work.read_bytes, task.work.write_bytes, task.work.num_ops) == (144 * 4, 36 * 4, 36 * 4)


def test_bound_and_unbound_weights_give_the_same_tasks():
    mod = load_model("alexnet", shapes={"data": (2, 3, 224, 224)})
    names = [param.name for param in mod["main"].params[1:]]
    values = [tvm.runtime.tensor(array) for array in random_inputs(mod, np.random.default_rng(0))[1:]]
    bound = relax.transform.BindParams("main", dict(zip(names, values, strict=True)))(mod)
    assert [task.work for task in extract(bound).graph.tasks] == [task.work for task in extract(mod).graph.tasks]


def test_random_inputs_repeat_and_fit():
    mod = load_model("mobilenet_v2")
    first, second = (random_inputs(mod, np.random.default_rng(5)) for _ in range(2))
    for param, left, right in zip(mod["main"].params, first, second, strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.shape == tuple(int(extent) for extent in param.ty.shape.values)
    # A filter of 32 -> 16, 1x1: He's deviation is sqrt(2 / 32) = 0.25.
    pointwise = next(array for array in first if array.shape == (16, 32, 1, 1))
    assert 0.2 < float(pointwise.std()) < 0.3


def test_weights_given_only_by_their_shape_become_parameters():
    mod = load_model(next(path for path in LIGHT if path.stem == "light_resnet50"))
    main = mod["main"]
    assert int(main.attrs["num_input"]) == 1
    assert list(main.params[0].ty.shape.values) == [1, 3, 224, 224]
    # 53 filters and a classifier.
    assert sum(1 for param in main.params if len(param.ty.shape.values) == 4 and param.ty.shape.values[2] != 1) >= 16


def dynamic_model():
    model = residual_model()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = "batch"
    dims[2].ClearField("dim_value")
    return model


def test_unknown_dims_name_the_flag_that_fixes_them():
    with pytest.raises(ModelError) as error:
        load_model(dynamic_model())
    assert str(error.value) == (
        "small: unknown input dims: 'data' has dims (batch, 4, ?, 6); fix them, for example --shape data=1,4,224,6"
    )
    mod = load_model(dynamic_model(), shapes={"data": (2, 4, 6, 6)})
    assert list(mod["main"].params[0].ty.shape.values) == [2, 4, 6, 6]


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        ({"dat": (1, 4, 6, 6)}, "small: shape given for 'dat', which is no input: did you mean 'data'?"),
        ({"data": (1, 4, 6)}, "small: input 'data': 3 dims given, the model has 4 (1, 4, 6, 6)"),
        ({"data": (1, 4, 0, 6)}, "small: input 'data': shape 1, 4, 0, 6: every dim must be >= 1"),
    ],
)
def test_wrong_shapes_are_refused(shapes, text):
    with pytest.raises(ModelError) as error:
        load_model(residual_model(), shapes=shapes)
    assert str(error.value) == text


def test_unreadable_files_are_refused(tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    onnx.save(image_model([], {}), str(tmp_path / "hollow.onnx"))
    cases = {
        "empty.onnx": "the file is empty (0 B); export the model again",
        "noise.onnx": "not an ONNX model (100 B that do not decode)",
        "hollow.onnx": "not an ONNX model, or one without a single operator",
        "nosie.onnx": "no such file; did you mean 'noise.onnx'?",
    }
    for name, text in cases.items():
        with pytest.raises(ModelError) as error:
            load_model(tmp_path / name)
        assert str(error.value) == f"{tmp_path / name}: {text}"


def test_unknown_names_and_operators_are_refused():
    with pytest.raises(ModelError) as error:
        load_model("resnet19")
    assert str(error.value) == "unknown model 'resnet19': did you mean 'resnet18'? (or give the path of an .onnx file)"
    strange = image_model([helper.make_node("Frobnicate", ["data"], ["out"])], {})
    with pytest.raises(ModelError, match="small: cannot import: .*Frobnicate"):
        load_model(strange)
    dangling = image_model([helper.make_node("Relu", ["dta"], ["out"])], {})
    with pytest.raises(ModelError, match="small: cannot import: nothing before its use defines 'dta'"):
        load_model(dangling)
    with pytest.raises(ModelError, match="no Relax function 'main'"):
        load_model(tvm.IRModule({}))
    with pytest.raises(ModelError, match="its classifier needs 224 x 224"):
        load_model("vgg19", shapes={"data": (1, 3, 96, 96)})


@I.ir_module
class Dynamic:
    @R.function
    def main(x: R.Tensor(("n", 4), "float32")):
        with R.dataflow():
            y = R.nn.relu(x)
            R.output(y)
        return y


def test_symbolic_dims_of_a_module_are_bound_or_named():
    with pytest.raises(ModelError) as error:
        load_model(Dynamic)
    assert str(error.value) == ("module: unknown input dims: 'x' has dims (n, 4); fix them, for example --shape x=1,4")
    with pytest.raises(ModelError, match="module: input 'x': dim 4 cannot be 5"):
        load_model(Dynamic, shapes={"x": (3, 5)})
    assert list(load_model(Dynamic, shapes={"x": (3, 4)})["main"].params[0].ty.shape.values) == [3, 4]
