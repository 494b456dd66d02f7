"""The procedure of the paper's version 2, recomputed by a plain PyTorch program.

The program is written from the formulas: sums in float32 that are rounded to mu bits after every
term, scores divided and rounded again, a rule that looks at them and at their softmax, and scores
that are computed in float32 instead where it says so.
"""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import lamp

torch = pytest.importorskip("torch", reason="the procedure is recomputed in PyTorch")
from tests.lamp.random_llamas import random_checkpoint, transformers_model  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[2] / "analysis"))
import paper  # noqa: E402


def to_stored_bits(x, mu):
    """float32 numbers rounded to mu stored bits of significand, ties to even."""
    significand, exponent = torch.frexp(x.double())
    return torch.ldexp(torch.round(significand * 2 ** (mu + 1)), exponent - mu - 1).float()


def low_scores(query, key, mu):
    total = torch.zeros(query.shape[0], query.shape[1], key.shape[1])
    for i in range(query.shape[2]):
        product = query[:, :, None, i] * key[:, None, :, i]
        total = to_stored_bits(total + product, mu)
    return to_stored_bits(total / math.sqrt(query.shape[2]), mu)


def picked(scores, rule, tau):
    """The rule's mask; `scores` are -inf where they are masked."""
    if rule == "strict":
        z = torch.softmax(scores, dim=-1)
        return 2 * z * (1 - z) * scores.abs().nan_to_num(posinf=0.0) > tau
    weighted = (scores.abs() * scores.exp()).nan_to_num()
    return weighted > tau * weighted.amax(dim=-1, keepdim=True)


def published_logits(model, tokens, mu=None, rule=None, tau=None):
    """Logits of a transformers GPT-2, and how many of the causal scores were recomputed."""
    body, recomputed = model.transformer, 0
    length = len(tokens)
    causal = torch.tril(torch.ones(length, length, dtype=torch.bool))
    x = body.wte(torch.tensor(tokens)) + body.wpe(torch.arange(length))
    for block in body.h:
        heads = block.attn.num_heads
        q, k, v = (
            part.reshape(length, heads, -1).transpose(0, 1)
            for part in block.attn.c_attn(block.ln_1(x)).split(x.shape[-1], dim=-1)
        )
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[2])
        if mu is not None:
            low = low_scores(q, k, mu).masked_fill(~causal, -math.inf)
            mask = torch.zeros_like(low, dtype=torch.bool)
            if rule is not None:
                mask = picked(low, rule, tau) & causal
            recomputed += int(mask.sum())
            scores = torch.where(mask, scores, low)
        z = torch.softmax(scores.masked_fill(~causal, -math.inf), dim=-1)
        x = x + block.attn.c_proj((z @ v).transpose(0, 1).reshape(length, -1))
        inner = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)
    return model.lm_head(body.ln_f(x)), recomputed


def divergence(reference, logits):
    expected, actual = (torch.log_softmax(x.double(), dim=-1) for x in (reference, logits))
    return float((expected.exp() * (expected - actual)).sum(dim=-1).mean())


@pytest.mark.parametrize(("mu", "rule", "tau"), [
    (4, None, None), (7, None, None), (4, "strict", 0.1), (4, "relaxed", 0.09),
    (4, "relaxed", 0.03), (10, "strict", 0.03),
])  # fmt: skip
def test_divergences_are_those_of_the_procedure(tmp_path, mu, rule, tau):
    source = random_checkpoint(tmp_path / "model", n_positions=40, initializer_range=0.15)
    copy = paper.with_published_gelu(str(source), tmp_path)
    tokens = np.random.default_rng(mu).integers(0, 61, 40).tolist()
    with torch.no_grad():
        model = transformers_model(Path(copy), torch.float32)
        reference, _ = published_logits(model, tokens)
        theirs, recomputed = published_logits(model, tokens, mu, rule, tau)
    settings = [] if rule is None else [lamp.LAMP(rule, tau)]
    ours = lamp.from_pretrained(copy, hardware=f"published-ps{mu}", lamp=settings)
    result = ours.forward(np.array(tokens))
    exact = ours.with_hardware("fp32", lamp=None).logits(np.array(tokens))
    expected = divergence(reference, theirs)
    actual = divergence(torch.tensor(exact), torch.tensor(result.logits))
    # The other steps are summed in another order, after which a rounding may tie another way.
    assert actual == pytest.approx(expected, rel=0.05)
    if rule is not None:
        count = sum(layer.selected for layer in result.recomputed["scores"])
        assert count == pytest.approx(recomputed, rel=0.02)
