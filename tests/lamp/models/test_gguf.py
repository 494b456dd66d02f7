"""GGUF files: the model and the tokenizer that were written are the ones that are read."""

import json
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamp
from lamp import checkpoints
from lamp.models.llama import LlamaConfig

gguf = pytest.importorskip("gguf", reason="GGUF files are written by the package gguf")
torch = pytest.importorskip("torch", reason="random checkpoints are made with PyTorch")
import safetensors.numpy  # noqa: E402
from transformers import LlamaConfig as TheirConfig  # noqa: E402
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

from lamp.models.gguf import vocabulary  # noqa: E402
from tests.lamp.random_llamas import (  # noqa: E402
    random_llama_checkpoint,
    transformers_logits,
    transformers_model,
)
from tests.oracle import bpe  # noqa: E402

KINDS = gguf.GGMLQuantizationType
UNIT_64 = 2.0**-53
SHAPE = {"hidden_size": 64, "intermediate_size": 96}  # in blocks of 32
WIDE = {"hidden_size": 256, "intermediate_size": 256}  # in blocks of 256
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def settings_of(config):
    """What llama.cpp's converter says about a model."""
    rope = config.get("rope_parameters") or {}
    heads = config["num_attention_heads"]
    settings = {
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": float(rope["rope_theta"]),
        "llama.rope.dimension_count": config["head_dim"],
        "llama.vocab_size": config["vocab_size"],
    }
    if config["head_dim"] != config["hidden_size"] // heads:
        settings["llama.attention.key_length"] = config["head_dim"]
        settings["llama.attention.value_length"] = config["head_dim"]
    if rope["rope_type"] == "linear":
        settings["llama.rope.scaling.type"] = "linear"
        settings["llama.rope.scaling.factor"] = float(rope["factor"])
    return settings


def interleaved(array, heads):
    """Rows so that the components which are rotated together are neighbors, as ggml has them."""
    half = len(array) // heads // 2
    rows = [
        array[2 * half * head + i + half * second]
        for head in range(heads)
        for i in range(half)
        for second in range(2)
    ]
    return np.array(rows)


def arrays_of(source: Path, config):
    """The tensors of a checkpoint under llama.cpp's names, but for the order of rows."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    return {names.get_name(n, (".weight", ".bias")): (n, array) for n, array in tensors.items()}


def write(path: Path, settings, tensors, *, architecture="llama", alignment=None):
    """Write a file by the package gguf: name to array, or to type and array."""
    writer = gguf.GGUFWriter(path, architecture)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    adders = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    for key, value in settings.items():
        adders[type(value)](key, value)
    for name, entry in tensors.items():
        kind, array = entry if isinstance(entry, tuple) else (None, entry)
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def convert(source: Path, path: Path, kind=KINDS.F32, *, extra=None, drop=(), more=None, **how):
    """A checkpoint as a GGUF file, its matrices of a type; settings and tensors to change."""
    config = TheirConfig.from_pretrained(source).to_dict()
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    tensors = {}
    for name, (_, array) in arrays_of(source, config).items():
        part = name.split(".")[-2]
        ordered = interleaved(array, heads[part]) if part in heads else array
        # Vectors are never quantised.
        held = kind if ordered.ndim > 1 else KINDS.F32
        tensors[name] = (held, gguf.quants.quantize(ordered, held))
    rope = config["rope_parameters"]
    if rope["rope_type"] == "llama3":
        theirs = TheirConfig.from_pretrained(source)
        stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](theirs, "cpu")
        exponents = torch.arange(0, config["head_dim"], 2).float() / config["head_dim"]
        tensors["rope_freqs.weight"] = (rope["rope_theta"] ** -exponents / stretched).numpy()
    settings = {**settings_of(config), **(extra or {})}
    for name in drop:
        (settings if name in settings else tensors).pop(name)
    return write(path, settings, {**tensors, **(more or {})}, **how)


SHAPES = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide heads": {"head_dim": 24},
    "a key head": {"num_key_value_heads": 1},
    "as many key heads": {"num_key_value_heads": 4},
    "epsilon and theta": {
        "rms_norm_eps": 1e-3,
        "rope_parameters": {"rope_type": "default", "rope_theta": 123.5},
    },
    "linear": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
    },
    "Llama 3": {"rope_parameters": LLAMA_3, "head_dim": 64, "max_position_embeddings": 20000},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_float32_is_the_checkpoint_it_was_made_from(tmp_path, shape):
    source = random_llama_checkpoint(tmp_path / "source", **SHAPES[shape])
    path = convert(source, tmp_path / "model.gguf")
    model = lamp.from_pretrained(path, hardware="fp64")
    ours = lamp.Llama.from_pretrained(source, hardware="fp64")
    assert type(model) is lamp.Llama
    assert model.config == ours.config
    expected = checkpoints.load_tensors(source)
    tensors = checkpoints.load_tensors(path)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].dtype == array.dtype
    tokens = np.random.default_rng(0).integers(0, 61, 24)
    logits = model.logits(tokens)
    np.testing.assert_array_equal(logits, ours.logits(tokens))
    exact = transformers_logits(source, tokens, torch.float64)
    # As for other Llamas: below 40 units; queries in another order are off by 2**50.
    assert np.abs(logits - exact).max() < 400 * UNIT_64 * np.abs(exact).max()


QUANTISED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_tensors_are_the_numbers_they_stand_for(tmp_path, name):
    source = random_llama_checkpoint(tmp_path / "source", **SHAPE)
    path = convert(source, tmp_path / "model.gguf", KINDS[name])
    tensors = checkpoints.load_tensors(path)
    held = {}
    for key, array in checkpoints.load_tensors(source).items():
        # Rows are quantised one by one: their order is nothing to quantisation.
        coarse = gguf.quants.quantize(array, KINDS[name])
        held[key] = gguf.quants.dequantize(coarse, KINDS[name]) if array.ndim > 1 else array
        assert tensors[key].dtype == np.float32
        np.testing.assert_array_equal(tensors[key], held[key])
    matrix = "model.layers.1.self_attn.k_proj.weight"
    assert not np.array_equal(held[matrix], checkpoints.load_tensors(source)[matrix])
    safetensors.numpy.save_file(held, source / "model.safetensors")
    tokens = [3, 1, 4, 1, 5]
    expected = lamp.from_pretrained(source).logits(tokens)
    np.testing.assert_array_equal(lamp.from_pretrained(path).logits(tokens), expected)


def random_blocks(kind, shape, generator):
    """Codes of any kind: small random scales wherever a scale can be, random bits elsewhere."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (*shape[:-1], shape[-1] // numbers, size), np.uint8)
    # All halves that may be scales are made small: their exponents lose the upper bits.
    blocks[..., 1::2] &= 0xBF
    blocks[..., 0::2] &= 0xBF
    return blocks.reshape(*shape[:-1], -1)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_types_that_gguf_only_reads_are_read(tmp_path, name):
    kind, generator = KINDS[name], np.random.default_rng(0)
    source = random_llama_checkpoint(tmp_path / "source", **WIDE)
    config = TheirConfig.from_pretrained(source).to_dict()
    shapes = {n: (theirs, a.shape) for n, (theirs, a) in arrays_of(source, config).items()}
    codes = {n: random_blocks(kind, s, generator) for n, (_, s) in shapes.items() if len(s) > 1}
    path = tmp_path / "model.gguf"
    convert(source, path, drop=tuple(codes), more={n: (kind, c) for n, c in codes.items()})
    tensors = checkpoints.load_tensors(path)
    for ours, array in codes.items():
        expected = gguf.quants.dequantize(array, kind)
        assert np.isfinite(expected).all()
        part = ours.split(".")[-2]
        found = tensors[shapes[ours][0]]
        heads = {"attn_q": 4, "attn_k": 2}.get(part)
        np.testing.assert_array_equal(
            found if heads is None else interleaved(found, heads), expected
        )


def test_the_codes_of_q8_0_and_q4_1_by_hand(tmp_path):
    """A block of Q8_0 is d and 32 numbers q, for d q; of Q4_1 d, m and 32 nibbles, for d q + m."""
    half = np.float16([0.75]).view(np.uint8)
    eights = np.concatenate([half, np.arange(-16, 16, dtype=np.int8).view(np.uint8)])
    nibbles = np.arange(16, dtype=np.uint8) | (15 - np.arange(16, dtype=np.uint8)) << 4
    fours = np.concatenate([half, np.float16([-2.0]).view(np.uint8), nibbles])
    source = random_llama_checkpoint(tmp_path / "source", vocab_size=1, intermediate_size=32)
    down = "blk.0.ffn_down.weight"
    more = {
        "token_embd.weight": (KINDS.Q8_0, eights[np.newaxis]),
        down: (KINDS.Q4_1, np.tile(fours, (32, 1))),
    }
    path = convert(source, tmp_path / "model.gguf", drop=tuple(more), more=more)
    tensors = checkpoints.load_tensors(path)
    found = tensors["model.embed_tokens.weight"][0]
    np.testing.assert_array_equal(found, 0.75 * np.arange(-16, 16))
    row = tensors["model.layers.0.mlp.down_proj.weight"][7]
    np.testing.assert_array_equal(row, 0.75 * np.array([*range(16), *range(15, -1, -1)]) - 2.0)


@pytest.mark.parametrize("kind", [KINDS.F32, KINDS.Q8_0])
def test_transformers_reads_the_same_tensors(tmp_path, kind):
    source = random_llama_checkpoint(tmp_path / "source", **SHAPE)
    path = convert(source, tmp_path / "model.gguf", kind, extra={"general.name": "random"})
    model = transformers_model(source, torch.float32)  # whose names are looked up
    theirs = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    ours = checkpoints.load_tensors(path)
    assert set(ours) == set(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name].numpy())


def test_metadata_is_what_the_package_gguf_reads(tmp_path):
    from lamp.models.gguf.reader import open_file

    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "llama")
    writer.add_uint8("a.u8", 200)
    writer.add_int8("a.i8", -100)
    writer.add_uint16("a.u16", 60000)
    writer.add_int16("a.i16", -30000)
    writer.add_uint32("a.u32", 2**32 - 1)
    writer.add_int32("a.i32", -(2**31))
    writer.add_uint64("a.u64", 2**64 - 1)
    writer.add_int64("a.i64", -(2**63))
    writer.add_float32("a.f32", 1e-5)
    writer.add_float64("a.f64", 1e-300)
    writer.add_bool("a.true", True)
    writer.add_bool("a.false", False)
    writer.add_string("a.text", "été \U0001f600")
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_array("a.floats", [0.5, -0.25])
    writer.add_array("a.texts", ["", "a b", "\u0120"])
    writer.add_array("a.flags", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_file(tmp_path / "all.gguf").metadata
    fields = gguf.GGUFReader(tmp_path / "all.gguf").fields
    expected = {k: v.contents() for k, v in fields.items() if not k.startswith("GGUF.")}
    assert expected["a.f32"] == float(np.float32(1e-5))
    assert found == expected | {"a.f32": 1e-5}
    assert {k: type(v) for k, v in found.items()} == {k: type(v) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("alignment", "padding"), [(2, 0), (2, 1), (2, 2), (2, 3), (32, 0), (4096, 0)]
)
def test_tensors_lie_where_the_alignment_puts_them(tmp_path, alignment, padding):
    """With paddings of up to three bytes, some lie where no float32 does."""
    source = random_llama_checkpoint(tmp_path / "source")
    path = tmp_path / "model.gguf"
    convert(source, path, alignment=alignment, extra={"a.text": "x" * padding})
    tensors = checkpoints.load_tensors(path)
    for name, array in checkpoints.load_tensors(source).items():
        np.testing.assert_array_equal(tensors[name], array)
        assert tensors[name].flags.aligned


def test_float32_tensors_are_mapped_into_memory_and_not_changed(tmp_path):
    source = random_llama_checkpoint(tmp_path / "source")
    path = convert(source, tmp_path / "model.gguf")
    before = path.read_bytes()
    base = array = checkpoints.load_tensors(path)["model.layers.0.mlp.up_proj.weight"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    array[0, 0] += 1  # a copy of the page
    assert path.read_bytes() == before


# --- files that are refused -----------------------------------------------------------------------


BLOCK = "blk.1.attn_k.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "qwen2"}, "holds a model of architecture 'qwen2', expected 'llama'"),
        ({"drop": [BLOCK]}, r"has no tensor 'blk\.1\.attn_k\.weight'"),
        ({"drop": ["token_embd.weight"]}, r"has no tensor 'token_embd\.weight'"),
        ({"drop": ["output_norm.weight"]}, r"has no tensor 'output_norm\.weight'"),
        ({"drop": ["llama.block_count"]}, r"does not say llama\.block_count"),
        (
            {"drop": ["llama.attention.layer_norm_rms_epsilon"]},
            r"does not say llama\.attention\.layer_norm_rms_epsilon",
        ),
        ({"extra": {"llama.block_count": 3}}, r"has no tensor 'blk\.2\.attn_norm\.weight'"),
        ({"extra": {"llama.block_count": 10**5}}, r"has 100000 layers in \d+ tensors"),
        ({"extra": {"llama.block_count": 1}}, r"'blk\.1\.[a-z_.]+', which is none of a Llama of 1"),
        ({"extra": {"llama.block_count": 0}}, r"block_count = 0, expected a positive integer"),
        ({"extra": {"llama.block_count": True}}, r"block_count = True, expected a positive int"),
        ({"extra": {"llama.attention.head_count": [4, 4]}}, r"head_count = \[4, 4\], expected"),
        ({"extra": {"llama.attention.head_count": 2}}, r"says llama\.rope\.dimension_count = 8"),
        ({"extra": {"llama.attention.head_count_kv": 4}}, r"k\.weight' has 16 rows, expected 32"),
        ({"extra": {"llama.rope.freq_base": "x"}}, r"freq_base = 'x', expected a number"),
        ({"extra": {"llama.rope.freq_base": -1.0}}, "positive numbers"),
        ({"extra": {"llama.rope.dimension_count": 4}}, r"dimension_count = 4 with heads of 8"),
        ({"extra": {"llama.attention.value_length": 16}}, r"value_length = 16 with heads of 8"),
        ({"extra": {"llama.rope.scaling.type": "yarn"}}, "type 'yarn' are not implemented"),
        ({"extra": {"llama.expert_count": 8}}, r"llama\.expert_count = 8, which is not impl"),
        ({"extra": {"llama.logit_scale": 0.5}}, r"llama\.logit_scale = 0\.5, which is not impl"),
        ({"extra": {"llama.attention.causal": False}}, r"causal = False, which is not implem"),
        ({"extra": {"split.count": 3}}, "one of 3 files of a split model.*gguf-split --merge"),
        ({"more": {"blk.0.ffn_gate_inp.weight": np.ones((2, 32), "f4")}}, "'blk.0.ffn_gate_inp"),
        ({"more": {"rope_freqs.weight": np.full(4, 3, "f4")}}, "not those of a Llama 3"),
        ({"more": {"rope_freqs.weight": np.ones(3, "f4")}}, "not those of a Llama 3"),
        (
            {
                "more": {"rope_freqs.weight": np.ones(4, "f4")},
                "extra": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0},
            },
            "type 'linear' beside a tensor 'rope_freqs.weight' are not implemented",
        ),
        (
            {"drop": [BLOCK], "more": {BLOCK: np.ones((16, 32), np.int8)}},
            r"'blk\.1\.attn_k\.weight' of .* is of type I8, which the package gguf does not turn",
        ),
        (
            {"drop": [BLOCK], "more": {BLOCK: np.ones((16, 31), np.float32)}},
            r"shape \(16, 31\), expected \(16, 32\)",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_name(tmp_path, change, message):
    source = random_llama_checkpoint(tmp_path / "source")
    path = convert(source, tmp_path / "model.gguf", **change)
    with pytest.raises(ValueError, match=message):
        lamp.Llama.from_pretrained(path)


@pytest.mark.parametrize(
    "extra",
    [
        {"llama.expert_count": 0, "llama.expert_used_count": 0},
        {"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0},
        {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 1.0},
        {"llama.rope.scaling.factor": 0.0},
        {"llama.tensor_data_layout": "Meta AI original pth", "llama.attention.causal": True},
    ],
)
def test_settings_without_effect_have_none(tmp_path, extra):
    source = random_llama_checkpoint(tmp_path / "source")
    path = convert(source, tmp_path / "model.gguf", extra=extra)
    expected = LlamaConfig.from_mapping(checkpoints.load_config(source, "llama"))
    assert lamp.Llama.from_pretrained(path).config == expected


def test_divisors_of_one_are_no_scaling(tmp_path):
    source = random_llama_checkpoint(tmp_path / "source")
    ones = {"rope_freqs.weight": np.ones(4, np.float32)}
    config = checkpoints.load_config(convert(source, tmp_path / "model.gguf", more=ones), "llama")
    assert config["rope_parameters"]["factor"] == 1.0
    rotary = LlamaConfig.from_mapping(config).rotary
    plain = LlamaConfig.from_mapping(checkpoints.load_config(source, "llama")).rotary
    assert list(map(float, rotary.frequencies())) == list(map(float, plain.frequencies()))


@pytest.mark.parametrize(
    "change", [{"high_freq_factor": 4.001}, {"original_max_position_embeddings": 8191}]
)
def test_divisors_close_to_those_of_llama_3_are_not_taken_for_them(tmp_path, change):
    rope = {"rope_parameters": {**LLAMA_3, **change}, "head_dim": 64}
    source = random_llama_checkpoint(tmp_path / "source", max_position_embeddings=20000, **rope)
    path = convert(source, tmp_path / "model.gguf")
    with pytest.raises(ValueError, match="not those of a Llama 3"):
        checkpoints.load_config(path, "llama")


def changed(path, position, new):
    """Other bytes at a place."""
    data = bytearray(path.read_bytes())
    data[position : position + len(new)] = new
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("position", "new", "message"),
    [
        (0, b"GGML", "is not a GGUF file"),
        (4, b"\1\0\0\0", "of version 1, expected version 2 or 3"),
        (4, b"\0\0\0\3", "of big-endian numbers, expected"),
        (8, b"\xff" * 8, "is broken|cut short"),
        (16, b"\xff" * 8, "is broken|cut short"),
        (24, b"\xff" * 8, "is cut short or broken"),
        (32, b"\xff", "the string at byte 24 is not UTF-8"),
    ],
)
def test_a_broken_header_is_refused(tmp_path, position, new, message):
    path = convert(random_llama_checkpoint(tmp_path / "source"), tmp_path / "model.gguf")
    changed(path, position, new)
    with pytest.raises(ValueError, match=message):
        checkpoints.load_config(path, "llama")


@pytest.mark.parametrize(
    ("before", "new", "message"),
    [
        (0, b"\xff", "the string at byte {length} is not UTF-8"),
        (8, b"\xff" * 8, "but 18446744073709551615 are to be read from byte {word} on"),
        (8, b"\0\1\0\0", "but 256 are to be read from byte {word} on"),
    ],
)
@pytest.mark.parametrize("word", ["an inner word", "the last"])
def test_a_broken_word_of_a_list_is_told_by_its_place(tmp_path, word, before, new, message):
    words = ["the first", "an inner word", "the last"]
    path = write(tmp_path / "model.gguf", {"tokenizer.words": words}, {})
    place = path.read_bytes().index(word.encode())
    changed(path, place - before, new)
    with pytest.raises(ValueError, match=message.format(word=place, length=place - 8)):
        checkpoints.load_config(path, "llama")


AFTER_NAME = {"dimensions": 0, "length": 4, "type": 12}  # of an entry of one dimension


@pytest.mark.parametrize(
    ("field", "new", "message"),
    [
        ("dimensions", b"\5", "has 5 dimensions"),
        ("dimensions", b"\0", r"has shape \(\)"),
        ("length", b"\0", r"has shape \(0,\)"),
        ("type", b"\x63", "is of type 99, which the installed package gguf does not know"),
        ("type", b"\x0e", r"of shape \(32,\) does not divide into blocks of 256, as Q6_K has"),
    ],
)
def test_a_broken_entry_of_a_tensor_is_refused(tmp_path, field, new, message):
    path = convert(random_llama_checkpoint(tmp_path / "source"), tmp_path / "model.gguf")
    name = b"output_norm.weight"
    changed(path, path.read_bytes().index(name) + len(name) + AFTER_NAME[field], new)
    with pytest.raises(ValueError, match=rf"tensor 'output_norm\.weight' {message}"):
        checkpoints.load_config(path, "llama")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"a.two", b"a.one", "says 'a.one' twice"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", "two tensors 'blk.0.attn_k.weight'"),
    ],
)
def test_names_that_are_there_twice_are_refused(tmp_path, old, new, message):
    source = random_llama_checkpoint(tmp_path / "source")
    path = convert(source, tmp_path / "model.gguf", extra={"a.one": 1, "a.two": 2})
    changed(path, path.read_bytes().index(old), new)
    with pytest.raises(ValueError, match=message):
        checkpoints.load_config(path, "llama")


@pytest.mark.parametrize("alignment", [0, 1.0, "x", 24])
def test_an_alignment_that_is_none_is_refused(tmp_path, alignment):
    path = write(tmp_path / "model.gguf", {"general.alignment": alignment}, {})
    with pytest.raises(ValueError, match=f"general.alignment is {alignment!r}"):
        checkpoints.load_config(path, "llama")


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (4, r"begins at byte \d+ of the tensors, expected a multiple of 32"),
        (-32, r"tensors '.*' and 'blk\.1\.attn_norm\.weight' overlap"),
    ],
)
def test_tensors_that_overlap_or_are_not_aligned_are_refused(tmp_path, shift, message):
    path = convert(random_llama_checkpoint(tmp_path / "source"), tmp_path / "model.gguf")
    name = b"blk.1.attn_norm.weight"
    place = path.read_bytes().index(name) + len(name) + AFTER_NAME["type"] + 4
    (offset,) = struct.unpack_from("<Q", path.read_bytes(), place)
    changed(path, place, struct.pack("<Q", offset + shift))
    with pytest.raises(ValueError, match=rf"model\.gguf is broken: .*{message}"):
        checkpoints.load_tensors(path)


def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path):
    source = random_llama_checkpoint(tmp_path / "source", num_hidden_layers=1)
    path = convert(source, tmp_path / "model.gguf", extra=WORDS)
    data = path.read_bytes()
    last = len(data) - gguf.GGUFReader(path).tensors[-1].n_bytes
    path = tmp_path / "cut.gguf"  # a file that is mapped must not change
    for length in (*range(0, 3000, 7), *range(3000, last, 997), last, len(data) - 40):
        path.unlink(missing_ok=True)
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"cut\.gguf is (cut short|empty)"):
            checkpoints.load_tensors(path)


def test_a_file_with_a_wrong_byte_is_read_or_refused(tmp_path):
    """Nothing but a ValueError comes of it, and no length in the file is believed."""
    source = random_llama_checkpoint(tmp_path / "source", num_hidden_layers=1)
    path = convert(source, tmp_path / "model.gguf", extra=WORDS)
    data, draw = path.read_bytes(), random.Random(0)
    end = gguf.GGUFReader(path).data_offset
    refused = 0
    for trial in range(1500):
        broken = bytearray(data)
        broken[draw.randrange(end)] ^= 1 << draw.randrange(8)
        path = tmp_path / f"{trial}.gguf"
        path.write_bytes(broken)
        try:
            LlamaConfig.from_mapping(checkpoints.load_config(path, "llama"))
            checkpoints.load_tensors(path)
        except ValueError:
            refused += 1
        path.unlink()
    assert 300 < refused < 1400


def test_the_package_gguf_is_asked_for(tmp_path, monkeypatch):
    path = convert(random_llama_checkpoint(tmp_path / "source"), tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "lamp.models.gguf")
    monkeypatch.delitem(sys.modules, "lamp.models.gguf.reader")
    monkeypatch.delitem(sys.modules, "lamp.models.gguf.model")
    for load in (checkpoints.load_tensors, checkpoints.load_tokenizer):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'fpemu-lamp\[gguf\]'"):
            load(path)


# --- tokenizers -----------------------------------------------------------------------------------


LETTERS = [bpe.alphabet()[byte] for byte in range(256)]
MERGES = [
    "t h", "th e", "\u0120 the", "1 2", "12 3", "\u0120 1", "\u0120 \u0120", "' s", "\u010a \u010a",
]  # fmt: skip
TOKENS = ["<|end|>", "<|start|>", *LETTERS, *("".join(pair.split()) for pair in MERGES), "<user>"]
WHOLE = "\u0120unreachable"
TEMPLATE = "{% for m in messages %}<|start|>{{ m['content'] }}<|end|>{% endfor %}"
WORDS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": [*TOKENS, WHOLE],
    "tokenizer.ggml.token_type": [3, 3, *(1 for _ in TOKENS[3:]), 4, 1],
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.chat_template": TEMPLATE,
}


def tokenizer(folder, **changes):
    """The tokenizer of a file without a model."""
    template = {
        f"tokenizer.{key}": changes.pop(key) for key in ("chat_template",) if key in changes
    }
    changed = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    settings = {**WORDS, **changed, **template}
    settings = {key: value for key, value in settings.items() if value is not None}
    path = folder / "words.gguf"
    path.unlink(missing_ok=True)
    return checkpoints.load_tokenizer(write(path, settings, {}))


def words(encoder, text):
    return encoder.convert_ids_to_tokens(encoder.encode(text, add_special_tokens=False))


def test_digits_are_words_where_the_file_says_so(tmp_path):
    text = "the the  1234's\n\n"
    end = ["'s", "\u010a\u010a"]
    plain = words(tokenizer(tmp_path, pre="gpt-2"), text)
    assert plain == ["the", "\u0120the", "\u0120", "\u0120", "123", "4", *end]
    for name in ("smollm", "starcoder"):
        single = words(tokenizer(tmp_path, pre=name), text)
        assert single == ["the", "\u0120the", "\u0120\u0120", *"1234", *end]
    threes = words(tokenizer(tmp_path, pre="llama-bpe"), "the 1234")
    assert threes == ["the", "\u0120", "123", "4"]


def test_llama_3_takes_whole_words(tmp_path):
    text = "so unreachable"
    assert words(tokenizer(tmp_path, pre="llama-bpe"), text) == ["s", "o", WHOLE]
    assert WHOLE not in words(tokenizer(tmp_path, pre="smollm"), text)


def test_words_are_cut_as_llama_cpp_cuts_them(tmp_path):
    """By its regular expressions, worked out by hand."""

    def cut(pre, text):
        found = tokenizer(tmp_path, pre=pre).backend.pre_tokenizer.pre_tokenize_str(text)
        return [word.replace("\u0120", " ").replace("\u010a", "\n") for word, _ in found]

    text = "It's 12345 OK,HTTPServer's\n\n  x"
    plain = ["It", "'s", " 12345", " OK", ",", "HTTPServer", "'s", "\n\n ", " x"]
    assert cut("gpt-2", text) == cut("mpt", text) == plain
    assert cut("default", text) == [
        "It", "'", "s", " ", "123", "45", " OK", ",", "HTTPServer", "'", "s", "\n\n ", " x",
    ]  # fmt: skip
    assert cut("falcon", text) == [
        "It", "'", "s", " ", "123", "45", " OK", ",", "HTTPServer", "'", "s", "\n\n ", " x",
    ]  # fmt: skip
    assert cut("qwen2", text) == [
        "It", "'s", " ", *"12345", " OK", ",HTTPServer", "'s", "\n\n", " ", " x",
    ]  # fmt: skip
    assert cut("llama-bpe", text) == [
        "It", "'s", " ", "123", "45", " OK", ",HTTPServer", "'s", "\n\n", " ", " x",
    ]  # fmt: skip
    assert cut("tekken", text) == [
        "It", "'s", " ", *"12345", " OK", ",HTTPServer", "'s", "\n\n", " ", " x",
    ]  # fmt: skip
    assert cut("tekken", "camelCase HTTPServer/\n") == [
        "camel", "Case", " HTTPServer", "/\n",
    ]  # fmt: skip


def test_a_file_that_does_not_say_how_words_are_cut_is_taken_for_default(tmp_path):
    with pytest.warns(UserWarning, match="does not say how its tokenizer cuts text into words"):
        found = tokenizer(tmp_path, pre=None)
    text = "the 12345's , the"
    assert words(found, text) == words(tokenizer(tmp_path, pre="default"), text)
    assert words(found, text) != words(tokenizer(tmp_path, pre="gpt-2"), text)


@pytest.mark.parametrize("name", ["model.GGUF", "model", "model.bin"])
def test_files_are_known_by_their_ending_or_their_first_bytes(tmp_path, name):
    source = random_llama_checkpoint(tmp_path / "source")
    path = convert(source, tmp_path / name)
    expected = lamp.from_pretrained(source).logits([1, 2])
    np.testing.assert_array_equal(lamp.from_pretrained(path).logits([1, 2]), expected)


def test_tokens_that_end_a_text_a_turn_and_a_message(tmp_path):
    def ends(**numbers):
        tokenizer(tmp_path, **{f"{name}_token_id": n for name, n in numbers.items()})
        return checkpoints.end_tokens(tmp_path / "words.gguf")

    assert ends() == (0,)
    assert ends(eot=1, eom=3) == (0, 1, 3)
    assert ends(eot=0, eos=None) == (0,)
    assert ends(eos=None) == ()


def test_special_tokens_have_their_numbers_and_names(tmp_path):
    encoder = tokenizer(tmp_path)
    assert (encoder.bos_token, encoder.eos_token) == ("<|start|>", "<|end|>")
    user = TOKENS.index("<user>")
    assert encoder.encode("<|start|>the<user><|end|>") == [1, TOKENS.index("the"), user, 0]
    assert encoder.decode([1, user, 0], skip_special_tokens=True) == "<user>"
    messages = [{"role": "user", "content": "the"}]
    assert encoder.apply_chat_template(messages, tokenize=False) == "<|start|>the<|end|>"
    bare = tokenizer(tmp_path, bos_token_id=None, token_type=None)
    assert bare.bos_token is None
    assert words(bare, "<user>") == list("<user>")


def test_texts_begin_and_end_as_the_file_says(tmp_path):
    def around(**changes):
        return tokenizer(tmp_path, **changes).encode("t")

    t = TOKENS.index("t")
    assert around() == [t]
    assert around(add_bos_token=True) == [1, t]
    assert around(add_bos_token=True, add_eos_token=True) == [1, t, 0]
    assert around(pre="llama-bpe") == [1, t]
    assert around(pre="llama-bpe", add_bos_token=False) == [t]
    pair = tokenizer(tmp_path, add_bos_token=True).backend.encode("t", "t")
    assert pair.ids == [1, t, 1, t]


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
PIECES = st.sampled_from(
    [" ", " ,", " n't", "  ", "\n\n", "the", "'s", "12", "123", "<|end|>", "\u0661", "\xa0"]
)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    return {digits: tokenizer(folder, pre="smollm" if digits else "gpt-2") for digits in (0, 1)}


@given(st.one_of(ANY_TEXT, st.lists(PIECES | ANY_TEXT, max_size=8).map("".join)))
def test_tokens_are_those_of_the_definition_and_decode_to_the_text(encoders, text):
    for digits, encoder in encoders.items():
        found = encoder.encode(text)
        special = ("<|end|>", "<|start|>", "<user>")
        assert found == bpe.encode(text, TOKENS, MERGES, special=special, digits=bool(digits))
        assert encoder.decode(found) == text


def test_the_embedded_models_tokenizer_survives(tmp_path):
    """Its words are Llama 3's but for capital 'S and the like."""
    theirs = json.loads((checkpoints.EMBEDDED / "tokenizer.json").read_text())
    vocabulary = theirs["model"]["vocab"]
    tokens = sorted(vocabulary, key=vocabulary.get)
    merges = [" ".join(pair) for pair in theirs["model"]["merges"]]
    kinds = [3] + [1] * (len(tokens) - 1)
    found = tokenizer(
        tmp_path, pre="llama-bpe", tokens=tokens, merges=merges, token_type=kinds,
        bos_token_id=0, add_bos_token=False,
    )  # fmt: skip
    text = checkpoints.read_text().lower() + " 1234567 \u00e9t\u00e9 \U0001f600"
    expected = checkpoints.load_tokenizer(checkpoints.EMBEDDED).encode(text)
    assert found.encode(text) == expected
    assert found.decode(expected) == text


def test_negative_numbers_of_tokens_are_refused():
    metadata = {"model": "gpt2", "tokens": ["a", "b"], "bos_token_id": -1}
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    with pytest.raises(ValueError, match="bos_token_id is -1, expected a number below 2"):
        vocabulary._special(named, "bos")


def test_a_file_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"words\.gguf holds no tokenizer"):
        tokenizer(tmp_path, model=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": "bert"},
            "a tokenizer of kind 'bert', expected 'gpt2', byte-level BPE, or",
        ),
        ({"pre": "rwkv"}, "as 'rwkv' does, expected one of gpt-2, .*smollm, .*, tekken, .*default"),
        ({"pre": 3}, "as 3 does, expected one of"),
        ({"tokens": None}, "cannot be read: KeyError"),
        ({"merges": None}, "cannot be read: KeyError"),
        ({"merges": ["q q"]}, "cannot be read"),
        ({"merges": ["t h e"]}, "cannot be read"),
        ({"tokens": ["a", "a"], "token_type": None}, "two tokens of the vocabulary are the same"),
        ({"token_type": [1, 1]}, "cannot be read"),
        ({"bos_token_id": 9999}, "cannot be read: .*bos_token_id is 9999, expected a number below"),
        ({"bos_token_id": -1.0}, r"cannot be read: .*bos_token_id is -1\.0"),
        (
            {"add_bos_token": True, "bos_token_id": None},
            "are to have a token 'bos', which",
        ),
        ({"chat_template": 7}, "chat_template is 7, expected a string"),
    ],
)
def test_a_tokenizer_that_is_not_known_or_broken_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(tmp_path, **changes)
