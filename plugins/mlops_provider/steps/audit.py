"""Is the evidence whole? The ledger against itself, and the registry against the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_provider.core import rollout
from mlops_provider.core.names import ALONE, Alias, Kind, Tag
from mlops_provider.core.rollout import Traffic
from mlops_provider.exceptions import EvidenceError
from mlops_provider.steps.promote import imported_contradictions
from mlops_provider.steps.traffic import ROLLBACK

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.suite import Stores

_MOST_TOLD = 10


@dataclass(frozen=True, slots=True)
class Audit:
    """
    What was found whole.

    :param head: Newest record of the ledger; None if it is empty.
    :param versions: Registered versions that fit their records; None if no registry was compared.
    """

    head: Record | None
    versions: int | None


def verify(stores: Stores) -> Audit:
    """
    Recompute the ledger's chain; compare the registry with it, if the stores name one.

    Compared are the models that either of them knows: one whose records are all gone still has its versions. What
    operators that work alone decided about is registered by whoever owns it.

    :raises EvidenceError: The chain breaks, imported evidence is not what was exported, or the registry contradicts
        the ledger. Not retried.
    """
    ledger = stores.ledger
    if broken := ledger.verify():
        record, reason = broken
        raise EvidenceError(
            f"The chain breaks at record {record.seq} ({record.kind} of {record.model}, {record.record_id}): "
            f"{reason}. Nothing from there on is evidence; compare with a copy."
        )
    if changed := [sentence for model in ledger.models() for sentence in imported_contradictions(stores, model)]:
        raise EvidenceError(_listed("Imported evidence is not what was exported.", changed))
    if not stores.registry_uri:
        return Audit(ledger.head(), None)
    versions, found = 0, list[str]()
    # The registry first: what it shows has been in the ledger before.
    known = stores.registry.models()
    for model in sorted({*known, *ledger.models(besides=(*ALONE, Kind.COPY))}):
        compared, contradictions = _compare_versions(stores, model)
        versions += compared
        found += [*contradictions, *_champion_contradictions(stores, model)]
    if found:
        raise EvidenceError(_listed("The registry contradicts the ledger.", found))
    return Audit(ledger.head(), versions)


def _listed(what: str, found: list[str]) -> str:
    more = [f"and {len(found) - _MOST_TOLD} more."] * (len(found) > _MOST_TOLD)
    return "\n".join([what, *found[:_MOST_TOLD], *more])


def _compare_versions(stores: Stores, model: str) -> tuple[int, list[str]]:
    """Compare each version's tag with the record of its registration."""
    # The registry first: what a version is tagged with has been in the ledger before.
    versions = stores.registry.versions(model)
    digests = {record.key: record.digest for record in stores.ledger.history(Kind.REGISTRATION, model)}
    found = []
    for version in versions:
        tag, digest = version.tags.get(Tag.LEDGER_HEAD), digests.get(version.run_id)
        if tag is not None and tag == digest:
            continue
        named = f"Version {version.version} of {model!r} (run {version.run_id or 'unknown'})"
        if tag is None and digest is None:
            found.append(
                f"{named} has neither a registration record nor the tag {Tag.LEDGER_HEAD}: it was registered by hand, "
                "or its task was interrupted. Clear register_model of its run, or delete the version in MLflow."
            )
        elif tag is None:
            found.append(
                f"{named} lacks the tag {Tag.LEDGER_HEAD}: its task was interrupted, or somebody removed it. "
                f"Clear register_model of its run; it must become {digest}."
            )
        elif digest is None:
            what = "its tail was cut or rewritten" if digests else "it holds no registration of this model at all"
            found.append(
                f"{named} was registered with record {tag}, which the ledger does not hold: {what}, "
                "or it is another ledger. Check MLOPS_LEDGER_URL; compare with a copy of the ledger."
            )
        else:
            found.append(
                f"{named} was registered with record {tag}; the ledger says {digest}: its tail was rewritten, or the "
                "tag was changed. Compare with a copy of the ledger, then with MLflow's."
            )
    return len(versions), found


def _champion_contradictions(stores: Stores, model: str) -> Iterator[str]:
    """Say how the alias differs from what the newest settled traffic record gives it."""
    shown = stores.registry.aliases(model).get(Alias.CHAMPION)
    settled = [traffic for traffic in stores.ledger.traffic_history(model) if traffic.settled]
    expected = rollout.champion(settled[-1]) if settled else None
    if shown == expected or (settled and shown in _shown_while_finishing(stores.ledger, settled)):
        return
    alias = f"Alias {Alias.CHAMPION!s} of {model!r}"
    points = f"points at version {shown}" if shown else "is missing"
    if not settled:
        yield (
            f"{alias} {points}, but no version has settled traffic: an out-of-band change, made by hand. "
            "Traffic does not follow it; remove the alias in MLflow and deploy with the pipeline."
        )
        return
    said = f"generation {settled[-1].generation} of the ledger gives the traffic to version {expected}"
    why = "an out-of-band change, made by hand"
    if _strategy(stores.ledger, settled[-1]) == ROLLBACK:
        why += ", or MLflow was away during that rollback"
    yield (
        f"{alias} {points}, but {said}: {why}. Traffic does not follow it; set the alias to version {expected} in "
        "MLflow, and deploy or roll back with the pipeline to change what serves."
    )


def _shown_while_finishing(ledger: Ledger, settled: list[Traffic]) -> set[str | None]:
    """What the alias may say between settling and promotion: a deployment verifies the servers before it moves it."""
    newest = settled[-1]
    promoted = ledger.find(Kind.PROMOTION, f"{newest.model}:{newest.generation}")
    if promoted or _strategy(ledger, newest) == ROLLBACK:
        return set()
    return {rollout.champion(settled[-2]) if len(settled) > 1 else None}


def _strategy(ledger: Ledger, traffic: Traffic) -> str:
    record = ledger.find(Kind.TRAFFIC, f"{traffic.model}:{traffic.generation}")
    return str(record.payload["strategy"]) if record else ""
