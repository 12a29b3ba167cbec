"""Cuts a Relay program into tokens.

Comments nest, and names contain characters that are operators elsewhere (``%onnx::Conv_29``, ``%input.1``): only
the declarations of a function tell ``%input.1`` from field 1 of ``%input``. Regular expressions of a grammar can do
neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lark import Token
from lark.common import LexerConf
from lark.lexer import Lexer

from tvm_spm.frontend.relay.source import Source

_KEYWORDS = {"let": "LET", "fn": "FN", "def": "DEF", "if": "IF", "else": "ELSE", "free_var": "FREE_VAR",
             "True": "TRUE", "False": "FALSE"}  # fmt: skip
_UNSUPPORTED = {
    "type": "algebraic data types", "extern": "algebraic data types", "match": "algebraic data types",
    "ref": "references", "ref_read": "references", "ref_write": "references",
}  # fmt: skip
_PUNCTUATION = {
    "->": "ARROW", "==": "EQ", "!=": "NE", "<=": "LE", ">=": "GE", "<": "LT", ">": "GT", "=": "ASSIGN", "+": "PLUS",
    "-": "MINUS", "*": "STAR", "/": "SLASH", "(": "LPAR", ")": "RPAR", "{": "LBRACE", "}": "RBRACE", "[": "LSQB",
    "]": "RSQB", ",": "COMMA", ";": "SEMICOLON", ":": "COLON", "?": "ANY_DIM",
}  # fmt: skip
_NAME = r"[A-Za-z0-9_./:\-]+"
_TOKEN = re.compile(
    rf"""(?P<SPACE>\s+|//[^\n]*)
    |(?P<OPEN>/\*)
    |(?P<LOCAL>%{_NAME})
    |(?P<GLOBAL>@[A-Za-z0-9_.]+)
    |meta\[(?P<META>[A-Za-z0-9_.]+)\]\[(?P<INDEX>\d+)\]
    |(?P<NUMBER>(?:\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|inf|nan)(?:f\d*|i\d+|u\d+)(?![A-Za-z0-9_]))
    |(?P<PLAIN>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?![A-Za-z0-9_]))
    |(?P<FIELD>\.\d+)
    |(?P<WORD>[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*)
    |(?P<STRING>"(?:[^"\\\n]|\\.)*")
    |(?P<PUNCTUATION>->|[=!<>]=|[-+*/<>=(){{}}\[\],;:?])
    """,
    re.VERBOSE | re.ASCII,
)
_NUMBERS = ("INDEX", "NUMBER", "PLAIN", "FIELD")
_MAX_NUMBER_CHARS = 64
# A comment is group 1; strings and names, which may hold //, are stepped over.
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|%(?:[A-Za-z0-9_.:\-]|/(?!\*))+|(//[^\n]*|/\*)')
_COMMENT_EDGE = re.compile(r"/\*|\*/")
_VERSION = re.compile(r"\s*\#\[version\s*=\s*\"([^\"\n]*)\"\s*\]")
_TYPE_AHEAD = r"(?:Tensor\b|\(|fn\b|ref\b|_\b|u?int\d|float\d|bfloat\d|bool\b|meta\[|[A-Z]\w*\[)"
_PARAM = re.compile(rf"%({_NAME}?)\s*(?:\{{[^{{}}]*\}})?\s*:\s*(?={_TYPE_AHEAD})")
_BOUND = re.compile(rf"%({_NAME}?)\s*=(?!=)")
_DEFINITION = re.compile(r"\bdef\s+@")
VERSION = "0.0.5"


def strip_comments(source: Source) -> str:
    """The program with every comment blanked, so that offsets stay; strings are left alone.

    Raises:
        ModelError: A comment never ends, which is what a text that was cut off looks like.
    """
    text = source.program
    pieces, done = [], 0
    for found in _COMMENT.finditer(text):
        start = found.start()
        if start < done or found.group(1) is None:
            continue
        end = _end_of_comment(source, start) if found.group() == "/*" else found.end()
        pieces += [text[done:start], re.sub(r"[^\n]", " ", text[start:end])]
        done = end
    return "".join([*pieces, text[done:]])


def _end_of_comment(source: Source, start: int) -> int:
    depth, at = 0, start
    while True:
        edge = _COMMENT_EDGE.search(source.program, at)
        if edge is None:
            source.refuse(start, "the comment that begins here never ends: was the text cut off?")
        depth, at = depth + (1 if edge.group() == "/*" else -1), edge.end()
        if depth == 0:
            return at


class RelayLexer(Lexer):
    """Yields the tokens that ``grammar.lark`` declares; ``start_pos`` of each is its offset."""

    def __init__(self, lexer_conf: LexerConf) -> None:
        pass

    def lex(self, data: object) -> Iterator[Token]:  # type: ignore[override]
        """Tokens of a ``Source``; lark calls it with what is parsed."""
        assert isinstance(data, Source)
        return tokens(data)


def tokens(source: Source) -> Iterator[Token]:
    """Tokens of a program.

    Raises:
        ModelError: A character that begins no token, another version of the format, or something Relay has and a
            network does not need.
    """
    text = strip_comments(source)
    at = _after_version(source, text)
    edges = [found.start() for found in _DEFINITION.finditer(text, at)] + [len(text)]
    declared = _declared(text[at : edges[0]])
    num_scopes = 0
    while at < len(text):
        if at == edges[num_scopes]:
            declared = _declared(text[at : edges[num_scopes + 1]])
            num_scopes += 1
        found = _TOKEN.match(text, at)
        if found is None:
            source.refuse(at, _strange(text, at))
        kind, value = str(found.lastgroup), found.group()
        if kind in _NUMBERS and len(found.group(kind)) > _MAX_NUMBER_CHARS:
            length = len(found.group(kind))
            source.refuse(at, f"a number of {length:,} characters: must be <= {_MAX_NUMBER_CHARS}")
        if kind == "LOCAL":
            value = "%" + _local(value[1:], declared)
            yield Token("LOCAL", value[1:], at)
            at += len(value)
            continue
        if kind == "WORD":
            if value in _UNSUPPORTED and not re.match(r"\s*=[^=]", text[found.end() : found.end() + 80]):
                source.refuse(at, f"{value!r}: {_UNSUPPORTED[value]} are not supported: no network needs them")
            yield Token(_KEYWORDS.get(value, "NAME"), value, at)
        elif kind == "INDEX":
            yield Token("META", ":".join(found.group("META", "INDEX")), at)
        elif kind == "PLAIN":
            yield Token("NUMBER", value, at)
        elif kind == "PUNCTUATION":
            yield Token(_PUNCTUATION[value], value, at)
        elif kind != "SPACE":
            yield Token(kind, value, at)
        at = found.end()


def _after_version(source: Source, text: str) -> int:
    found = _VERSION.match(text)
    if found is None:
        return 0
    if found.group(1) != VERSION:
        source.refuse(
            found.start(1), f'version "{found.group(1)}" of the text format, only "{VERSION}" is read '
            "(TVM 0.7 to 0.19); print the module again with one of those",
        )  # fmt: skip
    return found.end()


def _declared(text: str) -> set[str]:
    """Names that a function declares; a name ends where ``: type`` or ``=`` follows."""
    return {found.group(1) for pattern in (_PARAM, _BOUND) for found in pattern.finditer(text)}


def _local(name: str, declared: set[str]) -> str:
    """The part of ``name`` that is a name: a declared one, the longest, or everything that can be one."""
    if name in declared:
        return name
    for end in range(len(name) - 1, 0, -1):
        if name[end] in "./:-" and name[:end] in declared:
            return name[:end]
    number = re.match(r"\d+(?=\.\d+(?:\.\d+)*$)", name)
    return number.group() if number else name.rstrip(".:-/") or name


def _strange(text: str, at: int) -> str:
    if text[at] == '"':
        return "the string that begins here never ends: was the text cut off?"
    if text.startswith("#[version", at):
        return "the version line must be the first line, and whole: was the text cut off?"
    return f"{text[at]!r} begins nothing that Relay text has"
