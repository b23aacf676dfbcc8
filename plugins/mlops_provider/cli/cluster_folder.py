"""
Where a cluster keeps its volumes and containers: ``cluster`` in the home, as a rule.

Started by root, Postgres runs as a user of its own, who has to get to its data. Where that user can't enter the home,
as in a folder of root's, ``cluster`` is a link to a folder of this home alone below :data:`STATE`.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from mlops_provider.cli.home import Home
from mlops_provider.cli.processes import identity
from mlops_provider.exceptions import ConfigurationError

STATE = Path("/var/lib/mlops")
"""Where root keeps the clusters of homes that other users can't enter."""
_OWNER_ONLY = 0o700
_PASSABLE = 0o711
"""Others may pass through, and not look."""


def folder(home: Home) -> Path:
    """Where the cluster of *home* has its files, with no link in it."""
    return _link(home).resolve()


def is_outside(home: Home) -> bool:
    """Whether that is outside of the home."""
    return _link(home).is_symlink()


def in_memory(home: Home) -> Path:
    """There if the tables of this home's cluster were in the memory of its S3."""
    return folder(home) / "in_memory"


def place(home: Home, user: str | None) -> None:
    """
    Make the folder where *user* can enter it, unless it is there.

    :param user: Who beside the caller has data in it; None if nobody does.
    :raises ConfigurationError: The user can enter neither the home nor :data:`STATE`, or the home is closed by now and
        holds databases already.
    """
    if user and not is_outside(home) and not _enters(home.root.parent, user):
        _discard_if_worthless(home, user)
        _link(home).symlink_to(_made_outside(home, user))
    folder(home).mkdir(parents=True, exist_ok=True)


def let_through(home: Home) -> None:
    """Open the way to the volumes for other users, and close everything beside it."""
    cluster = folder(home)
    volumes = cluster / "volumes"
    volumes.mkdir(parents=True, exist_ok=True)
    for passed in (cluster, volumes) if is_outside(home) else (home.root, cluster, volumes):
        for beside in passed.iterdir():
            if not beside.is_symlink():
                beside.chmod(beside.stat().st_mode & _OWNER_ONLY)
        passed.chmod(_PASSABLE)


def empty(home: Home) -> None:
    """Remove the folder all at once: if that is interrupted, no volumes stay without their mark."""
    folder(home).rename(_discarded(home))
    sweep(home)


def sweep(home: Home) -> None:
    """Remove what is left of a removal that was interrupted."""
    if (left := _discarded(home)).exists():
        shutil.rmtree(left)


def leave(home: Home) -> None:
    """Leave nothing outside of the home that speaks of tables which were in the memory of an S3 that has ended."""
    if is_outside(home) and in_memory(home).exists():
        empty(home)
        _link(home).unlink()


def _discard_if_worthless(home: Home, user: str) -> None:
    """Remove the folder of a start that was refused, or of a cluster in memory, from a home that is closed."""
    found = _link(home)
    if next(found.glob("volumes/*/PG_VERSION"), None) and not in_memory(home).exists():
        raise ConfigurationError(
            f"Nothing was started. The databases of this cluster are in {found}, and their user {user} can't enter "
            f"{home.root.parent} any more: chmod o+x the folders that lead there."
        )
    if found.exists():
        shutil.rmtree(found)


def _made_outside(home: Home, user: str) -> Path:
    cause = ""
    try:
        STATE.mkdir(parents=True, exist_ok=True)
        STATE.chmod(_PASSABLE)
        if _enters(STATE, user):
            return Path(tempfile.mkdtemp(prefix="cluster-", dir=STATE))
    except OSError as error:
        cause = f" ({error.strerror})"
    raise ConfigurationError(
        f"Nothing was started. Postgres does not run as root, and the user {user} can enter neither {home.root.parent} "
        f"nor {STATE}{cause}: set MLOPS_HOME to a folder that every user may pass through, such as /var/tmp/mlops."
    )


def _enters(path: Path, user: str) -> bool:
    return subprocess.run(["/usr/bin/test", "-x", path], **identity(user), check=False).returncode == 0


def _discarded(home: Home) -> Path:
    return folder(home).with_name(f"{folder(home).name}.discarded")


def _link(home: Home) -> Path:
    return home.root / "cluster"
