"""ONNX's own tests of its operators, imported and run: what is native, what is left on the host, what is refused.

Source: the node tests that the package ``onnx`` generates (``onnx.backend.test.case.node``), without those of bodies of
functions (``_expanded``). A test is run at the opset it was written for and at every older one, from 7 on, in which its
operator had another schema; what an older one expects is computed by onnxruntime (extra ``bench``), or by ONNX's
reference where that lacks it. Inputs are inputs first; where that leaves a node out of the native code, all but the
first are tried as constants, as exporters write shapes, axes and sizes. A wrong answer fails the run.
Expected time: six minutes on one core; ``--every 10`` takes every tenth test.

    python benchmarks/onnx_operators.py [--every 1] [--csv FILE] [OPERATOR ...]
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import multiprocessing
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
from onnx import defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tvm_spm.deploy import runtime
from tvm_spm.errors import SpmError
from tvm_spm.frontend import extract, load_model

FIRST_OPSET = 7

RENAMED = {("Pad", "constant_value"): "value"}
"""Inputs that were attributes of another name."""

DEVIATES = ("maxunpool_export_with_output_shape", "resize_downsample_scales_")
"""Tests in which onnxruntime differs from ONNX, as its own list of exceptions says; what ONNX expects is the same at
all opsets."""

IN_ONNX_ONLY = ("GroupNormalization", "LayerNormalization", "RMSNormalization")
"""Operators of ONNX that are written out as those of onnxruntime are."""

NATIVE, HOST, FOLDED, REFUSED, WRONG = "native", "on the host", "constants only", "refused", "wrong"
STATUSES = (NATIVE, HOST, FOLDED, REFUSED, WRONG)

REASONS = {
    "sequences, maps and optional values": r"is a (sequence|optional|map), no tensor|'sequence'|EmptyOptional|of 'seq",
    "texts": r"of texts",
    "the data decides a shape": r"data decides|depends on the data|shape inference says|no len\(\)",
    "drawn at random, or training": r"random|as in training",
    "tensors without an element": r"holds no element",
    "computed integers of less than a byte": r"less than a byte",
    "the reference fails on tensors of ones": r"fails on tensors of ones",
    "a Scan of opset 8": r"scan_sum: cannot import: the model",
}
"""Kinds of limits, by what the refusal says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model with its inputs and what it makes of them; None where onnxruntime or the reference has to say."""

    operator: str
    name: str
    opset: int
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any] | None
    rtol: float
    atol: float

    def with_constants(self) -> Case:
        """The first input is one; all others are constants."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        values = list(model.graph.input)
        del model.graph.input[1:]
        arrays = [np.asarray(each) for each in self.inputs[1:]]
        model.graph.initializer.extend(
            numpy_helper.from_array(array, value.name) for value, array in zip(values[1:], arrays, strict=True)
        )
        return replace(self, model=model, inputs=self.inputs[:1])


def cases(operators: Sequence[str] = ()) -> Iterator[Case]:
    """All tests of nodes of ONNX's own domain, or of some operators."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    for test in found:
        node = test.model.graph.node[0]
        if "_expanded" in test.name or node.domain or len(test.model.graph.node) > 1:
            continue
        if operators and node.op_type not in operators:
            continue
        inputs, outputs = ([_as_array(each) for each in part] for part in test.data_sets[0])
        case = Case(
            operator=node.op_type, name=test.name.removeprefix("test_"), opset=test.model.opset_import[0].version,
            model=test.model, inputs=inputs, outputs=outputs, rtol=test.rtol, atol=test.atol,
        )  # fmt: skip
        yield case
        for older in _versions(node.op_type):
            if older < defs.get_schema(node.op_type, case.opset).since_version:
                at = _at_opset(case, older)
                if at is not None:
                    yield at


def _as_array(value: object) -> object:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _versions(operator: str) -> list[int]:
    """Opsets from 7 on at which an operator changed."""
    schemas = defs.get_all_schemas_with_history()
    since = {schema.since_version for schema in schemas if schema.name == operator and not schema.domain}
    opsets = {max(each, FIRST_OPSET) for each in since}
    return sorted(opset for opset in opsets if defs.has(operator, opset, ""))


def _at_opset(case: Case, opset: int) -> Case | None:
    """A case at another opset, with inputs as attributes where they were, if it is valid there."""
    node = case.model.graph.node[0]
    old, new = defs.get_schema(node.op_type, opset), defs.get_schema(node.op_type, case.opset)
    copy = onnx.ModelProto()
    copy.CopyFrom(case.model)
    del copy.opset_import[:]
    copy.opset_import.append(helper.make_opsetid("", opset))
    given = dict(zip((value.name for value in case.model.graph.input), case.inputs, strict=True))
    kept, alone = [], copy.graph.node[0]
    for position, name in enumerate(node.input):
        formal = new.inputs[min(position, len(new.inputs) - 1)].name
        attribute = RENAMED.get((node.op_type, formal), formal)
        if attribute not in old.attributes or attribute in {each.name for each in old.inputs}:
            kept.append(name)
        elif name:
            kind = old.attributes[attribute].type.name
            array = np.asarray(given.pop(name)).astype(float if kind.startswith("FLOAT") else int)
            value = array.ravel().tolist() if kind.endswith("S") else array.item()
            number = onnx.AttributeProto.AttributeType.Value(kind)
            alone.attribute.append(helper.make_attribute(attribute, value, attr_type=number))
    while kept and not kept[-1]:
        kept.pop()
    alone.input[:] = kept
    values = [value for value in copy.graph.input if value.name in given]
    del copy.graph.input[:]
    copy.graph.input.extend(values)
    try:
        onnx.checker.check_model(copy, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError):
        return None
    is_same = case.name.startswith(DEVIATES)
    return replace(
        case, model=copy, opset=opset, inputs=list(given.values()), outputs=case.outputs if is_same else None
    )  # fmt: skip


def expected(case: Case) -> list[Any] | None:
    """Outputs of a case, if anybody but us can say."""
    if case.outputs is not None:
        return case.outputs
    data = dict(zip((value.name for value in case.model.graph.input), case.inputs, strict=True))
    outputs = case.model.graph.output
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            content = case.model.SerializeToString()
            session = onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])
            return [_typed(each, value) for each, value in zip(session.run(None, data), outputs, strict=True)]
        except Exception:  # noqa: BLE001 (its errors have no common class: it does not take the case)
            pass
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return list(ReferenceEvaluator(case.model).run(None, data))
    except Exception:  # noqa: BLE001 (nor have those of the reference)
        return None


def _typed(array: Any, value: onnx.ValueInfoProto) -> Any:  # noqa: ANN401 (a tensor, or a list of them)
    """onnxruntime gives numbers that numpy lacks as their bytes."""
    dtype = (
        helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) if value.type.tensor_type.elem_type else None
    )
    is_raw = isinstance(array, np.ndarray) and array.dtype == np.uint8 and dtype is not None and dtype.itemsize == 1
    return array.view(dtype) if is_raw and "float" in str(dtype) else array


def outcome(case: Case) -> tuple[str, str] | None:
    """How a case is covered, and why not better; None where nobody knows what it should give."""
    want = expected(case)
    if want is None:
        return None
    first = _attempt(case, want)
    is_plain = all(isinstance(each, (np.ndarray, np.generic)) for each in case.inputs)
    if first[0] in (HOST, REFUSED) and is_plain and len(case.inputs) > 1:
        second = _attempt(case.with_constants(), want)
        if STATUSES.index(second[0]) < STATUSES.index(first[0]) or second[0] == WRONG:
            return second
    if first[0] == REFUSED and is_plain and case.inputs:
        alone = case.with_constants()
        name = alone.model.graph.input[0].name
        alone.model.graph.initializer.append(numpy_helper.from_array(np.asarray(case.inputs[0]), name))
        del alone.model.graph.input[:]
        third = _attempt(replace(alone, inputs=[]), want)
        if third[0] != REFUSED:
            return (FOLDED if third[0] in (NATIVE, HOST) else WRONG), first[1]
    return first


def _attempt(case: Case, want: list[Any]) -> tuple[str, str]:
    try:
        found = extract(load_model(case.model))
    except SpmError as error:
        return REFUSED, " ".join(str(error).split())
    calls = [call.name for call in found.graph.host_calls if call.name.startswith("onnx.")]
    got = runtime.run(runtime.build(found.mod, "edge-256"), [np.asarray(each) for each in case.inputs])
    wanted = list(_flat(want))
    if len(got) != len(wanted):
        return WRONG, f"{len(got)} outputs instead of {len(wanted)}"
    for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
        why = _difference(one, other, case)
        if why:
            return WRONG, f"output {number}: {why}"
    return (HOST, ", ".join(calls)) if calls else (NATIVE, "")


def _flat(values: Sequence[Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Tensors of sequences one after the other."""
    for each in values:
        if isinstance(each, list):
            yield from _flat(each)
        else:
            yield np.asarray(each)


def _difference(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], case: Case) -> str:
    """How two tensors differ by more than the test allows and four units of the last place of the largest number."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return f"{one.dtype} {list(one.shape)} instead of {other.dtype} {list(other.shape)}"
    if one.dtype.kind in "biu":
        return "" if np.array_equal(one, other) else f"{int((one != other).sum())} of {one.size} numbers differ"
    bits = {"float16": 10, "bfloat16": 7}.get(str(one.dtype), 23)
    left, right = one.astype(np.float64), other.astype(np.float64)
    largest = np.abs(np.where(np.isfinite(right), right, 0)).max(initial=0)
    within = max(case.rtol, 2.0**-bits * 4), max(case.atol, 4 * 2.0**-bits * largest)
    if np.allclose(left, right, rtol=within[0], atol=within[1], equal_nan=True):
        return ""
    return f"largest difference {np.nanmax(np.abs(left - right)):.3g}"


def _run(todo: list[Case], pipe: Connection) -> None:
    for case in todo:
        try:
            pipe.send(outcome(case))
        except Exception as error:  # noqa: BLE001 (a failure of ours is a result)
            pipe.send((WRONG, f"{type(error).__name__}: {str(error).strip()[-200:]}"))


def outcomes(todo: list[Case]) -> Iterator[tuple[Case, tuple[str, str]]]:
    """What becomes of cases that somebody knows the answer of; a process that ends is a wrong answer."""
    context = multiprocessing.get_context("fork")
    at = 0
    while at < len(todo):
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_run, args=(todo[at : at + 64], theirs))
        child.start()
        theirs.close()
        for case in todo[at : at + 64]:
            at += 1
            try:
                found = ours.recv()
            except EOFError:
                yield case, (WRONG, "the process ended")
                break
            if found is not None:
                yield case, found
        child.join()


def table(rows: Sequence[tuple[Case, tuple[str, str]]]) -> str:
    """Counts by status, of tests and of operators, and the limits."""
    tests = Counter(status for _, (status, _) in rows)
    by_operator: dict[str, Counter[str]] = defaultdict(Counter)
    for case, (status, _) in rows:
        by_operator[case.operator][status] += 1
    best = Counter(min(found, key=STATUSES.index) for found in by_operator.values())
    whole = Counter(next(iter(found)) for found in by_operator.values() if len(found) == 1)
    lines = [
        f"| {len(rows)} tests of {len(by_operator)} operators | tests | operators, at best | operators, in all tests |",
        "|---|---:|---:|---:|",
        *(f"| {status} | {tests[status]} | {best[status]} | {whole[status]} |" for status in STATUSES),
    ]
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for case, (status, why) in rows:
        if status in (FOLDED, REFUSED):
            kind = next((kind for kind, text in REASONS.items() if re.search(text, why)), why[:160])
            reasons[kind][case.operator] += 1
    lines += ["", "| refused because | tests | of |", "|---|---:|---|"]
    for kind, found in sorted(reasons.items(), key=lambda each: -sum(each[1].values())):
        lines.append(f"| {kind} | {sum(found.values())} | {', '.join(sorted(found))} |")
    on_host = sorted(name for name, found in by_operator.items() if found[HOST] and not found[NATIVE])
    return "\n".join([*lines, "", f"Always on the host: {', '.join(on_host)}."])


def front_ends() -> str:
    """How many operators each front end converts; others of ONNX and PyTorch are left on the host."""
    from tvm.relax.frontend.onnx.onnx_frontend import _get_convert_map

    from tvm_spm.frontend.onnx.microsoft.expand import REWRITES
    from tvm_spm.frontend.onnx.operators import OPERATORS as ONNX
    from tvm_spm.frontend.onnx.quantised import MICROSOFT_OPERATORS
    from tvm_spm.frontend.relay.operators import OPERATORS as RELAY

    bodies = {schema.name for schema in defs.get_all_schemas() if not schema.domain and schema.has_function}
    bodies |= {schema.name for schema in defs.get_all_schemas() if schema.has_context_dependent_function}
    whole = {schema.name for schema in defs.get_all_schemas() if not schema.domain}
    counts = {
        "ONNX": len(whole & ({*_get_convert_map(), *ONNX} | bodies)),
        "onnxruntime's additions": len({*REWRITES, *MICROSOFT_OPERATORS, "DynamicQuantizeLSTM"} - set(IN_ONNX_ONLY)),
        "Relay": len(RELAY),
    }
    if importlib.util.find_spec("torch") is not None:
        from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

        from tvm_spm.frontend.torch.operators import OPERATORS as TORCH

        counts["PyTorch"] = len({*ExportedProgramImporter().create_convert_map(), *TORCH})
    if importlib.util.find_spec("jaxlib") is not None:
        from tvm_spm.frontend.stablehlo.operators import OPERATORS as STABLEHLO

        counts["StableHLO"] = len(STABLEHLO)
    lines = [f"| {name} | {count} |" for name, count in counts.items()]
    return "\n".join(["| front end | operators converted |", "|---|---:|", *lines])


def main() -> int:
    """Run, print the table, and fail if an answer is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("operators", nargs="*", metavar="OPERATOR")
    parser.add_argument("--every", type=int, default=1, help="take every n-th test")
    parser.add_argument("--csv", type=Path, help="one row per test")
    args = parser.parse_args()
    rows = []
    todo = list(cases(args.operators))[:: args.every]
    for case, (status, why) in outcomes(todo):
        rows.append((case, (status, why)))
        if sys.stderr.isatty():
            print(f"\r{len(rows)} of {len(todo)} {case.name[:60]:60}", end="", file=sys.stderr)
    if args.csv is not None:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["operator", "test", "opset", "status", "why"])
            writer.writerows([case.operator, case.name, case.opset, *found] for case, found in rows)
    print(table(rows))
    print()
    print(front_ends())
    wrong = [(case, why) for case, (status, why) in rows if status == WRONG]
    for case, why in wrong:
        print(f"wrong: {case.name} at opset {case.opset}: {why}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
