"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from mlops_provider.serving.served import ServedModel

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 16384)


class Metrics:
    """Counts and times of one process. Labels hold names of models and versions, never what callers sent."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "mlops_requests",
            "Requests answered, by HTTP status and by how the version was chosen.",
            ("model", "version", "arm", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "mlops_request_duration_seconds",
            "From a request's head to its answer.",
            ("model", "version"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batches = Histogram(
            "mlops_batch_requests",
            "Requests that were scored together.",
            ("model", "version"),
            buckets=_SIZES,
            registry=self.registry,
        )
        self._rows = Counter(
            "mlops_predictions", "Rows scored and logged, by arm.", ("model", "version", "arm"), registry=self.registry
        )
        self._outcomes = Counter("mlops_outcomes", "Outcomes logged.", ("model",), registry=self.registry)
        self._log_bytes = Counter(
            "mlops_prediction_log_bytes", "Bytes appended to the prediction log.", ("model",), registry=self.registry
        )
        self._log_failures = Counter(
            "mlops_prediction_log_failures", "Appends that failed.", ("model",), registry=self.registry
        )
        self._shadow = Counter(
            "mlops_shadow_requests",
            "Requests copied to a shadow version, by what became of them.",
            ("model", "version", "outcome"),
            registry=self.registry,
        )
        # A label's child costs a look-up under a lock; requests come thousands of times a second.
        self.requests = cache(self._requests.labels)
        self.seconds = cache(self._seconds.labels)
        self.batches = cache(self._batches.labels)
        self.rows = cache(self._rows.labels)
        self.outcomes = cache(self._outcomes.labels)
        self.log_bytes = cache(self._log_bytes.labels)
        self.log_failures = cache(self._log_failures.labels)
        self.shadow = cache(self._shadow.labels)
        ProcessCollector(registry=self.registry)

    def watch(self, models: Iterable[ServedModel]) -> None:
        """Read what models serve and how much waits for them whenever somebody asks."""
        self.registry.register(_Gauges(tuple(models)))

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    def __init__(self, models: tuple[ServedModel, ...]) -> None:
        self.models = models

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"mlops_{name}", text, labels=("model",))
            for name, text in (
                ("requests_in_flight", "Requests under way."),
                ("requests_waiting", "Requests that wait to be scored."),
                ("traffic_generation", "Generation of the traffic record that is served; 0 before the first."),
                ("ready", "1 if callers may be sent here."),
            )
        }
        traffic = GaugeMetricFamily("mlops_traffic_share", "Share of traffic, 0-1.", labels=("model", "version"))
        for served in self.models:
            snapshot = served.follower.snapshot
            gauges["requests_in_flight"].add_metric((served.model,), served.open_requests)
            gauges["requests_waiting"].add_metric((served.model,), served.waiting)
            gauges["traffic_generation"].add_metric((served.model,), snapshot.generation if snapshot else 0)
            gauges["ready"].add_metric((served.model,), 0 if served.not_ready else 1)
            for version, percent in (snapshot.split if snapshot else {}).items():
                traffic.add_metric((served.model, version), percent / 100)
        return (*gauges.values(), traffic)
