"""The metrics against mpmath and by hand."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest

import lamp
from lamp.evaluation.metrics import Totals, evaluate
from lamp.evaluation.texts import windows
from lamp.lookahead import Recomputation, Tiles
from lamp.models import Forward


class Canned:
    """A model whose logits are given."""

    def __init__(self, logits):
        self.logits = list(np.atleast_3d(logits))

    def forward(self, tokens):
        scores = Recomputation(1, 10, 4), Recomputation(3, 10, 4)
        up = Recomputation(0, 20, 8), Recomputation(9, 20, 8)
        return Forward(self.logits.pop(0), {"scores": scores, "mlp_up": up}, 880)


def exact_divergence(reference, model):
    with mpmath.workdps(60):
        p = [mpmath.e ** mpmath.mpf(float(x)) for x in reference]
        q = [mpmath.e ** mpmath.mpf(float(x)) for x in model]
        sp, sq = mpmath.fsum(p), mpmath.fsum(q)
        terms = (a / sp * mpmath.log((a / sp) / (b / sq)) for a, b in zip(p, q, strict=True))
        return float(mpmath.fsum(terms))


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 0.1, 1.0, 10.0, 300.0])
def test_divergence_is_accurate_whatever_its_size(size):
    rng = np.random.default_rng(0)
    reference = 3 * rng.standard_normal((4, 50))
    model = reference + size * rng.standard_normal((4, 50))
    metrics = evaluate(reference, Canned(model[np.newaxis]), np.arange(4))
    exact = np.mean([exact_divergence(r, m) for r, m in zip(reference, model, strict=True)])
    # Differences of logits below their last place are not there to be seen.
    assert metrics.kl == pytest.approx(exact, rel=1e-11 + 1e-14 / size)


def test_divergence_of_float32_logits_is_that_of_their_values():
    rng = np.random.default_rng(1)
    reference = (3 * rng.standard_normal((2, 40))).astype(np.float32)
    model = (reference + 0.01 * rng.standard_normal((2, 40))).astype(np.float32)
    metrics = evaluate(reference, Canned(model[np.newaxis]), [0, 1])
    exact = np.mean([exact_divergence(r, m) for r, m in zip(reference, model, strict=True)])
    assert metrics.kl == pytest.approx(exact, rel=1e-10)


def test_equal_logits_have_no_divergence_and_no_flips():
    logits = np.random.default_rng(2).standard_normal((5, 30))
    metrics = evaluate(logits, Canned(logits[np.newaxis]), np.arange(5))
    assert (metrics.kl, metrics.flip_rate) == (0.0, 0.0)
    assert metrics.perplexity == metrics.reference_perplexity


def test_flips_perplexity_and_rates_by_hand():
    log = np.log
    reference = log([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    model = log([[0.25, 0.5, 0.25], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    metrics = evaluate(reference, Canned(model[np.newaxis]), [2, 0, 1])
    assert metrics.tokens == 3
    assert metrics.flip_rate == pytest.approx(1 / 3)
    # Position 0 predicts token 0, position 1 token 1; position 2 predicts nothing in the text.
    assert metrics.reference_perplexity == pytest.approx((0.5 * 0.7) ** -0.5)
    assert metrics.perplexity == pytest.approx((0.25 * 0.7) ** -0.5)
    assert metrics.step_rates == {"scores": (0.1, 0.3), "mlp_up": (0.0, 0.45)}
    assert metrics.layer_rates == (1 / 30, 0.4)
    assert metrics.recomputation_rate == 13 / 60
    assert metrics.high_precision_share == (4 * 4 + 9 * 8) / 880


def test_windows_are_texts_of_their_own():
    rng = np.random.default_rng(3)
    reference, model = rng.standard_normal((2, 2, 4, 9))
    tokens = rng.integers(0, 9, (2, 4))
    both = evaluate(reference, Canned(model), tokens)
    single = [evaluate(reference[i], Canned(model[i : i + 1]), tokens[i]) for i in range(2)]
    assert both.kl == pytest.approx(np.mean([m.kl for m in single]))
    losses = [np.log(m.perplexity) for m in single]
    assert np.log(both.perplexity) == pytest.approx(np.mean(losses))


def test_a_model_is_its_own_reference():
    model = lamp.GPT2.from_pretrained("embedded")
    tokens = model.encode("Once more unto the breach, dear friends")
    metrics = evaluate(model, model, tokens)
    assert metrics.kl == 0.0
    assert metrics.tokens == len(tokens)


@pytest.mark.parametrize("length", [None, 4])
def test_no_tokens_are_refused(length):
    with pytest.raises(ValueError, match="there are no tokens"):
        evaluate(np.zeros((1, 0, 5)), Canned(np.zeros((1, 0, 5))), [], length=length)


@pytest.mark.parametrize("stride", [None, 2])
def test_given_logits_may_have_a_shorter_last_window(stride):
    model = lamp.GPT2.from_pretrained("embedded", hardware="scores-ps4")
    exact = model.with_hardware("fp64")
    tokens = model.encode("When shall we three meet again?")
    assert len(tokens) % 4
    expected = evaluate(exact, model, tokens, length=4, stride=stride)
    parts = [exact.forward(window.tokens).logits for window in windows(tokens, 4, stride)]
    assert len(parts[-1]) < 4
    assert evaluate(parts, model, tokens, length=4, stride=stride) == expected
    if stride is None:
        assert evaluate(np.concatenate(parts), model, tokens, length=4) == expected
    with pytest.raises(ValueError, match=r"have shape .*, but the windows have 4, .* tokens"):
        evaluate(parts[:-1], model, tokens, length=4, stride=stride)


def test_reference_logits_of_another_shape_are_refused():
    logits = np.zeros((3, 5))
    with pytest.raises(ValueError, match="reference logits have shape"):
        evaluate(logits, Canned(logits[np.newaxis]), [0, 1])
    with pytest.raises(ValueError, match="reference logits have shape"):
        evaluate(np.zeros((3, 4)), Canned(logits[np.newaxis]), [0, 1, 2])


def test_shares_and_bits_of_several_precisions_are_over_all_windows():
    totals = Totals()
    logits = np.zeros((3, 2))
    widths = 10, 20, 40
    for first, second in ((3, 1), (5, 0)):
        layers = (
            Recomputation(first + second, 20, 8, None, (first, second), widths),
            Recomputation(0, 20, 8, None, (0, 0), widths),
        )
        forward = Forward(logits, {"scores": layers}, 100)
        totals.add(logits, forward, windows(np.zeros(3, int), None, None)[0])
    assert totals.metrics().step_rates == {
        "scores": (9 / 40, 0.0),
        "scores_1": (8 / 40, 0.0),
        "scores_2": (1 / 40, 0.0),
        "scores_bits": (8 / 40 * 2 + 1 / 40 * 4, 0.0),
    }


def test_shares_of_tiles_and_parts_are_over_all_windows():
    totals = Totals()
    logits = np.zeros((3, 2))
    for counts in ((1, 4, 1, 16), (2, 4, 5, 16)):
        layers = tuple(Recomputation(6, 6, 8, Tiles(*given)) for given in (counts, (0, 4, 0, 16)))
        forward = Forward(logits, {"scores": layers}, 100)
        totals.add(logits, forward, windows(np.zeros(3, int), None, None)[0])
    found = totals.metrics()
    assert found.step_rates == {
        "scores": (1.0, 1.0),
        "tiles": (3 / 8, 0.0),
        "parts": (6 / 32, 0.0),
    }
    # Which are no components.
    assert found.recomputation_rate == 1.0
    assert found.layer_rates == (1.0, 1.0)


def test_metrics_with_nan_equal_those_of_the_same_numbers():
    logits = np.random.default_rng(0).standard_normal((4, 50))
    first, again = (evaluate(logits, Canned(logits[np.newaxis]), np.arange(4)) for _ in range(2))
    assert math.isnan(first.recomputation_rate_error)
    assert replace(first, kl_error=float("nan")) == replace(again, kl_error=-float("nan"))
    assert first != replace(first, kl=first.kl + 1)
    assert first != replace(first, kl=math.nan)
    assert first != "metrics"
