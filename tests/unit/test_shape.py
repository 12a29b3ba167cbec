"""How long a signature may be: what belongs together travels as one value with a name."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("tvm_spm", "schedules", "cost_model")

MOST_PARAMETERS = 8

# The public interface, whose keyword arguments are kept.
PUBLIC = {
    "tvm_spm.tuner.search",
    "tvm_spm.tuner.tune",
    "tvm_spm.workload.Workload.conv2d",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST, name: str) -> list[tuple[str, Function]]:
    """All functions in a file with the names they go by, those inside others included."""
    found: list[tuple[str, Function]] = []
    for child in ast.iter_child_nodes(node):
        own = f"{name}.{child.name}" if isinstance(child, Function | ast.ClassDef) else name
        if isinstance(child, Function):
            found.append((own, child))
        found += functions(child, own)
    return found


def num_parameters(function: Function) -> int:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len(named) - (bool(named) and named[0].arg in ("self", "cls"))


def is_command(function: Function) -> bool:
    """Whether typer reads the options of the command line off it."""
    called = [each.func if isinstance(each, ast.Call) else each for each in function.decorator_list]
    return any(isinstance(each, ast.Attribute) and each.attr in ("command", "callback") for each in called)


def long_signatures() -> set[str]:
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for name, function in functions(ast.parse(path.read_text(encoding="utf-8")), module):
                if num_parameters(function) > MOST_PARAMETERS and not is_command(function):
                    found.add(name)
    return found


def test_no_function_takes_more_than_eight_parameters():
    found = long_signatures()
    assert found == PUBLIC


def test_a_long_signature_is_seen_wherever_it_stands():
    text = """
class Noun:
    def method(self, a, b, *, c, d): ...
    @classmethod
    def made(cls, a, b): ...
def outer(a, /, b, *rest, c, **options):
    async def inner(x): ...
@app.command("x")
def typed(a): ...
"""
    found = dict(functions(ast.parse(text), "m"))
    counts = {name: num_parameters(function) for name, function in found.items()}
    assert counts == {"m.Noun.method": 4, "m.Noun.made": 2, "m.outer": 3, "m.outer.inner": 1, "m.typed": 1}
    assert [name for name, function in found.items() if is_command(function)] == ["m.typed"]
