"""Saved programs, read as data.

PyTorch's own reader unpickles what a file tells it to, looks functions up by the names in it, evaluates expressions
and loads compiled libraries. So the file is read here first, and PyTorch is handed a new one with nothing in it but
what was understood.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from tvm_spm.errors import ModelError
from tvm_spm.frontend.fuse import TVM_ERRORS, first_line
from tvm_spm.frontend.memory import require_memory
from tvm_spm.input_file import read_regular

_PROGRAM = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_MARKS = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d+")

_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.(?!from_file)[A-Za-z]\w*\.[A-Za-z]\w*"
    r"|torch\.ops\.aten\._[a-z]\w*\.\w+|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__\.\w+"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|wrap_with_set_grad_enabled|wrap_with_autocast)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pow|eq|ne|lt|le|gt|ge|getitem|and_|or_|not_)"
    r"|math\.[a-z]\w*|torch\._?sym_[a-z]+"
)
"""Functions that a program may call: operators on tensors and numbers."""

_SYMBOL = re.compile(r"[su]\d+|zuf\d+")
_WORDS = frozenset(
    "Symbol Integer Rational Float positive integer nonnegative negative real True False None true false Mod PythonMod "
    "FloorDiv CeilDiv CleanDiv Max Min Add Mul Pow Eq Ne Lt Le Gt Ge And Or Not Piecewise Where ToFloat IntTrueDiv "
    "FloatTrueDiv TruncToInt CeilToInt FloorToInt RoundToInt Identity ModularIndexing Equality Unequality "
    "StrictLessThan StrictGreaterThan LessThan GreaterThan".split()
)
_EXPRESSION = re.compile(r"[\w\s()',=*+/<>&|~-]*")
_WORD = re.compile(r"[A-Za-z_]\w*")

_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", None)
"""How inputs and outputs may be nested; others import what they name."""


def read_program(path: Path, *, max_memory_bytes: int) -> torch.export.ExportedProgram:
    """A program that ``torch.export.save`` wrote.

    Raises:
        ModelError: There is no such file, it is cut short or no saved program, it needs more memory than allowed, or it
            holds what would run as code.
    """
    content = read_regular(path, max_bytes=max_memory_bytes, error=ModelError)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            clean = _checked(archive, path, max_memory_bytes)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ModelError(
            f"{path}: not a program of torch.export.save, or cut short ({len(content):,} B: {first_line(error)})"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: not a program of torch.export.save: {first_line(error)}") from None
    try:
        return torch.export.load(clean)
    except (*TVM_ERRORS, AssertionError) as error:
        raise ModelError(f"{path}: PyTorch {torch.__version__} cannot read it: {first_line(error)}") from error


def _checked(archive: zipfile.ZipFile, path: Path, max_memory_bytes: int) -> io.BytesIO:
    """The archive without what is not needed, in which everything else is data."""
    if min((entry.header_offset for entry in archive.infolist()), default=0) > 0:
        raise zipfile.BadZipFile("it begins with something else")  # One of its entries, where its end is cut off.
    require_memory(sum(entry.file_size for entry in archive.infolist()), max_memory_bytes, str(path), "tensors")
    names = [entry.filename.partition("/")[2] for entry in archive.infolist()]
    if "data.pkl" in names:
        raise ModelError(
            f"{path}: holds Python objects (torch.save), which run code when they are read; save a program with "
            "torch.export.save(torch.export.export(module, inputs), 'model.pt2')"
        )
    if _PROGRAM not in names or any(config not in names for config in _CONFIGS):
        raise ModelError(
            f"{path}: not a program of torch.export.save (no {_PROGRAM} in it), or one of PyTorch before 2.9: save it "
            "again with a newer one"
        )
    made = io.BytesIO()
    seen: set[str] = set()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as clean:
        for entry, name in zip(archive.infolist(), names, strict=True):
            if name in seen:
                raise ModelError(f"{path}: entry {name!r} stands in it twice")
            seen.add(name)
            data = _entry(archive.read(entry), name, str(path))
            if data is not None:
                clean.writestr(f"model/{name}", data)
    made.seek(0)
    return made


def _entry(data: bytes, name: str, origin: str) -> bytes | None:
    """What PyTorch is given of one entry, ``None`` for nothing."""
    if name in _MARKS or _PAYLOAD.fullmatch(name):
        return data
    if name == _SAMPLE_INPUTS:
        return b""  # Pickled, and not needed: a program knows its shapes.
    if name in _CONFIGS:
        _check_config(json.loads(data), origin)
        return data
    if name == _PROGRAM:
        program = json.loads(data)
        _check_program(program, origin)
        program["guards_code"] = []  # Text that would run; the shapes are checked here.
        return json.dumps(program).encode()
    if name.startswith("data/aotinductor/"):
        raise ModelError(f"{origin}: holds compiled code ({name}); save the program itself with torch.export.save")
    return None


def _check_config(config: object, origin: str) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise ModelError(f"{origin}: not a program of torch.export.save: its list of tensors is none")
    for name, entry in entries.items():
        payload = str(entry.get("path_name")) if isinstance(entry, dict) else ""
        if not re.fullmatch(r"(weight|tensor)_\d+", payload) or entry.get("use_pickle") is not False:
            raise ModelError(
                f"{origin}: tensor {name!r} is a Python object, which runs code when it is read; only plain tensors are"
            )


def _check_program(program: object, origin: str) -> None:
    if not isinstance(program, dict):
        raise ModelError(f"{origin}: not a program of torch.export.save: it is no JSON object")
    for key, value in _pairs(program):
        if key in ("target", "as_operator") and not (isinstance(value, str) and _TARGET.fullmatch(value)):
            raise ModelError(f"{origin}: calls {value!r}, which is no operator on tensors")
        if key == "expr_str" and not (isinstance(value, str) and _is_expression(value)):
            raise ModelError(f"{origin}: the dim {value!r} is no expression of dims")
        if key in ("in_spec", "out_spec"):
            _check_nesting(value, origin)
        if key in ("as_custom_obj", "custom_obj"):
            raise ModelError(f"{origin}: passes a Python object; only tensors and numbers are understood")


def _pairs(value: object) -> Iterator[tuple[str, object]]:
    """Every key of every object in a JSON value."""
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            yield from value.items()
            pending += value.values()
        elif isinstance(value, list):
            pending += value


def _is_expression(text: str) -> bool:
    words = _WORD.findall(text)
    known = all(word in _WORDS or _SYMBOL.fullmatch(word) for word in words)
    return bool(_EXPRESSION.fullmatch(text)) and known


def _check_nesting(text: object, origin: str) -> None:
    spec = json.loads(text) if isinstance(text, str) and text else None
    for key, value in _pairs(spec):
        if key == "type" and value not in _CONTAINERS:
            raise ModelError(
                f"{origin}: inputs or outputs are nested in a {value}; only tuples, lists and dicts are understood"
            )
