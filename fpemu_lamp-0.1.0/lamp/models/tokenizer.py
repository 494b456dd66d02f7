"""Tokenizers: text to tokens and back, by the library tokenizers.

That library reads a directory's ``tokenizer.json`` alone where transformers would take the file as
it stands; :attr:`TokenizerFiles.needs_transformers` says where it would not.  A directory with
nothing but SentencePiece's ``tokenizer.model`` is read by :mod:`lamp.models.sentencepiece`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lamp._files import read_object

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer", "TokenizerFiles", "add_special_tokens"]

_ROLES: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""Roles of special tokens, in the order in which transformers adds them to a vocabulary."""
_TOKEN_FIELDS: Final = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_GENERAL: Final = ("PreTrainedTokenizer", "TokenizersBackend")
"""transformers' classes that take a ``tokenizer.json`` as it stands."""
_GPT2: Final = "GPT2Tokenizer"
_GPT2_TOKENS: Final = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_GPT2_LACKS: Final = (
    "byte_fallback",
    "continuing_subword_prefix",
    "dropout",
    "end_of_word_suffix",
    "ignore_merges",
    "unk_token",
)
"""Options of byte-pair encoding that GPT-2 does without."""


class Tokenizer:
    """Text to tokens and back.

    The methods are those of transformers' tokenizers that lamp uses, under the same names.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Encodes and decodes.
    special_tokens_map : mapping of str to str
        Tokens by their roles, such as ``"eos_token"``.
    chat_template : str, optional
        A jinja2 template of conversations.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        special_tokens_map: Mapping[str, str],
        chat_template: str | None = None,
    ) -> None:
        self.backend = backend
        self.special_tokens_map = special_tokens_map
        self.chat_template = chat_template

    @property
    def bos_token(self) -> str | None:
        """The token that begins a text."""
        return self.special_tokens_map.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self.special_tokens_map.get("eos_token")

    @property
    def bos_token_id(self) -> int | None:
        """The number of the token that begins a text."""
        return None if self.bos_token is None else self.backend.token_to_id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """The number of the token that ends a text."""
        return None if self.eos_token is None else self.backend.token_to_id(self.eos_token)

    def __len__(self) -> int:
        return self.backend.get_vocab_size()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The token numbers of a text.

        Parameters
        ----------
        text : str
        add_special_tokens : bool
            Whether to add the tokens that begin and end a text, if the tokenizer is made so.

        Returns
        -------
        list of int
        """
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token numbers.

        Parameters
        ----------
        tokens : sequence of int
        skip_special_tokens : bool
            Whether to leave special tokens out of the text.

        Returns
        -------
        str
        """
        return self.backend.decode(tokens, skip_special_tokens=skip_special_tokens)

    def convert_ids_to_tokens(self, tokens: Iterable[int]) -> list[str | None]:
        """The vocabulary's entries of token numbers.

        Parameters
        ----------
        tokens : iterable of int

        Returns
        -------
        list of str
            With None for numbers that are not in the vocabulary.
        """
        return [self.backend.id_to_token(int(token)) for token in tokens]

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        *,
        tokenize: bool = True,
        add_generation_prompt: bool = False,
    ) -> str | list[int]:
        """A conversation in the form that the model was trained on.

        Parameters
        ----------
        conversation : sequence of mapping
            Messages, each with a ``"role"`` and a ``"content"``.
        tokenize : bool
            Whether to return token numbers instead of text.
        add_generation_prompt : bool
            Whether to end with the beginning of an answer.

        Returns
        -------
        list of int or str

        Raises
        ------
        ValueError
            If there is no chat template.
        jinja2.TemplateError
            If the template is broken, or refuses the conversation.
        """
        from lamp.models import chat

        if self.chat_template is None:
            raise ValueError("the tokenizer has no chat template")
        text = chat.render(
            self.chat_template,
            conversation,
            add_generation_prompt=add_generation_prompt,
            variables=self.special_tokens_map,
        )
        return self.encode(text, add_special_tokens=False) if tokenize else text


def add_special_tokens(backend: tokenizers.Tokenizer, tokens: Iterable[Any]) -> None:
    """Add tokens to a tokenizer that are never split.

    Parameters
    ----------
    backend : tokenizers.Tokenizer
        Is changed.
    tokens : iterable of str or tokenizers.AddedToken
        Those that are among its added tokens already are left as they are.
    """
    from tokenizers import AddedToken

    added = [AddedToken(each, special=True) if isinstance(each, str) else each for each in tokens]
    backend.add_tokens(added)


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files of a directory say about a tokenizer.

    Parameters
    ----------
    path : Path
        The directory.
    description : mapping
        The content of ``tokenizer.json``; empty if there is no such file.
    settings : mapping
        The content of ``tokenizer_config.json``; special tokens may be in a file of their own.
    kind : str
        The class in transformers, without ``Fast`` at its end.
    is_of_another_model : bool
        Whether the model is not a GPT-2.
    """

    path: Path
    description: Mapping[str, Any]
    settings: Mapping[str, Any]
    kind: str
    is_of_another_model: bool = False

    @classmethod
    def of(cls, path: Path, config: Mapping[str, Any]) -> TokenizerFiles:
        """Read the files of a directory.

        Parameters
        ----------
        path : Path
        config : mapping
            The content of ``config.json``.

        Returns
        -------
        TokenizerFiles

        Raises
        ------
        ValueError
            If a file is not a JSON object.
        """
        settings = _read(path / "tokenizer_config.json")
        if "added_tokens_decoder" not in settings:
            settings |= _read(path / "special_tokens_map.json")
        named = settings.get("tokenizer_class") or config.get("tokenizer_class")
        is_other = config.get("model_type") != "gpt2"
        kind = str(named or (_GENERAL[0] if is_other else _GPT2)).removesuffix("Fast")
        return cls(path, _read(path / "tokenizer.json"), settings, kind, is_other)

    @property
    def needs_transformers(self) -> str:
        """Why transformers has to read the files; empty if it is not needed.

        transformers takes a ``tokenizer.json`` as it stands for its general class, and for Llama's
        if it is byte-level.  For GPT-2's class it takes the vocabulary and the merges alone: that
        makes no difference to a file that is like GPT-2's in everything else.  A model of another
        type that names GPT-2's class, as SmolLM2 does, was trained on the tokens of its own
        ``tokenizer.json``: it is taken as it stands.
        """
        if not self.description:
            return "" if self._pieces.is_file() else "it has no tokenizer.json"
        if (self.path / "added_tokens.json").is_file() and not self._decoder:
            return "it has an added_tokens.json"
        if self.settings.get("clean_up_tokenization_spaces") and not self._is_bpe:
            return "it cleans up the spaces of decoded texts"
        if self.kind in _GENERAL or (self.kind == "LlamaTokenizer" and self._is_byte_level):
            return ""
        if self.kind == _GPT2:
            plain = self.is_of_another_model or self._is_like_gpt2
            return "" if plain else "its tokenizer.json is not like GPT-2's"
        return f"it is a {self.kind}"

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, without transformers.

        Returns
        -------
        Tokenizer
        """
        backend, usual = self._of_json() if self.description else self._of_sentencepiece()
        backend.encode_special_tokens = bool(self.settings.get("split_special_tokens", False))
        special = dict(self._special(usual))
        extra = self.settings.get("extra_special_tokens")
        extra = extra or self.settings.get("additional_special_tokens") or ()
        listed = [] if isinstance(extra, dict) else [_token(token) for token in extra]
        add_special_tokens(backend, [*self._added(), *special.values(), *listed])
        names = {
            role: token if isinstance(token, str) else token.content
            for role, token in special.items()
        }
        if not self.description:
            backend.post_processor = self._ends(names, backend)
        return Tokenizer(backend, names, self._chat_template())

    @property
    def _pieces(self) -> Path:
        """Where SentencePiece's own file is."""
        return self.path / "tokenizer.model"

    def _of_json(self) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
        """The tokenizer of ``tokenizer.json``, and special tokens that settings need not name."""
        import tokenizers

        backend = tokenizers.Tokenizer.from_file(str(self.path / "tokenizer.json"))
        backend.no_truncation()
        backend.no_padding()
        padding = self.description.get("padding") or {}
        usual = _GPT2_TOKENS if self.kind == _GPT2 else {"pad_token": padding.get("pad_token")}
        return backend, usual

    def _of_sentencepiece(self) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
        """The same of ``tokenizer.model``."""
        from lamp.models import sentencepiece

        pieces = sentencepiece.read_pieces(self._pieces)
        spaces_inside = bool(self.settings.get("legacy", True))
        backend = sentencepiece.backend(pieces, spaces_inside=spaces_inside)
        return backend, {role: pieces.words[number] for role, number in pieces.special.items()}

    def _ends(self, names: Mapping[str, str], backend: tokenizers.Tokenizer) -> Any:
        """A post-processor that puts tokens around every text as Llama's settings say."""
        from tokenizers import processors

        def around(role: str, default: bool) -> list[str]:
            wanted = self.settings.get(f"add_{role}", default) and role in names
            return [names[role]] if wanted else []

        first, last = around("bos_token", True), around("eos_token", False)
        return processors.TemplateProcessing(
            single=[*first, "$A", *last],
            pair=[*first, "$A", *last, *first, "$B:1", *last],
            special_tokens=[(token, backend.token_to_id(token)) for token in {*first, *last}],
        )

    @property
    def _decoder(self) -> Mapping[str, Any]:
        """Added tokens by their numbers, where the settings list them."""
        found: Mapping[str, Any] = self.settings.get("added_tokens_decoder") or {}
        return found

    def _added(self) -> list[Any]:
        return [_token(self._decoder[number]) for number in sorted(self._decoder, key=int)]

    def _special(self, usual: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Special tokens by their roles: the usual roles, then a model's own."""
        settings = {**usual, **self.settings}
        own = [name for name in settings if name.endswith("_token") and name not in _ROLES]
        for name in (*_ROLES, *own):
            if isinstance(settings.get(name), (str, dict)):
                yield name, _token(settings[name])
        extra = self.settings.get("extra_special_tokens")
        for name, token in extra.items() if isinstance(extra, dict) else ():
            yield name, _token(token)

    def _chat_template(self) -> str | None:
        """The template of a file of its own, or the one in the settings."""
        file = self.path / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self.settings.get("chat_template")
        if isinstance(template, list):
            template = {each["name"]: each["template"] for each in template}
        if isinstance(template, dict):
            template = template.get("default")
        return None if template is None else str(template)

    @property
    def _is_bpe(self) -> bool:
        return bool(self.description["model"].get("type") == "BPE")

    @property
    def _is_byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(self.description)

    @property
    def _is_like_gpt2(self) -> bool:
        """Whether everything but vocabulary and merges is as in GPT-2."""
        words = self.description.get("pre_tokenizer") or {}
        decoder = self.description.get("decoder") or {}
        own = {str(token["id"]): token for token in self.description.get("added_tokens") or ()}
        return bool(
            self._is_bpe
            and not any(self.description["model"].get(option) for option in _GPT2_LACKS)
            and not self.description.get("normalizer")
            and words.get("type") == "ByteLevel"
            and words.get("use_regex", True)
            and words.get("add_prefix_space") == self.settings.get("add_prefix_space", False)
            and decoder.get("type") == "ByteLevel"
            and (not self._decoder or _alike(own, self._decoder))
        )


def _read(file: Path) -> dict[str, Any]:
    """A JSON object; an empty one if there is no such file."""
    return read_object(file) if file.is_file() else {}


def _token(entry: Any) -> Any:
    """A token from a file: a string, or an AddedToken with what else the file says of it."""
    from tokenizers import AddedToken

    if isinstance(entry, str):
        return entry
    return AddedToken(**{"special": True, **_fields(entry)})


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in _TOKEN_FIELDS if name in entry}


def _alike(tokens: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    """Whether two lists of added tokens are the same."""
    first, second = (
        {number: _fields(entry) for number, entry in each.items()} for each in (tokens, others)
    )
    return first == second
