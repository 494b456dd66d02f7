"""Tokenizers of directories: transformers' tokens without transformers, and when it is asked."""

import json
import resource
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

import lamp
from lamp import checkpoints
from lamp.models import Tokenizer, chat
from lamp.models.gpt2 import GPT2Config
from lamp.models.llama import LlamaConfig
from tests.lamp import killed_sweeps

transformers = pytest.importorskip("transformers", reason="tokens are compared with transformers")

END = "<|endoftext|>"
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = [
    ("t", "h"), ("th", "e"), ("\u0120", "the"), ("1", "2"), ("12", "3"), ("'", "s"),
    ("\u0120", "\u0120"), ("\u010a", "\u010a"), ("i", "n"),
]  # fmt: skip
TOKENS = [END, "<s>", "</s>", *LETTERS, *("".join(pair) for pair in MERGES), "<user>"]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "the the  1234's in\n\nt\u00e9<|endoftext|> the<user>\U0001f600 <extra></s> <own>"
MESSAGES = [
    {"role": "system", "content": "Be <brief> & \u00e9xact."},
    {"role": "user", "content": "the 12"},
]


def backend(*, merges=MERGES, words=None, **options):
    """Byte-level BPE as GPT-2 has it, or with words of another pattern."""
    numbers = {token: number for number, token in enumerate(TOKENS)}
    made = Backend(models.BPE(vocab=numbers, merges=merges, **options))
    own = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    cuts = [] if words is None else [pre_tokenizers.Split(Regex(words), "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, own]) if cuts else own
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([END])
    return made


def save(folder, made, settings, *, model_type="gpt2", config=None, **files):
    """A directory with a tokenizer; more files by their names, with underscores."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {"model_type": model_type, **(config or {})}
    (folder / "config.json").write_text(json.dumps(described))
    made.save(str(folder / "tokenizer.json"))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)
    return folder


def token(content, **options):
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"content": content, **flags, "special": True, **options}


def with_template():
    made = backend(words=LLAMA_3, ignore_merges=True)
    made.post_processor = processors.TemplateProcessing(
        single=["<s>", "$A"], pair=["<s>", "$A", "$B"], special_tokens=[("<s>", 1)]
    )
    return made


GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast"}
TEMPLATE = "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m.content }}\n{% endfor %}"

# The tokenizer and its files, in every way that is read without transformers.
OWN = {
    "general": (backend(words=LLAMA_3), GENERAL, {}),
    "general, transformers 5": (backend(), {"tokenizer_class": "TokenizersBackend"}, {}),
    "a class in config.json": (backend(), {}, {"config": GENERAL}),
    "special tokens": (backend(), {**GENERAL, "bos_token": "<s>", "eos_token": "</s>"}, {}),
    "tokens that are new": (
        backend(), {**GENERAL, "eos_token": "<extra>", "pad_token": "<pad>"}, {},
    ),
    "tokens as objects": (
        backend(), {**GENERAL, "eos_token": {"__type": "AddedToken", **token("<extra>")}}, {},
    ),
    "a decoder of added tokens": (
        backend(),
        {
            **GENERAL, "eos_token": "</s>",
            "added_tokens_decoder": {"2": token("</s>", lstrip=True), "0": token(END)},
        },
        {},
    ),
    "a map of special tokens": (
        backend(), GENERAL,
        {"special_tokens_map__json": {"eos_token": token("</s>", rstrip=True), "bos_token": "<s>"}},
    ),
    "a map that is not read": (
        backend(), {**GENERAL, "added_tokens_decoder": {"0": token(END)}},
        {"special_tokens_map__json": {"eos_token": "</s>"}},
    ),
    "additional tokens": (
        backend(), {**GENERAL, "additional_special_tokens": ["<extra>", "</s>"]}, {},
    ),
    "extra tokens": (backend(), {**GENERAL, "extra_special_tokens": ["<extra>", "</s>"]}, {}),
    "named extra tokens": (backend(), {**GENERAL, "extra_special_tokens": {"own": "<own>"}}, {}),
    "tokens of its own": (backend(), {**GENERAL, "own_token": "<own>"}, {}),
    "special tokens are split": (
        backend(), {**GENERAL, "eos_token": "</s>", "split_special_tokens": True}, {},
    ),
    "GPT-2": (backend(), {"tokenizer_class": "GPT2Tokenizer"}, {}),
    "GPT-2, fast": (backend(), {"tokenizer_class": "GPT2TokenizerFast", "unk_token": None}, {}),
    "GPT-2, ends": (
        backend(), {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>", "bos_token": None}, {},
    ),
    "GPT-2, a decoder": (
        backend(),
        {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": {"0": token(END)}},
        {},
    ),
    "GPT-2 by its model": (backend(), None, {}),
    "a Llama that names no class": (backend(), None, {"model_type": "llama"}),
    "Llama 3": (
        with_template(),
        {**GENERAL, "bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True},
        {"model_type": "llama"},
    ),
    "Llama 3 by Llama's class": (
        with_template(), {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>"},
        {"model_type": "llama"},
    ),
    "a chat template": (backend(), {**GENERAL, "bos_token": "<s>", "chat_template": TEMPLATE}, {}),
    "named chat templates": (
        backend(),
        {
            **GENERAL, "bos_token": "<s>",
            "chat_template": [
                {"name": "tool_use", "template": "tools"},
                {"name": "default", "template": TEMPLATE},
            ],
        },
        {},
    ),
    "a chat template in a file": (
        backend(), {**GENERAL, "chat_template": "other", "bos_token": "<s>"},
        {"chat_template__jinja": TEMPLATE},
    ),
}  # fmt: skip


def cut():
    made = backend()
    made.enable_truncation(3)
    made.enable_padding(length=40)
    return made


OWN["truncation and padding"] = (cut(), GENERAL, {})


@pytest.fixture
def without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)


def theirs(path):
    return transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False)


def of_theirs(path, text):
    """transformers' tokens of a text, without and with special ones, and what they decode to."""
    found = theirs(path)
    plain = found(text, add_special_tokens=False, verbose=False)["input_ids"]
    return plain, found(text, verbose=False)["input_ids"], found.decode(plain), found


@pytest.mark.parametrize("name", OWN)
def test_tokens_are_those_of_transformers(tmp_path, monkeypatch, name):
    made, settings, files = OWN[name]
    path = save(tmp_path / "model", made, settings, **files)
    plain, whole, text, other = of_theirs(path, TEXT)
    monkeypatch.setitem(sys.modules, "transformers", None)
    found = checkpoints.load_tokenizer(path)
    assert isinstance(found, Tokenizer)
    assert found.encode(TEXT, add_special_tokens=False) == plain
    assert found.encode(TEXT) == whole
    assert found.decode(plain) == text
    assert found.decode(whole, skip_special_tokens=True) == other.decode(
        whole, skip_special_tokens=True
    )
    assert found.convert_ids_to_tokens(plain) == other.convert_ids_to_tokens(plain)
    assert len(found) == len(other)
    for role in ("bos_token", "eos_token", "bos_token_id", "eos_token_id"):
        assert getattr(found, role) == getattr(other, role), role
    assert found.special_tokens_map == other.special_tokens_map
    assert bool(found.chat_template) == bool(other.chat_template) == ("chat" in name)
    if found.chat_template:
        assert found.apply_chat_template(MESSAGES, tokenize=False) == other.apply_chat_template(
            MESSAGES, tokenize=False
        )
        assert found.apply_chat_template(MESSAGES) == other.apply_chat_template(
            MESSAGES, return_dict=False
        )


def test_a_sweep_does_not_care_who_reads_its_tokens(tmp_path):
    study, store = killed_sweeps.study(tmp_path), tmp_path / "study.sqlite"
    assert lamp.sweep(study, store=store).ran == 8
    assert isinstance(lamp.from_pretrained(tmp_path / "model").tokenizer, Tokenizer)
    (tmp_path / "model" / "added_tokens.json").write_text("{}")  # is left to transformers
    other = lamp.from_pretrained(tmp_path / "model").tokenizer
    assert isinstance(other, transformers.PreTrainedTokenizerBase)
    assert lamp.sweep(study, store=store).ran == 0


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Our tokenizers and transformers', of the same files."""
    found = []
    for name in ("GPT-2", "general", "tokens that are new", "Llama 3 by Llama's class"):
        made, settings, files = OWN[name]
        path = save(tmp_path_factory.mktemp("words"), made, settings, **files)
        found.append((checkpoints.load_tokenizer(path), theirs(path)))
    embedded = checkpoints.EMBEDDED
    return [*found, (checkpoints.load_tokenizer(embedded), theirs(embedded))]


PIECES = st.sampled_from(
    [" ", "  ", "\n\n", " the", "'s", "1234", END, "</s>", "<extra>", "\u0661", "\xa0", "\u2028"]
)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.one_of(ANY_TEXT, st.lists(PIECES | ANY_TEXT, max_size=8).map("".join)))
def test_tokens_of_any_text_are_those_of_transformers(pairs, text):
    for found, other in pairs:
        expected = other(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert found.encode(text, add_special_tokens=False) == expected
        assert found.decode(expected) == other.decode(expected)


# --- files that transformers reads ----------------------------------------------------------------


def digits():
    made = backend()
    cuts = [pre_tokenizers.Digits(individual_digits=True), made.pre_tokenizer]
    made.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    return made


def normalized():
    made = backend()
    made.normalizer = normalizers.Lowercase()
    return made


def prefixed():
    made = backend()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


def spaced():
    made = backend()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def letters():
    numbers = {letter: number for number, letter in enumerate("?abcdefgh ")}
    made = Backend(models.WordLevel(numbers, "?"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return made


GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
THEIRS = {
    "words of another kind": (digits(), GPT2, {}, "not like GPT-2's"),
    "a normalizer": (normalized(), GPT2, {}, "not like GPT-2's"),
    "a space before": (prefixed(), GPT2, {}, "not like GPT-2's"),
    "whole words": (backend(ignore_merges=True), GPT2, {}, "not like GPT-2's"),
    "tokens that differ": (
        backend(),
        {**GPT2, "added_tokens_decoder": {"0": token(END, lstrip=True)}},
        {},
        "not like GPT-2's",
    ),
    "letters": (letters(), None, {}, "not like GPT-2's"),
    "Llama's own": (spaced(), {"tokenizer_class": "LlamaTokenizer"}, {}, "it is a LlamaTokenizer"),
    "another class": (
        backend(), {"tokenizer_class": "RobertaTokenizer"}, {}, "it is a RobertaTokenizer",
    ),
    "an older file": (
        backend(), GENERAL, {"added_tokens__json": {"<extra>": len(TOKENS)}}, "added_tokens.json",
    ),
    "cleaned up": (
        letters(), {**GENERAL, "clean_up_tokenization_spaces": True}, {}, "cleans up the spaces",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", THEIRS)
def test_other_files_are_read_by_transformers(tmp_path, monkeypatch, name):
    made, settings, files, reason = THEIRS[name]
    path = save(tmp_path / "model", made, settings, **files)
    found = checkpoints.load_tokenizer(path)
    plain, _, text, other = of_theirs(path, TEXT)
    assert type(found) is type(other)
    assert found.encode(TEXT, add_special_tokens=False) == plain
    assert found.decode(plain) == text
    monkeypatch.setitem(sys.modules, "transformers", None)
    message = rf"transformers to be read, as .*{reason}.*: pip install 'fpemu-lamp\[transformers\]'"
    with pytest.raises(ModuleNotFoundError, match=message):
        checkpoints.load_tokenizer(path)


def test_a_directory_without_tokenizer_json_is_read_by_transformers(tmp_path, monkeypatch):
    path = save(tmp_path, backend(), GPT2)
    numbers = {letter: number for number, letter in enumerate(TOKENS)}
    (path / "tokenizer.json").unlink()
    (path / "vocab.json").write_text(json.dumps(numbers))
    (path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in MERGES))
    own = backend().encode(TEXT, add_special_tokens=False).ids
    assert checkpoints.load_tokenizer(path).encode(TEXT, add_special_tokens=False) == own
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"as it has no tokenizer\.json: pip install"):
        checkpoints.load_tokenizer(path)


def test_another_model_that_names_gpt2s_class_has_its_own_tokens(tmp_path, without_transformers):
    """SmolLM2 does: transformers 5 would cut words as GPT-2 does, digits and all."""
    made = digits()
    path = save(tmp_path / "model", made, GPT2, model_type="llama")
    found = checkpoints.load_tokenizer(path)
    assert found.encode(TEXT) == made.encode(TEXT).ids
    numbers = found.convert_ids_to_tokens(found.encode("1234"))
    assert numbers == list("1234")


@pytest.mark.parametrize("name", ["Llama 3", "Llama 3 by Llama's class", "general"])
def test_a_model_puts_the_tokenizers_tokens_around_a_text(tmp_path, name):
    made, settings, files = OWN[name]
    path = save(tmp_path / "model", made, settings, **files)
    model = object.__new__(lamp.Llama)
    model._source = path
    plain, whole, _, _ = of_theirs(path, TEXT)
    assert model.encode(TEXT).tolist() == whole
    assert model.encode(TEXT, add_special_tokens=False).tolist() == plain
    assert (whole != plain) == ("3" in name)


def test_a_text_that_is_not_unicode_is_refused():
    with pytest.raises(ValueError, match=r"text is not Unicode: .*'\\ud800'"):
        lamp.from_pretrained("embedded").encode("a \ud800")


CODE = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast
Path("MARK").touch()
class Own(PreTrainedTokenizerFast):
    pass
"""


def test_no_code_of_a_directory_runs(tmp_path, monkeypatch):
    mark = tmp_path / "ran"
    auto = {"AutoTokenizer": ["own.Own", "own.Own"]}
    path = save(
        tmp_path / "model",
        backend(),
        {"tokenizer_class": "Own", "auto_map": auto},
        own__py=CODE.replace("MARK", str(mark)),
    )
    checkpoints.load_tokenizer(path)  # as if it were of the general class
    assert not mark.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=True)
    assert mark.exists(), "it would have run"


# --- chat templates -------------------------------------------------------------------------------


TEMPLATES = {
    "loops": (
        "{%- for m in messages -%}\n  {%- if loop.first %}[{% endif %}{{ m.role | upper }}"
        "{% if m.role == 'user' %}{% break %}{% endif %}\n{%- endfor %}"
    ),
    "JSON": "{{ messages | tojson }}|{{ messages[0] | tojson(indent=2, sort_keys=true) }}",
    "a namespace": (
        "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ ns.n }}"
    ),
    "an answer": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}\n{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    ),
    "a date": "{{ strftime_now('%Y') }}",
    "a dictionary": "{{ dict(a=1, b=2).items() | list }}{{ tools is none }}{{ documents is none }}",
    "filters": (
        "{{ messages | map(attribute='role') | join(', ') }}{{ 'a b' | replace(' ', '-') }}"
        "{{ '%5s|%s' | format('x', 3) }}{{ '%04d' % 7 }}{{ [1, 2] + [3] }}{{ 'ab' * 3 }}"
        "{{ 2 ** 9 }}{{ 'a\\nb' | indent }}{{ '{:>5}'.format('x') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a' ~ 1 ~ 'b' }}"
    ),
    "else and recursion": (
        "{% for m in [] %}x{% else %}none{% endfor %}"
        "{% for n in [[1], [2, [3]]] recursive %}{% if n is iterable %}({{ loop(n) }})"
        "{% else %}{{ n }}{% endif %}{% endfor %}"
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.last }}{% endfor %}"
        "{% macro f(n) %}{{ n }}{% endmacro %}{{ f(3) }}"
    ),
    "variables": "{{ bos_token }}{{ eos_token }}{{ pad_token }}",
}


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_are_rendered_as_by_transformers(name, prompt):
    other = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend(), bos_token="<s>", eos_token="</s>"
    )
    expected = other.apply_chat_template(
        MESSAGES, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=prompt
    )
    variables = {"bos_token": "<s>", "eos_token": "</s>"}
    found = chat.render(
        TEMPLATES[name], MESSAGES, add_generation_prompt=prompt, variables=variables
    )
    assert found == expected


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system message') }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ dict.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{% set ns = namespace(__class__=1) %}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{% include '/etc/hostname' %}",
        "{{ ",
    ],
)
def test_templates_that_fail_or_reach_outside_show_nothing(template):
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=backend())
    renderers = {
        "lamp": lambda: chat.render(template, MESSAGES),
        "transformers": lambda: other.apply_chat_template(
            MESSAGES, chat_template=template, tokenize=False
        ),
    }
    outcomes = set()
    for render in renderers.values():
        try:
            outcomes.add((render(), None))
        except Exception as error:
            outcomes.add(("", type(error)))
    assert len(outcomes) == 1
    assert outcomes.pop()[0] == ""


ENDLESS = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    "a macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "two macros": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "a recursive loop": "{% for n in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "joined strings": (
        "{% set ns = namespace(s='x') %}"
        "{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
    ),
    "added lists": (
        "{% set ns = namespace(s=[0]) %}"
        "{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}"
    ),
    "a product": "{{ 'x' * 10**10 }}",
    "a product of a list": "{{ 10**10 * [0] }}",
    "a power": "{{ 10 ** (10 ** 10) }}",
    "squares": (
        "{% set ns = namespace(n=3) %}"
        "{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}"
    ),
    "a width": "{{ 'x'.center(10**10) }}",
    "a width in a filter": "{{ 'x' | center(10**10) }}",
    "a width of a format": "{{ '{:9999999999}'.format(1) }}",
    "a width of an operator": "{{ '%9999999999d' % 1 }}",
    "a width in a tuple": "{{ '%*d' % (10**10, 1) }}",
    "a width of a filter of formats": "{{ '%9999999999d' | format(1) }}",
    "indents": "{{ ('x\\n' * 9999) | indent(9999) }}",
    "replaced": "{{ ('x' * 9999).replace('x', 'x' * 9999) }}",
    "joined": "{{ ('x' * 9999).join(['x'] * 9999) }}",
    "joined by a filter": "{{ (['x'] * 9999) | join('x' * 9999) }}",
    "slices": "{{ [1] | slice(10**10) | list }}",
    "mapped": "{{ ['x'] | map('center', 10**10) | list }}",
    "numbers": "{{ range(10**10) | list }}",
    "filters in a loop": (
        "{% for i in range(99999) %}{{ range(99999) | list | length }}{% endfor %}"
    ),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_templates_without_an_end_are_refused(name):
    start = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises((TemplateError, OverflowError)):
        chat.render(ENDLESS[name], MESSAGES)
    end = resource.getrusage(resource.RUSAGE_SELF)
    assert end.ru_maxrss - start.ru_maxrss < 3 * 10**5  # kilobytes
    # The limit is one of steps; this is to see that they are short.
    assert end.ru_utime - start.ru_utime < 20


def test_long_conversations_are_rendered():
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": "12345678901234567890 \n" * 99}
        for n in range(400)
    ]
    template = (
        "{% for m in messages %}{% if not loop.index0 == messages | length %}"
        "{{ bos_token + m.role.upper() + m['content'] | trim }}{{ m.content.split('x') | last }}"
        "{% endif %}{% endfor %}"
    )
    text = chat.render(template, messages, variables={"bos_token": "<s>"})
    assert len(text) > 10**6


def test_a_tokenizer_without_a_template_says_so():
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer(backend(), {}).apply_chat_template(MESSAGES)


# --- configurations and imports -------------------------------------------------------------------


STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "rope_theta": 500.0,
}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"hidden_size": 64, "num_attention_heads": 4},
        {"hidden_size": 64, "num_attention_heads": 4, "rope_parameters": STRETCHED},
        {"hidden_size": 64, "num_attention_heads": 4, "rope_theta": 7.0},
        {"num_hidden_layers": 3, "max_position_embeddings": 9, "vocab_size": 5},
    ],
)
def test_configurations_have_the_default_values_of_transformers(given):
    kinds = {LlamaConfig: transformers.LlamaConfig}
    if "rope_parameters" not in given:
        kinds[GPT2Config] = transformers.GPT2Config
    for kind, other in kinds.items():
        copy = json.loads(json.dumps(given))
        assert kind.from_mapping(given) == kind.from_mapping(other.from_dict(copy).to_dict())


HEAVY = ("transformers", "huggingface_hub", "matplotlib", "torch", "jinja2", "gguf")
PROGRAM = """
import sys, lamp
model = lamp.from_pretrained("embedded", hardware="scores-ps4")
text = model.decode(model.generate(model.encode("ROMEO."), 2))
print([name for name in HEAVY if name in sys.modules])
"""


def test_the_embedded_model_needs_nothing_heavy():
    """``pip install .`` is enough for it, and it loads at once."""
    program = PROGRAM.replace("HEAVY", repr(HEAVY))
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_reading_tokens_needs_no_transformers(without_transformers):
    model = lamp.from_pretrained("embedded")
    assert model.decode(model.encode(TEXT)) == TEXT
    assert isinstance(model.tokenizer, Tokenizer)
    assert AddedToken(END).content == model.tokenizer.eos_token
