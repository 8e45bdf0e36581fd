"""Reading JSON that somebody may have changed: one decoder, strict and bounded, for every record that we write.

A field that is missing, unknown or of another type is an error that names it, so that nothing is run under wrong
assumptions. What a number may be is its dataclass's question (``__post_init__``).
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

__all__ = ["decode", "parse_json"]

#: Values are quoted in messages up to here.
_QUOTED = 60
#: Of an integer: what 64 bits hold.
_DIGITS = 20


def parse_json(text: str) -> Any:
    """The value of ``text``.

    Raises:
        ValueError: not JSON, NaN or infinity in it, nested too deeply, or a number that no record has.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_int=_integer, parse_float=_number)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"holds a number of {len(text)} digits")
    return int(text)


def _number(text: str) -> float:
    """1e400 is a number in JSON, and infinity in floating point."""
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:_QUOTED])


def decode(kind: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one a kind
    """``value`` as ``kind``: a dataclass, str, int, float, bool, Any, Literal, tuple[X, ...], dict[str, X] or X | None.

    Raises:
        ValueError: it is not; the message names the field, which is at ``where``.
    """
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else decode(inner, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where} is {_quoted(value)}, expected one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if origin is not None or isinstance(value, bool) != (kind is bool) or not isinstance(value, accepted):
        raise ValueError(f"{where} is {_quoted(value)}, expected {getattr(kind, '__name__', kind)}")
    return kind(value)


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_quoted(value)}, expected an object")
    hints = get_type_hints(kind)
    required = {
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    for problem, names in (("lacks", required - value.keys()), ("has the unknown", value.keys() - hints.keys())):
        if names:
            raise ValueError(f"{where} {problem} {', '.join(sorted(names))[:_QUOTED]}")
    return kind(**{key: decode(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(value) if len(text) <= _QUOTED else f"{text[:_QUOTED]!r}..."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"holds {constant}")
