"""Expressions of numbers, computed as a machine of one format computes them, for `fpemu show`.

``0.1 + 0.2``, ``a*b``, ``fma(a, b, c)`` and ``sqrt(a)``: Python parses the text, and a table says
what each node may be.  Nothing is evaluated by Python.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, NoReturn, TypeAlias

from fpemu import explain
from fpemu._environment import in_default_environment
from fpemu.formats import Format
from fpemu.reference import decode_exact, round_exact

__all__ = ["Computed", "Rounded", "compute"]

Number: TypeAlias = "float | Fraction"

_LONGEST: Final = 300
_ROOT_BITS: Final = 2200  # of a square root: more than the ties of any format have
_CODE: Final = re.compile(r"0[xX][0-9a-fA-F]+")
_NUMBER: Final = re.compile(
    r"(?<![\w.])(?:0[xX][0-9a-fA-F.]*(?:[pP][+-]?\d+)?|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)"
)
_SPECIAL: Final = ("inf", "infinity", "nan")


@dataclass(frozen=True)
class Rounded:
    """A number or a part of an expression, and what it is rounded to before it is used."""

    text: str
    result: float


@dataclass(frozen=True)
class Computed:
    """The exact result of the last operation of an expression.

    Parameters
    ----------
    value : float or Fraction
        A square root is cut off far behind all bits that count.
    rounded : tuple of Rounded
        The numbers and results that are rounded on the way to it, in order.
    cancelled : bool
        Whether it is a sum of nonzero numbers, or of zeros of both signs, that is zero: which zero
        depends on the mode.
    code : int, optional
        The code that was given in place of an expression.
    """

    value: Number
    rounded: tuple[Rounded, ...] = ()
    cancelled: bool = False
    code: int | None = None


@in_default_environment
def compute(text: str, format: Format, *, exact: bool = False) -> Computed:
    """The exact result of the last operation of an expression.

    Parameters
    ----------
    text : str
        Numbers, ``+ - * /``, parentheses, ``sqrt(a)`` and ``fma(a, b, c)``.  Numbers are decimal
        or hexadecimal ones such as ``0x1.8p-3``, taken exactly, ``inf``, ``nan``, and codes of the
        format such as ``0x2a``.
    format : Format
        Numbers and the results of all operations but the last are rounded into it, to nearest.
    exact : bool
        Whether they are not.

    Returns
    -------
    Computed

    Raises
    ------
    ValueError
        If the text is no such expression; the message says where.
    """
    if len(text) > _LONGEST:
        raise ValueError(f"an expression of {len(text)} characters: at most {_LONGEST} are read")
    reader = _Reader(text, format, exact)
    tree = reader.tree()
    if isinstance(tree, ast.Name):  # a number alone is not rounded before it is explained
        value = reader.literal(tree)
        token = reader.numbers.get(tree.col_offset, "")
        code = int(token, 16) if _CODE.fullmatch(token) else None
        return Computed(value, code=code)
    if _is_signed_number(tree):
        return Computed(replace(reader, exact=True).operand(tree))
    value, cancelled = reader.operation(tree)
    return Computed(value, tuple(reader.rounded), cancelled)


def _is_signed_number(tree: ast.expr) -> bool:
    while isinstance(tree, ast.UnaryOp):
        tree = tree.operand
    return isinstance(tree, ast.Name)


@dataclass
class _Reader:
    """Reads one expression."""

    text: str
    format: Format
    exact: bool
    rounded: list[Rounded] = field(default_factory=list)
    numbers: dict[int, str] = field(default_factory=dict)

    def tree(self) -> ast.expr:
        """The syntax, with a name of underscores in place of every number."""
        for place, character in enumerate(self.text):
            if not (" " <= character <= "~"):
                self._fail(place, f"{character!r} is not part of an expression")
        if not self.text.strip():
            self._fail(0, "there is no expression")
        self.numbers = {match.start(): match[0] for match in _NUMBER.finditer(self.text)}
        hidden = _NUMBER.sub(lambda match: "_" * len(match[0]), self.text)
        indent = len(hidden) - len(hidden.lstrip())
        try:
            # In parentheses, so that a space at the beginning is none of Python's indentation.
            parsed = ast.parse(f"({hidden})", mode="eval").body
        except SyntaxError as error:
            place = min(max((error.offset or 2) - 2, indent), max(len(self.text) - 1, 0))
            self._fail(place, "this is no expression of numbers")
        except (RecursionError, MemoryError):
            self._fail(0, "this is nested too deeply")
        for node in ast.walk(parsed):
            if isinstance(node, ast.expr):
                node.col_offset -= 1
                node.end_col_offset = (node.end_col_offset or 1) - 1
        return parsed

    def operand(self, node: ast.expr) -> Number:
        """A part of an expression as the next operation takes it: rounded."""
        if isinstance(node, ast.Name):
            return self._into_format(node, self.literal(node))
        if isinstance(node, ast.UnaryOp):
            return self.signed(node, self.operand(node.operand))
        return self._into_format(node, self.operation(node)[0])

    def operation(self, node: ast.expr) -> tuple[Number, bool]:
        """The exact result of an operation on operands, and whether it cancels."""
        if isinstance(node, ast.UnaryOp):
            value, cancelled = self.operation(node.operand)
            return self.signed(node, value), cancelled
        if isinstance(node, ast.BinOp):
            function = _OPERATORS.get(type(node.op))
            if function is None:
                self._fail(node.col_offset, "only + - * / join numbers")
            left, right = self.operand(node.left), self.operand(node.right)
            return function(left, right, self.format)
        if isinstance(node, ast.Call):
            return self._call(node)
        self._fail(node.col_offset, "this is neither a number nor an operation")

    def _call(self, node: ast.Call) -> tuple[Number, bool]:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in _FUNCTIONS or node.keywords:
            self._fail(node.col_offset, f"the functions are {', '.join(_FUNCTIONS)}")
        count, function = _FUNCTIONS[name]
        if len(node.args) != count:
            self._fail(node.col_offset, f"{name} takes {count} numbers, not {len(node.args)}")
        return function(*map(self.operand, node.args), self.format)

    def signed(self, node: ast.UnaryOp, value: Number) -> Number:
        """A number with the signs before it."""
        if isinstance(node.op, ast.USub):
            return -value
        if isinstance(node.op, ast.UAdd):
            return value
        self._fail(node.col_offset, "only + and - stand before a number")

    def literal(self, node: ast.Name) -> Number:
        """What a number stands for, or a name."""
        token = self.numbers.get(node.col_offset)
        if token is None:
            if node.id.lower() not in _SPECIAL:
                message = f"{node.id!r} is not a number such as 0.3, 0x2a or inf"
                self._fail(node.col_offset, message)
            return float(node.id)
        if _CODE.fullmatch(token):
            code = int(token, 16)
            if code >= 2**self.format.bits:
                size = f"{self.format} has codes of {self.format.bits} bits"
                self._fail(node.col_offset, f"{token} is no code, as {size}; a number is {token}p0")
            return decode_exact(code, self.format)
        try:
            return explain.number(token)
        except ValueError as error:
            self._fail(node.col_offset, str(error))

    def _into_format(self, node: ast.expr, value: Number) -> Number:
        if self.exact:
            return value
        result = round_exact(value, self.format)
        if not (result == value or (math.isnan(result) and isinstance(value, float))):
            text = self.text[node.col_offset : node.end_col_offset].strip()
            if text != repr(result):  # a decimal that stands for a member is as good as it
                self.rounded.append(Rounded(text, result))
        return result

    def _fail(self, place: int, reason: str) -> NoReturn:
        # A list of numbers begins at the parenthesis that was put before the text.
        raise ValueError(f"{reason}: character {max(place, 0) + 1} of {self.text!r}")


# --- exact operations -----------------------------------------------------------------------------


def _is_special(*values: Number) -> bool:
    return any(isinstance(x, float) and not math.isfinite(x) for x in values)


def _stand_in(x: Number) -> float:
    """A number with the sign and the kind of another: zero, finite or not."""
    if isinstance(x, float) and (x == 0 or not math.isfinite(x)):
        return x
    return 1.0 if x > 0 else -1.0


def _exactly(x: Fraction) -> Number:
    """A result that is no zero, as a float if it is a float64 number."""
    return explain.plain(x, x < 0)


def _add(a: Number, b: Number, format: Format) -> tuple[Number, bool]:
    if _is_special(a, b):
        return _stand_in(a) + _stand_in(b), False
    if a == 0 and b == 0:
        signs = {math.copysign(1.0, float(x)) for x in (a, b)}
        return (float(a) if len(signs) == 1 else 0.0), len(signs) == 2
    total = Fraction(a) + Fraction(b)
    return (_exactly(total), False) if total else (0.0, True)


def _subtract(a: Number, b: Number, format: Format) -> tuple[Number, bool]:
    return _add(a, -b, format)


def _multiply(a: Number, b: Number, format: Format) -> tuple[Number, bool]:
    if _is_special(a, b) or a == 0 or b == 0:
        return _stand_in(a) * _stand_in(b), False
    return _exactly(Fraction(a) * Fraction(b)), False


def _divide(a: Number, b: Number, format: Format) -> tuple[Number, bool]:
    if b == 0:
        if a == 0 or _is_nan(a) or format.p3109:
            return math.nan, False
        return math.copysign(math.inf, _stand_in(a) * math.copysign(1.0, float(b))), False
    if _is_special(a, b) or a == 0:
        return _stand_in(a) / _stand_in(b), False
    return _exactly(Fraction(a) / Fraction(b)), False


def _is_nan(x: Number) -> bool:
    return isinstance(x, float) and math.isnan(x)


def _sqrt(a: Number, format: Format) -> tuple[Number, bool]:
    if _is_special(a) or a <= 0:
        return (a if a == 0 or a == math.inf else math.nan), False
    exact = Fraction(a)
    scaled = (exact.numerator << (2 * _ROOT_BITS)) // exact.denominator
    root = math.isqrt(scaled)
    is_exact = Fraction(root, 2**_ROOT_BITS) ** 2 == exact
    # Half a unit of what is cut off stands for it: no tie of any format.
    return _exactly(Fraction(2 * root + int(not is_exact), 2 ** (_ROOT_BITS + 1))), False


def _fma(a: Number, b: Number, c: Number, format: Format) -> tuple[Number, bool]:
    return _add(_multiply(a, b, format)[0], c, format)


_OPERATORS: Final[dict[type, Callable[..., tuple[Number, bool]]]] = {
    ast.Add: _add,
    ast.Sub: _subtract,
    ast.Mult: _multiply,
    ast.Div: _divide,
}
_FUNCTIONS: Final[dict[str, tuple[int, Callable[..., tuple[Number, bool]]]]] = {
    "sqrt": (1, _sqrt),
    "fma": (3, _fma),
}
