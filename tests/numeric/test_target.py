"""Accelerators are TVM targets, and what is compiled for them computes the numbers of the host."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, te, topi
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import tvm_spm.arch
from schedules.layer import schedule
from tests.numeric.plain import nest, prim_func
from tvm_spm.arch import archs, load_arch
from tvm_spm.deploy import runtime
from tvm_spm.errors import ArchError, ModelError
from tvm_spm.lowering.processor import compiled_for
from tvm_spm.lowering.target import PIPELINE, arch_of, register_arch, target_of
from tvm_spm.mapping import Mapping
from tvm_spm.workload import Dims, Workload


@I.ir_module(s_tir=True)
class Product:
    @T.prim_func(private=True, s_tir=True)
    def product(a: T.Buffer((13, 8), "float32"), b: T.Buffer((8, 9), "float32"), c: T.Buffer((13, 9), "float32")):
        for i, j, k in T.grid(13, 9, 8):
            with T.sblock("mac"):
                vi, vj, vk = T.axis.remap("SSR", [i, j, k])
                with T.init():
                    c[vi, vj] = T.float32(0)
                c[vi, vj] = c[vi, vj] + a[vi, vk] * b[vk, vj]

    @R.function
    def main(x: R.Tensor((13, 8), "float32"), y: R.Tensor((8, 9), "float32")):
        cls = Product
        with R.dataflow():
            z = R.call_tir(cls.product, (x, y), out_ty=R.Tensor((13, 9), "float32"))
            w = R.add(z, z)
            R.output(z, w)
        return z, w


def inputs():
    rng = np.random.default_rng(1)
    return [rng.random(shape, dtype=np.float32) for shape in ((13, 8), (8, 9))]


def staged():
    """Cores in parallel, tiles in SPM and RF, annotations on loops and blocks; 13 rows by 5 leave an edge tile."""
    sch = s_tir.Schedule(Product)
    sch.work_on("product")
    mac = sch.get_sblock("mac")
    i, j, k = sch.get_loops(mac)
    outer, inner = sch.split(i, [None, 5])
    sch.reorder(outer, j, inner, k)
    load = sch.cache_read(mac, 0, "global.spm")
    sch.compute_at(load, outer)
    sch.compute_at(sch.cache_read(mac, 0, "global.rf"), j)
    sch.reverse_compute_at(sch.cache_write(mac, 0, "global.spm"), outer)
    sch.parallel(outer)
    sch.annotate(j, "spm.level", "DRAM")
    sch.annotate(k, "spm.dims", ["K", "C"])
    sch.annotate(load, "spm.note", {"operand": "I"})
    return sch.mod


@pytest.mark.parametrize("scheduled", [False, True])
def test_stock_build_with_the_target_equals_llvm_bit_by_bit(scheduled):
    expected = runtime.run(relax.build(Product, target="llvm"), inputs())
    target = tvm.target.Target("spm/edge-256")
    module = staged() if scheduled else Product
    found = runtime.run(relax.build(module, target=target, tir_pipeline=PIPELINE), inputs())
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left, right)


def test_build_equals_stock_build():
    expected = runtime.run(relax.build(Product, target=target_of("edge-256"), tir_pipeline=PIPELINE), inputs())
    found = runtime.run(runtime.build(Product, "edge-256"), inputs())
    for left, right in zip(expected, found, strict=True):
        np.testing.assert_array_equal(left, right)


def test_run_names_a_missing_function():
    with pytest.raises(ModelError, match="no function 'forward'"):
        runtime.run(runtime.build(Product, "edge-256"), inputs(), entry="forward")


@pytest.mark.parametrize("name", archs())
def test_every_preset_is_a_target(name):
    target = tvm.target.Target(f"spm/{name}")
    assert target.kind.name == "ext_dev"
    assert arch_of(target) == load_arch(name)
    assert arch_of(f"spm/{name}") == arch_of(target_of(target))


def test_a_file_of_the_user_becomes_a_target(tmp_path):
    text = (Path(tvm_spm.arch.__file__).parent / "archs" / "edge-256.toml").read_text(encoding="utf-8")
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('name = "edge-256"', 'name = "mine"').replace("rows = 16", "rows = 8"), "utf-8")
    register_arch(path)
    assert arch_of(tvm.target.Target("spm/mine")).pe.rows == 8
    assert arch_of("spm/mine").pe.rows == 8


def test_a_name_never_stands_for_two_machines():
    arch = load_arch("edge-256")
    other = dataclasses.replace(arch, clock_hz=arch.clock_hz * 2)
    target = register_arch(other)
    assert target.attrs["model"] == f"edge-256-{other.sha256()[:8]}"
    assert arch_of(target) == other
    assert arch_of("spm/edge-256") == arch
    assert register_arch(arch).attrs["model"] == "edge-256"


def test_an_unknown_target_suggests_the_nearest():
    with pytest.raises(ArchError, match=r"'spm/edge-255': did you mean 'edge-256'\?"):
        target_of("spm/edge-255")
    with pytest.raises(ArchError, match="target 'llvm' is not an accelerator of ours: choose one of .*spm/edge-256"):
        arch_of(tvm.target.Target("llvm"))


def test_half_precision_uses_the_processors_conversions():
    target = tvm.target.Target("llvm")
    halves = te.placeholder((4,), "float16", "x")
    singles = te.placeholder((4,), "float32", "x")
    plain, half = (tvm.IRModule({"main": te.create_prim_func([x, topi.add(x, x)])}) for x in (singles, halves))
    assert compiled_for(target, plain).same_as(target)
    is_there = "f16c" in Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert list(compiled_for(target, half).attrs.get("mattr", [])) == (["+f16c"] if is_there else [])


@pytest.mark.parametrize(
    ("rows", "level"),
    # 2^26 steps a function are where optimising begins to pay.
    [(1 << 6, 0), ((1 << 6) + 1, 2)],
)
def test_little_work_is_not_optimised(rows: int, level: int):
    x = te.placeholder((rows, 1 << 20), "float32", "x")
    mod = tvm.IRModule({"main": te.create_prim_func([x, te.compute(x.shape, lambda *i: x(*i) + 1.0, "y")])})
    assert int(compiled_for(target_of("spm/edge-256"), mod).host.attrs["opt-level"]) == level
    # Code that is for no accelerator has no vectors of its own: it is compiled as ever.
    host = tvm.target.Target("llvm")
    assert compiled_for(host, mod).same_as(host)


@pytest.mark.parametrize(("columns", "level"), [(256, 0), (2048, 2)])
def test_work_of_the_array_counts_as_vectors(columns: int, level: int):
    # 2^28 and 2^31 multiply-accumulates, of which 16 at once are 2^24 and 2^27 steps; copies come on top.
    layer = Workload.matmul(m=1 << 10, k=1 << 10, n=columns)
    mapping = Mapping(spm=layer.dims, rows=Dims(K=16), cols=Dims(C=16), rf=Dims(OX=64), spm_order=("OX", "K", "C"))
    mod = tvm.IRModule({"main": schedule(prim_func(layer), nest(layer), mapping).mod["main"]})
    assert int(compiled_for(target_of("spm/edge-256"), mod).host.attrs["opt-level"]) == level
