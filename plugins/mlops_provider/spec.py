"""``model.yaml``: a use case, declared once. Imported while DAGs are parsed, so it loads nothing heavy."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr

from mlops_provider import use_case
from mlops_provider.checked_yaml import Document, Problem
from mlops_provider.core import partitions
from mlops_provider.core.drift import DriftPolicy
from mlops_provider.core.evaluation import PARENT
from mlops_provider.core.evidence import canonical
from mlops_provider.core.fairness import measures_of
from mlops_provider.core.gates import FEW_BLOCKS, GatePolicy
from mlops_provider.core.names import Task
from mlops_provider.core.retrain import RetrainPolicy
from mlops_provider.core.tasks import TASKS, TargetTask
from mlops_provider.exceptions import SpecError
from mlops_provider.spec_parts import (
    BLOCKS_OF_TIME,
    ApprovalSpec,
    Bootstrap,
    Columns,
    Count,
    Days,
    Declared,
    Features,
    Functions,
    GateSpec,
    MonitoringSpec,
    Month,
    Name,
    Resources,
    RetrainSpec,
    RolloutSpec,
    Search,
    Segments,
    ServingSpec,
    Source,
    Sources,
    Target,
    Text,
    TimeZone,
    TrustSpec,
)

if TYPE_CHECKING:
    from mlops_provider.core.rollout import RolloutPolicy
    from mlops_provider.core.serving import ServingPolicy

FunctionName = Literal["land", "parts", "features", "history", "outcomes", "estimator", "space", "delivered"]


class ModelSpec(Declared):
    """
    A use case, as ``model.yaml`` declares it.

    :param name: The model's name, in every store and asset.
    :param sources: Where data is delivered; without, ``land`` and ``outcomes`` find it themselves.
    :param keys: Columns that identify a row.
    :param event_time: Column with the time a prediction is made, with a time zone.
    :param time_zone: Zone in which the source counts its months.
    :param first_partition: First month there is data for.
    :param label_lag_days: Days after the end of a month until all its labels are known.
    :param expectations: Expectations file, relative to the yaml.
    :param slices: Columns by which scores are also measured.
    :param segments: A model of its own per value of a column, where it is better than the one of all rows.
    :param protected: Columns about people that fairness is judged by; text. They are kept in the features table;
        the model sees those that are also features.
    :param trust: Who answers for types of the model that nobody reviewed; without it such a model is refused.
    :param chunk_rows: Rows from which a partition is worked on in chunks of that size, each by a task of its own,
        rounded up to a multiple of 8,192; by default it is always worked on in one piece. The result is the same.
    :param look_back_hours: Hours before a row that its features may look at, up to four weeks. Without it they may
        look at the whole month before, and are computed in one piece. With it they are stored in the order of their
        event time.
    :param resources: What each task may use, by task ID.
    """

    name: Name
    owner: Text
    description: str = ""
    functions: Functions
    sources: Sources = Sources()
    keys: Annotated[Columns, Field(min_length=1)]
    event_time: Text
    time_zone: TimeZone = "UTC"
    first_partition: Month
    label_lag_days: Days
    target: Target
    expectations: Text
    features: Features
    slices: Columns = ()
    segments: Segments | None = None
    protected: Columns = ()
    seed: Annotated[int, Field(ge=0)] = 0
    search: Search = Search()
    bootstrap: Bootstrap = Bootstrap()
    gate: GateSpec
    rollout: RolloutSpec
    serving: ServingSpec = Field(default_factory=ServingSpec)
    monitoring: MonitoringSpec = MonitoringSpec()
    retrain: RetrainSpec = RetrainSpec()
    approval: ApprovalSpec = ApprovalSpec()
    trust: TrustSpec | None = None
    chunk_rows: Count | None = None
    look_back_hours: Annotated[int, Field(ge=1, le=672)] | None = None
    resources: dict[Annotated[Task, Field(strict=False)], Resources] = Field(default_factory=dict)

    _path: Path = PrivateAttr()

    @property
    def path(self) -> Path:
        """The yaml file this was read from."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder of the use case."""
        return self._path.parent

    @property
    def expectations_path(self) -> Path:
        """The expectations file."""
        return self.folder / self.expectations

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns the model sees, numeric ones first."""
        return self.features.numeric + self.features.categorical

    @property
    def kept_columns(self) -> tuple[str, ...]:
        """Columns of the features table, in this order."""
        return tuple(dict.fromkeys([*self.keys, self.event_time, *self.protected, *self.feature_columns]))

    @property
    def task(self) -> TargetTask:
        """What kind of thing is predicted."""
        return TASKS[self.target.task]

    @property
    def rollout_policy(self) -> RolloutPolicy:
        """How traffic moves to a new version."""
        return self.rollout.policy(self.gate.primary, self.task.performance_drop)

    @property
    def gate_policy(self) -> GatePolicy:
        """What a candidate has to show."""
        policy = self.gate.policy()
        return dataclasses.replace(policy, not_worse_than=(PARENT,)) if self.segments else policy

    @property
    def serving_policy(self) -> ServingPolicy:
        """How the model server answers, and what it has to know of the model."""
        binary = self.task.name == "binary"
        return dataclasses.replace(self.serving.policy(), keys=self.keys, binary=binary)

    @property
    def drift_policy(self) -> DriftPolicy:
        """When drift is an alarm."""
        return self.monitoring.policy()

    @property
    def retrain_policy(self) -> RetrainPolicy:
        """When to retrain."""
        return self.retrain.policy(self.task.performance_drop)

    @property
    def digest(self) -> str:
        """
        SHA-256, in hex, of everything declared, defaults included, but for what only says how the work is done.

        So a run whose tasks are moved to other workers, or cut into other chunks, goes on.
        """
        how: dict[str, Any] = {
            "resources": True,
            "chunk_rows": True,
            "segments": {"at_once"},
            "serving": {"sagemaker"},
        }
        return hashlib.sha256(canonical(self.model_dump(mode="json", exclude=how)).encode()).hexdigest()

    @property
    def code_digest(self) -> str:
        """SHA-256, in hex, over :attr:`digest` and the use case's other Python and YAML files as they are now."""
        files = [use_case.code_digest(folder, without=self.path.name) for folder in self.code_folders]
        return hashlib.sha256("".join([self.digest, *files]).encode()).hexdigest()

    @property
    def code_folders(self) -> tuple[Path, ...]:
        """Folders whose code it uses: its own, then those beside it."""
        named = [reference for reference in self.functions.model_dump().values() if reference]
        return tuple(
            dict.fromkeys([self.folder, *sorted(use_case.folder_of(self.folder, reference) for reference in named)])
        )

    def labels_known_at(self, partition: str) -> datetime:
        """When all labels of a partition are known: the data time of what is decided about it."""
        return partitions.labels_known_at(partition, self.label_lag_days)

    def source(self, function: Literal["land", "outcomes"]) -> Source | None:
        """Where the data of a function is delivered; None if it finds it itself."""
        declared: Source | None = getattr(self.sources, function)
        return declared.resolved(os.environ) if declared else None

    def function(self, name: FunctionName) -> Callable[..., Any]:
        """
        Load one of the use case's functions.

        :raises SpecError: It is not there, or its file cannot be imported. Not retried.
        """
        return use_case.load_function(self.folder, getattr(self.functions, name))


def load_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """
    Read and check a ``model.yaml``; read again only when the file changes.

    :raises SpecError: Each line of the message is ``file:line: what, expected what``. Not retried.
    """
    file = Path(path)
    try:
        stat = file.stat()
    except OSError as error:
        raise SpecError(f"{file}: cannot be read: {error.strerror}.") from error
    return _load(file, file.absolute(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=64)
def _load(path: Path, _place: Path, _changed: int, _size: int) -> ModelSpec:
    document = Document(path)
    spec = document.check(ModelSpec)
    spec._path = path.resolve()  # noqa: SLF001 - not declared in the yaml, hence no field
    if problems := [*_column_problems(spec), *_gate_problems(spec), *_task_problems(spec), *_file_problems(spec)]:
        raise document.error(problems)
    return spec


def _column_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield columns that are named where the features table has none, and a target the model could see."""
    known = {*spec.keys, *spec.feature_columns, *spec.protected}
    for index, column in enumerate(spec.slices):
        if column not in known:
            yield ("slices", index), f"expected a key, a feature or a protected column, got {column!r}."
    for index, column in enumerate(spec.protected):
        if column in spec.features.numeric:
            yield ("protected", index), f"{column!r} is a number: add a column of its bands, such as '30-39', as text."
    if spec.segments and spec.segments.column not in spec.features.categorical:
        there = ", ".join(spec.features.categorical) or "there is none"
        yield ("segments", "column"), f"expected a categorical feature ({there}), got {spec.segments.column!r}."
    yield from _segment_problems(spec)
    for index, column in enumerate(spec.monitoring.seasonal):
        if column not in spec.feature_columns:
            yield ("monitoring", "seasonal", index), f"expected a feature, got {column!r}."
    if spec.target.name in known:
        yield ("target", "name"), f"{spec.target.name!r} is also a key or a feature: the model would see its answer."
    if (block := spec.bootstrap.block) and block not in {*BLOCKS_OF_TIME, *known}:
        units = ", ".join(BLOCKS_OF_TIME)
        yield ("bootstrap", "block"), f"expected {units}, a key, a feature or a protected column, got {block!r}."


def _segment_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield blocks of which a segment can never have enough to be judged."""
    block = spec.bootstrap.block
    if spec.segments and block in {"week", spec.segments.column}:
        held = "there are 4 to 6" if block == "week" else "each is one"
        yield (
            ("bootstrap", "block"),
            f"expected blocks of which each of 'segments' has {FEW_BLOCKS} in a month, got {block!r}: {held}.",
        )


def _gate_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield what the gate is to judge by and nothing measures."""
    for name, bound in (("slice_floor", spec.gate.slice_floor), ("slice_ceiling", spec.gate.slice_ceiling)):
        if bound and not spec.slices:
            yield ("gate", name), f"a {name[6:]} for slices needs columns under 'slices'."
    for index, limit in enumerate(spec.gate.fairness):
        if not spec.protected:
            yield ("gate", "fairness", index), "a limit between groups needs columns under 'protected'."
        elif limit.attribute and limit.attribute not in spec.protected:
            there = ", ".join(spec.protected)
            yield ("gate", "fairness", index, "attribute"), f"expected one of {there}, got {limit.attribute!r}."


def _task_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield metrics and measures that do not fit what is predicted."""
    task, gate = spec.task, spec.gate
    for place, metric in _named_metrics(spec):
        if metric not in task.metrics:
            yield place, f"expected a metric of a {task.name} target: {', '.join(task.metrics)}; got {metric!r}."
    for index, column in enumerate(spec.serving.pseudonymise):
        if column not in {*spec.keys, *spec.feature_columns}:
            yield ("serving", "pseudonymise", index), f"expected a key or a feature, got {column!r}."
    fallback = spec.serving.fallback
    if fallback is not None and task.name == "binary" and not 0 <= fallback <= 1:
        yield ("serving", "fallback"), f"expected a probability, 0-1, got {fallback}."
    measures = measures_of(task.rates)
    for index, limit in enumerate(gate.fairness):
        if limit.measure not in measures:
            yield (
                ("gate", "fairness", index, "measure"),
                f"expected a measure of a {task.name} target: {', '.join(measures)}; got {limit.measure!r}.",
            )


def _named_metrics(spec: ModelSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield each metric that something is judged by, and its place."""
    gate = spec.gate
    yield ("gate", "primary"), gate.primary
    for index, limit in enumerate(gate.limits):
        yield ("gate", "limits", index, "metric"), limit.metric
    for name, bound in (("slice_floor", gate.slice_floor), ("slice_ceiling", gate.slice_ceiling)):
        if bound:
            yield ("gate", name, "metric"), bound.metric
    if (guard := spec.rollout.guards.performance) and guard.metric:
        yield ("rollout", "guards", "performance", "metric"), guard.metric


def _file_problems(spec: ModelSpec) -> Iterator[Problem]:
    """Yield sources that can't be right, and files that are named and not there."""
    for name in ("land", "outcomes"):
        try:
            delivered = spec.source(name)
        except ValueError as error:
            yield ("sources", name), str(error)
            continue
        if delivered and name == "land" and spec.functions.parts:
            yield ("sources", name), "it comes in one piece, but functions.parts names parts: declare one of the two."
    for field, reference in spec.functions.model_dump().items():
        file = (reference or "").partition(":")[0]
        if file and not (spec.folder / file).is_file():
            yield ("functions", field), f"there is no file {file!r} beside this one."
    if not spec.expectations_path.is_file():
        yield ("expectations",), f"there is no file {spec.expectations!r} beside this one."
