"""Byte-level BPE by its definition: no code shared with the package tokenizers."""

import itertools

import regex

# GPT-2's words: R. Sennrich et al., arXiv 1508.07909, on bytes, within words of this pattern.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def alphabet():
    """The character that stands for each byte: its own if it is printable, else one from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {b: chr(256 + i) for i, b in enumerate(rest)}


def pieces(text, digits):
    """The words of a text; with `digits`, every digit is one."""
    parts = regex.split(r"(\p{N})", text) if digits else [text]
    return [word for part in parts for word in WORDS.findall(part)]


def merge(word, ranks):
    """The symbols of a word, after pairs are joined in the order of their ranks."""
    symbols = list(word)
    while len(symbols) > 1:
        pairs = list(itertools.pairwise(symbols))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        at = pairs.index(best)
        symbols[at : at + 2] = ["".join(best)]
    return symbols


def encode(text, tokens, merges, *, special=(), digits=False):
    """The token numbers of a text; bytes without a token are left out."""
    numbers = {token: number for number, token in enumerate(tokens)}
    ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(merges)}
    letters = alphabet()
    found = []
    names = "|".join(regex.escape(name) for name in sorted(special, key=len, reverse=True))
    for part in regex.split(f"({names})", text) if special else [text]:
        if part in special:
            found.append(numbers[part])
            continue
        for piece in pieces(part, digits):
            symbols = [letters[byte] for byte in piece.encode()]
            known = [symbol for symbol in symbols if symbol in numbers]
            found += [numbers[symbol] for symbol in merge(known, ranks)]
    return found
