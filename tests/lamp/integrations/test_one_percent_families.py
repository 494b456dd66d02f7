"""The study of what can be had at 1% on Gemma 3, beside a plain version in transformers' float64.

The plain version has no attention of lamp: transformers calls it in place of its own, and it sums
scores term after term in PS(4) over what transformers made of queries, keys and masks.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

import lamp
from tests.lamp.integrations.random_families import in_float64, random_model

sys.path.insert(0, str(Path(__file__).parents[3] / "analysis"))
import one_percent as study

RATE = 0.2
MACHINE = replace(
    lamp.hardware("fp64"), name="PS(4)", scores=lamp.Product("e8m4", rounding=study.SATURATING)
)


@pytest.fixture(scope="module")
def model():
    return random_model("gemma3")  # windows of 6 tokens, 2 key heads for 4 heads, norms, a scale


@pytest.fixture(scope="module")
def texts(model):
    tokens = np.random.default_rng(0).integers(3, 61, 200)
    return study.Texts.of(lamp.simulate(model), tokens, 16, 2, begins=(2,))


def to_ps4(x):
    significand, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(significand * 32) / 32, exponent)


class Plain:
    """Attention whose scores are in PS(4), and the scores of the rules in all rows and layers."""

    def __init__(self, order=None):
        self.order = order  # of the channels, by layer and head
        self.found = {name: [] for name in study.RULES}
        self.layers = 0

    def __call__(self, module, query, key, value, mask, *, scaling, **_):
        heads = []
        for head in range(query.shape[1]):
            of_keys = head // (query.shape[1] // key.shape[1])
            q, k, v = query[0, head], key[0, of_keys], value[0, of_keys]
            if self.order is not None:
                channels = torch.from_numpy(self.order.of_layer(self.layers)[head])
                q, k = q[:, channels], k[:, channels]
            sums, squares = torch.zeros(len(q), len(k)), torch.zeros(len(q), len(k))
            for channel in range(q.shape[1]):
                sums = to_ps4(sums + q[:, channel, None] * k[None, :, channel])
                squares += sums**2
            low, high = to_ps4(sums * scaling), (q @ k.T) * scaling
            heads.append([])
            for row in range(len(q)):
                seen = mask[0, 0, row] == 0
                y, running = low[row, seen], scaling * squares[row, seen].sqrt()
                z, errors = torch.softmax(y, 0), (y - high[row, seen]).abs()
                heads[-1].append(z @ v[seen])
                distances = (v[seen] - heads[-1][-1]).norm(dim=1)
                self.look(y, z, running, errors, distances)
        self.layers += 1
        return torch.stack([torch.stack(rows) for rows in heads], 1)[None], None

    def look(self, y, z, running, errors, distances):
        relaxed = y.abs() * (y - y.max()).exp()
        falling = torch.argsort(z, descending=True, stable=True)  # of equal ones the first
        before = torch.empty_like(z)
        before[falling] = torch.cumsum(z[falling], 0) - z[falling]
        found = {
            "version 1": 2 - before,
            "relaxed": relaxed / relaxed.max(),
            "strict": 2 * z * (1 - z) * y.abs(),
            "R2 weights": z * (1 - z) * running,
            "KL score": z * (1 - z) * running**2,
            "KL score, a layer": z * (1 - z) * running**2,
            "value-aware": distances * z * running,
            "true errors, KL score": z * (1 - z) * errors**2,
            "true errors, value-aware": distances * z * errors,
        }
        for name, numbers in found.items():
            self.found[name] += [float(each) for each in numbers]


@pytest.mark.parametrize("order", ["as they come", "ascending"])
def test_scores_of_rules_are_those_of_a_plain_version_in_float64(model, texts, order):
    machine, channels = MACHINE, None
    if order == "ascending":
        asked = replace(machine, scores=replace(machine.scores, order=order))
        machine = lamp.calibrated(asked, texts.model, texts.calibration)
        channels = machine.scores.order
    found = study.known_scores(machine, replace(texts, calibration=texts.calibration[:1]))
    plain = Plain(channels)
    AttentionInterface.register("plain", plain)
    AttentionMaskInterface.register("plain", eager_mask)
    with in_float64(model, "plain") as wide:
        wide(input_ids=torch.from_numpy(texts.calibration[:1]))
    pairs = 17 * 18 // 2 + 2 * (6 * 7 // 2 + 11 * 6)  # of a whole layer and two with windows
    for name, scores in found.items():
        assert len(scores) == 4 * pairs
        expected = np.array(plain.found[name])
        np.testing.assert_allclose(
            scores, expected, rtol=1e-5, atol=1e-6 * expected.max(), err_msg=name
        )


def test_runs_begin_with_what_begins_texts_and_recompute_what_is_asked_for(texts):
    assert texts.windows.shape == (2, 17)
    assert (texts.windows[:, 0] == 2).all()
    at, rules = ("tiny", "PS(4)", "ascending blocks"), ("strict", "true errors, KL score")
    rows, _ = study.run(study.Group(*at), texts, [RATE], rules)
    found = study.Found(rows)
    base = found.kl(*at, "none", 0.0).value
    for name in rules:
        assert found.recomputed(*at, name, RATE) == pytest.approx(RATE, rel=0.3)  # on another text
        assert found.kl(*at, name, RATE).value < base / 2
