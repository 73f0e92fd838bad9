"""Message headers: dataclasses <-> JSON. What a stranger wrote is held to the annotated types (stdlib only)."""

from __future__ import annotations

import functools
import json
import math
import typing
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar

MAX_ITEMS = 4096  # elements of a list or table
MAX_TEXT = 1024  # characters of a string

T = TypeVar("T")
Check = Callable[[Any], Any]


class MessageError(ValueError):
    """Bytes that are no message of this version. One line: where, what was asked, what was there."""


def dumps(header: dict[str, Any]) -> bytes:
    """UTF-8 JSON; ValueError for NaN and infinities, TypeError for what JSON has no word for."""
    return _JSON.encode(header).encode()


def loads(text: bytes) -> dict[str, Any]:
    """A JSON object; MessageError for anything else."""
    try:
        header = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise MessageError("header: nested too deeply") from None
    except ValueError as error:  # also bad UTF-8, and an integer of 5,000 digits
        raise MessageError(f"header: not JSON: {str(error)[:200]}") from None
    if type(header) is not dict:
        raise MessageError(f"header: asked a JSON object, got {_brief(header)}")
    return header


def plain(value: Any) -> Any:
    """Dataclasses as dicts, all the way down (dataclasses.asdict copies, ten times slower)."""
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in names(type(value))}  # type: ignore[arg-type]
    return [plain(item) for item in value] if type(value) is tuple else value


def line(text: str) -> str:
    """`text` as readers take it: one printable line of at most MAX_TEXT characters."""
    return "".join([char if char.isprintable() else " " for char in text[:MAX_TEXT]])


def read(kind: type[T], table: Any, **given: Any) -> T:
    """`table` as the dataclass `kind`: unknown fields are ignored, `given` fields are taken as they are."""
    if type(table) is not dict:
        raise MessageError(f"asked an object, got {_brief(table)}")
    values = dict(given)
    for name, check, required in _checks(kind):  # type: ignore[arg-type]
        if name in given:
            continue
        if name in table:
            try:
                values[name] = check(table[name])
            except MessageError as error:
                raise MessageError(f"{name}: {error}") from None
        elif required:
            raise MessageError(f"{name}: missing")
    return kind(**values)


@functools.cache
def names(kind: type) -> tuple[str, ...]:
    """A dataclass's fields."""
    return tuple(item.name for item in fields(kind))


@functools.cache
def _checks(kind: Any) -> list[tuple[str, Check, bool]]:
    """Per field of a dataclass: name, check, required."""
    hints = typing.get_type_hints(kind)
    return [
        (item.name, _check(hints[item.name]), item.default is MISSING and item.default_factory is MISSING)
        for item in fields(kind)
    ]


def _check(kind: Any) -> Check:
    """The function that returns its argument as a `kind` or raises MessageError."""
    if kind in _SIMPLE:
        return _SIMPLE[kind]
    if is_dataclass(kind):
        return functools.partial(read, typing.cast(type, kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return functools.partial(_choice, arguments)
    if origin is dict:
        return functools.partial(_table, _check(arguments[1]))
    if origin is tuple and arguments[-1] is Ellipsis:
        return functools.partial(_list, _check(arguments[0]), None)
    if origin is tuple:  # all of one kind
        return functools.partial(_list, _check(arguments[0]), len(arguments))
    return functools.partial(_never, kind)  # a field that must be given


def _integer(value: Any) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise MessageError(f"asked an integer of 64 bits, got {_brief(value)}")
    return value


def _number(value: Any) -> float:
    if type(value) is float and math.isfinite(value):
        return value
    try:
        return float(_integer(value))
    except MessageError:
        raise MessageError(f"asked a finite number, got {_brief(value)}") from None


def _text(value: Any) -> str:
    # printable: no lone surrogates, and no control characters on their way to somebody's terminal
    if type(value) is not str or len(value) > MAX_TEXT or not value.isprintable():
        raise MessageError(f"asked a printable string, got {_brief(value)}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise MessageError(f"asked true or false, got {_brief(value)}")
    return value


def _choice(choices: tuple[str, ...], value: Any) -> str:
    if type(value) is not str or value not in choices:
        raise MessageError(f"asked one of {', '.join(choices)}, got {_brief(value)}")
    return value


def _list(check: Check, length: int | None, value: Any) -> tuple[Any, ...]:
    if type(value) is not list or len(value) > MAX_ITEMS or length not in (None, len(value)):
        raise MessageError(f"asked a list of {'items' if length is None else length}, got {_brief(value)}")
    return tuple([check(item) for item in value])


def _table(check: Check, value: Any) -> dict[str, Any]:
    if type(value) is not dict or len(value) > MAX_ITEMS:
        raise MessageError(f"asked an object, got {_brief(value)}")
    return {_text(name): check(item) for name, item in value.items()}


def _never(kind: Any, value: Any) -> Any:
    raise TypeError(f"{kind} cannot be read from a header")


_SIMPLE: dict[Any, Check] = {int: _integer, float: _number, str: _text, bool: _flag}


def _brief(value: Any) -> str:
    """A stranger's value in a message of ours: its type and at most 40 characters, none of them odd."""
    if type(value) is int and not -(2**63) <= value < 2**63:
        return "a longer integer"  # never turned into text: that is quadratic, and refused from 4,300 digits
    if type(value) in (list, dict):
        return f"{'a list' if type(value) is list else 'an object'} of {len(value)}"
    return ascii(value[:40] if type(value) is str else value)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _numpy_item(value: Any) -> Any:
    """numpy scalars, as the network's regions have them, are numbers to JSON."""
    try:
        return value.item()
    except AttributeError:
        raise TypeError(f"{type(value).__name__} in a message header") from None


_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False, default=_numpy_item)
