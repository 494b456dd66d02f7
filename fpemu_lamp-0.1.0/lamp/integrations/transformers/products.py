"""The linear layers of a model on a machine, each by its place."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lamp.integrations.transformers import linear
from lamp.integrations.transformers.fitting import Fitting
from lamp.integrations.transformers.recomputing import into_activation, into_norm
from lamp.integrations.transformers.running import array, by_text, tensor, unseen
from lamp.integrations.transformers.structure import Product
from lamp.models import transformer

__all__ = ["product"]


def product(fitting: Fitting, name: str) -> Callable[..., Any]:
    """A linear layer."""
    run, forward = fitting.run, _product(fitting, name)
    step = fitting.structure.products[name].step
    if step in ("qkv", "lm_head"):
        return forward

    def output(x: torch.Tensor) -> torch.Tensor:
        if step == "mlp_down":
            run.show("activation", x)
        found: torch.Tensor = forward(x)
        run.adding = "" if step == "mlp_up" else step
        if step == "attention_output":
            run.place = "block"  # some modules add the residual stream themselves
        return found

    return output


def _product(fitting: Fitting, name: str) -> Callable[..., Any]:
    product = fitting.structure.products[name]
    if product.step == "qkv":
        return _qkv(fitting, name, product)
    if product.step == "lm_head":
        return _head(fitting, name)
    ahead = fitting.run.look_ahead
    if product.step in ("attention_output", "mlp_down") and ahead.norm is not None:
        return into_norm(fitting, name, product)
    if product.step == "mlp_up" and ahead.activation is not None:
        return into_activation(fitting, name)
    return linear.plain(fitting, name, product.step)


def _qkv(fitting: Fitting, name: str, product: Product) -> Callable[..., Any]:
    """Queries, keys or values: those of the same numbers are one product."""
    run, names = fitting.run, product.joined
    if len(names) == 1:
        return linear.plain(fitting, name, "qkv")
    matrix = fitting.matrix(*names)
    ends = [0, *np.cumsum([fitting.matrix(each).shape[1] for each in names]).tolist()]
    parts = [slice(*pair) for pair in itertools.pairwise(ends)]

    def forward(x: torch.Tensor) -> torch.Tensor:
        held = run.held.pop(name, None)
        if held is not None and held[0] is x:
            return held[1]
        linear.count_work(run, x, matrix)
        joined = linear.product(x, matrix, run.machine.qkv)
        with unseen():
            held = [torch.from_numpy(joined[..., part]) for part in parts]
        for other, numbers in zip(names, held, strict=True):
            run.held[other] = x, numbers
        return run.held.pop(name)[1]

    return forward


def _head(fitting: Fitting, name: str) -> Callable[..., Any]:
    """A linear layer behind the last layer."""
    run, matrix = fitting.run, fitting.matrix(name)
    rule = run.look_ahead.logits if fitting.is_head(name) else None
    if rule is None:

        def forward(x: torch.Tensor) -> torch.Tensor:
            linear.count_work(run, x, matrix)
            return linear.linear(x, matrix, run.hardware.lm_head)

        return forward

    def project(h: NDArray[Any]) -> NDArray[Any]:
        return transformer.project(h, matrix, run)

    def forward_recomputed(x: torch.Tensor) -> torch.Tensor:
        linear.count_work(run, x, matrix)
        return tensor(by_text(project, False, array(x)))

    return forward_recomputed
