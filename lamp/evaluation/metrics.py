"""Metrics of a model on a machine against its reference.

References
----------
Budzinskiy et al., arXiv 2601.21623, section 5: KL divergence, flip rate, perplexity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu import _html
from lamp._kernels import divergences
from lamp._kernels.rows import exp
from lamp.evaluation.texts import Window, windows
from lamp.evaluation.uncertainty import Bounded, Estimate, clusters_of, ratio
from lamp.lookahead import Tiles

if TYPE_CHECKING:
    from lamp.models import Decoder, Forward

__all__ = [
    "ESTIMATED",
    "NUMBERS",
    "Compared",
    "Metrics",
    "Sums",
    "Totals",
    "evaluate",
    "reference_logits",
]

# The least and the largest value that is possible of what has a standard error.
_RANGES: Final = {
    "kl": (0.0, math.inf),
    "flip_rate": (0.0, 1.0),
    "reference_perplexity": (1.0, math.inf),
    "perplexity": (1.0, math.inf),
    "recomputation_rate": (0.0, 1.0),
}
ESTIMATED: Final = tuple(_RANGES)
"""The metrics that have a standard error."""

NUMBERS: Final = (
    "kl",
    "flip_rate",
    "reference_perplexity",
    "perplexity",
    "recomputation_rate",
    "high_precision_share",
    *(f"{name}_error" for name in ESTIMATED),
)
"""The metrics that are one number each, for stores and tables."""


class Sums(NamedTuple):
    """What the positions of a cluster add up to.

    Two runs on the same tokens are compared cluster by cluster, see ``Metrics.against``.

    Parameters
    ----------
    positions : int
        How many positions the cluster has.
    kl : float
        The sum of their divergences.
    flips : int
        How many of them have another most probable next token.
    """

    positions: int
    kl: float
    flips: int


class Compared(NamedTuple):
    """Metrics beside those of a baseline on the same tokens.

    Parameters
    ----------
    factor : Estimate
        The divergence over the baseline's.
    kl, flips : Estimate
        How much larger the divergence and the share of flips are than the baseline's.
    """

    factor: Estimate
    kl: Estimate
    flips: Estimate


@dataclass(frozen=True, repr=False)
class Metrics:
    """Metrics of a model against its reference on a text.

    Parameters
    ----------
    tokens : int
        The number of positions compared.
    kl : float
        Mean over positions of KL(reference || model) of the next-token probabilities, in nats.
    flip_rate : float
        Share of positions whose most probable next token differs.
    reference_perplexity, perplexity : float
        Exponential of the mean negative log-probability of the text's own next tokens; NaN if there
        are none.
    recomputation_rate : float
        Share of candidate components recomputed.  Candidates are causal scores, arguments of norms
        and activations, and logits, of the places that have a rule.
    layer_rates : tuple of float
        The same share per layer; empty if no place has a rule.
    step_rates : mapping of str to tuple of float
        The same share per step and layer: scores, attention_output, mlp_up, mlp_down, and lm_head,
        which has one entry.  If attention goes by tiles, ``"tiles"`` has the share of tiles with a
        recomputed part, and ``"parts"`` that of parts.  If the machine recomputes in several
        precisions, ``"scores_1"``, ``"scores_2"`` and so on have the share of each, and
        ``"scores_bits"`` the cost: the bits of the accumulators of all recomputed multiply-adds
        over those of the low ones, both accumulators as wide as their formats.  The same holds for
        the other steps.
    high_precision_share : float
        Multiply-adds of recomputed components over those of all products.
    kl_error, flip_rate_error, reference_perplexity_error, perplexity_error : float
        Standard errors, see :mod:`lamp.evaluation.uncertainty`; NaN with fewer than two clusters.
    recomputation_rate_error : float
        That of the share recomputed, from the windows; NaN with one window.
    clusters : int
        How many clusters of tokens the errors are from.
    windows : int
        How many windows the text has.  With one, the clusters are blocks of its tokens.
    sums : tuple of Sums
        What each cluster adds up to.
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
    kl_error: float = math.nan
    flip_rate_error: float = math.nan
    reference_perplexity_error: float = math.nan
    perplexity_error: float = math.nan
    recomputation_rate_error: float = math.nan
    clusters: int = 0
    windows: int = 0
    sums: tuple[Sums, ...] = ()

    def __eq__(self, other: object) -> bool:
        """Whether all fields are equal; NaN is what it is, or no metrics equal themselves."""
        if not isinstance(other, Metrics):
            return NotImplemented
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return all(a == b or (a != a and b != b) for a, b in pairs)

    def __repr__(self) -> str:
        return f"<Metrics: {', '.join(f'{name} {value}' for name, value in self._facts())}>"

    def _repr_html_(self) -> str:
        return _html.facts("Metrics", self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        """The metrics with their standard errors, in words."""
        yield "tokens", f"{self.tokens:,}"
        for name in ("kl", "flip_rate", "perplexity", "reference_perplexity", "recomputation_rate"):
            error = getattr(self, f"{name}_error")
            about = "" if math.isnan(error) else f" ± {error:.2g}"
            yield name.replace("_", " "), f"{getattr(self, name):.4g}{about}"
        yield "high-precision share", f"{self.high_precision_share:.4g}"

    def estimate(self, name: str) -> Estimate:
        """One of the metrics with its standard error.

        Parameters
        ----------
        name : {"kl", "flip_rate", "reference_perplexity", "perplexity", "recomputation_rate"}

        Returns
        -------
        Estimate
            It has the confidence interval, which ends where values end that are possible.

        Raises
        ------
        ValueError
            If there is no such metric, or none with an error.
        """
        if name not in ESTIMATED:
            raise ValueError(f"no metric {name!r} with an error: expected {', '.join(ESTIMATED)}")
        clusters = self.windows if name == "recomputation_rate" else self.clusters
        value, error = getattr(self, name), getattr(self, f"{name}_error")
        return Bounded(value, error, clusters, *_RANGES[name])

    def against(self, baseline: Metrics) -> Compared | None:
        """Compare with other metrics on the same tokens, cluster by cluster.

        Parameters
        ----------
        baseline : Metrics

        Returns
        -------
        Compared or None
            Its errors are those of differences and ratios that go up and down together; None if the
            clusters are not the same, or not known.
        """
        if not self.sums or [s.positions for s in self.sums] != [
            s.positions for s in baseline.sums
        ]:
            return None
        ours, theirs = (np.array(each.sums, np.float64).T for each in (self, baseline))
        with np.errstate(invalid="ignore"):  # divergences may be infinite or NaN
            kl, flips = ours[1:] - theirs[1:]
        return Compared(ratio(ours[1], theirs[1]), ratio(kl, ours[0]), ratio(flips, ours[0]))


@dataclass
class Totals:
    """Accumulates metrics window by window.

    Parameters
    ----------
    positions : list of ndarray
        For each window what ``lamp._kernels.divergences.compare`` gives.
    selected, components : dict of str to ndarray
        Per step and layer, recomputed components and all candidates.
    shares : list of tuple of int
        For each window, recomputed components and all candidates of all steps.
    tiles : list of tuple of Tiles
        For each window, the tiles of attention of each layer, if any goes by tiles; a layer that
        goes by rows has none.
    levels : dict of str to ndarray
        Per step and layer, the components that each of several precisions recomputed.
    widths : dict of str to ndarray
        Per step and layer, the bits of the accumulators of the step and of these precisions.
    repeated, multiply_adds : int
        Multiply-adds of recomputed components, and of all products.
    """

    positions: list[NDArray[np.float64]] = field(default_factory=list)
    selected: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    components: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    shares: list[tuple[int, int]] = field(default_factory=list)
    tiles: list[tuple[Tiles, ...]] = field(default_factory=list)
    levels: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    widths: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    repeated: int = 0
    multiply_adds: int = 0

    def add(self, expected: NDArray[Any], forward: Forward, window: Window) -> int:
        """Add a window.

        Parameters
        ----------
        expected : ndarray, shape (tokens, vocabulary)
            The reference's logits.
        forward : Forward
            The result of the model.
        window : Window

        Returns
        -------
        int
            The number of positions compared.

        Raises
        ------
        ValueError
            If the logits have different shapes.
        """
        if expected.shape != forward.logits.shape:
            raise ValueError(
                f"reference logits have shape {expected.shape}, but the model's have "
                f"{forward.logits.shape}"
            )
        compared = divergences.compare(expected, forward.logits, window.following)
        self.positions.append(compared[window.context :])
        self.repeated += forward.repeated
        self.multiply_adds += forward.multiply_adds
        parts = [part for layers in forward.recomputed.values() for part in layers]
        self.shares.append(
            (sum(part.selected for part in parts), sum(part.components for part in parts))
        )
        for step, layers in forward.recomputed.items():
            for sums, name in ((self.selected, "selected"), (self.components, "components")):
                counts = np.array([getattr(part, name) for part in layers], np.int64)
                sums[step] = sums.get(step, 0) + counts
            if layers[0].levels:
                counts = np.array([part.levels for part in layers], np.int64)
                self.levels[step] = self.levels.get(step, 0) + counts
                self.widths[step] = np.array([part.widths for part in layers], np.int64)
        layers = forward.recomputed.get("scores", ())
        if any(part.tiles is not None for part in layers):
            self.tiles.append(tuple(part.tiles or Tiles() for part in layers))
        return len(self.positions[-1])

    def metrics(self) -> Metrics:
        """Return the metrics of all windows added."""
        kl, flips, expected, losses = np.concatenate(self.positions).T
        perplexity = {
            name: _perplexity(column[~np.isnan(expected)])
            for name, column in (("reference_perplexity", expected), ("perplexity", losses))
        }
        selected, components = (
            sum(int(counts.sum()) for counts in kind.values())
            for kind in (self.selected, self.components)
        )
        steps = {step: self.selected[step] / self.components[step] for step in self.selected}
        steps |= self._shares_of_levels() | self._shares_of_tiles()
        return Metrics(
            tokens=len(flips),
            kl=_mean(kl),
            flip_rate=_mean(flips),
            reference_perplexity=perplexity["reference_perplexity"],
            perplexity=perplexity["perplexity"],
            recomputation_rate=selected / components if components else 0.0,
            layer_rates=self._layer_rates(),
            step_rates={step: tuple(rates.tolist()) for step, rates in steps.items()},
            high_precision_share=self.repeated / self.multiply_adds,
            **self._errors(perplexity),
            windows=len(self.positions),
            sums=tuple(
                Sums(len(part), math.fsum(part[:, 0]), int(part[:, 1].sum()))
                for part in clusters_of(self.positions)
            ),
        )

    def _errors(self, perplexity: Mapping[str, float]) -> dict[str, Any]:
        """The standard errors; that of a perplexity is its share of the mean loss's error."""
        kl, flips = _ratios(self.positions, (0, 1))
        # The last position of a text has no token that follows it.
        followed = [part[~np.isnan(part[:, 2])] for part in self.positions]
        expected, losses = _ratios(followed, (2, 3))
        shares = np.array(self.shares, np.float64).reshape(-1, 2)
        return {
            "kl_error": kl.error,
            "flip_rate_error": flips.error,
            "reference_perplexity_error": perplexity["reference_perplexity"] * expected.error,
            "perplexity_error": perplexity["perplexity"] * losses.error,
            "recomputation_rate_error": ratio(shares[:, 0], shares[:, 1]).error
            if self.selected
            else 0.0,
            "clusters": kl.clusters,
        }

    def _shares_of_tiles(self) -> dict[str, NDArray[np.float64]]:
        """Return the shares of tiles and parts recomputed in each layer, if there are tiles."""
        layers = [sum(windows, Tiles()) for windows in zip(*self.tiles, strict=True)]
        if not layers:
            return {}
        return {
            "tiles": np.array([each.recomputed / max(1, each.tiles) for each in layers]),
            "parts": np.array([each.recomputed_parts / max(1, each.parts) for each in layers]),
        }

    def _shares_of_levels(self) -> dict[str, NDArray[np.float64]]:
        """Return the shares of several precisions in each layer, and what they cost."""
        found: dict[str, NDArray[np.float64]] = {}
        for step, counts in self.levels.items():
            shares = counts / self.components[step][:, np.newaxis]
            found |= {f"{step}_{level}": share for level, share in enumerate(shares.T, 1)}
            widths = self.widths[step]
            found[f"{step}_bits"] = (shares * widths[:, 1:]).sum(axis=1) / widths[:, 0]
        return found

    def _layer_rates(self) -> tuple[float, ...]:
        """Return the recomputed share of each layer, over all its steps."""
        steps = [step for step in self.selected if step != "lm_head"]
        if not steps:
            return ()
        selected, components = (
            np.sum([kind[step] for step in steps], axis=0)
            for kind in (self.selected, self.components)
        )
        return tuple((selected / components).tolist())


def _ratios(windows: list[NDArray[np.float64]], columns: tuple[int, ...]) -> list[Estimate]:
    """Means of columns over all positions, with their standard errors."""
    clusters = clusters_of(windows)
    sizes = np.array([float(len(part)) for part in clusters])
    return [ratio(np.array([math.fsum(p[:, i]) for p in clusters]), sizes) for i in columns]


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean, correctly rounded, so that it does not depend on the windows' sizes."""
    return math.fsum(values) / len(values) if len(values) else math.nan


def _perplexity(losses: NDArray[np.float64]) -> float:
    # A loss above 709 nats is a perplexity of infinity.
    return float(exp(np.array([_mean(losses)]))[0])


def evaluate(
    reference: Decoder | ArrayLike,
    model: Decoder,
    tokens: ArrayLike,
    *,
    length: int | None = None,
    stride: int | None = None,
    begins: Sequence[int] = (),
    progress: Callable[[int], None] | None = None,
) -> Metrics:
    """Run a model and compare it with a reference, position by position.

    Parameters
    ----------
    reference : Decoder or array_like
        The reference model, usually the same weights in float64, or its logits for these tokens:
        of shape (windows, tokens, vocabulary), or (tokens, vocabulary) with the windows one behind
        the other, or a list with an array for each window.  Where windows overlap, each has the
        logits of all its tokens.
    model : Decoder
        The model under test.
    tokens : array_like of int, shape (tokens,) or (windows, tokens)
        Token numbers; each window is a text of its own.
    length : int, optional
        The number of tokens in a window: one long text is cut into windows, the last one shorter.
    stride : int, optional
        The number of tokens from one window to the next; those before it are context only.  By
        default the length: windows do not overlap.
    begins : sequence of int
        Tokens that every window begins with, in front of those of the text, such as the one that
        begins texts of Llama 2.  In the windows that go on with a text they are context only.
    progress : callable, optional
        Called after every window with the number of positions compared.

    Returns
    -------
    Metrics

    Raises
    ------
    ValueError
        If there are no tokens, a token is out of range, logits have another shape, or length and
        stride make no windows.
    TypeError
        If `model` is no model, or `reference` neither a model nor logits.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.GPT2.from_pretrained("embedded", hardware="scores-ps4")
    >>> tokens = model.encode("When shall we three meet again?")
    >>> metrics = lamp.evaluate(model.with_hardware("fp64"), model, tokens)
    >>> 0 < metrics.kl < 0.1
    True
    """
    if not hasattr(model, "forward"):
        raise TypeError(f"model must be a model, such as from_pretrained() gives, not {model!r}")
    if isinstance(reference, str):
        raise TypeError(f"reference must be a model or its logits, not {reference!r}")
    totals = Totals()
    parts = windows(np.asarray(tokens), length, stride, begins)
    model_of_reference: Any = reference if hasattr(reference, "forward") else None
    given: Any = None if model_of_reference is not None else _given(reference, parts)
    for index, window in enumerate(parts):
        if model_of_reference is None:
            expected = given[index]
        else:
            expected = model_of_reference.forward(window.tokens).logits
        compared = totals.add(expected, model.forward(window.tokens), window)
        if progress is not None:
            progress(compared)
    return totals.metrics()


def _given(reference: Any, parts: list[Window]) -> list[NDArray[Any]]:
    """Return given logits of a reference as one array for each window."""
    lengths = [len(window.tokens) for window in parts]
    if isinstance(reference, (list, tuple)) and all(np.ndim(each) == 2 for each in reference):
        logits = [np.asarray(each) for each in reference]
    else:
        array = np.asarray(reference)
        # One array for all windows, the last of which may be shorter: one behind the other.
        several = array.ndim == 2 and len(array) == sum(lengths)
        logits = np.split(array, np.cumsum(lengths)[:-1]) if several else list(np.atleast_1d(array))
    if [each.shape[:-1] for each in logits] != [(length,) for length in lengths]:
        shape = [each.shape for each in logits] if isinstance(reference, (list, tuple)) else None
        raise ValueError(
            f"reference logits have shape {shape or np.shape(reference)}, but the windows have "
            f"{', '.join(map(str, lengths))} tokens"
        )
    return logits


def reference_logits(reference: Decoder, windows: NDArray[Any]) -> NDArray[Any]:
    """Return the logits of a reference.

    Parameters
    ----------
    reference : Decoder
    windows : ndarray of int, shape (windows, length)
        Tokens; each window is a text of its own.

    Returns
    -------
    ndarray, shape (windows, length, vocabulary)
    """
    return np.stack([reference.forward(window).logits for window in windows])
