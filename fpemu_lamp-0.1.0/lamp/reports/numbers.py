"""Numbers as tables, figures and the terminal show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

__all__ = [
    "alike",
    "cell_percent",
    "decimals",
    "duration",
    "error",
    "factor",
    "measured",
    "percent",
    "power",
    "real",
    "scientific",
    "seconds",
    "short_percent",
]

_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _special(number: float) -> str | None:
    """How NaN, the infinities and zero are written; None for other numbers."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    return None if number else "0"


def real(number: float | None) -> float:
    """A number of a record, where None stands for NaN, which JSON has not."""
    return math.nan if number is None else number


def scientific(number: float) -> str:
    """Three significant digits and an exponent, such as 1.23e-05."""
    return _special(number) or f"{number:.2e}"


def percent(share: float) -> str:
    """A share in percent with three decimals, so that a column of them is aligned."""
    if (special := _special(share)) is not None:
        return special if special != "0" else "0%"
    return f"{share:.3%}" if abs(share) >= 5e-6 else f"{100 * share:.1e}%"


def short_percent(share: float) -> str:
    """A share in percent with at most three significant digits, for axes and cells."""
    if (special := _special(share)) is not None:
        return special
    shown = f"{100 * share:.3g}"
    return f"{power(float(shown)) if abs(share) < 1e-6 else shown}%"


def cell_percent(share: float) -> str:
    """A share in percent in few letters, for the cells of heat maps.

    Examples
    --------
    >>> from lamp.reports.numbers import cell_percent
    >>> [cell_percent(share) for share in (0.5268, 0.0105, 0.00232, 2.7e-5, -3e-4, 0.0)]
    ['52.7%', '1.05%', '0.23%', '<.01%', '-0.03%', '0']
    """
    if (special := _special(share)) is not None:
        return special
    if abs(share) >= 1e-2:
        return short_percent(share)
    return f"{share:.2%}" if share < 0 or share >= 1e-4 else "<.01%"


def decimals(number: float, places: int = 3) -> str:
    """A number with a fixed count of decimals; with an exponent from 100,000 on."""
    if (special := _special(number)) is not None:
        return special
    return f"{number:,.{places}f}" if abs(number) < 1e5 else f"{number:.{places}e}"


def factor(number: float) -> str:
    """A factor with three significant digits."""
    return _special(number) or f"{number:.3g}"


def error(number: float, style: str = "scientific") -> str:
    """A standard error in two significant digits; empty for NaN.

    Examples
    --------
    >>> from lamp.reports.numbers import error
    >>> error(1.234e-5), error(0.0312, "percent"), error(3.456, "plain"), error(float("nan"))
    ('±1.2e-05', '±3.1%', '±3.5', '')
    >>> error(1.3e-5, "percent"), error(1.3e-8, "percent")
    ('±0.0013%', '±1.3e-06%')
    """
    if math.isnan(number):
        return ""
    if (special := _special(number)) is not None:
        return f"±{special}"
    sign = "%" if style == "percent" else ""
    shown = 100 * number if sign else number
    if style == "scientific" or not 1e-4 < abs(shown) < 1e5:
        return f"±{shown:.1e}{sign}"
    return f"±{shown:.{_places(shown)}f}{sign}"


def measured(number: float, reach: float = math.nan) -> str:
    """A number and its standard error in a sentence, with the digits that the error leaves.

    Examples
    --------
    >>> from lamp.reports.numbers import measured
    >>> measured(0.05712, 0.0031), measured(6.16e-5, 1.4e-5), measured(0.5)
    ('0.0571 ± 0.0031', '6.16e-05 ± 1.4e-05', '0.5')
    """
    if _special(number) is not None or not 0 < reach < math.inf:
        return factor(number)
    if abs(number) < 1e-3 or not 1e-4 < reach < 1e4:
        return f"{number:.2e} ± {reach:.1e}"
    return f"{number:.{_places(reach)}f} ± {reach:.{_places(reach)}f}"


def _places(number: float) -> int:
    """The decimals of two significant digits."""
    return max(0, 1 - math.floor(math.log10(abs(number))))


def seconds(number: float) -> str:
    """Seconds for a column of times; hundredths below 100."""
    return f"{number:.2f}" if number < 100 else f"{number:.0f}"


def duration(number: float) -> str:
    """A number of seconds in words, such as 2 h 01 min."""
    if number < 60:
        return f"{number:.3g} s"
    minutes = round(number / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min"


def alike(label: Callable[[float], str], values: Sequence[float]) -> list[str]:
    """Numbers along an axis: if one is written as a power of ten, so are all below 1.

    Examples
    --------
    >>> from lamp.reports.numbers import alike, power
    >>> alike(power, [1e-3, 1e-2, 1]), alike(power, [0.01, 0.1])
    (['10⁻³', '10⁻²', '1'], ['0.01', '0.1'])
    """
    if label is not power or all(_is_plain(value) for value in values):
        return [label(value) for value in values]
    return [power(value) if abs(value) >= 1 else _powered(value) for value in values]


def power(number: float) -> str:
    """The shortest form: plain, or with a power of ten in superscript.

    Examples
    --------
    >>> from lamp.reports.numbers import power
    >>> power(2e-5), power(1e-7), power(0.5)
    ('2·10⁻⁵', '10⁻⁷', '0.5')
    """
    if (special := _special(number)) is not None:
        return special
    return f"{number:.6g}" if _is_plain(number) else _powered(number)


def _is_plain(number: float) -> bool:
    """Whether a number is written without a power of ten."""
    return 1e-2 <= abs(number) < 1e5


def _powered(number: float) -> str:
    """A number with a power of ten."""
    mantissa, _, exponent = f"{number:.5e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    shown = f"10{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return shown if mantissa == "1" else f"{mantissa}·{shown}"
