"""The command `lamp`: one module a subcommand, and what they have in common."""

from lamp.cli.application import main

__all__ = ["main"]
