"""What may reach a terminal: names come from files of strangers and may hold anything."""

from __future__ import annotations

import logging
import unicodedata

from rich.console import Console

_UNSAFE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
"""Control characters (ANSI escapes start with one), invisible marks that reorder text, halves of pairs, characters
without a meaning, and line ends other than a newline."""


def printable(text: str) -> str:
    """The text with every character but newlines that a terminal might obey written as its escape, such as ``\\x1b``.

    What is escaped stays on its line: only a newline of our own makes a new one, so names are escaped by ``one_line``.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(char if char == "\n" or _is_safe(char) else _escaped(char) for char in text)


def one_line(text: str) -> str:
    """``printable``, with newlines escaped too: for names, which could otherwise forge lines of their own."""
    return printable(text).replace("\n", "\\n")


class EscapedFormatter(logging.Formatter):
    """For a handler that writes to a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The message, ``printable``."""
        return printable(super().format(record))


def console(*, stderr: bool = False) -> Console:
    """Standard output or error, without markup: brackets and colons of a name are text.

    Where it is no terminal it is wide enough for the tables.
    """
    plain = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    return plain if plain.is_terminal else Console(width=160, stderr=stderr, markup=False, emoji=False, highlight=False)


def _is_safe(char: str) -> bool:
    return unicodedata.category(char) not in _UNSAFE_CATEGORIES


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")
