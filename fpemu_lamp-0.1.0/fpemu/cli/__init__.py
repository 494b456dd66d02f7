"""The command `fpemu`, and how the commands of both packages start and end."""

from fpemu.cli import process

__all__ = ["documents", "main", "options", "process", "warming"]


def main() -> None:
    """Run the command as a process."""

    def load() -> process.Command:
        from fpemu.cli.application import main

        return main

    process.run("fpemu", load)
