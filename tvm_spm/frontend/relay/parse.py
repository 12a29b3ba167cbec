"""From a Relay program to its tree, with a LALR grammar: time and stack do not grow with how deep it nests."""

from __future__ import annotations

import math
import re
from functools import cache
from importlib import resources
from typing import NoReturn, TypeAlias, TypeVar

from lark import Lark, Token, Transformer, UnexpectedToken, v_args

from tvm_spm.errors import ModelError
from tvm_spm.frontend.relay import tree
from tvm_spm.frontend.relay.source import Source
from tvm_spm.frontend.relay.tokens import RelayLexer

_BINARY = {
    "EQ": "equal", "NE": "not_equal", "LT": "less", "LE": "less_equal", "GT": "greater", "GE": "greater_equal",
    "PLUS": "add", "MINUS": "subtract", "STAR": "multiply", "SLASH": "divide",
}  # fmt: skip
_SHOWN = {
    "ASSIGN": "'='", "LPAR": "'('", "RPAR": "')'", "LBRACE": "'{'", "RBRACE": "'}'", "LSQB": "'['", "RSQB": "']'",
    "COMMA": "','", "SEMICOLON": "';'", "COLON": "':'", "ARROW": "'->'", "LOCAL": "%name", "GLOBAL": "@name",
    "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "DEF": "'def'", "META": "meta[...][...]",
}  # fmt: skip
_NUMBER = re.compile(r"(?P<digits>inf|nan|[0-9.]+(?:[eE][+-]?\d+)?)(?P<kind>[fiu]?)(?P<bits>\d*)$")
_LIMITS = {f"int{bits}": (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for bits in (8, 16, 32, 64)}
_LIMITS |= {f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)}
_DTYPES = {*_LIMITS, "float16", "float32", "float64"}
_MAX_DIGITS = 400
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}

_Children: TypeAlias = "list[object]"
_T = TypeVar("_T")


def parse(source: Source) -> tree.ParsedText:
    """Read a program.

    Raises:
        ModelError: It does not follow the grammar, or two functions have one name; says where.
    """
    try:
        parsed: object = _parser().parse(source)
    except UnexpectedToken as error:
        _refuse(source, error)
    except _NumberError as error:
        source.refuse(error.at, str(error))
    if isinstance(parsed, tree.ParsedText):
        return parsed
    assert isinstance(parsed, list)
    functions: dict[str, tree.Function] = {}
    for name, function in parsed:
        if name in functions:
            source.refuse(function.at, f"function @{name} is defined twice")
        functions[name] = function
    return tree.ParsedText(functions)


def _refuse(source: Source, error: UnexpectedToken) -> NoReturn:
    expected = sorted(_SHOWN[name] for name in error.expected if name in _SHOWN)
    wanted = f"; expected {', '.join(expected)}" if expected else ""
    if error.token.type == "$END":
        end = len(source.program.rstrip())
        empty = "there is no function in it" if end == 0 else "the text ends in the middle: was it cut off?"
        raise ModelError(f"{source.place(end)}: {empty}{wanted}") from None
    at = error.token.start_pos or 0
    raise ModelError(f"{source.place(at)}: unexpected {str(error.token)!r}{wanted}") from None


@cache
def _parser() -> Lark:
    grammar = resources.files("tvm_spm.frontend.relay").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer=RelayLexer, transformer=_Builder())


def _all(children: _Children, kind: type[_T]) -> tuple[_T, ...]:
    return tuple(child for child in children if isinstance(child, kind))


def _tokens(children: _Children, kind: str) -> list[Token]:
    return [child for child in children if isinstance(child, Token) and child.type == kind]


def _at(children: _Children) -> int:
    """Offset of the first token or tree among the children."""
    for child in children:
        if isinstance(child, Token):
            return child.start_pos or 0
        at = getattr(child, "at", None)
        if isinstance(at, int):
            return at
    return 0


def _exprs(children: _Children) -> tuple[tree.Expr, ...]:
    return tuple(child for child in children if isinstance(child, _EXPRS))


_EXPRS = (
    tree.Literal, tree.Local, tree.Global, tree.Operator, tree.Meta, tree.TupleOf, tree.TupleItem, tree.Call,
    tree.Function, tree.If, tree.Sequence,
)  # fmt: skip


class _Named:
    """One ``key=value``."""

    __slots__ = ("at", "key", "value")

    def __init__(self, at: int, key: str, value: tree.AttrValue) -> None:
        self.at, self.key, self.value = at, key, value


class _Type:
    """A type, so that an unknown one (``None``) is still seen among the children."""

    __slots__ = ("type",)

    def __init__(self, type_: tree.Type) -> None:
        self.type = type_


class _Value:
    """An attribute's value, told from an expression."""

    __slots__ = ("value",)

    def __init__(self, value: tree.AttrValue) -> None:
        self.value = value


class _NumberError(Exception):
    """A number that none of Relay's types holds; becomes an error with a place."""

    def __init__(self, at: int, message: str) -> None:
        super().__init__(message)
        self.at = at


def _number(token: Token) -> tuple[int | float, str]:
    """Value and dtype: ``5`` is int32 unless it does not fit, ``5i64``, ``0.5f`` is float32, ``1e-05f16``."""
    text, at = str(token), token.start_pos or 0
    found = _NUMBER.match(text)
    if found is None or len(text) > _MAX_DIGITS:
        raise _NumberError(at, f"{text[:_MAX_DIGITS]!r} is no number")
    digits, kind, bits = found.group("digits", "kind", "bits")
    try:
        if kind == "f" or (not kind and not digits.isdigit()):
            value: int | float = float(digits)
            dtype = f"float{bits or 32}"
        else:
            value = int(digits)
            dtype = f"{'u' if kind == 'u' else ''}int{bits}" if kind else "int32" if value < 1 << 31 else "int64"
    except ValueError:
        raise _NumberError(at, f"{text!r} is no number") from None
    if dtype not in _DTYPES:
        raise _NumberError(at, f"{text!r}: dtype {dtype} is not supported")
    return value, dtype


def _literal(at: int, value: int | float, dtype: str) -> tree.Literal:
    if isinstance(value, int) and not isinstance(value, bool) and dtype in _LIMITS:
        low, high = _LIMITS[dtype]
        if not low <= value <= high:
            raise _NumberError(at, f"{value} does not fit {dtype} ({low} to {high})")
    return tree.Literal(at, value, dtype)


def _bool(children: _Children) -> bool:
    return isinstance(children[0], Token) and children[0].type == "TRUE"


def _type_of(children: _Children) -> tree.Type:
    types = _all(children, _Type)
    return types[0].type if types else None


@v_args(inline=False)
class _Builder(Transformer):  # type: ignore[type-arg]
    """Makes trees while the parser runs; every method is a rule, or an alternative, of the grammar."""

    def module(self, children: _Children) -> list[tuple[str, tree.Function]]:
        return [child for child in children if isinstance(child, tuple)]

    def expression(self, children: _Children) -> tree.ParsedText:
        return tree.ParsedText({"main": _as_function(_exprs(children)[0])})

    def definition(self, children: _Children) -> tuple[str, tree.Function]:
        name = _tokens(children, "GLOBAL")[0]
        function = _all(children, tree.Function)[0]
        return str(name)[1:], tree.Function(name.start_pos or 0, function.params, function.attrs, function.body)

    def function(self, children: _Children) -> tree.Function:
        attrs = {named.key: named.value for named in _all(children, _Named)}
        return tree.Function(_at(children), _all(children, tree.Param), attrs, _exprs(children)[-1])

    def param(self, children: _Children) -> tree.Param:
        name = _tokens(children, "LOCAL")[0]
        return tree.Param(name.start_pos or 0, str(name), _type_of(children))

    def attribute(self, children: _Children) -> _Named:
        name = _tokens(children, "NAME")[0]
        return _Named(name.start_pos or 0, str(name), _value(children[-1]))

    def device(self, children: _Children) -> None:
        return None

    def body(self, children: _Children) -> tree.Expr:
        return _exprs(children)[0]

    block = parenthesis = body

    def sequence(self, children: _Children) -> tree.Expr:
        steps, result = _all(children, tree.Line), _exprs(children)[-1]
        return tree.Sequence(_at(children), steps, result) if steps else result

    def bind(self, children: _Children) -> tree.Line:
        name = _tokens(children, "LOCAL")[0]
        exprs = _exprs(children)
        return tree.Line(name.start_pos or 0, str(name), exprs[-1] if exprs else None, _type_of(children))

    let = free_variable = bind

    def statement(self, children: _Children) -> tree.Line:
        return tree.Line(_at(children), None, _exprs(children)[0], None)

    def binary(self, children: _Children) -> tree.Call:
        left, right = _exprs(children)
        operator = next(child for child in children if isinstance(child, Token))
        at = operator.start_pos or 0
        return tree.Call(at, tree.Operator(at, _BINARY[operator.type]), (left, right), {})

    def negative(self, children: _Children) -> tree.Expr:
        at, operand = _at(children), _exprs(children)[0]
        if isinstance(operand, tree.Literal):
            return _literal(at, -operand.value, operand.dtype)
        return tree.Call(at, tree.Operator(at, "negative"), (operand,), {})

    def call(self, children: _Children) -> tree.Call:
        callee, *args = _exprs(children)
        return tree.Call(callee.at, callee, tuple(args), {named.key: named.value for named in _all(children, _Named)})

    def projection(self, children: _Children) -> tree.TupleItem:
        field = _tokens(children, "FIELD")[0]
        return tree.TupleItem(_at(children), _exprs(children)[0], int(str(field)[1:]))

    def number(self, children: _Children) -> tree.Literal:
        token = children[0]
        assert isinstance(token, Token)
        return _literal(token.start_pos or 0, *_number(token))

    def truth(self, children: _Children) -> tree.Literal:
        return tree.Literal(_at(children), _bool(children), "bool")

    def local(self, children: _Children) -> tree.Local:
        return tree.Local(_at(children), str(children[0]))

    def global_(self, children: _Children) -> tree.Global:
        return tree.Global(_at(children), str(children[0])[1:])

    def operator(self, children: _Children) -> tree.Operator:
        return tree.Operator(_at(children), str(children[0]))

    def meta(self, children: _Children) -> tree.Meta:
        key, _, index = str(children[0]).partition(":")
        return tree.Meta(_at(children), key, int(index))

    def empty(self, children: _Children) -> tree.TupleOf:
        return tree.TupleOf(_at(children), ())

    def tuple(self, children: _Children) -> tree.TupleOf:
        return tree.TupleOf(_at(children), _exprs(children))

    def closure(self, children: _Children) -> tree.Function:
        return _all(children, tree.Function)[0]

    def if_(self, children: _Children) -> tree.If:
        condition, then, otherwise = _exprs(children)
        return tree.If(_at(children), condition, then, otherwise)

    def number_value(self, children: _Children) -> _Value:
        token = children[0]
        assert isinstance(token, Token)
        return _Value(_number(token)[0])

    def negative_value(self, children: _Children) -> _Value:
        value = _value(children[-1])
        return _Value(-value if isinstance(value, (int, float)) else math.nan)

    def truth_value(self, children: _Children) -> _Value:
        return _Value(_bool(children))

    def string_value(self, children: _Children) -> _Value:
        return _Value(_unescape(str(children[0])[1:-1]))

    def word_value(self, children: _Children) -> _Value:
        word = str(children[0])
        return _Value(None if word in ("None", "nullptr") else word)

    def list_value(self, children: _Children) -> _Value:
        return _Value(_values(children))

    def dict_value(self, children: _Children) -> _Value:
        keys = [str(token) for token in _tokens(children, "NAME")]
        return _Value(dict(zip(keys, _values(children), strict=True)))

    def scalar_type(self, children: _Children) -> _Type:
        name = str(children[0])
        return _Type(None if name == "_" else tree.TensorType((), name))

    def tensor_type(self, children: _Children) -> _Type:
        kind, dtype = _tokens(children, "NAME")
        if kind != "Tensor":
            return _Type(None)
        return _Type(tree.TensorType(tuple(dim.extent for dim in _all(children, _Dim)), str(dtype)))

    def tuple_type(self, children: _Children) -> _Type:
        return _Type(tree.TupleType(tuple(child.type for child in _all(children, _Type))))

    def other_type(self, children: _Children) -> _Type:
        return _Type(None)

    def dim(self, children: _Children) -> _Dim:
        token = children[0]
        assert isinstance(token, Token)
        if token.type != "NUMBER":
            return _Dim(None)
        extent = _number(token)[0]
        if not isinstance(extent, int) or extent >= 1 << 63:
            raise _NumberError(token.start_pos or 0, f"{str(token)!r} is no extent of a dim")
        return _Dim(extent)


class _Dim:
    """One dim of a type."""

    __slots__ = ("extent",)

    def __init__(self, extent: int | None) -> None:
        self.extent = extent


def _value(child: object) -> tree.AttrValue:
    if isinstance(child, tree.Meta):
        return child
    assert isinstance(child, _Value)
    return child.value


def _values(children: _Children) -> tuple[tree.AttrValue, ...]:
    return tuple(_value(child) for child in children if isinstance(child, (_Value, tree.Meta)))


def _unescape(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found.group(1)
        return chr(int(code[1:], 16)) if code[0] == "x" and len(code) == 3 else _ESCAPES.get(code, code)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|.)", plain, text) if "\\" in text else text


def _as_function(expr: tree.Expr) -> tree.Function:
    """An expression as a function: ``fn`` itself, or one whose parameters are the ``free_var``s."""
    if isinstance(expr, tree.Function):
        return expr
    steps = expr.steps if isinstance(expr, tree.Sequence) else ()
    params = tuple(tree.Param(s.at, s.name, s.type) for s in steps if s.value is None and s.name is not None)
    return tree.Function(expr.at, params, {}, expr)
