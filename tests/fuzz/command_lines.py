"""Command lines with odd values: exit code 0, 1 or 2, no traceback, nothing a terminal obeys, JSON that is JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import unicodedata
from pathlib import Path
from random import Random
from unittest import mock

import onnx

from tests.fuzz.arch_files import PRESETS
from tests.fuzz.mutate import ODD_TEXTS, damaged_text
from tests.fuzz.onnx_models import odd_model
from tests.fuzz.outcome import REFUSED, RIGHT
from tvm_spm import cli

SMALL = ("1", "2", "3", "4", "6", "8", "12")
TARGETS = ("edge-256", "spm/edge-256", "quad-edge", "vta-1x16x16")
CONSTRAINTS = (
    "SPM.K=2",
    "rows=OX",
    "cols!=K",
    "SPM.double=IW",
    "DRAM.order=K>C",
    "strict:K|C",
    "cores.K<=2",
    "RF.C>=9",
)
DTYPES = ("int8", "float32", "int16", "float16")


def warm_up() -> None:
    """Compile before the clock of a case starts."""
    for rest in (["--target", "edge-256"], ["--target", "quad-edge", "--model", "simulator", "--trials", "2"]):
        _called(["search", "matmul", "--m", "4", "--k", "4", "--n", "4", *rest])


def run(random: Random) -> str:
    """One case."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path.cwd()
        os.chdir(folder)
        try:
            words = _words(random)
            for _ in range(random.choice((0, 0, 1))):
                _damage(words, random)
            code, out, err = _called(words)
        finally:
            os.chdir(here)
    assert code in (0, 1, 2), (words, code, out, err)
    assert "Traceback" not in out + err, (words, err)
    # What the shell was given may come back from the parser of arguments as it is.
    assert not any(_is_control(char) for char in {*out, *err} - set("".join(words))), (words, out, err)
    if code:
        assert out.strip() or err.strip(), (words, code, out, err)
        return REFUSED
    if "--json" in words and "--help" not in words:
        json.loads(out, parse_constant=lambda name: 1 / 0)
    return RIGHT


def _called(words: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["x", *words]),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    return code, out.getvalue(), err.getvalue()


def _words(random: Random) -> list[str]:
    """A command line that is right."""
    kind = random.choice(
        ("archs", "matmul", "matmul", "matmul", "conv2d", "conv2d", "show", "replay", "export", "shapes", "help")
    )
    json_too = ["--json"] if random.random() < 0.4 else []
    if kind == "archs":
        return ["archs", *random.choice(([], ["edge-256"])), *json_too]
    if kind == "help":
        return [*random.choice((["tune"], ["search"], ["search", "conv2d"], [])), "--help"]
    if kind in ("show", "replay", "export"):
        folder = Path("work")
        folder.mkdir()
        for name in ("trials.jsonl", "workloads.json", "plan.json"):
            if random.random() < 0.7:
                folder.joinpath(name).write_text(random.choice(ODD_TEXTS), encoding="utf-8", errors="replace")
        rest = ["-o", random.choice(("out", "work", "no/way", "/dev/full"))] if kind == "export" else []
        return [kind, "work", *rest, *random.choice(([], ["--objective", "energy"]))]
    if kind == "shapes":
        onnx.save(odd_model(random, most_nodes=2), "m.onnx")
        shape = random.choice(
            ("=1,2", "x=1,\u00b2", "x=" + "9" * 5000, "x=1000000000,1000000000", "t0=-1", "t0=0", "t9=1")
        )
        return ["tune", "m.onnx", "--target", "edge-256", "--trials", "1", "--shape", shape]
    layer = [kind]
    for name in ("--m", "--k", "--n") if kind == "matmul" else ("--K", "--C", "--OY", "--OX", "--FY", "--FX"):
        layer += [name, random.choice(SMALL[:3] if name in ("--FY", "--FX") else SMALL)]
    options = [
        ["--target", random.choice(TARGETS)],
        random.choice(([], ["--objective", random.choice(("edp", "energy", "latency"))])),
        random.choice(([], ["--dtype", random.choice(DTYPES)])),
        random.choice(([], [], ["--constraint", random.choice(CONSTRAINTS)])),
        random.choice(([], [], ["--dataflow", random.choice(("OS", "WS", "RS", "TPU", "MC", "OS:replicated"))])),
        random.choice(([], [], ["--searcher", random.choice(("random", "evolutionary")), "--trials", "50"])),
        random.choice(([], [], [], ["--model", "simulator", "--trials", "2"])),
        random.choice(([], ["--seed", random.choice(SMALL)])),
        random.choice(([], [], ["--trace", random.choice(("t.json", "no/t.json", "/dev/full"))])),
    ]
    if random.random() < 0.2:
        Path("a.toml").write_text(damaged_text(random.choice(PRESETS).read_text("utf-8"), random), "utf-8", "replace")
        options[0] = ["--target", "a.toml"]
    return ["search", *layer, *(word for option in options for word in option), *json_too]


def _damage(words: list[str], random: Random) -> None:
    at = random.randrange(len(words)) if words else 0
    how = random.randrange(5)
    if how == 0 and words:
        del words[at]
    elif how == 1:
        words.insert(at, random.choice(("--json", "--bogus", "", "--", "-x", "tune")))
    elif words:
        # No argument of a process holds a null byte.
        words[at] = random.choice((*ODD_TEXTS, "1000000000", "100000000000000000000", "1.5", "-3")).replace("\0", "")


def _is_control(char: str) -> bool:
    return char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs")
