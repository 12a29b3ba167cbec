"""How code is compiled: numba's machine code on disk, under a key made from all the source that is frozen into it.

Numba's own cache watches the file of one function, yet constants and functions of every module that file imports end
up in the machine code. Here the key of an entry point is a hash of its file and of every file of these packages that
it imports, however far away. An edit anywhere among them compiles again; an equal tree elsewhere finds what is there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from numba import njit, types
from numba.core import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from tvm_spm.compiler import EntryCompiler, KernelCompiler

Function = TypeVar("Function", bound=Callable[..., Any])

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("tvm_spm", "cost_model", "schedules")
_UNUSED_DAYS = 30
"""Machine code of other sources that nobody loaded for so long is deleted when new code is written."""

_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n]*)|import[ \t]+([\w.]+))", re.MULTILINE
)

_log = logging.getLogger(__name__)


def entry(function: Function) -> Function:
    """An entry point: Python calls it, without the interpreter's lock, and its machine code is kept on disk.

    Records must come in as arrays that Python holds. Compiled code keeps no reference for a view of one record, so an
    array of records made inside is given away while the view is in use.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy", pipeline_class=EntryCompiler)(function)
    if cache_folder() is not None:
        dispatcher._cache = _Cache(function)
    return cast(Function, dispatcher)


def kernel(function: Function) -> Function:
    """A function that only compiled code calls: without the wrappers that Python needs, it compiles faster."""
    return _compiled(function, _nrt=True)


def lean(function: Function) -> Function:
    """A kernel that allocates nothing, so that no references are counted."""
    return _compiled(function, _nrt=False)


def small(function: Function) -> Function:
    """A lean kernel of a few instructions, pasted into the machine code of its callers."""
    return _compiled(function, _nrt=False, forceinline=True)


def is_on_disk(function: Callable[..., Any]) -> bool:
    """Whether machine code of an entry point is there for the sources as they are."""
    cache: Any = cast(Any, function)._cache
    return isinstance(cache, _Cache) and Path(cache.index_path).exists()


def _compiled(function: Function, **options: bool | str) -> Function:
    dispatcher: Any = njit(
        error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=KernelCompiler, **options
    )(function)
    template_of = dispatcher.get_call_template

    def template_of_any(args: tuple[types.Type, ...], kws: dict[str, types.Type]) -> object:
        # a constant is a number like any other: one compilation serves all
        return template_of(
            tuple(types.unliteral(arg) for arg in args), {name: types.unliteral(arg) for name, arg in kws.items()}
        )

    dispatcher.get_call_template = template_of_any
    return cast(Function, dispatcher)


@lru_cache(maxsize=1)
def cache_folder() -> Path | None:
    """Where machine code is kept, below ``NUMBA_CACHE_DIR`` or the user's cache; None if it cannot be written."""
    root = Path(config.CACHE_DIR or os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    folder = root / "tvm_spm" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        _log.warning("%s cannot be made: every run compiles again", folder)
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        _log.warning("%s cannot be written: every run compiles again", folder)
        return None
    return folder


def source_key(path: Path) -> str:
    """Hash of a file of these packages, of all it imports from them, directly or not, and of numba's own settings."""
    seen, todo = {path}, [path]
    while todo:
        for found in _imports(todo.pop()):
            if found not in seen:
                seen.add(found)
                todo.append(found)
    digest = hashlib.sha256(f"{config.BOUNDSCHECK} {config.OPT}".encode())
    for name in sorted(seen, key=str):
        digest.update(f"{name.relative_to(_ROOT)}\n{_digest(name)}\n".encode())
    return digest.hexdigest()


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files that a file imports. A package's own file counts only for names that no module in it has."""
    found: dict[Path, None] = {}
    for origin, names, plain in _IMPORT.findall(path.read_text(encoding="utf-8")):
        module = origin or plain
        if module.split(".")[0] not in _PACKAGES:
            continue
        place = _ROOT.joinpath(*module.split("."))
        if not place.is_dir():
            found[place.with_suffix(".py")] = None
            continue
        for name in re.findall(r"(\w+)(?:\s+as\s+\w+)?", names) or [""]:
            inner = place / name
            if name and inner.with_suffix(".py").is_file():
                found[inner.with_suffix(".py")] = None
            elif not (name and inner.is_dir()):
                found[place / "__init__.py"] = None
    return tuple(name for name in found if name.is_file())


class _Locator(_CacheLocator):
    """One folder per set of sources; all functions of a file share it."""

    def __init__(self, py_func: Callable[..., Any], py_file: str) -> None:
        self._line = py_func.__code__.co_firstlineno
        self._key = source_key(Path(py_file).resolve())

    def get_cache_path(self) -> str:
        folder = cache_folder()
        assert folder is not None
        return str(folder / self._key[:32])

    def get_source_stamp(self) -> str:
        return self._key

    def get_disambiguator(self) -> str:
        return str(self._line)

    def ensure_cache_path(self) -> None:
        path = Path(self.get_cache_path())
        path.mkdir(parents=True, exist_ok=True)
        _forget_unused(path)

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _Cache(FunctionCache):
    _impl_class = _CacheImpl

    @property
    def index_path(self) -> str:
        return cast(str, self._cache_file._index_path)

    def load_overload(self, sig: object, target_context: object) -> object:
        loaded = super().load_overload(sig, target_context)
        if loaded is not None:
            os.utime(self.cache_path)
        return loaded


def _forget_unused(current: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 86_400
    for folder in current.parent.iterdir():
        if folder != current and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)
