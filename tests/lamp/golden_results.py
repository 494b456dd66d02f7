"""Digests of results, from all parts of both packages, that hold the numerics version.

``python -m tests.lamp.golden_results`` stores them beside the version once it has been raised.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import fpemu
import lamp
from lamp.evaluation.numerics import NUMERICS
from lamp.models.attention import attention

FILE = Path(__file__).parent / "evaluation" / "numerics.json"

MODES = ("rne", "rna", "rnz", "rtz", "rtp", "rtn", "rto")
STOCHASTIC = (
    fpemu.Rounding("sr", seed=1),
    fpemu.Rounding("sr_equal", seed=2),
    fpemu.Rounding("sr_b", random_bits=5, seed=3),
    fpemu.Rounding("sr_c", random_bits=5, seed=4),
)
P3109 = ("Binary8p1se", "Binary8p4se", "Binary8p4sf", "Binary6p3ue", "Binary6p3uf")
FORMATS = ("float16", "bfloat16", "e8m4", "float8_e4m3fn", "float8_e5m2", "float6_e2m3fn")
FUNCTIONS = ("erf", "exp", "exp2", "expm1", "gelu", "gelu_tanh", "log", "log1p", "log2")
FUNCTIONS += ("reciprocal", "relu", "rsqrt", "sigmoid", "silu", "tanh")
UNITS = (
    "volta.mma.float16",
    "hopper.wgmma.bfloat16",
    "hopper.wgmma.e4m3",
    "cdna2.mfma.bfloat16",
    "cdna3.mfma.bfloat16",
    "arm.bfmmla.bfloat16",
    "intel.avx512.bfloat16",
    "intel.amx.bfloat16",
)
BLOCK_FORMATS = ("mxfp8_e4m3", "mxfp4", "mxint8", "nvfp4")
MACHINES = (
    "fp64",
    "fp32",
    "scores-ps4",
    "scores-ps4+softmax:normwise:1.2",
    "scores-ps4+softmax:total_variation:1%:weights=abs+norm:norm:5%",
    "bf16+activation:activation:5%+logits:kl:0.01",
    "hopper-fp8",
)
RULES: dict[str, dict[str, Any]] = {
    "normwise": {"tau": 1.2},
    "normwise_optimal": {"tau": 0.2},
    "componentwise": {"tau": 0.5},
    "total_variation": {"budget": 0.1, "weights": "abs"},
    "kl": {"tau": 0.01},
    "random": {"budget": 0.1, "seed": 3},
    "strict": {"tau": 0.05, "length": 20, "control": "padded"},
    "relaxed": {"tau": 0.3},
}
SENTENCE = "Now is the winter of our discontent made glorious summer by this sun of York."

Results = Iterator[tuple[str, Callable[[], Any]]]


def differences(*chosen: str) -> dict[str, str]:
    """Digests that are not the stored ones, by name of the operation; of all if none is given."""
    stored = json.loads(FILE.read_text(encoding="utf-8"))["digests"]
    found = digests(*chosen)
    names = chosen or sorted({*stored, *found})
    return {name: found.get(name, "gone") for name in names if stored.get(name) != found.get(name)}


def digests(*chosen: str) -> dict[str, str]:
    """The digest of each operation's result, by its name; of all if none is given."""
    kinds = (rounded, calculated, summed, block_scaled, stepped, selected, attended, evaluated)
    results = (result for kind in kinds for result in kind())
    wanted = (result for result in results if result[0] in chosen or not chosen)
    # What comes after the last of the chosen ones is not even prepared.
    return {name: digest(compute()) for name, compute in islice(wanted, len(chosen) or None)}


def digest(result: Any) -> str:
    """The start of the SHA-256 of arrays: types, shapes and numbers, all NaN being alike."""
    found = hashlib.sha256()
    for array in map(np.asarray, result if isinstance(result, (tuple, list)) else [result]):
        numbers = np.where(np.isnan(array), np.nan, array) if array.dtype.kind == "f" else array
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(numbers.astype(array.dtype)).tobytes())
    return found.hexdigest()[:16]


# --- numbers --------------------------------------------------------------------------------------


@cache
def words(count: int, label: str) -> np.ndarray:
    """32 random bits each, the same with every version of numpy."""
    return np.frombuffer(hashlib.shake_256(label.encode()).digest(4 * count), "<u4")


def patterns() -> np.ndarray:
    """Float32 numbers of all sizes, ties of all formats, infinities and NaN among them."""
    bits = words(2048, "patterns").astype(np.uint32)
    bits = np.concatenate([bits, moderate("patterns", 2048).view(np.uint32)])
    ties = [bits & np.uint32(2**32 - 2**dropped) for dropped in (12, 15, 18, 19, 20)]
    numbers = np.concatenate([bits, *ties]).view(np.float32)
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers)  # signalling ones warn


def moderate(label: str, *shape: int) -> np.ndarray:
    """Float32 numbers of all signs between 2**-8 and 8 in magnitude, each with 24 bits."""
    bits = words(int(np.prod(shape)), label).reshape(shape)
    fractions = 1 + (bits >> 9).astype(np.float64) / 2**23
    signs = np.where(bits & 1, -1.0, 1.0)
    return np.asarray(signs * np.ldexp(fractions, (bits >> 1 & 7).astype(int) * 11 // 7 - 8), "f4")


def members(format: str, label: str, *shape: int) -> np.ndarray:
    return np.asarray(fpemu.round(moderate(label, *shape), format))


# --- fpemu ----------------------------------------------------------------------------------------


def rounded() -> Results:
    """Values to formats in every mode, and codes."""
    for mode in MODES:
        yield (
            f"round {mode}",
            lambda mode=mode: [fpemu.round(patterns(), format, mode) for format in FORMATS[:-1]],
        )
    yield "round float6", lambda: fpemu.round(moderate("a", 512), FORMATS[-1])
    for rounding in STOCHASTIC:
        yield f"round {rounding.mode}", partial(fpemu.round, patterns(), "float16", rounding)
    for overflow in ("saturate", "infinity"):
        yield (
            f"round {overflow}",
            partial(fpemu.round, patterns(), "float8_e5m2", fpemu.Rounding("rtz", overflow)),
        )
    for overflow in ("ieee", "propagate"):
        yield (
            f"round p3109 {overflow}",
            lambda overflow=overflow: [
                fpemu.round(patterns(), format, fpemu.Rounding(mode, overflow))
                for format in P3109
                for mode in MODES
            ],
        )
    numbers = np.abs(patterns().astype(np.float64))
    tiny = numbers[(numbers > 0) & (numbers < 1)] ** 4
    yield "round sr without zero", partial(fpemu.round, tiny, "float8_e8m0fnu", STOCHASTIC[0])
    yield "codes of rounded", partial(fpemu.encode, -patterns(), "float8_e4m3fn", "rne")
    yield "round float64", partial(fpemu.round, patterns().astype(np.float64) ** 2, "float32")
    yield "codes", lambda: [fpemu.encode(fpemu.values(each), each) for each in FORMATS[3:]]
    yield "values", lambda: [fpemu.values(each) for each in FORMATS[3:]]


def calculated() -> Results:
    """Arithmetic and functions."""
    a, b, c = (moderate(label, 512) for label in "abc")
    for name in ("add", "subtract", "multiply", "divide"):
        yield name, lambda name=name: [getattr(fpemu, name)(a, b, each) for each in FORMATS[:3]]
    yield "add rto", partial(fpemu.add, a, b, "float16", "rto")
    yield "sqrt", partial(fpemu.sqrt, np.abs(a), "bfloat16")
    yield "fma", partial(fpemu.fma, a, b, c, "bfloat16")
    for name in FUNCTIONS:
        yield name, lambda name=name: getattr(fpemu.functions, name)(np.abs(a), "float16")
    rows = moderate("rows", 8, 48)
    yield "softmax", partial(fpemu.functions.softmax, rows, "bfloat16")
    yield "layer_norm", partial(fpemu.functions.layer_norm, rows, "bfloat16")
    for name in ("softmax", "layer_norm", "rms_norm"):
        function = getattr(fpemu.functions, name)
        yield f"{name} sr", partial(function, rows, "bfloat16", STOCHASTIC[0])
    yield "rms_norm", partial(fpemu.functions.rms_norm, rows, "bfloat16")


def summed() -> Results:
    """Products of matrices on every kind of accumulator."""
    float32, bfloat16 = fpemu.Sequential("float32"), fpemu.Sequential("bfloat16")
    accumulators = {
        "Sequential float32": float32,
        "Sequential bfloat16": bfloat16,
        "Sequential unfused": fpemu.Sequential("float16", "rtz", fused=False),
        "Sequential sr": fpemu.Sequential("bfloat16", STOCHASTIC[0]),
        "Blocked": fpemu.Blocked("e8m7", 8),
        "Pairwise": fpemu.Pairwise("float32"),
        "Exact": fpemu.Exact("float16"),
        "Promoted": fpemu.Promoted(bfloat16, "float32", 16),
    }
    a, b = members("e8m4", "left", 7, 100), members("e8m4", "right", 100, 9)
    for name, accumulator in accumulators.items():
        yield name, partial(fpemu.matmul, a, b, accumulator)
    for label, each in (("", float32), (" of 31 bits", fpemu.Sequential("e11m30"))):
        yield (
            f"running sums{label}",
            lambda each=each: _running(fpemu.matmul(a, b, each, running=True)),
        )
    for name in UNITS:
        yield name, partial(fpemu.matmul, a, b, fpemu.devices.get(name), convert="rne")
    yield "corners of units", _corners


def _corners() -> list[np.ndarray]:
    """Inner products in which units have been wrong before."""
    cases = (
        ("cdna3.mfma.bfloat16", [-255.0, -128.0], [2.0**-32, 2.0**-32], 1.0),
        ("cdna2.mfma.float16", [-0.0] * 4, [1.0] * 4, -0.0),
        ("ampere.mma.float16.float16", [-(2.0**-14)], [2.0**-14], 0.0),
    )
    return [fpemu.dot(a, b, fpemu.devices.get(name), c=c) for name, a, b, c in cases]


def _running(found: Any) -> list[np.ndarray]:
    product, sums = found
    return [product, *(getattr(sums, name) for name in sums.__dataclass_fields__)]


def block_scaled() -> Results:
    """Numbers and products in block-scaled formats."""
    a, b = moderate("left", 6, 64), moderate("right", 64, 5)
    for name in BLOCK_FORMATS:
        yield name, lambda name=name: fpemu.scaling.dequantize(fpemu.scaling.quantize(a, name))
    integers = fpemu.scaling.quantize(a, "mxint8")
    yield "codes mxint8", lambda: fpemu.encode(integers.elements, integers.format.element)
    one_level = fpemu.scaling.BlockFormat("one level", "float4_e2m1fn", "float8_e4m3fn", 16)
    yield "one level", lambda: fpemu.scaling.dequantize(fpemu.scaling.quantize(a, one_level))
    unit = fpemu.devices.get("blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16")
    # A group that cancels, below it a little.
    format = replace(fpemu.scaling.FORMATS["nvfp4"], tensor_scale=False)
    group = np.where(np.arange(64) < 16, np.where(np.arange(64) % 2, -6.0, 6.0), 0.0)
    left = fpemu.scaling.Scaled(group[None, :], np.ones((1, 4)), format, 1)
    right = fpemu.scaling.Scaled(np.ones((64, 1)), np.ones((4, 1)), format, 0)
    yield (
        "cancelled nvfp4",
        lambda: fpemu.scaling.matmul(left, right, unit, c=np.full((1, 1), 2.0**-36)),
    )
    yield (
        "product nvfp4",
        lambda: fpemu.scaling.matmul(
            fpemu.scaling.quantize(a, "nvfp4"), fpemu.scaling.quantize(b, "nvfp4", axis=0), unit
        ),
    )


# --- lamp -----------------------------------------------------------------------------------------


def stepped() -> Results:
    """A program on an array that rounds stochastically, of elements, parts and wholes."""

    def program() -> list[np.ndarray]:
        y = fpemu.array(moderate("array", 6, 8), "float8_e4m3fn", STOCHASTIC[0])
        parts = [y[i] * y[i] for i in range(len(y))]
        return [each.values for each in (*parts, y[:3] + 0.3, y[3:] + 0.3, y @ y.T, y.sum())]

    yield "array sr", program


def selected() -> Results:
    """Which components rules pick."""
    y = moderate("scores", 12, 40).astype(np.float64)
    z = np.asarray(fpemu.functions.softmax(y, "float32"), np.float64)
    for name, amounts in RULES.items():
        yield f"rule {name}", partial(lamp.select, z, y, rule=name, **amounts)


def attended() -> Results:
    """Attention by tiles, with an exponential from a table and with one in float64."""
    query, key, value = (members("e8m8", label, 2, 50, 16) for label in ("query", "key", "value"))
    table = lamp.Function("e5m3", steps="bfloat16")
    kinds = {
        "last": lamp.Tiled(16, 8, 2, table, "bfloat16", lamp.Function("e8m4", "rtp"), "e8m9"),
        "tile": lamp.Tiled(16, 8, 2, "bfloat16", division="tile"),
    }
    for name, kind in kinds.items():
        machine = lamp.Hardware(name, scores="e8m4", attention=kind)
        yield (
            f"attention by tiles, divided {name}",
            lambda machine=machine: attention(query, key, value, hardware=machine).output,
        )


def evaluated() -> Results:
    """Logits of the embedded model on machines, and metrics."""
    model = lamp.from_pretrained("embedded")
    tokens = model.encode(SENTENCE)
    for text in MACHINES:
        yield f"logits {text}", lambda text=text: on(model, text).logits(tokens)
    # Running sums with the random bits of each layer.
    drawn = lamp.Product(fpemu.Pairwise("bfloat16", STOCHASTIC[0]))
    machine = lamp.Hardware("drawn", attention_output=drawn, mlp_up=drawn, mlp_down=drawn)
    rules = lamp.evaluation.Setting.parse("fp32+activation:activation:5%:weights=running_1").lamp
    yield (
        "logits sr, running sums",
        lambda: model.with_hardware(machine, rules).logits(tokens),
    )
    exact, tested = on(model, "fp64"), on(model, MACHINES[3])
    yield "metrics", lambda: flattened(lamp.evaluate(exact, tested, tokens, length=16, stride=12))


def on(model: Any, text: str) -> Any:
    setting = lamp.evaluation.Setting.parse(text)
    return model.with_hardware(setting.hardware, setting.lamp)


def flattened(metrics: lamp.Metrics) -> list[np.ndarray]:
    """All numbers of metrics, in the order of their names."""
    fields = sorted(set(metrics.__dataclass_fields__) - {"step_rates", "sums"})
    rates = [metrics.step_rates[step] for step in sorted(metrics.step_rates)]
    return [np.array(each, np.float64) for each in [*(getattr(metrics, f) for f in fields), *rates]]


# --- the file -------------------------------------------------------------------------------------


def store() -> None:
    """Write the digests; those that are stored change with the version alone."""
    before = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else None
    found = digests()
    if before is not None and before["version"] == NUMERICS:
        changed = {name for name, each in before["digests"].items() if found.get(name) != each}
        if changed:
            raise SystemExit(f"raise NUMERICS first: {', '.join(sorted(changed))} changed")
    record = {"version": NUMERICS, "digests": found}
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    store()
