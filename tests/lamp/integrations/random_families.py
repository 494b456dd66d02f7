"""Random models of many families, and what transformers itself makes of them in float64."""

import copy
import functools
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
import transformers

import lamp
from tests.lamp.random_llamas import Float64

TOKENS = 20
_SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_INNER = {**_SHAPE, "intermediate_size": 44}
_GROUPED = {**_INNER, "num_key_value_heads": 2, "head_dim": 16}
_WINDOW = {**_GROUPED, "sliding_window": 6}
_EXPERTS = {**_GROUPED, "num_experts_per_tok": 2}


@dataclass(frozen=True)
class Family:
    """A configuration of transformers, and how its model is read.

    `close` is how far from float64 our fp64 machine may be: frequencies of a kind that we do not
    compute ourselves are float32 numbers, and Bloom's GELU has eight digits of the square root of
    2 / pi.  `own` is transformers' attention that we compare with: Falcon's eager one adds the
    bias of positions twice.
    """

    config: str
    options: dict = field(default_factory=dict)
    auto: str = "AutoModelForCausalLM"
    causal: bool = True
    close: float = 1e-12
    own: str = "eager"


FAMILIES = {
    "mistral": Family("MistralConfig", _WINDOW),
    "qwen2": Family("Qwen2Config", _GROUPED),
    "qwen3": Family("Qwen3Config", _GROUPED),
    "phi3": Family("Phi3Config", {**_WINDOW, "pad_token_id": 0}),
    "gemma2": Family("Gemma2Config", {**_WINDOW, "query_pre_attn_scalar": 24}),
    "gemma3": Family(
        "Gemma3TextConfig",
        {
            **_WINDOW,
            "num_hidden_layers": 3,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "query_pre_attn_scalar": 24,
        },
    ),
    "granite": Family(
        "GraniteConfig",
        {
            **_GROUPED,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
    "olmo2": Family("Olmo2Config", _GROUPED),
    "opt": Family(
        "OPTConfig", {**_SHAPE, "ffn_dim": 44, "init_std": 0.3, "word_embed_proj_dim": 32}
    ),
    "gpt_neox": Family("GPTNeoXConfig", _INNER),
    "gptj": Family("GPTJConfig", {**_SHAPE, "rotary_dim": 4}),
    "mixtral": Family("MixtralConfig", {**_EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": Family(
        "Qwen3MoeConfig", {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": 20}
    ),
    "gpt_oss": Family(
        "GptOssConfig", {**_EXPERTS, "num_local_experts": 4, "sliding_window": 6}, close=1e-6
    ),
    "bloom": Family("BloomConfig", _SHAPE, close=1e-9),
    "falcon": Family("FalconConfig", _SHAPE),
    "falcon, sequential, alibi": Family(
        "FalconConfig",
        {**_SHAPE, "alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
        own="sdpa",
    ),
    "falcon, new": Family(
        "FalconConfig",
        {**_SHAPE, "new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    "bert": Family("BertConfig", _INNER, "AutoModelForMaskedLM", causal=False),
    "t5": Family(
        "T5Config",
        {
            "vocab_size": 61,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 44,
            "num_layers": 2,
            "num_heads": 4,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": 0,
        },
        "AutoModelForSeq2SeqLM",
        causal=False,
    ),
}


def random_model(name: str, **options):
    """A model of a family; its weights are large enough for attention to be peaked."""
    family = FAMILIES[name]
    config = getattr(transformers, family.config)(**{**family.options, **options})
    return _model(config, family.auto)


@functools.cache
def simulated(name: str):
    """The same on the fp64 machine, for tests that leave it as it is: structures take long to find.

    On another machine it is ``simulated(name).with_hardware(...)``, with the same structure.
    """
    return lamp.simulate(random_model(name), "fp64")


def _model(config, auto):
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # biases, norms, sinks
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@contextmanager
def in_float64(model, own="eager"):
    """The same model of transformers with every step in float64, as long as the context lasts."""
    torch.set_default_dtype(torch.float64)
    try:
        with Float64(), torch.no_grad():
            wide = type(model)(copy.deepcopy(model.config)).eval().double()
            wide.load_state_dict(model.state_dict())
            scalars = {name: each for name, each in model.named_buffers() if each.ndim == 0}
            for name, scalar in scalars.items():  # of embeddings, in float32 as they are stored
                wide.get_buffer(name).copy_(scalar)
            wide.set_attn_implementation(own)
            wide.config._experts_implementation = "eager"
            yield wide
    finally:
        torch.set_default_dtype(torch.float32)


def float64_logits(model, own="eager", **given):
    """transformers' own logits, every step in float64."""
    with in_float64(model, own) as wide:
        return wide(**given).logits.numpy()
