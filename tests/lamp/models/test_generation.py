"""Generation: the cache changes no bit, and tokens are drawn with their probabilities."""

import numpy as np
import pytest

import fpemu
import lamp
from fpemu import Blocked, Exact, Pairwise, Promoted, Rounding, Sequential
from lamp.models.cache import Cache
from lamp.models.gpt2 import GPT2
from lamp.models.sampling import Sampler

torch = pytest.importorskip("torch", reason="random checkpoints are made with PyTorch")
from tests.lamp.random_llamas import (  # noqa: E402
    Float64,
    random_checkpoint,
    random_llama_checkpoint,
    transformers_model,
)

FAMILIES = {"gpt2": random_checkpoint, "llama": random_llama_checkpoint}

IN_FIVES = Promoted(Sequential("e8m7"), "float32", 5)
TREES_OF_FIVE = Promoted(Pairwise("e8m4"), "float32", 5)
DRAWN = Rounding("sr", seed=3)
STOCHASTIC = Sequential("bfloat16", DRAWN)
EVERYWHERE = [
    lamp.LAMP("total_variation", tau=0.02),
    lamp.LAMP("norm", budget=0.2, scope="row"),
    lamp.LAMP("activation", tau=0.5, weights="abs"),
    lamp.LAMP("kl", tau=0.01, weights="abs", on="logits"),
]

# The machine, what is recomputed, whether keys and values can be kept.
SETTINGS = {
    "fp32": ("fp32", None, True),
    "fp64": ("fp64", None, True),
    "ps4": ("scores-ps4", None, True),
    "blocked": (lamp.Hardware("m", values=Blocked("bfloat16", 4)), None, True),
    "promoted": (lamp.Hardware("m", values=IN_FIVES), None, True),
    "exact": (lamp.Hardware("m", values=Exact("float16", block=4)), None, True),
    "tree of fours": (lamp.Hardware("m", values=Pairwise("bfloat16", block=4)), None, True),
    "tree": (lamp.Hardware("m", values=Pairwise("bfloat16")), None, False),
    "trees of five, promoted": (lamp.Hardware("m", values=TREES_OF_FIVE), None, False),
    "stochastic values": (lamp.Hardware("m", values=STOCHASTIC), None, False),
    "stochastic scores": (lamp.Hardware("m", scores=STOCHASTIC), None, False),
    "stochastic qkv": (lamp.Hardware("m", qkv=lamp.Product(rounding=DRAWN)), None, False),
    "bf16": ("bf16", None, True),
    "hopper-fp8": ("hopper-fp8", None, True),
    "mxfp8": ("mxfp8", None, True),
    "threshold": ("scores-ps2", lamp.LAMP("total_variation", tau=0.02, weights="abs"), True),
    "running": ("scores-ps2", lamp.LAMP("kl", tau=0.02, weights="running_2"), True),
    "values": ("scores-ps2", lamp.LAMP("value_aware", tau=0.05), True),
    "condition": ("scores-ps2", lamp.LAMP("normwise_optimal", tau=1.2), True),
    "budget of rows": ("scores-ps2", lamp.LAMP("largest", budget=0.3, scope="row"), True),
    "everywhere": ("ps3", EVERYWHERE, True),
    "authors": ("scores-ps2", lamp.LAMP(tau=1.2), False),
    "budget": ("scores-ps2", lamp.LAMP("total_variation", budget=0.2), False),
    "random": ("scores-ps2", lamp.LAMP("random", budget=0.2, scope="row"), False),
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of each family, for tests that read it."""
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in FAMILIES.items()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", SETTINGS)
def test_generation_sees_the_bits_of_the_full_forward_pass(checkpoints, monkeypatch, name, family):
    machine, settings, kept = SETTINGS[name]
    model = lamp.from_pretrained(checkpoints[family], hardware=machine, lamp=settings)
    seen, read = [], []
    forward = type(model)._forward

    def recorded(self, numbers, cache):
        result = forward(self, numbers, cache)
        seen.append(result.logits[-1].copy())
        read.append(len(numbers))
        return result

    monkeypatch.setattr(type(model), "_forward", recorded)
    text = model.generate([5, 9, 2, 60], 9)
    monkeypatch.undo()
    assert text[:4].tolist() == [5, 9, 2, 60]
    assert len(text) == 13
    assert read == ([4] + 8 * [1] if kept else list(range(4, 13)))
    # Where keys and values are kept, later tokens change no row: one pass has the rows of all.
    whole = model.forward(text[:-1]).logits
    for position, logits in enumerate(seen, 4):
        expected = whole[:position] if kept else model.forward(text[:position]).logits
        np.testing.assert_array_equal(logits, expected[-1])
        assert text[position] == logits.argmax()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["fp32", "fp64", "bf16", "scores-ps4", "hopper-fp8"])
def test_tokens_that_are_read_in_parts_have_the_bits_of_those_read_at_once(tmp_path, name, family):
    """Across the 64th position, where rotary tables begin anew."""
    longest = "n_positions" if family == "gpt2" else "max_position_embeddings"
    model = lamp.from_pretrained(FAMILIES[family](tmp_path, **{longest: 140}), hardware=name)
    text = np.random.default_rng(0).integers(0, 61, 133)
    expected = model.forward(text).logits
    cache = Cache(model.shape, model.hardware.carrier, len(text))
    for start, stop in ((0, 5), (5, 63), (63, 64), (64, 65), (65, 66), (66, 130), (130, 133)):
        part = model._forward(text[start:stop], cache)
        np.testing.assert_array_equal(part.logits, expected[start:stop])
    assert cache.length == len(text)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_texts_share_is_read_once_with_the_same_bits(tmp_path, name):
    machine, settings, kept = SETTINGS[name]
    model = GPT2.from_pretrained(random_checkpoint(tmp_path), hardware=machine, lamp=settings)
    reading = lamp.models.Reading(model, 9)
    computed = []
    texts = ([1, 2, 3, 4, 5], [1, 2, 3, 6, 7, 8], [1, 2, 3, 6, 7, 8], [9], [9, 1, 2, 3, 4, 5, 6])
    for text in texts:
        before = reading.computed
        last = min(2, len(text))
        np.testing.assert_array_equal(reading.logits(text, last), model.logits(text)[-last:])
        computed.append(reading.computed - before)
    assert computed == ([5, 3, 2, 1, 6] if kept else [5, 6, 6, 1, 7])


def test_what_cannot_be_read_is_refused(tmp_path):
    reading = lamp.models.Reading(GPT2.from_pretrained(random_checkpoint(tmp_path)), 3)
    with pytest.raises(ValueError, match="a text of 4 tokens, more than the 3 given"):
        reading.logits([1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"last must lie in 0\.\.2, not 3"):
        reading.logits([1, 2], 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_those_of_transformers(tmp_path, family):
    path = FAMILIES[family](tmp_path)
    beginning = torch.tensor([[7, 8, 9]])
    with Float64():
        expected = transformers_model(path, torch.float64).generate(
            beginning, attention_mask=torch.ones_like(beginning), max_new_tokens=20,
            do_sample=False, pad_token_id=0, eos_token_id=None,
        )  # fmt: skip
    found = lamp.from_pretrained(path, hardware="fp64").generate([7, 8, 9], 20)
    assert found.tolist() == expected[0].tolist()


def test_the_same_seed_gives_the_same_text(tmp_path):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    texts = [model.generate([1], 15, temperature=2.0, seed=s).tolist() for s in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert model.generate([1], 0, temperature=2.0).tolist() == [1]


@pytest.mark.parametrize("name", ["fp32", "authors"])
def test_a_stream_gives_the_tokens_of_generate_one_by_one(tmp_path, name):
    machine, settings, _ = SETTINGS[name]
    model = GPT2.from_pretrained(random_checkpoint(tmp_path), hardware=machine, lamp=settings)
    options = {"temperature": 1.5, "top_k": 9, "seed": 4}
    whole = model.generate([5, 9], 8, **options).tolist()
    stream = model.stream([5, 9], 8, **options)
    assert [next(stream) for _ in range(3)] == whole[2:5]
    assert list(stream) == whole[5:]


def test_integers_of_numpy_are_integers(tmp_path):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    expected = model.generate([1, 2], 5, temperature=2.0, top_k=9, seed=3)
    found = model.generate(
        np.array([1, 2], np.uint8), np.int64(5), temperature=np.float32(2.0), top_k=np.int32(9),
        seed=np.uint16(3), stop=np.int64(60),
    )  # fmt: skip
    np.testing.assert_array_equal(found, expected[: len(found)])


def test_the_first_token_to_stop_at_is_the_last(tmp_path):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    options = {"temperature": 2.0, "seed": 3}
    whole = model.generate([1, 2], 12, **options).tolist()
    later = whole[6]
    end = whole.index(later, 2) + 1
    for stop in (later, [later]):
        assert model.generate([1, 2], 12, stop=stop, **options).tolist() == whole[:end]
    # Those of the beginning stop nothing.
    unseen = next(token for token in range(61) if token not in whole[2:])
    assert model.generate([1, 2], 12, stop=[unseen], **options).tolist() == whole
    assert len(model.generate([later, 2], 1, stop=later)) == 3


def test_a_stream_refuses_before_its_first_token(tmp_path):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    with pytest.raises(ValueError, match="24 positions"):
        model.stream([1], 24)
    with pytest.raises(ValueError, match=r"stop: token 97 at position 1 is not in 0\.\.60"):
        model.stream([1], 2, stop=[3, 97])
    with pytest.raises(TypeError, match="stop: tokens must be integers, not float64"):
        model.stream([1], 2, stop=[0.5])


LOGITS = np.array([0.5, 2.0, -1.0, 2.0, 1.0, -np.inf], np.float32)


def shares(temperature, kept):
    """The probabilities of the tokens that may be drawn, by definition."""
    e = np.exp(LOGITS.astype(float) / temperature)
    e[[i for i in range(len(e)) if i not in kept]] = 0.0
    return e / e.sum()


@pytest.mark.parametrize(
    ("options", "temperature", "kept"),
    [
        ({}, 1.0, range(6)),
        ({}, 0.5, range(6)),
        ({}, 3.0, range(6)),
        ({"top_k": 1}, 1.0, [1]),  # the first of equal ones
        ({"top_k": 3}, 1.0, [1, 3, 4]),
        ({"top_k": 99}, 1.0, range(6)),
        # 0.379, 0.379, 0.139, 0.085, 0.019, 0
        ({"top_p": 0.37}, 1.0, [1]),
        ({"top_p": 0.75}, 1.0, [1, 3]),
        ({"top_p": 0.77}, 1.0, [1, 3, 4]),
        ({"top_p": 1.0}, 1.0, range(6)),
        # top_p is of what top_k leaves: 0.422, 0.422, 0.155
        ({"top_k": 3, "top_p": 0.83}, 1.0, [1, 3]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(options, temperature, kept):
    sampler = Sampler(temperature, seed=5, **options)
    count = 3_000
    drawn = np.bincount([sampler.draw(LOGITS) for _ in range(count)], minlength=6)
    expected = shares(temperature, list(kept))
    assert not drawn[expected == 0].any()
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(drawn / count - expected) <= 4.5 * deviation).all()


def test_temperature_zero_and_the_smallest_take_the_most_probable_token():
    assert Sampler().draw(LOGITS) == 1
    assert {Sampler(5e-324, seed=s).draw(LOGITS) for s in range(40)} == {1, 3}
    assert Sampler(1.0).draw(np.array([0.0, np.inf, 3.0])) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be finite and not negative, not -0.1"),
        ({"temperature": np.nan}, "temperature"),
        ({"temperature": np.inf}, "temperature"),
        ({"top_k": 0}, "top_k must be a positive integer, not 0"),
        ({"top_k": 2.5}, "top_k"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], not 0.0"),
        ({"top_p": 1.1}, "top_p"),
        ({"seed": -1}, "seed"),
        ({"count": -1}, "count must be an integer that is not negative, not -1"),
        ({"count": 1.5}, "count"),
        ({"count": 22}, "3 tokens and 22 more are beyond the model's 24 positions"),
    ],
)
def test_bad_parameters_are_refused(tmp_path, options, message):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    with pytest.raises(ValueError, match=message):
        model.generate([1, 2, 3], **{"count": 2, **options})


def test_what_is_no_distribution_is_refused():
    for logits in ([0.0, np.nan], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match="gives no probabilities"):
            Sampler().draw(np.array(logits))


def test_more_zero_terms_change_no_sum_but_a_tree_s():
    """What :attr:`lamp.Hardware.is_causal` rests on, for all units of real machines."""
    generator = np.random.default_rng(0)
    units = [
        device.accumulator
        for device in fpemu.devices.entries()
        if isinstance(device.accumulator, fpemu.Accumulator)
    ]
    changed = [u for u in [*units, Pairwise("e8m4")] if _changes(u, generator)]
    assert changed == [Pairwise("e8m4")]


def _changes(unit, generator):
    first, second = unit.input_formats
    for terms, zeros in ((1, 70), (17, 3), (40, 24), (50, 33), (63, 2), (70, 57)):
        a, b = generator.normal(size=(2, 4, terms)), generator.normal(size=(2, terms, 3))
        a = a if first is None else fpemu.round(a, first)
        b = b if second is None else fpemu.round(b, second)
        longer = np.pad(a, ((0, 0), (0, 0), (0, zeros)))
        taller = np.pad(b, ((0, 0), (0, zeros), (0, 0)), constant_values=1.0)
        sums = fpemu.matmul(a, b, unit), fpemu.matmul(longer, taller, unit)
        if not np.array_equal(*sums):
            return True
    return False
