"""The Python files beside a ``model.yaml``: found by path, loaded as one private package, known by their digest."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = re.compile(
    r"(?P<beside>\.\./[A-Za-z_]\w*/)?(?P<file>[A-Za-z_]\w*(/[A-Za-z_]\w*)*)\.py:(?P<function>[A-Za-z_]\w*)"
)
"""
``data.py:land``, or ``sources/data.py:land``: a file below the folder, and a function in it. ``../other/data.py:land``
is that of another use case, in the folder beside.
"""


def code_digest(folder: Path, *, without: str | None = None) -> str:
    """
    Return the SHA-256, in hex, over paths and contents of all Python and YAML files below *folder*.

    :param without: Name of a file in *folder* that does not count.
    """
    total, skipped = hashlib.sha256(), without and Path(without)
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        hidden = any(part.startswith((".", "__pycache__")) for part in inside.parts)
        if path.suffix in {".py", ".yaml", ".yml"} and path.is_file() and not hidden and inside != skipped:
            content = path.read_bytes()
            total.update(f"{inside.as_posix()}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()


def folder_of(folder: Path, reference: str) -> Path:
    """Folder of the use case whose function a reference from *folder* names: itself, or one beside it."""
    match = REFERENCE.fullmatch(reference)
    return folder.parent / Path(match["beside"]).name if match and match["beside"] else folder


def load_function(folder: Path, reference: str) -> Callable[..., Any]:
    """
    Load a function such as ``data.py:land`` from *folder*.

    Files may import each other with a dot (``from .weather import hourly``). The package is named after its content:
    changed code is loaded afresh, also in a process that lives long, and two use cases never share a module.

    :raises SpecError: File or function is not there, or the file cannot be imported. Not retried.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise SpecError(f"{folder}: expected file and function such as 'data.py:land', got {reference!r}.")
    folder, file, function = folder_of(folder, reference), match["file"], match["function"]
    if not (folder / f"{file}.py").is_file():
        raise SpecError(f"{folder / file}.py: there is no such file.")
    module = _import(folder, file)
    found = getattr(module, function, None)
    if not callable(found):
        raise SpecError(f"{folder / file}.py: has no function called {function!r}.")
    return found  # type: ignore[no-any-return]


def _import(folder: Path, file: str) -> Any:
    package = f"mlops_use_case_{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}_{code_digest(folder)[:16]}"
    if package not in sys.modules:
        sys.modules[package] = importlib.util.module_from_spec(_package(package, folder))
    try:
        return importlib.import_module(f"{package}.{file.replace('/', '.')}")
    except SyntaxError as error:
        raise SpecError(f"{error.filename}:{error.lineno}: is not valid Python: {error.msg}.") from error
    except ModuleNotFoundError as error:
        beside = error.name is not None and (folder / f"{error.name}.py").is_file()
        advice = f"it lies beside: write 'from .{error.name} import …'." if beside else "is it installed?"
        raise SpecError(f"{folder / file}.py: needs the module {error.name!r}; {advice}") from error


def _package(name: str, folder: Path) -> ModuleSpec:
    """Describe a package that is *folder*; its ``__init__.py``, if any, is not run."""
    spec = ModuleSpec(name, loader=None, is_package=True)
    spec.submodule_search_locations = [str(folder)]
    return spec
