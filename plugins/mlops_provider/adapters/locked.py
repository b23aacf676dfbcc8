"""
A lock of packages with hashes, and a clean environment made from it: the only door to uv.

Where packages come from is what uv is told by its own settings (``UV_DEFAULT_INDEX``, ``UV_INDEX``, ``UV_FIND_LINKS``,
``uv.toml``); no address is written down.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlops_provider.core.extras import DISTRIBUTION
from mlops_provider.exceptions import ConfigurationError

_SAID_LINES = 12
"""Lines of uv's explanation that a message repeats."""
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")
_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", re.MULTILINE)


def serving_requirements() -> list[str]:
    """
    What this package needs to score and to serve, as it declares it: its own requirements with the extra ``serving``.

    Airflow is left out: neither the scorer nor the server imports it.
    """
    found = []
    for line in metadata.requires(DISTRIBUTION) or ():
        needed = Requirement(line)
        if needed.name.startswith("apache-airflow") or needed.name == DISTRIBUTION:
            continue
        marker = str(needed.marker or "")
        if "extra ==" in marker and 'extra == "serving"' not in marker:
            continue
        named = f"{needed.name}[{','.join(sorted(needed.extras))}]" if needed.extras else needed.name
        kept = re.sub(r"""( and )?extra == "serving"(?= and |$)""", "", marker).removeprefix(" and ").strip("() ")
        found.append(f"{named}{needed.specifier}" + (f"; {kept}" if kept else ""))
    return found


def compiled(requirements: Iterable[str], *, python: str) -> str:
    """
    Lock requirements and all that they need, for every platform, with the hashes of the index.

    What is not pinned gets the version that is installed here, if that fits, else the newest that does.

    :param python: Version of Python, such as "3.12".
    :return: Lines of a requirements file.
    :raises ConfigurationError: uv is missing, or finds no such packages. Not retried.
    """
    with tempfile.TemporaryDirectory() as folder:
        wanted, locked = Path(folder, "requirements.in"), Path(folder, "requirements.txt")
        wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        # uv prefers what the file that it writes says already.
        here = {canonicalize_name(each.name): each.version for each in metadata.distributions()}
        here.pop(canonicalize_name(DISTRIBUTION), None)
        locked.write_text("".join(f"{name}=={version}\n" for name, version in sorted(here.items())), encoding="utf-8")
        _uv(
            ["pip", "compile", "--universal", "--python-version", python, "--generate-hashes", "--no-build"],
            ["--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"],
            [str(wanted), "--output-file", str(locked)],
            trouble="The packages that the model was trained with can't be locked",
        )
        return locked.read_text(encoding="utf-8")


def pins(lock: str) -> Mapping[str, str]:
    """Version by package of a lock."""
    return {canonicalize_name(name): version for name, version in _PIN.findall(lock)}


def environment(where: Path, lock: Path, *, python: str) -> Path:
    """
    Make a virtual environment that holds what a lock says and nothing else; every archive must have its hash.

    :param where: Folder to make.
    :param lock: Requirements file; paths in it are relative to its folder.
    :param python: Version of Python, such as "3.12".
    :return: The environment's Python.
    :raises ConfigurationError: There is no such Python, or a package can't be had as it was locked. Not retried.
    """
    same = f"{sys.version_info.major}.{sys.version_info.minor}" == python
    _uv(
        ["venv", "--quiet", "--no-python-downloads", "--python", sys.executable if same else python, str(where)],
        trouble=f"No environment of Python {python} can be made",
    )
    found = where / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    _uv(
        ["pip", "install", "--quiet", "--python", str(found), "--require-hashes", "--no-deps", "--no-build"],
        ["-r", lock.name],
        trouble="What the lock says can't be installed",
        cwd=lock.parent,
    )
    return found


def version_of(interpreter: Path) -> str:
    """Full version of a Python, such as "3.12.4"."""
    asked = [str(interpreter), "-I", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _uv(*arguments: Sequence[str], trouble: str, cwd: Path | None = None) -> None:
    beside = Path(sys.executable).parent
    program = shutil.which("uv", path=f"{beside}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise ConfigurationError("uv is not installed here, which locks and installs packages: `pip install uv`.")
    without = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    found = subprocess.run(
        [program, *(each for part in arguments for each in part)],
        env={name: value for name, value in os.environ.items() if name not in without},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    if found.returncode:
        said = _LOGIN.sub("", found.stderr).strip().splitlines()[-_SAID_LINES:]
        raise ConfigurationError(
            f"{trouble}; uv said:\n" + "\n".join(f"  {line}" for line in said) + "\nuv takes packages from where "
            "UV_DEFAULT_INDEX, UV_INDEX, UV_FIND_LINKS and uv.toml say, and does not read pip's settings."
        )
