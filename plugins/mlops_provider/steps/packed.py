"""A version as one file, for targets that reach neither ledger nor registry: what a package predicts with, in a tar."""

from __future__ import annotations

import dataclasses
import gzip
import io
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from mlops_provider.core.extras import DISTRIBUTION
from mlops_provider.steps.approval import refuse_unapproved
from mlops_provider.steps.package import add_evidence, add_model, records, sha256
from mlops_provider.steps.package_folder import WHAT
from mlops_provider.stores.archive import MANIFEST, Archive
from mlops_provider.targets.base import Packed

if TYPE_CHECKING:
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def packed(spec: ModelSpec, stores: Stores, version: str) -> Packed:
    """
    Put a version that may serve into a tar; equal versions give equal bytes.

    It holds the model's files, its evidence, and how the declaration wants it to answer; not the wheel, lock and
    sample of ``mlops package``, as the image it is served in has its environment already.

    :raises RolloutRefusedError: It never passed the gate, or a person had to approve it and did not. Not retried.
    :raises EvidenceError: Its files are not those that were registered, or a record was changed. Not retried.
    :raises StoreUnavailableError: The ledger or MLflow is away. Retried.
    """
    refuse_unapproved(stores.ledger, spec.name, version)
    registered, training = records(stores, spec.name, version)
    with tempfile.TemporaryDirectory() as folder:
        making = Archive(Path(folder), WHAT)
        making.begin()
        add_model(making, stores, spec.name, version)
        add_evidence(making, stores, registered, training)
        about = {
            "model": spec.name,
            "version": version,
            "registration": registered.record_id,
            "serving": dataclasses.asdict(spec.serving_policy),
        }
        # A later try must come to the same digest, by which targets know what they were given.
        making.finish(package=metadata.version(DISTRIBUTION), made_at=registered.recorded_at, about=about)
        return Packed(version, _tar(making), sha256((making.folder / MANIFEST).read_bytes()))


def _tar(made: Archive) -> bytes:
    """Without times and owners."""
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w") as tar,
    ):
        for name in (MANIFEST, *sorted(made.entries)):
            content = (made.folder / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return written.getvalue()
