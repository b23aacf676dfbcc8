"""The parts of ``model.yaml`` and what each may hold."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    model_validator,
)

from mlops_provider import use_case
from mlops_provider.core import partitions
from mlops_provider.core.drift import DriftPolicy
from mlops_provider.core.fairness import MINIMUM_ROWS, FairnessLimit
from mlops_provider.core.gates import GatePolicy, Limit, Mode, SliceCeiling, SliceFloor
from mlops_provider.core.metrics import DIRECTIONS
from mlops_provider.core.names import Strategy, WithoutData
from mlops_provider.core.readings import KEPT
from mlops_provider.core.retrain import Drop, RetrainPolicy
from mlops_provider.exceptions import MissingPartitionError

if TYPE_CHECKING:
    from mlops_provider.core.guards import Guards, PerformanceGuard
    from mlops_provider.core.rollout import RolloutPolicy
    from mlops_provider.core.serving import ServingPolicy

_QUANTITY = re.compile(r"\d+(\.\d+)?([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?")
"""A number with Kubernetes' suffixes: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity."""


def _name(text: str) -> str:
    if not (text.isascii() and text.isidentifier() and text == text.lower() and text[0] != "_"):
        raise ValueError(f"expected small letters, digits and '_', starting with a letter, got {text!r}.")
    return text


def _month(text: str) -> str:
    try:
        return partitions.check(text)
    except MissingPartitionError:
        raise ValueError(f"expected a month such as '2013-01', got {text!r}.") from None


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError(f"expected a time zone such as 'America/New_York', got {text!r}.") from None
    return text


def _metric(text: str) -> str:
    if text not in DIRECTIONS:
        raise ValueError(f"expected one of {', '.join(DIRECTIONS)}, got {text!r}.")
    return text


def _function(text: str) -> str:
    if not use_case.REFERENCE.fullmatch(text):
        raise ValueError(f"expected file and function such as 'data.py:land', got {text!r}.")
    return text


def _tolerance(given: object) -> float | str | None:
    if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given) and given >= 0:
        return float(given)
    if given is None or (isinstance(given, str) and re.fullmatch(r"\d+(\.\d+)? ?%", given)):
        return given
    raise ValueError(f"expected a number from 0, or a percentage such as '10 %', got {given!r}.")


def _dropped(declared: float | str | None) -> Drop | None:
    if isinstance(declared, str):
        return Drop(float(declared.removesuffix("%")) / 100, relative=True)
    return None if declared is None else Drop(declared)


def _quantity(text: str) -> str:
    if not _QUANTITY.fullmatch(text):
        raise ValueError(f"expected a quantity of Kubernetes such as '500m', '2' or '4Gi', in quotes, got {text!r}.")
    return text


def _distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise ValueError(f"each may stand here once: {', '.join(twice)}.")
    return texts


BLOCKS_OF_TIME = ("hour", "day", "week")
"""What may be resampled as a whole beside a column; they win over columns of these names."""

Name = Annotated[str, Field(max_length=63), AfterValidator(_name)]
Month = Annotated[str, AfterValidator(_month)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Days = Annotated[int, Field(ge=0)]
Metric = Annotated[str, AfterValidator(_metric)]
Quantity = Annotated[str, AfterValidator(_quantity)]
Function = Annotated[str, AfterValidator(_function)]
Columns = Annotated[tuple[Text, ...], Field(strict=False), AfterValidator(_distinct)]


class Declared(BaseModel):
    """Base of every part: types are taken literally, unknown keys refused, nothing changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Functions(Declared):
    """
    The use case's functions, as ``file.py:function`` relative to the yaml.

    ``../other/file.py:function`` is a function of the use case in the folder beside, which is used as it is.

    :param history: What features need to keep of earlier rows, added to what was kept of others; without it they are
        given those rows themselves.
    :param delivered: For a replay of history: what others would deliver for a partition.
    """

    land: Function
    features: Function
    outcomes: Function
    estimator: Function
    space: Function
    parts: Function | None = None
    history: Function | None = None
    delivered: Function | None = None


class Source(Declared):
    """
    Where a partition's data is delivered: one file, or the rows of one query.

    ``{partition}``, ``{year}``, ``{month}``, ``{start}`` and ``{end}`` (the first instant of the month and of the next,
    UTC) stand for those of the partition; ``${NAME}`` is taken from the environment. Where such a variable is not set,
    there is no source.

    :param uri: Address of the file: a path, ``file://``, ``s3://``, ``http://`` or ``https://``, ending with
        ``.parquet``, ``.csv``, ``.csv.gz`` or ``.csv.zip``.
    :param sql: A query.
    :param conn_id: Airflow connection: ``aws`` for S3, one with a login for HTTP, one of a database for a query.
    """

    uri: str = ""
    sql: str = ""
    conn_id: str = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.uri) == bool(self.sql):
            raise ValueError("expected either 'uri' or 'sql'.")
        if self.sql and not self.conn_id:
            raise ValueError("a query needs 'conn_id', the connection of its database.")
        return self

    def address(self, partition: str) -> str:
        """Give the file's address for a partition."""
        return _filled(self.uri, partition)

    def query(self, partition: str) -> str:
        """Give the query for a partition. What is filled in is made of digits, signs and a T: it can't end a text."""
        return _filled(self.sql, partition)

    @property
    def on_s3(self) -> bool:
        """Whether it is a file on S3."""
        return self.uri.startswith(("s3://", "s3a://"))

    def resolved(self, environment: Mapping[str, str]) -> Source | None:
        """
        Take what is named from the environment.

        :return: The source as it is used here; None if a variable is not set, or empty.
        :raises ValueError: It is the same for every partition.
        """
        if not all(environment.get(name) for name in _FROM_ENVIRONMENT.findall(self.uri + self.sql)):
            return None
        uri, sql = (_FROM_ENVIRONMENT.sub(lambda m: environment[m[1]], text) for text in (self.uri, self.sql))
        if not any(name in uri + sql for name in _PLACES):
            raise ValueError(f"expected one of {', '.join(_PLACES)} in it: every partition would get the same rows.")
        return self.model_copy(update={"uri": uri, "sql": sql})


_FROM_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_]\w*)\}")
_PLACES = ("{partition}", "{year}", "{month}", "{start}", "{end}")


def _filled(text: str, partition: str) -> str:
    year, month = partitions.check(partition).split("-")
    start, end = (moment.isoformat() for moment in (partitions.start(partition), partitions.end(partition)))
    for name, value in zip(_PLACES, (partition, year, month, start, end), strict=True):
        text = text.replace(name, value)
    return text


class Sources(Declared):
    """Where data is delivered, by the function that takes it: ``land(key, frame)`` and ``outcomes(key, frame)``."""

    land: Source | None = None
    outcomes: Source | None = None


class Target(Declared):
    """
    What is predicted: a column of ``outcomes``.

    :param task: "binary": it holds 0 and 1, and the probability of 1 is predicted. "regression": it holds numbers.
    """

    name: Text
    task: Literal["binary", "regression"] = "binary"


class Features(Declared):
    """Columns the model sees."""

    numeric: Columns = ()
    categorical: Columns = ()

    @model_validator(mode="after")
    def _some_and_distinct(self) -> Self:
        columns = self.numeric + self.categorical
        if not columns:
            raise ValueError("expected at least one numeric or categorical column.")
        _distinct(columns)
        return self


class Segments(Declared):
    """
    A model of its own for each value of a column, where it is shown better than the model of all rows, its parent.

    ``segments: carrier`` is short for ``segments: {column: carrier}``.

    :param column: A categorical feature.
    :param minimum_rows: Rows that a segment needs to be judged, of those a child is fitted on and of those it is judged
        on.
    :param maximum: Segments at most; beyond it training is refused, for each of them is a task.
    :param at_once: Segments trained side by side at most in one run.
    """

    column: Text
    minimum_rows: Count = 1000
    maximum: Annotated[int, Field(ge=1, le=1000)] = 100
    at_once: Count = 2

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, given: object) -> object:
        return {"column": given} if isinstance(given, str) else given


class Search(Declared):
    """
    Search of parameters.

    :param trials: Parameter sets tried at most.
    :param timeout_seconds: Seconds after which no trial begins; a guard and no budget: what it cuts differs from day to
        day.
    :param sample_rows: Rows used at most.
    """

    trials: Count = 20
    timeout_seconds: Count = 900
    sample_rows: Count = 50_000


class Bootstrap(Declared):
    """
    Intervals by resampling.

    :param resamples: Draws; each contender is scored on the same ones.
    :param confidence: Coverage of an interval, between 0 and 1.
    :param block: What is drawn as a whole, for rows of one block share what no other has: an "hour", "day" or "week" of
        the event time, or a column. Without it single rows are drawn, as if none had to do with another.
    """

    resamples: Annotated[int, Field(ge=100)] = 300
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    block: Text | None = None


class LimitSpec(Declared):
    """Bounds of one metric, in its own units."""

    metric: Metric
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.minimum is None and self.maximum is None:
            raise ValueError("expected a minimum, a maximum or both.")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"the minimum {self.minimum} is above the maximum {self.maximum}.")
        return self


class SliceFloorSpec(Declared):
    """What every slice of at least *minimum_rows* rows must reach."""

    metric: Metric
    minimum: float
    minimum_rows: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.floor()
        return self

    def floor(self) -> SliceFloor:
        """Return it as the gate takes it."""
        return SliceFloor(**self.model_dump())


class SliceCeilingSpec(Declared):
    """What no slice of at least *minimum_rows* rows may exceed."""

    metric: Metric
    maximum: float
    minimum_rows: Count

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.ceiling()
        return self

    def ceiling(self) -> SliceCeiling:
        """Return it as the gate takes it."""
        return SliceCeiling(**self.model_dump())


class FairnessLimitSpec(Declared):
    """
    How far apart groups of people may lie; see :class:`mlops_provider.core.fairness.FairnessLimit`.

    :param attribute: A column under ``protected``; each of them if left out.
    """

    measure: Text
    attribute: Text | None = None
    minimum: Share | None = None
    maximum: Annotated[float, Field(ge=0)] | None = None
    minimum_rows: Count = MINIMUM_ROWS

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.limit()
        return self

    def limit(self) -> FairnessLimit:
        """Return it as the gate takes it."""
        return FairnessLimit(**self.model_dump())


class GateSpec(Declared):
    """What a candidate has to show; see :class:`mlops_provider.core.gates.GatePolicy`."""

    primary: Metric
    limits: Annotated[tuple[LimitSpec, ...], Field(strict=False)] = ()
    baselines: Annotated[tuple[Literal["dummy", "linear"], ...], Field(strict=False), AfterValidator(_distinct)] = (
        "dummy",
        "linear",
    )
    slice_floor: SliceFloorSpec | None = None
    slice_ceiling: SliceCeilingSpec | None = None
    fairness: Annotated[tuple[FairnessLimitSpec, ...], Field(strict=False)] = ()
    proxy_auc: Annotated[float, Field(gt=0.5, le=1)] = 0.75
    minimum_rows: Count = 1000
    mode: Mode = "enabled"
    mode_reason: str = ""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _distinct(tuple(limit.metric for limit in self.limits))
        self.policy()
        return self

    def policy(self) -> GatePolicy:
        """Return it as the gate takes it."""
        return GatePolicy(
            primary=self.primary,
            limits=tuple(Limit(**limit.model_dump()) for limit in self.limits),
            baselines=self.baselines,
            slice_floor=self.slice_floor.floor() if self.slice_floor else None,
            slice_ceiling=self.slice_ceiling.ceiling() if self.slice_ceiling else None,
            fairness=tuple(limit.limit() for limit in self.fairness),
            proxy_auc=self.proxy_auc,
            minimum_rows=self.minimum_rows,
            mode=self.mode,
            mode_reason=self.mode_reason,
        )


KeptRows = Annotated[int, Field(ge=1, le=KEPT)]
"""Rows that a replica keeps even if each request has only one."""


class ErrorGuardSpec(Declared):
    """See :class:`mlops_provider.core.guards.ErrorGuard`."""

    maximum: Annotated[float, Field(ge=0, lt=1)]
    minimum_requests: Count = 100


class LatencyGuardSpec(Declared):
    """See :class:`mlops_provider.core.guards.LatencyGuard`."""

    p99_ms: Annotated[float, Field(gt=0)] | None = None
    p99_ratio: Annotated[float, Field(ge=1)] | None = None
    minimum_requests: Count = 100


class PredictionGuardSpec(Declared):
    """See :class:`mlops_provider.core.guards.PredictionGuard`."""

    maximum: Annotated[float, Field(gt=0)]
    minimum_rows: KeptRows = 200


class AgreementGuardSpec(Declared):
    """See :class:`mlops_provider.core.guards.AgreementGuard`."""

    minimum: Annotated[float, Field(gt=0, le=1)]
    within: Annotated[float, Field(ge=0)]
    minimum_rows: KeptRows = 200


class PerformanceGuardSpec(Declared):
    """
    See :class:`mlops_provider.core.guards.PerformanceGuard`.

    :param metric: By default the primary metric of the gate.
    :param drop: A number, in units of the metric, or a text such as "10 %", of the champion's score. By default 0.02
        for a binary target, 10 % for a regression.
    """

    metric: Text | None = None
    drop: Annotated[float | str | None, PlainValidator(_tolerance)] = None
    limit: float | None = None
    minimum_labels: Annotated[int, Field(ge=2)] = 200

    def policy(self, primary: str, usual_drop: Drop) -> PerformanceGuard:
        """Return it as the rollout takes it."""
        from mlops_provider.core.guards import PerformanceGuard

        drop = _dropped(self.drop) or usual_drop
        return PerformanceGuard(self.metric or primary, drop, self.limit, self.minimum_labels)


class GuardsSpec(Declared):
    """What is watched while traffic moves; see :class:`mlops_provider.core.guards.Guards`."""

    errors: ErrorGuardSpec | None = None
    latency: LatencyGuardSpec | None = None
    predictions: PredictionGuardSpec | None = None
    agreement: AgreementGuardSpec | None = None
    performance: PerformanceGuardSpec | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        self.policy("", Drop(0.0))
        return self

    def policy(self, primary: str, usual_drop: Drop) -> Guards:
        """
        Return it as the rollout takes it.

        :param primary: Metric of live performance if none is declared.
        :param usual_drop: Loss of it that is tolerated if none is declared.
        """
        # Imported here, like all that only a loaded model.yaml needs: DAG files load no more modules than they must.
        from mlops_provider.core.guards import AgreementGuard, ErrorGuard, Guards, LatencyGuard, PredictionGuard

        return Guards(
            errors=ErrorGuard(**self.errors.model_dump()) if self.errors else None,
            latency=LatencyGuard(**self.latency.model_dump()) if self.latency else None,
            predictions=PredictionGuard(**self.predictions.model_dump()) if self.predictions else None,
            agreement=AgreementGuard(**self.agreement.model_dump()) if self.agreement else None,
            performance=self.performance.policy(primary, usual_drop) if self.performance else None,
        )


class RolloutSpec(Declared):
    """
    How traffic moves to a new version; `docs/rollouts.md` shows each strategy.

    :param strategy: "canary" goes through the steps; "shadow" lets the version score, unseen, what others answer, then
        switches; "blue_green" does so, too, and keeps the old version loaded until the new one has settled;
        "all_at_once" switches, and watches afterwards.
    :param steps: Percent for the new version after each step of a canary, rising to 100.
    :param soak_seconds: Seconds a step is watched at least, by the wall clock.
    :param guards: What has to hold meanwhile; at least one.
    :param wait_at_most_seconds: Seconds beyond the soak in which guards may wait for their minimum samples.
    :param without_data: What then becomes of a step whose guards still lack them: "rollback", "hold" or "proceed".
    :param look_seconds: Longest pause between two looks at the guards.
    """

    strategy: Strategy = "canary"
    steps: Annotated[tuple[int, ...], Field(strict=False)] = (10, 50, 100)
    soak_seconds: Annotated[float, Field(ge=0)] = 600.0
    guards: GuardsSpec
    wait_at_most_seconds: Annotated[float, Field(ge=0)] = 3600.0
    without_data: WithoutData = "rollback"
    look_seconds: Annotated[float, Field(gt=0)] = 15.0

    @model_validator(mode="before")
    @classmethod
    def _guarded(cls, given: object) -> object:
        """A rollout that names no guards is told the same as one whose guards are empty."""
        return {"guards": {}, **given} if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.policy("", Drop(0.0))
        return self

    def policy(self, primary: str, usual_drop: Drop) -> RolloutPolicy:
        """Return it as the rollout takes it; see :meth:`GuardsSpec.policy`."""
        from mlops_provider.core.guards import Soak
        from mlops_provider.core.rollout import RolloutPolicy

        soak = Soak(self.soak_seconds, self.wait_at_most_seconds, self.look_seconds, self.without_data)
        return RolloutPolicy(self.strategy, self.steps, soak, self.guards.policy(primary, usual_drop))


class SageMakerSpec(Declared):
    """
    What a version gets where the model is deployed to SageMaker.

    :param instance_type: Machine of each production variant.
    :param instances: How many of them a new variant gets; what scales them later is left alone.
    :param keep_previous: Keep the version before beside the new one, without traffic, so that a rollback takes seconds:
        it costs its machines. Without it they are brought up anew, which takes minutes.
    """

    instance_type: Annotated[str, Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")] = "ml.m5.large"
    instances: Count = 1
    keep_previous: bool = True


class ServingSpec(Declared):
    """
    How the model server answers; see :class:`mlops_provider.core.serving.ServingPolicy`.

    :param sagemaker: What it gets where it is deployed to SageMaker.
    """

    sticky: Columns = ()
    fallback: float | None = None
    deadline_seconds: Annotated[float, Field(gt=0)] = 10.0
    longest_deadline_seconds: Annotated[float, Field(gt=0)] = 60.0
    most_waiting: Count = 512
    pseudonymise: Columns = ()
    sagemaker: SageMakerSpec = SageMakerSpec()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.policy()
        return self

    def policy(self) -> ServingPolicy:
        """Return it as the server takes it."""
        from mlops_provider.core.serving import ServingPolicy  # DAG files load no more modules than they need

        return ServingPolicy(**self.model_dump(exclude={"sagemaker"}))


class MonitoringSpec(Declared):
    """When drift is an alarm; see :class:`mlops_provider.core.drift.DriftPolicy`."""

    limit: Annotated[float, Field(gt=0)] = 0.1
    categorical_limit: float = 0.1
    seasonal: Columns = ()
    seasonal_limit: Annotated[float, Field(gt=0)] | None = None
    alarm_share: Share = 0.3
    sample_rows: Count = 10_000
    minimum_rows: Count = 1000

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.policy()
        return self

    def policy(self) -> DriftPolicy:
        """Return it as the drift verdict takes it."""
        return DriftPolicy(**self.model_dump())


class RetrainSpec(Declared):
    """
    When to retrain; see :class:`mlops_provider.core.retrain.RetrainPolicy`.

    :param performance_drop: Loss that is tolerated: a number, in units of the primary metric, or a text such as "10 %",
        of the score at the gate. By default 0.02 for a binary target, 10 % for a regression.
    """

    windows_needed: Count = 2
    windows_considered: Count = 3
    performance_drop: Annotated[float | str | None, PlainValidator(_tolerance)] = None
    max_age_days: Count = 120
    cooldown_days: Days = 25

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self.policy(Drop(0.0))
        return self

    def policy(self, usual_drop: Drop) -> RetrainPolicy:
        """
        Return it as the retrain decision takes it.

        :param usual_drop: Loss that is tolerated if none is declared.
        """
        return RetrainPolicy(
            **(self.model_dump() | {"performance_drop": _dropped(self.performance_drop) or usual_drop})
        )


class ApprovalSpec(Declared):
    """
    Whether a person has to agree before a version gets traffic; a policy alone, such as ``always``, will do.

    :param policy: "never", "on_warning" (of the gate) or "always".
    :param timeout_hours: Hours after which a question that nobody answered counts as rejected.
    :param approvers: Who may decide, by their names in Airflow; by default everybody who may answer there. Those who
        started the training or the deployment never may.
    """

    policy: Literal["never", "on_warning", "always"] = "never"
    timeout_hours: Annotated[float, Field(gt=0)] = 72.0
    approvers: Columns = ()

    @model_validator(mode="before")
    @classmethod
    def _policy_alone(cls, given: object) -> object:
        return {"policy": given} if isinstance(given, str) else given


class TrustSpec(Declared):
    """
    Somebody answers for a model that holds types beyond those that every model may; they are recorded by name.

    :param reason: Why it may be loaded.
    :param owner: Who looked at them.
    """

    reason: Text
    owner: Text


class Pod(Declared):
    """
    What a task's pod asks of Kubernetes, in its own words; only the KubernetesExecutor reads it.

    :param requests: Resources the pod is placed by, such as ``{cpu: "2", memory: 4Gi}``.
    :param limits: Resources it may not exceed.
    :param node_selector: Labels a node must have.
    """

    requests: dict[Text, Quantity] = Field(default_factory=dict)
    limits: dict[Text, Quantity] = Field(default_factory=dict)
    node_selector: dict[Text, Text] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.requests or self.limits or self.node_selector):
            raise ValueError("expected requests, limits or a node_selector.")
        return self


class Resources(Declared):
    """
    What a task may use; what is left out keeps its default.

    :param pool: Airflow's pool.
    :param queue: Queue of the workers that may run it.
    :param threads: Threads of numeric libraries.
    :param pod: What its pod asks of Kubernetes.
    """

    pool: Text | None = None
    queue: Text | None = None
    threads: Count | None = None
    pod: Pod | None = None
