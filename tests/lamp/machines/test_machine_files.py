"""Machines in TOML: what is written is read, and errors name the line."""

import sys
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import fpemu
import lamp
from fpemu import Blocked, Chained, Exact, Format, Pairwise, Promoted, Rounding, Sequential, devices
from fpemu.reference import round_exact
from fpemu.scaling import BlockFormat
from lamp import Function, Hardware, Product, Sum, Tiled
from lamp.evaluation import Setting
from lamp.machines import definitions, digest
from lamp.machines import files as machine_files
from lamp.studies.tasks import Checkpoint, Task
from tests.lamp.machines.strategies import changed_in_one_place, machines
from tests.lamp.machines.test_machines import MIXED, presets

ODD = Format("odd", 7, 4, 3, infinities=False, high_nans=0)


@pytest.mark.parametrize("spec", [*presets(), MIXED], ids=str)
def test_what_is_written_is_read(tmp_path, spec):
    machine = lamp.hardware(spec)
    path = tmp_path / "machine.toml"
    machine.save(path)
    assert Hardware.load(path) == machine
    assert lamp.hardware(path) == lamp.hardware(str(path)) == machine
    assert [file.name for file in tmp_path.iterdir()] == ["machine.toml"]


@pytest.mark.parametrize(
    "accumulator",
    [
        Sequential("bfloat16", Rounding("sr", seed=4, random_bits=9)),
        Sequential("e8m3", fused=False, product="e8m5", via="float32"),
        Blocked("e8m7", 4, Sequential("e8m9", "rtz")),
        Pairwise("e8m7", block=3),
        Chained(4, "bfloat16", order=(1, 0), through=True),
        Exact("float16", Rounding("rne", "saturate"), block=4),
        Promoted(Blocked("e8m3", 2), "float32", 5, "rtz"),
        Promoted(devices.get("hopper.wgmma.e4m3"), "float32", 64),
        fpemu.TensorCore(5, 10, inputs=("float16", "float16")),
        fpemu.FlooredCore(8, "bfloat16"),
        Sequential(ODD),
        *(
            device.accumulator
            for device in devices.entries()
            if device.name.startswith("cdna") and len(set(device.accumulator.input_formats)) == 1
        ),
    ],
    ids=str,
)
def test_every_accumulator_is_read_as_it_was(accumulator):
    machine = Hardware('a "name"\twith\\signs\u00e9', scores=accumulator)
    text = machine_files.dumps(machine)
    assert machine_files.loads(text) == machine


def test_a_file_says_what_differs_from_its_preset():
    machine = machine_files.loads(
        """
        name = "mine"
        preset = "mxfp8"
        weights = "float16"
        norm = "float16"
        [products]
        output = "float16"
        [scores]
        accumulator = {kind = "blocked", format = "e8m7", block = 4}
        [mlp_up]
        accumulator = "e8m10"
        [recomputed]
        unit = "hopper.wgmma.tf32"
        """
    )
    base = lamp.hardware("mxfp8")
    assert (machine.name, machine.weights.name) == ("mine", "float16")
    assert machine.scores.accumulator == Blocked("e8m7", 4)
    assert machine.scores.operands == base.scores.operands
    assert machine.mlp_up.operands.name == "mxfp8_e4m3"  # the table says nothing of operands
    assert {getattr(machine, name).output.name for name in ("qkv", "scores", "lm_head")} == {
        "float16"
    }
    assert machine.norm.output.name == "float16"
    assert machine.softmax == base.softmax
    assert machine.recomputed.output == base.recomputed.output
    assert machine.recomputed.operands.name == "tf32"


def test_a_file_has_one_product_or_several_that_recompute():
    tables = """
        preset = "fp64"
        [[recomputed]]
        accumulator = {kind = "blocked", format = "e8m7", block = 4}
        [[recomputed]]
        rounding = "rtz"
        """
    machine = machine_files.loads(tables)
    first, second = machine.recomputed
    assert machine.levels == machine.recomputed
    assert (first.accumulator, first.output.name) == (Blocked("e8m7", 4), "float64")
    assert (second.accumulator.format.name, second.rounding.mode) == ("float64", "rtz")
    strings = machine_files.loads('recomputed = ["e8m10", "float32"]')
    base = lamp.hardware("fp32").recomputed
    assert strings.recomputed == (replace(base, accumulator=Sequential("e8m10")), base)
    # A list of one is that one: the same machine, file and digest.
    alone = machine_files.loads('name = "a"\nrecomputed = ["e8m10"]')
    same = machine_files.loads('name = "a"\nrecomputed = "e8m10"')
    assert alone == same
    assert machine_files.dumps(alone) == machine_files.dumps(same)
    assert digest(strings) != digest(alone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recomputed = []", "line 1: recomputed must be a product or a list of them"),
        ('\nrecomputed = ["float32",\n 3]', r"line 2: \[recomputed\]: accumulator must be"),
        (
            '[[recomputed]]\n[[recomputed]]\nacumulator = "e8m4"',
            r"line 3: unknown key 'acumulator' of \[recomputed\]",
        ),
    ],
)
def test_wrong_products_that_recompute_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        machine_files.loads(text)


def test_a_file_says_how_attention_goes_through_the_keys(tmp_path):
    path = tmp_path / "tiles.toml"
    path.write_text(
        """
        preset = "scores-ps4"
        [attention]
        kind = "tiled"
        rows = 16
        rescaling = "bfloat16"
        running_maximum = {output = "bfloat16", rounding = "rtp"}
        running_sum = {unit = "hopper.wgmma.bfloat16"}
        [attention.exponential]
        steps = "float8_e5m2"
        [attention.exponential.output]
        name = "ue5m3"
        bits = 8
        precision = 4
        bias = 15
        signed = false
        infinities = false
        high_nans = 1
        """
    )
    ue5m3 = Format("ue5m3", 8, 4, 15, signed=False, infinities=False, high_nans=1)
    attention = Tiled(
        16,
        exponential=Function(ue5m3, steps="float8_e5m2"),
        rescaling="bfloat16",
        running_maximum=Function("bfloat16", "rtp"),
        running_sum=devices.get("hopper.wgmma.bfloat16"),
    )
    machine = lamp.hardware(path)
    assert machine == replace(lamp.hardware("scores-ps4"), attention=attention, name=machine.name)
    assert machine_files.loads("attention = 'plain'").attention is None
    assert machine_files.loads("attention = 'tiled'").attention == Tiled()


def test_operands_follow_a_unit_that_takes_others():
    machine = machine_files.loads('preset = "hopper"\n[mlp_up]\nunit = "hopper.wgmma.tf32"')
    assert machine.mlp_up.operands.name == "tf32"
    assert machine.mlp_up.output.name == "bfloat16"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name =", "m.toml is not TOML: .*line 1"),
        ("name = 'a'\n[scores\n", "m.toml is not TOML: .*line 2"),
        ("\nfoo = 1", "line 2: unknown key 'foo' - expected name, preset, weights"),
        ("[mlpup]\nrounding = 'rne'", r"line 1: unknown key 'mlpup' - did you mean 'mlp_up'\?"),
        ("preset = 'FP8'", r"did you mean ada-fp8, hopper-fp8, .*fp8-e4m3"),
        ("preset = 'H100'", r"did you mean hopper, hopper-fp8, hopper-fp8-promoted\?"),
        ("preset = 'ps{mu}'", r"did you mean ps4, ps7, scores-ps4"),
        ("preset = 'PS{MU}'", r"did you mean ps4, ps7, scores-ps4"),
        ("preset = 'hoper'", "line 1: unknown hardware 'hoper': did you mean hopper"),
        ("weights = 'e1m99'", "line 1: unknown format 'e1m99'"),
        ("[scores]\n\nacumulator='e8m4'", r"line 3: unknown key 'acumulator' of \[scores\]"),
        ("[scores]\n\naccumulator='e8mx'", r"line 3: \[scores\]: unknown format 'e8mx'"),
        ("[norm]\nrounding = 'up'", r"line 2: \[norm\]: .*'up'"),
        ("[norm]\naccumulator = 'e8m4'", r"line 2: unknown key 'accumulator' of \[norm\]"),
        ("[mlp_up]\nunit = 'hopper'", "line 2: unit of .mlp_up.: unknown unit 'hopper'"),
        ("[qkv]\nunit = 'x'\naccumulator = 'e8m4'", "line 2: a unit is an accumulator"),
        ("[qkv]\nscaling = 'sometimes'", "line 2: .*unknown scaling 'sometimes': expected none"),
        ("[qkv]\nscaling = 'row'", "line 2: .*'row' needs a format of the operands"),
        ("[qkv]\nscale = -1.0", "line 2: .*scale must be a positive float32 number, not -1.0"),
        ("[qkv]\naccumulator = {kind = 'seq'}", "line 2: .*unknown kind 'seq': expected sequ"),
        ("[qkv]\naccumulator = {kind = 'exact', form = 'e8m4'}", "unknown key 'form' of exact"),
        ("[qkv]\nrounding = {mod = 'rne'}", "line 2: .*a rounding has a mode"),
        ("\n[values]\noperands = 'mxfp8_e4m3'", "line 2: values can have no scales"),
        ("attention = 'tiles'", "line 1: attention needs a kind, 'plain' or 'tiled', not 'tiles'"),
        ("[attention]\nrows = 4", "line 1: attention needs a kind, 'plain' or 'tiled', not None"),
        ("[attention]\nkind = 'tiled'\nrow = 4", r"line 3: unknown key 'row' of \[attention\]"),
        ("[attention]\nkind = 'plain'\nrows = 4", "line 3: unknown key 'rows' of .attention"),
        ("[attention]\nkind = 'tiled'\n\nrows = 0", "line 4: .*rows must be a positive integer"),
        ("[attention]\nkind = 'tiled'\nparts = 3", "line 3: .*parts must divide the columns of a"),
        ("[attention]\nkind = 'tiled'\nexponential = 'e9'", "line 3: exponential of .*'e9'"),
        (
            "[attention]\nkind = 'tiled'\nrescaling = {inner = 'e8m4'}",
            "line 3: rescaling of .attention.: unknown key 'inner': expected output, rounding",
        ),
        (
            "[attention]\nkind = 'tiled'\nrunning_sum = {kind = 'sequental'}",
            "line 3: running_sum of .attention.: unknown kind 'sequental'",
        ),
        ("[attention]\nkind = 'tiled'\ndivision = 'end'", "line 3: .*'last' or 'tile', not 'end'"),
        (
            "[scores]\nunit = 'hopper.wgmma.e4m3'\noperands = 'e8m9'",
            "line 3: .*takes float8_e4m3fn, not e8m9",
        ),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        lamp.hardware(path)


def test_a_missing_file_or_one_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no hardware file '.*m\.toml'"):
        lamp.hardware(tmp_path / "m.toml")
    (tmp_path / "m.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        Hardware.load(tmp_path / "m.toml")


# --- every field counts ---------------------------------------------------------------------------

SLOW = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@SLOW
@given(machines)
def test_every_field_of_a_machine_is_written_and_read(machine):
    assert machine_files.loads(machine_files.dumps(machine)) == machine


@SLOW
@given(machines, st.data())
def test_machines_digest_alike_only_if_they_are(machine, data):
    found = digest(machine)
    assert digest(machine_files.loads(machine_files.dumps(machine))) == found
    try:
        other = changed_in_one_place(machine, data.draw)
    except (ValueError, TypeError):
        assume(False)  # the field does not go with the others
    alike = replace(other, name="") == replace(machine, name="")
    assert (digest(other) == found) == alike
    texts = [machine_files.dumps(replace(each, name="")) for each in (machine, other)]
    assert alike or texts[0] != texts[1]


@pytest.mark.parametrize("overflow", ["ieee", "saturate", "infinity"])
def test_overflow_is_written(overflow):
    sums = Sequential("float6_e3m2fn", Rounding("rtz", overflow))
    machine = Hardware("m", scores=Product(sums, rounding=Rounding("rne", overflow)))
    assert machine_files.loads(machine_files.dumps(machine)) == machine


def test_block_formats_of_one_name_are_told_apart():
    elements = fpemu.format("float8_e4m3fn"), fpemu.format("float8_e5m2")
    scale = fpemu.format("float8_e8m0fnu")
    made = [
        Hardware("m", qkv=Product("float32", BlockFormat("mine", element, scale, block)))
        for element in elements
        for block in (16, 32)
    ]
    assert len({digest(machine) for machine in made}) == 4
    assert len({machine_files.dumps(machine) for machine in made}) == 4
    for machine in made:
        assert machine_files.loads(machine_files.dumps(machine)) == machine


def test_a_machine_without_a_name_has_one_of_its_own():
    texts = ['preset = "hopper"', *(f'preset = "hopper"\nscores = "e8m{bits}"' for bits in (4, 5))]
    names = [machine_files.loads(text).name for text in texts]
    assert names[0] == "hopper"
    assert len(set(names)) == 3
    assert all(name.startswith("hopper-") for name in names[1:])
    assert machine_files.loads(texts[1]).name == names[1]


def test_lines_of_tables_within_tables_are_found():
    text = '[scores]\nscale = 1.0\n\n[scores.accumulator]\nkind = "blocked"\nblocks = 4\n'
    with pytest.raises(ValueError, match=r"line 4: .*unknown key 'blocks' of blocked"):
        machine_files.loads(text)


def test_numpy_integers_are_integers():
    machine = Hardware("m", qkv=Product("float32", "float16", scaling="block", block=np.int64(64)))
    assert machine == Hardware("m", qkv=Product("float32", "float16", scaling="block", block=64))
    assert machine_files.loads(machine_files.dumps(machine)) == machine
    noisy = Hardware("n", residual=Sum("bfloat16", Rounding("sr", seed=5)))
    assert noisy.derived(np.int32(3)) == noisy.derived(3)


@dataclass(frozen=True)
class Backward(fpemu.Accumulator):
    """The last term first."""

    format: Format
    rounding: Rounding = Rounding("rne")  # noqa: RUF009
    inputs: Format | None = None
    inner: fpemu.Accumulator | None = None
    share: float = 0.5

    def inner_product(self, a, b, c):
        for x, y in zip(reversed(a), reversed(b), strict=True):
            c = Fraction(round_exact(c + x * y, self.format, self.rounding))
        return c


OWN = Backward(ODD, Rounding("rtz", "saturate"), None, Pairwise("e8m5"), 0.25)


def test_an_accumulator_of_ones_own_goes_by_its_module_and_name():
    machine = Hardware("m", scores=OWN, mlp_up=Promoted(OWN, "float32", 16))
    text = machine_files.dumps(machine)
    assert f'kind = "{__name__}:Backward"' in text
    assert machine_files.loads(text) == machine
    changed = replace(machine, scores=replace(OWN, share=0.5))
    assert digest(changed) != digest(machine)
    assert machine_files.loads(text) != changed


DEFINED = """
from dataclasses import dataclass
from fractions import Fraction
import fpemu
LIMIT = 2
def cut(x):
    return x if abs(x) < LIMIT else Fraction(0)
@dataclass(frozen=True)
class Cutting(fpemu.Accumulator):
    format: fpemu.Format
    rounding: fpemu.Rounding = fpemu.Rounding("rne")
    def inner_product(self, a, b, c):
        return sum((cut(x * y) for x, y in zip(a, b)), c)
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x * y", "x + y"),
        ("Fraction(0)", "Fraction(1)"),
        ("LIMIT = 2", "LIMIT = 3"),
        ("abs(x) < LIMIT", "abs(x) <= LIMIT"),
    ],
)
def test_the_code_of_an_accumulator_of_ones_own_counts(old, new):
    def machine(text):
        held = {"__name__": "cutting"}
        exec(text, held)
        return Hardware("m", scores=held["Cutting"](fpemu.format("float32")))

    known = machine(DEFINED)
    same = machine(DEFINED.replace("LIMIT = 2", "\n# a comment\nLIMIT = 2"))
    assert digest(same) == digest(known)
    other = machine(DEFINED.replace(old, new))
    assert digest(other) != digest(known)
    assert machine_files.dumps(other) == machine_files.dumps(known)
    assert definitions(other).keys() == definitions(known).keys() == {"cutting:Cutting"}
    assert definitions(Hardware("m")) == {}


def test_the_key_of_a_run_holds_the_code_of_an_accumulator_of_ones_own():
    def keys(text, where):
        held = {"__name__": "cutting"}
        exec(text, held)
        machine = Hardware("m", scores=held["Cutting"](fpemu.format("float32")))
        machines = {"machine": Hardware("m"), "reference": Hardware("r")} | {where: machine}
        checkpoint = Checkpoint("model", "digest", ())
        setting = Setting(machines["machine"])
        task = Task(checkpoint, None, "text", setting, machines["reference"], 1)
        return task.key, task.reference_key

    for where, changed in (("machine", (True, False)), ("reference", (True, True))):
        old, new = (keys(text, where) for text in (DEFINED, DEFINED.replace("* y", "+ y")))
        assert tuple(a != b for a, b in zip(old, new, strict=True)) == changed


def test_a_class_of_the_same_name_is_another_machine():
    class Sequential(fpemu.Sequential):
        """A user's own."""

    mine = Hardware("m", scores=Sequential("float32"))
    assert digest(mine) != digest(Hardware("m", scores=fpemu.Sequential("float32")))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("format = 3", "format must be of type Format, not 3"),
        ("rounding = true", "rounding must be of type Rounding, not True"),
        ("share = 'much'", "share must be of type float, not 'much'"),
        ("share = true", "share must be of type float, not True"),
    ],
)
def test_fields_of_an_accumulator_of_ones_own_have_their_types(field, message):
    text = f"[scores.accumulator]\nkind = '{__name__}:Backward'\n{field}\n"
    with pytest.raises(ValueError, match=rf"accumulator of \[scores\]: {message}"):
        machine_files.loads(text)
    whole = text.replace(field, "format = 'bfloat16'\nshare = 1")
    assert machine_files.loads(whole).scores.accumulator.share == 1


def test_a_module_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_units.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LAMP_MODULES", "numbers , broken_units ")
    text = "[scores]\naccumulator = {kind = 'broken_units:Unit'}"
    message = "broken_units of LAMP_MODULES cannot be imported: ZeroDivisionError: division by zero"
    with pytest.raises(ValueError, match=f"line 2: .*{message}"):
        machine_files.loads(text)


def test_a_file_never_has_a_module_imported_but_a_variable_may(tmp_path, monkeypatch):
    (tmp_path / "own_units.py").write_text(
        "from dataclasses import dataclass\nimport fpemu\n@dataclass(frozen=True)\n"
        "class Unit(fpemu.Accumulator):\n    format: fpemu.Format\n"
        "    rounding: fpemu.Rounding = fpemu.Rounding()\n"
        "    def inner_product(self, a, b, c):\n        return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = 'scores = {accumulator = {kind = "own_units:Unit", format = "bfloat16"}}'
    with pytest.raises(ValueError, match=r"import own_units first, or list it in .*LAMP_MODULES"):
        machine_files.loads(text)
    assert "own_units" not in sys.modules
    monkeypatch.setenv("LAMP_MODULES", "json,own_units")
    accumulator = machine_files.loads(text).scores.accumulator
    assert (type(accumulator).__name__, accumulator.format.name) == ("Unit", "bfloat16")
    assert fpemu.dot([1.0], [1.0], accumulator) == 0.0
    with pytest.raises(ValueError, match="no accumulator 'own_units:Other'"):
        machine_files.loads(text.replace(":Unit", ":Other"))
    with pytest.raises(ValueError, match=r"unknown kind 'unit': expected sequential, .*:Class"):
        machine_files.loads(text.replace("own_units:Unit", "unit"))


def test_an_accumulator_that_is_no_dataclass_is_refused():
    class Loose(fpemu.Accumulator):
        inputs = None

    with pytest.raises(TypeError, match="Loose must be a frozen dataclass"):
        Hardware("m", scores=Loose())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = 5", "line 1: name must be a string, not 5"),
        ("name = ['a']", "line 1: name must be a string"),
        ("preset = 5", "line 1: preset must be a name, not 5"),
        ("preset = 'm.toml'", "line 1: unknown hardware 'm.toml'"),
        ("preset = 'ps99'", "line 1: unknown hardware 'ps99': ps has 0 to 23 stored"),
        (
            "[norm]\noutput = {name = 5, bits = 7, precision = 4, bias = 3}",
            "line 2: output of .norm.: name of a format must be str, not 5",
        ),
        (
            "[norm]\noutput = {name = 'a', bits = 7, precision = true, bias = 3}",
            "precision of a format must be int, not True",
        ),
        (
            "[norm]\noutput = {name = 'a', bits = 7, exponent = 3}",
            "unknown key 'exponent' of a format: expected name, bits, precision, bias",
        ),
        (
            "[scores]\naccumulator = {kind = 'blocked', format = 'e8m7', block = 3000000000}",
            "line 2: .*block must lie in 1..2147483647, not 3000000000",
        ),
    ],
)
def test_values_of_another_type_are_refused(tmp_path, text, message):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"m\.toml, {message}" if "line" in message else message):
        Hardware.load(path)


def test_the_name_of_a_shape_is_no_format_of_operands():
    """e4m3 is float8_e4m3fn to units and has a largest number of 240 as a shape."""
    with pytest.raises(ValueError, match=r"line 2: .*'e4m3' is ambiguous.* 'float8_e4m3fn' "):
        machine_files.loads('[qkv]\noperands = "e4m3"')
    with pytest.raises(ValueError, match="'e2m1' is ambiguous"):
        BlockFormat("mine", "e2m1", "float8_e8m0fnu", 16)
    meant = Hardware("m", qkv=Product("float32", fpemu.format("e4m3")))
    assert machine_files.loads(machine_files.dumps(meant)) == meant
