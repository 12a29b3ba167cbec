"""What a name from a file may do to a terminal: nothing."""

from __future__ import annotations

import io
import logging
import sys
from importlib.resources import files

import pytest
from rich.table import Table

from tvm_spm import cli
from tvm_spm.progress import ProgressBar
from tvm_spm.terminal import EscapedFormatter, console, one_line, printable


@pytest.mark.parametrize(
    ("char", "escape"),
    [
        ("\x1b", "\\x1b"),  # starts an ANSI escape
        ("\x07", "\\x07"),
        ("\r", "\\r"),  # would overwrite the line
        ("\x7f", "\\x7f"),
        ("\x9b", "\\x9b"),  # the same as ESC [ in one character
        ("\u202e", "\\u202e"),  # shows what follows from right to left
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),  # half a pair, which no encoding can write
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_every_kind_of_control_character_is_escaped(char: str, escape: str):
    assert printable(f"a{char}b") == f"a{escape}b"


@pytest.mark.parametrize("text", ["conv1/relu", "[/lab]", ":smile:", "größe ² 日本", "a\nb", ""])
def test_what_a_terminal_only_shows_stays(text: str):
    assert printable(text) == text


def test_a_name_stays_on_its_line():
    assert one_line("conv\nverified: yes") == "conv\\nverified: yes"


HOSTILE = "[/lab] :smile: [red]x \x1b[31m$y$"
SHOWN = "[/lab] :smile: [red]x \\x1b[31m$y$"


def test_brackets_and_colons_are_no_markup(capsys: pytest.CaptureFixture[str]):
    table = Table("name", title=one_line(HOSTILE))
    table.add_row(one_line(HOSTILE))
    console().print(table)
    console().print(one_line(HOSTILE))
    assert capsys.readouterr().out.count(SHOWN) == 3


def test_a_progress_bar_shows_names_as_they_are(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with ProgressBar(10, enabled=True) as bar:
        bar.phase(HOSTILE, total=3, unit="trials")
        bar.trials(1, 2.0, 0.5)
        bar.step(HOSTILE)
    assert "\x1b[31m$y" not in stream.getvalue()


def test_warnings_are_escaped():
    record = logging.LogRecord("tvm_spm", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    assert EscapedFormatter().format(record) == SHOWN


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["tvm-spm", *words])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_descriptions_and_sources_of_a_file(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    text = (files("tvm_spm") / "archs" / "edge-256.toml").read_text(encoding="utf-8")
    start = text.index("description = ")
    quoted = HOSTILE.replace("\x1b", "\\u001b")
    text = text[:start] + f'description = "{quoted}"' + text[text.index("\n", start) :]
    text = text.replace('"assumed', f'"{quoted} assumed')
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    assert run(monkeypatch, "archs", str(path)) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert SHOWN in out.splitlines()[0]


def test_errors_are_escaped(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "archs", f"{tmp_path}/{HOSTILE}.toml") == 2
    assert run(monkeypatch, "archs", HOSTILE) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("[/lab] :smile: [red]x") == 2
