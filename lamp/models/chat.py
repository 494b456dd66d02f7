"""Chat templates: from messages to the text that a chat model expects.

Templates come with models and are not trusted.  They run in jinja2's sandbox with the filters and
functions that transformers gives them, none of which reaches outside.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Template, nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["render"]


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = False,
    variables: Mapping[str, str] | None = None,
) -> str:
    """The text of messages by a chat template.

    Parameters
    ----------
    template : str
        In jinja2's language.
    messages : sequence of mapping
        Each has a ``"role"`` and a ``"content"``.
    add_generation_prompt : bool
        Whether the text ends with the beginning of an answer.
    variables : mapping of str to str, optional
        More variables, such as ``bos_token``.

    Returns
    -------
    str

    Raises
    ------
    jinja2.TemplateError
        If the template is broken, or refuses the messages.
    """
    return _compiled(template).render(
        messages=[dict(message) for message in messages],
        tools=None,
        documents=None,
        add_generation_prompt=add_generation_prompt,
        **(variables or {}),
    )


@functools.lru_cache(8)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json  # jinja2's own escapes characters for HTML
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": lambda *arguments, **items: dict(*arguments, **items),
        "namespace": _PublicNamespace,
    }
    return environment.from_string(template)


class _Generation(Extension):
    """The block ``generation``, which marks an answer for training and has no effect here."""

    tags = {"generation"}  # noqa: RUF012  (as in the base class)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _PublicNamespace(Namespace):
    """jinja2's ``namespace`` without names that begin with an underscore."""

    def __init__(*arguments: Any, **items: Any) -> None:
        self, *given = arguments
        values = dict(*given, **items)
        for name in values:
            _refuse_underscore(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace of a chat template has no {name!r}")


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
