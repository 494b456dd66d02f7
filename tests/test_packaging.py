"""The package as people get it: a wheel, installed in an empty folder."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import fpemu
import lamp
import lamp.cli

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = SETTINGS["project"]

# Builds a wheel with the standard library and the packages in a folder alone, as pip does; but pip
# would download these packages and install them anew.
BUILD = """
import importlib, sys
backend, required = sys.argv[1:]
sys.path.append(required)
importlib.import_module(backend).build_wheel("..")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # Built from what git has or would add, so that nothing left lying about gets in.
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        source, target = ROOT / name, folder / "source" / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    (folder / "required").mkdir()
    for name in map(required_name, SETTINGS["build-system"]["requires"]):
        package = metadata.distribution(name)
        for part in {file.parts[0] for file in package.files} - {".."}:
            (folder / "required" / part).symlink_to(package.locate_file(part))
    command = [sys.executable, "-I", "-S", "-c", BUILD, SETTINGS["build-system"]["build-backend"]]
    run = subprocess.run(
        [*command, folder / "required"],
        cwd=folder / "source",
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    (path,) = folder.glob("*.whl")
    return path


def required_name(requirement):
    """The name of a package, without the versions of it that will do."""
    return re.match(r"[\w.-]+", requirement)[0]


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".data/data/share/doc/" not in name}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fpemu", "lamp"}
    for name in ("LICENSE", "COPYING.txt"):
        assert any(each.endswith(name) and ".dist-info/licenses/" in each for each in names)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "held_out.txt", "README.md"):
        assert f"lamp/models/embedded/{name}" in names
    for name in ("ecclesiastes.txt", "jargon.txt", "README.md"):
        assert f"lamp/evaluation/samples/{name}" in names
    for name in ("page.html", "parts.html", "page.css", "page.js"):
        assert f"lamp/reports/templates/{name}" in names
    assert "fpemu/py.typed" in names
    documents = {name.partition(".data/data/share/doc/fpemu-lamp/")[2] for name in names}
    assert documents - {""} == {
        str(path.relative_to(ROOT / "docs"))
        for pattern in ("*.md", "notebooks/*.ipynb")
        for path in (ROOT / "docs").glob(pattern)
    }


def test_the_wheel_works_in_an_empty_folder(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*install, "--target", site, wheel], check=True)
    (tmp_path / "empty").mkdir()
    program = (
        "import fpemu, lamp; "
        "assert fpemu.__file__.startswith(SITE) and lamp.__file__.startswith(SITE); "
        "model = lamp.GPT2.from_pretrained('embedded', hardware='scores-ps4'); "
        "print(model.logits(model.encode('O Romeo, Romeo')).shape[1])"
    ).replace("SITE", repr(str(site)))
    environment = {**os.environ, "PYTHONPATH": str(site)}
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path / "empty",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 1000
    pages = str(site / "share" / "doc" / "fpemu-lamp")
    for command, argument, expected in (
        ("fpemu", "--help", ["Usage"]),
        ("lamp", "--help", ["Usage"]),
        ("lamp", "--version", [f"lamp {fpemu.__version__}\n"]),
        ("lamp", "docs", [pages, "Notebook: Design a matrix unit"]),
    ):
        printed = subprocess.run(
            [sys.executable, str(site / "bin" / command), argument],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for text in expected:
            assert text in printed


def python(program, *arguments):
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


HEAVY = {"huggingface_hub", "matplotlib", "mpmath", "numba", "numpy", "torch", "transformers"}
COMMAND = """
import importlib, sys
package, *arguments = sys.argv[1:]
try:
    importlib.import_module(f"{package}.cli.application").main(arguments)
except SystemExit as end:
    assert not end.code
print("imported", *sys.modules)
"""


@pytest.mark.parametrize(
    "arguments",
    [("fpemu", "--help"), ("fpemu", "formats"), ("lamp", "--help"), ("lamp", "run", "--help")],
    ids=" ".join,
)
def test_commands_import_what_they_need_alone(arguments):
    """As it takes most of their time: 0.1 s for numpy, 0.5 s for Numba, 2 s for transformers."""
    imported = python(COMMAND, *arguments).splitlines()[-1].split()
    assert HEAVY & set(imported) == set()


def test_importing_the_packages_imports_nothing():
    imported = python(
        "import sys; before = {*sys.modules}; import fpemu, lamp; print(*{*sys.modules} - before)"
    )
    top = {name.partition(".")[0] for name in imported.split()}
    assert top - sys.stdlib_module_names == {"fpemu", "lamp"}


@pytest.mark.parametrize("package", [fpemu, lamp], ids=["fpemu", "lamp"])
def test_names_are_those_of_their_modules(package):
    """A name is imported when it is first used: the table that says from where is complete.

    The table alone is asked, as if no name had been used before.
    """
    assert set(package.__all__) <= set(dir(package))
    given = {}
    exec(f"from {package.__name__} import *", given)
    for name in package.__all__:
        found = package.__getattr__(name)
        assert found is given[name]
        own = getattr(found, "__name__", name)
        assert own == name or own.endswith(f".{name}")
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no'"):
        package.no  # noqa: B018


# Refuses to import anything but the standard library and some packages.
ALONE = """
import sys
allowed = {*sys.stdlib_module_names, *sys.argv[1:]}

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in allowed and not name.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{name} is refused", name=name)

sys.meta_path.insert(0, Refusal())
"""


def test_fpemu_needs_numpy_numba_and_mpmath_alone():
    program = (
        ALONE
        + """
import fpemu
assert fpemu.round(0.3, "float8_e4m3fn") == 0.3125
assert fpemu.matmul([[1.0, 2.0]], [[3.0], [4.0]], fpemu.Sequential("bfloat16")) == 11.0
assert fpemu.functions.exp(0.0, "bfloat16") == 1.0
assert fpemu.reference.round_exact(0.3, "float8_e4m3fn") == 0.3125
assert str(fpemu.array([0.3], "bfloat16") + 1.0)
for name in fpemu.__all__:
    getattr(fpemu, name)
"""
    )
    python(program, "fpemu", "numpy", "numba", "llvmlite", "mpmath")


EXTRAS = PROJECT["optional-dependencies"]


def declared(*extras):
    """The modules of the packages that the project depends on, and of those that these do."""
    own = [name for extra in extras for name in EXTRAS[extra] if "fpemu-lamp" not in name]
    names, found = [*PROJECT["dependencies"], *own], set()
    while names:
        name = required_name(names.pop()).lower().replace("_", "-")
        if name not in found:
            found.add(name)
            names += [each for each in metadata.requires(name) or () if ";" not in each]
    return [
        module
        for module, owners in metadata.packages_distributions().items()
        if found & {owner.lower().replace("_", "-") for owner in owners}
    ]


def test_lamp_needs_what_it_declares_alone():
    """No transformers, no hub and no torch; what an extra is for is refused."""
    program = (
        ALONE
        + """
from lamp.cli.application import main
for line in ("run --tokens 8", "generate --prompt ROMEO. --tokens 3"):
    try:
        main(line.split())
    except SystemExit as end:
        assert not end.code, line
"""
    )
    allowed = declared("lamp", "plot")
    assert "transformers" not in allowed
    python(program, "fpemu", "lamp", *allowed)


def test_extras_that_messages_name_are_there():
    sources = [path.read_text() for path in (ROOT / "lamp").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"fpemu-lamp\[(\w+)\]", text)}
    assert named
    assert named <= set(EXTRAS)


@pytest.mark.parametrize("package", ["fpemu", "lamp"])
def test_a_command_without_its_packages_says_what_to_install(package):
    program = (
        ALONE
        + f"""
from {package}.cli import main
main()
"""
    )
    command = [sys.executable, "-c", program, "fpemu", "lamp", "numpy"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    distribution = {"fpemu": "'fpemu-lamp'", "lamp": "'fpemu-lamp[lamp]'"}[package]
    assert run.stderr.startswith(f"{package}: ")
    assert f" is refused: pip install {distribution} installs" in run.stderr
    assert run.stderr.count("\n") == 1


def test_without_the_extra_lamp_both_packages_say_so():
    """What needs no more than fpemu does works: bounds of compositions."""
    missing = {required_name(name).replace("-", "_") for name in EXTRAS["lamp"]}
    missing = missing - {"fpemu_lamp"} | {"matplotlib"}
    assert set(lamp.cli._PACKAGES) == missing
    program = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(missing)}))
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in {missing} else find(name, *rest)
import fpemu, lamp
lamp.bounds, lamp.compositions
try:
    lamp.GPT2
except ModuleNotFoundError as error:
    print(error)
from lamp.cli import main
main()
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stdout.endswith(": pip install 'fpemu-lamp[lamp]'\n")
    assert run.stderr == (
        f"lamp: needs {', '.join(sorted(missing))}: "
        "pip install 'fpemu-lamp[lamp]' installs all that it needs\n"
    )
