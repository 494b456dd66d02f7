"""The command `lamp`: one module a subcommand, and what they have in common."""

from fpemu.cli import process

__all__ = ["main"]


def main() -> None:
    """Run the command as a process."""

    def load() -> process.Command:
        from lamp.cli.application import main

        return main

    process.run("lamp", load)
