"""JSON in and out for the frozen dataclasses that cross XCom and the ledger."""

from __future__ import annotations

import dataclasses
import functools
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from mlops_provider.exceptions import EvidenceError


class Payload:
    """
    Base of a dataclass that can be stored as JSON and read back equal.

    Reading is strict about types and missing fields, and ignores fields that it does not know, so that an older
    reader survives a newer writer. Field types may be: ``str``, ``int``, ``float``, ``bool``, ``Any``, ``Literal``,
    other payloads, ``X | None``, ``tuple[X, ...]`` and ``Mapping[str, X]``.
    """

    __slots__ = ()

    def as_json(self) -> dict[str, Any]:
        """Fields as JSON types. Numbers become plain ``int`` and ``float``, also when NumPy's came in."""
        cls: Any = type(self)
        return {name: _encode(hint, getattr(self, name)) for name, hint in _hints(cls).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """
        Read what :meth:`as_json` wrote.

        :raises EvidenceError: A field is missing or has another type. Not retried.
        """
        try:
            decoded = _decode(cls, data, cls.__name__)
        except ValueError as error:
            raise EvidenceError(f"Cannot read a stored {cls.__name__}: {error}") from error
        return typing.cast("Self", decoded)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _optional(hint: Any) -> Any | None:
    """The ``X`` of ``X | None``; None for any other hint."""
    if get_origin(hint) not in (Union, types.UnionType):
        return None
    (inner,) = (arg for arg in get_args(hint) if arg is not type(None))
    return inner


def _encode(hint: Any, value: Any) -> Any:
    if inner := _optional(hint):
        return None if value is None else _encode(inner, value)
    origin = get_origin(hint)
    if origin is tuple:
        return [_encode(get_args(hint)[0], item) for item in value]
    if origin is Mapping:
        return {str(key): _encode(get_args(hint)[1], item) for key, item in value.items()}
    if hint is float:
        return float(value)
    if hint is int:
        return operator.index(value)
    if hint is bool:
        return bool(value)
    return value.as_json() if isinstance(value, Payload) else value


_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def _decode(hint: Any, value: Any, path: str) -> Any:
    if inner := _optional(hint):
        return None if value is None else _decode(inner, value, path)
    origin = get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _unexpected(path, "a list", value)
        return tuple(_decode(get_args(hint)[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise _unexpected(path, "a mapping", value)
        return {str(key): _decode(get_args(hint)[1], item, f"{path}[{key!r}]") for key, item in value.items()}
    if origin is Literal:
        if value not in get_args(hint):
            raise _unexpected(path, "one of " + ", ".join(map(repr, get_args(hint))), value)
        return value
    if hint in _WORDS:
        return _decode_plain(hint, value, path)
    if isinstance(hint, type) and issubclass(hint, Payload):
        return _decode_payload(hint, value, path)
    return value


def _decode_plain(hint: type, value: Any, path: str) -> Any:
    allowed = (int, float) if hint is float else hint
    if not isinstance(value, allowed) or (isinstance(value, bool) and hint is not bool):
        raise _unexpected(path, _WORDS[hint], value)
    return hint(value)


def _decode_payload(cls: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _unexpected(path, "a mapping", value)
    given = {name: _decode(hint, value[name], f"{path}.{name}") for name, hint in _hints(cls).items() if name in value}
    missing = [
        field.name
        for field in dataclasses.fields(cls)
        if field.name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing.")
    try:
        return cls(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _unexpected(path: str, expected: str, value: Any) -> ValueError:
    return ValueError(f"{path}: expected {expected}, got {type(value).__name__}.")
