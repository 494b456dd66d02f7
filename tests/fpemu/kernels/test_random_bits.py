"""Philox4x32-7 against the known answers of Random123 and a Python version of its definition."""

import numba
import numpy as np
import pytest

from fpemu._kernels import random_bits as philox

# Random123, kat_vectors: rounds, counter, key, result.
KNOWN = [
    (7, "00000000 00000000 00000000 00000000", "00000000 00000000",
     "5f6fb709 0d893f64 4f121f81 4f730a48"),
    (7, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "5207ddc2 45165e59 4d8ee751 8c52f662"),
    (7, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "4dfccaba 190a87f0 c47362ba b6b5242a"),
    (10, "00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    (10, "ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    (10, "243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


# What is inlined into kernels cannot be called from Python.
draw = numba.njit(lambda a, b, c, d, first, second: philox.draw(a, b, c, d, first, second))
further_word = numba.njit(lambda index, number, key: philox.further_word(index, number, key))
element_word = numba.njit(lambda index, key: philox.element_word(index, key))
step_bits = numba.njit(
    lambda element, step, stream, key, unused: philox.step_bits(element, step, stream, key, unused)
)


def words(text):
    return [int(word, 16) for word in text.split()]


def philox4x32(counter, key, rounds=7):
    """The rounds as the paper defines them."""
    counter, key = list(counter), list(key)
    for _ in range(rounds):
        product_0, product_2 = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (product_2 >> 32) ^ counter[1] ^ key[0],
            product_2 & 0xFFFFFFFF,
            (product_0 >> 32) ^ counter[3] ^ key[1],
            product_0 & 0xFFFFFFFF,
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return counter


def drawn(counter, key):
    return [int(word) for word in draw(*map(np.uint32, (*counter, *key)))]


@pytest.mark.parametrize(("rounds", "counter", "key", "result"), KNOWN)
def test_known_answers(rounds, counter, key, result):
    assert philox4x32(words(counter), words(key), rounds) == words(result)
    if rounds == 7:
        assert drawn(words(counter), words(key)) == words(result)


def test_random_counters_and_keys():
    for row in np.random.default_rng(1).integers(0, 2**32, (200, 6)).tolist():
        assert drawn(row[:4], row[4:]) == philox4x32(row[:4], row[4:])


# From block 2**23 on the counter has a second word.
@pytest.mark.parametrize("block", [0, 1, 2**23 - 1, 2**23, 2**23 + 5, 2**40 + 3])
def test_a_block_holds_the_draws_of_its_counters(block):
    key = (0x12345678, 0x9ABCDEF0)
    out = np.zeros(philox.BLOCK_WORDS, np.uint32)
    philox.fill_block(block, tuple(map(np.uint32, key)), out)
    counters = philox.BLOCK_WORDS // 4
    expected = np.zeros((4, counters), np.uint32)
    for j in range(counters):
        number = block * counters + j
        expected[:, j] = philox4x32((number % 2**32, number >> 32, 0, 0), key)
    np.testing.assert_array_equal(out, expected.ravel())


def test_further_words_share_no_counter_with_blocks_or_each_other():
    key = (np.uint32(1), np.uint32(2))
    for index in (0, 7, 2**32 + 7):
        for number in (0, 1, 5):
            expected = philox4x32((index % 2**32, index >> 32, number + 1, 0), (1, 2))[0]
            assert int(further_word(index, number, key)) == expected


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1, 2**64 + 5, -1])
def test_a_seed_is_a_key_modulo_two_to_the_64(seed):
    first, second = philox.key_of(seed)
    assert int(first) + (int(second) << 32) == seed % 2**64


def test_without_a_seed_keys_differ():
    assert len({philox.key_of(None) for _ in range(20)}) == 20


def test_a_step_of_a_sum_draws_what_nothing_else_does():
    key = (np.uint32(3), np.uint32(4))
    for element, step, stream in ((0, 0, 0), (5, 2, 1), (2**32 + 1, 2**31, 3)):
        a, b, _, _ = philox4x32((element % 2**32, element >> 32, step, stream + 1), (3, 4))
        word = int(step_bits(element, step, stream, key, np.uint64(8)))
        assert word == (a << 32 | b) >> 8 << 8


def test_an_element_has_the_words_it_has_in_its_block():
    key = (np.uint32(5), np.uint32(6))
    block = np.empty(philox.BLOCK_WORDS, np.uint32)
    for number in (0, 3, 2**24):
        philox.fill_block(number, key, block)
        for place in (0, 1, 511, 512, 1023):
            expected = int(block[place]) << 32 | int(block[1024 + place])
            assert int(element_word(number * 1024 + place, key)) == expected
