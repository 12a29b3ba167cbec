"""Machine code follows every source it was made from, and kernels keep to what numba holds references for."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from tvm_spm import jit

ROOT = Path(__file__).parents[2]
PACKAGES = ("tvm_spm", "cost_model", "schedules")
DECORATORS = {"entry", "kernel", "lean", "small"}

FILES = {
    "tvm_spm/__init__.py": "",
    "cost_model/__init__.py": "",
    "cost_model/far.py": "FACTOR = 2\n",
    "cost_model/near.py": "from cost_model import far\n\ndef factor():\n    return far.FACTOR\n",
    "tvm_spm/middle.py": (
        "from cost_model.near import factor\nfrom tvm_spm.jit import kernel\n\nFACTOR = factor()\n\n"
        "@kernel\ndef scaled(value):\n    return value * FACTOR\n"
    ),
    "tvm_spm/top.py": (
        "from tvm_spm.jit import entry, is_on_disk\nfrom tvm_spm.middle import scaled\n\n"
        "@entry\ndef scale(value):\n    return scaled(value)\n\n"
        "if __name__ == '__main__':\n    print(is_on_disk(scale), scale(21), sum(scale.stats.cache_hits.values()))\n"
    ),
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree with the same ``jit`` whose entry point depends on a constant three imports away."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("jit.py", "compiler.py"):
        shutil.copy(ROOT / "tvm_spm" / name, tmp_path / "tvm_spm")
    return tmp_path


def run(tree: Path, cache: Path | None = None, **more: str) -> list[str]:
    """Whether code was on disk, the result, and how often code was loaded instead of compiled."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": str(cache or tree / "cache"), **more}
    done = subprocess.run(
        [sys.executable, "-m", "tvm_spm.top"], cwd=tree, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_a_constant_three_imports_away_changes_the_result(tree: Path):
    assert run(tree) == ["False", "42", "0"]
    assert run(tree) == ["True", "42", "1"]
    far = tree / "cost_model" / "far.py"
    stamp = far.stat()
    far.write_text("FACTOR = 3\n")
    os.utime(far, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert run(tree) == ["False", "63", "0"]
    far.write_text("FACTOR = 2\n")
    assert run(tree) == ["True", "42", "1"]


def test_equal_trees_share_code(tree: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("other") / "tree"
    shutil.copytree(tree, other)
    run(tree)
    assert run(other, tree / "cache") == ["True", "42", "1"]


def test_code_that_checks_bounds_is_kept_apart(tree: Path):
    run(tree)
    assert run(tree, NUMBA_BOUNDSCHECK="1") == ["False", "42", "0"]
    assert run(tree) == ["True", "42", "1"]


def test_a_cache_that_cannot_be_written_costs_time_only(tree: Path):
    blocked = tree / "blocked"
    blocked.write_text("a file, not a folder")
    assert run(tree, blocked) == ["False", "42", "0"]


def test_unused_code_is_forgotten(tree: Path):
    run(tree)
    (folder,) = (tree / "cache" / "tvm_spm" / "compiled").iterdir()
    old = folder.parent / ("0" * 32)
    old.mkdir()
    os.utime(old, (0, 0))
    (tree / "cost_model" / "far.py").write_text("FACTOR = 5\n")
    run(tree)
    assert not old.exists()
    assert folder.exists()


def product_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def kernels(path: Path) -> list[ast.FunctionDef]:
    """Functions that are compiled."""
    return [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(name, ast.Name) and name.id in DECORATORS for name in node.decorator_list)
    ]


def test_only_jit_and_its_compiler_import_numba():
    for path in product_files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        if path.relative_to(ROOT).as_posix() not in {"tvm_spm/jit.py", "tvm_spm/compiler.py"}:
            assert not [name for name in names if name.split(".")[0] == "numba"], path


def test_kernels_make_no_arrays_of_records():
    """numba counts no reference for a view of one record, so arrays of records must be held by Python."""
    found = [(path, kernel) for path in product_files() for kernel in kernels(path)]
    assert len(found) > 150
    for path, kernel in found:
        for node in ast.walk(kernel):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert not node.attr.endswith("_FIELDS"), f"{path}: {kernel.name}"
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            if is_call and node.func.attr in {"empty", "zeros", "ones", "full", "empty_like", "zeros_like"}:
                dtypes = [*node.args[1:], *(word.value for word in node.keywords if word.arg == "dtype")]
                names = [arg.id for arg in dtypes if isinstance(arg, ast.Name)]
                assert not [name for name in names if name.endswith("_FIELDS")], f"{path}: {kernel.name}"


def test_key_covers_what_is_imported_from_a_package(tmp_path: Path):
    key = jit.source_key(ROOT / "cost_model" / "analytical" / "model.py")
    assert key == jit.source_key(ROOT / "cost_model" / "analytical" / "model.py")
    assert key != jit.source_key(ROOT / "cost_model" / "analytical" / "core.py")


def test_only_entry_points_become_machine_code(monkeypatch: pytest.MonkeyPatch):
    """Kernels are linked with their callers, however deep, and what they raise arrives."""
    monkeypatch.setattr(jit, "cache_folder", lambda: None)

    @jit.lean
    def halved(value: int) -> int:
        if value % 2 == 1:
            raise ValueError("odd")
        return value // 2

    @jit.kernel
    def quartered(value: int) -> int:
        return halved(halved(value))

    @jit.entry
    def doubled_quarter(value: int) -> int:
        return 2 * quartered(value)

    assert doubled_quarter(12) == 6
    with pytest.raises(ValueError, match="odd"):
        doubled_quarter(6)
    libraries = [f.overloads[f.signatures[0]].library for f in (halved, quartered, doubled_quarter)]  # type: ignore[attr-defined]
    has_code = [any(lib.get_pointer_to_function(f.name) for f in lib.get_defined_functions()) for lib in libraries]
    assert has_code == [False, False, True]


def test_what_is_remembered_of_one_function_is_not_told_another_with_other_options(
    monkeypatch: pytest.MonkeyPatch,
):
    """By numba's own decorator a division by zero is an error, and in ours it is infinite, whoever comes first."""
    monkeypatch.setattr(jit, "cache_folder", lambda: None)

    def halves(value: float, parts: int) -> float:
        found = np.empty(parts)
        for part in range(parts):
            found[part] = value / part if part < 2 else found[part - 1] + found[part - 1]
        return float(found.sum())

    ours, theirs, again = jit.entry(halves), numba.njit(halves), jit.entry(halves)
    assert ours(1.0, 3) == np.inf
    with pytest.raises(ZeroDivisionError):
        theirs(1.0, 3)
    assert again(1.0, 3) == np.inf
    assert ours(0.0, 0) == theirs(0.0, 0) == again(0.0, 0) == 0.0
