"""What the servers logged comes to the tables, each line exactly once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops_provider.core.names import Environment, Kind, Table
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.stores import predictions as segments

if TYPE_CHECKING:
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def deliver_predictions(
    spec: ModelSpec, stores: Stores, *, spool_dir: str | None = None, origin: Origin
) -> dict[str, Any]:
    """
    Append the server's sealed prediction segments to the prediction log, each exactly once.

    :param spool_dir: Folder, or address on S3, that holds a folder of segments per model; by default
        ``MLOPS_SPOOL_URI``, else ``MLOPS_SPOOL_DIR``.
    :return: Rows and segments delivered, and outcomes that callers told, if there were any.
    :raises ConfigurationError: No folder is named. Not retried.
    """
    folder = spool_dir or os.environ.get(Environment.SPOOL_URI) or os.environ.get(Environment.SPOOL_DIR)
    if not folder:
        raise ConfigurationError(f"Where are the predictions? Pass spool_dir or set {Environment.SPOOL_DIR}.")
    uri = stores.tables.uri(spec.name, Table.PREDICTION_LOG)
    spool, local = f"{folder.rstrip('/')}/{spec.name}", os.environ.get(Environment.SPOOL_DIR)
    left_in = Path(local, spec.name) if local and not spool_dir else None
    delivery = segments.deliver(stores.tables, uri, spool, stores.spool_s3(), left_in=left_in)
    _record_deliveries(spec, stores, uri, origin)
    outcomes = {"outcomes": delivery.outcomes} if delivery.outcomes else {}
    return {"rows": delivery.rows, "segments": delivery.segments, **outcomes}


def _record_deliveries(spec: ModelSpec, stores: Stores, uri: str, origin: Origin) -> None:
    """
    Record what the prediction log holds beyond the version that was recorded last.

    So what a try appended before it was killed is recorded by the next one. Of two at once, one records under a
    number, and the other looks at what is left.
    """
    while True:
        before = stores.ledger.history(Kind.DELIVERY, spec.name)
        recorded = before[-1].payload["version"] if before else -1
        delivery, version = segments.delivered_after(stores.tables, uri, recorded)
        if not delivery.rows:
            return
        payload = {
            "rows": delivery.rows,
            "segments": delivery.segments,
            "table": uri,
            "version": version,
            "origin": origin.key,
        }
        key = f"{spec.name}:{len(before) + 1}"
        stores.ledger.append(Kind.DELIVERY, spec.name, payload, key=key, actor=origin.actor)
