"""A Postgres server of the machine's own programs, for the length of a test session."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa

from support.stack import free_port

_USER = "postgres"


@contextmanager
def server() -> Iterator[Callable[[str], str]]:
    """Run it; give what makes an empty database and gives its address."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("no Postgres server is installed here")
    # Not below pytest's own folder, which other users may not enter, and which a later run of pytest clears away.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    port = free_port()
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:  # Postgres refuses to run as root
        as_user = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups")
        shutil.chown(folder, _USER, _USER)

    def run(program: str, *arguments: object) -> None:
        command = (*as_user, str(programs[-1].with_name(program)), *map(str, arguments))
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data, numbers = folder / "data", count(1)
    run("initdb", "-D", data, "-A", "trust", "-N", "-U", _USER)
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    run("pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    address = f"postgresql+psycopg2://{_USER}@127.0.0.1:{port}"

    def made(name: str) -> str:
        name = f"{name}_{next(numbers)}"
        engine = sa.create_engine(f"{address}/postgres", isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return f"{address}/{name}"

    try:
        yield made
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
