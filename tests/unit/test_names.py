"""A name stands for one thing: no two public classes of the product are called the same."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tvm_spm", "schedules", "cost_model")


def classes(source: str) -> list[str]:
    """Public names of all classes of a file, those inside functions and other classes included."""
    names = [node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    return [name for name in names if not name.startswith("_")]


def test_no_two_public_classes_share_a_name():
    homes = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for name in classes(path.read_text(encoding="utf-8")):
                homes[name].append(str(path.relative_to(ROOT)))
    assert len(homes) > 200
    assert {name: files for name, files in homes.items() if len(files) > 1} == {}


def test_a_public_class_is_seen_wherever_it_stands():
    text = """
class Outer:
    class Inner: ...
def function():
    if True:
        class Local: ...
class _Private: ...
"""
    assert sorted(classes(text)) == ["Inner", "Local", "Outer"]
