"""Which class makes a claim: a proof says nothing of what another class has put in its place."""

from __future__ import annotations

__all__ = ["keeps_claims", "place_of"]


def place_of(kind: type, name: str) -> int:
    """How far up among the bases of a class a name is defined.

    Parameters
    ----------
    kind : type
    name : str

    Returns
    -------
    int
        0 for the class itself.
    """
    return next(i for i, base in enumerate(kind.__mro__) if name in vars(base))


def keeps_claims(kind: type, *claims: str) -> bool:
    """Whether none of a class's claims is overridden below the place of its `is_proved`.

    Parameters
    ----------
    kind : type
        A class with `is_proved`.
    *claims : str
        Names of methods.

    Returns
    -------
    bool
    """
    return all(place_of(kind, claim) >= place_of(kind, "is_proved") for claim in claims)
