"""Byte-level BPE by its definition: no code shared with the package tokenizers."""

import itertools

import regex

# GPT-2's words: R. Sennrich et al., arXiv 1508.07909, on bytes, within words of this pattern.
WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")


def alphabet():
    """The character that stands for each byte: itself if it can be seen, else one from U+0100."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def pieces(text, digits):
    """Words; where every digit is one, they are cut out first."""
    parts = regex.split(r"(\p{N})", text) if digits else [text]
    return [word for part in parts for word in WORDS.findall(part)]


def merged(word, ranks):
    """A word's symbols, the pair of lowest rank joined first, from the left."""
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
    """The numbers of a text's tokens; bytes that are no tokens are left out."""
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
            found += [numbers[symbol] for symbol in merged(known, ranks)]
    return found
