"""First-order propagation: what each layer adds, sent through the rest of the model.

Not a bound.  What a layer adds to the error of the residual stream is bounded with rigor; that it
reaches the logits as random directions of its length do, and that errors of layers are independent,
is a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels.launching import default_environment
from lamp._kernels.rows import Float64
from lamp.lookahead import LAMP, LookAhead
from lamp.machines import HardwareLike
from lamp.models import certificates
from lamp.models.certificates import Run
from lamp.models.decoder import Decoder
from lamp.models.tokens import check_tokens
from lamp.models.transformer import State, normalize, project, run_block
from lamp.models.weights import Weights

__all__ = ["FirstOrder", "first_order"]

_LINEAR = 2.0**-16  # perturbations relative to the stream: small, and far above float64's errors


@dataclass(frozen=True)
class FirstOrder:
    """Estimates of the errors of a run's margins.

    Parameters
    ----------
    predicted, rival : ndarray of int64, shape (tokens,)
        The tokens with the largest and the second largest logit.
    margin : ndarray of float64, shape (tokens,)
        The difference of their logits, as computed.
    estimate : ndarray of float64, shape (tokens,)
        The root-mean-square error of the margin under the model.
    added : ndarray of float64, shape (layers + 1, tokens)
        Bounds of the 2-norm of the error that embedding and each layer add to the residual stream,
        if they read exact numbers.
    amplification : ndarray of float64, shape (layers + 1, tokens)
        The root-mean-square change of the margin by random errors of these norms, over the norm at
        the token itself.
    """

    predicted: NDArray[np.int64]
    rival: NDArray[np.int64]
    margin: Float64
    estimate: Float64
    added: Float64
    amplification: Float64


@default_environment()
def first_order(
    model: Decoder,
    tokens: ArrayLike,
    hardware: HardwareLike | None = None,
    lamp: LAMP | None = None,
    *,
    kind: str = "running",
    samples: int = 4,
    seed: int = 0,
) -> FirstOrder:
    """Estimate the errors of a run's margins from what each layer adds.

    Parameters
    ----------
    model, tokens, hardware, lamp, kind
        As for :func:`lamp.certify`.
    samples : int
        Random directions per layer.
    seed : int
        Their seed.

    Returns
    -------
    FirstOrder

    Raises
    ------
    ValueError, TypeError
        As in :func:`lamp.certify`; a ValueError if there are no samples.

    Examples
    --------
    >>> import lamp
    >>> from lamp.models import first_order
    >>> model = lamp.GPT2.from_pretrained("embedded")
    >>> found = first_order(model, model.encode("To be, or"), "fp32", samples=1)
    >>> bool((found.estimate < found.margin).all())
    True
    """
    if not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ValueError(f"samples must be a positive integer, not {samples!r}")
    model.check_native("estimates of a run's errors")
    numbers = check_tokens(tokens, model.shape)
    run = Run.of(model, numbers, hardware, lamp, kind)
    double = model.with_hardware("fp64")
    logits = run.logits
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2]
    margin = _difference(logits, order)
    added, of_head = certificates.added(run, order)
    squares, gains = of_head**2, np.zeros_like(added)
    generator = np.random.default_rng(seed)
    for layer, sizes in enumerate(added):
        stream = run.result(layer, "stream")
        # Errors far too large to be small are scaled down, and what becomes of them up again.
        known = np.isfinite(sizes).all()
        smallest = np.linalg.norm(stream, axis=1).min()
        scale = min(1.0, _LINEAR * smallest / sizes.max()) if known and sizes.any() else 0.0
        base = _difference(_tail(stream, layer, double), order)
        changes = np.zeros((samples, len(stream)))
        for change in changes:
            direction = generator.normal(size=stream.shape)
            direction *= (scale * sizes / np.linalg.norm(direction, axis=1))[:, np.newaxis]
            change[:] = _difference(_tail(stream + direction, layer, double), order) - base
        mean = np.mean(np.square(changes), axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            moved = np.sqrt(mean) / scale if scale else np.full(len(mean), 0.0 if known else np.inf)
            gains[layer] = np.where(sizes > 0, moved / sizes, 0.0)
        squares = squares + moved**2
    return FirstOrder(order[:, 0], order[:, 1], margin, np.sqrt(squares), added, gains)


def _difference(logits: NDArray[Any], pairs: NDArray[np.int64]) -> Float64:
    """Logits of the first of pairs minus those of the second."""
    found = np.take_along_axis(logits, pairs, axis=1)
    return np.asarray(found[:, 0] - found[:, 1], np.float64)


def _tail(stream: Float64, layer: int, double: Decoder) -> Float64:
    """The logits that a residual stream in front of a layer leads to, in float64."""
    weights: Weights = double._weights
    state = State(double.shape, double.hardware, LookAhead())
    for number in range(layer, double.shape.layers):
        state.enter(number)
        stream = run_block(stream, weights.blocks[number], weights.norm_after(number), state)
    state.enter(double.shape.layers)
    return project(normalize(stream, weights.norm, "final_norm", state), weights.head, state)
