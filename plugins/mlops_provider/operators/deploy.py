"""Traffic: prove that the server can answer with a version, move traffic to it, or take it back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from mlops_provider.core import names
from mlops_provider.exceptions import InconclusiveRolloutError, MLOpsError, ServingCheckError
from mlops_provider.operators.base import Callbacks, ModelStepOperator, origin_of, tell

if TYPE_CHECKING:
    from airflow.sdk import Context

    from mlops_provider.core.origin import Origin
    from mlops_provider.steps.deploy import Waiting


SHORTEST_DEFERRAL = 5.0
"""Seconds from which a wait is handed to the triggerer; handing over and coming back takes a few itself."""


class TrafficOperator(ModelStepOperator):
    """
    A step that speaks with what serves the model.

    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    """

    extras = ("tables", "training")
    releases = False
    """Whether the step brings a version in."""
    template_fields: Sequence[str] = (*ModelStepOperator.template_fields, "server_conn_id")

    def __init__(self, *, server_conn_id: str = names.SERVER_CONN, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server_conn_id = server_conn_id

    @cached_property
    def target(self) -> Any:
        """Where the traffic is moved."""
        from mlops_provider.hooks import aws
        from mlops_provider.hooks.server import ServerHook
        from mlops_provider.steps.targets import target_of

        hook = ServerHook(self.server_conn_id)
        return target_of(
            self.spec,
            self.stores,
            hook.address,
            token=hook.token,
            settings=hook.settings,
            releases=self.releases,
            sagemaker=aws.sagemaker,
        )


class IncidentOperator(TrafficOperator):
    """
    A step that may take a version back, which is an incident.

    :param version: Registered version. (templated)
    :param on_incident_callback: Whom to tell when it was taken back: notifiers, or functions of the context, which
        holds ``mlops`` with ``model``, ``version`` and ``summary``.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "version")

    def __init__(self, *, version: str, on_incident_callback: Callbacks = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.version = version
        self.on_incident_callback = on_incident_callback

    def execute(self, context: Context) -> Any:
        """Run the step; tell of an incident before the task ends, also if an earlier try of the run was killed then."""
        try:
            return super().execute(context)
        except AirflowFailException as failure:
            failed = isinstance(failure.__cause__, ServingCheckError | InconclusiveRolloutError)
            self.tell_incidents(context, str(failure) if failed else "")
            raise
        except AirflowSkipException:
            self.tell_incidents(context)
            raise

    def tell_incidents(self, context: Context, summary: str = "") -> None:
        """Tell of every incident of this run that nobody was told of, and of *summary*, which may be one of them."""
        if not self.on_incident_callback:
            return
        from mlops_provider.steps import incidents

        try:
            origin, ledger = origin_of(context), self.stores.ledger
            for incident in incidents.untold(ledger, self.spec.name, origin):
                said = incidents.sentence(ledger, incident)
                if summary.startswith(str(incident.payload["reason"])):
                    said, summary = summary, ""
                version = str(incident.payload["version"])
                tell(self, context, self.on_incident_callback, version=version, summary=said)
                incidents.note_told(ledger, incident, origin)
        except MLOpsError as away:
            self.log.warning("Whether people were told of incidents is not known: %s", away)
        if summary:
            tell(self, context, self.on_incident_callback, version=self.version, summary=summary)


class ReleaseOperator(IncidentOperator):
    """
    A step in which a version may fail.

    :param deferrable: Wait in the triggerer instead of holding a worker slot.
    """

    releases = True

    def __init__(self, *, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.deferrable = deferrable

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """Called on resume: look again."""
        return self.execute(context)

    def come_back(self, waiting: Waiting) -> None:
        """Leave the worker until the next look is due, if the wait is worth it; else sleep."""
        self.log.info("Next look in %.1f s: %s", waiting.seconds, " ".join(waiting.reasons))
        if self.deferrable and waiting.left >= SHORTEST_DEFERRAL:
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

            trigger = TimeDeltaTrigger(timedelta(seconds=waiting.seconds))
            self.defer(trigger=trigger, method_name=self.execute_complete.__name__)
        time.sleep(waiting.seconds)


class CheckServingOperator(ReleaseOperator):
    """
    Load a version beside the others on every live replica and compare its answers with the registry's model.

    Where machines have to be started for it, it checks out of its worker until the next look is due.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version. (templated)
    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    :param deferrable: Wait in the triggerer instead of holding a worker slot.
    :param on_incident_callback: Whom to tell when the version fails; as for :class:`DeployModelOperator`.
    :return: Ledger ID of the check.
    :raises ServingCheckError: A replica can't load it or answers differently. Not retried.
    """

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import deploy

        how: Any = {"target": self.target, "patience": self.target.patience}
        while isinstance(
            found := deploy.check(self.spec, self.stores, self.version, origin=origin, **how), deploy.Waiting
        ):
            self.come_back(found)
        return found


class DeployModelOperator(ReleaseOperator):
    """
    Move traffic to a version as ``rollout`` of model.yaml declares; settle it, or roll back by itself.

    It looks, moves, and checks out until the next look is due: no worker slot is held meanwhile. Where the rollout
    stands is in the ledger, so a retry, or a task that was killed, goes on there. Skipped if the version already has
    the traffic.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version. (templated)
    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    :param deferrable: Wait in the triggerer instead of holding a worker slot.
    :param on_incident_callback: Whom to tell when the version was taken back: notifiers, or functions of the context,
        which holds ``mlops`` with ``model``, ``version`` and ``summary``. What a try that was
        killed meanwhile told may be told again.
    :return: The settled traffic record.
    :raises GuardBreachedError: A guard was breached, and the version was taken back. Not retried.
    :raises InconclusiveRolloutError: No minimum sample came in time, and it was taken back. Not retried.
    :raises RolloutRefusedError: The version never passed the gate, was rolled back before, or aborted. Not retried.
    :raises ConcurrentWriteError: Another rollout moved the traffic meanwhile. Retried.
    """

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps import deploy

        how: Any = {"target": self.target, "patience": self.target.patience}
        while isinstance(
            reached := deploy.advance(self.spec, self.stores, self.version, origin=origin, **how), deploy.Waiting
        ):
            self.come_back(reached)
        return reached.as_json()


class EndRolloutOperator(IncidentOperator):
    """
    Take back a rollout, or a drill, whose task ended before it was over; skipped if there is none.

    For a teardown behind :class:`DeployModelOperator` or :class:`DrillRollbackOperator`: Airflow runs it once that task
    is over for good, also when somebody marked it, or the run, as failed. A task that is retried or cleared is not
    over, and its rollout goes on. The version may be deployed again, in another run.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param version: Registered version; empty behind a drill. (templated)
    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    :param on_incident_callback: Whom to tell when it was taken back; as for :class:`DeployModelOperator`.
    :return: What happened and what serves now, as a sentence.
    """

    def __init__(self, *, version: str = "", **kwargs: Any) -> None:
        super().__init__(version=version, **kwargs)

    def step(self, context: Context, origin: Origin) -> str:
        from mlops_provider.steps import rollouts

        reason = (
            "The task that rolled it out ended before the rollout did: it failed, was marked by a person, or ran out "
            "of time or tries."
        )
        how: Any = {"target": self.target, "patience": self.target.patience}
        summary = rollouts.end(self.spec, self.stores, self.version, reason=reason, origin=origin, **how)
        self.tell_incidents(context, summary)
        # People are told first: what came back may not be served yet, and a retry only waits for that.
        rollouts.wait_until_back(self.spec, self.stores, target=self.target, origin=origin)
        return summary


class RollbackModelOperator(TrafficOperator):
    """
    Give the traffic back to the last settled version.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param reason: Why, for the record. (templated)
    :param version: Version to leave, so that two who react to one alert go back once; empty for whatever came last.
        Skipped if it has left already. (templated)
    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    :return: The new traffic record; or that of a rollback before, if nobody saw it served until now.
    :raises RolloutRefusedError: There is no earlier settled version to go back to. Not retried.
    """

    template_fields: Sequence[str] = (*TrafficOperator.template_fields, "reason", "version")

    def __init__(self, *, reason: str, version: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reason = reason
        self.version = version

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        # What it needs once traffic has moved: a worker that lacks it says so before.
        from mlops_provider.steps import verification  # noqa: F401
        from mlops_provider.steps.rollback import rollback

        how: Any = {"target": self.target, "patience": self.target.patience}
        which: Any = {"reason": self.reason, "version": self.version or None}
        return rollback(self.spec.name, self.stores, origin=origin, **which, **how).as_json()


class DrillRollbackOperator(TrafficOperator):
    """
    Let the version before answer every caller for a moment, then return: is a rollback possible, and how fast?

    Nothing settles and nothing is held against a version. Skipped while a rollout is under way, and if there is no
    version to go back to.

    :param model_yaml: Path of the use case's ``model.yaml``. (templated)
    :param server_conn_id: Connection of the model server, or of SageMaker. (templated)
    :return: What the ledger keeps of it: ``seconds`` until the version before answered on every replica, and so on.
    :raises ServingCheckError: A rollback would not do; traffic is back where it was. Not retried.
    """

    def step(self, context: Context, origin: Origin) -> dict[str, Any]:
        from mlops_provider.steps.drill import drill

        how: Any = {"target": self.target, "patience": self.target.patience}
        return dict(drill(self.spec, self.stores, origin=origin, **how).payload)
