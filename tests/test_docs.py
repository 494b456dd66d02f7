"""The documentation: it builds, asks for nothing from elsewhere, and what it shows is true."""

import fnmatch
import functools
import itertools
import re
import shlex
import shutil
import sys
import tomllib
import warnings
from doctest import DocTestParser
from html.parser import HTMLParser
from importlib.util import find_spec
from inspect import ismodule
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy
import pytest

import fpemu
import fpemu.torch
import lamp
from fpemu import devices, functions, jit, reference, scaling
from fpemu.cli.application import main as fpemu_command
from lamp import (
    bounds,
    checkpoints,
    compositions,
    evaluation,
    evaluations,
    integrations,
    lookahead,
    machines,
    models,
    reports,
    studies,
    testing,
    tuning,
)
from lamp.cli.application import main as lamp_command
from tests.oracle.forking import holds_after_fork
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
REFERENCE = sorted((ROOT / "docs" / "reference").rglob("*.md"))
PUBLIC = (
    *(fpemu, functions, jit, reference, devices, scaling, fpemu.torch),
    *(lamp, bounds, checkpoints, compositions, evaluation, evaluations, integrations),
    *(lookahead, machines),
    *(models, reports, studies, testing, tuning),
)
COMMANDS = {"fpemu": fpemu_command, "lamp": lamp_command}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

_FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_OPTION = re.compile(r"^:(\w+): (.*)\n", re.MULTILINE)
_NAMED = re.compile(r"# (\w+\.toml)\n")
_NUMBER = re.compile(r"[\d.,]+")
# What may come before the output of a command: words that differ from run to run, the exit code, a
# package without which it is not run.
_EXAMPLE = re.compile(
    r"(?:^<!-- varies: (?P<varies>[^\n]*) -->\n\n)?(?:^<!-- exit: (?P<exit>\d+) -->\n\n)?"
    r"(?:^<!-- needs: (?P<needs>\w+) -->\n\n)?"
    r"^```console\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def fences(page, kind, option=""):
    """The bodies of the code blocks of a kind that have an option, without their options."""
    found = [each for each in _FENCE.finditer(page.read_text()) if each["kind"] == kind]
    return [_OPTION.sub("", each["body"]) for each in found if option in each["body"]]


def has(page, kind):
    return bool(fences(page, kind))


def names(pages):
    return [page.stem for page in pages]


# --- the site -------------------------------------------------------------------------------------


class Document(HTMLParser):
    """What a page refers to, and what it can be referred to by."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.loaded, self.links = set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("href"):
            self.loaded.append(given["href"])
        self.loaded += [
            given[name] for name in ("src", "srcset", "poster", "data") if name in given
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built anew where `make docs` has it, which then need not build it again.

    A forked process builds it, which has what the pages document: to import it takes seconds.
    """
    building = pytest.importorskip("sphinx.cmd.build", reason="the extra docs is not installed")
    folder, said = ROOT / "build" / "docs", tmp_path_factory.mktemp("sphinx") / "warnings"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--warning-file", str(said)]

    def is_built():
        warnings.simplefilter("ignore")  # Python's, of what is deprecated in Sphinx
        return building.main([*options, str(ROOT / "docs"), str(folder)]) == 0

    assert holds_after_fork(is_built, patience=900), said.read_text()
    return folder


@pytest.fixture(scope="module")
def documents(site):
    return {path: Document(path.read_text()) for path in sorted(site.rglob("*.html"))}


@pytest.mark.docs
def test_every_page_is_built(site, documents):
    built = {path.relative_to(site).with_suffix("") for path in documents}
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (*PAGES, *REFERENCE)}
    assert len(pages) > len(PAGES) > 1
    assert built >= pages


@pytest.mark.docs
def test_nothing_is_loaded_from_the_network(site, documents):
    loaded = [url for document in documents.values() for url in document.loaded]
    assert len(loaded) > len(documents)  # styles and scripts of the theme
    assert [url for url in loaded if urlsplit(url).netloc] == []
    styles = sorted(site.rglob("*.css"))
    assert styles
    for style in styles:
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text()), style


@pytest.mark.docs
def test_no_page_shows_where_it_was_built_nor_addresses_of_objects(site, documents):
    values = r"(Posix|Windows)Path\(|&lt;(class|function|object)\b| at 0x[0-9a-f]"
    unfit = re.compile(f"{re.escape(str(ROOT))}|{values}")
    shown = {path: unfit.search(path.read_text()) for path in documents}
    assert {str(path): found[0] for path, found in shown.items() if found} == {}


@pytest.mark.docs
def test_links_within_the_site_lead_somewhere(documents):
    broken = []
    for path, document in documents.items():
        for link in document.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.is_file()
            if there and parts.fragment:
                known = documents.get(target)
                there = known is None or unquote(parts.fragment) in known.anchors
            if not there:
                broken.append((str(path), link))
    assert broken == []


@pytest.mark.docs
def test_formulas_are_mathml(documents):
    pages = {path.stem: path.read_text() for path in documents}
    assert pages["mathematics"].count("<math") > 100
    assert "\\frac" not in pages["mathematics"]
    assert "$" not in re.sub(
        r"<(pre|code|script).*?</\1>", "", pages["mathematics"], flags=re.DOTALL
    )


def public_names(module):
    """What a module hands on; the modules that the door of a wing does are for other wings."""
    is_package = module in (fpemu, lamp)
    return [name for name in module.__all__ if is_package or not ismodule(getattr(module, name))]


def names_in(module, name):
    """The anchors under which the reference may have it."""
    thing = getattr(module, name)
    if ismodule(thing):
        return {f"module-{thing.__name__}"}
    package = module.__name__.partition(".")[0]
    places = {module.__name__, package, getattr(thing, "__module__", package)}
    return {f"{place}.{name}" for place in places}


@pytest.mark.docs
@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_everything_public_is_in_the_reference(documents, module):
    anchors = set().union(*(document.anchors for document in documents.values()))
    assert [name for name in public_names(module) if not names_in(module, name) & anchors] == []


@pytest.mark.docs
@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_everything_public_is_in_the_table_of_its_package(site, documents, module):
    """The first page of each reference leads to every name on the pages below it."""
    index = documents[site / f"{module.__name__.partition('.')[0]}-reference.html"]
    linked = {urlsplit(link).fragment for link in index.links}
    things = [name for name in public_names(module) if not ismodule(getattr(module, name))]
    assert [name for name in things if not names_in(module, name) & linked] == []


@pytest.mark.parametrize("module", PUBLIC, ids=lambda module: module.__name__)
def test_everything_public_has_a_docstring(module):
    things = {name: getattr(module, name) for name in module.__all__}
    assert [name for name, thing in things.items() if callable(thing) and not thing.__doc__] == []


@pytest.mark.docs
def test_tables_hold_what_the_packages_do(documents):
    (hardware,) = (path.read_text() for path in documents if path.stem == "hardware")
    assert {unit.split(".", 2)[1] for unit in devices.list()} <= set(
        re.findall(r'<span class="pre">[\w-]+\.([\w-]+)</span>', hardware)
    )


# --- what pages show ------------------------------------------------------------------------------


def test_python_on_every_page_is_a_doctest(pytestconfig):
    places = [path for place in pytestconfig.getini("testpaths") for path in ROOT.glob(place)]
    patterns = pytestconfig.getoption("doctestglob")
    for page in PAGES:
        assert page in places
        assert any(fnmatch.fnmatch(page.name, pattern) for pattern in patterns)
        for body in fences(page, "python"):
            assert body.startswith(">>> "), (page.name, body)
            assert body.endswith("\n\n"), f"{page.name}: the end would be taken for output: {body}"


def words(text):
    return [line.split() for line in text.rstrip().splitlines()]


def is_shown(expected, actual, varying):
    """Whether an output is the one that is shown, but for numbers that vary."""
    shown, found = words(expected), words(actual)
    return [len(line) for line in shown] == [len(line) for line in found] and all(
        one == other or (one in varying and _NUMBER.fullmatch(other))
        for shown_line, found_line in zip(shown, found, strict=True)
        for one, other in zip(shown_line, found_line, strict=True)
    )


def exit_code(command):
    """What a command ends with."""
    try:
        command()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def run(line, monkeypatch, capsys):
    """Run a command as typed: its exit code, and what it prints, of errors when it fails."""
    words_typed = shlex.split(line)
    monkeypatch.setattr(sys, "argv", words_typed)
    capsys.readouterr()
    code = exit_code(COMMANDS[words_typed[0]])
    output, errors = capsys.readouterr()
    return code, output + (errors if code else "")


def files(text):
    """The files that a page shows: by their caption, or by a comment on their first line."""
    for each in _FENCE.finditer(text):
        options, body = dict(_OPTION.findall(each["body"])), _OPTION.sub("", each["body"])
        name = options.get("caption") or (_NAMED.match(body) or [None, None])[1]
        if name is not None:
            yield name, body


WITH_COMMANDS = [page for page in (README, *PAGES) if has(page, "console")]


@pytest.mark.docs
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=names(WITH_COMMANDS))
def test_commands_print_what_is_shown(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = page.read_text()
    for name, body in files(text):
        (tmp_path / name).write_text(body)
        assert re.search(rf"^\$ .*(\b{re.escape(name)}\b|--folder \. )", text, re.MULTILINE)
    for example in _EXAMPLE.finditer(text):
        if example["needs"] and find_spec(example["needs"]) is None:
            continue
        for step in re.split(r"^\$ ", example["body"], flags=re.MULTILINE)[1:]:
            line, _, expected = step.partition("\n")
            code, output = run(line, monkeypatch, capsys)
            assert code == int(example["exit"] or 0), (line, output)
            varying = (example["varies"] or "").split()
            assert is_shown(expected, output, varying), f"{line}\n{output}"


def has_target(name):
    return re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_other_commands_could_be_typed():
    """Those that make environments, or take long: what they name is there."""
    for page in PAGES:
        for line in "".join(fences(page, "sh")).splitlines():
            program, *arguments = shlex.split(line, comments=True)
            if program == "make":
                assert all(map(has_target, arguments)), line
            elif program.endswith("pip"):
                (extra,) = re.findall(r"\[(\w+)\]", line)
                assert extra in PROJECT["project"]["optional-dependencies"], line
            else:
                assert program.startswith(".venv/bin/"), line
                paths = [word for word in arguments if "/" in word]
                assert paths, line
                assert all((ROOT / path).exists() for path in paths), line


@functools.cache
def sources():
    files = [*ROOT.glob("fpemu/**/*.py"), *ROOT.glob("lamp/**/*.py")]
    return {line.strip() for file in files for line in file.read_text().splitlines()}


def test_excerpts_are_lines_of_the_packages():
    excerpts = [
        line
        for page in PAGES
        for body in fences(page, "{code-block} python", ":class: excerpt\n")
        for line in body.splitlines()
    ]
    assert excerpts
    assert [line for line in excerpts if line.strip() not in sources()] == []


WHICH = ROOT / "docs" / "which.md"
_EVIDENCE = re.compile(r"(.*?)\(\[section\]\(([\w-]+\.md)#([\w-]+)\)\)")
_FIGURE = re.compile(r"\d[\d.]*(?:e-\d+)?%?")
_NAME = re.compile(r"Gemma 3|270M|R2|SmolLM2|PS\(\d+\)")


def section(page, anchor):
    """The text of a section, with the sections below it."""
    parts = re.split(r"^(#+ .*)\n", page.read_text(), flags=re.MULTILINE)
    titles, texts = parts[1::2], parts[2::2]
    anchors = [re.sub(r"[^\w -]", "", each.lower()).strip().replace(" ", "-") for each in titles]
    first = anchors.index(anchor)
    level = titles[first].index(" ")
    deeper = (each.index(" ") > level for each in titles[first + 1 :])
    return "".join(texts[first : first + 1 + sum(itertools.takewhile(bool, deeper))])


def figures(text):
    return {each.rstrip(".") for each in _FIGURE.findall(_NAME.sub("", text).replace(",", " "))}


def test_numbers_behind_answers_are_those_of_the_sections_they_name():
    paragraphs = re.findall(
        r"^\*Behind it:\*(.*?)\n\n", WHICH.read_text(), re.MULTILINE | re.DOTALL
    )
    evidence = [each for found in paragraphs for each in _EVIDENCE.findall(" ".join(found.split()))]
    assert len(evidence) > len(paragraphs) > 10
    for said, page, anchor in evidence:
        assert figures(said), said
        assert figures(said) <= figures(section(ROOT / "docs" / page, anchor)), said


COMING_FROM = ROOT / "docs" / "coming-from.md"


def beside_peers():
    """The examples of other libraries, each with its name and the example here behind it."""
    blocks = list(_FENCE.finditer(COMING_FROM.read_text()))
    for theirs, ours in itertools.pairwise(blocks):
        options = dict(_OPTION.findall(theirs["body"]))
        if options.get("class") == "peer":
            assert ours["kind"] == "python"
            yield pytest.param(
                _OPTION.sub("", theirs["body"]),
                "".join(each.source for each in DocTestParser().get_examples(ours["body"])),
                id=options["caption"],
            )


@pytest.mark.parametrize(("theirs", "ours"), beside_peers())
def test_examples_beside_other_libraries_give_equal_numbers(theirs, ours, request):
    pytest.importorskip(request.node.callspec.id)
    found, wanted = {"fpemu": fpemu, "np": numpy}, {}
    exec(theirs, wanted)
    exec(ours, found)
    shared = {name for name in wanted.keys() & found.keys() if name not in {"x", "np"}}
    assert "y" in shared
    for name in shared - {"__builtins__"}:
        ours, theirs = (numpy.asarray(each[name], float) for each in (found, wanted))
        numpy.testing.assert_array_equal(ours, theirs, name)


def test_examples_of_other_libraries_are_short():
    lengths = [len(each.values[0].splitlines()) for each in beside_peers()]
    assert len(lengths) == 5
    assert max(lengths) <= 10


KINDS = {"python", "console", "sh", "{code-block} python"}
FILES = {"{code-block} toml", "{code-block} yaml", "{code-block} text"}  # which commands read
GENERATED = {"{eval-rst}", "{names}", "{toctree}", "{include} ../CHANGELOG.md"}


def test_no_code_is_of_a_kind_that_nobody_runs():
    for page in (*PAGES, *REFERENCE):
        for each in _FENCE.finditer(page.read_text()):
            generated = each["kind"] in GENERATED or each["kind"].startswith("{facts} ")
            assert generated or each["kind"] in KINDS | FILES, (page.name, each["kind"])


def test_every_wing_is_on_the_map():
    """In the order in which wings stand on each other."""
    text = (ROOT / "docs" / "contributing.md").read_text()
    layout = text[text.index("## Layout") :]
    for package, floors in FLOORS.items():
        named = re.findall(rf"^\| `{package}/(\w+)(?:/|\.py)` \|", layout, re.MULTILINE)
        assert named == floors


def test_the_gallery_shows_every_figure_and_leads_to_its_section():
    """The section that an entry leads to has the figure, too."""
    text = (ROOT / "docs" / "gallery.md").read_text()
    shown = re.findall(
        r"^\[!\[[^\]]+\]\((_static/figures/[\w-]+\.svg)\)\]\(([\w-]+\.md)#([\w-]+)\)\n(?=\w)",
        text,
        re.MULTILINE,
    )
    figures = (ROOT / "docs" / "_static" / "figures").iterdir()
    assert sorted(path for path, *_ in shown) == sorted(
        f"_static/figures/{each.name}" for each in figures
    )
    for path, page, anchor in shown:
        assert f"]({path})" in section(ROOT / "docs" / page, anchor), path


def test_every_script_is_told_of():
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    scripts = [path for path in (ROOT / "analysis").glob("*.py") if "__main__" in path.read_text()]
    assert scripts
    assert [path.name for path in scripts if path.name not in text] == []


def test_the_change_log_has_the_version():
    log = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (\S+)", log, re.MULTILINE)
    assert versions[0] in (fpemu.__version__, "Unreleased")
    assert fpemu.__version__ in versions
