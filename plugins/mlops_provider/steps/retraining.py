"""Whether to train again, decided on what the ledger holds about the version in service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlops_provider.core import partitions, retrain
from mlops_provider.core.metrics import Interval
from mlops_provider.core.names import Kind, Table
from mlops_provider.steps.provenance import Provenance, provenance
from mlops_provider.steps.traffic import champion

if TYPE_CHECKING:
    from datetime import datetime

    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


def decide_retrain(
    spec: ModelSpec, stores: Stores, partition: str, *, performance: str, drift: str, origin: Origin
) -> dict[str, Any]:
    """
    Decide whether to train again, from the ledger's performance and drift records of the version in service.

    :param performance: Ledger ID of the partition's performance record.
    :param drift: Ledger ID of the partition's drift record.
    :return: ``retrain``, ``trigger``, ``reasons``, ``cause`` (the run ID of the training, None if there is none) and
        ``through`` (the partition a candidate would be judged on).
    """
    month = partitions.check(partition)
    version, available = champion(stores.ledger, spec.name), _months_available(spec, stores, month)

    def decide() -> Mapping[str, Any]:
        made = provenance(stores.ledger, spec.name, version) if version else None
        windows = _windows(spec, stores, made, month, performance, drift) if made else []
        decision = retrain.decide(
            spec.retrain_policy,
            windows,
            model=spec.name,
            champion=version,
            trained_through=made.trained_through if made else None,
            months_available=available,
            last_retrain=_last_retrain(spec, stores, month),
            as_of=spec.labels_known_at(month),
            partition=month,
            metric=spec.gate.primary,
        )
        return {
            **decision.as_json(),
            "through": month,
            "version": version,
            "windows": [window.as_json() for window in windows],
            "performance": performance,
            "drift": drift,
        }

    record = stores.ledger.decide_once(
        Kind.RETRAIN,
        spec.name,
        origin.key,
        decide,
        inputs={
            "partition": month,
            "performance": performance,
            "drift": drift,
            "spec": spec.digest,
            "months": available if version is None else None,
        },
        actor=origin.actor,
        as_of=spec.labels_known_at(month),
    )
    return {name: record.payload[name] for name in ("retrain", "trigger", "reasons", "cause", "through")}


def _windows(
    spec: ModelSpec, stores: Stores, made: Provenance, month: str, performance: str, drift: str
) -> list[retrain.Window]:
    """Months after its gate and up to this one, oldest first; the newest record of each month counts."""
    measured = _by_month(
        stores.ledger.history(Kind.PERFORMANCE, spec.name), made.version, stores.ledger.get(performance)
    )
    compared = _by_month(stores.ledger.history(Kind.DRIFT, spec.name), made.version, stores.ledger.get(drift))
    expected = made.expected.get(spec.gate.primary)
    return [
        retrain.Window(
            partition=served,
            score=_score(spec, measured.get(served, {})),
            expected=expected.value if expected else None,
            drift_alarm=bool(compared.get(served, {}).get("alarm")),
        )
        for served in sorted({*measured, *compared})
        if made.gated_on < served <= month
    ]


def _by_month(records: list[Record], version: str, current: Record) -> dict[str, Mapping[str, Any]]:
    payloads = (record.payload for record in (*records, current))
    return {payload["partition"]: payload for payload in payloads if payload["version"] == version}


def _score(spec: ModelSpec, performance: Mapping[str, Any]) -> Interval | None:
    measured = performance.get("metrics", {}).get(spec.gate.primary)
    if measured is None or performance["rows"] < spec.monitoring.minimum_rows:
        return None
    return Interval.from_json(measured)


def _months_available(spec: ModelSpec, stores: Stores, month: str) -> int:
    """Months up to this one that have features and outcomes."""
    built, labelled = (
        set(stores.tables.partitions(stores.tables.uri(spec.name, table))) for table in (Table.FEATURES, Table.OUTCOMES)
    )
    return sum(partition <= month for partition in built & labelled)


def _last_retrain(spec: ModelSpec, stores: Stores, month: str) -> datetime | None:
    """Data time of the newest retraining that was decided; one about this very month is what is decided anew."""
    decided = [record.payload for record in stores.ledger.history(Kind.RETRAIN, spec.name) if record.payload["retrain"]]
    times = [spec.labels_known_at(payload["through"]) for payload in decided if payload["through"] != month]
    return max(times, default=None)
