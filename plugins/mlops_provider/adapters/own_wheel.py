"""This package as a wheel, made of what is installed: what packages a model must not need a published release."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import mlops_provider
from mlops_provider.core.extras import DISTRIBUTION
from mlops_provider.exceptions import ConfigurationError

_LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""Equal files make an equal archive, whenever it is made."""
_DESCRIBED = ("METADATA", "entry_points.txt")


def built() -> tuple[str, bytes]:
    """
    Give the wheel's file name and content; equal code gives equal bytes.

    :raises ConfigurationError: The package is run without being installed. Not retried.
    """
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            f"{DISTRIBUTION} is not installed here, only on the path: a package needs its metadata. Run `pip install .`"
        ) from error
    stem = f"{DISTRIBUTION.replace('-', '_')}-{installed.version}"
    about = {name: (installed.read_text(name) or "").encode() for name in _DESCRIBED}
    about["WHEEL"] = b"Wheel-Version: 1.0\nGenerator: mlops package\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = dict(_code()) | {f"{stem}.dist-info/{name}": content for name, content in about.items()}
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join([*map(_recorded, files, files.values()), f"{record},,\n"]).encode()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            packed.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", archive.getvalue()


def _code() -> Iterator[tuple[str, bytes]]:
    root = Path(mlops_provider.__file__).parent
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield f"{root.name}/{path.relative_to(root).as_posix()}", path.read_bytes()


def _recorded(name: str, content: bytes) -> str:
    """A line of RECORD; see the specification of the binary distribution format."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"
