"""How far a model under simulated hardware is from its reference.

References
----------
The metrics of Budzinskiy et al., arXiv 2601.21623, section 5: KL divergence, flip rate, perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels import caching, elementary, launching
from lamp._kernels.rows import exp

if TYPE_CHECKING:
    from lamp.models import Decoder, Forward

__all__ = ["Metrics", "evaluate"]

_GRAIN = 16  # rows of logits worth a thread


@dataclass(frozen=True)
class Metrics:
    """A model against its reference on a text.

    Parameters
    ----------
    tokens : int
        Positions compared.
    kl : float
        Mean over positions of KL(reference || model) of the next-token distributions, in nats.
    flip_rate : float
        Share of positions whose most probable next token differs.
    reference_perplexity, perplexity : float
        exp of the mean negative log-probability of the text's own next tokens; NaN if the text has
        none.
    recomputation_rate : float
        Recomputed share of the components that look-ahead looks at: causal query-key products,
        arguments of norms and activations, logits.
    layer_rates : tuple of float
        The same of each layer; empty if look-ahead is off.
    step_rates : mapping of str to tuple of float
        The same of each step (scores, attention_output, mlp_up, mlp_down) and layer, and of lm_head
        alone.
    high_precision_share : float
        Multiply-adds of recomputed components over those of all products.
    """

    tokens: int
    kl: float
    flip_rate: float
    reference_perplexity: float
    perplexity: float
    recomputation_rate: float
    layer_rates: tuple[float, ...]
    step_rates: Mapping[str, tuple[float, ...]]
    high_precision_share: float


@dataclass(frozen=True)
class Window:
    """A part of a text that goes through a model at once.

    Parameters
    ----------
    tokens : ndarray of int
        What the model reads.
    following : ndarray of int64
        The token behind each; -1 for none.
    context : int
        How many of the first are compared with nothing.
    """

    tokens: NDArray[Any]
    following: NDArray[np.int64]
    context: int = 0


@dataclass
class Totals:
    """What windows add up to."""

    rows: list[NDArray[np.float64]] = field(default_factory=list)
    selected: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    components: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    repeated: int = 0
    multiply_adds: int = 0

    def add(self, expected: NDArray[Any], forward: Forward, window: Window) -> int:
        """Compare a window's logits with the reference's; how many positions that were."""
        if expected.shape != forward.logits.shape:
            raise ValueError(
                f"reference logits have shape {expected.shape}, but the model's have "
                f"{forward.logits.shape}"
            )
        rows = _compare(expected, forward.logits, window.following)[window.context :]
        self.rows.append(rows)
        self.repeated += forward.repeated
        self.multiply_adds += forward.multiply_adds
        for step, layers in forward.recomputed.items():
            for sums, name in ((self.selected, "selected"), (self.components, "components")):
                counts = np.array([getattr(part, name) for part in layers], np.int64)
                sums[step] = sums.get(step, 0) + counts
        return len(rows)

    def metrics(self) -> Metrics:
        """The means."""
        divergences, flips, expected, losses = np.concatenate(self.rows).T
        selected, components = (
            sum(int(counts.sum()) for counts in kind.values())
            for kind in (self.selected, self.components)
        )
        steps = {step: self.selected[step] / self.components[step] for step in self.selected}
        return Metrics(
            tokens=len(flips),
            kl=_mean(divergences),
            flip_rate=_mean(flips),
            reference_perplexity=_perplexity(expected[~np.isnan(expected)]),
            perplexity=_perplexity(losses[~np.isnan(expected)]),
            recomputation_rate=selected / components if components else 0.0,
            layer_rates=self._layer_rates(),
            step_rates={step: tuple(rates.tolist()) for step, rates in steps.items()},
            high_precision_share=self.repeated / self.multiply_adds,
        )

    def _layer_rates(self) -> tuple[float, ...]:
        """Those of all steps of a layer together."""
        steps = [step for step in self.selected if step != "lm_head"]
        if not steps:
            return ()
        selected, components = (
            np.sum([kind[step] for step in steps], axis=0)
            for kind in (self.selected, self.components)
        )
        return tuple((selected / components).tolist())


def evaluate(
    reference: Decoder | ArrayLike,
    model: Decoder,
    tokens: ArrayLike,
    *,
    length: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Metrics:
    """Run a model and compare it with a reference, position by position.

    Parameters
    ----------
    reference : Decoder or array_like
        The reference model, usually the same weights in float64, or its logits for these tokens.
    model : Decoder
        The model under test.
    tokens : array_like of int, shape (tokens,) or (windows, tokens)
        Token numbers; each window is a text of its own.
    length : int, optional
        Cut one long text into windows of so many tokens, the last one shorter.
    stride : int, optional
        How many tokens from one window to the next; those before are context and compared with
        nothing.  Left out, it is the length: nothing overlaps.
    progress : callable, optional
        Is given the number of positions compared, after every window.

    Returns
    -------
    Metrics

    Raises
    ------
    ValueError
        If there are no tokens, a token is out of range, logits have another shape, or length and
        stride make no windows.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.GPT2.from_pretrained("embedded", hardware="scores-ps4")
    >>> tokens = model.encode("When shall we three meet again?")
    >>> metrics = lamp.evaluate(model.with_hardware("fp64"), model, tokens)
    >>> 0 < metrics.kl < 0.1
    True
    """
    totals = Totals()
    parts = windows(np.asarray(tokens), length, stride)
    model_of_reference: Any = reference if hasattr(reference, "forward") else None
    given: Any = None if model_of_reference else _given(reference, parts)
    for index, window in enumerate(parts):
        runs = model_of_reference is not None
        expected = model_of_reference.forward(window.tokens).logits if runs else given[index]
        compared = totals.add(expected, model.forward(window.tokens), window)
        if progress is not None:
            progress(compared)
    return totals.metrics()


def windows(tokens: NDArray[Any], length: int | None, stride: int | None) -> list[Window]:
    """The parts of a text that go through a model one by one, as :func:`evaluate` cuts it."""
    if not tokens.size:
        raise ValueError("there are no tokens")
    if length is None:
        if stride is not None:
            raise ValueError("a stride needs the length of the windows")
        return [Window(text, _following(text)) for text in np.atleast_2d(tokens)]
    step = length if stride is None else stride
    if tokens.ndim != 1 or not 1 <= step <= length:
        raise ValueError(
            f"windows of {length} tokens with a stride of {step} need one text and a stride from 1 "
            f"to the length; the tokens have shape {tokens.shape}"
        )
    following, parts, covered = _following(tokens), [], 0
    for start in range(0, len(tokens), step):
        here = slice(start, start + length)
        parts.append(Window(tokens[here], following[here], covered - start))
        covered = start + len(tokens[here])
        if covered == len(tokens):
            break
    return parts


def _following(text: NDArray[Any]) -> NDArray[np.int64]:
    return np.append(text[1:], -1).astype(np.int64)


def _given(reference: Any, parts: list[Window]) -> NDArray[Any]:
    """Logits of the reference that are given: (windows, length, vocabulary)."""
    logits = np.asarray(reference)
    if logits.ndim == 2 and len(parts) == 1:
        logits = logits[np.newaxis]
    shape = len(parts), len(parts[0].tokens)
    if logits.ndim != 3 or logits.shape[:2] != shape:
        raise ValueError(
            f"reference logits have shape {logits.shape}, but the tokens have shape {shape}"
        )
    return logits


def reference_logits(reference: Decoder, windows: NDArray[Any]) -> NDArray[Any]:
    """The logits of a reference for (windows, length) tokens: (windows, length, vocabulary)."""
    return np.stack([reference.forward(window).logits for window in windows])


def _mean(values: NDArray[np.float64]) -> float:
    """The mean, correctly rounded, so that it does not depend on how the text was cut up."""
    return math.fsum(values) / len(values) if len(values) else math.nan


def _perplexity(losses: NDArray[np.float64]) -> float:
    # A loss above 709 nats is a perplexity of infinity.
    return float(exp(np.array([_mean(losses)]))[0])


def _compare(
    reference: NDArray[Any], model: NDArray[Any], following: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Per position: KL, flip (0 or 1), and the loss of the following token (NaN for -1) of both."""
    rows = np.empty((len(following), 4))
    launching.run(_compare_rows, len(following), reference, model, following, rows, grain=_GRAIN)
    return rows


@caching.kernel
def _compare_rows(start, stop, reference, model, following, rows):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        expected, actual = reference[row], model[row]
        best, guess = 0, 0
        for j in range(expected.size):
            if expected[j] > expected[best]:
                best = j
            if actual[j] > actual[guess]:
                guess = j
        top, model_top = np.float64(expected[best]), np.float64(actual[guess])
        total, model_total = 0.0, 0.0
        for j in range(expected.size):
            total += elementary.exp(np.float64(expected[j]) - top)
            model_total += elementary.exp(np.float64(actual[j]) - model_top)
        offset = top + elementary.log(total)
        model_offset = model_top + elementary.log(model_total)
        divergence = 0.0
        for j in range(expected.size):
            log_p = np.float64(expected[j]) - offset
            divergence += _divergence_term(log_p, (np.float64(actual[j]) - model_offset) - log_p)
        rows[row, 0] = divergence
        rows[row, 1] = 0.0 if best == guess else 1.0
        token = following[row]
        rows[row, 2] = offset - np.float64(expected[token]) if token >= 0 else np.nan
        rows[row, 3] = model_offset - np.float64(actual[token]) if token >= 0 else np.nan


@caching.kernel
def _divergence_term(log_p, ratio):  # type: ignore[no-untyped-def]
    """``p (exp(r) - 1 - r)`` with r = log(q/p), which sums to KL(p || q).

    The terms are not negative, so that nothing cancels between them, unlike those of -p r.
    """
    p = elementary.exp(log_p)
    if abs(ratio) > 0.1:
        return elementary.exp(log_p + ratio) - p - p * ratio
    # Taylor's series to r**12 / 12!; the rest is below 1e-20 of the sum.
    term = ratio * ratio / 2.0
    total = term
    for n in range(3, 13):
        term *= ratio / n
        total += term
    return p * total
