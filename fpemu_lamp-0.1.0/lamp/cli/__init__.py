"""The command `lamp`: one module a subcommand, and what they have in common."""

from importlib.util import find_spec
from typing import Final

from fpemu.cli import process

__all__ = ["main"]

_PACKAGES: Final = (
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "safetensors",
    "tokenizers",
    "tomli_w",
)
"""What the extra ``lamp`` installs."""


def main() -> None:
    """Run the command as a process."""

    def load() -> process.Command:
        missing = [name for name in _PACKAGES if find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(f"needs {', '.join(missing)}", name=missing[0])
        from lamp.cli.application import main

        return main

    process.run("lamp", load, "fpemu-lamp[lamp]")
