"""
Airflow's own models: connections, pools and variables as rows.

The only module that touches Airflow's database. In-process and in one transaction, because the public
``airflow connections import`` and its siblings cannot say what they changed, cannot be dry-run, and start
Airflow once each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import OperationalError, ProgrammingError

from mlops_provider.exceptions import ConfigurationError, StoreUnavailableError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from mlops_provider.cli.settings_file import Declared, DeclaredConnection, DeclaredPool, DeclaredVariable

Action = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class Change:
    """What happened, or would happen, to one item; never its content."""

    kind: Literal["connection", "pool", "variable"]
    name: str
    action: Action


def apply(declared: Declared, *, dry_run: bool = False) -> list[Change]:
    """
    Create what is missing and update what differs, all or nothing; leave everything else alone.

    The file is the whole truth about the items it names: a field it leaves out is emptied.

    :raises ConfigurationError: Airflow's database was never set up, or Airflow refuses an item.
    :raises StoreUnavailableError: The database cannot be reached, or is locked.
    """
    try:
        with create_session() as session:
            changes = [
                *(Change("connection", each.conn_id, _connection(session, each)) for each in declared.connections),
                *(Change("pool", each.name, _pool(session, each)) for each in declared.pools),
                *(Change("variable", each.key, _variable(session, each)) for each in declared.variables),
            ]
            if dry_run:
                session.rollback()
    except (OperationalError, ProgrammingError) as error:
        reason = str(error.orig)
        if "no such table" in reason or "does not exist" in reason:
            raise ConfigurationError("Airflow's database has no tables yet: run `airflow db migrate` first.") from None
        raise StoreUnavailableError(f"Airflow's database cannot be used: {reason}.") from None
    return changes


def _connection(session: Session, declared: DeclaredConnection) -> Action:
    wanted: dict[str, Any] = {
        "conn_type": declared.conn_type,
        "description": declared.description,
        "host": declared.host,
        "login": declared.login,
        "password": declared.password,
        "schema": declared.schema,
        "port": declared.port,
        "extra": None if declared.extra is None else json.dumps(declared.extra, sort_keys=True),
    }
    found = session.scalar(select(Connection).where(Connection.conn_id == declared.conn_id))
    if found is None:
        fresh = Connection(conn_id=declared.conn_id, **wanted)
        if getattr(fresh, "conn_id", None) != declared.conn_id:
            raise ConfigurationError(f"Airflow does not allow the connection ID {declared.conn_id!r}.")
        session.add(fresh)
        return "created"
    return _update(found, wanted)


def _pool(session: Session, declared: DeclaredPool) -> Action:
    wanted = {
        "slots": declared.slots,
        "description": declared.description,
        "include_deferred": declared.include_deferred,
    }
    found = session.scalar(select(Pool).where(Pool.pool == declared.name))
    if found is None:
        session.add(Pool(pool=declared.name, **wanted))
        return "created"
    return _update(found, wanted)


def _variable(session: Session, declared: DeclaredVariable) -> Action:
    found = session.scalar(select(Variable).where(Variable.key == declared.key))
    if found is None:
        fresh = Variable(key=declared.key, val=declared.value, description=declared.description)
        session.add(fresh)
        return "created"
    return _update(found, {"val": declared.value, "description": declared.description})


def _update(found: object, wanted: Mapping[str, Any]) -> Action:
    differing = [
        name for name, value in wanted.items() if _comparable(name, _stored(found, name)) != _comparable(name, value)
    ]
    for name in differing:
        setattr(found, name, wanted[name])
    return "updated" if differing else "unchanged"


def _stored(found: object, name: str) -> Any:
    """Read a field; one that another Fernet key encrypted counts as empty, so it is written anew."""
    from cryptography.fernet import InvalidToken

    try:
        return getattr(found, name)
    except InvalidToken:
        return None


def _comparable(name: str, value: Any) -> Any:
    """Empty fields are alike, and so are two spellings of the same JSON."""
    if name == "extra" and value:
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value or None
