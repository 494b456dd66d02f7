"""What a study has found, in a few sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from lamp.machines import STEPS
from lamp.reports import front_maps, numbers, rank_maps
from lamp.reports.quantities import KL, RATE
from lamp.reports.results import Pair, Results
from lamp.reports.runs import NONE, grouped, metrics, scored

if TYPE_CHECKING:
    from lamp.studies import Run

__all__ = ["story"]

_MOST: Final = 3  # models and texts that are told of
_TENTH: Final = 0.1
_LIMIT: Final = 0.01  # nats per token


def story(study: Results) -> list[str]:
    """What a study has found: a sentence or two for each model and text, and of its tasks.

    Parameters
    ----------
    study : Results

    Returns
    -------
    list of str
        Empty as long as nothing is done.
    """
    if study.tuned is not None:
        return [front_maps.sentence(study.tuned)]
    pairs = study.averaged.pairs
    told = (f"On {_place(pair)}, {_of_pair(study, pair)}" for pair in pairs[:_MOST])
    more = len(pairs) - _MOST
    rest = [f"The tables below have {more} more of models and texts."] if more > 0 else []
    return [*told, *rest, *_of_tasks(study)]


def _place(pair: Pair) -> str:
    found = metrics(pair.records[0])
    windows = f", {found.windows} windows" if found.windows > 1 else ""
    return f"{pair.model} ({pair.text}: {found.tokens:,} tokens{windows})"


def _of_pair(study: Results, pair: Pair) -> str:
    ranks = [*rank_maps.shares(pair)]
    if ranks:
        return " ".join(map(_ranked, ranks))
    parts = (_plain(pair), _looked_ahead(pair), *_smallest(study, pair))
    return " ".join(filter(None, parts)) or "nothing is measured but the reference itself."


def _divergence(run: Run) -> str:
    return numbers.measured(KL.value(run), KL.error(run))


# --- machines and rules ---------------------------------------------------------------------------


def _plain(pair: Pair) -> str:
    """How far machines without look-ahead are from the reference."""
    runs = [run for run in pair.plain if run.hardware != run.reference]
    finite = sorted((run for run in runs if math.isfinite(KL.value(run))), key=KL.value)
    lost = len(runs) - len(finite)
    without = (
        f"{lost} of {len(runs)} machines without look-ahead give{'s' * (lost == 1)} no numbers."
    )
    if not finite:
        return without if runs else ""
    best, worst = finite[0], finite[-1]
    least = f"by {_divergence(best)} nats per token from {best.reference}"
    if len(finite) == 1:
        found = f"{best.hardware} diverges {least}."
    else:
        found = (
            f"{best.hardware} diverges least of {len(runs)} machines without look-ahead, {least}, "
            f"and {worst.hardware} most, by {_divergence(worst)}."
        )
    return f"{found} {without}" if lost else found


def _looked_ahead(pair: Pair) -> str:
    """What look-ahead leaves of the divergence of the machine that has most of it."""
    runs = [run for run in pair.looked_ahead if math.isfinite(KL.value(run))]
    if not runs:
        return ""
    plain = {run.hardware: run for run in pair.plain if 0 < KL.value(run) < math.inf}
    helped = [run for run in runs if run.hardware in plain]
    if not helped:
        best = min(runs, key=KL.value)
        return f"{best.hardware} with {best.lamp} diverges least, by {_cost(best)}."
    machine = max({run.hardware for run in helped}, key=lambda name: KL.value(plain[name]))
    baseline = plain[machine]
    own = [run for run in helped if run.hardware == machine]
    few = [run for run in own if KL.value(run) <= _TENTH * KL.value(baseline)]
    if few:
        found = min(few, key=lambda run: (RATE.value(run), KL.value(run)))
        why = "the least work that leaves a tenth or less, of"
    else:
        found, why = min(own, key=KL.value), "the least of"
    of = f"{why} {len(own)} settings" if len(own) > 1 else ""
    reduced = ", ".join(filter(None, (_reduced(found, baseline), of)))
    return f"On {machine}, {found.lamp} leaves {_cost(found)}{f': {reduced}' * bool(reduced)}."


def _cost(run: Run) -> str:
    """What a run with look-ahead diverges by, and what it recomputes."""
    return f"{_divergence(run)} by recomputing {_rate(run)}"


def _rate(run: Run) -> str:
    """What is recomputed."""
    steps = [step for step in STEPS if step in metrics(run).step_rates]
    of = steps[0] if len(steps) == 1 else "candidate components"
    return f"{numbers.short_percent(RATE.value(run))} of the {of}"


def _reduced(run: Run, baseline: Run) -> str:
    """How many times less a run diverges than another on the same tokens, with an interval."""
    found = metrics(run).against(metrics(baseline))
    if found is None or not found.factor.value > 0:
        return ""
    ends = [1 / end if end else math.inf for end in found.factor.factor_interval()[::-1]]
    reach = "" if math.isnan(sum(ends)) else f" [{', '.join(map(numbers.factor, ends))}]"
    return f"{numbers.factor(1 / found.factor.value)} times less{reach}"


def _smallest(study: Results, pair: Pair) -> Iterator[str]:
    """The fewest bits of each family of machines that stay within a limit, interval included."""
    rungs = {run.position: rung for run in pair.records if (rung := study.rung(run)) is not None}
    own = (run for run in pair.records if run.position in rungs)
    for (family, variable), runs in grouped(own, lambda run: rungs[run.position][:2]).items():
        values = {rungs[run.position].value for run in runs}
        if len(values) < 2 or f"ps{{{variable}}}" not in family:
            continue
        within = [run for run in runs if metrics(run).estimate("kl").interval()[1] <= _LIMIT]
        found = []
        for looks, words in ((False, "without look-ahead"), (True, "with it")):
            few = [run for run in within if (run.lamp != NONE) == looks]
            if few:
                best = min(few, key=lambda run: (rungs[run.position].value, RATE.value(run)))
                by = f" by {best.lamp}, {_rate(best)}" if looks else ""
                found.append(f"{rungs[best.position].value:g} {words}{by}")
        if found:
            least = f"the smallest {variable} of {family} is {' and '.join(found)}"
            yield f"Within {_LIMIT:g} nats, the 95% interval included, {least}."
        else:
            yield f"No {family} stays within {_LIMIT:g} nats, the 95% interval included."


# --- ranks and tasks ------------------------------------------------------------------------------


def _ranked(found: rank_maps.Shares) -> str:
    """Which step of which layer causes most."""
    (layer, step), most = max(found.alone.items(), key=lambda item: item[1])
    where = "outside the layers" if layer == "outside" else f"of layer {layer}"
    told = (
        f"{found.machine} diverges by {_divergence(found.whole)} nats per token from "
        f"{found.exact}. Alone, {step} {where} causes most, {most:.0%} of that"
    )
    count = len(found.alone)
    if count == 1:
        return f"{told}."
    return f"{told}; the {count} steps measured alone add up to {sum(found.alone.values()):.0%}."


def _of_tasks(study: Results) -> Iterator[str]:
    """How many scores are decidedly other than the reference's, and the largest change."""
    found = [
        (each.run, each.score, each.score.difference)
        for each in scored(study.tasks)
        if each.score.difference is not None
    ]
    if not found:
        if any(run.result is not None for run in study.tasks):
            yield f"No score of a task is compared: {study.tasks[0].reference} has none yet."
        return
    decided = [each for each in found if each[2].is_decided]
    run, score, difference = max(decided or found, key=lambda each: abs(each[2].value))
    tasks = len({score.task for _, score, _ in found})
    machine = run.hardware if run.lamp == NONE else f"{run.hardware} with {run.lamp}"
    which = "these" if decided else "all"
    change = numbers.measured(difference.value, difference.error)
    yield (
        f"In {tasks} task{'s' * (tasks > 1)}, {len(decided)} of {len(found)} scores "
        f"{'differs' if len(decided) == 1 else 'differ'} from those of {run.reference} by more "
        f"than chance would have it (95% intervals). The largest of {which} "
        f"changes is that of {score.metric} in {score.task}, {run.model} on {machine}: "
        f"{'+' * (difference.value > 0)}{change}, to {numbers.decimals(score.value)}."
    )
