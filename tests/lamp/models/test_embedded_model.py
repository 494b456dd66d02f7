"""The embedded model's files agree with their card, and its training resumes exactly."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
safetensors_torch = pytest.importorskip("safetensors.torch")

ROOT = Path(__file__).parents[3]
EMBEDDED = ROOT / "lamp" / "models" / "embedded"


def load_script():
    """Import the training script, which is in no package."""
    pytest.importorskip("tqdm")
    spec = importlib.util.spec_from_file_location(
        "train_embedded_model", ROOT / "analysis" / "train_embedded_model.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    return load_script()


@pytest.fixture(scope="module")
def report():
    return json.loads((EMBEDDED / "training.json").read_text())


@pytest.fixture(scope="module")
def weights():
    return safetensors_torch.load_file(EMBEDDED / "model.safetensors")


@pytest.fixture(scope="module")
def config():
    return transformers.AutoConfig.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def model():
    return transformers.GPT2LMHeadModel.from_pretrained(EMBEDDED, dtype=torch.float32).eval()


# --- What ships -------------------------------------------------------------------------------


def test_configuration_is_a_real_gpt2(config):
    assert config.model_type == "gpt2"
    assert config.architectures == ["GPT2LMHeadModel"]
    assert config.activation_function == "gelu_new"
    assert config.layer_norm_epsilon == 1e-5
    assert config.tie_word_embeddings
    assert config.n_positions >= 512
    assert config.n_embd == 64 * config.n_head
    assert config.dtype == torch.float16


def test_every_tensor_is_there_in_float16_and_finite(config, weights):
    width = config.n_embd
    block = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.c_attn.weight": (width, 3 * width),
        "attn.c_attn.bias": (3 * width,),
        "attn.c_proj.weight": (width, width),
        "attn.c_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (width, 4 * width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (4 * width, width),
        "mlp.c_proj.bias": (width,),
    }
    expected = {
        "transformer.wte.weight": (config.vocab_size, width),
        "transformer.wpe.weight": (config.n_positions, width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
    } | {
        f"transformer.h.{layer}.{name}": shape
        for layer in range(config.n_layer)
        for name, shape in block.items()
    }
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == expected
    for name, weight in weights.items():
        assert weight.dtype == torch.float16, name
        assert weight.isfinite().all(), name
        assert weight.any(), name


def test_size_is_within_the_limit():
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 12_000_000
    assert 50_000 <= (EMBEDDED / "held_out.txt").stat().st_size <= 200_000


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_held_out_text_survives_the_tokenizer(tokenizer, config):
    text = (EMBEDDED / "held_out.txt").read_text()
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < config.vocab_size == len(tokenizer)
    assert len(text.encode()) / len(ids) > 2  # it was trained on such text


def test_held_out_text_is_of_both_plays():
    text = (EMBEDDED / "held_out.txt").read_text()
    assert "MACBETH\n\nby William Shakespeare" in text
    assert "TWELFTH NIGHT; OR, WHAT YOU WILL\n\nby William Shakespeare" in text
    assert "Banquo" in text
    assert "Malvolio" in text


@pytest.mark.long
def test_stock_transformers_reproduces_the_held_out_loss(script, model, tokenizer, report):
    text = (EMBEDDED / "held_out.txt").read_text()
    measured = script.bits_per_byte(model, tokenizer.backend_tokenizer, [text])
    assert measured == pytest.approx(report["held_out_sample"]["bits_per_byte"], abs=0.01)


def test_stock_transformers_is_near_the_held_out_loss_in_parts_of_the_text(
    script, model, tokenizer, report
):
    text = (EMBEDDED / "held_out.txt").read_text()
    parts = [text[start : start + 3000] for start in range(0, 60_000, 20_000)]
    measured = script.bits_per_byte(model, tokenizer.backend_tokenizer, parts)
    assert measured == pytest.approx(report["held_out_sample"]["bits_per_byte"], abs=0.1)


def test_card_states_the_measured_numbers(report):
    card = (EMBEDDED / "README.md").read_text()
    held_out, rows = report["held_out"], report["attention_rows_above_half"]
    assert f"**{held_out['bits_per_byte']:.3f}**" in card
    assert f"| `held_out.txt` | {report['held_out_sample']['bits_per_byte']:.3f} |" in card
    assert f"| all | **{rows['overall']:.3f}** |" in card
    assert held_out["bits_per_byte"] < 2.3 < held_out["compressors"]["bzip2"]


def test_card_is_the_one_the_report_makes(script, report):
    assert (EMBEDDED / "README.md").read_text() == script.model_card(report)


def test_defaults_are_the_settings_that_made_the_weights(script, report):
    assert script.asdict(script.Settings()) == report["settings"]


def test_notice_ships():
    assert "Creative Commons Attribution license\nv2.5" in (EMBEDDED / "COPYING.txt").read_text()


def test_no_file_mentions_a_machine():
    for path in EMBEDDED.iterdir():
        content = path.read_bytes()
        assert b"/work/" not in content, path
        assert b"/home/" not in content, path


# --- How it was made --------------------------------------------------------------------------


def test_gutenberg_header_and_margins_are_stripped(script):
    raw = (
        "\ufeffThe Project Gutenberg EBook\r\n*** START OF THIS PROJECT GUTENBERG EBOOK X ***\r\n"
        "\r\nACT I.\r\n\r\n\r\n\r\n\r\n[Enter  A   and B.]   \r\n\tA.\r\n            Speak.\r\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK X ***\r\nLicence"
    )
    assert script.strip_gutenberg(raw) == "ACT I.\n\n\n[Enter  A  and B.]\n    A.\n    Speak.\n"


def test_repeated_lines_are_noticed(script):
    line = "So foul and fair a day I have not seen."
    assert script.repeated_lines([f"A\n  {line}\nB"], [line + "\nshort"]) == 1.0
    assert script.repeated_lines(["Nothing of the kind."], [line]) == 0.0


@given(count=st.integers(1, 400), stride=st.integers(1, 64), extra=st.integers(0, 64))
def test_windows_tile_the_text(script, count, stride, extra):
    size = stride + extra
    spans = list(script.windows(count, size, stride))
    assert [i for _, fresh, end in spans for i in range(fresh, end)] == list(range(count))
    assert all(0 <= begin <= fresh for begin, fresh, _ in spans)
    assert {end - begin for begin, _, end in spans} == {min(size, count)}


def test_bits_per_byte_of_the_uniform_distribution(script):
    texts = ["When shall we three meet again?\n" * 20, "In thunder, lightning, or in rain?\n"]
    tokenizer = script.train_tokenizer(texts, 300)
    shape = script.Settings(layers=1, heads=1, width=8, positions=32, vocabulary=512)
    uniform = script.training_model(shape)
    torch.nn.init.zeros_(uniform.lm_head.weight)  # every logit 0
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    expected = tokens * math.log2(512) / sum(map(len, texts))
    assert script.bits_per_byte(uniform, tokenizer, texts) == pytest.approx(expected, rel=1e-5)


def test_fast_training_model_is_stock_gpt2(script):
    shape = script.Settings(layers=2, heads=2, width=32, positions=24, vocabulary=64)
    fast = script.training_model(shape).eval()
    stock = transformers.GPT2LMHeadModel(script.model_config(shape)).eval()
    stock.load_state_dict(fast.state_dict())
    tokens = torch.randint(64, (3, 24), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast(tokens).logits, stock(tokens).logits, rtol=1e-4, atol=1e-5)


def test_peaked_rows_of_flat_attention_are_rare(script):
    text = "Tomorrow, and tomorrow, and tomorrow,\n" * 20
    tokenizer = script.train_tokenizer([text], 300)
    shape = script.Settings(layers=2, heads=2, width=32, positions=32, vocabulary=512)
    flat = transformers.GPT2LMHeadModel(script.model_config(shape))
    for block in flat.transformer.h:
        torch.nn.init.zeros_(block.attn.c_attn.weight)
    flat.set_attn_implementation("eager")
    # Row i spreads over i + 1 keys, so that no row of at least two exceeds one half.
    assert script.peaked_rows(flat, tokenizer, text).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_learning_rate_rises_and_falls_to_nothing(script):
    shape = script.Settings(steps=100, warmup=10)
    factors = [script.rate_factor(step, shape) for step in range(101)]
    assert factors[0] == 0.1
    assert factors[9] == factors[10] == 1.0
    assert factors[55] == 0.5
    assert factors[100] == 0.0


def test_resumed_run_equals_an_undisturbed_one(script, tmp_path):
    tiny = script.Settings(
        steps=6, layers=1, heads=2, width=32, positions=16, vocabulary=64, batch=2, warmup=2
    )
    stream = torch.randint(64, (500,), generator=torch.Generator().manual_seed(7))

    def train(name, *stops):
        directory = tmp_path / name
        directory.mkdir()
        for stop in stops:
            run = script.Run(tiny, directory)
            script.train(run, stream, lambda m: m.lm_head.weight.norm().item(), every=2, stop=stop)
        saved = torch.load(directory / "checkpoint.pt")
        return saved["model"], safetensors_torch.load_file(directory / "best.safetensors"), saved

    whole, best, state = train("whole", 6)
    # The interruption at 3 loses a step, which the second part does again.
    resumed, best_resumed, state_resumed = train("resumed", 3, 6)
    assert state["step"] == state_resumed["step"] == 6
    assert state["history"] == state_resumed["history"]
    for old, new in ((whole, resumed), (best, best_resumed)):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_checkpoint_of_other_settings_is_refused(script, tmp_path):
    tiny = script.Settings(
        steps=2, layers=1, heads=1, width=8, positions=8, vocabulary=64, batch=1, warmup=1
    )
    stream = torch.arange(64)
    script.train(script.Run(tiny, tmp_path), stream, lambda _: 1.0, every=2)
    with pytest.raises(ValueError, match="other settings"):
        script.Run(script.Settings(), tmp_path)


def test_openings_end_at_an_empty_line(script):
    text = "One.\n\nTwo two.\n\nThree three three.\n"
    assert script.opening(text, 20) == "One.\n\nTwo two.\n\n"


def test_real_words_are_those_of_the_texts(script):
    assert script.real_words("Fair is foul, blorf!", ["Fair is foul"]) == 0.75
