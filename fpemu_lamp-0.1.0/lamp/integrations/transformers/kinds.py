"""What the modules of a model are, told by what they compute.

A norm, an activation or a rotary embedding has many classes in transformers, one in each family.
A module is tried on a few numbers and compared with the definitions that this package has.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import Any, Final

import mpmath
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from lamp._kernels.activations import ACTIVATIONS
from lamp.models import Rotary

__all__ = [
    "NormKind",
    "RotaryKind",
    "activation_of",
    "is_experts",
    "is_linear",
    "norm_of",
    "rotary_of",
]

_EPSILONS: Final = ("eps", "variance_epsilon", "epsilon")
_CLOSE: Final = 1e-4  # norms of transformers compute in float32
_ACTIVATION_CLOSE: Final = 1e-9
_LINEAR_CLOSE: Final = 1e-12
_POINTS: Final = 6  # positions that a rotary embedding is tried at


# --- linear layers --------------------------------------------------------------------------------


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds the feed-forward layers of several experts, as transformers does."""
    own = dict(module.named_parameters(recurse=False))
    down = own.get("down_proj")
    return down is not None and down.ndim == 3 and hasattr(module, "is_transposed")


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer of plain weights."""
    forward = type(module).forward
    if forward is nn.Linear.forward or forward is Conv1D.forward:
        return True
    return isinstance(module, nn.Linear) and _is_plain(module)


def _is_plain(module: nn.Linear) -> bool:
    """Whether a linear layer with a function of its own gives the product and the bias."""
    x = torch.from_numpy(_numbers((2, module.in_features)))
    found = _outcome(module, x)
    bias = None if module.bias is None else module.bias.detach().double()
    expected = nn.functional.linear(x, module.weight.detach().double(), bias).numpy()
    return found is not None and np.allclose(found, expected, _LINEAR_CLOSE, _LINEAR_CLOSE)


# --- norms ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormKind:
    """A norm: LayerNorm if `centered`, else RMSNorm.

    Parameters
    ----------
    centered : bool
    one_more : bool
        Whether one is added to the stored weights, as Gemma does.
    epsilon : float
    """

    centered: bool
    one_more: bool
    epsilon: float


def norm_of(module: nn.Module) -> NormKind | None:
    """The norm that a module computes, or None."""
    parameters = dict(module.named_parameters(recurse=False))
    epsilon = next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)
    weight = parameters.get("weight")
    if weight is None or weight.ndim != 1 or any(True for _ in module.children()):
        return None
    if not set(parameters) <= {"weight", "bias"} or not isinstance(epsilon, float):
        return None
    x = _numbers((2, len(weight))) + 0.5
    found = _outcome(module, torch.from_numpy(x))
    if found is None:
        return None
    w, b = (
        each.detach().double().numpy()
        for each in (weight, parameters.get("bias", torch.zeros_like(weight)))
    )
    for centered in (True, False):
        for one_more in (False, True):
            expected = _norm(x, centered, epsilon) * (w + float(one_more)) + b
            if found.shape == x.shape and np.allclose(found, expected, _CLOSE, _CLOSE):
                return NormKind(centered, one_more, epsilon)
    return None


def _norm(x: NDArray[Any], centered: bool, epsilon: float) -> NDArray[Any]:
    deviations = x - x.mean(axis=-1, keepdims=True) if centered else x
    return np.asarray(deviations / np.sqrt((deviations**2).mean(axis=-1, keepdims=True) + epsilon))


def _numbers(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal(shape)


def _outcome(module: nn.Module, x: torch.Tensor) -> NDArray[Any] | None:
    """What a module makes of float64 numbers, with its weights in float64, or None."""
    with torch.no_grad():
        try:
            found = copy.deepcopy(module).double()(x)
        except Exception:  # of a module that takes something else
            return None
    return found.double().numpy() if isinstance(found, torch.Tensor) else None


# --- activations ----------------------------------------------------------------------------------


def activation_of(module: nn.Module) -> str | None:
    """The name of the activation that a module computes, or None."""
    if isinstance(module, (nn.Dropout, nn.Identity, nn.ModuleList)):
        return None
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        return None
    x = np.linspace(-6.0, 6.0, 49)
    found = _outcome(module, torch.from_numpy(x))
    if found is None or found.shape != x.shape:
        return None
    for name, activation in ACTIVATIONS.items():
        expected = [float(activation.value_mpmath(mpmath.mpf(float(each)))) for each in x]
        if np.allclose(found, expected, _ACTIVATION_CLOSE, _ACTIVATION_CLOSE):
            return name
    return None


# --- rotary positions -----------------------------------------------------------------------------


@dataclass(frozen=True)
class RotaryKind:
    """A rotary embedding: its angles by the type of the layer, "" where there is one for all.

    Parameters
    ----------
    angles : tuple of (str, Rotary, float)
        The type of the layer, the angles, and what cosines and sines are multiplied by.
    halves : bool
        Whether its tables hold every angle once rather than twice.
    sine_first : bool
        Whether the sines come before the cosines.
    """

    angles: tuple[tuple[str, Rotary, float], ...]
    halves: bool
    sine_first: bool = False

    def tables(
        self, positions: NDArray[np.int64], layer_type: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cosines and sines at positions of any shape, in float64, in the module's order."""
        rotary, scaling = next((r, s) for name, r, s in self.angles if name == layer_type)
        first = int(positions.min())
        cosine, sine = rotary.tables(first, int(positions.max()) - first + 1)
        found = [table[positions - first] * scaling for table in (cosine, sine)]
        cosine, sine = (x if self.halves else np.concatenate([x, x], -1) for x in found)
        return (sine, cosine) if self.sine_first else (cosine, sine)


def rotary_of(module: nn.Module) -> RotaryKind | None:
    """The rotary embedding that a module is, or None.

    Raises
    ------
    ValueError
        If it is one whose angles are not known, or depend on the length of the text.
    """
    buffers = dict(module.named_buffers(recurse=False))
    types = [
        name.removesuffix("inv_freq").rstrip("_")
        for name in buffers
        if name.endswith("inv_freq") and "original" not in name
    ]
    if any(True for _ in module.parameters()) or any(True for _ in module.children()):
        return None
    tables = [b for b in buffers.values() if b.ndim == 2 and b.is_floating_point()]
    if types:
        angles = tuple((name, *_angles(module, name, buffers)) for name in types)
    elif len(tables) == 1 and len(buffers) == 1 and tables[0].shape[1] % 2 == 0:
        types, angles = [""], (("", Rotary(tables[0].shape[1]), 1.0),)
    else:
        return None
    position = torch.arange(_POINTS)[np.newaxis]
    x = torch.zeros(1, _POINTS, 2)
    for halves, sine_first in itertools.product((False, True), repeat=2):
        kind = RotaryKind(angles, halves, sine_first)
        if all(_agrees(module, kind, name, x, position) for name in types):
            return kind
    raise ValueError(
        f"{type(module).__name__} has rotary positions of a kind that is not known: its cosines "
        "and sines are not those of its frequencies"
    )


def _angles(
    module: nn.Module, layer_type: str, buffers: dict[str, torch.Tensor]
) -> tuple[Rotary, float]:
    """The angles of a type of layers and what the tables are multiplied by."""
    prefix = f"{layer_type}_" if layer_type else ""
    given = buffers[f"{prefix}inv_freq"].double().numpy()
    config = getattr(module, "config", None)
    parameters = dict(getattr(config, "rope_parameters", None) or {})
    if layer_type:
        parameters = dict(parameters.get(layer_type) or {})
    kind = parameters.get("rope_type", "default")
    if kind in ("dynamic", "longrope"):
        raise ValueError(
            f"rotary positions of type {kind!r} depend on the length of the text, which no "
            "machine here follows"
        )
    scaling = float(getattr(module, f"{prefix}attention_scaling", 1.0))
    parameters.pop("partial_rotary_factor", None)  # the number of frequencies says it
    positions = getattr(config, "max_position_embeddings", None)
    parameters.setdefault("original_max_position_embeddings", positions)
    try:
        rotary = Rotary.from_mapping(2 * len(given), parameters)
        known = np.array([float(each) for each in rotary.frequencies()])
    except ValueError:
        known = np.full_like(given, np.nan)
    if np.allclose(known, given, 1e-5, 0):
        return rotary, scaling
    # Frequencies of another kind are the float32 numbers that transformers has.
    return Rotary.of_frequencies(given.tolist()), scaling


def _agrees(
    module: nn.Module, kind: RotaryKind, name: str, x: torch.Tensor, position: torch.Tensor
) -> bool:
    """Whether a module's own tables are those of a kind, but for float32."""
    arguments = (name,) if name else ()
    try:
        with torch.no_grad():
            found = module(x, position, *arguments)
    except Exception:  # of a module that takes something else
        return False
    expected = kind.tables(position.numpy(), name)
    if not isinstance(found, tuple) or len(found) != 2:
        return False
    return all(
        isinstance(own, torch.Tensor)
        and own.shape == ours.shape
        and np.allclose(own.double().numpy(), ours, 0, 1e-5)
        for own, ours in zip(found, expected, strict=True)
    )
