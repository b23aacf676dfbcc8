"""A package is seen to predict what was stored: in a clean environment, made of its lock and nothing else."""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mlops_provider.adapters import conversion, locked
from mlops_provider.adapters.scoring import PREDICTION
from mlops_provider.core.names import Environment, Kind
from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import EvidenceError, MLOpsError
from mlops_provider.steps.package import LOCK, SAMPLE, Say, sha256
from mlops_provider.steps.package_folder import MODEL, Packaged
from mlops_provider.stores import model_files
from mlops_provider.stores.archive import MANIFEST
from mlops_provider.targets import Server

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.suite import Stores

_PATIENCE = 120.0
"""Longest wait for the server, in seconds: its libraries are loaded for the first time."""
_AT_ONCE = 1_000
"""Rows of a request, at most."""
_LISTENS = re.compile(r"Serving \S+ at (http://\S+)")
_UP = "Application startup complete"


@dataclass(frozen=True, slots=True)
class Check(Payload):
    """
    What predicted the sample again, and how far from what was stored.

    :param scorer: File of the model that predicted, or "mlops serve".
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
    def apart(self) -> str:
        """The largest difference, for people."""
        return "no number" if self.largest_difference is None else f"{self.largest_difference:.3g}"

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
    with tempfile.TemporaryDirectory() as place:
        count = len(locked.pins(lock.read_text(encoding="utf-8")))
        say(f"Installing {count} packages into a clean environment of Python {python}")
        interpreter = locked.environment(Path(place, "environment"), lock, python=python)
        checks, reasons = _checked(_Clean(interpreter, Path(place), packaged.folder.absolute()), stores, packaged, say)
        python = locked.version_of(interpreter)
    reason = " ".join(reasons)
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
    return Verification(checks, not reason, reason, python, where, record.record_id)


def _checked(clean: _Clean, stores: Stores, packaged: Packaged, say: Say) -> tuple[tuple[Check, ...], tuple[str, ...]]:
    """Predict the sample in every way there is; what was found, and what is wrong with it in sentences."""
    sample = pq.read_table(packaged.folder / SAMPLE)
    stored = sample[PREDICTION].to_numpy()
    checks, reasons = [], []
    for scorer, predict in _ways(clean, stores, packaged, sample):
        say(f"Predicting {len(stored):,} rows there with {scorer}")
        try:
            check = _compared(scorer, predict(), stored)
        except _NothingPredictedError as why:
            reasons.append(f"In the clean environment {scorer} predicts nothing: {why}")
            continue
        checks.append(check)
        if not check.passed:
            reasons.append(
                f"{scorer} predicts {check.rows - check.equal:,} of {check.rows:,} rows differently, by up to "
                f"{check.apart}; allowed are {check.tolerance:.0e}."
            )
    return tuple(checks), tuple(reasons)


class _NothingPredictedError(Exception):
    """What runs in the clean environment ended without predictions; the message is what it said last."""


@dataclass(frozen=True, slots=True)
class _Clean:
    """
    A clean environment, and how a command of ours is run there.

    :param interpreter: Its Python.
    :param place: Empty folder to run in.
    :param package: The package's folder.
    """

    interpreter: Path
    place: Path
    package: Path

    def started(self, command: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command on the package; nothing of this process reaches it: no path, no setting."""
        asked = [command, *arguments, "--package", str(self.package)]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [str(self.interpreter), "-I", "-m", "mlops_provider.cli.main", *asked],
                env={
                    "PATH": str(self.interpreter.parent),
                    "HOME": str(self.place),
                    "LANG": "C.UTF-8",
                    Environment.SPOOL_DIR: str(self.place / "spool"),
                },
                cwd=self.place,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> Path:
        """What the command said that was started last."""
        return self.place / "said.log"

    def said(self) -> str:
        """Its last line."""
        return (self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["It said nothing."])[-1]


def _ways(
    clean: _Clean, stores: Stores, packaged: Packaged, sample: pa.Table
) -> Iterator[tuple[str, Callable[[], NDArray[np.float64]]]]:
    """Whatever of the package predicts, each with how it is asked for the sample."""
    if (packaged.folder / MODEL / model_files.SCORER).exists():
        yield model_files.SCORER, partial(_scored, clean)
    yield "model.skops", partial(_scored, clean, "--estimator")
    yield "mlops serve", partial(_served, clean, stores, packaged, sample)


def _scored(clean: _Clean, *flags: str) -> NDArray[np.float64]:
    """Predict the sample with `mlops score`."""
    answered = clean.place / "predicted.parquet"
    answered.unlink(missing_ok=True)
    process = clean.started("score", str(clean.package / SAMPLE), "--output", str(answered), *flags)
    if process.wait():
        raise _NothingPredictedError(clean.said())
    return np.asarray(pq.read_table(answered)[PREDICTION].to_numpy(), dtype=np.float64)


def _served(clean: _Clean, stores: Stores, packaged: Packaged, sample: pa.Table) -> NDArray[np.float64]:
    """Ask `mlops serve` for the sample over HTTP."""
    rows = sample.drop_columns([PREDICTION]).to_pandas()
    process = clean.started("serve", "--port", "0")
    try:
        address = _address(clean, process)
        target = Server(address, model=packaged.model, ledger=stores.ledger, timeout=_PATIENCE)
        answers = [target.predict(rows[first : first + _AT_ONCE]) for first in range(0, len(rows), _AT_ONCE)]
    except MLOpsError as error:
        raise _NothingPredictedError(str(error)) from error
    finally:
        process.terminate()
        process.wait()
    return np.array([each for answer in answers for each in answer.predictions], dtype=np.float64)


def _address(clean: _Clean, process: subprocess.Popen[bytes]) -> str:
    """Where the server listens once it is up, as its log says."""
    deadline = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        said = clean.log.read_text(encoding="utf-8", errors="replace")
        if (found := _LISTENS.search(said)) and _UP in said:
            return found[1]
        time.sleep(0.1)
    raise _NothingPredictedError(clean.said())


def _compared(scorer: str, found: NDArray[Any], stored: NDArray[Any]) -> Check:
    if len(found) != len(stored):
        raise _NothingPredictedError(f"It gave {len(found):,} predictions for {len(stored):,} rows.")
    apart = np.abs(found - stored) / np.maximum(1.0, np.abs(stored))
    largest = float(apart.max(initial=0.0))
    return Check(
        scorer,
        rows=len(stored),
        equal=int((found == stored).sum()),
        largest_difference=largest if np.isfinite(largest) else None,
        tolerance=conversion.TOLERANCE,
    )
