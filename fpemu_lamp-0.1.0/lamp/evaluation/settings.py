"""Settings: a machine, and the rules of look-ahead on it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from lamp.lookahead import LAMP, LookAhead
from lamp.machines import files as machine_files
from lamp.machines import hardware

__all__ = ["Setting", "setting_parts"]

_JOINED: Final = re.compile(r"\+(?=[A-Za-z])")  # not the sign in an amount such as 1e+1


@dataclass(frozen=True)
class Setting:
    """A machine and the rules of look-ahead on it.

    Parameters
    ----------
    hardware : Hardware or str
        The machine.
    lamp : iterable of LAMP
        The rules, at most one for each place.

    Raises
    ------
    ValueError
        If the machine is unknown, two rules are for the same place, or a rule has not as many
        amounts as the machine has products that recompute.

    Examples
    --------
    >>> from lamp.evaluation import Setting
    >>> setting = Setting.parse("scores-ps4+softmax:tv:1%")
    >>> setting.hardware.name, setting.lamp[0].budget
    ('scores-ps4', 0.01)
    >>> str(setting)
    'scores-ps4+softmax:total_variation:1%'
    """

    hardware: Any
    lamp: Any = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hardware", hardware(self.hardware))
        object.__setattr__(self, "lamp", tuple(self.lamp))
        LookAhead.of(self.lamp).check(self.hardware)

    @classmethod
    def parse(cls, text: str) -> Setting:
        """Read a setting from ``HARDWARE[+RULE...]``.

        Parameters
        ----------
        text : str
            The name of a machine or a file that ends in ``.toml``, then rules as
            :meth:`lamp.LAMP.parse` takes them, joined by ``+``.

        Returns
        -------
        Setting

        Raises
        ------
        ValueError
            If the machine or a rule is unknown.
        FileNotFoundError
            If the file does not exist.
        """
        name, rules = setting_parts(text)
        return cls(hardware(name), [LAMP.parse(rule) for rule in rules])

    def __str__(self) -> str:
        return "+".join([self.hardware.name, *map(str, self.lamp)])

    @property
    def digest(self) -> str:
        """The SHA-256 of the machine, as a TOML file, and the rules."""
        parts = [machine_files.dumps(self.hardware), *map(str, self.lamp)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Return the setting as plain data."""
        return {
            "hardware": self.hardware.name,
            "lamp": [str(each) for each in self.lamp],
            "setting_sha256": self.digest,
        }


def setting_parts(text: str) -> tuple[str, list[str]]:
    """Split ``HARDWARE[+RULE...]`` into the machine and the rules."""
    stem, ending, rest = text.rpartition(".toml")
    first, *rules = _JOINED.split(rest)
    return stem + ending + first, rules
