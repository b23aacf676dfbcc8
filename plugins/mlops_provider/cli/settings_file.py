"""Read ``airflow_settings.yaml``, the Astro format, and say with line numbers what is wrong in it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mlops_provider.checked_yaml import Document, Location, Problem

_REFERENCE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^}]*))?\}|(?P<stray>\{[^}]*\}?))"
)


def _text(value: Any) -> Any:
    # Says less than pydantic would: the value may be a password. Unquoted, YAML reads 0123 as 83.
    if value is not None and not isinstance(value, str):
        raise ValueError("expected a text; put it in quotes.")
    return value


def _extra(value: Any) -> Any:
    if value is not None and not isinstance(value, str | dict):
        raise ValueError("expected keys and values, or a JSON object as text.")
    return value


def _list(value: Any) -> Any:
    return () if value is None else value


Text = Annotated[str | None, BeforeValidator(_text)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @property
    def empty(self) -> bool:
        """Whether no field is filled, as in Astro's template."""
        return all(value is None for value in self.model_dump().values())


class ConnectionEntry(_Entry):
    """A connection, as written."""

    conn_id: Text = None
    conn_type: Text = None
    conn_host: Text = None
    conn_login: Text = None
    conn_password: Text = None
    conn_schema: Text = None
    conn_port: int | str | None = Field(default=None, union_mode="left_to_right")
    conn_extra: Annotated[Any, BeforeValidator(_extra)] = None
    conn_description: Text = None


class PoolEntry(_Entry):
    """A pool, as written."""

    pool_name: Text = None
    pool_slot: int | None = None
    pool_description: Text = None
    pool_include_deferred: bool | None = None


class VariableEntry(_Entry):
    """A variable, as written; a value that is no text is stored as JSON."""

    variable_name: Text = None
    variable_value: Any = None
    variable_description: Text = None


class Sections(BaseModel):
    """What stands under ``airflow``."""

    model_config = _Entry.model_config

    connections: Annotated[tuple[ConnectionEntry, ...], Field(strict=False), BeforeValidator(_list)] = ()
    pools: Annotated[tuple[PoolEntry, ...], Field(strict=False), BeforeValidator(_list)] = ()
    variables: Annotated[tuple[VariableEntry, ...], Field(strict=False), BeforeValidator(_list)] = ()


class SettingsFile(BaseModel):
    """The whole file, before anything is taken from the environment."""

    model_config = _Entry.model_config

    airflow: Sections


@dataclass(frozen=True, slots=True)
class DeclaredConnection:
    """A connection; everything but its ID and type may be secret."""

    conn_id: str
    conn_type: str
    description: str | None = None
    host: str | None = field(default=None, repr=False)
    login: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    schema: str | None = field(default=None, repr=False)
    port: int | None = None
    extra: Mapping[str, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class DeclaredPool:
    """A pool."""

    name: str
    slots: int
    description: str = ""
    include_deferred: bool = False


@dataclass(frozen=True, slots=True)
class DeclaredVariable:
    """A variable; its value may be secret."""

    key: str
    value: str = field(repr=False)
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Declared:
    """All that the file declares."""

    connections: tuple[DeclaredConnection, ...]
    pools: tuple[DeclaredPool, ...]
    variables: tuple[DeclaredVariable, ...]


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Declared:
    """
    Read and check a settings file in the Astro format.

    ``${NAME}`` in a value is taken from *environment*, ``${NAME:-text}`` with a default, ``$$`` is a dollar
    sign. They are filled in after the file was parsed, so a secret can't change its structure.

    :raises SpecError: Each line of the message is ``file:line: what, expected what``; it holds no value of a
        connection.
    """
    document = Document(path)
    sections = document.check(SettingsFile).airflow
    reading = _Reading(environment)
    declared = Declared(
        connections=tuple(
            reading.connection(("airflow", "connections", index), entry)
            for index, entry in enumerate(sections.connections)
            if not entry.empty
        ),
        pools=tuple(
            reading.pool(("airflow", "pools", index), entry)
            for index, entry in enumerate(sections.pools)
            if not entry.empty
        ),
        variables=tuple(
            reading.variable(("airflow", "variables", index), entry)
            for index, entry in enumerate(sections.variables)
            if not entry.empty
        ),
    )
    if reading.problems:
        raise document.error(reading.problems)
    return declared


class _Reading:
    """Fills in the environment and collects every problem with its place."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.problems: list[Problem] = []
        self.seen: set[tuple[str, str]] = set()

    def connection(self, place: Location, entry: ConnectionEntry) -> DeclaredConnection:
        return DeclaredConnection(
            conn_id=self.name(place, "conn_id", entry.conn_id),
            conn_type=self.required(place, "conn_type", entry.conn_type),
            description=self.filled((*place, "conn_description"), entry.conn_description),
            host=self.filled((*place, "conn_host"), entry.conn_host),
            login=self.filled((*place, "conn_login"), entry.conn_login),
            password=self.filled((*place, "conn_password"), entry.conn_password),
            schema=self.filled((*place, "conn_schema"), entry.conn_schema),
            port=self.port((*place, "conn_port"), entry.conn_port),
            extra=self.extra((*place, "conn_extra"), entry.conn_extra),
        )

    def pool(self, place: Location, entry: PoolEntry) -> DeclaredPool:
        if entry.pool_slot is None:
            self.problems.append(((*place, "pool_slot"), "required, but missing."))
        return DeclaredPool(
            name=self.name(place, "pool_name", entry.pool_name),
            slots=entry.pool_slot or 0,
            description=self.filled((*place, "pool_description"), entry.pool_description) or "",
            include_deferred=bool(entry.pool_include_deferred),
        )

    def variable(self, place: Location, entry: VariableEntry) -> DeclaredVariable:
        value = self.filled((*place, "variable_value"), entry.variable_value)
        if value is None:
            self.problems.append(((*place, "variable_value"), "required, but missing."))
        return DeclaredVariable(
            key=self.name(place, "variable_name", entry.variable_name),
            value=value if isinstance(value, str) else json.dumps(value),
            description=self.filled((*place, "variable_description"), entry.variable_description),
        )

    def name(self, place: Location, field_name: str, value: str | None) -> str:
        text = self.required(place, field_name, value)
        if text and (field_name, text) in self.seen:
            self.problems.append(((*place, field_name), f"{text!r} is declared twice."))
        self.seen.add((field_name, text))
        return text

    def required(self, place: Location, field_name: str, value: str | None) -> str:
        text = self.filled((*place, field_name), value)
        if not value:
            self.problems.append(((*place, field_name), "required, but missing."))
        return text or ""

    def port(self, place: Location, value: int | str | None) -> int | None:
        text = self.filled(place, value)
        if text is None or text == "":
            return None
        if not re.fullmatch(r"\d{1,5}", str(text)) or not 0 < int(text) < 65536:
            self.problems.append((place, "expected a port, 1 to 65535."))
            return None
        return int(text)

    def extra(self, place: Location, value: Any) -> Mapping[str, Any] | None:
        extra = self.filled(place, value)
        if isinstance(extra, str):
            try:
                extra = json.loads(extra) if extra else None
            except ValueError:
                extra = False
        if extra is not None and not isinstance(extra, dict):
            self.problems.append((place, "expected keys and values, or a JSON object as text."))
            return None
        return extra

    def filled(self, place: Location, value: Any) -> Any:
        """Give *value* with every reference in it, at any depth, taken from the environment."""
        if isinstance(value, dict):
            return {key: self.filled((*place, str(key)), inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.filled((*place, index), inner) for index, inner in enumerate(value)]
        if isinstance(value, str):
            return _REFERENCE.sub(lambda match: self.referred(place, match), value)
        return value

    def referred(self, place: Location, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["stray"]:
            self.problems.append((place, "expected ${NAME} or ${NAME:-default}; a dollar sign is written $$."))
            return ""
        found = self.environment.get(match["name"]) or match["default"]
        if found is None:
            self.problems.append((place, f"environment variable {match['name']} is not set, or empty."))
        return found or ""
