"""fpemu.torch.emulate: dtypes, layouts, gradients, modules, and what it refuses."""

import itertools
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

import fpemu
from fpemu import functions, scaling
from fpemu.torch import emulate

BFLOAT16 = {"matmul": "float32", "elementwise": "bfloat16", "reductions": "float32"}
EIGHT_BITS = {"matmul": "e8m7", "elementwise": "e8m7", "reductions": "e8m7"}
CONTEXTS = [torch.enable_grad, torch.no_grad, torch.inference_mode]
DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
SPECIAL = [0.0, -0.0, 1.0, -1.5, 3e38, -1e-40, np.inf, -np.inf, np.nan, 300.0, 1e-3, 65504.0]


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def assert_same_bits(result, expected):
    """Equal numbers, signs of zeros included; NaN equals NaN."""
    result, expected = (
        np.asarray(x.detach().double() if isinstance(x, torch.Tensor) else x, np.float64)
        for x in (result, expected)
    )
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(
        np.signbit(result),
        np.signbit(expected) & ~np.isnan(expected) | np.signbit(result) & np.isnan(expected),
    )


# --- the functions of fpemu -----------------------------------------------------------------------

UNIT = fpemu.Blocked("float32", 4, "bfloat16")


@pytest.mark.parametrize("format", ["e5m3", "bfloat16", "float32"])
def test_results_are_those_of_the_functions_of_fpemu(format):
    x, weight, bias = drawn(5, 16), drawn(16, seed=1), drawn(16, seed=2)
    with emulate(matmul=UNIT, elementwise=format, reductions=UNIT):
        results = [
            x + weight,
            x * 2.0**-140,
            x / weight,
            x.tanh(),
            F.gelu(x),
            (x * 40).softmax(-1),
            F.layer_norm(x, (16,), weight, bias),
            x @ x.T,
            F.linear(x, x, weight[:5]),
        ]
    a, w, b = x.numpy(), weight.numpy(), bias.numpy()
    product = fpemu.matmul(a, a.T, UNIT)
    large = fpemu.multiply(a, np.float32(40), format)
    expected = [
        fpemu.add(a, w, format),
        fpemu.multiply(a, np.float32(2.0**-140), format),
        fpemu.divide(a, w, format),
        functions.tanh(a, format),
        functions.gelu(a, format),
        functions.softmax(large, format, accumulator=UNIT),
        functions.layer_norm(a, format, weight=w, bias=b, accumulator=UNIT),
        fpemu.round(product, format),
        fpemu.add(product, w[:5], format),
    ]
    for result, numbers in zip(results, expected, strict=True):
        assert_same_bits(result, numbers)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_comes_in_and_goes_out(dtype):
    x = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    y = torch.tensor(SPECIAL[::-1], dtype=torch.float64).to(dtype)
    with emulate(elementwise="e5m3"):
        result = x + y
    assert result.dtype == dtype
    sums = fpemu.add(x.double().numpy(), y.double().numpy(), "e5m3")
    assert_same_bits(result, fpemu.round(sums, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wider_format_is_rounded_once_more_where_it_is_stored(dtype):
    """As torch does it: 16-bit tensors are added in float32."""
    x = torch.tensor(SPECIAL, dtype=torch.float64).to(dtype)
    with emulate(elementwise="float64"):
        result = x * 0.3
    factor = 0.3 if dtype == torch.float64 else np.float32(0.3)
    exact = fpemu.multiply(x.double().numpy(), factor, "float64")
    assert_same_bits(result, fpemu.round(exact, dtype))


def test_what_is_stored_is_not_rounded_to_float32_on_the_way():
    tiny = torch.tensor([2.0**-30, -(2.0**-30)]).bfloat16()
    with emulate(elementwise="float64"):
        result = tiny + (1 + 2.0**-8)  # beside a tie of bfloat16
    assert_same_bits(result, [1 + 2.0**-7, 1.0])


def test_float32_arithmetic_is_what_torch_computes():
    x, y = drawn(3, 1, 50), drawn(4, 50, seed=1)
    double, half = torch.tensor(1 / 3, dtype=torch.float64), drawn(50, seed=2).bfloat16()

    def program():
        z = torch.add(x, y, alpha=1)
        z = z * 0.1 + double
        z = (1 - z) / half
        z += half
        return [z, z.neg(), z**2, half * half, half * 0.3, torch.arange(3) / 7, z.clamp(0.3)]

    with emulate(elementwise="float32") as counts:
        results = program()
    assert set(counts.emulated) == {"add", "add_", "mul", "rsub", "div", "pow"}
    for result, expected in zip(results, program(), strict=True):
        assert result.dtype == expected.dtype
        assert_same_bits(result, expected)


def test_results_have_the_dtypes_that_torch_promotes_to():
    dtypes = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
    with emulate(elementwise="float32", matmul="float32"):
        for left, right in itertools.product(dtypes, dtypes):
            if torch.bool in (left, right) or (left == right == torch.int64):
                continue
            for a, b in itertools.product([2, torch.ones(()), torch.ones(1)], repeat=2):
                a = a.to(left) if isinstance(a, torch.Tensor) else a
                b = b.to(right) if isinstance(b, torch.Tensor) else b
                if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
                    assert (a + b).dtype == torch.result_type(a, b)
        assert (torch.ones(2, dtype=torch.int64) / 2).dtype == torch.float32
        assert (torch.ones(2, dtype=torch.bool) * drawn(2).half()).dtype == torch.float16
        assert torch.ones(2, dtype=torch.int64).sum().dtype == torch.int64
        assert drawn(2).sum(dtype=torch.float64).dtype == torch.float64
        assert drawn(2).bfloat16().softmax(0, dtype=torch.float32).dtype == torch.float32
        assert torch.ones(2, dtype=torch.int64).exp().dtype == torch.float32
        with pytest.raises(RuntimeError, match=r"one dtype, not torch\.float32 and torch\.float64"):
            drawn(2, 2) @ drawn(2, 2).double()


# --- memory ---------------------------------------------------------------------------------------

LAYOUTS = {
    "plain": lambda x: x,
    "transposed": lambda x: x.t().contiguous().t(),
    "strided": lambda x: torch.stack([x, -x], -1)[..., 0],
    "expanded": lambda x: x[:1].expand(4, 6),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
    "flipped": lambda x: x.flip(0, 1),
    "negative": lambda x: torch.view_as_complex(torch.stack([x, -x], -1)).conj().imag,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_change_no_bit(layout):
    x = LAYOUTS[layout](drawn(4, 6))
    plain = x.resolve_neg().contiguous().clone()
    weight = drawn(6, 6, seed=1)

    def program(x):
        return [x + 1, x * x, x.exp(), x @ weight, F.linear(x, weight), x.sum(0), x.softmax(0),
                x.cumsum(1), F.layer_norm(x, (6,)), x.bfloat16() * 3, x.norm()]  # fmt: skip

    with emulate(**EIGHT_BITS):
        for result, expected in zip(program(x), program(plain), strict=True):
            assert_same_bits(result, expected)


def test_results_keep_the_layout_of_their_operands():
    x = drawn(2, 3, 4).transpose(0, 2)
    image = drawn(1, 2, 3, 3).to(memory_format=torch.channels_last)
    with emulate(elementwise="bfloat16"):
        assert (x + 1).stride() == x.stride() == (x * x).stride() == x.exp().stride()
        assert (image * 2).is_contiguous(memory_format=torch.channels_last)
        assert x.cumsum(0).transpose(0, 2).view(-1).shape == (24,)
        assert drawn(3, 4).cumsum(0).is_contiguous()


def test_products_do_not_depend_on_the_layout_where_tensors_are_narrow():
    """Torch takes linear apart in other ways for other layouts, with other roundings."""
    x, weight, bias = drawn(2, 3, 8).bfloat16(), drawn(5, 8, seed=1), drawn(5, seed=2)
    weight, bias = weight.bfloat16(), bias.bfloat16()
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    product = fpemu.matmul(x.float().numpy(), weight.float().numpy().T, fpemu.Sequential("float32"))
    for context in CONTEXTS:
        with context(), emulate(**BFLOAT16):
            for each in (x, turned):
                result = F.linear(each, weight, bias)
                assert_same_bits(result, fpemu.add(product, bias.float().numpy(), "bfloat16"))
            assert F.linear(x[0, 0], weight, bias).shape == (5,)


def test_float32_tensors_are_not_copied():
    from fpemu.torch.tensors import carrier, tensor

    x = drawn(3, 4)
    assert np.shares_memory(carrier(x.t()), x.numpy())
    array = np.ones(3, np.float32)
    assert np.shares_memory(tensor(array, torch.float32).numpy(), array)


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (3, 0), (1, 1)])
def test_scalars_and_empty_tensors(shape):
    x = torch.full(shape, 0.3)

    def program():
        results = [x + x, x * 2, x.exp(), x.sum(), x.mean(), x.softmax(-1), x.cumsum(-1), x.norm()]
        results += [x.prod(), torch.where(x > 0, x, -x), x.log_softmax(-1)]
        if x.ndim == 2:
            results += [x @ x.t(), x.t() @ x, x.sum(0), F.linear(x, torch.ones(2, shape[1]))]
            results += [F.layer_norm(x, shape[1:]), torch.addmm(torch.ones(1), x, x.t())]
        return results

    with emulate(matmul="float32", elementwise="float32"):
        results = program()
    for result, expected in zip(results, program(), strict=True):
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_in_place_operations_write_where_they_should():
    x = drawn(4, 4)
    base, part, before = x, x[:, 1:3], x.clone()
    with emulate(elementwise="e8m3", matmul="e8m3"):
        part += x.t()[:, :2]  # which the write changes
        expected = fpemu.add(before[:, 1:3].numpy(), before.t()[:4, :2].numpy(), "e8m3")
        assert_same_bits(base[:, 1:3], expected)
        assert_same_bits(base[:, 0], before[:, 0])
        whole = before.clone()
        result = whole.add_(whole.t())
        assert result is whole
        assert_same_bits(whole, fpemu.add(before.numpy(), before.t().numpy(), "e8m3"))
        out = torch.empty(4, 4, dtype=torch.float64)
        assert torch.mul(before, before, out=out[:]).data_ptr() == out.data_ptr()
        assert_same_bits(out, fpemu.multiply(before.numpy(), before.numpy(), "e8m3"))
        narrow = before.bfloat16()
        narrow.mul_(before.double())
        assert narrow.dtype == torch.bfloat16
        with pytest.raises(RuntimeError, match=r"cannot be written to a tensor of torch\.int64"):
            torch.arange(4).add_(0.5)
        with pytest.raises(RuntimeError, match="single memory location"):
            before[:1].expand(4, 4).add_(1.0)


def test_variants_of_what_torch_takes_apart_write_too():
    x = drawn(3, 4)
    with emulate(elementwise="e8m3") as counts:
        expected = F.leaky_relu(x, 0.3), F.softplus(x), x.std(1)
        y = x.clone()
        assert F.leaky_relu(y, 0.3, inplace=True) is y
        out, spread = torch.empty(3, 4), torch.empty(3)
        assert torch.ops.aten.softplus.out(x, out=out) is out
        torch.std(x, 1, out=spread)
    for result, exact in zip((y, out, spread), expected, strict=True):
        assert_same_bits(result, exact)
    assert {"leaky_relu", "leaky_relu_", "softplus"} <= {*counts.decomposed}


# --- attention ------------------------------------------------------------------------------------


def attention(q, k, v, mask, scale):
    """By the functions of fpemu, for one head."""
    sums = fpemu.Sequential("float32")
    scores = fpemu.round(fpemu.matmul(q, k.T, sums), "bfloat16")
    scores = fpemu.multiply(scores, np.float32(scale), "bfloat16")
    if mask is not None and mask.dtype == bool:
        scores = np.where(mask, scores, np.float32(-np.inf))
    elif mask is not None:
        scores = fpemu.add(scores, mask, "bfloat16")
    empty = (scores == -np.inf).all(-1, keepdims=True)
    weights = functions.softmax(
        np.where(empty, np.float32(0), scores), "bfloat16", accumulator=sums
    )
    return fpemu.round(fpemu.matmul(np.where(empty, np.float32(0), weights), v, sums), "bfloat16")


MASKS = {
    "none": None,
    "bool": torch.tensor([[True, False, True], [False, False, False], [True, True, True]]),
    "float": drawn(3, 3, seed=5),
}


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("mask", [*MASKS, "causal"])
def test_attention_is_its_four_operations(mask, context):
    q, k, v = drawn(2, 4, 3, 8), drawn(2, 2, 3, 8, seed=1), drawn(2, 2, 3, 5, seed=2)
    options = {"is_causal": True} if mask == "causal" else {"attn_mask": MASKS[mask]}
    scale = 0.3 if mask == "float" else None
    with context(), emulate(**BFLOAT16) as counts:
        result = F.scaled_dot_product_attention(
            q.requires_grad_(context is torch.enable_grad), k, v,
            scale=scale, enable_gqa=True, **options,
        )  # fmt: skip
    given = {**MASKS, "causal": torch.ones(3, 3, dtype=torch.bool).tril()}[mask]
    given = None if given is None else given.numpy()
    for i, j in np.ndindex(2, 4):
        expected = attention(
            q[i, j].detach().numpy(), k[i, j // 2].numpy(), v[i, j // 2].numpy(),
            given, scale or 8**-0.5,
        )  # fmt: skip
        assert_same_bits(result[i, j], expected)
    assert counts["_safe_softmax"] == {"emulated": 1}


def test_attention_refuses_two_masks():
    x = drawn(1, 1, 2, 4)
    with emulate(**BFLOAT16), pytest.raises(ValueError, match="attn_mask must be None"):
        F.scaled_dot_product_attention(x, x, x, torch.ones(2, 2), is_causal=True)


# --- modules --------------------------------------------------------------------------------------


def modules():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    convolutions = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, groups=4), nn.GroupNorm(2, 4), nn.SiLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 3), nn.LogSoftmax(-1),
    )  # fmt: skip
    perceptron = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.1), nn.Linear(16, 4))
    sequence, memory = drawn(2, 3, 8), drawn(2, 5, 8, seed=1)
    return {
        "perceptron": (perceptron, (sequence,)),
        "convolutions": (convolutions, (drawn(2, 2, 8, 8),)),
        "encoder": (encoder, (sequence,)),
        "decoder": (decoder, (sequence, memory)),
        "LSTM": (nn.LSTM(8, 4, num_layers=2, batch_first=True), (sequence,)),
        "GRU": (nn.GRU(8, 4, bidirectional=True), (sequence,)),
        "RMSNorm": (nn.RMSNorm(8), (sequence,)),
        "embedding": (nn.Embedding(5, 8), (torch.tensor([[1, 4]]),)),
    }


@pytest.mark.parametrize("name", modules())
def test_modules_give_the_same_bits_with_and_without_gradients(name):
    module, inputs = modules()[name]
    module.eval()
    results = []
    for context in CONTEXTS:
        with context(), emulate(**EIGHT_BITS) as counts:
            result = module(*inputs)
        results.append(result[0] if isinstance(result, tuple) else result)
        assert not counts.unknown
        assert not counts.torch
    plain = module(*inputs)
    plain = plain[0] if isinstance(plain, tuple) else plain
    for each in results:
        assert_same_bits(each, results[0])
    largest = plain.abs().max()
    assert (results[0] - plain).abs().max() < 0.1 * largest
    assert name == "embedding" or not torch.equal(results[0], plain)


def test_a_network_is_its_layers():
    network = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4, bias=False))
    x = drawn(5, 8)
    with torch.no_grad(), emulate(**BFLOAT16):
        result = network(x)
    first, last = (each.detach().numpy() for each in (network[0].weight, network[2].weight))
    sums = fpemu.Sequential("float32")
    hidden = fpemu.add(
        fpemu.matmul(x.numpy(), first.T, sums), network[0].bias.detach().numpy(), "bfloat16"
    )
    hidden = functions.tanh(hidden, "bfloat16")
    assert_same_bits(result, fpemu.round(fpemu.matmul(hidden, last.T, sums), "bfloat16"))


def test_fused_layers_are_back_afterwards():
    from torch.backends import mha, mkldnn

    before = mha.get_fastpath_enabled(), mkldnn.enabled
    with emulate(elementwise="bfloat16"):
        assert (mha.get_fastpath_enabled(), mkldnn.enabled) == (False, False)
    assert (mha.get_fastpath_enabled(), mkldnn.enabled) == before
    with pytest.raises(ValueError, match="no NaN"), emulate(elementwise="float4_e2m1fn"):
        torch.zeros(1) / 0
    assert (mha.get_fastpath_enabled(), mkldnn.enabled) == before


# --- gradients ------------------------------------------------------------------------------------


def test_gradients_are_those_of_the_exact_function_at_the_emulated_values():
    x, w = drawn(3, 4).requires_grad_(), drawn(4, 2, seed=1).requires_grad_()
    with emulate(**BFLOAT16):
        y = x @ w
        z = y.exp()
        loss = z.sum()
    loss.backward()
    assert_same_bits(w.grad, x.detach().t() @ z.detach())
    assert_same_bits(x.grad, z.detach() @ w.detach().t())


def test_a_backward_pass_inside_is_emulated():
    x, w = drawn(3, 4), drawn(4, 2, seed=1).requires_grad_()
    with emulate(**BFLOAT16):
        y = x @ w
        (y * y).sum().backward()
    exact = fpemu.multiply(y.detach().numpy(), np.float32(1), "bfloat16")
    doubled = fpemu.add(exact, exact, "bfloat16")
    expected = fpemu.matmul(x.numpy().T, doubled, fpemu.Sequential("float32"))
    assert_same_bits(w.grad, fpemu.round(expected, "bfloat16"))


@pytest.mark.parametrize("name", ["perceptron", "convolutions", "encoder", "LSTM"])
def test_networks_train_inside(name):
    module, inputs = modules()[name]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    with emulate(matmul="float32", elementwise="float32") as counts:
        for _ in range(3):
            optimizer.zero_grad()
            result = module(*inputs)
            loss = (result[0] if isinstance(result, tuple) else result).square().mean()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
    assert losses[2] < losses[0]
    assert not counts.unknown
    assert not counts.torch


# --- what stays with torch, and what is refused ---------------------------------------------------


def test_what_is_not_asked_for_stays_with_torch():
    x = drawn(4, 4)
    with emulate(matmul="e8m3") as counts:
        product, rest = x @ x, x.exp() + x.softmax(-1)
    assert_same_bits(product, fpemu.matmul(x.numpy(), x.numpy(), fpemu.Sequential("e8m3")))
    assert_same_bits(rest, x.exp() + x.softmax(-1))
    assert counts.torch == {"exp": 1, "_softmax": 1, "add": 1}
    with emulate(reductions="e8m3") as counts:
        total, rest = x.sum(), x @ x + x
    assert counts.emulated == {"sum": 1}
    assert_same_bits(rest, x @ x + x)
    assert total.item() != x.sum().item()
    with emulate(functions="e8m3") as counts:
        assert_same_bits(x.exp(), functions.exp(x.numpy(), "e8m3"))


def test_contexts_nest():
    x = drawn(4, 4)
    with emulate(elementwise="e8m3") as outer, emulate(matmul="e8m2") as inner:
        product, total = x @ x, x + x
    assert_same_bits(product, fpemu.matmul(x.numpy(), x.numpy(), fpemu.Sequential("e8m2")))
    assert_same_bits(total, fpemu.add(x.numpy(), x.numpy(), "e8m3"))
    assert inner.emulated == {"mm": 1}
    assert outer.emulated == {"add": 1}


def test_a_function_can_be_decorated():
    @emulate(elementwise="e8m3")
    def double(x):
        return x + x

    x = drawn(4)
    for _ in range(2):
        assert_same_bits(double(x), fpemu.add(x.numpy(), x.numpy(), "e8m3"))
    assert_same_bits(x + x, fpemu.add(x.numpy(), x.numpy(), "float32"))


def test_threads_are_not_seen():
    x, results = drawn(4), []
    with emulate(elementwise="e8m1") as counts:
        thread = threading.Thread(target=lambda: results.append(x + x))
        thread.start()
        thread.join()
    assert_same_bits(results[0], x + x)
    assert not counts.emulated


def test_units_take_operands_of_their_format_alone():
    x = drawn(3, 32)
    with emulate(matmul="hopper.wgmma.e4m3"):
        with pytest.raises(ValueError, match=r"not a member of float8_e4m3fn.*convert='rne'") as e:
            x @ x.t()
        assert e.value.__notes__ == ["in aten.mm.default"]
        narrow = x.to(torch.float8_e4m3fn)
        with pytest.raises(RuntimeError, match="one dtype"):
            narrow @ x.t()
    unit = fpemu.devices.get("hopper.wgmma.e4m3")
    operand = fpemu.round(x.numpy(), "float8_e4m3fn")
    with emulate(matmul=unit, convert="rne"):
        assert_same_bits(x @ x.t(), fpemu.matmul(operand, operand.T, unit))
        result = narrow @ narrow.t()
    assert result.dtype == torch.float8_e4m3fn
    stored = fpemu.round(fpemu.matmul(operand, operand.T, unit), "float8_e4m3fn")
    assert_same_bits(result, stored)


@pytest.mark.parametrize(
    ("format", "unit"),
    [
        ("mxfp8_e4m3", "float32"),
        ("mxfp4", "blackwell.tcgen05-mxf4nvf4.e2m1-e8m0-32"),
        ("nvfp4", "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16"),
    ],
)
def test_operands_in_blocks_are_those_of_scaling(format, unit):
    x, y = drawn(2, 3, 48), drawn(2, 48, 4, seed=1)
    given = fpemu.devices.get(unit) if "." in unit else fpemu.Sequential(unit)
    with emulate(matmul=unit, operands=format):
        batch, vector, empty = x @ y, x[0] @ y[0, :, 0], x[:0] @ y[:0]
        linear = F.linear(x, y[0].t())
    assert empty.shape == (0, 3, 4)

    def expected(a, b):
        a, b = (scaling.quantize(each, format, axis=i) for each, i in ((a, 1), (b, 0)))
        return scaling.matmul(a, b, given)

    for i in range(2):
        assert_same_bits(batch[i], expected(x[i].numpy(), y[i].numpy()))
    assert_same_bits(vector, expected(x[0].numpy(), y[0, :, :1].numpy())[:, 0])
    assert_same_bits(linear, expected(x.flatten(0, 1).numpy(), y[0].numpy()).reshape(2, 3, 4))


def test_functions_that_no_format_rounds_correctly_are_counted():
    x = drawn(4).double()
    with emulate(elementwise="float64") as counts:
        result = x.exp() + x.softmax(0)
    assert counts.approximate == {"exp": 2}
    torch.testing.assert_close(result, x.exp() + x.softmax(0), rtol=1e-14, atol=0)
    assert "in float64 and then rounded" in repr(counts)


def test_random_bits_go_by_seed_and_step():
    x = torch.full((1000,), 1.0 + 2.0**-5)

    def program(seed):
        with emulate(elementwise="e8m3", rounding=fpemu.Rounding("sr", seed=seed)):
            return [x * 1.0, x * 1.0, x + 0.0, x.sum(0)]

    first, again, other = program(1), program(1), program(2)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c) or a.ndim == 0
    assert not torch.equal(first[0], first[1])
    assert abs(first[0].mean().item() - (1 + 2.0**-5)) < 0.01


def test_flushing_of_subnormals_changes_no_bit():
    x = torch.tensor([2.0**-130, -(2.0**-140)])
    half = torch.tensor([2.0**-24, 2.0**-20]).half()
    double = torch.tensor([2.0**-1030, -(2.0**-1074)], dtype=torch.float64)

    def program():
        with emulate(matmul="float32", elementwise="float32"):
            first = [x + x, x * 0.5, x.sum(), x @ torch.ones(2), half * 1, half.double().half()]
        with emulate(elementwise="float64"):
            return [*first, F.silu(double), double * 0.5]

    expected = program()
    assert torch.set_flush_denormal(True)
    try:
        results = program()
    finally:
        torch.set_flush_denormal(False)
    for result, exact in zip(results, expected, strict=True):
        assert_same_bits(result, exact)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"matmul": "hopper.mma.e9"}, ValueError, "unknown unit 'hopper.mma.e9'"),
        ({"matmul": 3}, TypeError, "matmul must be an accumulator, the name of a unit or a format"),
        ({"reductions": [1]}, TypeError, "reductions must be an accumulator"),
        ({"matmul": "blackwell.tcgen05-mxf4nvf4.e2m1-ue4m3-16"}, TypeError, "block-scaled"),
        ({"matmul": "float32", "operands": "mxfp9"}, ValueError, "mxfp9"),
        ({"operands": "mxfp4"}, ValueError, "operands are those of matmul"),
        ({"elementwise": "bf17"}, ValueError, "unknown format 'bf17'"),
        ({"rounding": "up"}, ValueError, "unknown rounding mode 'up'"),
        ({"unknown": "ask"}, ValueError, "unknown must be 'raise' or 'pass', not 'ask'"),
    ],
)
def test_arguments_are_checked_when_they_are_given(options, error, message):
    with pytest.raises(error, match=message):
        emulate(**options)


def test_tensors_elsewhere_are_refused():
    x = torch.ones(2, 2)
    sparse = x.to_sparse()
    with emulate(elementwise="bfloat16", matmul="bfloat16"):
        with pytest.raises(RuntimeError, match="dense CPU tensors"):
            x.to("meta") + 1.0
        with pytest.raises(RuntimeError, match=r"aten\.mm\.default: .*dense CPU tensors"):
            sparse @ x
        with pytest.raises(NotImplementedError, match="is not emulated"):
            x.to(torch.complex64) + 1.0


def test_without_torch_one_line_says_what_to_install():
    program = (
        "import sys; sys.modules['torch'] = None; import fpemu; fpemu.add(1, 1, 'float16')\n"
        "try: fpemu.torch\n"
        "except ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "fpemu.torch needs PyTorch: pip install 'fpemu-lamp[torch]'\n"


def test_fpemu_does_not_import_torch():
    program = "import sys, fpemu.linalg, fpemu.functions; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"
