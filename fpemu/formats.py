"""Number formats as plain data, and the named formats.

A format is a handful of independent facts (:class:`Format`); no function anywhere asks a format for
its name.  One rule reads the special values off the facts: from the highest code of a sign downward
come the NaNs, then infinity if there is one, then the finite numbers.  IEEE 754 formats, the OCP
formats, the FNUZ formats and those of IEEE P3109 all follow from it.

References
----------
IEEE Std 754-2019, sections 3.3 and 3.4; OCP 8-bit Floating Point Specification (OFP8) 1.0; OCP
Microscaling Formats (MX) Specification 1.0; IEEE P3109 interim report 4.0 (26 June 2026).
"""

from __future__ import annotations

import difflib
import functools
import math
import re
import struct
import sys
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import numpy as np

from fpemu import _html
from fpemu._arguments import integer

# Handed on to the judge, which imports this module alone.
from fpemu._environment import in_default_environment as in_default_environment
from fpemu._listing import Listed

__all__ = ["Format", "FormatLike", "format", "named_formats"]

_FLOAT64_EMAX: Final = 1023
_FLOAT64_QUANTUM_EXPONENT: Final = -1074  # of the smallest subnormal
_FLOAT64_PRECISION: Final = 53
# The least emin: at most one binade of normal numbers may be float64 subnormals (P3109 has such).
_LEAST_EMIN: Final = -1023
_IEEE_NANS: Final = -1
_MOST_TICKS: Final = 256  # of the strip of values in a notebook


@dataclass(frozen=True, repr=False)
class Format(metaclass=Listed):
    """A binary floating-point format of at most 64 bits whose finite values are float64 numbers.

    Two formats are equal when all facts but the name agree.

    Parameters
    ----------
    name : str
        What the format is called; it takes no part in comparisons.
    bits : int
        Storage width in bits.
    precision : int
        Significand bits, the implicit one included.
    bias : int
        Exponent bias: exponent field ``e`` of a normal number means ``2**(e - bias)``.
    signed : bool
        Whether the highest bit is a sign.
    subnormals : bool
        Whether exponent field 0 holds subnormal numbers.  Without them it holds zero alone, or, at
        precision 1, a normal number like every other field (such a format has no zero).
    infinities : bool
        Whether there is an infinity (of each sign).
    high_nans : int
        How many of the highest codes of each sign are NaN.  Left out: ``2**(precision-1) - 1``,
        which is IEEE 754's; the OCP "FN" formats have 1, finite formats 0.
    negative_zero : bool
        Whether a signed format has -0.  Where it has not, that code is the format's one NaN.
    twos_complement : bool
        Whether negative codes are two's complements, as the fixed-point elements of MXINT8 have
        them: one binade and the subnormal numbers below it, without -0, infinity or NaN.  The
        lowest code, of minus a power of two, is decoded; it is not a member, as nothing rounds to
        it (OCP MX section 5.3.4 lets a range be symmetric).
    p3109 : bool
        Whether numbers are projected into the format as IEEE P3109 has it and not as IEEE 754:
        "even" and "odd" refer to the code, a format without infinity saturates, and an unsigned
        one takes negative numbers to zero.  float8_e4m3fnuz has the values of Binary8p4sf, but not
        its projection.  The other facts must be those of a P3109 format.

    Raises
    ------
    ValueError
        If the facts contradict each other, a finite value is not a float64 number, or emin is
        below -1023.

    Notes
    -----
    What follows from these facts are attributes:

    - `emin`, `emax`, `exponent_bits`, `quantum_exponent`: exponents of the smallest normal and the
      largest finite number, width of the field, exponent of the spacing at the low end;
    - `smallest_subnormal`, `smallest_normal`, `max_finite`, `max_finite_code`: the ends of the
      range;
    - `epsilon`, `unit_roundoff`: distance from 1 to the next number, and half of it;
    - `has_zero`, `has_negative_zero`, `has_nan`: whether there are such values;
    - `carrier`: the numpy dtype that holds the values.
    """

    name: str = field(compare=False)
    bits: int
    precision: int
    bias: int
    signed: bool = True
    subnormals: bool = True
    infinities: bool = True
    high_nans: int = _IEEE_NANS
    negative_zero: bool = True
    twos_complement: bool = False
    p3109: bool = False

    def __post_init__(self) -> None:
        for fact in ("bits", "precision", "bias", "high_nans"):
            object.__setattr__(self, fact, integer(fact, getattr(self, fact)))
        if self.high_nans == _IEEE_NANS:
            object.__setattr__(self, "high_nans", 2 ** (self.precision - 1) - 1)
        if not 1 <= self.precision <= _FLOAT64_PRECISION:
            raise ValueError(f"format {self.name!r}: precision {self.precision} is not in 1..53")
        if not 2 <= self.bits <= 64 or self.exponent_bits < 1:
            raise ValueError(
                f"format {self.name!r}: {self.bits} bits do not hold a sign ({int(self.signed)}), "
                f"an exponent of at least one bit and {self.precision - 1} significand bits"
            )
        if self.high_nans < 0:
            raise ValueError(f"format {self.name!r}: high_nans {self.high_nans} is negative")
        if self.max_finite_code >> (self.precision - 1) < self._lowest_normal_field:
            raise ValueError(f"format {self.name!r} has no finite normal number")
        if self.twos_complement and not self._is_fixed_point:
            raise ValueError(
                f"format {self.name!r}: two's complement is for signed numbers with one exponent "
                "bit and subnormals, without infinities, NaN and -0"
            )
        if self.emax > _FLOAT64_EMAX or self.quantum_exponent < _FLOAT64_QUANTUM_EXPONENT:
            raise ValueError(
                f"format {self.name!r} (emin {self.emin}, emax {self.emax}, precision "
                f"{self.precision}) has values that are not float64 numbers"
            )
        if self.emin < _LEAST_EMIN:
            raise ValueError(
                f"format {self.name!r}: emin {self.emin} is below {_LEAST_EMIN}, where float64 "
                "holds too few bits to compute with"
            )
        if self.p3109 and not self._has_p3109_facts:
            raise ValueError(
                f"format {self.name!r}: P3109 formats have subnormals, no -0, a bias of "
                "2**(exponent_bits - 1), and high_nans 0 if signed, 1 if not"
            )

    @property
    def _has_p3109_facts(self) -> bool:
        facts = (self.subnormals, self.negative_zero, self.bias, self.high_nans)
        return facts == (True, False, 2 ** (self.exponent_bits - 1), int(not self.signed))

    @property
    def _is_fixed_point(self) -> bool:
        facts = (self.exponent_bits, self.signed, self.subnormals, self.high_nans)
        return facts == (1, True, True, 0) and not (self.infinities or self.negative_zero)

    @property
    def exponent_bits(self) -> int:
        """Width of the exponent field."""
        return self.bits - int(self.signed) - (self.precision - 1)

    @property
    def has_zero(self) -> bool:
        """Whether the format has a zero."""
        return self.subnormals or self.precision > 1

    @property
    def has_nan(self) -> bool:
        """Whether the format has a NaN."""
        one_nan = self.signed and not self.negative_zero and not self.twos_complement
        return self.high_nans > 0 or one_nan

    @property
    def has_negative_zero(self) -> bool:
        """Whether the format distinguishes -0 from +0."""
        return self.signed and self.negative_zero and self.has_zero

    @property
    def _lowest_normal_field(self) -> int:
        return 1 if self.has_zero else 0

    @functools.cached_property
    def emin(self) -> int:
        """Exponent of the smallest normal number, ``2**emin``."""
        return self._lowest_normal_field - self.bias

    @functools.cached_property
    def max_finite_code(self) -> int:
        """Code of the largest finite number."""
        return (1 << (self.bits - int(self.signed))) - 1 - self.high_nans - int(self.infinities)

    @functools.cached_property
    def emax(self) -> int:
        """Exponent of the largest finite number, ``floor(log2(max_finite))``."""
        return (self.max_finite_code >> (self.precision - 1)) - self.bias

    @functools.cached_property
    def quantum_exponent(self) -> int:
        """Exponent of the spacing at the low end, ``emin - precision + 1``."""
        return self.emin - self.precision + 1

    @functools.cached_property
    def max_finite(self) -> float:
        """Largest finite number."""
        implicit = 2 ** (self.precision - 1)
        significand = implicit + (self.max_finite_code & (implicit - 1))
        return _exact_float(significand, self.emax - self.precision + 1)

    @functools.cached_property
    def smallest_normal(self) -> float:
        """Smallest positive normal number, ``2**emin``."""
        return _exact_float(1, self.emin)

    @functools.cached_property
    def smallest_subnormal(self) -> float:
        """Smallest positive number: ``2**(emin-precision+1)``, or `smallest_normal` if none."""
        return _exact_float(1, self.quantum_exponent if self.subnormals else self.emin)

    @property
    def unit_roundoff(self) -> float:
        """``u = 2**-precision``, the largest relative error of rounding to nearest."""
        return _exact_float(1, -self.precision)

    @property
    def epsilon(self) -> float:
        """``2**(1-precision)``, the distance from 1 to the next larger number."""
        return _exact_float(1, 1 - self.precision)

    @functools.cached_property
    def carrier(self) -> np.dtype[np.floating]:
        """The numpy dtype that holds the values: float32 if they all are float32, else float64."""
        import numpy as np  # here, so that the commands need not import it

        return np.dtype(np.float32 if self._fits_float32 else np.float64)

    @property
    def _fits_float32(self) -> bool:
        return self.precision <= 24 and self.emax <= 127 and self.quantum_exponent >= -149

    def __str__(self) -> str:
        return self.name

    @property
    def _short_name(self) -> str | None:
        """The name, if it stands for the format."""
        try:
            named = _format_of_name(self.name)
        except ValueError:
            return None
        return self.name if named == self and named.name == self.name else None

    def __repr__(self) -> str:
        if self._short_name is not None:
            return f"fpemu.format({self.name!r})"
        standard = {fact.name: fact.default for fact in fields(self)}
        standard["high_nans"] = 2 ** (self.precision - 1) - 1
        facts = [
            f"{name}={getattr(self, name)!r}"
            for name, usual in standard.items()
            if name != "name" and getattr(self, name) != usual
        ]
        return f"fpemu.Format({self.name!r}, {', '.join(facts)})"

    def _repr_html_(self) -> str:
        kinds = {
            "a sign": self.signed,
            "-0": self.has_negative_zero,
            "subnormals": self.subnormals,
            "infinities": self.infinities,
            "NaN": self.has_nan,
        }
        fields_of_codes = f"{self.exponent_bits} of the exponent, {self.precision - 1} stored"
        rows = (
            ("bits", f"{self.bits}: {'a sign, ' if self.signed else ''}{fields_of_codes}"),
            ("epsilon", f"{self.epsilon:.3g}"),
            ("largest", f"{self.max_finite:.6g}"),
            ("smallest", f"{self.smallest_subnormal:.3g}, normal {self.smallest_normal:.3g}"),
            ("has", ", ".join(name for name, holds in kinds.items() if holds) or "none of these"),
            ("has no", ", ".join(name for name, holds in kinds.items() if not holds) or "-"),
        )
        return _html.facts(self.name, rows, below=self._strip())

    def _strip(self) -> str:
        """The positive numbers on a logarithmic line: all of them, or powers of two."""
        every = self.max_finite_code <= _MOST_TICKS
        step = 1 if every else 1 << (self.precision - 1)
        codes = range(0 if every else step, self.max_finite_code + 1, step)
        codes = codes[:: -(-len(codes) // _MOST_TICKS)]
        logarithms = [each for each in map(self._logarithm, codes) if each is not None]
        low, high = math.log2(self.smallest_subnormal), math.log2(self.max_finite)
        width = (high - low) or 1.0
        labels = [(0.0, f"{self.smallest_subnormal:.3g}"), (1.0, f"{self.max_finite:.3g}")]
        if 0.15 < -low / width < 0.85:
            labels.append((-low / width, "1"))
        what = "All positive numbers" if every else "Powers of two"
        places = [(each - low) / width for each in logarithms]
        return _html.strip(places, labels, f"{what} of {self.name}, on a logarithmic scale")

    def _logarithm(self, code: int) -> float | None:
        """To base two, of the number of a code without its sign; None if that is zero."""
        implicit = 1 << (self.precision - 1)
        exponent, fraction = divmod(code, implicit)
        if exponent >= self._lowest_normal_field:
            return math.log2(implicit + fraction) + exponent - self.bias - self.precision + 1
        return math.log2(fraction) + self.quantum_exponent if self.subnormals and fraction else None


# A format, its name, or a dtype of numpy, ml_dtypes or torch (whose dtypes have no type here).
if TYPE_CHECKING:
    FormatLike: TypeAlias = Format | str | np.dtype[Any] | type[Any]
else:  # without numpy, which the commands need not import
    FormatLike = Format | str | type


def _exact_float(significand: int, exponent: int) -> float:
    """``significand * 2**exponent``, a float64 number, whatever the processor flushes to zero."""
    top = max(significand.bit_length() - 1 + exponent, 1 - _FLOAT64_EMAX)
    shift = exponent - (top - _FLOAT64_PRECISION + 1)
    integer = significand << shift if shift >= 0 else significand >> -shift
    # A number below 2**52 is subnormal; above, the implicit bit counts as one of the exponent.
    bits = integer + ((top + _FLOAT64_EMAX - 1) << (_FLOAT64_PRECISION - 1))
    return float(struct.unpack("<d", struct.pack("<Q", bits))[0])


def _ieee_like(name: str, exponent_bits: int, stored_bits: int) -> Format:
    return Format(
        name,
        bits=1 + exponent_bits + stored_bits,
        precision=stored_bits + 1,
        bias=2 ** (exponent_bits - 1) - 1,
    )


def _p3109(name: str, bits: int, precision: int, *, signed: bool, extended: bool) -> Format:
    """The P3109 format ``Binary{bits}p{precision}{s|u}{e|f}``.

    A signed format keeps its one NaN at the code of -0, an unsigned one at its highest code.
    """
    if not 3 <= bits <= 16 or not 1 <= precision <= bits - int(signed):
        raise ValueError(
            f"no P3109 format {name!r}: Binary{{K}}p{{P}} needs 3 <= K <= 16 and "
            f"1 <= P {'<' if signed else '<='} K"
        )
    return Format(
        name,
        bits=bits,
        precision=precision,
        bias=2 ** (bits - precision - int(signed)),
        signed=signed,
        infinities=extended,
        high_nans=0 if signed else 1,
        negative_zero=False,
        p3109=True,
    )


float64 = _ieee_like("float64", 11, 52)
float32 = _ieee_like("float32", 8, 23)
float16 = _ieee_like("float16", 5, 10)
bfloat16 = _ieee_like("bfloat16", 8, 7)
tf32 = _ieee_like("tf32", 8, 10)
float8_e5m2 = _ieee_like("float8_e5m2", 5, 2)
float8_e4m3 = _ieee_like("float8_e4m3", 4, 3)
float8_e3m4 = _ieee_like("float8_e3m4", 3, 4)
float8_e4m3fn = Format("float8_e4m3fn", 8, 4, 7, infinities=False, high_nans=1)
float8_e4m3fnuz = Format(
    "float8_e4m3fnuz", 8, 4, 8, infinities=False, high_nans=0, negative_zero=False
)
float8_e5m2fnuz = Format(
    "float8_e5m2fnuz", 8, 3, 16, infinities=False, high_nans=0, negative_zero=False
)
float8_e4m3b11fnuz = Format(
    "float8_e4m3b11fnuz", 8, 4, 11, infinities=False, high_nans=0, negative_zero=False
)
float8_e8m0fnu = Format(
    "float8_e8m0fnu", 8, 1, 127, signed=False, subnormals=False, infinities=False, high_nans=1
)
float6_e2m3fn = Format("float6_e2m3fn", 6, 4, 1, infinities=False, high_nans=0)
float6_e3m2fn = Format("float6_e3m2fn", 6, 3, 3, infinities=False, high_nans=0)
float4_e2m1fn = Format("float4_e2m1fn", 4, 2, 1, infinities=False, high_nans=0)

_NAMED: Final[dict[str, Format]] = {
    value.name: value for value in list(globals().values()) if isinstance(value, Format)
}
# What other libraries and papers call formats.
_ALIASES: Final = {
    "half": "float16",
    "fp16": "float16",
    "single": "float32",
    "fp32": "float32",
    "double": "float64",
    "fp64": "float64",
    "bf16": "bfloat16",
    "fp22": "e8m13",  # the sums of Hopper's fp8 units, in DeepSeek-V3's report
    "fp4": "float4_e2m1fn",
    "float4": "float4_e2m1fn",
}
_AMBIGUOUS: Final = {
    "fp8": "float8_",
    "float8": "float8_",
    "fp6": "float6_",
    "float6": "float6_",
}
# The formats that a shape is used for where the operands of units are meant.
_OF_SHAPES: Final = {
    "e4m3": ("float8_e4m3", "float8_e4m3fn"),
    "e2m1": ("float4_e2m1fn",),
    "e2m3": ("float6_e2m3fn",),
    "e3m2": ("float6_e3m2fn",),
    "e8m0": ("float8_e8m0fnu",),
}
_SHAPE = re.compile(r"e(\d{1,2})m(\d{1,2})")
_PS = re.compile(r"ps(\d{1,2})")
_P3109 = re.compile(r"[Bb]inary(\d{1,2})p(\d{1,2})([su])([ef])")
_BLOCK_SCALED = re.compile(r"(mx|nv)(fp|int)\d.*")  # which fpemu.scaling has


def named_formats() -> dict[str, Format]:
    """Every format with a fixed name, P3109's apart.

    Returns
    -------
    dict
        Name to format, widest first.
    """
    return dict(_NAMED)


def format(spec: FormatLike) -> Format:
    """The format that a name stands for.

    Parameters
    ----------
    spec : Format, str or dtype
        A Format (returned as it is); a dtype of numpy, ml_dtypes or torch; or a name:

        - of a named format, such as ``"bfloat16"`` or ``"float8_e4m3fn"``;
        - ``"e{E}m{M}"``, the IEEE-like format with E exponent bits (2..11) and M stored significand
          bits (0..52);
        - ``"ps{M}"``, the PS(M) of the LAMP paper, which is ``"e8m{M}"`` (M in 0..23);
        - ``"Binary{K}p{P}{s|u}{e|f}"`` (or ``"binary..."``), P3109's: K bits (3..16), precision P,
          signed or unsigned, extended (with infinities) or finite;
        - what others call these: ``"fp16"``, ``"half"``, ``"bf16"``, ``"fp32"``, ``"single"``,
          ``"fp64"``, ``"double"``, ``"fp22"`` (``"e8m13"``), ``"fp4"``.

    Returns
    -------
    Format

    Raises
    ------
    ValueError
        If the name is unknown or stands for several formats; the message lists names.
    TypeError
        If `spec` is no Format, name or floating-point dtype.

    Notes
    -----
    ``"e4m3"`` is a shape like any other and IEEE-like, ``float8_e4m3``, with a largest number of
    240.  OCP's fp8 with a largest number of 448 is ``float8_e4m3fn``.  Where the operands of a unit
    are meant, the shapes that OCP has other formats for (e4m3, e3m2, e2m3, e2m1, e8m0) are refused.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.format("e5m7").max_finite
    65280.0
    >>> fpemu.format("ps7") == fpemu.formats.bfloat16
    True
    >>> fpemu.format("Binary8p4se").smallest_subnormal
    0.0009765625
    """
    if isinstance(spec, Format):
        return spec
    return _format_of_name(spec) if isinstance(spec, str) else _format_of_dtype(spec)


def operand_format(spec: FormatLike) -> Format:
    """:func:`format` where the operands of a unit are meant: shapes of OCP's formats are refused.

    Raises
    ------
    ValueError
        As :func:`format`, and if a shape such as ``"e4m3"`` may stand for another format.
    """
    if isinstance(spec, str) and spec in _OF_SHAPES:
        shaped = _format_of_name(spec)
        named = " or ".join(
            f"{name!r} (largest {_NAMED[name].max_finite:g})" for name in _OF_SHAPES[spec]
        )
        raise ValueError(
            f"{spec!r} is ambiguous: as a shape it is the IEEE-like format with a largest number "
            f"of {shaped.max_finite:g}, in the names of units another one; give {named}"
        )
    return format(spec)


def _format_of_dtype(spec: Any) -> Format:
    """The format of a dtype, or of the scalar type of one."""
    name = _name_of_dtype(spec)
    if name not in _NAMED:
        kind = "" if name is None else f" {name}"
        raise TypeError(
            f"format must be a Format, a name or a floating-point dtype, not "
            f"{type(spec).__name__}{kind}"
        )
    return _NAMED[name]


def _name_of_dtype(spec: Any) -> str | None:
    if type(spec).__module__ == "torch" and type(spec).__name__ == "dtype":
        return str(spec).removeprefix("torch.").removesuffix("_x2")
    numpy = sys.modules.get("numpy")  # nothing is a dtype of numpy before it is imported
    if spec is float:
        return "float64"
    if numpy is None or not isinstance(spec, type | numpy.dtype):
        return None
    try:
        return str(numpy.dtype(spec).name)
    except TypeError:
        return spec.__name__


@functools.lru_cache(maxsize=4096)
def _format_of_name(name: str) -> Format:
    if name in _NAMED:
        return _NAMED[name]
    if name in _ALIASES:
        return _format_of_name(_ALIASES[name])
    if name in _AMBIGUOUS:
        several = ", ".join(
            f"{known} (largest {_NAMED[known].max_finite:g})"
            for known in _NAMED
            if known.startswith(_AMBIGUOUS[name])
        )
        raise ValueError(f"format {name!r} is ambiguous: give one of {several}")
    if match := _SHAPE.fullmatch(name):
        exponent_bits, stored_bits = map(int, match.groups())
        if 2 <= exponent_bits <= 11 and 0 <= stored_bits <= 52:
            return _ieee_like(f"e{exponent_bits}m{stored_bits}", exponent_bits, stored_bits)
        raise ValueError(
            f"unknown format {name!r}: e{{E}}m{{M}} needs 2 <= E <= 11 and 0 <= M <= 52"
        )
    if match := _PS.fullmatch(name):
        if int(match[1]) <= 23:
            return _format_of_name(f"e8m{int(match[1])}")
        raise ValueError(f"unknown format {name!r}: ps{{M}} needs 0 <= M <= 23")
    if match := _P3109.fullmatch(name):
        bits, precision = int(match[1]), int(match[2])
        return _p3109(name, bits, precision, signed=match[3] == "s", extended=match[4] == "e")
    if _BLOCK_SCALED.fullmatch(name.lower()):
        raise ValueError(
            f"unknown format {name!r}: block-scaled formats are those of fpemu.scaling.quantize"
        )
    near = difflib.get_close_matches(name.lower(), _NAMED, n=3, cutoff=0.4)
    if name.lower() in (*_ALIASES, *_AMBIGUOUS) or _SHAPE.fullmatch(name.lower()):
        near = [name.lower()]
    forms = "'e5m7', 'ps7' and 'Binary8p4se'"
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}? Other forms are {forms}"
    else:
        hint = f"expected one of fpemu.formats.named_formats(); other forms are {forms}"
    raise ValueError(f"unknown format {name!r}: {hint}")


def __getattr__(name: str) -> Format:
    """P3109 formats as module attributes, made when asked for."""
    if _P3109.fullmatch(name):
        try:
            return _format_of_name(name)
        except ValueError as error:
            raise AttributeError(str(error)) from error
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
