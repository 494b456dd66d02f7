"""Chat templates: from messages to the text that a chat model expects.

Templates come with models and are not trusted.  They run in jinja2's sandbox with the filters and
functions that transformers gives them, none of which reaches outside.  Their work is counted in
steps, not in time: every turn of a loop, every call and filter, and what these can make of their
arguments.  A template that takes more than two million is refused, as is a result of over 2**24
characters, before it is made.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

__all__ = ["render"]

_STEPS: Final = 2 * 10**6
_LARGEST: Final = 2**24  # characters and entries of a result
_PER_STEP: Final = 2**13  # of them that count as one step
_PER_CALL: Final = 16  # steps
_PER_BIT: Final = 256  # what a bit of an integer counts as: products take long
_WIDTH: Final = re.compile(r"\d{4,18}")  # as it is written in formats
_FORMATS: Final = ("%", "format", "format_map")
_WITH_PARTS: Final = (list, tuple, set, dict, str, range)  # what has characters or entries
_AT_EVERY_PLACE: Final = ("indent", "tojson", "expandtabs")  # what an integer stands at
_SPENT: ContextVar[list[int]] = ContextVar("_SPENT")


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
        If the template is broken, refuses the messages, or takes too much work.
    """
    before = _SPENT.set([0])
    try:
        parts = _compiled(template).generate(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **(variables or {}),
        )
        return "".join(_counted(parts))
    except RecursionError as error:
        raise SecurityError("the chat template calls itself without an end") from error
    finally:
        _SPENT.reset(before)


@functools.lru_cache(8)
def _compiled(template: str) -> Template:
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json  # jinja2's own escapes characters for HTML
    environment.filters = {n: _counting(n, call) for n, call in environment.filters.items()}
    del environment.globals["lipsum"]
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": lambda format: datetime.now().strftime(format),
        "dict": lambda *arguments, **items: dict(*arguments, **items),
        "namespace": _PublicNamespace,
    }
    return environment.from_string(template)


# --- the work of a template -----------------------------------------------------------------------


def _spend(size: int = 0, steps: int = 1) -> None:
    """Count steps that can make a result of a size, and refuse them if that is too much."""
    spent = _SPENT.get()
    spent[0] += steps + size // _PER_STEP
    if spent[0] > _STEPS or size > _LARGEST:
        raise SecurityError("the chat template takes too much work: it may have no end")


def _counted(parts: Iterable[str]) -> Iterator[str]:
    """The parts of the text, which may not become too long together."""
    total = 0
    for part in parts:
        total += len(part)
        _spend(total if total > _LARGEST else len(part))
        yield part


def _size(thing: Any, depth: int = 4) -> int:
    """The characters and entries in a value; other values count as one."""
    if isinstance(thing, (str, range)):
        return len(thing)
    if not depth or not isinstance(thing, _WITH_PARTS):
        return 1
    _spend(steps=len(thing) // 2)  # it takes time to look at all of them
    entries = thing.values() if isinstance(thing, dict) else thing
    if not any(issubclass(kind, _WITH_PARTS) for kind in set(map(type, entries))):
        return len(thing) + len(entries)
    return len(thing) + sum(_size(entry, depth - 1) for entry in entries)


def _number(thing: Any) -> int:
    """How large an integer is; 0 for other values."""
    return abs(thing) if isinstance(thing, int) else 0


def _spend_on(name: str, subject: Any, arguments: Sequence[Any]) -> None:
    """Count a call.

    At worst all its arguments stand at every place of what it is called on, as in ``replace``,
    ``join`` and ``format``, and the result is widened to a number among them.
    """
    size, number = sum(map(_size, arguments)), sum(map(_number, arguments))
    if name in _AT_EVERY_PLACE:
        size += number
    if name in _FORMATS and isinstance(subject, str):
        parts = [part for each in arguments if isinstance(each, tuple) for part in each]
        number += sum(map(_number, parts)) + sum(map(int, _WIDTH.findall(subject)))
    _spend((1 + _size(subject)) * (1 + size) + number, _PER_CALL)


def _counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is counted."""

    @functools.wraps(call)  # with jinja2's marks of what it is to be passed
    def counted(*arguments: Any, **options: Any) -> Any:
        passed = (Context, EvalContext, _Environment)
        subject, *rest = (each for each in arguments if not isinstance(each, passed))
        _spend_on(name, subject, [*rest, *options.values()])
        return call(*arguments, **options)

    return counted


class _Generator(CodeGenerator):
    """Python code of templates, with loops and joined strings that are counted."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:  # noqa: N802  (jinja2's name)
        turns = nodes.EnvironmentAttribute("turns")
        node.iter = nodes.Call(turns, [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.spent_on(")
        super().visit_Concat(node, frame)
        self.write(")")


def _spend_on_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        _spend(_PER_BIT * (left.bit_length() + right.bit_length()))
    else:
        _spend(max(1, _number(left), _number(right)) * max(_length(left), _length(right)))


def _length(thing: Any) -> int:
    return len(thing) if isinstance(thing, (str, list, tuple)) else 0


_OPERATORS: Final[dict[str, Callable[[Any, Any], None]]] = {
    "+": lambda left, right: _spend(_length(left) + _length(right)),
    "*": _spend_on_product,
    "**": lambda left, right: _spend(_PER_BIT * _number(left).bit_length() * _number(right)),
    "%": lambda left, right: _spend_on("%", left, [right]),
}
"""Operators that can make large results, and what counts them."""


class _Environment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox, with calls and operators that are counted."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(_OPERATORS)

    def call(self, context: Context, called: Any, *arguments: Any, **options: Any) -> Any:
        method = getattr(called, "__wrapped__", called)  # the sandbox wraps str.format
        name, subject = getattr(method, "__name__", ""), getattr(method, "__self__", None)
        _spend_on(str(name), subject, [*arguments, *options.values()])
        return super().call(context, called, *arguments, **options)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _OPERATORS[operator](left, right)
        return super().call_binop(context, operator, left, right)

    @staticmethod
    def turns(things: Iterable[Any]) -> Iterator[Any]:
        """What a loop runs over, each turn a step."""
        for thing in things:
            _spend()
            yield thing

    @staticmethod
    def spent_on(text: str) -> str:
        """A joined string, counted."""
        _spend(len(text))
        return text


# --- what templates use ---------------------------------------------------------------------------


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
