"""Protobuf's text format, as much of it as a model's configuration takes.

https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Value", "Word", "message"]


class Word(str):
    """The name of an enum's value, which stands without quotes."""

    __slots__ = ()


#: A field's value; a sequence is a repeated field, a mapping a message. None is a field that is not there.
Value: TypeAlias = "str | int | Mapping[str, Value] | Sequence[Value] | None"


def message(fields: Mapping[str, Value]) -> str:
    """The text of a message: one line a scalar, and messages in braces, indented."""
    return "".join(f"{line}\n" for line in _lines(fields))


def _lines(fields: Mapping[str, Value]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, Mapping):
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(value))
            yield "}"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(one, str | int) for one in value):
                yield f"{name}: [{', '.join(_scalar(one) for one in value)}]"
            else:
                for one in value:
                    yield from _lines({name: one})
        elif value is not None:
            yield f"{name}: {_scalar(value)}"


def _scalar(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Word | int):
        return str(value)
    text = "".join(_escaped(byte) for byte in str(value).encode())
    return f'"{text}"'


def _escaped(byte: int) -> str:
    """One byte of a string; what is not printable ASCII in octal."""
    character = chr(byte)
    if character in '"\\':
        return f"\\{character}"
    return character if 32 <= byte < 127 else f"\\{byte:03o}"
