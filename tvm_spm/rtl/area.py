"""What the hardware is made of, counted by Yosys: registers, memories, adders and multipliers of every unit."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tvm_spm.rtl.build import BENCH, write_sources
from tvm_spm.rtl.errors import RtlError
from tvm_spm.rtl.parameters import Parameters

TOP = "spm_core"
_YOSYS_S = 900
_ADDERS = ("$add", "$sub", "$neg")
_COMPARATORS = ("$eq", "$ne", "$lt", "$le", "$gt", "$ge")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitArea:
    """One kind of unit, all instances together, before cells are mapped to a technology.

    Attributes:
        unit: Its module.
        instances: In the core.
        memory_bits: Of its memories.
        register_bits: Of its flip-flops.
        multipliers: Of any width.
        adders: Of any width, subtractors among them.
        comparators: Of any width.
        other_cells: Of any width: multiplexers, shifters, gates.
    """

    unit: str
    instances: int
    memory_bits: int
    register_bits: int
    multipliers: int
    adders: int
    comparators: int
    other_cells: int


def count_area(parameters: Parameters) -> tuple[UnitArea, ...]:
    """Count what a core is made of, one row per module.

    Raises:
        RtlError: Yosys is not installed, takes too long, or cannot read the sources; its last lines are in the text.
    """
    program = shutil.which("yosys")
    if program is None:
        raise RtlError("yosys is not installed: apt-get install yosys")
    with tempfile.TemporaryDirectory() as own:
        folder = Path(own)
        names = [path.name for path in write_sources(parameters, folder) if path.suffix == ".sv"]
        names.remove(f"{BENCH}.sv")
        settings = " ".join(
            f"-set {field.name.upper()} {getattr(parameters, field.name)}" for field in fields(parameters)
        )
        # A simulation takes all PEs in one module; here each is one, so that all but the first are counted at once.
        settings += " -set UNIT_ROWS 1 -set UNIT_COLS 1"
        script = (
            f"read_verilog -sv {' '.join(names)}; chparam {settings} {TOP}; hierarchy -top {TOP}; proc; "
            "opt_expr; opt_clean; memory_collect; opt_clean; write_json area.json"
        )
        try:
            done = subprocess.run(
                [program, "-q", "-p", script], cwd=folder, capture_output=True, text=True, timeout=_YOSYS_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise RtlError(
                f"yosys has not counted the cells after {_YOSYS_S} s; --no-area writes the sources"
            ) from error
        if done.returncode:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-12:])
            raise RtlError(f"yosys failed with exit code {done.returncode}:\n{tail}")
        modules = json.loads((folder / "area.json").read_text(encoding="utf-8"))["modules"]
    top = next(name for name, module in modules.items() if int(module["attributes"].get("top", "0"), 2))
    instances: Counter[str] = Counter()
    _count_instances(modules, top, instances)
    return tuple(sorted((_unit(name, modules[name], count) for name, count in instances.items()), key=lambda u: u.unit))


def area_text(areas: tuple[UnitArea, ...]) -> str:
    """A table of units, and their sum."""
    names = [field.name for field in fields(UnitArea)]
    rows = [names, *([str(getattr(area, name)) for name in names] for area in areas)]
    rows.append(["all", "", *(str(sum(getattr(area, name) for area in areas)) for name in names[2:])])
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    lines = [
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(lines)


def _count_instances(modules: Mapping[str, Any], name: str, found: Counter[str], times: int = 1) -> None:
    found[name] += times
    inner = Counter(cell["type"] for cell in modules[name]["cells"].values() if cell["type"] in modules)
    for module, count in inner.items():
        _count_instances(modules, module, found, times * count)


def _unit(name: str, module: Mapping[str, Any], instances: int) -> UnitArea:
    memory_bits = register_bits = 0
    kinds: Counter[str] = Counter()
    for cell in module["cells"].values():
        kind, numbers = cell["type"], cell["parameters"]
        if kind.startswith("$mem"):
            memory_bits += int(numbers["SIZE"], 2) * int(numbers["WIDTH"], 2)
        elif "dff" in kind:
            register_bits += int(numbers["WIDTH"], 2)
        elif kind.startswith("$") and not kind.startswith("$paramod"):
            kinds[kind] += 1
    adders, comparators = (sum(kinds[kind] for kind in each) for each in (_ADDERS, _COMPARATORS))
    other = kinds.total() - adders - comparators - kinds["$mul"]
    plain = next((part for part in reversed(name.split("\\")) if part.startswith("spm_")), name)
    return UnitArea(
        unit=plain, instances=instances, memory_bits=instances * memory_bits, register_bits=instances * register_bits,
        multipliers=instances * kinds["$mul"], adders=instances * adders, comparators=instances * comparators,
        other_cells=instances * other,
    )  # fmt: skip
