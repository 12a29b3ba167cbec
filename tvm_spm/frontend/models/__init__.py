"""Networks to try the tuner on without a file; weights are parameters, so that no numbers are stored.

``models`` lists them, ``build_model`` makes one as a Relax module. What they are built of is in ``blocks``, those
that look at images in ``images``, those over sequences in ``sequences`` and ``llama``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import tvm
from tvm.relax.frontend import nn

from tvm_spm.errors import ModelError, did_you_mean
from tvm_spm.frontend.models import images, llama, sequences
from tvm_spm.frontend.models.integers import as_integers

DTYPES = ("float32", "float16", "bfloat16", "int8")
"""Numbers that a built-in network can be made of."""

DEFAULT_DTYPE = "float32"

Shape = tuple[int, ...]


def dtype_of_word(word_bits: int) -> str:
    """The numbers of ``DTYPES`` that an accelerator of such a word is made for.

    Costs depend on the width alone: float16 stands for any word of 16 bits, fixed-point ones too.
    """
    return "int8" if word_bits <= 8 else "float16" if word_bits <= 16 else "float32"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """One built-in network.

    Attributes:
        make: Its layers.
        summary: What it is.
        inputs: Shapes by name; the first dim of each is the batch.
        is_free: Inputs whose other extents may be chosen: rows and columns of an image (both the same multiple of
            ``step``), or the length of a sequence.
        step: Extents are multiples of it.
    """

    make: Callable[[], nn.Module]
    summary: str
    inputs: Mapping[str, Shape]
    is_free: bool = True
    step: int = 1


def _image(channels: int = 3, rows: int = 224, cols: int = 224) -> dict[str, Shape]:
    return {"data": (1, channels, rows, cols)}


_TOKENS = {"data": (1, 128, 768)}
_PAST = {f"past_{kind}{block}": (1, 12, 1023, 64) for block in range(12) for kind in ("key", "value")}

BUILT_IN: dict[str, BuiltIn] = {
    "alexnet": BuiltIn(make=images.alexnet, summary="image classifier", inputs=_image(), is_free=False),
    "bert_base": BuiltIn(make=sequences.bert_base, summary="encoder of 12 blocks, 128 tokens", inputs=_TOKENS),
    "bert_base_layer": BuiltIn(make=sequences.bert_base_layer, summary="one of its blocks", inputs=_TOKENS),
    "efficientnet_b0": BuiltIn(
        make=images.efficientnet_b0, summary="image classifier, depthwise with squeeze-excite", inputs=_image()
    ),
    "fsrcnn": BuiltIn(make=images.fsrcnn, summary="super-resolution, 2x", inputs=_image(1, 560, 960)),
    "gpt2": BuiltIn(make=sequences.gpt2, summary="language model of 12 blocks, prompt of 128 tokens", inputs=_TOKENS),
    "gpt2_decode": BuiltIn(
        make=sequences.gpt2_decode, summary="the same, one token after 1,023", inputs={"data": (1, 1, 768), **_PAST},
        is_free=False,
    ),
    "llama_layer": BuiltIn(
        make=llama.LlamaLayer, summary="one layer of Llama 3.2 1B, prompt of 512 tokens",
        inputs={"data": (1, 512, llama.WIDTH)},
    ),
    "llama_layer_decode": BuiltIn(
        make=llama.LlamaLayer, summary="the same, one token after 2,048", is_free=False,
        inputs={"data": (1, 1, llama.WIDTH)} | {
            f"past_{kind}": (1, llama.KEY_HEADS, llama.PAST, llama.DEPTH) for kind in ("key", "value")
        },
    ),
    "lstm": BuiltIn(make=sequences.lstm, summary="recurrent, 2 layers, 32 steps", inputs={"data": (1, 32, 128)}),
    "mobilenet_v2": BuiltIn(make=images.mobilenet_v2, summary="image classifier, depthwise", inputs=_image()),
    "resnet18": BuiltIn(
        make=lambda: images.resnet((2, 2, 2, 2), bottleneck=False), summary="image classifier", inputs=_image()
    ),
    "resnet50": BuiltIn(
        make=lambda: images.resnet((3, 4, 6, 3), bottleneck=True), summary="image classifier", inputs=_image()
    ),
    "unet": BuiltIn(make=images.unet, summary="segmentation", inputs=_image(3, 256, 256), step=16),
    "vgg19": BuiltIn(make=images.vgg19, summary="image classifier", inputs=_image(), is_free=False),
    "vit_b16": BuiltIn(make=sequences.vit_b16, summary="image classifier of attention", inputs=_image(), is_free=False),
    "vit_tiny_block": BuiltIn(
        make=sequences.vit_tiny_block, summary="one block of ViT-Ti, 197 tokens", inputs={"data": (1, 197, 192)}
    ),
    "yolov8n": BuiltIn(make=images.yolov8n, summary="detector, raw heads", inputs=_image(3, 640, 640), step=32),
}  # fmt: skip


def models() -> tuple[str, ...]:
    """Names of the built-in networks."""
    return tuple(BUILT_IN)


def build_model(name: str, shapes: Mapping[str, Shape] | None = None, *, dtype: str = DEFAULT_DTYPE) -> tvm.IRModule:
    """A built-in network.

    Args:
        name: One of ``models()``.
        shapes: Shapes of inputs that differ from the declared ones.
        dtype: One of ``DTYPES``.

    Returns:
        A module whose ``main`` takes the inputs and then all weights; its attribute ``num_input`` counts the inputs.

    Raises:
        ModelError: No such network, input or dtype, or a shape that the network cannot take.
    """
    if name not in BUILT_IN:
        raise ModelError(f"unknown model {name!r}: {did_you_mean(name, BUILT_IN)}")
    if dtype not in DTYPES:
        raise ModelError(f"model {name!r}: dtype {dtype!r}: {did_you_mean(dtype, DTYPES)}")
    chosen = _shapes(name, dict(shapes or {}))
    module = BUILT_IN[name].make()
    numbers = DEFAULT_DTYPE if dtype == "int8" else dtype
    if numbers != DEFAULT_DTYPE:
        module.to(numbers)
    shown = [nn.spec.Tensor(list(shape), numbers) for shape in chosen.values()]
    spec = nn.spec.MethodSpec(module.forward, list(chosen), shown, "plain", "none")
    mod, _ = module.export_tvm({"forward": spec})
    made = tvm.IRModule({"main": mod["forward"].with_attr("global_symbol", "main")})
    return as_integers(made) if dtype == "int8" else made


def _shapes(name: str, given: dict[str, Shape]) -> dict[str, Shape]:
    built_in = BUILT_IN[name]
    for key in given:
        if key not in built_in.inputs:
            near = (
                did_you_mean(key, built_in.inputs)
                if len(built_in.inputs) > 1
                else f"did you mean {next(iter(built_in.inputs))!r}?"
            )
            raise ModelError(f"{name}: shape given for {key!r}, which is no input: {near}")
    chosen = {**built_in.inputs, **given}
    batches = {shape[0] for shape in chosen.values() if shape}
    for key, shape in given.items():
        _check(name, key, shape, built_in.inputs[key], built_in)
    if len(batches) > 1:
        raise ModelError(f"{name}: batches of {', '.join(str(b) for b in sorted(batches))}: must be one for all inputs")
    return chosen


def _check(name: str, key: str, shape: Shape, declared: Shape, built_in: BuiltIn) -> None:
    fixed = range(1, len(declared)) if not built_in.is_free else (1,) if len(declared) == 4 else range(2, len(declared))
    fits = len(shape) == len(declared) and min(shape) >= 1 and all(shape[axis] == declared[axis] for axis in fixed)
    is_image = len(declared) == 4 and built_in.is_free
    fits = fits and not (is_image and any(extent % built_in.step for extent in shape[2:]))
    if not fits:
        shown = [
            "BATCH",
            *(str(declared[axis]) if axis in fixed else _free(axis, declared) for axis in range(1, len(declared))),
        ]
        why = "; its classifier needs 224 x 224" if len(declared) == 4 and not built_in.is_free else ""
        multiple = f" with ROWS and COLS multiples of {built_in.step}" if is_image and built_in.step > 1 else ""
        raise ModelError(
            f"{name}: input {key!r}: shape {','.join(str(extent) for extent in shape)}: must be {','.join(shown)}"
            f"{multiple}, for example {','.join(str(extent) for extent in declared)}{why}"
        )


def _free(axis: int, declared: Shape) -> str:
    return ("ROWS", "COLS")[axis - 2] if len(declared) == 4 else "LENGTH"
