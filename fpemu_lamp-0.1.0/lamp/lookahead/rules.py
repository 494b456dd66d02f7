"""Rules of look-ahead recomputation and their settings, as data.

References
----------
Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
arXiv 2601.21623.  Version 1 has the rule ``normwise``; version 2, of May 2026, has ``strict`` and
``relaxed``, thresholds that may shrink as rows grow, and a control that shuffles whole rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fpemu._listing import Listed
from fpemu._reprs import constructed
from lamp.machines import layer_numbers, spelled

__all__ = ["CONTROLS", "LAMP", "PLACES", "RULES", "SCOPES", "WEIGHTS", "Rule"]

PLACES: Final = ("softmax", "norm", "activation", "logits")
"""The functions f whose arguments are recomputed; the arguments of the last softmax are logits."""

WEIGHTS: Final = ("one", "abs", "products", "norms", "running_1", "running_2", "errors")
"""What errors of scores are assumed to be proportional to: 1, ``|y|``, ``|q|^T |k|``,
``||q|| ||k||``, the running sums R1 and R2 of their accumulation, or, as the limit of what weights
can do, the errors themselves: the distances from recomputed scores, which no machine knows before
it has recomputed them all."""

SCOPES: Final = ("all", "row")
"""What a budget is a share of: all components of a call, or the components of each row."""

CONTROLS: Final = ("none", "causal", "padded")
"""Where the components of a rule are moved at random, as a control: nowhere; among the components
of the row that exist; or among all columns, as version 2 of the paper does, whose masked columns
are then lost."""


@dataclass(frozen=True)
class Rule:
    """A rule that picks components.

    Parameters
    ----------
    name : str
        What it is called.
    summary : str
        What it picks.
    optimal : str
        In what sense no other choice is better; empty if there is none.
    sensitivity : {"spread", "z", "given", "argument", "running", None}
        The part of a component's score that depends on f: ``z (1 - z)``, ``z``, or what the caller
        gives.  ``"argument"`` and ``"running"`` are the whole scores of rules of y itself,
        ``2 z (1 - z) |y|`` and ``|y| exp(y)`` over the row's largest, which are compared in
        float64.  None for rules without scores.
    power : int
        The power of the weights in the score.
    condition : bool
        Whether tau bounds a condition number of each row; otherwise it is a threshold of scores.
    taus : str
        The interval that tau lies in.
    nested : bool
        Whether what a stricter limit picks is always part of what a looser one picks.  Only then
        can several precisions share the components.
    """

    name: str
    summary: str
    optimal: str
    sensitivity: str | None
    power: int = 1
    condition: bool = False
    taus: str = "[0, inf)"
    nested: bool = True

    @property
    def of_arguments(self) -> bool:
        """Whether scores are computed from y, in float64."""
        return self.sensitivity in ("argument", "running")

    def places(self, *, tau: bool) -> tuple[str, ...]:
        """The places it applies to, with a tau or with a budget; the default place comes first."""
        if self.name in PLACES:
            return (self.name,)
        if self.name == "random" and not tau:
            return PLACES
        return ("softmax",) if self.name == "value_aware" else ("softmax", "logits")

    def check_tau(self, tau: float) -> None:
        """Raise a ValueError if tau is out of the rule's range."""
        low, high = (float(end.strip("[]() ")) for end in self.taus.split(","))
        above = tau > low or (tau == low and self.taus.startswith("["))
        below = tau < high or (tau == high and self.taus.endswith("]"))
        if not (above and below):
            raise ValueError(f"tau of {self.name} must lie in {self.taus}, not {tau!r}")


_RULES: Final = (
    Rule(
        "normwise",
        "version 1 of the paper: descending z while those picked sum to less than "
        "2 - tau - 2 z_min",
        "",
        None,
        0,
        condition=True,
        taus="(1, 2]",
    ),
    Rule(
        "strict",
        "version 2 of the paper: 2 z (1 - z) |y| above tau",
        "least first-order bound of the error of z in the 1-norm, for errors in proportion to y",
        "argument",
        0,
    ),
    Rule(
        "relaxed",
        "version 2 of the paper: |y| exp(y) above tau times the largest of the row",
        "",
        "running",
        0,
        taus="[0, 1]",
    ),
    Rule(
        "normwise_optimal",
        "the fewest components with sum z + max(0, 1 - 2 z_min) of the others at most tau",
        "fewest components for the infinity norm of the relative condition matrix",
        None,
        0,
        condition=True,
        nested=False,
    ),
    Rule(
        "componentwise",
        "the fewest with sum w z + max(0, max w (1 - 2 z)) of the others at most tau",
        "fewest components for the worst relative error of a probability",
        None,
        1,
        condition=True,
        nested=False,
    ),
    Rule(
        "total_variation",
        "the largest w z (1 - z)",
        "least first-order bound of the error of z in the 1-norm",
        "spread",
    ),
    Rule(
        "kl",
        "the largest w**2 z (1 - z)",
        "least expected Kullback-Leibler divergence of z, for independent errors",
        "spread",
        2,
    ),
    Rule(
        "value_aware",
        "the largest w z ||v - o||",
        "least first-order bound of the error of softmax(y) V",
        "given",
    ),
    Rule(
        "activation",
        "the largest w times the sensitivity of an activation",
        "least worst error of a component, or least summed error after the next matrix",
        "given",
    ),
    Rule(
        "norm",
        "the largest w times the sensitivity of a norm",
        "least first-order bound by columns",
        "given",
    ),
    Rule("largest", "the largest z", "", "z", 0),
    Rule(
        "random",
        "the control: components drawn at random",
        "",
        None,
        0,
        condition=True,
        taus="(1, 2]",
    ),
)
RULES: Final = {rule.name: rule for rule in _RULES}
"""The rules by name."""

_SHORT: Final = {"tv": "total_variation"}
_OPTIONS: Final[dict[str, Any]] = {
    "weights": str,
    "seed": int,
    "scope": str,
    "leading_columns": int,
    "length": int,
    "control": str,
    "layers": str,
}


def _option(text: str) -> tuple[str, Any]:
    """A field by name, as :meth:`LAMP.parse` reads it."""
    name, equals, value = text.partition("=")
    if name not in _OPTIONS or not equals:
        raise ValueError(f"{text!r} is not one of {', '.join(f'{name}=...' for name in _OPTIONS)}")
    return name, _OPTIONS[name](value)


def _amounts(text: str) -> dict[str, Any]:
    """Taus, or budgets in percent, one for each precision, by the name of their field."""
    parts = text.split(",")
    shares = [part.endswith("%") for part in parts]
    if any(shares) != all(shares):
        raise ValueError(f"{text!r} mixes taus with shares in percent")
    return {"budget" if all(shares) else "tau": tuple(_amount(part) for part in parts)}


def _amount(text: str) -> float:
    """A tau, or a budget in percent.  Decimals are exact, so that 7% is 0.07."""
    try:
        number = Decimal(text.removesuffix("%"))
    except InvalidOperation:
        raise ValueError(f"{text!r} is neither a tau nor a share in percent") from None
    return float(number / 100 if text.endswith("%") else number)


def _each(given: Any, of: Callable[[Any], Any]) -> Any:
    """What is made of one amount, or of each of several; a tuple of one stands for it."""
    if not isinstance(given, (tuple, list)):
        return of(given)
    found = tuple(of(each) for each in given)
    return found[0] if len(found) == 1 else found


def _plain(name: str, value: Any, kind: type, to: type) -> Any:
    """A field as a number of Python's, so that equal settings have equal text forms."""
    if not isinstance(value, kind) or isinstance(value, bool):
        number = "a number" if to is float else "an integer"
        raise TypeError(f"{name} must be {number}, not {value!r}")
    try:
        return to(value)
    except OverflowError:
        raise ValueError(f"{name} is too large") from None


def _sum(shares: tuple[float, ...]) -> float:
    """The sum of the decimals that shares are written as, so that 10% and 1% are 11%."""
    return float(sum(Decimal(repr(share)) for share in shares))


def _percent(share: float) -> str:
    return f"{(Decimal(repr(share)) * 100).normalize():f}%"


@dataclass(frozen=True)
class LAMP(metaclass=Listed):
    """Look-ahead recomputation: a rule and how much it may recompute.

    Parameters
    ----------
    rule : str
        One of :data:`RULES`.  ``"normwise"`` is the rule of the paper's version 1: in each row,
        pick probabilities in descending order while the sum of those picked before plus twice the
        row's smallest is below ``2 - tau``.  It may pick one component more than the fewest.
        ``"strict"`` and ``"relaxed"`` are those of version 2.  ``"random"`` is a control: as many
        components as the normwise rule would pick in a row, or a budget, drawn at random.
    tau : float or tuple of float, optional
        For rules with scores, a threshold for all rows: scores above it are picked.  For the other
        rules, the largest allowed condition number, for normwise and random in (1, 2].  The smaller
        tau, the more is recomputed.  Several, ascending, are for machines that recompute in several
        precisions: a component is recomputed by the last product whose tau picks it.
    budget : float or tuple of float, optional
        Instead of `tau`: the share of components to recompute; their number is rounded down.
        Several are the shares of the products that recompute, in their order: the highest scores
        belong to the last one.
    weights : str
        One of :data:`WEIGHTS`, for rules that take weights: what errors are proportional to.
    seed : int
        The seed of rule random and of controls.
    scope : {"all", "row"}
        Whether a budget is a share of all components of a layer or of each row.
    leading_columns : int
        The number of leading columns that are recomputed whatever the rule, for attention sinks.
        They count first towards a budget; rules without scores pick them in addition.
    length : int
        For the rules strict and relaxed with a tau, a number of components: the threshold of a row
        of n is ``min(1, tau sqrt(length / n))``, in version 2 of the paper with 1024.  0 stands for
        one threshold for all rows.
    control : {"none", "causal", "padded"}
        Another control, for any rule: what it picks in a row is moved to places drawn at random,
        see :data:`CONTROLS`.
    on : {"softmax", "norm", "activation", "logits"}
        The place whose arguments are recomputed, by default the rule's own.
    layers : str or sequence of int
        The layers that the rule is for, as a machine's: ``"0-2,-1"``.  By default, those that no
        other rule for the place is for.  Logits are in no layer.

    Attributes
    ----------
    levels : tuple of LAMP
        The rule with one amount for each precision.
    is_causal, needs_all_rows : bool
        Whether what is picked in a row does not depend on the rows after it; whether it depends on
        any other.

    Raises
    ------
    ValueError
        If a field is out of range or does not belong to the rule; if there are several amounts for
        a rule whose choices are not parts of each other (normwise_optimal and componentwise).
    TypeError
        If `tau` or `budget` is no number, or `seed` or `leading_columns` no integer.

    Examples
    --------
    Settings have the text form ``PLACE:RULE:AMOUNT``, where an amount in percent is a budget and
    any other is tau; commas separate several.  Further fields follow by name.  ``tv`` is short for
    total_variation:

    >>> import lamp
    >>> settings = lamp.LAMP.parse("softmax:tv:1%:weights=abs")
    >>> settings == lamp.LAMP("total_variation", budget=0.01, weights="abs")
    True
    >>> str(settings)
    'softmax:total_variation:1%:weights=abs'
    >>> lamp.LAMP.parse("softmax:kl:10%,1%").budget
    (0.1, 0.01)

    Rules for the same place have layers of their own, here the first and last and the rest:

    >>> rules = [lamp.LAMP.parse(text) for text in ("softmax:kl:5%:layers=0,-1", "softmax:kl:1%")]
    >>> rules[0].layers
    '0,-1'
    """

    rule: str = "normwise"
    tau: Any = None
    budget: Any = None
    weights: str = "one"
    seed: int = 0
    scope: str = "all"
    leading_columns: int = 0
    on: str = ""
    length: int = 0
    control: str = "none"
    layers: Any = ""

    def __post_init__(self) -> None:
        if isinstance(self.rule, str):
            object.__setattr__(self, "rule", _SHORT.get(self.rule, self.rule))
        if not isinstance(self.rule, str) or self.rule not in RULES:
            raise ValueError(f"unknown rule {self.rule!r}: expected {', '.join(RULES)}")
        if self.weights not in WEIGHTS:
            raise ValueError(f"unknown weights {self.weights!r}: expected {', '.join(WEIGHTS)}")
        if self.scope not in SCOPES:
            raise ValueError(f"unknown scope {self.scope!r}: expected {', '.join(SCOPES)}")
        if self.control not in CONTROLS:
            raise ValueError(f"unknown control {self.control!r}: expected {', '.join(CONTROLS)}")
        if (self.tau is None) == (self.budget is None):
            given = "none" if self.tau is None else f"tau {self.tau} and budget {self.budget}"
            raise ValueError(f"rule {self.rule!r} takes either tau or a budget, not {given}")
        limit = "budget" if self.tau is None else "tau"
        amounts = _each(getattr(self, limit), lambda given: _plain(limit, given, Real, float))
        object.__setattr__(self, limit, amounts)
        for name in ("seed", "leading_columns", "length"):
            object.__setattr__(self, name, _plain(name, getattr(self, name), Integral, int))
        self._check_amounts()
        if self.weights != "one" and not RULES[self.rule].power:
            raise ValueError(f"rule {self.rule!r} takes no weights")
        for name in ("leading_columns", "length"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")
        if self.length and not (RULES[self.rule].of_arguments and self.budget is None):
            raise ValueError("length belongs to the rules strict and relaxed with a tau")
        if self.control != "none" and self.rule == "random":
            raise ValueError("rule 'random' is a control itself: it takes no other")
        places = RULES[self.rule].places(tau=self.tau is not None)
        if not self.on:
            object.__setattr__(self, "on", places[0])
        if self.on not in places:
            kind = "tau" if self.tau is not None else "a budget"
            raise ValueError(
                f"rule {self.rule!r} with {kind} is for {' or '.join(places)}, not {self.on!r}"
            )
        self._check_layers()

    def _check_layers(self) -> None:
        """Spell the layers in one way; raise a ValueError or TypeError if they are none."""
        if isinstance(self.layers, str) and not self.layers:
            return
        if self.on == "logits":
            raise ValueError(
                f"logits are in no layer, so that a rule for them has no layers: {self}"
            )
        numbers = sorted(set(layer_numbers(self.layers)), key=lambda n: (n < 0, n))
        object.__setattr__(self, "layers", spelled(numbers))

    def _check_amounts(self) -> None:
        """Raise a ValueError if taus or budgets are out of range or out of order."""
        for tau in self._amounts if self.tau is not None else ():
            RULES[self.rule].check_tau(tau)
        for share in self._amounts if self.budget is not None else ():
            if not 0 <= share <= 1:
                raise ValueError(f"budget must be a share in [0, 1], not {share!r}")
        if not self._amounts:
            raise ValueError("there must be an amount for each precision, not none")
        if len(self._amounts) == 1:
            return
        if not RULES[self.rule].nested:
            raise ValueError(
                f"rule {self.rule!r} takes one amount: what it picks with a stricter one is not "
                "part of what it picks with a looser one"
            )
        if self.tau is not None and list(self.tau) != sorted(set(self.tau)):
            raise ValueError(f"several tau must ascend, unlike {self.tau!r}")
        if self.budget is not None and _sum(self.budget) > 1:
            raise ValueError(f"budgets must sum to 1 at most, unlike {self.budget!r}")

    @property
    def _amounts(self) -> tuple[float, ...]:
        amounts = self.budget if self.tau is None else self.tau
        return amounts if isinstance(amounts, tuple) else (amounts,)

    @property
    def levels(self) -> tuple[LAMP, ...]:
        """The rule with one amount for each precision: what is recomputed in it or a later one."""
        if len(self._amounts) == 1:
            return (self,)
        if self.tau is not None:
            return tuple(replace(self, tau=tau) for tau in self.tau)
        shares = (_sum(self.budget[level:]) for level in range(len(self.budget)))
        return tuple(replace(self, budget=share) for share in shares)

    @classmethod
    def parse(cls, text: str) -> LAMP:
        """Read settings from their text form ``PLACE:RULE:AMOUNT[,AMOUNT...][:FIELD=VALUE...]``.

        Parameters
        ----------
        text : str

        Returns
        -------
        LAMP

        Raises
        ------
        ValueError
            If the text does not have that form, or a field is out of range or given twice.
        """
        if not isinstance(text, str):
            raise TypeError(f"settings must be a text such as 'softmax:tv:1%', not {text!r}")
        place, *parts = text.split(":")
        if place not in PLACES:
            raise ValueError(f"{text!r} begins with {place!r}: expected one of {', '.join(PLACES)}")
        if len(parts) < 2:
            raise ValueError(
                f"{text!r} is not PLACE:RULE:AMOUNT, such as softmax:tv:0.01 or norm:norm:1%"
            )
        rule, amount, *options = parts
        try:
            values: dict[str, Any] = {}
            for name, value in map(_option, options):
                if name in values:
                    raise ValueError(f"{name} is given twice")
                values[name] = value
            return cls(rule, on=place, **values, **_amounts(amount))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from error

    def __repr__(self) -> str:
        return constructed(self, "lamp")

    def __str__(self) -> str:
        written = repr if self.budget is None else _percent
        amount = ",".join(written(each) for each in self._amounts)
        shown = (field for field in fields(self) if field.name in _OPTIONS)
        options = (
            f"{field.name}={getattr(self, field.name)}"
            for field in shown
            if getattr(self, field.name) != field.default
        )
        return ":".join([self.on, self.rule, amount, *options])

    def thresholds(self, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """The tau of each row, smaller for a longer row if the settings have a `length`.

        The settings have one tau.

        Parameters
        ----------
        lengths : ndarray of int64, shape (rows,)
            How many components each row has.

        Returns
        -------
        ndarray of float64, shape (rows,)
        """
        taus = np.full(len(lengths), self.tau, np.float64)
        if not self.length:
            return taus
        return np.minimum(1.0, taus * np.sqrt(self.length / np.maximum(lengths, 1)))

    @property
    def needs_all_rows(self) -> bool:
        """Whether what is picked in a row depends on the other rows."""
        return self.budget is not None and self.scope == "all"

    @property
    def is_causal(self) -> bool:
        """Whether what is picked in a causal row does not depend on the rows after it.

        It does at random, as draws are keyed by the number of the row, and for the normwise rule
        with a tau: a row shorter than the array ends in zeros, which are its smallest.
        """
        if self.needs_all_rows or self.rule == "random" or self.control != "none":
            return False
        return not (self.rule == "normwise" and self.tau is not None)
