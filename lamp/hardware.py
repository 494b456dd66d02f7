"""The simulated machine: which format and accumulator each step of a model runs in, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

import fpemu
from fpemu import Accumulator, Format, Pairwise, Sequential

__all__ = ["Hardware", "HardwareLike", "hardware"]


@dataclass(frozen=True)
class Hardware:
    """The arithmetic of a machine that runs a model.

    Every value between two steps is stored in one format.  Norms, activations and softmax are
    computed in float64 and rounded once into it.

    Parameters
    ----------
    name : str
        What the machine is called.
    storage : Format
        float32 or float64: the format of weights, activations and probabilities.
    products : Accumulator
        Sums of every matrix product but the attention scores.
    scores : Accumulator
        Sums of the query-key products.  The scores are divided by the square root of the head
        dimension in the storage format and rounded into this accumulator's format again.
    recomputed : Accumulator
        Sums of the query-key products that are recomputed in higher precision.

    Raises
    ------
    ValueError
        If `storage` is neither float32 nor float64.
    """

    name: str
    storage: Format = fpemu.formats.float32
    products: Accumulator = field(default_factory=lambda: Sequential("float32"))
    scores: Accumulator = field(default_factory=lambda: Sequential("float32"))
    recomputed: Accumulator = field(default_factory=lambda: Sequential("float32"))

    def __post_init__(self) -> None:
        if self.storage not in (fpemu.formats.float32, fpemu.formats.float64):
            raise ValueError(f"storage must be float32 or float64, not {self.storage}")

    @property
    def scores_are_low(self) -> bool:
        """Whether the scores are computed in less than the recomputed precision."""
        return self.scores != self.recomputed

    @property
    def is_causal(self) -> bool:
        """Whether a token's numbers can be computed before later tokens are known.

        They cannot where random bits go by places in arrays that grow, nor where a tree of sums
        takes its shape from their length; more terms of zero change no other accumulator.
        """
        whole_trees = (
            isinstance(part, Pairwise) and part.block is None for part in self.products.parts()
        )
        steps = (self.products, self.scores, self.recomputed)
        return not any(whole_trees) and not any(step.is_stochastic for step in steps)


HardwareLike = Hardware | str

_SCORES_PS: Final = re.compile(r"(?:scores-)?ps(\d{1,2})")


def hardware(spec: HardwareLike) -> Hardware:
    """The machine that a name stands for.

    Parameters
    ----------
    spec : Hardware or str
        A Hardware (returned as it is), or ``"fp32"``, ``"fp64"``, or ``"ps{mu}"``: float32
        throughout, but scores accumulated with mu stored significand bits (0..23), the PS(mu) of
        the LAMP paper (``"scores-ps{mu}"`` says the same).

    Returns
    -------
    Hardware

    Raises
    ------
    ValueError
        If the name is unknown.

    References
    ----------
    Budzinskiy et al., "LAMP: Look-Ahead Mixed-Precision Inference of Large Language Models",
    arXiv 2601.21623.

    Examples
    --------
    >>> import lamp
    >>> str(lamp.hardware("ps4").scores)
    'sequential(e8m4, rne)'
    """
    if isinstance(spec, Hardware):
        return spec
    if not isinstance(spec, str):
        raise TypeError(f"hardware must be a Hardware or a name, not {type(spec).__name__}")
    if spec == "fp32":
        return Hardware("fp32")
    if spec == "fp64":
        double = Sequential("float64")
        return Hardware("fp64", fpemu.formats.float64, double, double, double)
    if (match := _SCORES_PS.fullmatch(spec)) and int(match[1]) <= 23:
        return Hardware(f"ps{int(match[1])}", scores=Sequential(f"e8m{int(match[1])}"))
    raise ValueError(f"unknown hardware {spec!r}: expected 'fp32', 'fp64' or 'ps0' to 'ps23'")
