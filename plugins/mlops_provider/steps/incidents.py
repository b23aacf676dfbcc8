"""A version that failed is taken back, and what happened is recorded once: an incident, with the time to restore."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlops_provider.core import rollout
from mlops_provider.core.names import Alias, Kind, Tag
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import MLOpsError, RolloutRefusedError, ServingCheckError
from mlops_provider.steps.following import wait_until_served
from mlops_provider.steps.traffic import Lever, champion, seconds_since

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.suite import Stores

logger = logging.getLogger(__name__)

PAUSED = "paused: "
"""What the reason of a record begins with that took a version back because stores or servers were away."""


def fail(
    stores: Stores,
    lever: Lever,
    version: str,
    failure: ServingCheckError,
    *,
    refuse: bool,
    readings: Sequence[Mapping[str, Any]] = (),
    patience: float,
) -> ServingCheckError:
    """
    Take *version* back, and give the error that tells both what failed and what serves now.

    :param refuse: Whether it may never return.
    :param readings: What the guards measured.
    :param patience: Longest wait for the replicas to serve the old split, in seconds.
    """
    began = time.monotonic()
    current = stores.ledger.traffic(lever.model)
    if current is None or version not in current.split:
        return failure
    about = {"version": version, "generation": current.generation, "reason": str(failure), "readings": list(readings)}
    try:
        back = lever.take_back(str(failure), version=version, refuse=refuse, readings=readings)
    except RolloutRefusedError as nowhere:
        _record(stores, lever, {**about, "restored": None, "seconds": None, "replicas": []})
        return type(failure)(f"{failure} {nowhere}")
    replicas = _replicas_back(lever, back, patience)
    seconds = round(time.monotonic() - began, 3) if replicas else None
    incident = _record(stores, lever, {**about, "restored": back.generation, "seconds": seconds, "replicas": replicas})
    if refuse:
        project_rollback(stores, back)
    return type(failure)(sentence(stores.ledger, incident))


def not_even_loaded(stores: Stores, lever: Lever, version: str, failure: ServingCheckError) -> ServingCheckError:
    """Record that *version* failed before anything moved for it, and give the error that says so."""
    current = stores.ledger.traffic(lever.model)
    generation = current.generation if current else 0
    about = {"version": version, "generation": generation, "reason": str(failure), "readings": []}
    nothing_moved: dict[str, Any] = {"restored": None, "seconds": None, "replicas": []}
    # Of two tries, both find the first one's; another run that fails in the same way is told as well.
    key = f"{lever.model}:{generation}:{version}:{lever.origin.run_key}"
    _record(stores, lever, {**about, **nothing_moved}, key=key)
    return type(failure)(f"{failure} Version {version} got no traffic.")


def complete(stores: Stores, lever: Lever, version: str, *, patience: float) -> None:
    """Record the incident that an earlier try of this task decided on, and was killed before it could."""
    for decided in stores.ledger.history(Kind.ROLLBACK, lever.model):
        about = decided.payload
        ours = about["origin"] == lever.origin.key and version in about["refused"]
        if not ours or stores.ledger.find(Kind.INCIDENT, f"{lever.model}:{about['generation']}"):
            continue
        back = _back(stores.ledger, lever.model, version, about["generation"])
        back = back or lever.take_back(about["reason"], version=version)
        _completed(stores, lever, decided, version, back, patience=patience)
        project_rollback(stores, back)


def complete_ended(stores: Stores, lever: Lever, version: str, *, patience: float) -> str | None:
    """
    Record the incident of a rollout that an earlier try of this task ended, and was killed before it could; or that a
    task of this run paused and did not take up again.

    :return: What happened, as a sentence; None if nothing is left to record.
    """
    ledger = stores.ledger
    for ended in reversed(ledger.history(Kind.ABORT, lever.model)):
        if ended.payload["origin"] != lever.origin.key or ended.payload["version"] != version:
            continue
        since = ended.payload["generation"]
        back = _back(ledger, lever.model, version, since)
        if back is None or any(
            incident.payload["version"] == version and since <= incident.payload["generation"] < back.generation
            for incident in ledger.history(Kind.INCIDENT, lever.model)
        ):
            return None
        return sentence(ledger, _completed(stores, lever, ended, version, back, patience=patience))
    return _paused_for_good(stores, lever, version, patience)


def _paused_for_good(stores: Stores, lever: Lever, version: str, patience: float) -> str | None:
    """Record the incident of a rollout that a task of this run paused last, unless that is done."""
    ledger, model = stores.ledger, lever.model
    ours = [each for each in ledger.history(Kind.TRAFFIC, model) if lever.origin.same_run(each.payload["origin"])]
    if not ours or not ours[-1].payload["reason"].startswith(PAUSED):
        return None
    back = Traffic.from_json(ours[-1].payload)
    later = (traffic for traffic in ledger.traffic_history(model) if traffic.generation > back.generation)
    if any(version in traffic.split for traffic in later):  # somebody else took it up
        return None
    if ledger.find(Kind.INCIDENT, f"{model}:{back.generation - 1}"):
        return None
    about = {"generation": back.generation - 1, "reason": back.reason.removeprefix(PAUSED)}
    return sentence(ledger, _completed(stores, lever, ours[-1], version, back, patience=patience, about=about))


def end_paused(lever: Lever, back: Traffic, reason: str) -> None:
    """Record that a person ended what a task had only paused when *back* came back: no try of its run goes on then."""
    if not back.reason.startswith(PAUSED):
        return
    before = lever.ledger.find(Kind.TRAFFIC, f"{lever.model}:{back.generation - 1}")
    if before is None:
        return
    left = Traffic.from_json(before.payload)
    for version in sorted(set(left.split) - set(back.split)):
        lever.note_abort(version, reason, left)


def _back(ledger: Ledger, model: str, version: str, since: int) -> Traffic | None:
    """What came back when *version* left the split of generation *since*; None if it is still there."""
    later = (traffic for traffic in ledger.traffic_history(model) if traffic.generation > since)
    return next((traffic for traffic in later if version not in traffic.split), None)


def _completed(
    stores: Stores,
    lever: Lever,
    decided: Record,
    version: str,
    back: Traffic,
    *,
    patience: float,
    about: Mapping[str, Any] | None = None,
) -> Record:
    """
    Record the incident of what an earlier try *decided*, once the replicas serve what came back.

    :param about: In which ``generation`` it failed, and the ``reason``; by default the decision says so.
    """
    replicas = _replicas_back(lever, back, patience)
    about = about or decided.payload
    incident = {
        "version": version,
        "generation": about["generation"],
        "reason": about["reason"],
        "readings": about.get("readings", []),
        "restored": back.generation,
        "seconds": round(seconds_since(decided), 3) if replicas else None,
        "replicas": replicas,
    }
    return _record(stores, lever, incident)


def sentence(ledger: Ledger, incident: Record) -> str:
    """What happened, and what served then, for a person."""
    found = incident.payload
    back = ledger.find(Kind.TRAFFIC, f"{incident.model}:{found['restored']}")
    if back is None:
        return f"{found['reason']} Nothing came back: version {found['version']} had no traffic, or had it alone."
    split = rollout.describe(back.payload["split"])
    if found["seconds"] is None:
        serves = f"brings back {split}, which was not seen on every replica"
    else:
        serves = f"serves {split}, on every replica {found['seconds']:.1f} s after the decision"
    return f"{found['reason']} Version {found['version']} was taken back; generation {found['restored']} {serves}."


def untold(ledger: Ledger, model: str, origin: Origin) -> list[Record]:
    """Incidents of *origin*'s run that nobody was told of yet, oldest first: a try may have been killed before."""
    told = {record.payload["incident"] for record in ledger.history(Kind.TOLD, model)}
    return [
        incident
        for incident in ledger.history(Kind.INCIDENT, model)
        if origin.same_run(incident.payload["origin"]) and incident.record_id not in told
    ]


def note_told(ledger: Ledger, incident: Record, origin: Origin) -> None:
    """Record that people were told of an incident, which no later try of the run does again."""
    about = {"incident": incident.record_id, "version": incident.payload["version"], "origin": origin.key}
    ledger.append(Kind.TOLD, incident.model, about, key=incident.record_id, actor=origin.actor)


def _replicas_back(lever: Lever, back: Traffic, patience: float) -> list[str]:
    """Replicas that were seen to serve what came back; none if they were not, which changes nothing about it."""
    try:
        replicas = wait_until_served(lever.target, back, patience=patience)
    except MLOpsError as error:
        logger.warning("Not every replica was seen to be back: %s", error)
        return []
    return [replica.replica for replica in replicas]


def _record(stores: Stores, lever: Lever, about: Mapping[str, Any], *, key: str = "") -> Record:
    """Record an incident, by default the one of its generation; of two tries, both find the first one's."""
    history = stores.ledger.traffic_history(lever.model)
    before = [traffic for traffic in history if traffic.generation <= about["generation"]]
    settled = [traffic for traffic in before if traffic.settled]
    payload = {
        **about,
        "champion": rollout.champion(settled[-1]) if settled else None,
        "split": dict(before[-1].split) if before else {},
        "most": max((traffic.split.get(about["version"], 0) for traffic in before), default=0),
        "strategy": lever.strategy,
        "origin": lever.origin.key,
    }
    key = key or f"{lever.model}:{about['generation']}"
    return stores.ledger.append(Kind.INCIDENT, lever.model, payload, key=key, actor=lever.origin.actor)


def project_rollback(stores: Stores, traffic: Traffic) -> None:
    """Show a rollback in the registry; it must also work if the registry is away or refuses: traffic has moved."""
    try:
        decided = stores.ledger.find(Kind.ROLLBACK, f"{traffic.model}:{traffic.generation - 1}")
        reasons = dict.fromkeys(decided.payload["refused"], decided.payload["reason"]) if decided else {}
        # That of now: another version may have settled since.
        if serving := champion(stores.ledger, traffic.model):
            stores.registry.set_alias(traffic.model, Alias.CHAMPION, serving)
        for version, reason in reasons.items():
            stores.registry.tag_version(traffic.model, version, {Tag.ROLLED_BACK: reason})
    except MLOpsError as error:
        logger.warning("The registry does not show the rollback yet: %s", error)
