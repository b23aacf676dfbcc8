"""One model on one replica: the versions it follows, its prediction log, and what it answers."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mlops_provider.exceptions import StoreUnavailableError
from mlops_provider.serving.protocol import RefusedRequestError, listed, parse

if TYPE_CHECKING:
    from mlops_provider.serving.follower import Follower
    from mlops_provider.serving.snapshot import LoadedVersion, Snapshot
    from mlops_provider.stores.predictions import SegmentWriter

logger = logging.getLogger(__name__)

LOG_PAUSE = 5.0
"""Seconds that the replica calls itself not ready after its prediction log could not be written."""


class ServedModel:
    """
    Answer for one model.

    No answer leaves before its rows are in the prediction log: on a full disk callers get 503 in
    words, and the replica is not ready, so that a proxy sends them to one that can keep its promise.

    :param follower: Keeps the snapshot in step with the ledger.
    :param log: Prediction log of this model on this replica.
    """

    def __init__(self, follower: Follower, log: SegmentWriter) -> None:
        self.model = follower.model
        self.follower = follower
        self.log = log
        self.log_failed_at = -LOG_PAUSE

    def start(self) -> None:
        """Begin to follow the ledger."""
        self.follower.start()

    def stop(self) -> None:
        """Stop following and seal the prediction log."""
        self.follower.stop()
        self.log.close()

    @property
    def current(self) -> Snapshot:
        """
        What is served now; a request reads it once.

        :raises RefusedRequestError: Nothing is loaded yet.
        """
        snapshot = self.follower.snapshot
        if snapshot is None:
            why = self.follower.trouble or "the ledger is being read; ask again in a moment."
            raise RefusedRequestError(f"No version of {self.model} is loaded yet: {why}", 503)
        return snapshot

    def answer(
        self, snapshot: Snapshot, version: LoadedVersion, body: bytes, content_type: str, request_id: str
    ) -> dict[str, list[Any]]:
        """
        Parse, predict and log the rows of one request; runs in the pool.

        :return: ``predictions`` and, of a model of segments, ``answered_by``, each in the order of the rows.
        :raises RefusedRequestError: The rows don't fit the model, or can't be logged.
        """
        frame = parse(body, content_type, version.columns)
        try:
            predictions: list[float] = version.predict(frame).tolist()
            answers = {"predictions": predictions}
            if version.answered_by is not None:
                answers["answered_by"] = version.answered_by(frame).tolist()
        except (ValueError, TypeError) as error:
            logger.info("Version %s refused request %s: %s", version.version, request_id, type(error).__name__)
            empty = [str(name) for name in frame.columns[frame.isna().any()]]
            hint = f" Columns with missing cells: {listed(empty)}." if empty else ""
            raise RefusedRequestError(
                f"Version {version.version} of {self.model} can't score these rows ({type(error).__name__}).{hint}"
            ) from None
        answered_at = datetime.now(UTC).isoformat()
        self._record(
            [
                {
                    "request_id": request_id,
                    "row": number,
                    "model": self.model,
                    "version": version.version,
                    "generation": snapshot.generation,
                    "answered_at": answered_at,
                    "prediction": prediction,
                    **({"answered_by": answers["answered_by"][number]} if "answered_by" in answers else {}),
                    # A missing cell is the only one that differs from itself; JSON writes it as null.
                    "features": {name: None if cell != cell else cell for name, cell in features.items()},  # noqa: PLR0124
                }
                for number, (prediction, features) in enumerate(
                    zip(predictions, frame.to_dict(orient="records"), strict=True)
                )
            ]
        )
        return answers

    def _record(self, rows: list[dict[str, Any]]) -> None:
        try:
            self.log.append(rows)
        except StoreUnavailableError as error:
            self.log_failed_at = time.monotonic()
            logger.error("The prediction log of %s can't be written: %s", self.model, error)
            raise RefusedRequestError(
                "The prediction log can't be written, so no prediction is given; try another replica.", 503
            ) from None

    @property
    def not_ready(self) -> str:
        """Why callers should not be sent here, as a sentence; empty when they may."""
        snapshot = self.follower.snapshot
        if snapshot is None or not snapshot.open:
            return f"{self.model}: {self.follower.trouble or 'no version has traffic yet; deploy a version.'}"
        if time.monotonic() - self.log_failed_at < LOG_PAUSE:
            return f"{self.model}: the prediction log can't be written."
        return ""

    def state(self) -> dict[str, Any]:
        """What is served, for a person or a monitor."""
        snapshot = self.follower.snapshot
        return {
            "replica": self.follower.replica,
            "generation": snapshot.generation if snapshot else 0,
            "split": dict(snapshot.split) if snapshot else {},
            "versions": sorted(snapshot.versions) if snapshot else [],
            "errors": [trouble] if (trouble := self.follower.trouble) else [],
            "ready": not self.not_ready,
        }
