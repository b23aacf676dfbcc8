"""What every operator of this package shares: its stores, its origin, and how failures reach the scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from mlops_provider.core import names
from mlops_provider.core.extras import explained_imports
from mlops_provider.core.origin import Origin
from mlops_provider.exceptions import NothingToDo, PermanentError

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from mlops_provider.core.chunks import ChunkResult
    from mlops_provider.spec import ModelSpec
    from mlops_provider.stores.suite import Stores


class MLOpsOperator(BaseOperator):
    """
    Run one step; subclasses say which in :meth:`step`.

    A permanent error fails the task at once, a transient one is retried, and a step
    with nothing to do is skipped with its reason. A worker that lacks a library is told
    which of the *extras* to install.
    """

    extras: ClassVar[tuple[str, ...]] = ()
    """Extras of the wheel that the step needs on the worker."""

    def step(self, context: Context, origin: Origin) -> Any:
        """Do the work and give a small JSON-safe result."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Run the step and translate what went wrong into Airflow's words."""
        return self.in_words(lambda: self.step(context, origin_of(context)))

    def in_words(self, act: Callable[[], Any]) -> Any:
        """Do something and translate what goes wrong into Airflow's words."""
        try:
            with explained_imports(*self.extras):
                return act()
        except NothingToDo as reason:
            raise AirflowSkipException(str(reason)) from None
        except PermanentError as error:
            raise AirflowFailException(str(error)) from error

    def announce(self, context: Context, **extra: Any) -> None:
        """Put *extra* on the event of each asset in ``outlets``."""
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra.update(extra)

    def leave(self, context: Context, result: Any) -> None:
        """Leave *result* as the return value of a task that will not return."""
        context["ti"].xcom_push(key="return_value", value=result)

    def stop_here(self, context: Context, result: Any) -> NoReturn:
        """Succeed with *result*, but skip every task that directly follows: the answer was no."""
        self.leave(context, result)
        raise DownstreamTasksSkipped(tasks=sorted(self.downstream_task_ids))


class StepOperator(MLOpsOperator):
    """
    A step of the lifecycle, on the suite's own stores.

    :param tables_conn_id: Connection of the tables and reports. (templated)
    :param registry_conn_id: Connection of the model registry. (templated)
    :param ledger_conn_id: Connection of the ledger. (templated)
    """

    template_fields: Sequence[str] = ("tables_conn_id", "registry_conn_id", "ledger_conn_id")

    def __init__(
        self,
        *,
        tables_conn_id: str = names.TABLES_CONN,
        registry_conn_id: str = names.REGISTRY_CONN,
        ledger_conn_id: str = names.LEDGER_CONN,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tables_conn_id = tables_conn_id
        self.registry_conn_id = registry_conn_id
        self.ledger_conn_id = ledger_conn_id

    @cached_property
    def stores(self) -> Stores:
        """The stores behind the connections; tests put their own here."""
        from mlops_provider.hooks.stores import ConnectedStores

        return ConnectedStores(
            tables_conn_id=self.tables_conn_id,
            registry_conn_id=self.registry_conn_id,
            ledger_conn_id=self.ledger_conn_id,
        )


class ModelStepOperator(StepOperator):
    """
    A step of one declared model.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    """

    template_fields: Sequence[str] = (*StepOperator.template_fields, "model_yaml")

    def __init__(self, *, model_yaml: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model_yaml = model_yaml

    @property
    def spec(self) -> ModelSpec:
        """The declared model, read anew when the file changed."""
        from mlops_provider.spec import load_spec

        return load_spec(self.model_yaml)


class PartitionStepOperator(ModelStepOperator):
    """
    A step that works on one partition.

    :param partition: Partition key such as ``2013-01``; by default the run's own key. (templated)
    """

    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "partition")

    def __init__(self, *, partition: str = "{{ dag_run.partition_key or '' }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.partition = partition


Callbacks = Callable[[Any], None] | Sequence[Callable[[Any], None]] | None
"""Airflow's notifiers, or functions of the context."""


def tell(operator: ModelStepOperator, context: Context, callbacks: Callbacks, **about: str) -> None:
    """Call those who asked to be told, as Airflow calls its own callbacks: one that fails stops nobody."""
    for callback in [callbacks] if callable(callbacks) else callbacks or ():
        try:
            callback({**context, "mlops": {"model": operator.spec.name, **about}})
        except Exception:  # the decision stands, and its task would fail over a message
            operator.log.exception("A callback of %s failed.", operator.task_id)


def results(chunks: Sequence[Mapping[str, Any]] | None) -> list[ChunkResult] | None:
    """Read what mapped tasks handed back; None if there were none."""
    from mlops_provider.core.chunks import ChunkResult

    return None if chunks is None else [ChunkResult.from_json(each) for each in chunks]


def data_time(context: Context) -> datetime | None:
    """The moment that the run is about, if it is about one."""
    dag_run: Any = context["dag_run"]
    return getattr(dag_run, "logical_date", None)


def origin_of(context: Context) -> Origin:
    """Say which task of which run this is, and who started the run."""
    ti, dag_run = context["ti"], context["dag_run"]
    return Origin(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        actor=getattr(dag_run, "triggering_user_name", None) or "airflow",
    )
