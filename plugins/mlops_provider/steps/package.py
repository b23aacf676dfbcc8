"""A version goes into a folder that holds all it takes to predict, elsewhere and without this project."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pyarrow as pa
import pyarrow.parquet as pq
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mlops_provider.adapters import locked, own_wheel
from mlops_provider.core.extras import DISTRIBUTION
from mlops_provider.exceptions import ConfigurationError, EvidenceError
from mlops_provider.steps import models
from mlops_provider.steps.approval import refuse_unapproved
from mlops_provider.steps.package_folder import EVIDENCE, MODEL, WHAT, Packaged, opened
from mlops_provider.steps.provenance import evidence, registration, training_of
from mlops_provider.steps.stored_predictions import StoredPredictions, stored_predictions
from mlops_provider.stores import content, model_files
from mlops_provider.stores.archive import MANIFEST, Archive

if TYPE_CHECKING:
    from mlops_provider.core.columns import Column
    from mlops_provider.core.evidence import Record
    from mlops_provider.stores.suite import Stores

Say = Callable[[str], None]

ROWS = 2_000
"""Stored predictions that a package holds, by default; fewer if there are not so many."""
LOCK, WHEELS, SAMPLE = "requirements.txt", "wheels", "sample.parquet"

_templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
    autoescape=False,  # noqa: S701 - what it writes is a container file and a page of text, no HTML
)


def package(stores: Stores, model: str, version: str, folder: Path, *, rows: int = ROWS, say: Say) -> Packaged:
    """
    Write a registered version into a folder, whole or not at all; one that is there already is looked through.

    :param rows: Stored predictions to put beside it, at most.
    :param say: Is told what is done now.
    :raises RolloutRefusedError: It never passed the gate, was rejected, or lacks the approval that was declared. Not
        retried.
    :raises EvidenceError: Its files are not those that were registered, or were changed in the package. Not retried.
    :raises ConfigurationError: The folder holds something else, or what it needs can't be locked. Not retried.
    :raises StoreUnavailableError: A store is away. Retried.
    """
    refuse_unapproved(stores.ledger, model, version)
    if (folder / MANIFEST).exists():
        return _whole(stores, model, version, folder)
    Archive(folder, WHAT).begin()
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{folder.name}.") as beside:
        making = Archive(Path(beside, folder.name), WHAT)
        making.begin()
        _fill(making, stores, model, version, rows, say)
        making.folder.replace(folder)
    return opened(folder)


def _fill(making: Archive, stores: Stores, model: str, version: str, rows: int, say: Say) -> None:
    registered, training = records(stores, model, version)
    say(f"Fetching the files of {model} version {version}")
    columns, python = add_model(making, stores, model, version)
    add_evidence(making, stores, registered, training)
    say("Looking for stored predictions")
    stored = stored_predictions(stores, model, version, columns, rows=rows)
    sample = _add_sample(making, stored) if stored else None
    say(f"Locking what it was trained with, for Python {python}")
    pinned = _pinned(training)
    _add_lock(making, pinned, python)
    about = {
        "model": model,
        "version": version,
        "registration": registered.record_id,
        "python": python,
        "requirements": pinned,
        "sample": sample,
    }
    trained_on = training.payload["trained_on"]
    more = {
        "files": registered.payload["files"],
        "trained_on": " to ".join(dict.fromkeys((trained_on[0], trained_on[-1]))),
        "passed": stores.ledger.get(registered.payload["gate"]).payload["summary"],
        "columns": ", ".join(f"`{column.name}` ({column.kind})" for column in columns),
    }
    for name, template in (("Dockerfile", "Dockerfile.jinja"), ("README.md", "package.md.jinja")):
        making.add(name, [_templates.get_template(template).render(about | more).encode()])
    made_at = datetime.now(UTC).isoformat()
    making.finish(package=metadata.version(DISTRIBUTION), made_at=made_at, about=about)


def records(stores: Stores, model: str, version: str) -> tuple[Record, Record]:
    """
    Registration and training of a version that was approved.

    :raises EvidenceError: The ledger does not hold them whole. Not retried.
    """
    registered = registration(stores.ledger, model, version)
    assert registered is not None  # or it would not be approved
    training = training_of(stores.ledger, registered)
    if training is None or "files" not in registered.payload:
        raise EvidenceError(
            f"The ledger does not say how version {version} of {model!r} was trained, or which files were registered: "
            "it was made by version 0.1 of this package, or elsewhere. Train a new version."
        )
    return registered, training


def add_model(making: Archive, stores: Stores, model: str, version: str) -> tuple[tuple[Column, ...], str]:
    """
    Put the files of the version in; give what it takes, and its Python, such as "3.12".

    :raises EvidenceError: They are not those that were registered. Not retried.
    """
    with models.files(stores.registry, stores.ledger, model, version) as held:
        for path in sorted(path for path in held.folder.rglob("*") if path.is_file()):
            making.add(f"{MODEL}/{path.relative_to(held.folder).as_posix()}", [path.read_bytes()])
        full = model_files.python_version(held.folder)
        return model_files.columns(held.folder), ".".join(full.split(".")[:2])


def add_evidence(making: Archive, stores: Stores, registered: Record, training: Record) -> None:
    """
    Put in every record that a registration rests on.

    :raises EvidenceError: One was changed in the ledger. Not retried.
    """
    for number, record in enumerate(evidence(stores.ledger, registered, training), start=1):
        if record.digest != record.expected_digest:
            raise EvidenceError(
                f"Record {record.record_id} ({record.kind}) of the ledger does not match its digest: it was "
                "changed after it was written. `mlops audit verify` tells more."
            )
        text = json.dumps(record.as_json(), indent=1, sort_keys=True)
        making.add(f"{EVIDENCE}/{number:02}-{record.kind}.json", [text.encode()])


def _add_sample(making: Archive, stored: StoredPredictions) -> dict[str, Any]:
    written = pa.BufferOutputStream()
    pq.write_table(stored.rows, written)
    making.add(SAMPLE, [written.getvalue().to_pybytes()])
    return {**stored.about, "rows": len(stored.rows), "content": content.digest(stored.rows)}


def _add_lock(making: Archive, pinned: Sequence[str], python: str) -> None:
    """Put the lock in, and our own wheel, which is in no index until this package is published."""
    name, wheel = own_wheel.built()
    making.add(f"{WHEELS}/{name}", [wheel])
    lock = locked.compiled([*locked.serving_requirements(), *pinned], python=python)
    making.add(LOCK, [lock.encode(), f"./{WHEELS}/{name} \\\n    --hash=sha256:{sha256(wheel)}\n".encode()])


def _pinned(training: Record) -> list[str]:
    """
    Versions that were recorded at training, without this package's own, whose wheel is in the package.

    :raises EvidenceError: A package is lacking, or has no exact version. Not retried.
    """
    found = [line for line in training.payload["requirements"] if Requirement(line).name != DISTRIBUTION]
    where = f"The record of the training ({training.record_id})"
    if loose := [line for line in found if "==" not in str(Requirement(line).specifier)]:
        raise EvidenceError(f"{where} names no exact version of {', '.join(loose)}. Train a new version.")
    names = {canonicalize_name(Requirement(line).name) for line in found}
    if lacking := sorted({"scikit-learn", "skops", "numpy"} - names):
        raise EvidenceError(f"{where} does not pin {', '.join(lacking)}. Train a new version.")
    bringing: Mapping[str, list[str]] = metadata.packages_distributions()
    for type_ in models.trusted_types(training):
        module = type_.partition(".")[0]
        if not names.intersection(map(canonicalize_name, bringing.get(module, ()))):
            raise EvidenceError(
                f"The model holds {type_}, and {where[0].lower()}{where[1:]} pins no package that brings the module "
                f"{module!r}: it can't be installed elsewhere. Put it into a distribution and train a new version."
            )
    return found


def _whole(stores: Stores, model: str, version: str, folder: Path) -> Packaged:
    """Look through a package that is there: every file, and that it is of this very version."""
    Archive(folder, WHAT).opened()
    found = opened(folder)
    registered = registration(stores.ledger, model, version)
    if (found.model, found.version) != (model, version):
        raise ConfigurationError(
            f"{folder} holds version {found.version} of {found.model!r}, not version {version} of {model!r}. Name "
            "another folder with --to."
        )
    if registered is None or found.registration.digest != registered.digest:
        raise EvidenceError(
            f"{folder} holds version {version} of {model!r} as another ledger registered it "
            f"({found.registration.record_id}). Name another folder with --to, or that ledger."
        )
    return found


def sha256(what: bytes) -> str:
    """Digest of a file's content, in hex."""
    return hashlib.sha256(what).hexdigest()
