"""Imports point down one list, and ``import tvm_spm`` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tvm_spm", "schedules", "cost_model")

# Highest first; a module may import only from lower rows, or from inside its own entry.
LAYERS = (
    ("tvm_spm.__main__",),
    ("tvm_spm.cli",),
    ("tvm_spm.reproduce",),
    ("tvm_spm.tuner",),
    ("tvm_spm.network_tuner",),
    ("tvm_spm.result_text",),
    ("tvm_spm.tuning_result", "tvm_spm.run_log", "tvm_spm.scheduled_network"),
    ("tvm_spm.fused_network",),
    ("tvm_spm.saved_run",),
    ("tvm_spm.verify", "tvm_spm.progress", "tvm_spm.task_tuner", "tvm_spm.warm_up"),
    ("tvm_spm.verify_answers",),
    ("tvm_spm.verify_network_code", "tvm_spm.verify_task_code", "tvm_spm.verify_process"),
    ("tvm_spm.network_run",),
    ("tvm_spm.task_memory", "tvm_spm.measuring"),
    ("tvm_spm.frontend", "tvm_spm.database"),
    ("schedules", "tvm_spm.models"),
    ("tvm_spm.runtime",),
    ("tvm_spm.verification",),
    ("tvm_spm.target",),
    ("tvm_spm.root_block",),
    ("tvm_spm.show",),
    ("tvm_spm.network_fusion",),
    ("tvm_spm.report", "tvm_spm.measurer", "tvm_spm.published", "tvm_spm.agreement"),
    ("tvm_spm.group_search",),
    ("tvm_spm.group_probe", "tvm_spm.group_timing"),
    ("tvm_spm.group_candidates",),
    ("tvm_spm.exact", "tvm_spm.fusion"),
    ("cost_model", "tvm_spm.searchers", "tvm_spm.trial"),
    ("tvm_spm.mapspace",),
    ("tvm_spm.constraints",),
    ("tvm_spm.legality", "tvm_spm.legality_batch"),
    ("tvm_spm.search_result",),
    ("tvm_spm.cost", "tvm_spm.countable"),
    ("tvm_spm.mapping_batch", "tvm_spm.rejection"),
    ("tvm_spm.group",),
    ("tvm_spm.halo",),
    ("tvm_spm.layer_graph",),
    ("tvm_spm.mapping",),
    ("tvm_spm.arch",),
    ("tvm_spm.workload",),
    ("tvm_spm.arguments", "tvm_spm.durable"),
    ("tvm_spm.input_file", "tvm_spm.terminal"),
    ("tvm_spm.units", "tvm_spm.errors", "tvm_spm.interrupt", "tvm_spm.jit", "tvm_spm.transfer"),
)
MAY_IMPORT_TVM = {
    "tvm_spm.target", "tvm_spm.frontend", "schedules", "tvm_spm.verify", "tvm_spm.runtime", "tvm_spm.models",
    "tvm_spm.database", "tvm_spm.scheduled_network", "tvm_spm.network_tuner", "tvm_spm.tuner", "tvm_spm.tuning_result",
    "tvm_spm.fused_network", "tvm_spm.network_run", "tvm_spm.verify_answers", "tvm_spm.verify_network_code",
    "tvm_spm.verify_task_code", "tvm_spm.root_block",
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def entry_of(module: str) -> tuple[int, str]:
    """Row of the list and the entry that a module belongs to."""
    for row, entries in enumerate(LAYERS):
        for entry in entries:
            if module == entry or module.startswith(entry + ".") or module.startswith(entry + "_"):
                return row, entry
    raise AssertionError(f"{module} is in no layer; add it to LAYERS")


def imports_of(path: Path) -> set[str]:
    """Modules a file imports at run time, wherever the import stands; those for type checking do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("module", [name for name in modules() if name != "tvm_spm"])
def test_imports_point_down(module: str):
    known = modules()
    row, entry = entry_of(module)
    for name in imports_of(known[module]) & set(known) - {"tvm_spm"}:
        other_row, other = entry_of(name)
        assert other == entry or other_row > row, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("module", list(modules()))
def test_heavy_imports_stay_in_their_room(module: str):
    top = {name.split(".")[0] for name in imports_of(modules()[module])}
    if module == "tvm_spm":
        assert top <= {"__future__", "importlib", "typing"}
        return
    entry = entry_of(module)[1]
    if "tvm" in top:
        assert entry in MAY_IMPORT_TVM, f"{module} imports tvm"
    if "xgboost" in top:
        assert module == "cost_model.learned"
    if entry == "tvm_spm.searchers":
        assert "cost_model" not in top


def test_import_loads_no_tvm_numba_or_xgboost():
    code = (
        "import sys, tvm_spm; tvm_spm.archs(); print(sorted({'tvm', 'numba', 'xgboost', 'pandas'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_public_names_resolve():
    code = "import tvm_spm; tvm_spm.tune; print([n for n in tvm_spm.__all__ if not callable(getattr(tvm_spm, n))])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
