"""Stores of results that nobody has computed, with everything in them that reports have to show."""

import itertools
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lamp.evaluation import Metrics, Sums
from lamp.studies import Result, Run, Store

MARKUP = "<script>alert(1)</script>"
QUOTED = "\"a\" & 'b' </title></table><!-- $style \x00 {mu}"
HALF = "\udcff"  # of a character: JSON can hold it, UTF-8 cannot
ERROR = "<img src=x onerror=alert(2)> did not fit"
MODELS = ("embedded", MARKUP)
TEXTS = ("held-out", QUOTED)
LAMP = (
    "none",
    "softmax:normwise:1.5",
    "softmax:normwise:1.05",
    "softmax:total_variation:1%:weights=abs",
    "softmax:total_variation:10%:weights=abs",
    "softmax:random:1%:seed=3+norm:norm:5%",
    MARKUP,
)
PLACES = (
    {"host": "here", "cores": 2, "threads": 2, "numpy": "2.4", "memory": 2**34},
    {"host": MARKUP, "processor": "other", "nested": {"b": [1, 2]}},
)
_TIME = "2026-01-{:02}T{:02}:30:00.000+00:00"
_LAYERS = 6


def write(
    path: Path,
    machines: int = 3,
    studies: tuple[str, ...] = ("scores", "words"),
    models: tuple[str, ...] = MODELS,
    texts: tuple[str, ...] = TEXTS,
) -> Path:
    """A store with two studies: done, failed and missing runs, NaN, infinity and zeros.

    In the first, every model reads every text; in the other, one each.
    """
    first, *others = studies
    with Store.open(path, write=True) as store:
        _fill(store, first, machines, itertools.product(models, texts))
        for study in others:
            _fill(store, study, 2, zip(models, texts, strict=True))
    return path


def _fill(store: Store, study: str, machines: int, readings: Iterable[tuple[str, str]]) -> None:
    hardware = [f"scores-ps{mu}" for mu in range(2, 2 + machines)] + ["bf16", f"fp8 {MARKUP}"]
    runs = []
    for (model, text), machine, lamp in itertools.product(readings, hardware, LAMP):
        key = f"{study}-{len(runs)}"
        mu = machine.removeprefix("scores-ps")
        variables = {"mu": int(mu), "tokens": 64} if mu.isdigit() else {"share": MARKUP + HALF}
        runs.append(Run(key, model, text, machine, lamp, "fp64", variables))
    definition = {
        "name": study,
        "models": list(MODELS),
        "texts": [{"source": TEXTS[0]}, {"source": "b", "name": QUOTED}],
        "hardware": ["scores-ps{mu}", "bf16", f"fp8 {MARKUP}"],
        "lamp": list(LAMP),
        "reference": "fp64",
        "grid": {"mu": list(range(2, 2 + machines)), "share": [MARKUP + HALF], "tokens": [64]},
    }
    store.plan(study, definition, runs)
    for position, run in enumerate(runs):
        if position % 23 == 22:
            continue
        store.finish(run.key, f'{{"position":{position}}}', _result(position, run))


def _result(position: int, run: Run) -> Result:
    rng = np.random.default_rng(position)
    failed = position % 19 == 18
    metrics = None if failed else _metrics(position, run, rng)
    seconds = float(rng.uniform(0.5, 3))
    times = _TIME.format(1 + position % 28, position % 24), _TIME.format(1 + position % 28, 23)
    place = PLACES[position % len(PLACES)]
    return Result(metrics, seconds, *times, place, ERROR if failed else "", "Trace" * failed)


def _metrics(position: int, run: Run, rng: np.random.Generator) -> Metrics:
    """Numbers of all sizes; by turns divergences that are NaN, infinite, or nothing."""
    rate = 0.0 if run.lamp == "none" or position % 17 == 16 else float(10 ** rng.uniform(-3, 0))
    bits = run.variables.get("mu", 5)
    divergence = {9: math.nan, 11: math.inf, 12: 0.0}.get(position % 13)
    if run.lamp == MARKUP and run.text == QUOTED:
        divergence = math.nan  # one machine after the other
    if run.lamp == "none" and run.model == MARKUP and "mu" not in run.variables:
        divergence = math.nan  # several without look-ahead
    if divergence is None:
        divergence = float(4.0**-bits * 10 ** rng.uniform(-0.5, 0) / (1 + 50 * rate))
    rows = {"mlp_up": rng.uniform(0, 2 * rate, _LAYERS), "scores": np.full(_LAYERS, rate)}
    steps = {step: tuple(np.minimum(row, 1).tolist()) for step, row in rows.items()}
    return Metrics(
        tokens=1024,
        kl=divergence,
        flip_rate=float(rng.integers(0, 20)) / 1024,
        reference_perplexity=26.5 if run.text == TEXTS[0] else math.nan,
        perplexity=26.5 + float(rng.uniform()) if math.isfinite(divergence) else math.nan,
        recomputation_rate=rate,
        layer_rates=() if run.lamp == "none" else steps["scores"],
        step_rates={} if run.lamp == "none" else steps,
        high_precision_share=rate / 100,
        kl_error=divergence / 8 if math.isfinite(divergence) else math.nan,
        clusters=16,
        windows=1,
        sums=tuple(Sums(64, divergence * x, position % 20) for x in _shares(position)),
    )


def _shares(position: int) -> list[float]:
    """How many divergences of the mean each of 16 clusters has: alike for runs on the same text."""
    common = np.random.default_rng(0).uniform(0.5, 1.5, 16)
    own = np.random.default_rng(position).uniform(0.8, 1.2, 16)
    return list(1024 * common * own / (common * own).sum())
