"""Models of any family by name: in Python, in commands and in studies."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import lamp
from lamp import LAMP
from lamp.cli.application import app
from lamp.models import checkpoints
from tests.lamp.integrations.random_families import random_model
from tests.lamp.random_llamas import random_llama_checkpoint

TEXT = "When shall we three meet again?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random Qwen3 with the embedded model's tokenizer."""
    path = tmp_path_factory.mktemp("qwen3")
    random_model("qwen3", vocab_size=2048, max_position_embeddings=512).save_pretrained(path)
    embedded = checkpoints.directory("embedded")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(embedded / name, path / name)
    return path


def test_other_families_are_loaded_by_transformers(checkpoint):
    model = lamp.from_pretrained(checkpoint, hardware="bf16")
    assert model.family == "qwen3"
    assert repr(model) == "Qwen3ForCausalLM on bf16"
    tokens = model.encode(TEXT)
    assert model.decode(tokens) == TEXT
    expected = lamp.simulate(
        random_model("qwen3", vocab_size=2048, max_position_embeddings=512), "bf16"
    )
    np.testing.assert_array_equal(model.logits(tokens), expected.logits(tokens))


def test_llamas_stay_native(tmp_path):
    assert isinstance(lamp.from_pretrained(random_llama_checkpoint(tmp_path)), lamp.Llama)


def test_a_model_without_its_weights_knows_its_sizes(checkpoint):
    from lamp.integrations import reader

    model = reader(checkpoint)
    assert (model.shape.vocabulary, model.shape.positions, model.shape.layers) == (2048, 512, 2)
    assert len(model.encode(TEXT)) > 3


def test_commands_run_them(checkpoint):
    rule = "softmax:strict:0.1"
    options = ["--model", str(checkpoint), "--hardware", "ps4", "--lamp", rule, "--tokens", "64"]
    run = CliRunner().invoke(app, ["run", *options, "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    record = json.loads(run.stdout)
    assert record["model"]["family"] == "qwen3"
    assert len(record["metrics"]["step_rates"]["scores"]) == 2
    model = lamp.from_pretrained(checkpoint, hardware="ps4", lamp=LAMP.parse(rule))
    tokens = model.encode(checkpoints.read_text())[:64]
    expected = lamp.evaluate(model.with_hardware("fp64"), model, tokens)
    assert record["metrics"]["kl"] == expected.kl


def command(*options):
    found = CliRunner().invoke(app, list(map(str, options)), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


def test_commands_continue_texts_by_them(checkpoint):
    options = ["--model", checkpoint, "--hardware", "ps4", "--temperature", 0.8, "--seed", 3]
    record = json.loads(command("generate", *options, "--prompt", TEXT, "--tokens", 5, "--json"))
    model = lamp.from_pretrained(checkpoint, hardware="ps4")
    expected = model.generate(model.encode(TEXT), 5, temperature=0.8, seed=3)
    assert record["prompt_tokens"] + record["tokens"] == expected.tolist()


def test_commands_compare_machines_and_order_channels_of_them(checkpoint, tmp_path):
    path = tmp_path / "ordered.toml"
    options = ["--model", checkpoint, "--tokens", 32]
    command("hardware", "calibrate", "scores-ps4", path, "--order", "ascending", *options)
    model = lamp.from_pretrained(checkpoint)
    tokens = model.encode(checkpoints.read_text())[:32]
    exact = model.with_hardware("fp64")
    expected = [
        lamp.evaluate(exact, model.with_hardware(machine), tokens).kl
        for machine in ("scores-ps4", path)
    ]
    assert expected[0] != expected[1]
    found = json.loads(command("compare", "scores-ps4", path, *options, "--json"))
    assert [run["metrics"]["kl"] for run in found["runs"]] == expected


def test_studies_run_them(checkpoint, tmp_path):
    study = lamp.Study(
        "any",
        models=[str(checkpoint)],
        texts=[{"tokens": 32}],
        hardware=["ps4"],
        lamp=["none", "softmax:strict:0.1"],
    )
    runs = lamp.sweep(study, store=tmp_path / "s.sqlite").runs
    plain, recomputed = (run.metrics for run in runs)
    assert 0 < recomputed.kl != plain.kl > 0
    assert recomputed.recomputation_rate > 0
    command("report", tmp_path / "s.sqlite", "--output", tmp_path / "report.html")
    assert "qwen3" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_without_torch_a_message_names_the_extras(checkpoint):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import lamp\n"
        f"lamp.from_pretrained('embedded').logits([1, 2])\n"
        f"lamp.from_pretrained({str(checkpoint)!r})"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    message = found.stderr.strip().splitlines()[-1]
    assert "holds a model of type 'qwen3', which runs through transformers" in message
    assert "torch is not installed: pip install 'fpemu-lamp[torch,transformers]'" in message


def test_nothing_of_torch_is_imported_before_it_is_used():
    code = (
        "import sys, lamp, lamp.integrations\n"
        "lamp.from_pretrained('embedded').logits([1, 2])\n"
        "print(sorted({'torch', 'transformers'} & {*sys.modules}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_cannot_be_loaded_names_the_checkpoint(checkpoint, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "never_heard_of"}))
    with pytest.raises(ValueError, match=r"broken cannot be put on a machine: transformers cannot"):
        lamp.from_pretrained(broken)
    (broken / "config.json").write_text(json.dumps({**config, "attention_bias": True}))
    with pytest.raises(ValueError, match=r"the checkpoint has missing keys: model\.layers\.0\."):
        lamp.from_pretrained(broken)
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 48}))
    with pytest.raises(ValueError, match="broken cannot be put on a machine"):
        lamp.from_pretrained(broken)
    quantized = {"quant_method": "gptq", "bits": 4}
    (broken / "config.json").write_text(json.dumps({**config, "quantization_config": quantized}))
    with pytest.raises(ValueError, match="its weights are quantized"):
        lamp.from_pretrained(broken)
