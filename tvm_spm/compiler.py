"""Numba's compiler without what it does again and again: half of the time that a user's first run compiles.

Numba asks for the type of each ``a + b`` anew, of a dozen candidates each, under the name of all its options written
out; and it optimises each function on its own, whoever calls it. Neither decides what is computed.
"""

from __future__ import annotations

from typing import Any, cast

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler, Flags
from numba.core.targetconfig import ConfigStack
from numba.core.types.functions import BaseFunction


class _Options(Flags):
    """Options of a compilation, of which there is one object per value, so that its address tells it from others."""

    __slots__ = ()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    def copy(self) -> _OwnOptions:
        """What may be changed."""
        return _OwnOptions(self)


_ALL_OPTIONS: list[_Options] = []


class _OwnOptions(Flags):
    """Options of one compilation; numba's passes change them, but only read the copy that they put on a stack."""

    __slots__ = ()

    def copy(self) -> _Options:
        """The object of this value."""
        values = self.values()
        for known in _ALL_OPTIONS:
            if known.values() == values:
                return known
        _ALL_OPTIONS.append(_Options(self))
        return _ALL_OPTIONS[-1]


_CALL_TYPES: dict[tuple[object, ...], tuple[BaseFunction, Any, Any]] = {}
"""By function, its arguments and the options: the function, kept as its address is part of the key, and its answer."""

_resolve = BaseFunction.get_call_type


def _call_type(function: BaseFunction, context: object, args: tuple[Any, ...], kws: dict[str, Any]) -> object:
    """What numba's own method answers, remembered under options of this module; others do not notice."""
    options = ConfigStack.top_or_none()
    if type(options) is not _Options or kws:
        return _resolve(function, context, args, kws)
    key = id(function), context, tuple(args), options
    known = _CALL_TYPES.get(key)
    if known is None:
        signature = _resolve(function, context, args, kws)
        known = _CALL_TYPES[key] = function, signature, function.get_impl_key(signature)
    _, signature, implementation = known
    cast(Any, function)._impl_keys[signature.args] = implementation
    return signature


cast(Any, BaseFunction).get_call_type = _call_type


def _simplify(library: JITCodeLibrary, module: Any) -> None:  # noqa: ANN401 (numba's)
    """Make functions smaller before they are linked; numba does it for mere declarations too, one pass manager each."""
    module.data_layout = library._codegen._data_layout
    manager, builder = library._codegen._function_pass_manager()
    for function in module.functions:
        if not function.is_declaration:
            manager.run(function, builder)


class _LinkedLibrary(JITCodeLibrary):
    """Code that only other code is linked with.

    Numba optimises each function together with all it calls, and makes machine code of it. For a kernel both are in
    vain: an entry point is optimised with everything it calls, and only its machine code runs.
    """

    def _optimize_functions(self, ll_module: Any) -> None:  # noqa: ANN401 (numba's)
        _simplify(self, ll_module)

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:  # noqa: ARG002 (numba's signature)
        """None: there is no machine code."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> _LinkedLibrary:
        """What numba asks to set the environment of machine code."""
        return self

    def set_env(self, env_name: str, env: object) -> None:
        """Nothing to set it in; compiled code uses its environment only where it calls Python."""


class _EntryLibrary(JITCodeLibrary):
    """Code that runs: optimised with everything it calls."""

    def _optimize_functions(self, ll_module: Any) -> None:  # noqa: ANN401 (numba's)
        _simplify(self, ll_module)


class EntryCompiler(Compiler):
    """Numba's compiler, for what Python calls."""

    def __init__(
        self, typing: object, target: Any, library: Any,  # noqa: ANN401 (numba's)
        args: object, returned: object, flags: Flags, types: object
    ) -> None:  # fmt: skip
        library = library or self._new_library(target.codegen())
        super().__init__(typing, target, library, args, returned, _OwnOptions(flags), types)

    def _new_library(self, codegen: object) -> JITCodeLibrary:
        library = _EntryLibrary(codegen, "entry")
        library.enable_object_caching()
        return library


class KernelCompiler(EntryCompiler):
    """Numba's compiler, for what only compiled code calls."""

    def _new_library(self, codegen: object) -> JITCodeLibrary:
        return _LinkedLibrary(codegen, "kernel")
