"""Feed-forward layers that a router chooses from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import fpemu
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.linear import count_work, linear
from lamp.integrations.transformers.running import array, tensor
from lamp.integrations.transformers.weights import Shared
from lamp.models import layers

__all__ = ["experts"]


def experts(fitting: Fitting, name: str) -> Callable[..., Any]:
    """Feed-forward layers that a router chooses from, each for the tokens that it is given.

    A token's outputs are multiplied by the router's weights and added up in the order of the
    experts' numbers; each of these results is rounded as the residual stream is.
    """
    run, module = fitting.run, fitting.module(name)
    for rule in run.look_ahead.rules:
        if rule.on in ("activation", "norm"):
            raise ValueError(
                f"{rule} recomputes products in front of functions, but {name} are experts, where "
                "that is not implemented"
            )
    up = "gate_up_proj" if module.has_gate else "up_proj"
    ups, downs = (_experts(fitting, name, each) for each in (up, "down_proj"))

    def forward(
        hidden: torch.Tensor,
        chosen: torch.Tensor,
        shares: torch.Tensor,
        steps: dict[str, NDArray[Any]] | None,
    ) -> torch.Tensor:
        def keep(name: str, numbers: torch.Tensor) -> None:
            if steps is not None:
                if name not in steps:
                    steps[name] = np.zeros((*index.shape, numbers.shape[1]), run.carrier)
                steps[name][tokens, places] = array(numbers)

        out = np.zeros(tuple(hidden.shape), run.carrier)
        h, index, share = (array(x) for x in (hidden, chosen, shares))
        machine = run.machine
        for number, (up_matrix, down_matrix) in enumerate(zip(ups, downs, strict=True)):
            tokens, places = np.nonzero(index == number)
            if not len(tokens):
                continue
            rows_ = tensor(h[tokens])
            count_work(run, rows_, up_matrix)
            risen = linear(rows_, up_matrix, machine.mlp_up)
            keep("expert_up", risen)
            gated = module._apply_gate(risen) if module.has_gate else module.act_fn(risen)
            keep("expert_activation", gated)
            count_work(run, gated, down_matrix)
            product = linear(gated, down_matrix, machine.mlp_down)
            keep("expert_down", product)
            fallen = array(product)
            given = np.broadcast_to(share[tokens, places][:, np.newaxis], fallen.shape)
            step = machine.residual
            weighted = fpemu.multiply(fallen, given, step.output, step.rounding)
            out[tokens] = layers.add(out[tokens], np.asarray(weighted), step)
        return tensor(out)

    def observed(hidden: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        run.adding = ""
        steps = (
            {"experts": array(chosen), "shares": array(shares)}
            if run.observer is not None
            else None
        )
        with run.unobserved():  # the steps of an expert are of some tokens only
            found = forward(hidden, chosen, shares, steps)
        for name, numbers in (steps or {}).items():
            run.observe(name, numbers)
        run.adding = "mlp_down"
        return found

    return observed


def _experts(fitting: Fitting, name: str, of: str) -> list[Shared]:
    """The matrices of the experts that a parameter of their module holds."""
    module = fitting.module(name)
    weights = getattr(module, of).detach()
    biases = array(getattr(module, f"{of}_bias")) if module.has_bias else [None] * len(weights)
    return [
        fitting.shared(name, [weight.T if module.is_transposed else weight], bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]
