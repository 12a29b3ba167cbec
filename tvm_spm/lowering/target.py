"""Registers the accelerators as TVM targets ``spm/<name>`` and the TIR pipeline ``spm`` that compiles for them."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm.tirx.compilation_pipeline import get_tir_pipeline, register_tir_pipeline

from tvm_spm.arch import Arch, archs, load_arch
from tvm_spm.errors import ArchError
from tvm_spm.lowering.host import fit_to_host
from tvm_spm.lowering.innermost import widest_innermost
from tvm_spm.lowering.root_block import without_root_block
from tvm_spm.lowering.tiles import exact_tiles

PIPELINE = "spm"
"""Name of the TIR pipeline."""

EXACT_BUFFERS = "spm.exact_buffers"
"""Attribute of a function whose buffers in SPM and RF already have the extents that its code uses."""

_COMPACTION = "s_tir.CompactBufferAllocation"
_KIND = "ext_dev"
_DEVICE = "spm"
HOST = {"kind": "llvm", "opt-level": 2}
"""The host target that runs an accelerator's code. Level 3 unrolls tiles completely: it compiles several times longer,
for code that is hardly faster."""

_ATTRS = {"kind": _KIND, "keys": ["spm", "cpu"], "device": _DEVICE, "host": HOST}

_registered: dict[str, Arch] = {}
"""The registry that belongs to TVM's registry of target tags: both last as long as the process."""


def register_arch(path_or_arch: str | Path | Arch) -> tvm.target.Target:
    """Make ``tvm.target.Target("spm/<name>")`` stand for an accelerator.

    A target never changes its meaning: an accelerator with the name but not the numbers of a registered one gets a tag
    of its own, ``spm/<name>-<start of its hash>``.

    Args:
        path_or_arch: A preset's name, the path of a TOML file, or an accelerator.

    Raises:
        ArchError: No such preset or file, or the file is wrong; names the field.
    """
    arch = load_arch(path_or_arch)
    model = arch.name
    if model in _registered and _registered[model].sha256() != arch.sha256():
        model = f"{arch.name}-{arch.sha256()[:8]}"
    if model not in _registered:
        _registered[model] = arch
        tvm.target.register_tag(f"spm/{model}", {**_ATTRS, "model": model}, override=True)
    return tvm.target.Target(f"spm/{model}")


def target_of(arch: str | Path | Arch | tvm.target.Target) -> tvm.target.Target:
    """The target of an accelerator, registered if need be; a target of ours is returned as it is.

    Raises:
        ArchError: The accelerator is not known, or the target is not one of ours.
    """
    if isinstance(arch, tvm.target.Target):
        arch_of(arch)
        return arch
    name = str(arch).removeprefix("spm/")
    if not isinstance(arch, Arch) and name in _registered:
        return tvm.target.Target(f"spm/{name}")
    return register_arch(arch)


def arch_of(target: str | tvm.target.Target) -> Arch:
    """The accelerator a target stands for.

    Args:
        target: A target, or a name such as ``spm/edge-256``.

    Raises:
        ArchError: The target is not one of ours, or its accelerator was not registered in this process.
    """
    if isinstance(target, str):
        name = target.removeprefix("spm/")
        return _registered[name] if name in _registered else load_arch(target)
    if not isinstance(target, tvm.target.Target):
        raise ArchError(
            f"target = {target!r}: must be 'spm/<accelerator>' as text or as a TVM target, an accelerator, or the path "
            "of its file"
        )
    attrs = target.attrs
    if target.kind.name != _KIND or str(attrs.get("device", "")) != _DEVICE:
        known = ", ".join(f"spm/{name}" for name in sorted(_registered))
        raise ArchError(f"target {target.kind.name!r} is not an accelerator of ours: choose one of {known}")
    model = str(attrs.get("model", ""))
    return _registered[model] if model in _registered else load_arch(f"spm/{model}")


def _bind_to_host(mod: tvm.IRModule) -> tvm.IRModule:
    """Move functions of the accelerator, their tiles made exact, to the host, whose code computes the same numbers."""
    host = tvm.target.Target(HOST, host=HOST)
    functions = {}
    for name, func in mod.functions.items():
        bound = func.attrs.get("target", None) if func.attrs is not None else None
        is_ours = isinstance(func, tvm.tirx.PrimFunc) and (bound is None or bound.kind.name == _KIND)
        functions[name] = (
            fit_to_host(_for_lanes(exact_tiles(without_root_block(func)))).with_attr("target", host)
            if is_ours
            else func
        )
    return tvm.IRModule(functions, attrs=mod.attrs)


def _for_lanes(func: tvm.tirx.PrimFunc) -> tvm.tirx.PrimFunc:
    """What was generated with its own buffers has its own order, too."""
    return func if _has_exact_buffers(func) else widest_innermost(func)


def _has_exact_buffers(func: object) -> bool:
    return isinstance(func, tvm.tirx.PrimFunc) and func.attrs is not None and EXACT_BUFFERS in func.attrs


def _compaction() -> tvm.transform.Pass:
    """The first passes of TVM's pipeline, up to the one that shrinks buffers to what is used of them."""
    passes = tvm.s_tir.transform
    return tvm.transform.Sequential(
        [
            passes.CanonicalizeLoop(),
            passes.LowerCrossThreadReduction(),
            passes.LowerInitBlock(),
            passes.PlanAndUpdateBufferAllocationLocation(),
            passes.ConvertBlocksToOpaque(),
            passes.LiftThreadBinding(),
            passes.ManifestSharedMemoryLocalStage(),
            passes.CompactBufferAllocation(),
        ]
    )


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    lower, finalize_host, finalize_device = get_tir_pipeline("s_tir")

    @tvm.transform.module_pass(opt_level=0, name="tvm_spm.lower")
    def lower_for_spm(mod: tvm.IRModule, context: tvm.transform.PassContext) -> tvm.IRModule:
        bound = _bind_to_host(mod)
        exact = {name: func for name, func in bound.functions.items() if _has_exact_buffers(func)}
        if not exact:
            return lower(bound)
        # What TVM knows of an index would cut these buffers to ranges in terms of variables that are not there yet.
        others = {name: func for name, func in bound.functions.items() if name not in exact}
        compacted = _compaction()(tvm.IRModule(others, attrs=bound.attrs))
        disabled = [*context.disabled_pass, _COMPACTION]
        config = dict(context.config.items())
        with tvm.transform.PassContext(opt_level=context.opt_level, disabled_pass=disabled, config=config):
            return lower(tvm.IRModule({**compacted.functions, **exact}, attrs=bound.attrs))

    return lower_for_spm, finalize_host, finalize_device


register_tir_pipeline(PIPELINE, _pipeline)
for _name in archs():
    register_arch(_name)
