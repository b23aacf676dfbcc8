"""``mlops approve`` and ``mlops reject``: a person's word on a version, without Airflow's pages."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mlops_provider.cli.home import use_home
from mlops_provider.cli.run import origin_of
from mlops_provider.exceptions import ConfigurationError
from mlops_provider.spec import ModelSpec, load_spec


def approve(arguments: argparse.Namespace) -> int:
    """Let a version have traffic."""
    return _decide(arguments, approved=True)


def reject(arguments: argparse.Namespace) -> int:
    """Keep a version from traffic for good."""
    return _decide(arguments, approved=False)


def _decide(arguments: argparse.Namespace, *, approved: bool) -> int:
    """Answer the question that waits, or one that is asked now; without a reason only show it."""
    from mlops_provider.steps import human_approval
    from mlops_provider.stores.suite import Stores

    model, _, version = arguments.version.partition("@")
    if not model or not version.isdecimal():
        raise ConfigurationError(
            f"Expected a model and its version, such as flight_delays@3, got {arguments.version!r}."
        )
    use_home()
    approvers = _spec(model, arguments.model).approval.approvers
    stores, word = Stores.from_environment(), "approve" if approved else "reject"
    origin = origin_of("approve_version", stage=word)
    request = human_approval.unanswered(stores, model, version)
    asked = human_approval.Asked(request=request)
    if request is None:
        # Asking here makes nobody an author: they start no deployment.
        asked = human_approval.ask(
            model, stores, version, policy="always", approvers=approvers, origin=replace(origin, actor="")
        )
    answer = asked.answer
    if asked.request is not None:
        print(asked.request.payload["body"])
        if not arguments.reason:
            print(f"Nothing is decided yet: mlops {word} {arguments.version} --reason ...")
            return 0
        answer = human_approval.answer(
            stores,
            asked.request,
            approved=approved,
            reason=arguments.reason,
            by=origin.actor,
            approvers=approvers,
            origin=origin,
        )
    assert answer is not None  # one of the two is there: everybody is asked
    said = answer.payload
    verdict = "approved" if said["approved"] else "rejected"
    print(f"{model} version {version} was {verdict} by {said['by'] or 'the clock'}: {said['reason']}")
    return 0 if said["approved"] == approved else 1


def _spec(model: str, given: str | None) -> ModelSpec:
    """The model's declaration, which says who may approve."""
    file = Path(given) if given else Path("include", model, "model.yaml")
    if not file.is_file():
        raise ConfigurationError(f"There is no {file}: name the model.yaml of {model!r} with --model.")
    spec = load_spec(file)
    if spec.name != model:
        raise ConfigurationError(f"{file} declares {spec.name!r}, not {model!r}: name its model.yaml with --model.")
    return spec
