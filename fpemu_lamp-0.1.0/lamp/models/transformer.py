"""The forward pass of a decoder, in the order in which a token goes through it.

:func:`forward` embeds the tokens, sends the residual stream through the blocks and projects it to
logits.  A block (:func:`run_block`) is that of GPT-2 and of Llama::

    x = x + attention(norm_1(x))
    x = x + feed_forward(norm_2(x))

Where look-ahead is on, the product in front of a nonlinear function is computed in both precisions
(:class:`Candidates`), and the components that matter to the function are taken from the high one
(:func:`recompute`).  Families of models differ in data only: whether there are positions to add, a
gate, a mean to subtract in norms, angles to rotate by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fpemu
from lamp._kernels import activations, rows
from lamp.bounds.compositions import LayerNorm, RMSNorm
from lamp.lookahead import LAMP, LookAhead, Recomputation, error_weights, replace_selected
from lamp.machines import Function, Hardware, Product, Sum
from lamp.models.attention import attention, softmax
from lamp.models.cache import Cache
from lamp.models.layers import (
    Matrix,
    Norm,
    activation,
    add,
    checked_linear,
    left_operand,
    linear,
    multiply,
    norm,
    overflowed,
    round_into,
)
from lamp.models.weights import Block, Shape, Weights

__all__ = ["Forward", "Observer", "State", "forward"]

Observer = Callable[[str, int, NDArray[Any]], None]
"""Called with the name of a result, its layer and its values, which must be copied to be kept."""

# Random selections in each step of each layer are drawn from a stream of their own.
_STREAMS: Final = {"scores": 0, "attention_output": 1, "mlp_up": 2, "mlp_down": 3, "lm_head": 4}
_STREAM_STEP: Final = 2**32  # more than there are layers


@dataclass(frozen=True)
class Forward:
    """Result of a forward pass.

    Parameters
    ----------
    logits : ndarray, shape (tokens, vocabulary)
        Next-token logits at each position.
    recomputed : mapping of str to tuple of Recomputation
        What look-ahead recomputed, by step and layer: ``"scores"``, ``"attention_output"``,
        ``"mlp_up"`` and ``"mlp_down"`` have one entry per layer, ``"lm_head"`` has one in all.
        Steps without look-ahead are left out.
    multiply_adds : int
        Multiply-adds of all products, recomputation not included.
    """

    logits: NDArray[Any]
    recomputed: Mapping[str, tuple[Recomputation, ...]]
    multiply_adds: int

    @property
    def recomputation_rate(self) -> float:
        """Share of candidate components that were recomputed; 0 if there are no candidates."""
        parts = [part for layers in self.recomputed.values() for part in layers]
        components = sum(part.components for part in parts)
        return sum(part.selected for part in parts) / components if components else 0.0

    @property
    def repeated(self) -> int:
        """Multiply-adds of the recomputed components."""
        parts = (part for layers in self.recomputed.values() for part in layers)
        return sum(part.selected * part.terms for part in parts)


@dataclass
class State:
    """State of a forward pass: where it runs, where it stands, what it has recomputed.

    Parameters
    ----------
    shape : Shape
        The sizes of the model.
    hardware : Hardware
        The machine.
    look_ahead : LookAhead
        The rules by place.
    cache : Cache, optional
        Keys and values of the tokens before; those of this pass are appended.
    observer : callable, optional
        Is called with the name of every result, its layer and its values.

    Attributes
    ----------
    layer : int
        The layer that is being computed; the number of layers behind the last one.
    machine : Hardware
        The machine of this layer, with random bits of its own.
    rules : LookAhead
        The rules of this layer, one for each place.
    recomputed : dict
        What was recomputed so far, a list per step.
    """

    shape: Shape
    hardware: Hardware
    look_ahead: LookAhead
    cache: Cache | None = None
    observer: Observer | None = None
    layer: int = field(default=0, init=False)
    machine: Hardware = field(init=False)
    rules: LookAhead = field(init=False)
    recomputed: dict[str, list[Recomputation]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.machine, self.rules = self.hardware, self.look_ahead

    @property
    def position(self) -> int:
        """The position of the first token of the pass."""
        return 0 if self.cache is None else self.cache.length

    def enter(self, layer: int) -> None:
        """Go on to a layer."""
        self.layer = layer
        self.machine = self.hardware.of_layer(layer, self.shape.layers)
        self.rules = self.look_ahead.of_layer(layer, self.shape.layers)

    def observe(self, name: str, numbers: NDArray[Any]) -> None:
        """Show a result of the current layer to the observer."""
        if self.observer is not None:
            self.observer(name, self.layer, numbers)

    def count(self, step: str, recomputation: Recomputation) -> None:
        """Note what was recomputed in a step of the current layer."""
        self.recomputed.setdefault(step, []).append(recomputation)

    def pass_over(self, step: str, components: int, terms: int) -> None:
        """Note that nothing was recomputed, as the current layer has no rule for the step."""
        none = np.zeros(0, np.bool_)
        machine, product = self.machine, getattr(self.machine, step)
        found = Recomputation.of(none, product, machine, components=components, terms=terms)
        self.count(step, found)


# --- the pass -------------------------------------------------------------------------------------


def forward(tokens: NDArray[np.int64], weights: Weights, state: State) -> Forward:
    """Send tokens through a model.

    Parameters
    ----------
    tokens : ndarray of int64, shape (tokens,)
        The tokens behind those in the state's cache.
    weights : Weights
    state : State
        A new one; it is changed.

    Returns
    -------
    Forward
    """
    x = embed(tokens, weights, state)
    for layer, block in enumerate(weights.blocks):
        state.enter(layer)
        x = run_block(x, block, weights.norm_after(layer), state)
    state.enter(state.shape.layers)
    state.observe("stream", x)
    h = normalize(x, weights.norm, "final_norm", state)
    logits = project(h, weights.head, state)
    state.observe("logits", logits)
    work = weights.multiply_adds(state.shape, state.position, len(tokens))
    if state.cache is not None:
        state.cache.length += len(tokens)
    recomputed = {step: tuple(parts) for step, parts in state.recomputed.items()}
    return Forward(logits, recomputed, work)


def embed(tokens: NDArray[np.int64], weights: Weights, state: State) -> NDArray[Any]:
    """The residual stream before the first block: token embeddings, plus those of positions."""
    x, step = weights.tokens[tokens], state.hardware.embedding
    if weights.positions is None:
        return round_into(x, step)
    positions = weights.positions[state.position : state.position + len(tokens)]
    return add(x, positions, step)


def run_block(x: NDArray[Any], block: Block, next_norm: Norm, state: State) -> NDArray[Any]:
    """The residual stream after a block; `next_norm` is the norm that reads it."""
    state.observe("stream", x)
    h = attend(normalize(x, block.norm_1, "norm_1", state), block, state)
    x = add_product(x, h, "attention_output", block.attention_output, block.norm_2, state)
    h = feed_forward(normalize(x, block.norm_2, "norm_2", state), block, state)
    return add_product(x, h, "mlp_down", block.mlp_down, next_norm, state)


def normalize(x: NDArray[Any], parameters: Norm, name: str, state: State) -> NDArray[Any]:
    """The residual stream through a norm, shown to the observer by that name."""
    h = norm(x, parameters, state.shape.epsilon, state.machine.norm)
    state.observe(name, h)
    return h


# --- attention ------------------------------------------------------------------------------------


class Heads(NamedTuple):
    """Queries of shape (heads, tokens, d); keys and values of shape (key heads, tokens, d)."""

    query: NDArray[Any]
    key: NDArray[Any]
    value: NDArray[Any]


def attend(h: NDArray[Any], block: Block, state: State) -> NDArray[Any]:
    """Attention of all heads of a layer, side by side, of shape (tokens, heads d)."""
    machine, rule = state.machine, state.rules.softmax
    heads = split_heads(linear(h, block.qkv, machine.qkv), machine.qkv, state)
    for name, numbers in heads._asdict().items():
        state.observe(name, numbers)
    key, value = heads.key, heads.value
    if state.cache is not None:
        key, value = state.cache.extended(state.layer, key, value)
    attended = attention(
        heads.query,
        key,
        value,
        hardware=machine,
        lamp=rule,
        layer=state.layer,
        scaled=state.shape.scaled,
        observe=None if state.observer is None else state.observe,
    )
    if state.look_ahead.softmax is not None:
        state.count("scores", attended.recomputation)
    joined = attended.output.transpose(1, 0, 2).reshape(len(h), -1)
    state.observe("heads", joined)
    return joined


def split_heads(qkv: NDArray[Any], step: Product, state: State) -> Heads:
    """Queries, keys and values in the rows of a product, rotated if the model rotates them."""
    shape = state.shape
    apart = qkv.reshape(len(qkv), -1, shape.dimension).transpose(1, 0, 2)
    values = shape.heads + shape.key_heads
    heads = Heads(
        np.ascontiguousarray(apart[: shape.heads]),
        np.ascontiguousarray(apart[shape.heads : values]),
        np.ascontiguousarray(apart[values:]),
    )
    if shape.rotary is None:
        return heads
    return heads._replace(
        query=rotate(heads.query, "query", step, state), key=rotate(heads.key, "key", step, state)
    )


def rotate(x: NDArray[Any], name: str, step: Product, state: State) -> NDArray[Any]:
    """Queries or keys, rotated in float64 and rounded into the output of the step qkv once more."""
    assert state.shape.rotary is not None
    rotated = state.shape.rotary.rotated(x, state.position)
    rounding = step.rounding.derived("rotary", name)
    return np.asarray(fpemu.round(rotated, step.output, rounding)).astype(x.dtype, copy=False)


# --- the feed-forward layer -----------------------------------------------------------------------


def feed_forward(h: NDArray[Any], block: Block, state: State) -> NDArray[Any]:
    """``activation(h @ mlp_up)``; with a gate ``activation(h @ gate) * (h @ mlp_up)``."""
    step, name = state.machine.activation, state.shape.activation
    if block.gate is None:
        result = activation(pre_activation(h, block.mlp_up, block, None, state), name, step)
    else:
        factor = gated_factor(h, block.mlp_up, state)
        result = activation(pre_activation(h, block.gate, block, factor, state), name, step)
        result = multiply(result, factor.values, step)
    state.observe("activation", result)
    return result


class GatedFactor(NamedTuple):
    """What an activated gate is multiplied by, and which of its components were recomputed."""

    values: NDArray[Any]
    recomputed: NDArray[np.bool_] | None


def gated_factor(h: NDArray[Any], matrix: Matrix, state: State) -> GatedFactor:
    """``h @ mlp_up`` of a gated layer; look-ahead recomputes the components that overflowed."""
    step = state.machine.mlp_up
    if state.rules.activation is None:
        return GatedFactor(linear(h, matrix, step), None)
    values, overflow = checked_linear(h, matrix, step)
    if overflow.any():
        np.copyto(values, linear(h, matrix, state.machine.levels[-1]), where=overflow)
    return GatedFactor(values, overflow)


def pre_activation(
    h: NDArray[Any], matrix: Matrix, block: Block, factor: GatedFactor | None, state: State
) -> NDArray[Any]:
    """The argument of the activation, with the components recomputed that it is sensitive to."""
    rule = state.rules.activation
    if rule is None:
        y = linear(h, matrix, state.machine.mlp_up)
        if state.look_ahead.activation is not None:
            state.pass_over("mlp_up", y.size, h.shape[-1])
    else:
        candidates = Candidates.of("mlp_up", h, matrix, state.machine)
        candidates.repair()
        slope = activations.activation(state.shape.activation).slope
        slopes = rows.mapped(slope, candidates.low.astype(np.float64))
        sensitivity = np.abs(slopes) * block.mlp_down.row_norms
        already = None
        if factor is not None:
            sensitivity *= np.abs(factor.values)
            already = factor.recomputed
        y = recompute(candidates, rule, state, sensitivity=sensitivity, already=already)
    state.observe("mlp_up", y)
    return y


# --- back into the stream, and out of it ----------------------------------------------------------


def add_product(
    x: NDArray[Any], h: NDArray[Any], name: str, matrix: Matrix, next_norm: Norm, state: State
) -> NDArray[Any]:
    """``x + h @ matrix``, with the components recomputed that the next norm is sensitive to.

    `name` is that of the product's step.
    """
    machine, rule = state.machine, state.rules.norm
    if rule is None:
        if state.look_ahead.norm is not None:
            state.pass_over(name, x.size, h.shape[-1])
        x = add(x, linear(h, matrix, getattr(machine, name)), machine.residual)
    else:
        candidates = Candidates.of(name, h, matrix, machine)
        candidates.add(x, machine)
        candidates.repair()
        kind = LayerNorm if next_norm.centered else RMSNorm
        f = kind(next_norm.weight, epsilon=state.shape.epsilon)
        x = recompute(candidates, rule, state, sensitivity=f.sensitivity(candidates.low, 2))
    state.observe(name, x)
    return x


def project(h: NDArray[Any], head: Matrix, state: State) -> NDArray[Any]:
    """Logits, with those recomputed that their softmax is sensitive to."""
    hardware, rule = state.hardware, state.rules.logits
    if rule is None:
        return linear(h, head, hardware.lm_head)
    candidates = Candidates.of("lm_head", h, head, hardware)
    candidates.repair()
    lengths = np.full(len(h), candidates.low.shape[1], np.int64)
    probabilities = softmax(candidates.low, lengths, Function(hardware.levels[-1].output))
    return recompute(candidates, rule, state, probabilities=probabilities)


# --- look-ahead -----------------------------------------------------------------------------------


@dataclass
class Candidates:
    """Components of a product that look-ahead may recompute, in all precisions.

    Parameters
    ----------
    step : str
        The product's step.
    product : Product
        The step of the machine that computes `low`, with the random bits of the layer.
    left : ndarray, shape (rows, inputs)
    matrix : Matrix
        The factors of the product.
    low : ndarray, shape (rows, outputs)
        As the step computes them; recomputed components are put in here.
    overflow : ndarray of bool, shape (rows, outputs)
        Which of them the step may have had no room for: they are recomputed whatever the rule, in
        the highest precision.
    levels : list of ndarray, shape (rows, outputs)
        As each product that recomputes has them, the highest precision last.
    """

    step: str
    product: Product
    left: NDArray[Any]
    matrix: Matrix
    low: NDArray[Any]
    overflow: NDArray[np.bool_]
    levels: list[NDArray[Any]]

    @classmethod
    def of(cls, step: str, left: NDArray[Any], matrix: Matrix, machine: Hardware) -> Candidates:
        """The components of a product by its step and in the precisions that recompute."""
        product = getattr(machine, step)
        low, overflow = checked_linear(left, matrix, product)
        # All of them in high precision take less time than picking out the selected ones.
        levels = [linear(left, matrix, each) for each in machine.levels]
        return cls(step, product, left, matrix, low, overflow, levels)

    def add(self, x: NDArray[Any], machine: Hardware) -> None:
        """Add an array, in each precision by its own rounding."""
        self.low = add(x, self.low, machine.residual)
        self.overflow |= overflowed(self.low, machine.residual.output)
        sums = (Sum(each.output, each.rounding) for each in machine.levels)
        pairs = zip(self.levels, sums, strict=True)
        self.levels = [add(x, numbers, each) for numbers, each in pairs]

    def repair(self) -> None:
        """Take what overflowed from the highest precision."""
        np.copyto(self.low, self.levels[-1], where=self.overflow)

    def error_weights(self, name: str) -> NDArray[Any] | None:
        """What errors are taken to be proportional to, see :data:`lamp.lookahead.rules.WEIGHTS`."""
        if name == "one":
            return None
        if name == "errors":
            return np.asarray(np.abs(self.low - self.levels[-1]))
        if name == "abs":
            return np.asarray(np.abs(self.low))
        left = left_operand(self.left, self.product)
        operands = left, self.matrix.operand(self.product)
        return error_weights(name, (self.left, self.matrix.weight), operands, self.product)


def recompute(
    candidates: Candidates,
    rule: LAMP,
    state: State,
    *,
    probabilities: NDArray[Any] | None = None,
    sensitivity: NDArray[Any] | None = None,
    already: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """The components of a product, those that a rule selects in high precision.

    `already` are those of another matrix of the same step that overflowed: they are counted.
    """
    name = candidates.step
    mask = replace_selected(
        candidates.low,
        candidates.levels,
        candidates.overflow,
        rule,
        probabilities=probabilities,
        sensitivity=sensitivity,
        weights=candidates.error_weights(rule.weights),
        stream=state.layer + _STREAMS[name] * _STREAM_STEP,
    )
    count = partial(Recomputation.of, step=candidates.product, machine=state.machine)
    terms = candidates.matrix.shape[0]
    counted = count(mask, components=mask.size, terms=terms)
    if already is not None:
        highest = already.astype(np.uint8) * np.uint8(len(state.machine.levels))
        counted += count(highest, components=0, terms=terms)
    state.count(name, counted)
    state.observe(f"{name}_mask", mask)
    return candidates.low
