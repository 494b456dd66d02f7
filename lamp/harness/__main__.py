"""The command of lm-evaluation-harness, with the model ``lamp``: ``python -m lamp.harness``."""

from lamp.harness.scores import harness


def main() -> None:
    """Run ``lm_eval`` in a process in which lamp is registered."""
    harness("lamp.harness.language_model")
    harness("lm_eval.__main__").cli_evaluate()


if __name__ == "__main__":
    main()
