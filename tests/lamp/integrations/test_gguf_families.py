"""GGUF files of families that transformers reads, and one of a real model."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import lamp
from lamp.models import checkpoints
from tests.lamp.integrations.random_families import float64_logits, in_float64, random_model

gguf = pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")
pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate alone")

KINDS = gguf.GGMLQuantizationType
TOKENS = np.random.default_rng(1).integers(3, 61, 20)
SHAPE = {"intermediate_size": 64}  # in blocks of 32, as the matrices of Q8_0 are
FAMILIES = {
    "qwen3": (gguf.MODEL_ARCH.QWEN3, {}),
    "phi3": (gguf.MODEL_ARCH.PHI3, {}),
    "gemma3": (
        gguf.MODEL_ARCH.GEMMA3,
        {"num_hidden_layers": 6, "layer_types": None, "query_pre_attn_scalar": 256},
    ),
}


def settings_of(config):
    """What llama.cpp's converter says of a model."""
    rope = config.rope_parameters
    found = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "attention.key_length": config.head_dim,
        "rope.freq_base": rope.get("full_attention", rope)["rope_theta"],
        "vocab_size": config.vocab_size,
    }
    window = getattr(config, "sliding_window", None)
    return found | ({"attention.sliding_window": window} if window else {})


def written(path, name, model, kind, **more):
    """A model as a GGUF file, its matrices of a type; and the model that it stands for."""
    architecture, _ = FAMILIES[name]
    prefix = gguf.MODEL_ARCH_NAMES[architecture]
    writer = gguf.GGUFWriter(path, prefix)
    for key, value in {**settings_of(model.config), **more}.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{prefix}.{key}", value)
    writer.add_pad_token_id(0)
    known = gguf.get_tensor_name_map(architecture, model.config.num_hidden_layers)
    held = copy.deepcopy(model)
    tied = model.config.tie_word_embeddings
    for full, parameter in held.named_parameters():
        more_than_stored = np.float32("gemma" in name and "norm" in full)
        numbers = parameter.detach().numpy() + more_than_stored
        of = kind if numbers.ndim > 1 else KINDS.F32
        stored = gguf.quants.quantize(numbers, of)
        writer.add_tensor(known.get_name(full, (".weight", ".bias")), stored, raw_dtype=of)
        as_read = gguf.quants.dequantize(stored, of) - more_than_stored
        parameter.data = torch.from_numpy(as_read)
    assert tied == all(full != "lm_head.weight" for full, _ in held.named_parameters())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_file_gives_the_model_that_was_written(tmp_path, name, kind, capfd):
    model = random_model(name, **SHAPE, **FAMILIES[name][1])
    held = written(tmp_path / "a.gguf", name, model, kind)
    found = lamp.from_pretrained(tmp_path / "a.gguf", hardware="fp64")
    assert found.family.startswith(name)
    assert "it/s" not in capfd.readouterr().err  # no bar of transformers
    expected = float64_logits(held, input_ids=torch.from_numpy(TOKENS)[None])[0]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.logits(TOKENS), expected, rtol=0, atol=1e-9 * scale)


def test_rotary_positions_that_transformers_leaves_out_are_refused(tmp_path):
    path = tmp_path / "stretched.gguf"
    more = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    written(path, "qwen3", random_model("qwen3", **SHAPE), KINDS.F32, **more)
    with pytest.raises(ValueError, match=r"stretched\.gguf cannot .* rope\.scaling\.type = 'lin"):
        lamp.from_pretrained(path)


def test_architectures_that_transformers_does_not_read_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "wavtokenizer-dec")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"other\.gguf cannot .* cannot read its configuration"):
        lamp.from_pretrained(tmp_path / "other.gguf")


# --- Gemma 3 270M ---------------------------------------------------------------------------------

PERPLEXITY = 15.364  # of torch's float32 on 200 tokens of the held-out text


@pytest.fixture(scope="module")
def gemma():
    place = os.environ.get("LAMP_GEMMA3")
    if place is None:
        pytest.skip("LAMP_GEMMA3 names neither the file nor the directory of docs/your-model.md")
    return lamp.from_pretrained(Path(place))


@pytest.fixture(scope="module")
def opening(gemma):
    return gemma.encode(checkpoints.read_text())[:201]


def test_gemma_reads_a_text_as_torch_does(gemma, opening):
    assert opening[0] == 2  # the token that begins texts
    found = lamp.evaluate(gemma, gemma, opening).perplexity
    assert found == pytest.approx(PERPLEXITY, abs=1e-3)


def test_gemma_in_float64_is_transformers_in_float64(gemma, opening):
    own = gemma._original
    expected = float64_logits(own, input_ids=torch.from_numpy(opening[:24])[None])[0]
    found = gemma.with_hardware("fp64").logits(opening[:24])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_gemma_continues_a_text_as_transformers_does(gemma):
    tokens = gemma.encode("When shall we three meet again")
    with in_float64(gemma._original) as wide:
        given = torch.from_numpy(tokens)[None]
        expected = wide.generate(given, max_new_tokens=5, do_sample=False)
    np.testing.assert_array_equal(gemma.generate(tokens, 5), expected[0].numpy())
