"""What a simplifier leaves of the networks of public packages: our folding beside onnxslim and onnxscript's optimizer.

Source: the networks of ``networks_in_the_wild``, their inputs pinned. Per simplifier: operators left, results of them
whose shape is still unknown to ONNX's shape inference, and seconds. Needs the extra ``bench`` and the package
registry. Expected time: one minute.

    python benchmarks/simplifiers.py [--models FOLDER] [--csv FILE] [NETWORK ...]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import networks_in_the_wild as wild
import onnx
import onnxscript.optimizer
import onnxslim
import pandas as pd

from tvm_spm.frontend.onnx.fold import fold_constants
from tvm_spm.frontend.onnx.load import pin_inputs
from tvm_spm.frontend.onnx.operators import expand_functions

MEMORY_BYTES = 8 * 2**30


def _ours(model: onnx.ModelProto) -> onnx.ModelProto:
    return fold_constants(expand_functions(model), "model", keep_fills=False, max_memory_bytes=MEMORY_BYTES)


SIMPLIFIERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "ours": _ours,
    "onnxslim": onnxslim.slim,
    "onnxscript": onnxscript.optimizer.optimize,
    "both": lambda model: onnxscript.optimizer.optimize(onnxslim.slim(model)),
}


def num_unknown(model: onnx.ModelProto) -> int:
    """Results of operators whose dims do not all follow from the model."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    known = {
        value.name
        for value in [*graph.value_info, *graph.output]
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }
    return sum(name not in known for node in graph.node for name in node.output if name)


def main() -> None:
    """Run all simplifiers over the networks named, or all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--models", type=Path, help="folder with the unpacked packages; fetched into it if empty")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = []
    with tempfile.TemporaryDirectory() as own:
        folder = options.models or Path(own)
        if not any(folder.rglob("*.onnx")):
            wild.fetch(folder)
        for label in options.networks or list(wild.NETWORKS):
            name, shapes = wild.NETWORKS[label]
            model = pin_inputs(onnx.load(folder / name), shapes, wild.VALUES.get(label, {}), label)
            row: dict[str, object] = {"network": label, "operators": len(model.graph.node)}
            for simplifier, simplify in SIMPLIFIERS.items():
                copy = onnx.ModelProto()
                copy.CopyFrom(model)
                start = time.monotonic()
                simpler = simplify(copy)
                taken_s = time.monotonic() - start
                row[simplifier] = len(simpler.graph.node)
                row |= {f"{simplifier}_unknown": num_unknown(simpler), f"{simplifier}_s": round(taken_s, 2)}
            rows.append(row)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
