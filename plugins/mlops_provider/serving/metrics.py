"""What Prometheus is told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cache
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
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
        self._answered = _Answered()
        self.registry.register(self._answered)
        self.answered = self._answered.count
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


class _Answered(Collector):
    """
    Requests by what became of them, and how long they took.

    Belongs to the event loop, which answers requests and writes the metrics: so it takes no locks.
    """

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, int], int] = {}
        self._seconds: dict[tuple[str, str], _Times] = {}

    def count(self, model: str, version: str, arm: str, code: int, seconds: float) -> None:
        """
        Count a request.

        :param seconds: From its head to its answer.
        """
        became = model, version, arm, code
        self._requests[became] = self._requests.get(became, 0) + 1
        times = self._seconds.get((model, version))
        if times is None:
            times = self._seconds[model, version] = _Times()
        times.counts[bisect_left(_SECONDS, seconds)] += 1
        times.total += seconds

    def collect(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            "mlops_requests",
            "Requests answered, by HTTP status and by how the version was chosen.",
            labels=("model", "version", "arm", "code"),
        )
        for (model, version, arm, code), number in self._requests.items():
            requests.add_metric((model, version, arm, str(code)), number)
        seconds = HistogramMetricFamily(
            "mlops_request_duration_seconds", "From a request's head to its answer.", labels=("model", "version")
        )
        bounds = [*(str(float(bound)) for bound in _SECONDS), "+Inf"]
        for labels, times in self._seconds.items():
            seconds.add_metric(labels, list(zip(bounds, accumulate(times.counts), strict=True)), times.total)
        return requests, seconds


class _Times:
    """Durations in the buckets of ``_SECONDS``, the last of which holds the longer ones; and their sum, in seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.total = 0.0


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
