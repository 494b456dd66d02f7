"""How a machine adds up an inner product: accumulators as plain data.

Exact products of the carrier values enter; an accumulator says when and into what they and their
partial sums are rounded.  :mod:`fpemu.linalg` runs them, :mod:`fpemu.devices` names those of
machines.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from fractions import Fraction
from typing import Any, Final, TypeAlias

import numpy as np

from fpemu import _html
from fpemu import formats as _formats
from fpemu._arguments import integer, remembered
from fpemu._environment import in_default_environment
from fpemu._reprs import constructed
from fpemu.formats import Format, FormatLike
from fpemu.rounding import Rounding, RoundingLike, as_rounding

__all__ = [
    "Accumulator",
    "Blocked",
    "Chained",
    "Exact",
    "FlooredCore",
    "Pairwise",
    "Promoted",
    "AccumulatorLike",
    "KINDS",
    "ScaledCore",
    "Sequential",
    "TensorCore",
    "as_accumulator",
]


_MOST_GROWTH: Final = 700.0  # exp of which is a float64
_EXACT_BITS: Final = 53  # what float64 sums exactly
_GROUP_BITS: Final = (
    10  # a sum of 16 products of 4-bit numbers is below 2**10, two scales' included
)
_FARTHEST: Final = 600  # exponents of products of float32 numbers lie well within


def _upward(x: float) -> float:
    """More than what a few roundings of float64 can have taken away."""
    return x * (1 + 2.0**-40)


def _unit(format: Format, rounding: Rounding) -> float:
    """The largest relative error of a rounding to a normal number."""
    nearest = rounding.mode in ("rne", "rna", "rnz")
    return format.unit_roundoff * (1 if nearest else 2)


def _smallest(format: Format, rounding: Rounding, flushed: bool = False) -> float:
    """The largest absolute error of a rounding to a number that is not normal."""
    if flushed or not format.subnormals:
        return format.smallest_normal
    nearest = rounding.mode in ("rne", "rna", "rnz")
    quantum = format.smallest_subnormal
    return (quantum / 2 if nearest else quantum) or quantum  # half of float64's is not a number


class Accumulator:
    """What every accumulator tells of itself, and the base of accumulators of one's own.

    ``format`` is the format of its results, ``rounding`` how they are rounded into it.

    An accumulator of one's own is a frozen dataclass that inherits from this class, has the fields
    ``format`` and ``rounding`` and whatever else it needs, and defines :meth:`inner_product` in
    rational numbers, :meth:`compiled` in compiled arithmetic, or both.  It then works wherever
    accumulators do.  For bounds, it also overrides :meth:`error_bound` (or :meth:`roundings`) and
    :meth:`underflow_bound`; for products in which zeros follow the terms,
    :attr:`ignores_trailing_zeros`.

    Examples
    --------
    The last term first, every sum truncated:

    >>> from dataclasses import dataclass
    >>> from fractions import Fraction
    >>> import fpemu
    >>> from fpemu.reference import round_exact
    >>> @dataclass(frozen=True)
    ... class Backward(fpemu.Accumulator):
    ...     format: fpemu.Format = fpemu.format("bfloat16")
    ...     rounding: fpemu.Rounding = fpemu.Rounding("rtz")
    ...
    ...     def inner_product(self, a, b, c):
    ...         for x, y in zip(reversed(a), reversed(b)):
    ...             c = Fraction(round_exact(c + x * y, self.format, self.rounding))
    ...         return c
    >>> fpemu.dot([1.0, 2.0**-9, 2.0**-9], [1.0, 1.0, 1.0], Backward())
    np.float64(1.0)
    """

    format: Format
    rounding: Rounding
    inputs: Format | tuple[Format, Format] | None = None
    convert: Rounding | None = None
    """How it rounds inputs that are not members of their format by itself; None if it does not."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        ours = [base for base in cls.__mro__[1:] if base.__module__ == __name__]
        if cls.has_definition() and ours[0] is not Accumulator:
            raise TypeError(
                f"{cls.__name__} has an inner product of its own, and so cannot be a kind of "
                f"{ours[0].__name__}, whose kernels and bounds are of another one: derive it from "
                "fpemu.Accumulator"
            )

    @classmethod
    def has_definition(cls) -> bool:
        """Whether the class brings an inner product of its own.

        Returns
        -------
        bool
        """
        return (
            cls.inner_product is not Accumulator.inner_product
            or cls.compiled is not Accumulator.compiled
        )

    def inner_product(
        self, a: Sequence[Fraction], b: Sequence[Fraction], c: Fraction
    ) -> Fraction | float:
        """The inner product by definition; accumulators of one's own override it.

        Parameters
        ----------
        a, b : sequence of Fraction, of the same length
            The terms, in index order.  Sums with an infinity or a NaN among their terms are not
            asked for: they are what IEEE 754 makes of them.
        c : Fraction
            What the sum begins with.

        Returns
        -------
        Fraction or float
            A member of `format`, or an infinity or NaN if the sum overflows.
        """
        raise NotImplementedError(f"{type(self).__name__} has no definition of its own")

    def compiled(self) -> Callable[[Any, Any, float], float] | None:
        """The inner product in compiled arithmetic; accumulators of one's own may override it.

        Returns
        -------
        callable or None
            A function compiled by ``numba.njit`` of two vectors and what the sum begins with, all
            float64; the vectors are read-only, and infinities and NaN are among them.  It returns a
            member of `format`.  It is made once for all equal accumulators.  :mod:`fpemu.jit` has
            the operations.  By default None: the definition runs, which is slow.
        """
        return None

    @property
    def ignores_trailing_zeros(self) -> bool:
        """Whether zeros that follow the terms never change a result but for a zero's sign."""
        return False

    @property
    def initial_format(self) -> Format:
        """The format of what a sum may begin with."""
        return self.format

    @property
    def input_formats(self) -> tuple[Format | None, Format | None]:
        """The formats whose members it takes for a and for b; None for any number."""
        return self.inputs if isinstance(self.inputs, tuple) else (self.inputs, self.inputs)

    @property
    def roundoff(self) -> float:
        """The largest relative error of its rounding: u to nearest, otherwise 2u, u = 2**-p."""
        return _unit(self.format, self.rounding)

    @in_default_environment
    def error_bound(self, terms: int, *, initial: bool = False) -> float:
        """A bound of the error of an inner product, relative to the sum of its terms' magnitudes.

        Parameters
        ----------
        terms : int
            The number k of terms, at least 0.
        initial : bool
            Whether the sum begins with a value of its own, which then counts among the magnitudes.

        Returns
        -------
        float
            A number B with ``|computed - exact| <= B * sum |a_i b_i|`` whatever the terms, unless
            something overflows or an input, product or result is subnormal: then
            :meth:`underflow_bound` is to be added.

        Notes
        -----
        Every bound is a product of factors ``1 + e``, one for each rounding that a term passes on
        its way into the result, less 1.  A rounding to nearest into p bits has ``e = u = 2**-p``,
        any other one ``e = 2u``.

        References
        ----------
        N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1, 4.2.
        """
        terms = integer("terms", terms, least=0)
        growth = self._log_growth(terms, initial) if terms else 0.0
        return _upward(math.expm1(growth)) if growth < _MOST_GROWTH else math.inf

    @in_default_environment
    def underflow_bound(
        self, terms: int, *, initial: bool = False, largest: float | None = None
    ) -> float:
        """A bound of what underflow adds to the error of an inner product.

        Parameters
        ----------
        terms : int
            The number k of terms, at least 0.
        initial : bool
            Whether the sum begins with a value of its own.
        largest : float, optional
            The largest magnitude in a and b, by which units that align terms by their exponents
            may lose to a subnormal input's; left out, that of the input formats.

        Returns
        -------
        float
            A number A with ``|computed - exact| <= error_bound * sum |a_i b_i| + A`` whatever the
            terms, unless something overflows.  Inputs count as the accumulator reads them, after
            its conversion and flushing.

        Notes
        -----
        A rounding whose result is subnormal is off by half of the smallest subnormal number at most
        (to nearest, otherwise by all of it; where subnormals are flushed, by the smallest normal
        number).  Every such error passes the later roundings as a term does.

        References
        ----------
        N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 2.8.

        Examples
        --------
        >>> import fpemu
        >>> fpemu.Sequential("float8_e4m3fn").underflow_bound(1) >= 2.0**-10
        True
        """
        terms = integer("terms", terms, least=0)
        if not terms:
            return 0.0
        growth = 1 + self.error_bound(terms, initial=initial)
        bound = _upward(self._underflow(terms, initial, largest) * growth)
        return math.nextafter(bound, math.inf)

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """The roundings that a term may pass on its way into the result.

        Parameters
        ----------
        terms : int
            The number k of terms, at least 1.
        initial : bool
            Whether the sum begins with a value of its own.

        Returns
        -------
        tuple of (int, float)
            How many there are at most of every kind, and the largest relative error of one, u or
            2u of the format rounded into.

        Raises
        ------
        TypeError
            If the accumulator does more to a term than to round it.

        Examples
        --------
        >>> import fpemu
        >>> fpemu.Blocked("bfloat16", 8, "float32").roundings(32)
        ((8, 5.960464477539063e-08), (4, 0.00390625))
        """
        raise TypeError(f"the errors of {self} are no sequence of known roundings")

    def _log_growth(self, terms: int, initial: bool) -> float:
        """The logarithm of what the roundings make of a term at most."""
        roundings = self.roundings(terms, initial=initial)
        return math.fsum(count * math.log1p(unit) for count, unit in roundings)

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        """The sum of what underflow can add in every rounding."""
        raise TypeError(f"{self} does not say what it loses by underflow: see underflow_bound")

    def _subnormal_power(self, largest: float | None) -> float:
        """The largest exponent, as a power of two, that a product of a subnormal can count with."""
        a, b = (format or _formats.format("float32") for format in self.input_formats)
        most_a, most_b = (min(x.max_finite, largest or math.inf) for x in (a, b))
        return max(a.smallest_normal * most_b, b.smallest_normal * most_a)

    def parts(self) -> Iterator[Accumulator]:
        """The accumulator and those that it is made of."""
        yield self
        for value in self._fields():
            if isinstance(value, Accumulator):
                yield from value.parts()

    def _fields(self) -> Iterator[Any]:
        """The values of the fields, and those within tuples."""
        for value in vars(self).values():
            yield from value if isinstance(value, tuple) else (value,)

    @property
    def is_stochastic(self) -> bool:
        """Whether results depend on random bits."""
        return _has_stochastic_rounding(self)

    @property
    def is_proved(self) -> bool:
        """Whether its bounds are fpemu's, which are proved and tested, and not those of a user."""
        return all(type(part).__module__ == __name__ for part in self.parts())

    def derived(self, *labels: Any) -> Accumulator:
        """The accumulator with seeds of its own, see :meth:`fpemu.Rounding.derived`."""
        return self._with_roundings(lambda rounding: rounding.derived(*labels))

    def seeded(self, seed: int) -> Accumulator:
        """The accumulator with a seed in every stochastic rounding that has none."""

        def given(rounding: Rounding) -> Rounding:
            lacks = rounding.is_stochastic and rounding.seed is None
            return replace(rounding, seed=seed) if lacks else rounding

        return self._with_roundings(given)

    def _with_roundings(self, changed: Callable[[Rounding], Rounding]) -> Accumulator:
        """The accumulator with other roundings, in its parts too."""
        copied = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Rounding):
                _set(copied, name, changed(value))
            elif isinstance(value, Accumulator):
                _set(copied, name, value._with_roundings(changed))
        return copied

    def __str__(self) -> str:
        facts = (x.mode if isinstance(x, Rounding) else str(x) for x in vars(self).values())
        return f"{type(self).__name__}({', '.join(facts)})"

    def __repr__(self) -> str:
        return constructed(self, "fpemu")

    def _repr_html_(self) -> str:
        return _html.facts(str(self), _facts_of(self))


@remembered  # products ask each time, and a model has hundreds of them per token
def _has_stochastic_rounding(accumulator: Accumulator) -> bool:
    """Whether one of the roundings, of parts too, is stochastic."""
    values = (value for part in accumulator.parts() for value in part._fields())
    return any(isinstance(value, Rounding) and value.is_stochastic for value in values)


@dataclass(frozen=True, init=False, repr=False)
class Sequential(Accumulator):
    """Term after term in index order, from +0: ``acc <- round(acc + a*b)``.

    Parameters
    ----------
    format : Format or str
        The format of the accumulator.
    rounding : Rounding or str
        Its rounding, which is that of the other roundings below too.
    fused : bool
        Whether ``acc + a*b`` is rounded once.  Otherwise the product is rounded first.
    product : Format or str, optional
        The format the product is rounded into, `format` if left out; implies ``fused=False``.
    via : Format or str, optional
        A format that every sum is rounded into before it is rounded into `format`.  The double
        rounding of software that adds in float32 and rounds afterwards is ``via="float32"``.
    inputs : Format or str, optional
        The format of a and b; left out, any numbers.

    Raises
    ------
    ValueError
        If a format or mode is unknown.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0, 2.0**-9], [1.0, 1.0], fpemu.Sequential("e8m7"))
    np.float64(1.0)
    """

    format: Format
    rounding: Rounding
    fused: bool
    product: Format | None
    via: Format | None
    inputs: Format | None

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        fused: bool = True,
        product: FormatLike | None = None,
        via: FormatLike | None = None,
        inputs: FormatLike | None = None,
    ) -> None:
        _set(self, "format", _formats.format(format))
        _set(self, "rounding", as_rounding(rounding))
        _set(self, "fused", bool(fused) and product is None)
        _set(self, "product", _optional_format(product))
        _set(self, "via", _optional_format(via))
        _set(self, "inputs", _optional_operands(inputs))

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; the first term passes all, its product's too."""
        of_sums = [(terms, _unit(self.format, self.rounding))]
        if self.via is not None:
            of_sums.append((terms, _unit(self.via, self.rounding)))
        return (*of_sums, *_of_product(self))

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        step = _smallest(self.format, self.rounding)
        if self.via is not None:
            step += _smallest(self.via, self.rounding)
        if not self.fused:
            step += _smallest(self.product or self.format, self.rounding)
        return terms * step

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return True

    def __str__(self) -> str:
        facts = [str(self.format), self.rounding.mode]
        if not self.fused:
            facts.append(f"product in {self.product or self.format}")
        if self.via is not None:
            facts.append(f"via {self.via}")
        return f"sequential({', '.join(facts)})"


@dataclass(frozen=True, init=False, repr=False)
class Blocked(Accumulator):
    """Block after block: each summed by an inner accumulator, then ``acc <- round(acc + sum)``.

    Parameters
    ----------
    format : Format or str
        The format of the outer accumulator, which starts at +0.
    block : int
        Terms in a block; the last one may be shorter.
    inner : Format, str or Sequential
        How a block is summed, from +0; a format stands for ``Sequential(format)``.
    rounding : Rounding or str
        The rounding of the outer accumulator.

    Raises
    ------
    ValueError
        If `block` is not positive, or a format or mode is unknown.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0] + [2.0**-9] * 8, [1.0] * 9, fpemu.Blocked("e8m7", block=4))
    np.float64(1.015625)
    """

    format: Format
    block: int
    inner: Sequential
    rounding: Rounding

    def __init__(
        self,
        format: FormatLike,
        block: int,
        inner: FormatLike | Sequential = "float32",
        rounding: RoundingLike = "rne",
    ) -> None:
        _set(self, "format", _formats.format(format))
        _set(self, "block", _positive("block", block))
        _set(self, "inner", inner if isinstance(inner, Sequential) else Sequential(inner))
        _set(self, "rounding", as_rounding(rounding))

    @property
    def input_formats(self) -> tuple[Format | None, Format | None]:
        """The formats whose members the inner accumulator takes for a and for b."""
        return self.inner.input_formats

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; those of a block, and all of the outer sum."""
        blocks = _runs(terms, self.block)
        inner = self.inner.roundings(min(self.block, terms))
        return (*inner, (blocks, _unit(self.format, self.rounding)))

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        outer = _runs(terms, self.block) * _smallest(self.format, self.rounding)
        return self.inner._underflow(terms, False, largest) + outer

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return True

    def __str__(self) -> str:
        return f"blocked({self.format}, {self.rounding.mode}, {self.block} x {self.inner})"


@dataclass(frozen=True, init=False, repr=False)
class Pairwise(Accumulator):
    """A balanced binary tree: the sum of the left half of the terms plus that of the right half.

    Of n terms the first ``n // 2`` are the left half.  Every sum is rounded once; two terms are
    multiplied exactly and summed in one rounding unless the products are rounded first.

    Parameters
    ----------
    format : Format or str
        The format of all sums.
    rounding : Rounding or str
        Its rounding, and that of the products.
    fused : bool
        Whether products enter exactly.  Otherwise they are rounded first.
    product : Format or str, optional
        The format the products are rounded into, `format` if left out; implies ``fused=False``.
    block : int, optional
        How many terms make a tree, the last one filled up with zeros; the trees are then added in
        index order to an accumulator that starts at +0, ``acc <- round(acc + tree)``.  Left out,
        all terms make one tree.
    flush : {"signed", "positive"}, optional
        Make subnormal products and sums zeros of their sign.  Subnormal inputs (in the input
        format) become zeros of their sign, or they and zeros become positive zeros.
    inputs : Format or str, optional
        The format of a and b; left out, any numbers.

    Raises
    ------
    ValueError
        If `block` is not positive, or a format or mode is unknown.

    References
    ----------
    N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 4.1.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1.0] + [2.0**-9] * 7, [1.0] * 8, fpemu.Sequential("e8m7"))
    np.float64(1.0)
    >>> fpemu.dot([1.0] + [2.0**-9] * 7, [1.0] * 8, fpemu.Pairwise("e8m7"))
    np.float64(1.0078125)
    """

    format: Format
    rounding: Rounding
    fused: bool
    product: Format | None
    block: int | None
    flush: str | None
    inputs: Format | None

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        fused: bool = True,
        product: FormatLike | None = None,
        block: int | None = None,
        flush: str | None = None,
        inputs: FormatLike | None = None,
    ) -> None:
        _set(self, "format", _formats.format(format))
        _set(self, "rounding", as_rounding(rounding))
        _set(self, "fused", bool(fused) and product is None)
        _set(self, "product", _optional_format(product))
        _set(self, "block", _optional_positive("block", block))
        if flush not in (None, "signed", "positive"):
            raise ValueError(f"flush must be 'signed', 'positive' or None, not {flush!r}")
        _set(self, "flush", flush)
        _set(self, "inputs", _optional_operands(inputs))

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; one a level of a tree, one for every tree added."""
        block = terms if self.block is None else self.block
        count = max(math.ceil(math.log2(block)), 1)
        if self.block is not None:
            count += _runs(terms, block)
        elif initial:
            count += 1
        return ((count, _unit(self.format, self.rounding)), *_of_product(self))

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        """A tree of n terms has n - 1 sums; one more takes it to the accumulator."""
        flushed = self.flush is not None
        sums = terms + 1 if self.block is None else _runs(terms, self.block) * self.block
        if self.fused and not flushed:
            product = 0.0
        else:
            product = _smallest(self.product or self.format, self.rounding, flushed)
        return sums * _smallest(self.format, self.rounding, flushed) + terms * product

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`; they change the shape of one tree."""
        return self.block is not None

    def __str__(self) -> str:
        facts = [str(self.format), self.rounding.mode]
        if not self.fused:
            facts.append(f"product in {self.product or self.format}")
        if self.block is not None:
            facts.append(f"trees of {self.block}")
        if self.flush is not None:
            facts.append("subnormals flushed")
        return f"pairwise({', '.join(facts)})"


@dataclass(frozen=True, init=False, repr=False)
class Chained(Accumulator):
    """Chains of float32 multiply-adds that flush subnormal numbers: AMX and AVX-512 BF16.

    An instruction takes `block` terms.  Term i belongs to chain ``i % chains``.  A chain starts at
    +0 and takes its terms in order, ``chain <- fma(a, b, chain)``.  The sums of the chains are
    added from left to right, and their sum is added to the accumulator.  With `through` there is
    one chain, which starts at the accumulator and ends in it.  A last instruction takes the terms
    that are left, filled up with zeros to as many for each chain and to a whole run of `order`.

    Everything is rounded to float32, to nearest.  Inputs below float32's smallest normal number,
    the accumulator among them, and results that are subnormal after rounding to 24 bits become
    zeros of their sign.

    Parameters
    ----------
    block : int
        Terms in an instruction, a multiple of `chains`.
    inputs : Format, str, or a pair of them
        The formats of a and b, whose numbers are float32 numbers.
    chains : int
        How many chains there are.
    order : tuple of int, optional
        The order of a run of terms, as in :class:`TensorCore`; its length divides `block`.
    through : bool
        Whether the accumulator runs through the chain.
    convert : Rounding or str, optional
        How the unit itself rounds inputs that are not members of their format; left out, it takes
        no others.

    Raises
    ------
    ValueError
        If a parameter is out of range or contradicts another.

    References
    ----------
    Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, TDPBF16PS, VDPBF16PS.

    Examples
    --------
    AVX-512 BF16 adds the second product of a pair first:

    >>> import fpemu
    >>> vdpbf16ps = fpemu.Chained(2, "bfloat16", order=(1, 0), through=True)
    >>> fpemu.dot([-1.0, 2.0**-24], [1.0, 1.0], vdpbf16ps, c=1.0)
    np.float64(0.0)
    >>> fpemu.dot([2.0**-24, -1.0], [1.0, 1.0], vdpbf16ps, c=1.0) == 2.0**-24
    np.True_
    """

    block: int
    inputs: tuple[Format, Format]
    chains: int
    order: tuple[int, ...] | None
    through: bool
    convert: Rounding | None

    def __init__(
        self,
        block: int,
        inputs: FormatLike | tuple[FormatLike, FormatLike],
        chains: int = 1,
        order: tuple[int, ...] | None = None,
        through: bool = False,
        convert: RoundingLike | None = None,
    ) -> None:
        _set(self, "block", _positive("block", block))
        _set(self, "inputs", _pair_of_inputs(inputs))
        _set(self, "chains", _positive("chains", chains))
        _set(self, "order", _permutation(order))
        _set(self, "through", bool(through))
        _set(self, "convert", _optional_rounding(convert))
        _set(self, "rounding", Rounding("rne"))
        if self.block % self.chains:
            raise ValueError(f"block {block} must be a multiple of chains {chains}")
        if self.order is not None and self.block % len(self.order):
            raise ValueError(f"block {block} must be a multiple of the length of order {order}")
        if self.through and self.chains > 1:
            raise ValueError(f"through takes one chain, not {chains}")

    @property
    def format(self) -> Format:  # type: ignore[override]
        """The format of the results."""
        return _formats.format("float32")

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; those of a chain, of the chains' sum, of all blocks.

        Zeros that fill a block up add nothing and are not rounded.
        """
        unit = _unit(self.format, self.rounding)
        if self.through:
            return ((terms, unit),)
        chain = _runs(min(self.block, terms), self.chains)
        return ((chain + self.chains - 1 + _runs(terms, self.block), unit),)

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        """Every multiply-add and every addition may flush its result."""
        additions = 0 if self.through else _runs(terms, self.block) * self.chains
        return (terms + additions) * _smallest(self.format, self.rounding, True)

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return True

    def __str__(self) -> str:
        if self.through:
            return f"chained({self.block} terms through the accumulator)"
        return f"chained({self.block} terms, chains: {self.chains})"


@dataclass(frozen=True, init=False, repr=False)
class Exact(Accumulator):
    """The exact inner product, rounded once: Kulisch's accumulator.

    Parameters
    ----------
    format : Format or str
        The format of the result.
    rounding : Rounding or str
        Its rounding.
    block : int, optional
        Round after every `block` terms, which are added exactly to the last rounded sum.  Left out,
        there is one rounding.
    inputs : Format, str, or a pair of them, optional
        The formats of a and b; left out, any numbers.

    Raises
    ------
    ValueError
        If `block` is not positive, or a format or mode is unknown.

    References
    ----------
    U. Kulisch, Computer Arithmetic and Validity, 2nd ed., 2013, chapter 8.

    Examples
    --------
    >>> import fpemu
    >>> fpemu.dot([1e300, 1.0, -1e300], [1e300, 1.0, 1e300], fpemu.Exact("float16"))
    np.float64(1.0)
    """

    format: Format
    rounding: Rounding
    block: int | None
    inputs: Format | tuple[Format, Format] | None

    def __init__(
        self,
        format: FormatLike,
        rounding: RoundingLike = "rne",
        block: int | None = None,
        inputs: FormatLike | tuple[FormatLike, FormatLike] | None = None,
    ) -> None:
        _set(self, "format", _formats.format(format))
        _set(self, "rounding", as_rounding(rounding))
        _set(self, "block", _optional_positive("block", block))
        formats = _pair(inputs) if isinstance(inputs, tuple) else _optional_operands(inputs)
        _set(self, "inputs", formats)

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; one for every block."""
        blocks = 1 if self.block is None else _runs(terms, self.block)
        return ((blocks, _unit(self.format, self.rounding)),)

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        blocks = 1 if self.block is None else _runs(terms, self.block)
        return blocks * _smallest(self.format, self.rounding)

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return True

    def __str__(self) -> str:
        blocks = "" if self.block is None else f", blocks of {self.block}"
        return f"exact({self.format}, {self.rounding.mode}{blocks})"


def _to_infinity(rounding: Rounding) -> Rounding:
    """The rounding of a unit, which overflows to infinity."""
    if rounding.overflow not in ("ieee", "infinity"):
        raise ValueError(
            f"a tensor core overflows to infinity: overflow={rounding.overflow!r} would be ignored"
        )
    return replace(rounding, overflow="infinity")


@dataclass(frozen=True, init=False, repr=False)
class TensorCore(Accumulator):
    """The fused multi-term addition of matrix units: one rounding for a block of products.

    The exact products of a block and the accumulator are aligned to the largest of their exponents;
    each is truncated to `fraction_bits` bits behind that exponent; the truncated terms are summed
    exactly; the sum is rounded once and is the next block's accumulator.  The exponent of a number
    is ``max(floor(log2 |x|), emin)`` with the emin of its own format, that of a product the sum of
    two.  Zeros take no part.  A sum that is zero is +0.  A last block of fewer terms is filled with
    zeros.

    Parameters
    ----------
    block : int
        Products in a fused addition.
    fraction_bits : int
        How many bits behind the largest exponent are kept, 1 to 40.
    format : Format or str
        The format of the results.
    rounding : Rounding or str
        The rounding into it.  Overflow gives infinity, whatever the mode; others are refused.
    exponent_floor : int, optional
        The least that the largest exponent may be; left out, there is no floor.
    inputs : Format, str, or a pair of them
        The formats of a and b, of at most 24 significand bits and within float32's range.
    initial : Format or str, optional
        The format of what a sum may begin with, `format` if left out.
    order : tuple of int, optional
        The order of a run of terms, as indices into it: ``(0, 2, 1, 3)`` sums terms 0, 2, 1, 3, 4,
        6, 5, 7, ....  Left out, index order.
    group : int
        Products that are summed exactly into one term, whose exponent is that of its scales alone
        (block-scaled units); 1 for ordinary units.
    convert : Rounding or str, optional
        How the unit itself rounds inputs that are not members of their format; left out, it takes
        no others.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the sum of a block could exceed the 53 bits of float64.

    References
    ----------
    M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of NVIDIA tensor cores",
    PeerJ Comput. Sci. 7, 2021.  Xie, Wang, Yang, Yang, "MMA-Sim", arXiv 2511.10909.  F. A. Khattak,
    M. Mikaitis, "Accurate Models of NVIDIA Tensor Cores", arXiv 2512.07004.

    Examples
    --------
    Volta's unit loses what is 2**-24 of the largest term:

    >>> import fpemu
    >>> volta = fpemu.TensorCore(4, 23, inputs="float16")
    >>> fpemu.dot([1.0, 2.0**-12, 2.0**-12], [1.0, 2.0**-12, 2.0**-12], volta) == 1.0
    np.True_
    """

    block: int
    fraction_bits: int
    format: Format
    rounding: Rounding
    exponent_floor: int | None
    inputs: tuple[Format, Format]
    initial: Format
    order: tuple[int, ...] | None
    group: int
    convert: Rounding | None

    def __init__(
        self,
        block: int,
        fraction_bits: int,
        format: FormatLike = "float32",
        rounding: RoundingLike = "rtz",
        exponent_floor: int | None = None,
        inputs: FormatLike | tuple[FormatLike, FormatLike] = "float32",
        initial: FormatLike | None = None,
        order: tuple[int, ...] | None = None,
        group: int = 1,
        convert: RoundingLike | None = None,
    ) -> None:
        _set(self, "block", _positive("block", block))
        _set(self, "fraction_bits", _positive("fraction_bits", fraction_bits))
        _set(self, "format", _formats.format(format))
        _set(self, "rounding", _to_infinity(as_rounding(rounding)))
        floor = exponent_floor
        _set(self, "exponent_floor", None if floor is None else integer("exponent_floor", floor))
        _set(self, "inputs", _pair(inputs))
        _set(self, "initial", _formats.format(format if initial is None else initial))
        _set(self, "order", _permutation(order))
        _set(self, "group", _positive("group", group))
        _set(self, "convert", _optional_rounding(convert))
        self._check()

    def _check(self) -> None:
        for format in (*self.inputs, self.initial, self.format):
            if format.carrier != np.float32:
                raise ValueError(f"a tensor core takes and gives float32 numbers, not {format}")
        if not (self.format.infinities and self.format.has_negative_zero):
            raise ValueError(f"format must have infinities and signed zeros, not {self.format}")
        if self.block % self.group:
            raise ValueError(f"block {self.block} must be a multiple of group {self.group}")
        floor = self.exponent_floor
        if floor is not None and not -_FARTHEST <= floor <= _FARTHEST:
            raise ValueError(f"exponent_floor must lie within {_FARTHEST} of 0, not {floor}")
        bits = self.fraction_bits + 2 + math.ceil(math.log2(self.block // self.group + 1))
        if self.group > 1:
            bits += _GROUP_BITS
        if bits > _EXACT_BITS:
            raise ValueError(
                f"a sum of {self.block} terms with fraction_bits {self.fraction_bits} takes {bits} "
                f"bits; at most {_EXACT_BITS} are summed exactly"
            )

    @property
    def initial_format(self) -> Format:
        """The format of what a sum may begin with."""
        return self.initial

    def _keeps(self, format: Format) -> bool:
        """Whether a number of a format loses no bit where it is the only term of a block."""
        floor = format.emin if self.exponent_floor is None else self.exponent_floor
        return (
            self.fraction_bits >= format.precision - 1
            and max(floor, format.emin) - self.fraction_bits <= format.quantum_exponent
        )

    def _log_growth(self, terms: int, initial: bool) -> float:
        """One truncation of all terms and one rounding for every block.

        The largest of the block's terms, the accumulator among them, is at least the power of two
        that they are aligned to (a scaled group of fp4 products at least a quarter of it):
        truncation changes each by less than ``2**-fraction_bits`` of that one, which the sum of
        magnitudes exceeds.  The largest itself is exact where its bits fit.  With w for all
        truncations together, one block turns a sum of magnitudes S into at most
        ``(1 + w) (1 + e) S``.
        """
        truncated = self._truncated(terms) * (1 if self.group == 1 else 4)
        step = math.log1p(truncated) + math.log1p(_unit(self.format, self.rounding))
        return _runs(terms, self.block) * step

    def _truncated(self, terms: int) -> float:
        """What truncation takes from a block at most, relative to the power it is aligned to."""
        a, b = self.inputs
        exact = max(a.precision + b.precision - 2, self.initial.precision - 1) <= self.fraction_bits
        count = _runs(min(self.block, terms), self.group) + (0 if exact and self.group == 1 else 1)
        return count * 2.0**-self.fraction_bits

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        """Terms are aligned to no less than the floor or the exponent of a subnormal number."""
        return self._lost(terms, self._subnormal_power(largest))

    def _lost(self, terms: int, power: float) -> float:
        """What underflow can add, given the largest power with which a subnormal product counts."""
        least = max(power, self.initial.smallest_normal)
        if self.exponent_floor is not None:
            least = max(least, 2.0**self.exponent_floor)
        step = (self._truncated(terms) + 2.0**-self.fraction_bits) * least
        return _runs(terms, self.block) * (step + _smallest(self.format, self.rounding))

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`; sums must outlast their own alignment."""
        return self._keeps(self.format)

    def __str__(self) -> str:
        facts = [f"{self.block} terms", f"{self.fraction_bits} bits", str(self.format)]
        return f"tensor core({', '.join([*facts, self.rounding.mode])})"


@dataclass(frozen=True)
class ScaledCore:
    """A tensor core for block-scaled operands, see :func:`fpemu.scaling.matmul`.

    Without groups the scales' exponents are added to those of the products.  Groups of products are
    summed exactly, multiplied by their scales and enter with the scales' exponent.

    Parameters
    ----------
    core : TensorCore
        How scaled products or groups are summed.
    scale : Format
        The format of the scales.
    scale_block : int
        Elements that share a scale, a multiple of the core's group.
    """

    core: TensorCore
    scale: Format
    scale_block: int

    @property
    def format(self) -> Format:
        """The format of the results."""
        return self.core.format

    @property
    def input_formats(self) -> tuple[Format, Format]:
        """The formats of the elements of a and b."""
        return self.core.inputs

    def error_bound(self, terms: int, *, initial: bool = False) -> float:
        """As :meth:`Accumulator.error_bound`, for the scaled terms."""
        return self.core.error_bound(terms, initial=initial)

    @in_default_environment
    def underflow_bound(
        self,
        terms: int,
        *,
        initial: bool = False,
        largest: float | None = None,
        scales: tuple[float, float] | None = None,
    ) -> float:
        """As :meth:`Accumulator.underflow_bound`, for the scaled terms.

        Parameters
        ----------
        terms : int
            The number k of terms, at least 0.
        initial : bool
            Whether the sum begins with a value of its own.
        largest : float, optional
            The largest magnitude of an element; left out, that of the formats.
        scales : pair of float, optional
            The largest scale of a and that of b; left out, that of the format.

        Returns
        -------
        float

        Notes
        -----
        Products are aligned by their exponents, and there a subnormal element or scale counts with
        the exponent of the smallest normal one.  So a product of a subnormal number is aligned as
        one of at most the following magnitude:

        - of a subnormal element, the smallest normal element times the largest element of the other
          operand and both largest scales;
        - of a subnormal scale, the smallest normal scale times the larger of the largest scales and
          the largest elements of both formats.

        The bound is that of the larger one.
        """
        terms = integer("terms", terms, least=0)
        if not terms:
            return 0.0
        a, b = self.core.inputs
        first, second = scales or (self.scale.max_finite, self.scale.max_finite)
        power = max(
            self.core._subnormal_power(largest) * first * second,
            self.scale.smallest_normal * max(first, second) * a.max_finite * b.max_finite,
        )
        growth = 1 + self.error_bound(terms, initial=initial)
        return math.nextafter(_upward(self.core._lost(terms, power) * growth), math.inf)

    def seeded(self, seed: int) -> ScaledCore:
        """As :meth:`Accumulator.seeded`."""
        core = self.core.seeded(seed)
        return replace(self, core=core) if isinstance(core, TensorCore) else self

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return self.core.ignores_trailing_zeros

    def __str__(self) -> str:
        return f"scaled {self.core}, {self.scale_block} to a scale in {self.scale}"

    def _repr_html_(self) -> str:
        return _html.facts(str(self), _facts_of(self))


@dataclass(frozen=True, init=False, repr=False)
class FlooredCore(Accumulator):
    """The fused addition of CDNA3's matrix cores, which rounds down.

    The products of a block are aligned to the largest of their exponents, truncated to
    `fraction_bits` bits and summed exactly; zero products take no part.  That sum is floored to
    `sum_fraction_bits` and the accumulator to `fraction_bits` bits behind the larger of their
    exponents (the sum's is that of its products, a zero accumulator's -126).  The two are added
    exactly, and their sum is floored to `result_fraction_bits` behind its own exponent, at least
    -126, and rounded to float32, to nearest.  A product of magnitude 2**128 or more counts as an
    infinity.

    Parameters
    ----------
    block : int
        Products in a fused addition.
    inputs : Format, str, or a pair of them
        The formats of a and b.
    fraction_bits, sum_fraction_bits, result_fraction_bits : int
        As above.
    halves : bool
        Whether even-indexed and odd-indexed products are truncated and summed apart, and then
        floored to `fraction_bits` bits behind the larger exponent and added.
    reach : int, optional
        Drop the accumulator if its exponent is more than this below the sum's.
    convert : Rounding or str, optional
        How the unit itself rounds inputs that are not members of their format.
    rounding : Rounding or str
        How results are rounded, on real units to nearest.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    References
    ----------
    Xie, Wang, Yang, Yang, "MMA-Sim", arXiv 2511.10909.

    Examples
    --------
    It is not symmetric in sign:

    >>> import fpemu
    >>> core = fpemu.FlooredCore(8, "bfloat16")
    >>> fpemu.dot([1.0], [1.0], core, c=-(2.0**-30)) == 1.0 - 2.0**-24
    np.True_
    >>> fpemu.dot([-1.0], [1.0], core, c=2.0**-30)
    np.float64(-1.0)
    """

    block: int
    inputs: tuple[Format, Format]
    fraction_bits: int
    sum_fraction_bits: int
    result_fraction_bits: int
    halves: bool
    reach: int | None
    convert: Rounding | None

    def __init__(
        self,
        block: int,
        inputs: FormatLike | tuple[FormatLike, FormatLike],
        fraction_bits: int = 24,
        sum_fraction_bits: int = 32,
        result_fraction_bits: int = 31,
        halves: bool = False,
        reach: int | None = None,
        convert: RoundingLike | None = None,
        rounding: RoundingLike = "rne",
    ) -> None:
        _set(self, "block", _positive("block", block))
        _set(self, "inputs", _pair_of_inputs(inputs))
        _set(self, "fraction_bits", _positive("fraction_bits", fraction_bits))
        _set(self, "sum_fraction_bits", _positive("sum_fraction_bits", sum_fraction_bits))
        _set(self, "result_fraction_bits", _positive("result_fraction_bits", result_fraction_bits))
        _set(self, "rounding", as_rounding(rounding))
        _set(self, "halves", bool(halves))
        _set(self, "reach", None if reach is None else integer("reach", reach))
        _set(self, "convert", _optional_rounding(convert))
        bits = (
            max(fraction_bits, sum_fraction_bits, result_fraction_bits)
            + 3
            + math.ceil(math.log2(block + 1))
        )
        if bits > _EXACT_BITS:
            raise ValueError(f"sums take {bits} bits; at most {_EXACT_BITS} are summed exactly")

    @property
    def format(self) -> Format:  # type: ignore[override]
        """The format of the results."""
        return _formats.format("float32")

    def _log_growth(self, terms: int, initial: bool) -> float:
        """One truncation of all products, three or more floorings and one rounding for every block.

        Every one of them changes what it is applied to by less than a unit behind the power of two
        it is aligned to, which the largest term exceeds; an accumulator that is dropped is smaller
        than ``2**-reach`` of it.
        """
        step = math.log1p(self._cut(terms)) + math.log1p(_unit(self.format, self.rounding))
        return _runs(terms, self.block) * step

    def _cut(self, terms: int) -> float:
        """What a block loses before its rounding at most, relative to the power aligned to."""
        unit = 2.0**-self.fraction_bits
        cut = min(self.block, terms) * unit + unit + 2.0**-self.sum_fraction_bits
        cut += 2.0 * 2.0**-self.result_fraction_bits  # of a sum of less than twice the magnitudes
        cut += 2 * unit if self.halves else 0.0
        return cut + (0.0 if self.reach is None else 2.0**-self.reach)

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        """Terms are aligned to no less than the exponent of a subnormal number."""
        least = max(self._subnormal_power(largest), self.format.smallest_normal)
        step = self._cut(terms) * least + _smallest(self.format, self.rounding)
        return _runs(terms, self.block) * step

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`; sums must outlast their own alignment."""
        return self.fraction_bits >= self.format.precision - 1

    def __str__(self) -> str:
        halves = ", halves" if self.halves else ""
        return f"floored core({self.block} terms{halves}, {self.fraction_bits} bits)"


@dataclass(frozen=True, init=False, repr=False)
class Promoted(Accumulator):
    """An outer accumulator that takes an inner one's sum every so many terms.

    ``outer <- round(outer + inner)`` after every `block` terms; the inner sum restarts at +0,
    the outer one starts at +0 or at the value given.

    Parameters
    ----------
    inner : Accumulator
        How the terms of a block are summed.
    format : Format or str
        The format of the outer accumulator.
    block : int
        Terms in a block; the last one may be shorter.
    rounding : Rounding or str
        The rounding of the outer accumulator.

    Raises
    ------
    ValueError
        If `block` is not positive, or a format or mode is unknown.
    TypeError
        If `inner` is no accumulator.

    References
    ----------
    DeepSeek-AI, "DeepSeek-V3 technical report", arXiv 2412.19437, section 3.3.2.

    Examples
    --------
    >>> import fpemu
    >>> inner = fpemu.Sequential("e8m7")
    >>> fpemu.dot([1.0] * 1000, [1.0] * 1000, inner)
    np.float64(256.0)
    >>> fpemu.dot([1.0] * 1000, [1.0] * 1000, fpemu.Promoted(inner, "float32", 128))
    np.float64(1000.0)
    """

    inner: Accumulator
    format: Format
    block: int
    rounding: Rounding

    def __init__(
        self,
        inner: Accumulator,
        format: FormatLike,
        block: int,
        rounding: RoundingLike = "rne",
    ) -> None:
        if not isinstance(inner, Accumulator):
            raise TypeError(f"inner must be an accumulator, not {type(inner).__name__}")
        _set(self, "inner", inner)
        _set(self, "format", _formats.format(format))
        _set(self, "block", _positive("block", block))
        _set(self, "rounding", as_rounding(rounding))

    @property
    def input_formats(self) -> tuple[Format | None, Format | None]:
        """The formats whose members it takes for a and for b; None for any number."""
        return self.inner.input_formats

    @property
    def convert(self) -> Rounding | None:  # type: ignore[override]
        """How the inner accumulator rounds other numbers into its input formats by itself."""
        return self.inner.convert

    def roundings(self, terms: int, *, initial: bool = False) -> tuple[tuple[int, float], ...]:
        """See :meth:`Accumulator.roundings`; those of a block, and all of the outer sum."""
        blocks = _runs(terms, self.block)
        inner = self.inner.roundings(min(self.block, terms))
        return (*inner, (blocks, _unit(self.format, self.rounding)))

    def _log_growth(self, terms: int, initial: bool) -> float:
        """As :meth:`roundings` says, for any inner accumulator."""
        inner = self.inner._log_growth(min(self.block, terms), False)
        outer = math.log1p(_unit(self.format, self.rounding))
        return inner + _runs(terms, self.block) * outer

    def _underflow(self, terms: int, initial: bool, largest: float | None) -> float:
        inner = self.inner._underflow(min(self.block, terms), False, largest)
        return _runs(terms, self.block) * (inner + _smallest(self.format, self.rounding))

    @property
    def ignores_trailing_zeros(self) -> bool:
        """See :attr:`Accumulator.ignores_trailing_zeros`."""
        return self.inner.ignores_trailing_zeros

    def __str__(self) -> str:
        return f"promoted({self.format}, {self.rounding.mode}, every {self.block}: {self.inner})"


def _runs(terms: int, block: int) -> int:
    """How many runs of `block` hold so many terms; numpy's unsigned integers have no negatives."""
    return -(-int(terms) // block)


def _of_product(accumulator: Sequential | Pairwise) -> tuple[tuple[int, float], ...]:
    """The rounding of a term's product, if there is one."""
    if accumulator.fused:
        return ()
    return ((1, _unit(accumulator.product or accumulator.format, accumulator.rounding)),)


def _optional_format(format: FormatLike | None) -> Format | None:
    return None if format is None else _formats.format(format)


def _optional_operands(format: FormatLike | None) -> Format | None:
    return None if format is None else _formats.operand_format(format)


def _pair(inputs: FormatLike | tuple[FormatLike, FormatLike]) -> tuple[Format, Format]:
    """The formats of a and of b."""
    a, b = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    return _formats.operand_format(a), _formats.operand_format(b)


def _pair_of_inputs(
    inputs: FormatLike | tuple[FormatLike, FormatLike],
) -> tuple[Format, Format]:
    """The same, of numbers that float32 holds."""
    pair = _pair(inputs)
    for format in pair:
        if format.carrier != np.float32:
            raise ValueError(f"inputs must be float32 numbers, not {format}")
    return pair


def _permutation(order: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if order is None:
        return None
    indices = tuple(map(int, order))
    if not indices or sorted(indices) != list(range(len(indices))):
        raise ValueError(f"order must be a permutation of 0, 1, ..., not {indices}")
    return indices


def _optional_rounding(rounding: RoundingLike | None) -> Rounding | None:
    return None if rounding is None else as_rounding(rounding)


def _optional_positive(name: str, value: Any) -> int | None:
    return None if value is None else _positive(name, value)


def _positive(name: str, value: Any) -> int:
    return integer(name, value, least=1, most=2**31 - 1)  # as kernels count


def _set(instance: Any, name: str, value: Any) -> None:
    """Set a field of a frozen dataclass while it is being made."""
    object.__setattr__(instance, name, value)


KINDS: Final[dict[str, type[Accumulator]]] = {
    "sequential": Sequential,
    "blocked": Blocked,
    "pairwise": Pairwise,
    "chained": Chained,
    "exact": Exact,
    "tensor_core": TensorCore,
    "floored_core": FlooredCore,
    "promoted": Promoted,
}
"""The classes of accumulators by the names that files and commands have for them."""

_SHOWN_TERMS: Final = 1024


def _facts_of(accumulator: Accumulator | ScaledCore) -> list[tuple[str, object]]:
    """What a notebook shows of an accumulator: what it consists of, and its error."""
    parts = fields(accumulator) if is_dataclass(accumulator) else ()
    facts = [(part.name, getattr(accumulator, part.name)) for part in parts]
    rows: list[tuple[str, object]] = []
    for name, value in facts:
        if value is None:
            continue
        pair = " and ".join(map(str, value)) if isinstance(value, tuple) else value
        rows.append((name, pair.mode if isinstance(pair, Rounding) else pair))
    try:
        bound = accumulator.error_bound(_SHOWN_TERMS)
    except (NotImplementedError, TypeError, ValueError):  # of one's own that states none
        return rows
    sums = f"{bound:.3g} of the sum of |a b|" if bound < math.inf else "not bounded"
    return [*rows, (f"error of {_SHOWN_TERMS:,} terms", f"at most {sums}")]


AccumulatorLike: TypeAlias = Accumulator | FormatLike


def as_accumulator(accumulator: Any) -> Any:
    """An accumulator itself, or the sequential one of a format.

    Raises
    ------
    ValueError
        If there is no format of a name; the message says where units have theirs.
    """
    if isinstance(accumulator, Accumulator | ScaledCore):
        return accumulator
    if isinstance(accumulator, str) and "." in accumulator:
        raise ValueError(
            f"{accumulator!r} is no format: a matrix unit is fpemu.devices.get({accumulator!r})"
        )
    try:
        return Sequential(accumulator)
    except TypeError:  # neither a format nor a name or dtype of one
        return accumulator
