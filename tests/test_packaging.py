"""The package as people get it: a wheel, installed in an empty folder."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


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
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "."]
    subprocess.run([*command, "./source"], cwd=folder, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"fpemu", "lamp"}
    for name in ("config.json", "model.safetensors", "tokenizer.json", "held_out.txt", "README.md"):
        assert f"lamp/models/embedded/{name}" in names
    for name in ("page.html", "parts.html", "page.css", "page.js"):
        assert f"lamp/reports/templates/{name}" in names
    assert "fpemu/py.typed" in names


def test_the_wheel_works_in_an_empty_folder(wheel, tmp_path):
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site]
    subprocess.run([*install, wheel], check=True)
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
    for command in ("fpemu", "lamp"):
        help_text = subprocess.run(
            [sys.executable, str(site / "bin" / command), "--help"],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert "Usage" in help_text


def test_importing_the_packages_imports_nothing_heavy():
    program = (
        "import sys, fpemu, lamp; "
        "print([name for name in ('torch', 'transformers', 'matplotlib') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
