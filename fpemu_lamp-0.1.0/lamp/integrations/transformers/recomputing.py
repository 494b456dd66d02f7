"""Look-ahead behind linear layers: products in front of norms and of activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lamp._kernels import activations, rows
from lamp.bounds.compositions import LayerNorm, RMSNorm
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.linear import count_work, plain
from lamp.integrations.transformers.running import array, tensor
from lamp.integrations.transformers.structure import Product
from lamp.lookahead import LAMP
from lamp.models import transformer

__all__ = ["into_activation", "into_norm"]


class _Pending(NamedTuple):
    """A product that waits for the residual stream, and what gives their sum."""

    tensor: torch.Tensor
    added: Callable[[NDArray[Any]], NDArray[Any]]

    def __call__(self, stream: NDArray[Any]) -> NDArray[Any]:
        return self.added(stream)


def _passing_over(fitting: Fitting, name: str, step: str) -> Callable[..., Any]:
    """A product in layers that no rule is for, where others are."""
    run, forward, matrix = fitting.run, plain(fitting, name, step), fitting.matrix(name)

    def passed_over(x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = forward(x)
        run.pass_over(step, found.numel(), matrix.shape[0])
        return found

    return passed_over


def into_norm(fitting: Fitting, name: str, product: Product) -> Callable[..., Any]:
    """A product that is added to the residual stream in front of a norm."""
    run, matrix = fitting.run, fitting.matrix(name)
    norm_name = fitting.structure.next_norms.get(name)
    if norm_name is None:
        raise ValueError(
            f"{_first(fitting, 'norm')} recomputes what norms read, but {name} is not added to "
            "the residual stream right in front of a norm"
        )
    parameters, kind = fitting.norm(norm_name), fitting.structure.norms[norm_name]
    of = LayerNorm if kind.centered else RMSNorm
    f = of(parameters.weight, epsilon=kind.epsilon)
    step = product.step
    passed_over = _passing_over(fitting, name, step)

    def forward(x: torch.Tensor) -> torch.Tensor:
        rule = run.rules.norm
        if rule is None:
            return passed_over(x)
        count_work(run, x, matrix)
        h = array(x)
        shape = (*h.shape[:-1], matrix.shape[1])
        texts = [h.reshape(-1, h.shape[-1])] if h.ndim < 3 else list(h)
        texts = [np.ascontiguousarray(text) for text in texts]
        machine = run.machine
        found = [transformer.Candidates.of(step, text, matrix, machine) for text in texts]
        low = tensor(np.stack([each.low for each in found]).reshape(shape))

        def added(stream: NDArray[Any]) -> NDArray[Any]:
            parts = np.broadcast_to(stream, shape).reshape(len(found), -1, shape[-1])
            out = []
            for candidates, part in zip(found, parts, strict=True):
                candidates.add(np.ascontiguousarray(part), machine)
                candidates.repair()
                sensitivity = f.sensitivity(candidates.low, 2)
                out.append(transformer.recompute(candidates, rule, run, sensitivity=sensitivity))
            return np.stack(out).reshape(shape)

        run.candidates[id(low)] = _Pending(low, added)
        return low

    return forward


def _first(fitting: Fitting, place: str) -> LAMP:
    """A rule for a place."""
    return next(rule for rule in fitting.run.look_ahead.rules if rule.on == place)


def into_activation(fitting: Fitting, name: str) -> Callable[..., Any]:
    """A product that an activation reads, or what the activated gate is multiplied by."""
    gates = fitting.structure.gates
    if any(name == factor for _, factor, _ in gates.values()):
        return plain(fitting, name, "mlp_up")
    if name not in gates:
        raise ValueError(
            f"{_first(fitting, 'activation')} recomputes what activations read, but the model's "
            f"{name} is not read by one that is known"
        )
    activation_name, factor_name, down = gates[name]
    run, matrix = fitting.run, fitting.matrix(name)
    factor_matrix = None if factor_name is None else fitting.matrix(factor_name)
    norms, slope = (
        fitting.matrix(down).row_norms,
        activations.activation(fitting.structure.activations[activation_name]).slope,
    )

    passed_over = _passing_over(fitting, name, "mlp_up")

    def recomputed(text: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
        factor = None
        if factor_matrix is not None:
            factor = transformer.gated_factor(text, factor_matrix, run)
        candidates = transformer.Candidates.of("mlp_up", text, matrix, run.machine)
        candidates.repair()
        slopes = rows.mapped(slope, candidates.low.astype(np.float64))
        sensitivity = np.abs(slopes) * norms
        already = None
        if factor is not None:
            sensitivity *= np.abs(factor.values)
            already = factor.recomputed
        rule = run.rules.activation
        y = transformer.recompute(candidates, rule, run, sensitivity=sensitivity, already=already)
        return y, None if factor is None else factor.values

    def forward(x: torch.Tensor) -> torch.Tensor:
        if run.rules.activation is None:
            return passed_over(x)
        h = array(x)
        texts = [h.reshape(-1, h.shape[-1])] if h.ndim < 3 else list(h)
        found = [recomputed(np.ascontiguousarray(text)) for text in texts]
        count_work(run, x, matrix)
        shape = (*h.shape[:-1], matrix.shape[1])
        if factor_name is not None and factor_matrix is not None:
            count_work(run, x, factor_matrix)
            factors = np.stack([factor for _, factor in found if factor is not None])
            run.held[factor_name] = x, tensor(factors.reshape(shape))
        return tensor(np.stack([y for y, _ in found]).reshape(shape))

    return forward
