"""Tasks of lm-evaluation-harness: scores against their definitions, and what the harness asks."""

import functools
import json
import shutil
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import lamp
from lamp import integrations
from lamp.cli.application import app
from lamp.evaluation import Estimate, Setting
from lamp.integrations.harness import (
    ComparedScore,
    Scores,
    TaskResult,
    TaskSource,
    evaluate_tasks,
    sources,
)
from lamp.integrations.harness.__main__ import main as command
from tests.lamp.random_llamas import random_llama_checkpoint

TASKS = Path(__file__).parent / "tasks"
PIECES = Path(__file__).parents[2] / "models" / "sentencepiece_models" / "bpe.model"
MACHINE = "scores-ps2"


def test_the_harness_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    monkeypatch.delitem(sys.modules, "lamp.integrations.harness.language_model", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fpemu-lamp\[eval\]'"):
        evaluate_tasks(None, Setting("fp32"), ["x"])


def documents(name):
    return [json.loads(line) for line in (TASKS / f"{name}.jsonl").read_text().splitlines()]


def pairs(found, expected):
    """The two sides of a score, with the differences document by document."""
    found, expected = np.array(found, float), np.array(expected, float)
    return found.mean(), expected.mean(), found - expected


# --- with the harness -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return lamp.from_pretrained("embedded")


@pytest.fixture(scope="module")
def language_model():
    pytest.importorskip("lm_eval", reason="needs the extra eval")
    from lamp.integrations.harness.language_model import LanguageModel

    return LanguageModel


@pytest.fixture(scope="module")
def cached(language_model, tmp_path_factory):
    """Data sets of the tests are kept in a folder of their own."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


def evaluated(*options):
    """What `lamp eval` prints about both tasks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(TASKS)
        result = CliRunner().invoke(
            app,
            ["eval", "--tasks", "shakespeare_cloze,shakespeare_choice", "--folder", ".",
             "--hardware", MACHINE, "--lamp", "softmax:tv:0.3", "--json", *options],
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def record(cached):
    return evaluated()


def log_probability(model, context, continuation):
    """The definition: the sum over the tokens behind those of the context."""
    whole = model.encode(context + continuation)
    first = len(model.encode(context))
    logits = model.logits(whole).astype(float)[first - 1 : -1]
    shifted = logits - logits.max(axis=1, keepdims=True)
    chosen = shifted[range(len(logits)), whole[first:]] - np.log(np.exp(shifted).sum(axis=1))
    return chosen.sum(), (logits.argmax(axis=1) == whole[first:]).all()


def test_scores_are_those_of_the_definition(record, model):
    assert record["hardware"] == MACHINE
    assert record["reference"] == "fp64"
    machines = (
        model.with_hardware(MACHINE, lamp.LAMP("total_variation", tau=0.3)),
        model.with_hardware("fp64"),
    )
    cloze, choice = ([], []), ([], [])
    for side, machine in enumerate(machines):
        for each in documents("cloze"):
            cloze[side].append(log_probability(machine, each["context"], " " + each["word"]))
        for each in documents("choice"):
            options = [
                log_probability(machine, each["context"], " " + word)[0] for word in each["choices"]
            ]
            choice[side].append(int(np.argmax(options)) == each["answer"])
    found = {(score["task"], score["metric"]): score for score in record["scores"]}
    assert len(found) == 3
    for (task, metric), sides in (
        (("shakespeare_cloze", "acc"), [[each for _, each in side] for side in cloze]),
        (("shakespeare_choice", "acc"), choice),
    ):
        score = found[task, metric]
        value, reference, differences = pairs(*sides)
        assert (score["value"], score["reference"]) == (value, reference)
        assert score["difference"]["value"] == pytest.approx(differences.mean())
        count = len(differences)
        error = differences.std(ddof=1) / np.sqrt(count)
        assert score["difference"]["error"] == pytest.approx(error)
        assert score["value_error"] == pytest.approx(np.std(sides[0], ddof=1) / np.sqrt(count))
        assert score["changed"] == np.count_nonzero(differences)
        assert (score["count"], score["higher_is_better"]) == (count, True)
    score = found["shakespeare_cloze", "perplexity"]
    for name, side in zip(("value", "reference"), cloze, strict=True):
        losses = [loss for loss, _ in side]
        assert score[name] == pytest.approx(np.exp(-np.mean(losses)), rel=1e-9)
    assert score["difference"] is score["changed"] is None
    assert score["value"] != score["reference"]


def test_a_store_gives_the_same_scores_and_saves_doing_them_again(record, tmp_path, monkeypatch):
    store = str(tmp_path / "scores.sqlite")
    found = evaluated("--store", store)
    assert found.pop("model") == record["model"]
    assert found == {name: value for name, value in record.items() if name != "model"}
    monkeypatch.setattr(TaskSource, "answered", None)
    assert evaluated("--store", store)["scores"] == record["scores"]


def test_a_digest_holds_all_that_is_asked(cached, beginning, model, tmp_path, monkeypatch):
    for file in TASKS.iterdir():
        shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    whole = TaskSource("shakespeare_choice", tmp_path)
    digest = whole.digest(integrations.reader("embedded"))
    assert whole.answered(model.with_hardware("fp32")).digest == digest
    assert TaskSource("shakespeare_choice", tmp_path, limit=6).digest(model) == digest  # all
    others = [
        TaskSource("shakespeare_choice", tmp_path, limit=3).digest(model),
        TaskSource("shakespeare_choice", tmp_path, shots=2).digest(model),
        TaskSource("shakespeare_cloze", tmp_path).digest(model),
        whole.digest(beginning.decoder),  # which has other tokens
    ]
    for name, before, after in (
        ("choice.yaml", "aggregation: mean", "aggregation: median"),
        ("choice.jsonl", "shine", "be seen"),
        ("choice.jsonl", '"answer": 2}', '"answer": 1}'),
    ):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace(before, after, 1))
        others.append(whole.digest(model))
        (tmp_path / name).write_text(text)
    assert len({digest, *others}) == 8
    assert whole.digest(model) == digest


def test_a_task_that_cannot_be_asked_says_why(cached, model, tmp_path, monkeypatch):
    (tmp_path / "task.yaml").write_text(
        (TASKS / "choice.yaml").read_text().replace("choice.jsonl", "nowhere.jsonl")
    )
    with pytest.raises(ValueError, match=r"'shakespeare_choice' cannot be asked: .*nowhere"):
        TaskSource("shakespeare_choice", tmp_path).digest(model)
    monkeypatch.setattr(sources, "_own_tasks", lambda: SimpleNamespace(all_tasks=["arc_easy"]))
    with pytest.raises(ValueError, match="no task 'x' in lm-evaluation-harness nor in"):
        TaskSource("x", tmp_path).digest(model)


def test_the_harness_has_a_command_that_knows_the_model(cached, record, monkeypatch, capsys):
    arguments = f"--model lamp --model_args hardware={MACHINE},lamp=softmax:tv:0.3"
    tasks = "--tasks shakespeare_choice --include_path ."
    monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments.split(), *tasks.split()])
    monkeypatch.chdir(TASKS)
    own = functools.partial(sources.harness("lm_eval.tasks").TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", own)  # not thousands of files
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
    command()
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "|shakespeare" in each]
    (score,) = [each for each in record["scores"] if each["task"] == "shakespeare_choice"]
    assert f"{score['value']:.4f}" in line
    assert f"{score['value_error']:.4f}" in line


def test_scores_are_a_table(record, model, monkeypatch):
    found = []
    for each in record["scores"]:
        given = each["difference"]
        difference = None if given is None else Estimate(**given)
        found.append(ComparedScore(**{**each, "difference": difference}))
    results = {"x": TaskResult((), 3)}, {"x": TaskResult((), 0)}
    shown = Scores(Setting(MACHINE), "fp64", *results)
    monkeypatch.setattr(Scores, "scores", found)
    monkeypatch.setattr("lamp.integrations.evaluate_tasks", lambda *_, **__: shown)
    result = CliRunner().invoke(app, ["eval", "--tasks", "x"])
    assert result.exit_code == 0, result.output
    (score,) = [score for score in found if score.task == "shakespeare_choice"]
    _, shown_scores = result.stdout.split("shakespeare_choice, 6 documents\n")
    (line,) = [line for line in shown_scores.splitlines() if line.startswith("acc ")]
    difference = 0 if not score.difference.value else f"{score.difference.value:.3f}"
    values = line.split()
    assert (values[1], values[3]) == (f"{score.value:.3f}", f"{score.reference:.3f}")
    assert (values[4], values[6]) == (str(difference), str(score.changed))
    words = " ".join(result.stdout.split())
    assert "the machine's logits hold NaN or infinity at 3 tokens" in words
    assert "the reference's" not in words


def ask(*arguments):
    return SimpleNamespace(args=arguments)


@pytest.fixture(scope="module")
def beginning(language_model, tmp_path_factory):
    """A random Llama whose texts begin with the token 1, <s>."""
    path = random_llama_checkpoint(
        tmp_path_factory.mktemp("llama"), vocab_size=700, max_position_embeddings=24
    )
    shutil.copy(PIECES, path / "tokenizer.model")
    return language_model(str(path), "fp32")


def test_answers_come_in_order_and_texts_begin_as_the_tokenizer_says(beginning):
    decoder = beginning.decoder
    requests = [ask("the king", " of"), ask("", "the queen"), ask("the", " king"), ask("a ", "b")]
    found = beginning.loglikelihood(requests)
    contexts = ["the king", "", "the", "a"]
    continuations = [" of", "the queen", " king", " b"]
    for (value, _), context, continuation in zip(found, contexts, continuations, strict=True):
        whole = context + continuation
        assert decoder.encode(whole)[0] == 1
        assert value == pytest.approx(log_probability(decoder, context, continuation)[0])
    # A text that has the token already is not given another.
    assert beginning.tok_encode("<s>the") == beginning.tok_encode("the")
    assert beginning.tok_encode("the", add_special_tokens=False)[0] != 1


def test_what_is_too_long_loses_its_beginning(beginning):
    context, continuation = "the king and the queen of all " * 9, " here"
    ((found, _),) = beginning.loglikelihood([ask(context, continuation)])
    whole = beginning.tok_encode(context + continuation)
    wanted = whole[len(beginning.tok_encode(context.rstrip())) :]
    rows = beginning.decoder.logits(whole[-25:-1]).astype(float)[-len(wanted) :]
    expected = sum(row[t] - np.log(np.exp(row).sum()) for row, t in zip(rows, wanted, strict=True))
    assert found == pytest.approx(expected)


def test_whole_texts_are_read_in_windows_that_share_a_token(beginning):
    text = "the king and the queen of the realm are here to see what is done. " * 3
    tokens = beginning.tok_encode(text, add_special_tokens=False)
    assert len(tokens) > 2 * 24
    expected, at = 0.0, 0
    while at < len(tokens):
        # The last window has the full length, too.
        stop = min(at + 24, len(tokens))
        begin = [1, *tokens][stop - 24 : stop] if at else [1, *tokens[: stop - 1]]
        rows = beginning.decoder.logits(begin).astype(float)[-(stop - at) :]
        expected += sum(
            row[t] - np.log(np.exp(row).sum()) for row, t in zip(rows, tokens[at:stop], strict=True)
        )
        at = stop
    assert beginning.loglikelihood_rolling([ask(text)]) == [pytest.approx(expected)]


def test_what_questions_share_is_computed_once(language_model, model, monkeypatch):
    computed = []

    def logits(reading, tokens, last, own=lamp.models.Reading.logits):
        before = reading.computed
        found = own(reading, tokens, last)
        computed.append(reading.computed - before)
        return found

    monkeypatch.setattr(lamp.models.Reading, "logits", logits)
    context = "But signs of nobleness, like stars, shall"
    choices = [" be here", " not be", " shine"]
    shares = []
    asked = language_model(model, MACHINE, progress=shares.append)
    asked.loglikelihood([ask(context, choice) for choice in choices])
    assert shares == [1 / 3, 2 / 3, 1.0]
    sizes = [len(model.encode(context + choice)) - 1 for choice in choices]
    assert max(computed) <= max(sizes)
    shared = len(model.encode(context)) - 1
    assert sum(computed) <= sum(sizes) - 2 * shared


def test_texts_are_continued_until_one_comes(language_model, model, monkeypatch):
    asked = language_model(model, MACHINE, "softmax:tv:0.3")
    machine = model.with_hardware(MACHINE, lamp.LAMP("total_variation", tau=0.3))
    tokens = model.encode("ROMEO.\nO, she doth")
    whole = model.decode(machine.generate(tokens, 6))[len("ROMEO.\nO, she doth") :]
    found = asked.generate_until([
        ask("ROMEO.\nO, she doth", {"until": [], "max_gen_toks": 6}),
        ask("ROMEO.\nO, she doth", {"until": [whole[4:7], "\n\n"], "max_gen_toks": 6}),
        ask("ROMEO.\nO, she doth", {"until": whole[4:7], "max_gen_toks": 6, "temperature": 9.0}),
    ])  # fmt: skip
    assert found == [whole, whole[: whole.index(whole[4:7])], whole[: whole.index(whole[4:7])]]
    drawn = {"max_gen_toks": 6, "do_sample": True, "temperature": 9.0}
    expected = model.decode(machine.generate(tokens, 6, temperature=9.0))
    assert asked.generate_until([ask("ROMEO.\nO, she doth", drawn)]) == [
        expected[len("ROMEO.\nO, she doth") :]
    ]
    streams = []
    stream = type(model).stream
    monkeypatch.setattr(type(model), "stream", lambda *a, **k: streams.append(a) or stream(*a, **k))
    again = ask("ROMEO.\nO, she doth", {"until": [], "max_gen_toks": 6})
    assert asked.generate_until([again, again]) == [whole, whole]
    assert len(streams) == 1  # tasks that repeat a question get the same answer
    with pytest.raises(ValueError, match=r"not implemented: \['num_beams'\]"):
        asked.generate_until([ask("x", {"num_beams": 4})])


def test_numbers_that_overflow_are_impossible_and_counted(beginning, monkeypatch):
    logits = np.zeros((3, 700))
    logits[1, 5] = np.nan
    logits[2, 6] = -np.inf
    monkeypatch.setattr(lamp.models.Reading, "logits", lambda self, tokens, last: logits[-last:])
    monkeypatch.setattr(beginning, "not_finite", 0)
    assert beginning._loglikelihood_tokens([(None, [1, 2], [3, 4])]) == [(-np.inf, False)]
    assert beginning.not_finite == 1
    ((value, _),) = beginning._loglikelihood_tokens([(None, [1, 2, 3], [4])])
    assert value == pytest.approx(-np.log(699))
    assert beginning.not_finite == 1


def test_the_harness_knows_the_model_by_name(language_model):
    from lm_eval.api.registry import get_model

    assert get_model("lamp") is language_model
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text())["project"]
    (entry,) = project["entry-points"]["lm_eval.models"].items()  # for releases to come
    assert entry[0] == "lamp"
    assert EntryPoint(*entry, "lm_eval.models").load() is language_model
    made = language_model.create_from_arg_string(
        "pretrained=embedded,hardware=scores-ps4+softmax:tv:1%,max_length=100", {"batch_size": 4}
    )
    assert str(made.decoder.lamp[0]) == "softmax:total_variation:1%"
    assert made.max_length == 100
    assert str(made.decoder.hardware.name) == "scores-ps4"
    with pytest.raises(ValueError, match=r"max_length must lie in 1\.\.512, not 513"):
        language_model(max_length=513)


def test_another_family_scores_as_by_the_harness_itself(cached, tmp_path, monkeypatch):
    """The oracle is the harness's own model of transformers, in float64."""
    pytest.importorskip("torch")
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from lamp.integrations.harness.language_model import LanguageModel
    from tests.lamp.integrations.random_families import in_float64, random_model

    model = random_model("gemma3", vocab_size=2048, max_position_embeddings=512)
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lamp.checkpoints.EMBEDDED / name, tmp_path / name)
    requests = [
        ask(each["context"], f" {word}") for each in documents("choice") for word in each["choices"]
    ]
    simulated = lamp.from_pretrained(tmp_path, hardware="fp64")
    asked = LanguageModel(simulated)
    found = asked.loglikelihood(requests)
    monkeypatch.chdir(TASKS)
    source = TaskSource("shakespeare_choice", TASKS)
    answered = source.answered(simulated)
    assert answered.digest == source.digest(integrations.reader(tmp_path))
    with in_float64(model) as exact:
        oracle = HFLM(
            pretrained=exact, tokenizer=AutoTokenizer.from_pretrained(tmp_path), device="cpu"
        )
        expected = oracle.loglikelihood(requests)
    assert [likeliest for _, likeliest in found] == [likeliest for _, likeliest in expected]
    values = [value for value, _ in expected]
    np.testing.assert_allclose([value for value, _ in found], values, rtol=1e-10)
    chosen = np.reshape(values, (-1, 3)).argmax(axis=1)
    right = [
        choice == each["answer"] for choice, each in zip(chosen, documents("choice"), strict=True)
    ]
    assert [score.value for score in answered.scores] == [np.mean(right)]


@pytest.mark.parametrize("family", ["t5", "bert"])
def test_models_with_an_encoder_are_refused(language_model, family):
    pytest.importorskip("torch")
    from tests.lamp.integrations.random_families import random_model

    with pytest.raises(ValueError, match=f"tasks need a decoder.*; {family} is an encoder"):
        language_model(lamp.simulate(random_model(family)))


def test_tasks_that_are_not_there_are_named(language_model, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder of tasks '.*none'"):
        TaskSource("x", tmp_path / "none").manager()
