"""Networks of PyTorch compute what they compute in PyTorch."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.torch_networks import CASES, leaves, made, torch
from tvm_spm.deploy.runtime import build, run
from tvm_spm.errors import ModelError
from tvm_spm.frontend import extract, load_model
from tvm_spm.frontend.attention import find_attention
from tvm_spm.workload import Workload

nn = torch.nn


class Squared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x


def computed(model: object, inputs: tuple[object, ...], **options: object) -> list[NDArray[np.generic]]:
    mod = extract(load_model(model, **options)).mod
    return run(build(mod, "edge-256"), [tensor.numpy() for tensor in leaves(inputs)])


def expected(module: nn.Module, inputs: tuple[object, ...]) -> list[NDArray[np.generic]]:
    with torch.no_grad():
        return [tensor.numpy() for tensor in leaves(module(*inputs))]


def close(actual: list[NDArray[np.generic]], wanted: list[NDArray[np.generic]]) -> None:
    # Numbers are about 1 and sums have at most 256 terms, whose roundings add up like their root.
    for found, right in zip(actual, wanted, strict=True):
        assert found.dtype == right.dtype
        np.testing.assert_allclose(found, right, rtol=16 * 2**-23, atol=16 * 2**-23)


@pytest.mark.parametrize("name", CASES)
def test_network(name: str):
    module, inputs = made(name)
    mod = extract(load_model(module, example_inputs=inputs)).mod
    close(run(build(mod, "edge-256"), [tensor.numpy() for tensor in leaves(inputs)]), expected(module, inputs))
    assert len(find_attention(mod)[0]) == CASES[name].attentions


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.attentions])
def test_attention_that_was_taken_apart(name: str):
    module, inputs = made(name)
    program = torch.export.export(module, inputs).run_decompositions()
    mod = extract(load_model(program)).mod
    close(run(build(mod, "edge-256"), [tensor.numpy() for tensor in leaves(inputs)]), expected(module, inputs))
    assert len(find_attention(mod)[0]) == CASES[name].attentions


def test_tables_are_computed_before_the_run():
    class Learned(nn.Module):
        """As GPT-2 keeps its mask."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.ones(1, 1, 32, 32).tril().bool())

        def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            rows = q.shape[2]
            scores = q @ k.transpose(2, 3) / 8**0.5
            scores = scores.masked_fill(self.seen[:, :, :rows, :rows].logical_not(), float("-inf"))
            ahead = torch.arange(rows)[:, None] - torch.arange(rows)
            return torch.softmax(scores - 0.5 * ahead.abs(), -1) @ v

    torch.manual_seed(0)
    module, inputs = Learned(), tuple(torch.randn(1, 2, 12, 8) for _ in range(3))
    extraction = extract(load_model(module, example_inputs=inputs))
    close(run(build(extraction.mod, "edge-256"), [each.numpy() for each in inputs]), expected(module, inputs))
    assert len(find_attention(extraction.mod)[0]) == 1
    assert len(extraction.graph.nodes) == 3


def test_a_long_layer_is_a_product_with_all_inputs_and_a_step_that_runs_many_times():
    torch.manual_seed(0)
    layer, inputs = nn.LSTM(8, 6), (torch.randn(100, 2, 8),)
    graph = extract(load_model(layer, example_inputs=inputs)).graph
    products = [(task.work.macs, task.count) for task in graph.tasks if isinstance(task.work, Workload)]
    assert sorted(products) == [(2 * 6 * 24, 100), (100 * 2 * 8 * 24, 1)]
    assert not [call for call in graph.host_calls if not call.reason.startswith("a view")]


@pytest.mark.parametrize("name", ["resnet", "block, mask", "lstm", "gru, long"])
def test_saved_programs(name: str, tmp_path: Path):
    module, inputs = made(name)
    program = torch.export.export(module, inputs)
    torch.export.save(program, tmp_path / "whole.pt2")
    torch.export.save(program.run_decompositions(), tmp_path / "apart.pt2")
    for model in (program, tmp_path / "whole.pt2", str(tmp_path / "apart.pt2")):
        close(computed(model, inputs), expected(module, inputs))


def test_inputs_by_name_and_alone():
    module, (x, mask) = made("block, mask")
    close(computed(module, (x, mask), example_inputs={"x": x, "mask": mask}), expected(module, (x, mask)))
    network, inputs = made("resnet")
    close(computed(network, inputs, example_inputs=inputs[0]), expected(network, inputs))


def test_rows_that_see_nothing_are_zero():
    module, (x, mask) = made("block, keys chosen")
    mask = mask.clone()
    mask[3] = False
    close(computed(module, (x, mask), example_inputs=(x, mask)), expected(module, (x, mask)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype: torch.dtype):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).to(dtype).eval()
    mod = load_model(module, example_inputs=torch.zeros(3, 16, dtype=dtype))
    kind = str(dtype).removeprefix("torch.")
    assert {str(binding.var.ty.dtype) for block in mod["main"].body.blocks for binding in block.bindings} == {kind}


def test_what_a_module_is_stays_as_it_was(caplog: pytest.LogCaptureFixture):
    module, inputs = made("resnet")
    module.train()
    module[4].eval()
    before = [each.training for each in module.modules()]
    with caplog.at_level(logging.WARNING):
        found = computed(module, inputs, example_inputs=inputs)
    assert "Sequential: in training mode; taken as for inference" in caplog.text
    assert [each.training for each in module.modules()] == before
    close(found, expected(module.eval(), inputs))


def test_open_dims_are_those_of_the_example_or_given():
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
    for shapes, rows in ((None, 3), ({"input": (7, 4)}, 7)):
        x = (torch.randn(rows, 4),)
        close(computed(program, x, shapes=shapes), expected(module, x))
    with pytest.raises(ModelError, match=r"shape given for 'inpt', which is no input: did you mean 'input'"):
        load_model(program, shapes={"inpt": (7, 4)})
    with pytest.raises(ModelError, match="dim 4 cannot be 5; it was exported with 4"):
        load_model(program, shapes={"input": (7, 5)})
    with pytest.raises(ModelError, match=r"PyTorch cannot export it for these inputs: .*input.size\(\)\[0\] <= 64"):
        load_model(program, shapes={"input": (100, 4)})


def test_odd_operators_stay_on_the_host():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            values, places = torch.kthvalue(self.linear(x), 2, dim=-1)
            return torch.special.bessel_j0(values), places

    torch.manual_seed(0)
    module, inputs = Odd().eval(), (torch.randn(5, 6),)
    extraction = extract(load_model(module, example_inputs=inputs))
    calls = {call.name: call.reason for call in extraction.graph.host_calls}
    assert calls["torch.aten.kthvalue.default"] == "TVM lacks this operator: PyTorch evaluates it"
    close(run(build(extraction.mod, "edge-256"), [inputs[0].numpy()]), expected(module, inputs))


def test_a_module_needs_inputs_that_it_takes():
    module, (x, mask) = made("block, mask")
    for inputs, message in (
        (None, r"Block: a module of PyTorch has no shapes of its own: .* example_inputs=\(torch.zeros\(...\),\)"),
        ((x, mask, x), "example_inputs do not fit forward.*too many positional arguments"),
        ({"y": x}, "example_inputs do not fit forward.*missing a required argument: 'x'"),
        ((torch.zeros(2, 16, 31),), "PyTorch cannot export it for these inputs: .*31"),
        (("text",), "none of them is a tensor"),
        ("text", "example_inputs = 'text': must be a tensor"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            load_model(module, example_inputs=inputs)
        assert "\n" not in str(caught.value)


def test_other_models_take_no_example_inputs():
    module, inputs = made("resnet")
    program = torch.export.export(module, inputs)
    with pytest.raises(ModelError, match="only a torch.nn.Module takes them; an exported program has its shapes"):
        load_model(program, example_inputs=inputs)
    with pytest.raises(ModelError, match="only a torch.nn.Module takes them"):
        load_model("resnet18", example_inputs=inputs)


class Positive(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.masked_select(x, x > 0) * 2


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Positive(), r"node 'masked_select' .*aten.masked_select.default.*shape \(u0\) depends on the data"),
        (Branch(), "Branch: what runs depends on the values of tensors"),
        (Noise(), "draws numbers at random; export the model for inference"),
        (torch.jit.trace(Squared(), torch.zeros(2)), "a module of torch.jit; give the torch.nn.Module"),
    ],
)
def test_what_cannot_be_tuned_is_named(module: nn.Module, message: str):
    with pytest.raises(ModelError, match=message) as caught:
        load_model(module, example_inputs=torch.zeros(4))
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(Squared(), (torch.zeros(3),)), path)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    made_anew = io.BytesIO()
    with zipfile.ZipFile(made_anew, "w") as new:
        for name, data in entries.items():
            new.writestr(name, change(name, data))
    path.write_bytes(made_anew.getvalue())


@pytest.mark.parametrize("kept", [0, 1, 30, 500, -1, -100])
def test_a_file_cut_short(saved: Path, kept: int):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"model.pt2: not a program of torch.export.save, or cut short \([\d,]+ B"):
        load_model(saved)


def test_what_is_no_program(tmp_path: Path):
    (tmp_path / "text.pt2").write_text("not a program")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as other:
        other.writestr("a/b.txt", "c")
    for name, message in (
        ("text.pt2", "not a program of torch.export.save"),
        ("module.pt", "holds Python objects .* run code when they are read; save a program"),
        ("other.pt2", r"not a program of torch.export.save \(no models/model.json in it\)"),
        ("none.pt2", "none.pt2: cannot read: No such file"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(tmp_path / name)


def _with(key: str, value: object) -> Callable[[str, bytes], bytes]:
    """Puts a value wherever a key stands in the program."""

    def change(node: object) -> object:
        if isinstance(node, dict):
            return {name: value if name == key else change(each) for name, each in node.items()}
        return [change(each) for each in node] if isinstance(node, list) else node

    return lambda name, data: json.dumps(change(json.loads(data))).encode() if name.endswith("model.json") else data


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("target", "torch.hub.load", "calls 'torch.hub.load', which is no operator on tensors"),
        ("target", "torch.ops.aten.from_file.default", "is no operator on tensors"),
        ("target", "math.__class__", "is no operator on tensors"),
        ("in_spec", '[1, {"type": "os.system", "context": "null", "children_spec": []}]', "nested in a os.system"),
        ("as_int", 3.5, "cannot read it"),
    ],
)
def test_what_would_run_as_code_is_refused(saved: Path, key: str, value: object, message: str):
    rewritten(saved, _with(key, value))
    with pytest.raises(ModelError, match=message):
        load_model(saved)


@pytest.mark.parametrize("text", ["__import__('os').getcwd()", "Symbol('s0').func", "lambda: 0", "s0.__class__"])
def test_dims_are_expressions_of_dims(tmp_path: Path, text: str):
    path = tmp_path / "open.pt2"
    program = torch.export.export(Squared(), (torch.zeros(3),), dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    torch.export.save(program, path)
    assert load_model(path)["main"].params[0].ty.shape.values[0] == 3
    rewritten(path, _with("expr_str", text))
    with pytest.raises(ModelError, match="is no expression of dims"):
        load_model(path)


def test_pickled_weights_are_refused(saved: Path):
    entry = {"path_name": "weight_0", "is_param": True, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"w": entry}}).encode()
    rewritten(saved, lambda name, data: config if name.endswith("weights_config.json") else data)
    with pytest.raises(ModelError, match="tensor 'w' is a Python object, which runs code when it is read"):
        load_model(saved)


def test_guards_of_a_file_do_not_run(saved: Path, tmp_path: Path):
    rewritten(saved, _with("guards_code", [f"open({str(tmp_path / 'ran')!r}, 'w')"]))
    load_model(saved)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_unpacks_to_much_is_refused(saved: Path):
    rewritten(saved, lambda name, data: data)
    with zipfile.ZipFile(saved, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/weights/weight_9", bytes(1 << 24))
    with pytest.raises(ModelError, match="must be <= 1 MiB"):
        load_model(saved, max_memory_bytes=1 << 20)


def test_weights_count_against_the_memory():
    with pytest.raises(ModelError, match="Linear: its weights need .*: must be <= 1 KiB"):
        load_model(nn.Linear(100, 100), example_inputs=torch.zeros(1, 100), max_memory_bytes=1024)
