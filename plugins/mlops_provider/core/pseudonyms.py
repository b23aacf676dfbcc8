"""What entities are called in logs: the cells of their keys as one text, with a keyed hash where that is declared."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from mlops_provider.exceptions import ConfigurationError

SHORTEST = 16
"""Characters of a secret, at least."""
_written = json.JSONEncoder(separators=(",", ":")).encode
_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")


def text_of(value: Any) -> str:
    """
    Write the cell of a key the one way in which it is compared: 7 and 7.0 are the same, so is a time in any zone.

    :param value: Text, number, flag or time; a time without a zone is UTC.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime) or (isinstance(value, str) and _TIME.fullmatch(value)):
        try:
            time = datetime.fromisoformat(value) if isinstance(value, str) else value
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
        except (ValueError, OverflowError):  # no time, or in UTC before the year 1 or after 9999
            return str(value)
    return value.isoformat() if isinstance(value, date) else str(value)


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """
    Replaces the cells of declared columns by HMAC-SHA256 of column and cell, RFC 2104.

    A pseudonym is ``<ID of the secret>:<hex>``, so that secrets can be changed: the first one writes, all are known.

    :param columns: Columns that no log may hold in plain.
    :param secrets: ID and secret, the one that writes first.
    """

    columns: tuple[str, ...] = ()
    secrets: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(cls, columns: Sequence[str], text: str) -> Pseudonyms:
        """
        Read secrets as a setting has them: ``id secret``, separated by commas, the one that writes first.

        :raises ConfigurationError: *columns* are declared and there is no secret, or one is not of that form. Not
            retried.
        """
        secrets = []
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, secret = entry.partition(" ")
            secret = secret.strip()
            if not _ID.fullmatch(name) or len(secret) < SHORTEST:
                raise ConfigurationError(
                    "MLOPS_PSEUDONYM_KEYS must hold `id secret`, separated by commas: an ID of up to 32 letters and "
                    f"digits, and a secret of at least {SHORTEST} characters, such as `openssl rand -hex 32` gives."
                )
            secrets.append((name, secret.encode()))
        if columns and not secrets:
            raise ConfigurationError(
                f"model.yaml declares pseudonyms for {', '.join(columns)} (serving: pseudonymise), and there is no "
                "secret to make them with: set MLOPS_PSEUDONYM_KEYS to `<id> <secret>`, the same for servers and tasks."
            )
        return cls(tuple(columns), tuple(secrets))

    def cell(self, column: str, value: Any, number: int = 0) -> Any:
        """
        Give what a log may hold of a cell: itself, or its pseudonym; nothing stays nothing.

        :param number: Which secret, from 0.
        """
        if column not in self.columns or value is None or value != value:  # noqa: PLR0124 - NaN
            return value
        name, secret = self.secrets[number]
        said = f"{column}\0{text_of(value)}".encode()
        return f"{name}:{hmac.digest(secret, said, 'sha256').hex()}"

    def identity(self, keys: Sequence[str], cells: Mapping[str, Any], number: int = 0) -> str:
        """Write an entity's keys as one text, in the order of *keys*."""
        return _written([text_of(self.cell(key, cells[key], number)) for key in keys])

    def identities(self, keys: Sequence[str], cells: Mapping[str, Any]) -> Iterator[str]:
        """Every text that an entity may be known by: one per secret, if any of its keys has a pseudonym."""
        numbers = range(len(self.secrets)) if set(self.columns) & set(keys) else range(1)
        return (self.identity(keys, cells, number) for number in numbers)
