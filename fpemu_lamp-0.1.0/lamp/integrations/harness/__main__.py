"""The harness's own command, with the model ``lamp``: ``python -m lamp.integrations.harness``."""

from lamp.integrations.harness.sources import harness


def main() -> None:
    """Run ``lm_eval`` in a process in which lamp is registered."""
    harness("lamp.integrations.harness.language_model")
    harness("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    main()
