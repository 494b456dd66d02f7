"""Attention on a machine, with look-ahead recomputation of its scores.

The scores of a row are accumulated in low precision, divided by the square root of the head
dimension and rounded again.  Their softmax tells which of them matter; these alone are taken from
high precision, and the softmax is computed again.  A machine may go through the keys by tiles
instead, see :mod:`lamp.models.tiles`.

Attention is causal unless a mask says which keys each row sees.  Sums over keys begin with the
first key that a row sees, so that neither padding in front of a text nor a cache that has dropped
old keys shifts the blocks of a matrix unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu
from fpemu import Rounding, Sequential
from fpemu._kernels import elementary, launching
from lamp._kernels import recomputing
from lamp._kernels.recomputing import Threshold
from lamp._kernels.rows import mapped
from lamp._kernels.transformer import quotient_rows, softmax_rows, softmax_workspace
from lamp.lookahead import (
    LAMP,
    LookAhead,
    Recomputation,
    error_weights,
    put_levels,
    select_rows,
    threshold_of,
    value_distances,
)
from lamp.machines import Function, Hardware, Product
from lamp.models import tiles
from lamp.models.layers import (
    holds,
    left_operand,
    overflowed,
    products,
    right_operand,
    sums_are_output,
    written_type,
)
from lamp.models.seen import Seen

__all__ = ["Attended", "Variant", "attention", "softmax"]

_QUOTIENT_COST, _SOFTMAX_COST = 0.5, 4.0  # nanoseconds of a score
_GROUP_BYTES: Final = 2**23  # of the scores of a group of heads: memory that is used again
_DRAWN_ROWS: Final = 1024  # rows of probabilities whose random bits go by their first row
_ROUNDED_ROWS: Final = 256  # without random bits: they are float64 for a while, in a cache


@dataclass(frozen=True)
class Variant:
    """What attention of a model does otherwise than that of GPT-2 and Llama.

    Scores are divided by the square root of d, or multiplied by `scale`; the exact result is
    rounded once into the output of the step scores.  They are then soft-capped, and a bias is
    added; after each of these they are rounded into that output again.

    Parameters
    ----------
    mask : ndarray of bool, shape (rows, tokens), optional
        Which keys each row sees; by default those up to its own.
    scale : float, optional
        What sums are multiplied by.
    cap : float, optional
        Scores y become ``cap * tanh(y / cap)``, computed in float64.
    bias : ndarray, shape (heads, rows, tokens), optional
        Added to the scores.
    sinks : ndarray, shape (heads,), optional
        A score for each head that every row has beside its own, and that no value belongs to.
    """

    mask: NDArray[np.bool_] | None = None
    scale: float | None = None
    cap: float | None = None
    bias: NDArray[Any] | None = None
    sinks: NDArray[Any] | None = None


class Attended(NamedTuple):
    """Result of :func:`attention`.

    Parameters
    ----------
    output : ndarray, shape (heads, rows, width of values)
        Members of the output of the step values.
    recomputation : Recomputation
        How many of the scores of keys that a row sees were recomputed.
    """

    output: NDArray[Any]
    recomputation: Recomputation


def attention(
    query: NDArray[Any],
    key: NDArray[Any],
    value: NDArray[Any],
    *,
    hardware: Hardware,
    lamp: LAMP | None = None,
    layer: int = 0,
    scaled: bool = True,
    variant: Variant | None = None,
    observe: Callable[[str, NDArray[Any]], None] | None = None,
) -> Attended:
    """Attention of all heads of a layer, causal by default.

    Parameters
    ----------
    query : ndarray, shape (heads, rows, d)
        Queries of the last tokens, in the hardware's carrier.
    key, value : ndarray, shape (key heads, tokens, d)
        Keys and values of all tokens so far; each key head serves ``heads // key heads`` heads.
        Values may have another width than keys.
    hardware : Hardware
        The arithmetic of every step.
    lamp : LAMP, optional
        The rule; nothing is recomputed without one, or if scores are in high precision anyway.
    layer : int
        The layer's number, which random selections depend on.
    scaled : bool
        Whether scores are divided by the square root of d, rounded into float64.
    variant : Variant, optional
        A mask and what else a model does to its scores.
    observe : callable, optional
        Is shown, by name, ``"low_scores"`` (before recomputation), ``"mask"`` (which are
        recomputed, or by which product, see :func:`lamp.select`), ``"scores"`` and
        ``"probabilities"``, all of shape (heads, rows, tokens) with zeros for keys that a row does
        not see.  By tiles there are no probabilities: those of the scores in float64 are shown.
        By rows a rule looks at more, which is shown behind the low scores: ``"seen"``, of shape
        (rows, tokens), which keys a row sees; ``"high_scores"``, in the highest precision; and
        ``"error_weights"``, if it has weights.

    Returns
    -------
    output : ndarray, shape (heads, rows, width of values)
    recomputation : Recomputation

    Raises
    ------
    ValueError
        If attention goes by tiles and the rule is another than the relaxed one with a tau, or a
        mask is not causal, or there are sinks; or if the rule has not an amount for each product
        that recomputes.
    """
    tiles.check_rule(lamp, hardware.attention)
    LookAhead(softmax=lamp).check(hardware)
    heads, count, dimension = query.shape
    tokens, shared = key.shape[1], heads // key.shape[0]
    call = _Call(
        hardware,
        lamp if hardware.scores_are_low else None,
        divisor=float(np.sqrt(dimension)) if scaled else 1.0,
        seen=_seen(variant, count, tokens),
        variant=variant or Variant(),
        layer=layer,
        observe=observe,
    )
    if hardware.attention is not None:
        _check_tiled(call)
    # The channels of both factors are put into the order in which all products sum them.
    order = None if hardware.scores.order is None else hardware.scores.order.of_layer(layer)
    folded = shared > 1 and order is None and call.folds
    output = np.empty((heads, count, value.shape[2]), query.dtype)
    counted = None
    of_group = _by_rows if hardware.attention is None else _by_tiles
    step = _heads_together(query.itemsize * count * tokens, shared if folded else 1)
    for group in _groups(heads, heads if call.needs_all_heads else step):
        keys = _key_heads(group, shared, folded)
        q, k, v = query[group], key[keys], value[keys]
        if order is not None:
            q, k = (np.take_along_axis(x, order[group, np.newaxis], axis=2) for x in (q, k))
        output[group], found = of_group(q, k, v, group, call)
        counted = found if counted is None else counted + found
    assert counted is not None  # there is a head
    return Attended(output, counted)


def _seen(variant: Variant | None, rows: int, tokens: int) -> Seen:
    """The keys that each row sees."""
    if variant is None or variant.mask is None:
        return Seen.causal(rows, tokens)
    return Seen.of(variant.mask)


def _check_tiled(call: _Call) -> None:
    """Raise a ValueError if attention by tiles does not have what a model asks for."""
    if not call.seen.is_causal:
        raise ValueError("attention by tiles is causal: it takes no other mask")
    if call.variant.sinks is not None:
        raise ValueError("attention by tiles has no sinks")


@dataclass(frozen=True)
class _Call:
    """What all heads of a call of attention have in common.

    Parameters
    ----------
    hardware : Hardware
    rule : LAMP, optional
        The rule that selects scores; None if nothing is recomputed.
    divisor : float
        What scores are divided by, if the variant has no scale.
    seen : Seen
        The keys that each row sees.
    variant : Variant
    layer : int
    observe : callable, optional
    """

    hardware: Hardware
    rule: LAMP | None
    divisor: float
    seen: Seen
    variant: Variant
    layer: int
    observe: Callable[[str, NDArray[Any]], None] | None

    @property
    def needs_all_heads(self) -> bool:
        """Whether all heads must be computed at a time."""
        return self.observe is not None or (self.rule is not None and self.rule.needs_all_rows)

    @property
    def folds(self) -> bool:
        """Whether heads may share keys and values as they lie.

        No rule looks at those of each, and no random bits go by their places.
        """
        machine = self.hardware
        stochastic = machine.scores.is_stochastic or machine.values.is_stochastic
        return not (stochastic or self.rule is not None or machine.attention is not None)

    def recomputed(self, mask: NDArray[Any] | None, query: NDArray[Any]) -> Recomputation:
        """How many of the scores of some heads are recomputed, those of a mask."""
        none = np.zeros(0, np.bool_)
        return Recomputation.of(
            none if mask is None else mask,
            self.hardware.scores,
            self.hardware,
            components=len(query) * int(self.seen.lengths.sum()),
            terms=query.shape[2],
        )


def _heads_together(head_bytes: int, multiple: int) -> int:
    """How many heads are computed at a time, as memory allows: a multiple of a number."""
    return max(1, _GROUP_BYTES // max(1, head_bytes * multiple)) * multiple


def _groups(heads: int, step: int) -> Iterator[slice]:
    """Heads to compute at a time; no result depends on the grouping."""
    for start in range(0, heads, step):
        yield slice(start, min(start + step, heads))


def _key_heads(group: slice, shared: int, folded: bool) -> Any:
    """The key heads of some heads, of which some share each: as views, or copied for each head."""
    if folded or shared == 1:
        return slice(group.start // shared, group.stop // shared)
    return np.arange(group.start, group.stop) // shared


def _folded(x: NDArray[Any], key_heads: int) -> NDArray[Any]:
    """Rows of the heads that share a key head, as rows of one matrix."""
    heads, rows, width = x.shape
    return x.reshape(key_heads, heads // key_heads * rows, width)


def _by_rows(
    query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], group: slice, call: _Call
) -> Attended:
    """The softmax of a group's scores, recomputed if there is a rule, times values."""
    rule, step = call.rule, call.hardware.scores
    scores = _Scores(query, key, step, _Form.of(call, group), check=rule is not None)
    if call.observe is not None:
        call.observe("low_scores", call.seen.spread(scores.values).copy())
    mask: NDArray[Any] | None
    threshold = None if rule is None else _threshold(scores, rule, call)
    if threshold is not None:
        mask, probabilities = _recompute_above(scores, threshold, call)
    else:
        mask = None if rule is None else _recompute(scores, value, rule, group, call)
        unseen = call.observe is None  # nobody asks for the scores again
        probabilities = scores.softmax(call.hardware.softmax, in_place=unseen)
        _show(call, scores, mask, probabilities)
    output = _weighted(probabilities, value, call.hardware.values, call.seen)
    return Attended(output, call.recomputed(mask, query))


def _by_tiles(
    query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], group: slice, call: _Call
) -> Attended:
    """The same by tiles: parts of tiles are recomputed, and the softmax is an online one."""
    rule, hardware = call.rule, call.hardware
    scores = _Scores(query, key, hardware.scores, _Form.of(call, group), check=bool(rule))
    if call.observe is not None:
        call.observe("low_scores", scores.values.copy())
    mask, found = None, tiles.Recomputed.nothing()
    if rule is not None:
        high, overflow = scores.by(hardware.levels[-1]).values, scores.overflowed
        np.copyto(scores.values, high, where=overflow)
        tiled, lengths = hardware.attention, call.seen.lengths
        found = tiles.recompute(scores.values, high, overflow, lengths, rule, tiled)
        if call.observe is not None:
            mask = tiles.mask_of(found.parts, lengths, tiled)
    if call.observe is not None:
        _show(call, scores, mask, scores.softmax(Function("float64")))
    output = tiles.weighted(scores.values, call.seen.lengths, value, hardware)
    counted = call.recomputed(None, query)
    if rule is not None:
        counted = replace(counted, selected=found.selected, tiles=found.tiles)
    return Attended(output, counted)


def _show(
    call: _Call,
    scores: _Scores,
    mask: NDArray[Any] | None,
    probabilities: NDArray[Any],
) -> None:
    """Show the observer what became of the scores."""
    if call.observe is not None:
        mask = np.zeros(scores.values.shape, np.bool_) if mask is None else mask
        shown = {"mask": mask, "scores": scores.values, "probabilities": probabilities}
        for name, numbers in shown.items():
            call.observe(name, call.seen.spread(numbers))


def _recompute(
    scores: _Scores, value: NDArray[Any], rule: LAMP, group: slice, call: _Call
) -> NDArray[Any]:
    """Take the scores that a rule selects from high precision; returns which these are.

    Those that overflowed are taken whatever the rule, and before it looks at the scores.
    """
    # All scores in high precision take less time than picking out the selected ones.
    levels = [scores.by(step).values for step in call.hardware.levels]
    high, overflow = levels[-1], scores.overflowed
    np.copyto(scores.values, high, where=overflow)
    probabilities = scores.softmax(call.hardware.softmax)
    width = overflow.shape[-1]
    weights = scores.error_weights(rule.weights, high)
    if call.observe is not None:
        call.observe("seen", call.seen.mask)
        call.observe("high_scores", call.seen.spread(high))
        if weights is not None:
            call.observe("error_weights", call.seen.spread(np.abs(weights)))
    selected = select_rows(
        probabilities.reshape(-1, width),
        scores.row_lengths,
        rule,
        weights=None if weights is None else weights.reshape(-1, width),
        sensitivity=_sensitivity(rule, probabilities, value, call.seen),
        arguments=scores.values.reshape(-1, width),
        stream=call.layer,
        first_row=group.start * len(call.seen.lengths),
    )
    mask = selected.reshape(overflow.shape)
    put_levels(scores.values, levels, mask, overflow)
    return mask


def _threshold(scores: _Scores, rule: LAMP, call: _Call) -> Threshold | None:
    """The threshold by which scores can be recomputed in one pass; None if they cannot."""
    alone = call.observe is None and not scores.has_sinks
    if alone and _stores_softmax(scores.values, call.hardware.softmax):
        return threshold_of(rule, scores.row_lengths)
    return None


def _recompute_above(
    scores: _Scores, threshold: Threshold, call: _Call
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """What :func:`_recompute` and the softmax after it do, in one pass over the rows."""
    assert call.rule is not None
    high = scores.by(call.hardware.levels[-1]).values
    weights = scores.error_weights(call.rule.weights, high)
    given = (scores.values, high, scores.overflowed, scores.values if weights is None else weights)
    low, high, mask, weights = (x.reshape(-1, x.shape[-1]) for x in given)
    high = np.ascontiguousarray(high, low.dtype)
    rows = recomputing.Scores(low, high, mask, weights, scores.row_lengths)
    probabilities = recomputing.softmax_above(rows, threshold)
    return mask, probabilities.reshape(scores.values.shape)


def _sensitivity(
    rule: LAMP, probabilities: NDArray[Any], value: NDArray[Any], seen: Seen
) -> NDArray[Any] | None:
    """For a rule that looks behind the softmax: probabilities times distances of values."""
    if rule.rule != "value_aware":
        return None
    distances = seen.packed(value_distances(seen.spread(probabilities), value))
    distances *= probabilities
    return distances.reshape(-1, distances.shape[-1])


def _weighted(
    probabilities: NDArray[Any], value: NDArray[Any], step: Product, seen: Seen
) -> NDArray[Any]:
    """Probabilities times values, from the first key that each row sees."""
    probabilities = seen.spread(probabilities)
    if seen.columns is None or _ignores_leading_zeros(step):
        return _sums_of_values(probabilities, value, step)
    out = np.empty((*probabilities.shape[:2], value.shape[2]), probabilities.dtype)
    for rows, first in seen.groups():
        out[:, rows] = _sums_of_values(probabilities[:, rows, first:], value[:, first:], step)
    return out


def _sums_of_values(
    probabilities: NDArray[Any], value: NDArray[Any], step: Product
) -> NDArray[Any]:
    a = left_operand(_folded(probabilities, len(value)), step)
    sums = products(a, right_operand(value, step, step.scale), step)
    sums = sums.reshape(*probabilities.shape[:2], value.shape[2])
    if sums_are_output(step):
        return sums
    return np.asarray(fpemu.round(sums, step.output, step.rounding))


def _ignores_leading_zeros(step: Product) -> bool:
    """Whether zeros in front of the terms never change a sum."""
    accumulator = step.accumulator
    plain = isinstance(accumulator, Sequential) and accumulator.rounding == Rounding()
    return plain and not step.is_stochastic


# --- scores ---------------------------------------------------------------------------------------


class _Form(NamedTuple):
    """What becomes of the sums of a group of heads: see :class:`Variant`."""

    divisor: float
    seen: Seen
    scale: float | None
    cap: float | None
    bias: NDArray[Any] | None
    sinks: NDArray[Any] | None

    @classmethod
    def of(cls, call: _Call, group: slice) -> _Form:
        """That of a group of a call's heads."""
        given = call.variant
        bias = None
        if given.bias is not None:  # that of a key that a row does not see may be any number
            bias = call.seen.cleared(call.seen.packed(given.bias[group]))
        sinks = None if given.sinks is None else given.sinks[group]
        return cls(call.divisor, call.seen, given.scale, given.cap, bias, sinks)

    @property
    def divides(self) -> bool:
        """Whether scores are sums over the divisor and nothing else becomes of them."""
        return self.scale is None and self.cap is None and self.bias is None

    def checked(
        self, sums: NDArray[Any], step: Product, check: bool
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """:meth:`scores`, and with `check` which of them or of the sums may have overflowed."""
        if self.divides and _is_quick(sums, self.divisor, step):
            return _quick_quotients(sums, self.seen.lengths, self.divisor, step, check)
        overflow = overflowed(sums, step.accumulator.format) if check else None
        scores = self.scores(sums, step)
        if overflow is not None:
            overflow |= overflowed(scores, step.output)
        return scores, overflow

    def scores(self, sums: NDArray[Any], step: Product) -> NDArray[Any]:
        """Packed sums over the divisor, or times the scale, capped and with the bias added.

        The sums may be overwritten.
        """
        if self.scale is None:
            scores = _quotient(sums, self.divisor, step)
        else:
            scores = fpemu.multiply(sums, self.scale, step.output, step.rounding)
        if self.cap is not None:
            # tanh is correct to float64, as other functions of a machine are.
            wide = mapped(elementary.tanh, np.asarray(scores, np.float64) / self.cap) * self.cap
            scores = fpemu.round(wide, step.output, step.rounding.derived("cap"))
        if self.bias is not None:
            scores = fpemu.add(scores, self.bias, step.output, step.rounding.derived("bias"))
        return np.asarray(scores)

    def errors(self, of_sums: NDArray[Any], scores: NDArray[Any]) -> NDArray[Any]:
        """Errors of scores, from unpacked ones of sums."""
        errors = self.seen.packed(of_sums)
        errors = errors / self.divisor if self.scale is None else errors * abs(self.scale)
        if self.cap is None:
            return np.asarray(errors)
        capped = scores if self.bias is None else scores - self.bias
        return np.asarray(errors * (1.0 - np.square(capped / self.cap)))


class _Scores:
    """Scores of a group of heads, packed: sums over a divisor, the exact quotient rounded once.

    Parameters
    ----------
    query, key : ndarray, shapes (heads, rows, d) and (heads or key heads, tokens, d)
    step : Product
    form : _Form
        The divisor, the keys that each row sees, and what else becomes of the sums.
    check : bool
        Whether to look for sums that may have overflowed.

    Attributes
    ----------
    values : ndarray, shape (heads, rows, tokens)
        The scores; recomputed ones are put in here.
    """

    def __init__(
        self,
        query: NDArray[Any],
        key: NDArray[Any],
        step: Product,
        form: _Form,
        check: bool = False,
    ) -> None:
        self._query, self._key, self._step, self._form = query, key, step, form
        keys = key.transpose(0, 2, 1)
        left = left_operand(_folded(query, len(key)), step)
        self._operands = left, right_operand(keys, step, step.scale)
        ends = np.tile(form.seen.ends, len(query) // len(key))
        sums = products(*self._operands, step, ends).reshape(*query.shape[:2], key.shape[1])
        scores, self._overflow = form.checked(form.seen.packed(sums), step, check)
        self.values = scores.astype(query.dtype, copy=False)

    def by(self, step: Product) -> _Scores:
        """The scores of the same queries and keys by another step."""
        return _Scores(self._query, self._key, step, self._form)

    @property
    def has_sinks(self) -> bool:
        """Whether rows have scores that no value belongs to."""
        return self._form.sinks is not None

    @property
    def row_lengths(self) -> NDArray[np.int64]:
        """The number of scores of each row of all heads, one head after the other."""
        return np.tile(self._form.seen.lengths, len(self.values))

    @property
    def overflowed(self) -> NDArray[np.bool_]:
        """Which scores may have overflowed in the step's accumulator or output."""
        assert self._overflow is not None, "these scores were not checked"
        return self._overflow

    def softmax(self, step: Function, *, in_place: bool = False) -> NDArray[Any]:
        """Probabilities, packed; `in_place` they may take the place of the scores."""
        rows, lengths = self.values.reshape(-1, self.values.shape[-1]), self.row_lengths
        if self._form.sinks is None:
            found = softmax(rows, lengths, step, out=rows if in_place else None)
            return found.reshape(self.values.shape)
        behind = np.arange(len(rows)), lengths
        with_sinks = np.pad(rows, ((0, 0), (0, 1)))
        with_sinks[behind] = np.repeat(self._form.sinks, self.values.shape[1])
        found = softmax(with_sinks, lengths + 1, step)
        found[behind] = 0
        return np.ascontiguousarray(found[:, :-1]).reshape(self.values.shape)

    def error_weights(self, name: str, high: NDArray[Any]) -> NDArray[Any] | None:
        """What errors are taken to be proportional to, see :data:`lamp.lookahead.rules.WEIGHTS`."""
        if name == "one":
            return None
        if name == "errors":
            return np.asarray(np.abs(self.values - high))
        if name == "abs":
            return self.values  # selection takes the magnitudes of weights
        factors = self._query, self._key.transpose(0, 2, 1)
        found = error_weights(name, factors, self._operands, self._step, self._form.seen.ends)
        return self._form.errors(found, self.values)


def _is_power_of_two(number: float) -> bool:
    return bool(np.frexp(number)[0] == 0.5)


def _is_exact(sums: NDArray[Any], divisor: float, step: Product) -> bool:
    """Whether all quotients of sums are numbers of their type."""
    smallest = step.accumulator.format.smallest_subnormal / divisor
    return bool(_is_power_of_two(divisor) and smallest >= np.finfo(sums.dtype).smallest_subnormal)


def _is_own(sums: NDArray[Any], step: Product) -> bool:
    """Whether the output of a step is float32, and sums are rounded into it as processors do."""
    own = step.output == fpemu.format("float32") and step.rounding == fpemu.Rounding()
    return bool(sums.dtype == np.float32 and own)


def _is_quick(sums: NDArray[Any], divisor: float, step: Product) -> bool:
    """Whether the type's own product by the inverse is the quotient, but for tiny ones.

    A number of a format over a power of two is one, unless it is below the least normal number.
    """
    if not sums_are_output(step):
        return False
    own = _is_power_of_two(divisor) and _is_own(sums, step)
    return own or _is_exact(sums, divisor, step)


def _quick_quotients(
    sums: NDArray[Any], lengths: NDArray[np.int64], divisor: float, step: Product, check: bool
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Sums over a divisor, in place, and with `check` which of both may have overflowed."""
    rows = sums.reshape(-1, sums.shape[-1])
    overflow = np.empty(rows.shape if check else (0, 0), np.bool_)
    small = np.empty(len(rows), np.bool_)
    number, most = sums.dtype.type, step.output.max_finite
    least = 0.0 if _is_own(sums, step) else step.output.smallest_normal
    facts = number(1 / divisor), number(most), number(least)
    tiled = np.tile(lengths, len(sums))
    cost = _QUOTIENT_COST * rows.shape[1]
    launching.run(quotient_rows, len(rows), rows, tiled, facts, overflow, small, cost=cost)
    if small.any():
        sums = np.asarray(fpemu.round(sums, step.output, step.rounding))
    return sums, overflow.reshape(sums.shape) if check else None


def _has_tiny(sums: NDArray[Any], divisor: float) -> bool:
    """Whether a sum over a power of two may be no float32 number, as that would be subnormal."""
    rows = np.ascontiguousarray(sums).reshape(-1, sums.shape[-1])
    lengths, small = np.full(len(rows), rows.shape[1]), np.empty(len(rows), np.bool_)
    least = np.finfo(np.float32).smallest_normal * np.float32(divisor)
    facts = np.float32(1.0), np.float32(np.inf), least
    nothing = np.empty((0, 0), np.bool_)
    cost = _QUOTIENT_COST * rows.shape[1]
    launching.run(quotient_rows, len(rows), rows, lengths, facts, nothing, small, cost=cost)
    return bool(small.any())


def _quotient(sums: NDArray[Any], divisor: float, step: Product) -> NDArray[Any]:
    """``sums / divisor``, the exact quotient rounded once into the output of a step."""
    if _is_exact(sums, divisor, step):
        # The quotient is exact in the carrier.
        np.multiply(sums, sums.dtype.type(1 / divisor), out=sums)
        place = sums if holds(sums, step.output) else None
        return np.asarray(fpemu.round(sums, step.output, step.rounding, out=place))
    if _is_power_of_two(divisor) and sums.dtype == np.float32 and not step.rounding.is_stochastic:
        if _is_own(sums, step):
            np.multiply(sums, np.float32(1 / divisor), out=sums)  # rounds just so
            return sums
        if divisor >= 1 and holds(sums, step.output) and not _has_tiny(sums, divisor):
            np.multiply(sums, np.float32(1 / divisor), out=sums)
            return np.asarray(fpemu.round(sums, step.output, step.rounding, out=sums))
        exact = np.multiply(sums, 1 / divisor, dtype=np.float64)
        return np.asarray(fpemu.round(exact, step.output, step.rounding))
    return np.asarray(fpemu.divide(sums, divisor, step.output, step.rounding))


# --- softmax --------------------------------------------------------------------------------------


def softmax(
    y: NDArray[Any],
    lengths: NDArray[np.int64],
    step: Function,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Softmax of the leading components of each row, zeros after them.

    Parameters
    ----------
    y : ndarray, shape (rows, n)
        Scores, float32 or float64, C-contiguous.
    lengths : ndarray of int64, shape (rows,)
        The number of leading components of each row, at least 1.
    step : Function
        Computed in float64 and rounded once, or with every inner step rounded.
    out : ndarray, shape (rows, n), optional
        Where to put the result, of the type of `y`; may be `y`.

    Returns
    -------
    ndarray, shape (rows, n)
        Members of the step's output format, in the type of `y`.
    """
    out = np.empty_like(y) if out is None else out
    if _stores_softmax(y, step):
        _run_softmax(y, lengths, out)
        return out
    together = _DRAWN_ROWS if step.is_stochastic else _ROUNDED_ROWS
    for start in range(0, len(y), together):
        part = slice(start, start + together)
        out[part] = _softmax_rounded(y[part], lengths[part], _for_rows(step, start))
    return out


def _stores_softmax(y: NDArray[Any], step: Function) -> bool:
    """Whether a softmax in float64 that is stored in the type of `y` is the step's result."""
    stored = written_type(y, step) == y.dtype and step.output == fpemu.format(y.dtype.name)
    return step.steps is None and stored


def _run_softmax(y: NDArray[Any], lengths: NDArray[np.int64], out: NDArray[Any]) -> None:
    """The softmax in float64, stored in the type of `out`."""
    arguments, columns = (*launching.reading(y, lengths), out), y.shape[1]
    launching.run(
        softmax_rows,
        len(y),
        *arguments,
        cost=_SOFTMAX_COST * columns,
        workspace=lambda: softmax_workspace(columns),
    )


def _for_rows(step: Function, start: int) -> Function:
    """A step with random bits of its own for the rows from `start` on."""
    return step.derived("rows", start) if step.is_stochastic else step


def _softmax_rounded(y: NDArray[Any], lengths: NDArray[np.int64], step: Function) -> NDArray[Any]:
    if step.steps is None:
        wide = np.empty(y.shape)
        _run_softmax(y, lengths, wide)
        return np.asarray(fpemu.round(wide, step.output, step.rounding))
    exists = np.arange(y.shape[1]) < lengths[:, np.newaxis]
    masked = np.where(exists, y, y.dtype.type(-np.inf))
    return np.asarray(
        fpemu.functions.softmax(
            masked,
            step.output,
            step.rounding,
            difference=step.steps,
            exponential=step.steps,
            accumulator=fpemu.Sequential(step.steps, step.rounding),
        )
    )
