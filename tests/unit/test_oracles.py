"""Oracles share no code with what they check, and tests use the public names of packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PACKAGES = ("tvm_spm", "schedules", "cost_model")

ORACLES = sorted([*(TESTS / "oracle").glob("*.py"), *TESTS.glob("*_reference.py"), TESTS / "numeric" / "interpret.py"])

SAY_WHAT_IS_ASKED = (
    "tvm_spm.arch", "tvm_spm.attention", "tvm_spm.cost", "tvm_spm.graph", "tvm_spm.group", "tvm_spm.mapping",
    "tvm_spm.objective", "tvm_spm.workload",
)  # fmt: skip
"""Nouns. An oracle takes classes and constants of these modules and no function of any."""

WALKED = {"tests/oracle/program.py": ("cost_model.simulator.program",)}
"""What an oracle walks, node by node; classes of it are allowed there."""

ANSWERS = {
    "box", "chunk", "clipped_elems", "core_tile", "dram_factors", "loop_ranges", "num_buffers", "num_bursts",
    "pass_records", "spm_factors", "tile_bytes", "tile_elems",
}  # fmt: skip
"""Methods of nouns, and functions, whose results the oracles are there to check."""


def name_of(path: Path) -> str:
    return path.relative_to(TESTS.parent).as_posix()


def product_imports(path: Path) -> list[tuple[str, str]]:
    """Module and name of everything a file imports from the product."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] in PACKAGES]
    return found


def test_there_are_oracles():
    assert {path.name for path in ORACLES} >= {"boxes.py", "traffic.py", "program.py", "simulator_reference.py"}


@pytest.mark.parametrize("path", ORACLES, ids=name_of)
def test_an_oracle_imports_nouns_alone(path: Path):
    for module, name in product_imports(path):
        assert module in (*SAY_WHAT_IS_ASKED, *WALKED.get(name_of(path), ())), f"{module} is no noun"
        assert name[:1].isupper(), f"{name} of {module} is no class and no constant"


@pytest.mark.parametrize("path", ORACLES, ids=name_of)
def test_an_oracle_asks_the_product_for_no_answer(path: Path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    asked = {
        f"{call.attr}, line {call.lineno}" for call in calls if isinstance(call, ast.Attribute) and call.attr in ANSWERS
    }
    assert asked == set()


OF_OTHERS = {"_expr", "_get_convert_map", "_pytree"}
"""Names of TVM and PyTorch that have no public counterpart."""


def test_tests_use_public_names():
    """What starts with an underscore may change without a test that knows it."""
    private = set()
    for path in sorted(TESTS.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
        own = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        own |= {node.attr for node in attributes if ast.unparse(node.value) in ("self", "os")}
        used = {name for _, name in product_imports(path)} | {node.attr for node in attributes} - own - OF_OTHERS
        private |= {f"{name_of(path)}: {name}" for name in used if name[:1] == "_" and name[:2] != "__"}
    assert private == set()
