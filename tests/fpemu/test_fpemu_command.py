"""The `fpemu` command as people call it."""

import csv
import json
import os
import re
import subprocess
import sys
from typing import NamedTuple

import matplotlib.image
import numpy as np
import pytest

import fpemu
from fpemu.cli.application import main
from tests.interruptions import assert_interrupted_at_any_moment


class Run(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capsys, monkeypatch):
    """What the command prints and how it ends, called in this process."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        return Run(stop.value.code, *capsys.readouterr())

    return run


def process(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "fpemu", *arguments], capture_output=True, text=True, check=False
    )


def test_formats_lists_every_named_format_within_80_columns():
    run = process("formats")
    assert run.returncode == 0
    for name in fpemu.formats.named_formats():
        assert f"\n{name} " in run.stdout
    assert max(map(len, run.stdout.splitlines())) <= 80
    assert "…" not in run.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["float8_e4m3fn", "0.3"], ["code 0x2a", "sign 0  exponent 0101  fraction 010"]),
        (["float8_e4m3fn", "0.3"], ["0.28125 below, 0.3125 above", "0.3125 is nearer", "+0.4"]),
        (["float8_e4m3fn", "4.25"], ["halfway between 4.0 and 4.5", "even", "away from zero"]),
        (["float8_e4m3fn", "4.0"], ["a value of the format", "normal: 1.0 * 2**2"]),
        (["float8_e4m3fn", "4.0"], ["next 3.75 below, 4.5 above"]),
        (["float8_e4m3fn", "448"], ["next 416.0 below mode"]),
        (["float8_e4m3fn", "-0.0"], ["next -0.001953125 below, 0.001953125 above"]),
        (["float8_e8m0fnu", "-1"], ["meaning NaN mode"]),
        (["float64", "-1e-400"], ["next -5e-324 below, -0.0 above"]),
        (["float8_e4m3fn", "0.002"], ["subnormal: 0.125 * 2**-6"]),
        (["float8_e4m3fn", "-500"], ["beyond the largest finite number, 448.0", "toward zero"]),
        (["float8_e5m2", "-500", "--overflow", "saturate"], ["-512.0"]),
        (["bfloat16", "inf"], ["not a finite number", "inf"]),
        (["bfloat16", "-nan"], ["nan in bfloat16"]),
        # Between float32 numbers, above the middle by less than float64 can tell.
        (["float32", "1.000000059604644775390626"], ["code 0x3f800001", "1.0000001192092896"]),
        (["float32", "0x1.00000100000000001p0"], ["code 0x3f800001"]),
        (["float64", "1e400"], ["rtz 1.7976931348623157e+308", "inf"]),
        (["float64", "1e-400"], ["rtp 5e-324"]),
        (["bfloat16", "-0x0p0"], ["code 0x8000"]),
    ],
)
def test_show_explains_a_rounding(command, arguments, expected):
    run = command("show", *arguments)
    assert run.returncode == 0, run.stderr
    for words in expected:
        assert words in " ".join(run.stdout.split()) or words in run.stdout


def test_show_agrees_with_round_in_every_mode(command):
    for value in (0.3, -2.5, 449.0, 1e-9, 464.0, 465.0):
        lines = command("show", "float8_e4m3fn", str(value)).stdout.splitlines()
        table = {line.split()[0]: line.split()[1] for line in lines if line[:2] in ("rn", "rt")}
        for mode in ("rna", "rnz", "rtz", "rtp", "rtn", "rto"):
            expected = float(fpemu.round(value, "float8_e4m3fn", mode))
            assert table[mode] == repr(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0.1+0.2", ["0.1+0.2 = 0.3046875 in", "0.1 is rounded to 0.1015625", "rne 0.3125 (code"]),
        ("0.1 + 0.2 --exact", ["0.1 + 0.2 in", "0.28125: 40%, 0.3125: 60%"]),
        ("fma(1.125, 1.125, -1)", ["= 0.265625 in", "halfway"]),
        ("0x2a", ["0x2a, the code of 0.3125, in float8_e4m3fn", "rne 0.3125 (code 0x2a)"]),
        ("2-2", ["rtn -0.0 +0 zero"]),
        ("0.3", ["sr 0.28125: 40%, 0.3125: 60% the fraction", "sr_equal 0.28125: 50%"]),
        ("0.3 --random-bits 3", ["sr, 3 bits 0.28125: 50%, 0.3125: 50% the fraction cut off"]),
    ],
)
def test_show_takes_expressions_codes_and_stochastic_modes(command, value, expected):
    expression, *others = re.split(" (?=--|3$)", value)
    run = command("show", "float8_e4m3fn", expression, *others)
    assert run.returncode == 0, run.stderr
    for words in expected:
        assert words in " ".join(run.stdout.split())


def test_table_lists_every_code(command):
    heading, *lines = command("table", "float6_e3m2fn").stdout.splitlines()
    assert heading.split() == ["code", "sign", "exponent", "fraction", "kind", "value"]
    assert len(lines) == 64
    assert lines[0b100101].split() == ["0x25", "1", "001", "01", "normal", "-0.3125"]
    assert {len(line.rstrip()) for line in lines} == {len(heading.rstrip())}  # to the right
    assert [float(line.split()[-1]) for line in lines] == [
        float(value) for value in fpemu.decode(np.arange(64), "float6_e3m2fn")
    ]


def test_table_is_written_for_other_programs(command):
    run = command("table", "Binary4p2se", "--csv")
    rows = [*csv.DictReader(run.stdout.splitlines())]
    values = fpemu.decode(np.arange(16), "Binary4p2se").tolist()
    assert [repr(float(row["value"])) for row in rows] == [*map(repr, values)]
    assert rows[1]["kind"] == "subnormal"
    document = json.loads(command("table", "Binary4p2se", "--json").stdout)
    assert fpemu.Format(**document["format"]) == fpemu.format("Binary4p2se")
    assert [row["value"] for row in document["codes"]] == [*map(repr, values)]
    page = command("table", "Binary4p2se", "--html").stdout
    assert page.startswith("<!doctype html>")
    assert page.count("<tr>") == 17
    run = command("table", "Binary4p2se", "--html", "--csv")
    assert (run.returncode, run.stdout) == (2, "")


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize(
    "arguments", [("devices",), ("show", "float8_e4m3fn", "0.3"), ("formats",)]
)
def test_no_value_is_cut_however_narrow_the_terminal_is(command, monkeypatch, columns, arguments):
    monkeypatch.setenv("COLUMNS", "1000")
    whole = command(*arguments).stdout.split()
    monkeypatch.setenv("COLUMNS", str(columns))
    narrow = command(*arguments).stdout
    assert "\u2026" not in narrow
    # Where rows become a few lines each, the first value has no heading.
    lost = set(whole) - {*narrow.split(), *(word.rstrip(":") for word in narrow.split())}
    assert lost <= {"unit", "mode", "stochastic", "format"}
    for line in narrow.split("\n\n")[0].splitlines():
        # A line is longer than the terminal only if one word is.
        assert arguments[0] == "show" or len(line.rstrip()) <= columns or len(line.split()) <= 2


def test_a_pipe_gets_every_row_on_one_line():
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "fpemu", "devices", "blackwell"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    rows = run.stdout.split("\n\n")[0].splitlines()[1:]
    units = [unit for unit in fpemu.devices.entries() if "blackwell" in unit.name]
    assert len(rows) == len(units)
    for row, unit in zip(rows, units, strict=True):
        assert row.split("  ")[0].strip() == unit.name
        assert str(unit.accumulator) in row
        assert unit.source in row


def test_plot_writes_a_picture(command, tmp_path):
    run = command("plot", "float8_e4m3fn", "bfloat16", "--output", str(tmp_path / "plot.png"))
    assert run.returncode == 0, run.stderr
    height, width, _ = matplotlib.image.imread(tmp_path / "plot.png").shape
    assert (width, height > width / 2) == (1168, True)


def test_plot_takes_panels_and_a_range(command, tmp_path):
    path = tmp_path / "plot.svg"
    options = ("--panels", "line,exp", "--range", "-1", "0.5", "--scale", "linear", "--apart")
    run = command("plot", "float8_e4m3fn", "bfloat16", *options, "--output", str(path))
    assert run == (0, f"Wrote {path}\n", "")
    text = path.read_text()
    assert "exp(value)" in text
    assert "spacing" not in text
    assert "bfloat16, p = 8" in text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        # bad usage
        (["show", "float8", "1"], 2, "FORMAT: format 'float8' is ambiguous"),
        (["show", "float4_e2m1fn", "nan"], 2, "has no NaN"),
        (["show", "float32", "1e999999999"], 2, "exponent"),
        (["show", "float32", "0xp1"], 2, "not a number"),
        (["show", "fp9", "1"], 2, "unknown format 'fp9'"),
        (["show", "bfloat16", "1", "--overflow", "wrap"], 2, "unknown overflow 'wrap'"),
        (["show", "bfloat16", "one"], 2, "number"),
        (["show", "bfloat16", "0.3", "--mode", "rtz"], 2, "No such option: --mode"),
        (["show", "bfloat16", "-0.3", "--exakt"], 2, "No such option: --exakt (Possible"),
        (["errors", "hopper"], 2, "unknown unit 'hopper': did you mean hopper.wgmma.float16"),
        (["table", "bfloat16"], 2, "too many codes"),
        (["table", "float9"], 2, "FORMAT: unknown format 'float9'"),
        (["plot", "bfloat16"], 2, "output"),
        (["plot", "bfloat16", "float9", "--output", "plot.png"], 2, "unknown format 'float9'"),
        (["plot", "bfloat16", "--output", "plot.tiff"], 2, "ends in no kind of picture"),
        (["plot", "bfloat16", "--output", "plot.tiff"], 2, "Invalid value for --output"),
        (["plot", "bfloat16", "--panels", "all", "--output", "plot.png"], 2, "panels has 'all'"),
        (["plot", "bfloat16", "--range", "2", "1", "--output", "a.png"], 2, "range must be two"),
        (["fly"], 2, "fly"),
        # failures
        (["plot", "bfloat16", "--output", "missing/plot.png"], 1, "missing"),
        (["devices", "nosuch"], 1, "no unit has 'nosuch' in its name"),
    ],
)
def test_bad_usage_gives_one_clear_line(command, arguments, code, message):
    run = command(*arguments)
    assert run.returncode == code
    assert run.stdout == ""
    assert message in " ".join(re.sub("[│╭╰─╮╯]", " ", run.stderr).split())
    assert "Traceback" not in run.stderr
    assert code == 2 or (run.stderr.startswith("fpemu: ") and run.stderr.count("\n") == 1)


def test_debug_shows_the_traceback():
    run = process("--debug", "devices", "nosuch")
    assert run.returncode == 1
    assert "Traceback" in run.stderr
    assert "ValueError: no unit has 'nosuch' in its name" in run.stderr


@pytest.mark.parametrize(
    ("pattern", "begin"),
    [("Hopper", "hopper."), ("H100", "hopper."), ("b200", "blackwell."), ("MI300X", "cdna3.")],
)
def test_units_are_found_by_architecture_and_product(command, pattern, begin):
    names = re.findall(r"^\w[\w-]+\.\S+", command("devices", pattern).stdout, re.MULTILINE)
    assert names == [name for name in fpemu.devices.list() if name.startswith(begin)]


def test_every_product_has_an_architecture_with_units():
    for product in fpemu.devices._PRODUCTS:
        assert fpemu.devices.matching(product), product


def test_help_and_version(command):
    names = ("formats", "devices", "show", "table", "plot", "errors")
    helped = command("--help")
    assert helped.returncode == 0
    for name in names:
        assert re.search(rf"^│ {name} ", helped.stdout, re.MULTILINE)
        assert command(name, "--help").returncode == 0
    assert command("--version") == (0, f"fpemu {fpemu.__version__}\n", "")


def test_ctrl_c_is_one_line_at_any_moment():
    assert_interrupted_at_any_moment("fpemu", "devices")


def test_ctrl_c_waits_for_imports(tmp_path):
    """Extension modules turn an interrupt of their imports into an error of their own."""
    (tmp_path / "extension.py").write_text(
        "import os, signal, time\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.2)\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('extension failed to import')\n"
    )
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fpemu.cli import process\n"
        "def command():\n"
        "    import extension\n"
        "    print('imported', flush=True)\n"
        "    time.sleep(60)\n"
        "process.run('fpemu', lambda: command)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # The interrupt comes again right after the import.
    assert (done.returncode, done.stderr) == (130, "fpemu: interrupted\n")
    assert done.stdout in ("", "imported\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_help_on_a_command_fills_its_lines(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERMINAL_WIDTH", str(columns))
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    text = capsys.readouterr().out.partition("\u256d")[0]
    *lines, last = text[text.index("The numbers") :].strip().splitlines()
    following = [line.split()[0] for line in [*lines[1:], last]]
    for line, word in zip(lines, following, strict=True):
        assert len(line.strip()) + 1 + len(word) > columns - 2
