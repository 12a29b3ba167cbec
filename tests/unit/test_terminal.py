"""What a name from a file may do to a terminal: nothing."""

from __future__ import annotations

import pytest

from tvm_spm.terminal import one_line, printable


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
