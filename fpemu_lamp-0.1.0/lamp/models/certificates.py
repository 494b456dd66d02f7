"""Certified tokens: rigorous bounds carried through every step of a forward pass.

A machine's run is followed step by step.  For each result two bounds of its distance from exact
arithmetic with the checkpoint's weights are kept: one of every component, and one of the 2-norm of
a row.  A step adds its own error to what :mod:`lamp.bounds` says it makes of the errors of its
arguments.  Neither bound neglects anything; all of them are computed in float64 and rounded up.

References
----------
N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 3.1 and 3.3, for
products.  C. F. Dunkl, K. S. Williams, "A simple norm inequality", Amer. Math. Monthly 71, 1964,
for norms.  S. M. Rump, "Verification methods", Acta Numerica 19, 2010, for the approach as a whole
and for why such bounds grow.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fpemu._kernels.launching import default_environment
from lamp import bounds
from lamp._kernels import jacobians
from lamp._kernels.rows import Float64, exp, expm1, outward, total
from lamp.bounds.compositions import Entrywise, LayerNorm, RMSNorm, Softmax, SoftmaxProduct
from lamp.lookahead import LAMP
from lamp.machines import Hardware, HardwareLike, Product
from lamp.models.decoder import Decoder
from lamp.models.layers import Matrix, Norm, left_operand, right_operand
from lamp.models.linearization import carried, length, norm_of, sure
from lamp.models.tokens import check_tokens
from lamp.models.weights import Block, Weights

__all__ = ["KINDS", "Certificate", "Run", "added", "certify"]

_OF_PRODUCTS: Final = ("running", "deterministic", "measured")
KINDS: Final = (*_OF_PRODUCTS, "reference")
"""The ways to bound the error of a matrix product, and to compare whole runs."""

_UNIT: Final = 2.0**-53
_LEAST_GAIN: Final = 2.0**-10  # of the largest: smaller gains count as this
_QUIET: Final[dict[str, Any]] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}


@dataclass(frozen=True)
class Certificate:
    """What is proved of a run's most probable tokens.

    Parameters
    ----------
    predicted : ndarray of int64, shape (tokens,)
        The token with the largest logit at each position, the first of equal ones.
    rival : ndarray of int64, shape (tokens,)
        The token that comes closest to disproving it.
    margin : ndarray of float64, shape (tokens,)
        How much larger the logit of `predicted` is than that of `rival`, as computed; under the
        kind "reference" in float64, so that it is below ``-bound`` where `predicted` is proved to
        be wrong.
    bound : ndarray of float64, shape (tokens,)
        A bound of the error of this margin; infinite where there is none.
    proved : ndarray of bool, shape (tokens,)
        Whether exact arithmetic with the checkpoint's weights has the same most probable token.
    stream : ndarray of float64, shape (layers + 1, tokens)
        Bounds of the 2-norm of the residual stream's error, before the first layer and after each;
        :meth:`Decoder.depth_map` has the errors.
    kind : str
        How products were bounded.
    """

    predicted: NDArray[np.int64]
    rival: NDArray[np.int64]
    margin: Float64
    bound: Float64
    proved: NDArray[np.bool_]
    stream: Float64
    kind: str

    @property
    def share(self) -> float:
        """The share of tokens that are proved."""
        return float(np.mean(self.proved))


@default_environment()
def certify(
    model: Decoder,
    tokens: ArrayLike,
    hardware: HardwareLike | None = None,
    lamp: LAMP | None = None,
    *,
    kind: str = "running",
) -> Certificate:
    """Prove, where it can be proved, that a machine's most probable tokens are the right ones.

    Parameters
    ----------
    model : Decoder
        The model; what is right is exact arithmetic with the weights of its checkpoint.
    tokens : array_like of int, shape (length,)
        The text.
    hardware : Hardware or str, optional
        The machine; left out, the model's own with its rules of look-ahead.
    lamp : LAMP or iterable of LAMP, optional
        The rules of look-ahead on that machine.
    kind : {"running", "deterministic", "measured", "reference"}
        How the error of a matrix product is bounded.  ``"running"``: from its partial sums, which
        the machine itself could do; units that have none, by the a-priori bound.
        ``"deterministic"``: a priori.  ``"measured"``: by comparison with the same product of the
        same operands in float64, whose own error is bounded a priori; also used under the other
        kinds for operands with scales, and for accumulators of a user's.  ``"reference"``: nothing
        of the machine is bounded; its tokens are compared with a run in float64, which is certified
        by measured products.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If the kind is unknown, or as in :meth:`Decoder.forward`; if `lamp` is given without
        `hardware`; if the model is one of transformers; but for the kind "reference", if the
        machine goes by tiles or sums channels in an order of its own.
    TypeError
        If tokens are not integers.

    Notes
    -----
    Norms, activations, softmaxes and roundings into outputs are always compared with float64, where
    the error of the comparison is bounded.  Bounds of a step are as if errors conspired, and
    multiply from step to step: a token that is not proved need not be wrong.

    Examples
    --------
    >>> import lamp
    >>> model = lamp.GPT2.from_pretrained("embedded")
    >>> found = lamp.certify(model, model.encode("To be, or not to"), "fp64")
    >>> found.share
    1.0
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of bound {kind!r}: expected {', '.join(KINDS)}")
    model.check_native("certificates")
    numbers = check_tokens(tokens, model.shape)
    with np.errstate(**_QUIET):
        if kind == "reference":
            return _beside_reference(_machine(model, hardware, lamp), numbers)
        run = Run.of(model, numbers, hardware, lamp, kind)
        return _certificate(run, np.argmax(run.logits, axis=1))


def _machine(model: Decoder, hardware: HardwareLike | None, lamp: LAMP | None) -> Decoder:
    """The model on the machine whose run is followed."""
    if hardware is None and lamp is not None:
        raise ValueError("lamp is given without hardware: these rules belong to a machine")
    return model if hardware is None else model.with_hardware(hardware, lamp)


# --- the run that is followed ---------------------------------------------------------------------


@dataclass
class Run:
    """A machine's run: all results by layer and name.

    Parameters
    ----------
    model : Decoder
        On its machine.
    exact : Weights
        The checkpoint's weights, in float64.
    kind : str
    tokens : ndarray of int64, shape (tokens,)
    logits : ndarray of float64, shape (tokens, vocabulary)
        The machine's; 0 for those that overflowed.
    results : dict
        Of every layer.
    products : dict
        Products and factors that were computed already, by the identity of the exact matrix.
    """

    model: Decoder
    exact: Weights
    kind: str
    tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    logits: Float64 = field(default_factory=lambda: np.zeros((0, 0)))
    results: dict[tuple[int, str], NDArray[Any]] = field(default_factory=dict)
    products: dict[int, tuple[_Sums, _Factor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: Decoder,
        tokens: NDArray[np.int64],
        hardware: HardwareLike | None,
        lamp: LAMP | None,
        kind: str,
    ) -> Run:
        """The run of tokens through a model on a machine; see :func:`certify`."""
        if kind not in _OF_PRODUCTS:
            raise ValueError(f"unknown kind of bound {kind!r}: expected {', '.join(_OF_PRODUCTS)}")
        machine = _machine(model, hardware, lamp)
        for each in machine.hardware.machines.values():
            for what, given in (
                ("attention by tiles", each.attention),
                ("an order of channels", each.scores.order),
            ):
                if given is not None:
                    raise ValueError(f"{each.name} has {what}: that is not bounded")
        run = cls(machine, model.with_hardware("fp64")._weights, kind, tokens)
        run.logits = _held(machine._forward(tokens, None, run.observe).logits)
        return run

    def machine(self, layer: int) -> Hardware:
        """The machine of a layer, with random bits of its own."""
        return self.model.hardware.of_layer(layer, self.model.shape.layers)

    def observe(self, name: str, layer: int, numbers: NDArray[Any]) -> None:
        """Take a result of a forward pass."""
        self.results[layer, name] = numbers.copy()

    def result(self, layer: int, name: str) -> Float64:
        """A result in float64.  What overflowed is taken to be 0: errors are of what is taken."""
        return _held(self.results[layer, name])

    def mask(self, layer: int, name: str) -> Any:
        """Which components of a result were recomputed; False if none were."""
        return self.results.get((layer, name), False)


def _held(x: NDArray[Any]) -> Float64:
    return np.where(np.isfinite(x), x, 0.0).astype(np.float64)


class _Errors(NamedTuple):
    """Bounds of the errors d of rows: ``|d| <= box`` and ``||d / scale||_2 <= ball``.

    Shapes are (..., n) and (..., 1); the scale, of shape (n,), is positive.
    """

    box: Float64
    ball: Float64
    scale: Any = 1.0

    @classmethod
    def of(cls, box: Float64, ball: Float64 | None = None, scale: Any = 1.0) -> _Errors:
        """Bounds that are consistent: each at most what the other implies."""
        implied = length(box / scale)
        ball = implied if ball is None else np.fmin(ball, implied)
        return cls(np.fmin(box, outward(ball * scale, 1)), ball, scale)

    def plus(self, box: Float64) -> _Errors:
        """The errors of a result that is off by at most `box` more."""
        ball = sure(self.ball + length(box / self.scale), 2)
        return _Errors.of(sure(self.box + box, 2), ball, self.scale)


# --- matrix products ------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Inner products in float64, and bounds of their errors."""

    values: Float64
    errors: Float64


def _in_float64(a: Float64, b: Float64) -> _Sums:
    """A product in float64, its error bounded a priori whatever the order of summation."""
    terms = a.shape[-1]
    return _Sums(a @ b, sure((terms + 2.0) * _UNIT * (np.abs(a) @ np.abs(b)), terms))


def _of_step(a: Float64, b: Float64, held: NDArray[Any], step: Product, kind: str) -> _Sums:
    """The sums of a step, and how far they are from ``a @ b``.

    `held` is b as the machine holds it.  Where a step has no bound of the kind, the next kind is
    taken: units have no partial sums, and scaled operands no inner products in one piece.  What
    accumulators of a user's state of themselves proves nothing.
    """
    left, right = left_operand(a, step), right_operand(held, step, step.scale)
    plain = step.scaling == "none" and not isinstance(left.values, tuple)
    plain = plain and step.accumulator.is_proved
    for each in _OF_PRODUCTS[_OF_PRODUCTS.index(kind) : -1] if plain else ():
        try:
            found = bounds.products(left.values, right.values, step.accumulator, kind=each)
        except (TypeError, ValueError):
            continue
        errors = found.errors
        x, y = (np.asarray(operand.values, np.float64) for operand in (left, right))
        if (x != a).any():
            errors = sure(errors + np.abs(x - a) @ np.abs(b), a.shape[-1])
        if (y != b).any():
            errors = sure(errors + np.abs(x) @ np.abs(y - b), a.shape[-1])
        return _Sums(_held(found.computed), errors)
    return _in_float64(a, b)


def _product(
    a: Float64,
    exact: NDArray[Any],
    held: NDArray[Any],
    step: Product,
    machine: Hardware,
    kind: str,
    recomputed: Any = False,
) -> _Sums:
    """A product of a run's numbers with exact weights, near to what a layer's machine computes."""
    low = _of_step(a, exact, held, step, kind)
    again = np.isinf(low.errors) | np.asarray(recomputed, np.bool_)
    if not again.any():
        return low
    # Of several precisions the highest: how far the machine's numbers are from it is counted.
    high = _of_step(a, exact, held, machine.levels[-1], kind)
    return _Sums(*(np.where(again, y, x) for x, y in zip(low, high, strict=True)))


class _Factor(NamedTuple):
    """A matrix that errors are multiplied by, and norms of ``diag(scale) matrix``.

    Those are of its columns, of shape (columns,), and of groups of these, of shape (groups,).
    """

    matrix: Float64
    columns: Float64
    groups: Float64

    @classmethod
    def of(cls, matrix: Float64, scale: Any, groups: int = 1) -> _Factor:
        """A matrix behind errors of a scale."""
        scaled = np.broadcast_to(scale, len(matrix))[:, np.newaxis] * matrix
        norms = [norm_of(part) for part in np.split(scaled, groups, axis=1)]
        return cls(matrix, length(scaled.T)[:, 0], np.array(norms))


def _through(errors: _Errors, factor: _Factor, own: Float64) -> list[_Errors]:
    """Errors behind a matrix, whose product is off by `own` more, for each group of its columns."""
    moved = sure(errors.box @ np.abs(factor.matrix), len(factor.matrix))
    box = np.fmin(moved, sure(errors.ball * factor.columns, 1))
    count = len(factor.groups)
    parts = (np.split(each, count, axis=1) for each in (box, own))
    return [
        _Errors.of(part, sure(errors.ball * norm, 1)).plus(more)
        for part, more, norm in zip(*parts, factor.groups, strict=True)
    ]


def _linear(
    a: Float64,
    errors: _Errors,
    exact: Matrix,
    held: Matrix,
    name: str,
    run: Run,
    layer: int,
    recomputed: Any = False,
    groups: int = 1,
) -> tuple[Float64, list[_Errors]]:
    """``a @ weight + bias`` near to the machine's, and its errors by groups of columns.

    `name` is that of the step.
    """
    if id(exact) not in run.products:  # a run reads every matrix once
        weight, machine = exact.weight.astype(np.float64), run.machine(layer)
        step = getattr(machine, name)
        values, own = _product(a, weight, held.weight, step, machine, run.kind, recomputed)
        if exact.bias is not None:
            values = values + exact.bias
            own = own + 2 * _UNIT * np.abs(values)
        factor = _Factor.of(weight, errors.scale, groups)
        run.products[id(exact)] = _Sums(values, own), factor
    (values, own), factor = run.products[id(exact)]
    return values, _through(errors, factor, own)


def _gap(result: Float64, near: Float64) -> Float64:
    """The distance of a result of the machine from numbers near it."""
    return np.abs(result - near)


# --- functions ------------------------------------------------------------------------------------


def _normed(x: Float64, errors: _Errors, exact: Norm, epsilon: float, result: Float64) -> _Errors:
    """Errors of a norm's result."""
    n = x.shape[-1]
    gain = exact.weight.astype(np.float64)
    f = LayerNorm(gain, exact.bias, epsilon) if exact.centered else RMSNorm(gain, epsilon)
    own = _gap(result, f.value(x)) + f.value_error(x)
    box = f.enclosure(x, errors.box)
    # Two vectors of length at least s sqrt(n) that are d apart: divided by their lengths, their
    # distance is at most 2 d over the sum of the lengths.  Centering is a contraction.
    centered = x - total(x) / n if exact.centered else x
    off = (8.0 * n + 64.0) * _UNIT * np.abs(x).max(axis=-1, keepdims=True)
    root = np.sqrt(total(centered * centered) / n + epsilon)
    least = root * (1.0 - (8.0 * n + 64.0) * _UNIT) - off
    distance = sure(errors.ball / np.sqrt(n), 1)
    share = np.where(2.0 * least > distance, 2.0 * distance / (2.0 * least - distance), 2.0)
    ball = sure(np.sqrt(n) * np.fmin(share, 2.0), 4)
    size = np.abs(gain)
    scale = np.maximum(size, _LEAST_GAIN * size.max(initial=0.0))
    return _Errors.of(box, ball, np.where(scale > 0, scale, 1.0)).plus(own)


def _activated(
    y: Float64, errors: _Errors, factor: tuple[Float64, _Errors] | None, name: str, result: Float64
) -> _Errors:
    """Errors of an activation's result, times what it gates."""
    f = Entrywise(name)
    value, own = f.value(y), f.value_error(y)
    box = f.enclosure(y, errors.box)
    if factor is None:
        ball = sure(f.activation.steepest * errors.ball, 1)
        return _Errors.of(box, ball).plus(own + _gap(result, value))
    other, moved = factor
    box = sure(box + own, 2)
    apart = box * (np.abs(other) + moved.box) + np.abs(value) * moved.box
    near = value * other
    return _Errors.of(sure(apart, 2)).plus(_gap(result, near) + 2 * _UNIT * np.abs(near))


# --- layers ---------------------------------------------------------------------------------------


def _certificate(run: Run, predicted: NDArray[np.int64]) -> Certificate:
    """The certificate that a run gives to predicted tokens, its own or those of another run."""
    x = run.result(0, "stream")
    errors = _embedded(run, x)
    growth = [errors.ball[:, 0]]
    for layer in range(run.model.shape.layers):
        errors = _layer(run, layer, errors)
        growth.append(errors.ball[:, 0])
    of_pairs = _Logits(run, errors)
    found = [of_pairs.closest(row, int(best)) for row, best in enumerate(predicted)]
    rivals, margins, limits = (np.array(each) for each in zip(*found, strict=True))
    return Certificate(
        predicted, rivals, margins, limits, margins > limits, np.array(growth), run.kind
    )


def _beside_reference(machine: Decoder, tokens: NDArray[np.int64]) -> Certificate:
    """What the certificate of a run in float64 says of the tokens of a machine."""
    streams: dict[int, Float64] = {}

    def observe(name: str, layer: int, numbers: NDArray[Any]) -> None:
        if name == "stream":
            streams[layer] = numbers.astype(np.float64)

    logits = _held(machine._forward(tokens, None, observe).logits)
    run = Run.of(machine, tokens, "fp64", None, "measured")
    found = _certificate(run, np.argmax(logits, axis=1))
    apart = [length(x - run.result(layer, "stream"))[:, 0] for layer, x in streams.items()]
    return replace(found, stream=sure(found.stream + np.array(apart), 1), kind="reference")


def added(run: Run, pairs: NDArray[np.int64]) -> tuple[Float64, Float64]:
    """Bounds of the errors that parts of a run add if they read exact numbers.

    Parameters
    ----------
    run : Run
    pairs : ndarray of int64, shape (tokens, 2)
        Two logits of each token.

    Returns
    -------
    stream : ndarray of float64, shape (layers + 1, tokens)
        2-norms of what embedding and layers add to the residual stream.
    margins : ndarray of float64, shape (tokens,)
        What the last norm and the head add to the differences of the pairs.
    """
    x = run.result(0, "stream")
    nothing = _Errors(np.zeros_like(x), np.zeros((len(x), 1)))
    with np.errstate(**_QUIET):
        found = [
            _embedded(run, x),
            *(_layer(run, i, nothing) for i in range(run.model.shape.layers)),
        ]
        of_pairs = _Logits(run, nothing)
        margins = [of_pairs.bounds(row, int(a))[b] for row, (a, b) in enumerate(pairs)]
    return np.array([errors.ball[:, 0] for errors in found]), np.array(margins)


def _layer(run: Run, layer: int, errors: _Errors) -> _Errors:
    """The errors of the residual stream behind a layer.

    They are carried step by step, and through the layer as a whole by its Jacobian, to which comes
    what attention and the feed-forward layer add if they read exact numbers.
    """
    exact, held = run.exact.blocks[layer], run.model._weights.blocks[layer]
    x = run.result(layer, "stream")
    middle, of_middle = _attention_layer(run, layer, exact, held, x, errors)
    found = _feed_forward_layer(run, layer, exact, held, middle, of_middle)
    nothing = _Errors(np.zeros_like(x), np.zeros((len(x), 1)))
    own = of_middle
    if errors.ball.any():
        own = _attention_layer(run, layer, exact, held, x, nothing)[1]
    last = _feed_forward_layer(run, layer, exact, held, middle, nothing)
    added = own.ball, last.ball
    ball = carried((x, middle), errors.ball, added, of_middle.ball, exact, run.model.shape)
    return _Errors.of(found.box, np.fmin(found.ball, ball))


def _embedded(run: Run, x: Float64) -> _Errors:
    """Errors of the residual stream before the first layer."""
    near = run.exact.tokens[run.tokens].astype(np.float64)
    if run.exact.positions is not None:
        near = near + run.exact.positions[: len(run.tokens)]
    return _Errors.of(sure(_gap(x, near) + 2 * _UNIT * np.abs(near), 1))


def _attention_layer(
    run: Run, layer: int, exact: Block, held: Block, x: Float64, errors: _Errors
) -> tuple[Float64, _Errors]:
    """The residual stream after attention, and its errors."""
    shape, machine = run.model.shape, run.machine(layer)
    h = run.result(layer, "norm_1")
    errors_of_h = _normed(x, errors, exact.norm_1, shape.epsilon, h)
    heads, own = shape.heads, shape.key_heads
    groups = heads + 2 * own
    near, found = _linear(h, errors_of_h, exact.qkv, held.qkv, "qkv", run, layer, groups=groups)
    columns = np.split(near, groups, axis=1)
    parts = []
    for name, start, count in (
        ("query", 0, heads),
        ("key", heads, own),
        ("value", heads + own, own),
    ):
        results = run.result(layer, name)
        rotary = None if name == "value" else shape.rotary
        parts.append(
            [
                _rotated(results[i], columns[start + i], found[start + i], rotary)
                for i in range(count)
            ]
        )
    query, key, value = (run.result(layer, name) for name in ("query", "key", "value"))
    boxes, balls = [], []
    outputs = np.split(run.result(layer, "heads"), heads, axis=1)
    for head in range(heads):
        shared = head * own // heads
        scores = _Scores(
            run, layer, head, (query[head], parts[0][head]), (key[shared], parts[1][shared])
        )
        of_head = scores.attended(value[shared], parts[2][shared], outputs[head], machine.values)
        boxes.append(of_head.box)
        balls.append(of_head.ball)
    joined = _Errors.of(np.hstack(boxes), length(np.hstack(balls)))
    h = np.hstack(outputs)
    return _added(run, layer, "attention_output", x, errors, h, joined, exact, held)


def _rotated(result: Float64, near: Float64, errors: _Errors, rotary: Any) -> _Errors:
    """Errors of queries, keys or values of a head, rotated if the model does."""
    if rotary is None:
        return errors.plus(_gap(result, near))
    half = near.shape[1] // 2
    turned = rotary.rotated(near[np.newaxis], 0)[0]
    cosine = rotary.rotated(np.ones((1, *near.shape)) * (np.arange(2 * half) < half), 0)[0]
    c, s = np.abs(cosine[:, :half]), np.abs(cosine[:, half:])
    left, right = errors.box[:, :half], errors.box[:, half:]
    box = np.hstack([c * left + s * right, c * right + s * left])
    # Cosines and sines are within 3 units, products and sum within 3 more.
    size = np.abs(near[:, :half]) + np.abs(near[:, half:])
    slack = 8 * _UNIT * np.hstack([size, size])
    more = 8 * _UNIT * np.hstack([left + right, left + right])
    turned_errors = _Errors.of(sure(box + more, 2), sure(errors.ball, 1))
    return turned_errors.plus(_gap(result, turned) + slack)


class _Scores:
    """The scores of a head: computed ones and bounds of their errors, zeros for later tokens."""

    def __init__(
        self,
        run: Run,
        layer: int,
        head: int,
        query: tuple[Float64, _Errors],
        key: tuple[Float64, _Errors],
    ) -> None:
        (q, of_q), (k, of_k) = query, key
        self._kind, self._machine = run.kind, run.machine(layer)
        machine = self._machine
        tokens, dimension = q.shape
        keys = np.ascontiguousarray(k.T)
        mask = run.mask(layer, "mask")
        recomputed = mask if mask is False else mask[head]
        sums = _product(q, keys, keys, machine.scores, machine, run.kind, recomputed)
        divisor = float(np.sqrt(dimension)) if run.model.shape.scaled else 1.0
        causal = np.tri(tokens, dtype=np.bool_)
        # An error of the query moves all scores of a row by its product with a mean key, which no
        # softmax sees: what is left is its product with the keys' distances from that mean.
        self.probabilities = run.result(layer, "probabilities")[head]
        mean = self.probabilities @ k
        slack = 4 * _UNIT * (np.abs(k) + np.abs(mean).max(initial=0.0))
        apart = np.abs(k[np.newaxis] - mean[:, np.newaxis]) + slack
        carried = np.fmin(
            np.abs(q) @ of_k.box.T
            + np.einsum("ic,ijc->ij", of_q.box, apart + of_k.box[np.newaxis]),
            length(q) * of_k.ball.T + of_q.ball * (length(apart)[..., 0] + of_k.ball.T),
        )
        near = sums.values / divisor
        self.values = run.result(layer, "scores")[head]
        errors = (sums.errors + sure(carried, dimension)) / divisor
        errors = errors + _gap(self.values, near) + 4 * _UNIT * np.abs(near)
        self.errors = np.where(causal, sure(errors, 2), 0.0)
        self.masked = np.where(causal, self.values, -np.inf)

    def attended(
        self, value: Float64, of_value: _Errors, result: Float64, step: Product
    ) -> _Errors:
        """Errors of the probabilities times the values."""
        softmax, f = Softmax(), SoftmaxProduct(value)
        z = softmax.value(self.masked)
        moved = softmax.enclosure(self.masked, self.errors)
        off = _gap(self.probabilities, z) + softmax.value_error(self.masked)
        sums = _product(self.probabilities, value, value, step, self._machine, self._kind)
        own = sums.errors + _gap(result, sums.values) + sure(off @ np.abs(value), len(value))
        most = np.fmin(z + moved + softmax.value_error(self.masked), 1.0)
        box = f.enclosure(self.masked, self.errors) + np.fmin(
            sure(most @ of_value.box, len(value)), np.maximum.accumulate(of_value.box)
        )
        ball = self._moved(value, z) + np.fmin(
            sure(most @ of_value.ball, len(value)), np.maximum.accumulate(of_value.ball)
        )
        return _Errors.of(sure(box, 2), sure(ball, 2)).plus(sure(own, 2))

    def _moved(self, value: Float64, z: Float64) -> Float64:
        """How far, in the 2-norm, errors of the scores move probabilities times values.

        ``||sum_j z_j (e^d_j - 1) (v_j - o)|| / sum_j z_j e^d_j``, with o known up to a slack.
        """
        n, dimension = value.shape
        output = z @ value
        slack = (4.0 * n + 4096.0) * _UNIT * np.sqrt(dimension) * np.abs(value).max(initial=0.0)
        distances = jacobians.value_distances(value, output, 2) + 2 * slack
        grown = np.where(z > 0, z * expm1(self.errors), 0.0)
        moved = sure(total(np.where(z > 0, grown * distances, 0.0)), n + dimension)
        least = total(z * exp(-self.errors)) * (1.0 - (8.0 * n + 8192.0) * _UNIT)
        return sure(moved / least, n)


def _feed_forward_layer(
    run: Run, layer: int, exact: Block, held: Block, x: Float64, errors: _Errors
) -> _Errors:
    """The errors of the residual stream after the feed-forward layer, carried step by step."""
    shape = run.model.shape
    h = run.result(layer, "norm_2")
    of_h = _normed(x, errors, exact.norm_2, shape.epsilon, h)
    factor = None
    first, first_held = exact.mlp_up, held.mlp_up
    if exact.gate is not None and held.gate is not None:
        near, (moved,) = _linear(h, of_h, exact.mlp_up, held.mlp_up, "mlp_up", run, layer)
        factor = near, moved
        first, first_held = exact.gate, held.gate
    mask = run.mask(layer, "mlp_up_mask")
    near, (moved,) = _linear(h, of_h, first, first_held, "mlp_up", run, layer, mask)
    y = run.result(layer, "mlp_up")
    moved = moved.plus(_gap(y, near))
    result = run.result(layer, "activation")
    moved = _activated(y, moved, factor, shape.activation, result)
    return _added(run, layer, "mlp_down", x, errors, result, moved, exact, held)[1]


def _added(
    run: Run,
    layer: int,
    name: str,
    x: Float64,
    errors: _Errors,
    h: Float64,
    of_h: _Errors,
    exact: Block,
    held: Block,
) -> tuple[Float64, _Errors]:
    """The residual stream plus a product, and its errors."""
    mask = run.mask(layer, f"{name}_mask")
    matrices = getattr(exact, name), getattr(held, name)
    near, (of_product,) = _linear(h, of_h, *matrices, name, run, layer, mask)
    result = run.result(layer, name)
    box = sure(errors.box + of_product.box, 2)
    ball = sure(errors.ball + of_product.ball, 2)
    own = _gap(result, x + near) + 2 * _UNIT * (np.abs(x) + np.abs(near))
    return result, _Errors.of(box, ball).plus(sure(own, 2))


# --- logits ---------------------------------------------------------------------------------------


class _Logits:
    """The logits of a run and bounds of the errors of their differences.

    The error of the last hidden row moves the difference of two logits by its product with the
    difference of two columns, less than it may move both.
    """

    def __init__(self, run: Run, of_stream: _Errors) -> None:
        last, exact = run.model.shape.layers, run.exact
        h = run.result(last, "final_norm")
        x = run.result(last, "stream")
        self.errors = _normed(x, of_stream, exact.norm, run.model.shape.epsilon, h)
        self.weight = exact.head.weight.astype(np.float64)
        held, machine = run.model._weights.head.weight, run.model.hardware
        mask = run.mask(last, "lm_head_mask")
        near, own = _product(h, self.weight, held, machine.lm_head, machine, run.kind, mask)
        if exact.head.bias is not None:
            near = near + exact.head.bias
            own = own + 2 * _UNIT * np.abs(near)
        self.own = sure(own + _gap(run.logits, near), 2)
        self.logits = run.logits

    def bounds(self, row: int, best: int) -> Float64:
        """Bounds of the errors of a row's logits subtracted from one of them."""
        errors, n = self.errors, len(self.weight)
        # Rounded once, which is far within the slack of sure.
        apart = self.weight - self.weight[:, best, np.newaxis]
        scaled = np.broadcast_to(errors.scale, n)[:, np.newaxis] * apart
        moved = np.fmin(
            sure(errors.box[row] @ np.abs(apart), n),
            sure(errors.ball[row] * length(scaled.T)[:, 0], 1),
        )
        return sure(moved + self.own[row] + self.own[row, best], 2)

    def closest(self, row: int, best: int) -> tuple[int, float, float]:
        """The logit whose margin is nearest to being disproved, the margin and its bound."""
        limits = self.bounds(row, best)
        margins = self.logits[row, best] - self.logits[row]
        rest = np.where(np.isfinite(limits), margins - limits, -np.inf)
        rest[best] = np.inf
        rival = int(np.argmin(rest))
        return rival, float(margins[rival]), float(limits[rival])
