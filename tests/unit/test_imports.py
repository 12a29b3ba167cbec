"""Imports point down one list, from room to room and inside each, and ``import tvm_spm`` loads nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tvm_spm", "schedules", "cost_model")

# Highest first; what stands in a row imports only from lower rows. A name covers the module or all of the package.
ROOMS = (
    ("tvm_spm.__main__",),
    ("tvm_spm.cli",),
    ("tvm_spm.tuner",),
    ("tvm_spm.reproduce",),
    ("tvm_spm.meta_schedule",),
    ("tvm_spm.tuning",),
    ("tvm_spm.deploy",),
    ("schedules",),
    ("tvm_spm.frontend",),
    ("tvm_spm.lowering",),
    ("tvm_spm.fusion",),
    ("tvm_spm.report",),
    ("tvm_spm.rtl",),
    ("tvm_spm.stream",),
    ("tvm_spm.exact", "tvm_spm.searchers"),
    ("cost_model",),
    ("tvm_spm.space",),
    # nouns
    ("tvm_spm.result", "tvm_spm.trial"),
    ("tvm_spm.cost",),
    ("tvm_spm.attention", "tvm_spm.group"),
    ("tvm_spm.graph", "tvm_spm.mapping"),
    ("tvm_spm.arch_text",),
    ("tvm_spm.addresses", "tvm_spm.arch", "tvm_spm.rejection"),
    ("tvm_spm.workload",),
    ("tvm_spm.axes",),
    # base
    ("tvm_spm.arguments", "tvm_spm.durable", "tvm_spm.input_file", "tvm_spm.progress"),
    ("tvm_spm.objective", "tvm_spm.pages", "tvm_spm.workers"),
    (
        "tvm_spm.errors",
        "tvm_spm.garbage",
        "tvm_spm.interrupt",
        "tvm_spm.jit",
        "tvm_spm.terminal",
        "tvm_spm.threads",
        "tvm_spm.tile",
        "tvm_spm.transfer",
        "tvm_spm.units",
    ),
    ("tvm_spm.compiler",),
)

# The same inside a package: its modules and folders, highest first.
INSIDE = {
    "tvm_spm.cli": (("commands",), ("search",), ("options", "output", "workers")),
    "cost_model": (
        ("attention", "calibration", "side_by_side"), ("fused",), ("analytical", "learned", "published", "simulator"),
        ("nest",), ("crossing", "problem", "roofs"),
        ("arrays", "bounds", "objective", "record", "transfer", "vector"),
    ),
    "schedules": (("group",), ("attention", "host", "layer")),
    "tvm_spm.exact": (
        ("search",), ("any_factors", "perfect"), ("boxes", "orders"), ("case_arrays", "stops"),
    ),
    "tvm_spm.meta_schedule": (
        ("tune",), ("parts",), ("strategy",), ("context", "measure", "model", "queue", "space"), ("tasks",),
    ),
    "tvm_spm.tuning": (
        ("network", "rtl", "text"), ("groups", "result", "tasks"),
        ("effort", "export", "plan_data", "side_by_side", "task", "waits", "warm_up"),
        ("baselines", "guided"),
        ("ahead", "group_trials", "screen", "search_path"), ("run",), ("run_log",), ("measuring", "saved_run", "store"),
        ("group_memory", "task_memory"),
        ("agreement", "attention", "exact_starts", "measurer", "options", "parts", "trial_log"),
        ("log_lines", "requests"),
    ),
    "tvm_spm.deploy": (
        ("network", "programs", "side_by_side"), ("groups", "task_checks"), ("task_code", "verify"),
        ("database", "grouping", "runtime"),
    ),
    "tvm_spm.fusion": (
        ("network", "side_by_side"), ("side_groups",), ("group_prices", "side_ways"), ("hopes", "planner", "proof"),
        ("hull", "measured"), ("prover",),
        ("group_space", "search", "sides", "sweep"), ("bounds", "network_plan", "probe", "table", "timing"),
        ("candidates", "convex_groups", "down_sets", "plan", "probe_bounds", "serial_orders"),
    ),
    "tvm_spm.space": (
        ("mapspace",), ("rows",), ("conflict", "count", "default", "repair"), ("knobs",),
        ("case", "constraints_batch", "estimate", "legality_batch"),
        ("constraints", "countable", "legality", "mapping_batch", "tensors", "tiles"),
    ),
    "tvm_spm.rtl": (("run",), ("area", "words"), ("build", "epilogue"), ("parameters",), ("errors",)),
    "tvm_spm.stream": (
        ("export",), ("encode", "text"), ("binary", "interpret", "memory", "vector"), ("check", "layout"),
        ("instructions",), ("errors",),
    ),
    "tvm_spm.workers": (("jobs",), ("cluster", "processes"), ("calls", "child"), ("errors",)),
    "tvm_spm.lowering": (
        ("target",), ("tiles",), ("double",), ("host", "innermost", "partial"), ("processor",),
        ("blocks", "root_block"),
    ),
}  # fmt: skip

MAY_IMPORT_TVM = (
    "tvm_spm.lowering", "tvm_spm.frontend", "schedules", "tvm_spm.deploy", "tvm_spm.tuning", "tvm_spm.meta_schedule",
)  # fmt: skip
"""``tuning`` and the door pass Relax modules on; what they do with them they do through ``frontend`` and ``deploy``."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def covers(entry: str, module: str) -> bool:
    return module == entry or module.startswith(entry + ".")


def room_of(module: str) -> tuple[int, str]:
    """Row of the list and the entry that a module belongs to."""
    for row, entries in enumerate(ROOMS):
        for entry in entries:
            if covers(entry, module):
                return row, entry
    raise AssertionError(f"{module} is in no room; add it to ROOMS")


def imports_of(module: str) -> set[str]:
    """Modules a file imports at run time, wherever the import stands; those for type checking do not count."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
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
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inner & set(MODULES)
            if inner - set(MODULES):
                names.add(node.module)
    return names


@pytest.mark.parametrize("module", [name for name in MODULES if name != "tvm_spm"])
def test_imports_point_down(module: str):
    row, room = room_of(module)
    for name in imports_of(module) & set(MODULES) - {"tvm_spm"}:
        other_row, other = room_of(name)
        assert other == room or other_row > row, f"{module} imports {name}, which is not below it"


@pytest.mark.parametrize("package", INSIDE)
def test_imports_point_down_inside(package: str):
    rows = {f"{package}.{name}": row for row, names in enumerate(INSIDE[package]) for name in names}

    def child(module: str) -> str:
        return ".".join(module.split(".")[: package.count(".") + 2])

    inside = [module for module in MODULES if module.startswith(package + ".")]
    assert {child(module) for module in inside} == set(rows), "INSIDE names what is there"
    for module in inside:
        for name in imports_of(module) & set(inside):
            same = child(name) == child(module)
            assert same or rows[child(name)] > rows[child(module)], f"{module} imports {name}, which is not below it"


def test_no_imports_in_a_circle():
    below = {module: imports_of(module) & set(MODULES) - {"tvm_spm", module} for module in MODULES}
    while free := [module for module, names in below.items() if not names & set(below)]:
        for module in free:
            del below[module]
    assert below == {}


@pytest.mark.parametrize("module", list(MODULES))
def test_heavy_imports_stay_in_their_room(module: str):
    top = {name.split(".")[0] for name in imports_of(module)}
    if module == "tvm_spm":
        assert top <= {"__future__", "importlib", "typing"}
        return
    if "tvm" in top:
        assert any(covers(entry, module) for entry in (*MAY_IMPORT_TVM, "tvm_spm.tuner")), f"{module} imports tvm"
    if "xgboost" in top:
        assert module == "cost_model.learned.trees"
    if covers("tvm_spm.searchers", module):
        assert "cost_model" not in top


@pytest.mark.parametrize(
    ("corner", "users"),
    [("cost_model.published", ("tvm_spm.reproduce", "tvm_spm.tuner")), ("tvm_spm.reproduce", ("tvm_spm.cli",))],
)
def test_what_reproduces_papers_stays_in_its_corner(corner: str, users: tuple[str, ...]):
    for module in MODULES:
        if any(covers(corner, name) for name in imports_of(module)):
            assert any(covers(user, module) for user in (corner, *users)), module


def test_the_interpreter_of_streams_knows_streams_alone():
    known = {"tvm_spm.stream.errors", "tvm_spm.stream.instructions", "tvm_spm.units"}
    own = [name for name in MODULES if covers("tvm_spm.stream.interpret", name) or name == "tvm_spm.stream.check"]
    for name in own:
        assert imports_of(name) & set(MODULES) <= known | set(own), name
    assert imports_of("tvm_spm.stream.instructions") & set(MODULES) == {"tvm_spm.stream.errors"}


PACKAGES_WITH_MODULES = sorted(
    name for name, path in MODULES.items() if path.name == "__init__.py" and name != "tvm_spm"
)


@pytest.mark.parametrize("package", PACKAGES_WITH_MODULES)
def test_packages_say_what_stands_where(package: str):
    source = MODULES[package].read_text(encoding="utf-8")
    text = ast.get_docstring(ast.parse(source)) or ""
    assert len(text.splitlines()) >= 3, "what the package does, what it is given and gives back, where that stands"
    own = {name.rsplit(".", 1)[1] for name in MODULES if name.startswith(package + ".")} | set(PACKAGES)
    for name in re.findall(r"``([a-z_]+)``", text):
        assert name in own or name in source.replace(text, ""), f"{name} is not in {package}"


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
