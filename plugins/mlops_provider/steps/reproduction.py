"""A package is seen to predict what was stored: in a clean environment, made of its lock and nothing else."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_provider.adapters import conversion, locked
from mlops_provider.adapters.scoring import PREDICTION
from mlops_provider.core.names import Kind
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import EvidenceError
from mlops_provider.steps.package import LOCK, SAMPLE, Say, sha256
from mlops_provider.steps.packaged import MODEL, Packaged
from mlops_provider.stores import model_files
from mlops_provider.stores.archive import MANIFEST

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.suite import Stores


@dataclass(frozen=True, slots=True)
class Check(Payload):
    """
    What predicted the sample again, and how far from what was stored.

    :param scorer: File of the model that predicted.
    :param equal: Rows whose predictions are equal to the last bit.
    :param largest_difference: Relative for predictions beyond 1; None if a row was not predicted.
    :param tolerance: Largest difference that is allowed.
    """

    scorer: str
    rows: int
    equal: int
    largest_difference: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether no prediction is beyond the tolerance."""
        return self.largest_difference is not None and self.largest_difference <= self.tolerance


@dataclass(frozen=True, slots=True)
class Verification(Payload):
    """
    Whether a package reproduces stored predictions.

    :param reason: Why it does not; empty if it does.
    :param record: Ledger ID of what was found.
    """

    checks: tuple[Check, ...]
    reproduced: bool
    reason: str
    python: str
    platform: str
    record: str


def verify(stores: Stores, packaged: Packaged, *, origin: Origin, say: Say) -> Verification:
    """
    Install the lock into a clean environment, predict the sample there, compare, and record what was found.

    :raises EvidenceError: There are no stored predictions to compare with. Not retried.
    :raises ConfigurationError: The environment can't be made. Not retried.
    """
    held = packaged.about["sample"]
    if held is None:
        raise EvidenceError(
            f"There are no stored predictions of version {packaged.version} of {packaged.model!r} to compare with: it "
            "scored no month, and answered no request that was delivered. Deploy it, let it score "
            "(`mlops run score`, `mlops run deploy`), remove the package and make it anew."
        )
    lock, python = packaged.folder / LOCK, str(packaged.about["python"])
    checks: list[Check] = []
    reason = ""
    with tempfile.TemporaryDirectory() as place:
        count = len(locked.pins(lock.read_text(encoding="utf-8")))
        say(f"Installing {count} packages into a clean environment of Python {python}")
        interpreter = locked.environment(Path(place, "environment"), lock, python=python)
        for scorer, arguments in _scorers(packaged):
            say(f"Predicting {held['rows']:,} rows there with {scorer}")
            found = _predicted(interpreter, packaged, Path(place), arguments)
            if isinstance(found, str):
                reason = f"{scorer} predicts nothing in the clean environment: {found}"
                break
            checks.append(_compared(scorer, found, pq.read_table(packaged.folder / SAMPLE)[PREDICTION].to_numpy()))
    if missed := [each for each in checks if not each.passed]:
        reason = " ".join(
            f"{each.scorer} predicts {each.rows - each.equal:,} of {each.rows:,} rows differently, by up to "
            f"{each.largest_difference}; allowed are {each.tolerance:.0e}."
            for each in missed
        )
    where = f"{platform.system()} {platform.machine()}"
    record = stores.ledger.append(
        Kind.PACKAGE,
        packaged.model,
        {
            "version": packaged.version,
            "registration": packaged.registration.record_id,
            "manifest": sha256((packaged.folder / MANIFEST).read_bytes()),
            "files": packaged.registration.payload["files"],
            "lock": sha256(lock.read_bytes()),
            "sample": held,
            "reproduced": not reason,
            "reason": reason,
            "checks": [each.as_json() for each in checks],
            "python": python,
            "platform": where,
            "origin": origin.key,
        },
        actor=origin.actor,
    )
    return Verification(tuple(checks), not reason, reason, python, where, record.record_id)


def _scorers(packaged: Packaged) -> Iterator[tuple[str, list[str]]]:
    """Files of the version that predict, each with how it is asked for."""
    if (packaged.folder / MODEL / model_files.SCORER).exists():
        yield model_files.SCORER, []
    yield "model.skops", ["--estimator"]


def _predicted(interpreter: Path, packaged: Packaged, place: Path, arguments: list[str]) -> NDArray[np.float64] | str:
    """Predict the sample in the clean environment; what stands against it, in words, if that fails."""
    answered = place / "predicted.parquet"
    answered.unlink(missing_ok=True)
    # Nothing of this process's own reaches it: no path, no setting, no folder but the package.
    asked = ["-I", "-m", "mlops_provider.cli.main", "score", str((packaged.folder / SAMPLE).absolute())]
    asked += ["--package", str(packaged.folder.absolute()), "--output", str(answered), *arguments]
    found = subprocess.run(
        [str(interpreter), *asked],
        env={"PATH": str(interpreter.parent), "HOME": str(place), "LANG": "C.UTF-8"},
        cwd=place,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        return (found.stderr.strip().splitlines() or [f"it ended with exit code {found.returncode}."])[-1]
    return np.asarray(pq.read_table(answered)[PREDICTION].to_numpy(), dtype=np.float64)


def _compared(scorer: str, found: NDArray[Any], stored: NDArray[Any]) -> Check:
    apart = np.abs(found - stored) / np.maximum(1.0, np.abs(stored))
    largest = float(apart.max(initial=0.0))
    return Check(
        scorer,
        rows=len(stored),
        equal=int((found == stored).sum()),
        largest_difference=largest if np.isfinite(largest) else None,
        tolerance=conversion.TOLERANCE,
    )
