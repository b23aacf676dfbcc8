"""The one door through which a model comes into memory: for evaluation, registration, batch scoring and the server."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.adapters.scorers import EstimatorScorer, GraphNotLoadedError, OnnxScorer, Scorer
from mlops_provider.core.trust import Trust
from mlops_provider.exceptions import EvidenceError
from mlops_provider.steps.provenance import registration
from mlops_provider.stores import model_files

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.registry import Registry

log = logging.getLogger(__name__)


def trust(spec: ModelSpec, model: Any) -> Trust | None:
    """
    Name the types of a fitted estimator that somebody has to answer for.

    :return: None if there are none, or nobody does: then the model can't be stored.
    """
    if spec.trust is None:
        return None
    types = model_files.foreign_types(model)
    return Trust(spec.trust.reason, spec.trust.owner, types) if types else None


def candidate(registry: Registry, training: Record) -> Any:
    """
    Load the estimator that a run trained.

    :param training: Record of its training.
    :raises ServingCheckError: Its files could run code. Not retried.
    """
    return registry.load_model(training.payload["model_uri"], trusted=trusted_types(training))


def estimator(registry: Registry, ledger: Ledger, model: str, version: str) -> Any:
    """
    Load the estimator of a registered version.

    :raises EvidenceError: Its files are not those that were registered. Not retried.
    :raises ServingCheckError: They could run code. Not retried.
    :raises StoreUnavailableError: MLflow is away. Retried.
    """
    with files(registry, ledger, model, version) as held:
        return model_files.load(held.folder, trusted=held.trusted)


def scorer(registry: Registry, ledger: Ledger, model: str, version: str, *, threads: int = 1) -> Scorer:
    """
    Load what predicts for a registered version: its ONNX graph if it has one that runs here, else the estimator.

    :param threads: Threads of one prediction of the graph, at most; the estimator's are bounded by who calls it.
    :raises EvidenceError: Its files are not those that were registered. Not retried.
    :raises ServingCheckError: They could run code, its signature is not columns of plain types, or it is neither a
        classifier nor a regressor. Not retried.
    :raises StoreUnavailableError: MLflow is away. Retried.
    """
    with files(registry, ledger, model, version) as held:
        return scorer_in(held.folder, trusted=held.trusted, threads=threads)


def scorer_in(folder: Path, *, trusted: Sequence[str] = (), threads: int = 1, graph: bool = True) -> Scorer:
    """
    Load what predicts from the files of a version; the estimator also where the runtime here can't run the graph.

    :param folder: The files, known to be those that were registered.
    :param trusted: Types they may hold, because somebody answers for them.
    :param graph: Whether the graph may be taken, if there is one.
    :raises ServingCheckError: As :func:`scorer`. Not retried.
    """
    file = folder / model_files.SCORER
    if graph and file.exists():
        try:
            return OnnxScorer(file.read_bytes(), threads=threads)
        except GraphNotLoadedError as error:
            log.warning("%s The scikit-learn estimator predicts in its place: the same, more slowly.", error)
    return EstimatorScorer(model_files.load(folder, trusted=trusted), model_files.columns(folder))


@dataclass(frozen=True, slots=True)
class Held:
    """Files of a version, as they were registered, and types they may hold because somebody answers for them."""

    folder: Path
    trusted: tuple[str, ...]


@contextmanager
def files(registry: Registry, ledger: Ledger, model: str, version: str) -> Iterator[Held]:
    """
    Fetch the files of a version, unopened, for as long as the context lasts.

    :raises EvidenceError: They are not those that were registered. Not retried.
    :raises StoreUnavailableError: MLflow is away. Retried.
    """
    registered = registration(ledger, model, version)
    with tempfile.TemporaryDirectory() as folder:
        files = registry.download_model(f"models:/{model}/{version}", Path(folder))
        # Versions registered by 0.1 have no digest of their files, and those of tests no record.
        recorded = registered.payload.get("files") if registered else None
        if recorded and (found := model_files.content_digest(files)) != recorded:
            raise EvidenceError(
                f"The files of {model!r} version {version} have the SHA-256 {found}, and {recorded} was registered: "
                "they were changed in the artifact store. None was opened; train a new version, or restore them."
            )
        yield Held(files, trusted_types(registered))


def trusted_types(record: Record | None) -> tuple[str, ...]:
    """Types that somebody answers for, as the record of a training or registration says."""
    held = record.payload.get("trust") if record else None
    return Trust.from_json(held).types if held else ()
