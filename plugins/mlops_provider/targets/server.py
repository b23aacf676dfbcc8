"""The bundled model server as a deployment target."""

from __future__ import annotations

import functools
import json
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx

from mlops_provider.core import names
from mlops_provider.core.guards import Observed
from mlops_provider.core.latency import percentile
from mlops_provider.exceptions import ServingCheckError, StoreUnavailableError
from mlops_provider.targets.base import Answer

if TYPE_CHECKING:
    import pandas as pd

    from mlops_provider.core.rollout import Traffic
    from mlops_provider.stores.ledger import Ledger
    from mlops_provider.stores.replicas import Replica

_ASKED_AGAIN = 1.0
"""Seconds after which a replica that did not answer is asked again."""
ALIVE_WITHIN = 10.0
"""Seconds since its last heartbeat after which a replica no longer counts; it beats every second."""


class Server:
    """
    One or more replicas of ``mlops serve``, which follow the ledger by themselves.

    :param url: Address that callers use: of the only replica, or of a proxy before several.
    :param model: Registered model.
    :param ledger: Ledger that the replicas follow and report to.
    :param token: Token that the replicas ask for; empty if they ask for none.
    :param timeout: Longest wait for one answer, in seconds.
    """

    patience = holds = 60.0

    def __init__(self, url: str, *, model: str, ledger: Ledger, token: str = "", timeout: float = 10.0) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self.model = model
        self.ledger = ledger
        self.timeout = timeout

    def apply(self, traffic: Traffic) -> None:
        """Do nothing: the replicas read *traffic* from the ledger within half a second."""

    def observe(self) -> Sequence[Replica]:
        """Replicas whose heartbeat reached the ledger in the last seconds."""
        return self.ledger.replicas(self.model, ALIVE_WITHIN)

    def look(self) -> Sequence[Replica]:
        """The same: nothing moves here."""
        return self.observe()

    def predict(self, rows: pd.DataFrame, *, version: str | None = None, replica: Replica | None = None) -> Answer:
        """
        Ask over HTTP, *replica* at the address it reported, and read from the headers which version answered.

        Request IDs begin with ``check-``, by which the rows can be told from real ones in the prediction log.
        """
        base = replica.url if replica else self.url
        request_id = f"{names.CHECK_REQUEST}{uuid4().hex}"
        headers: dict[str, str] = {"Content-Type": "application/json", names.Header.REQUEST_ID: request_id}
        if version:
            headers[names.Header.VERSION] = version
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            response = httpx.post(
                f"{base}/models/{self.model}/invocations",
                content=body(rows),
                headers=headers,
                timeout=self.timeout,
                trust_env=False,
                verify=_tls(),
            )
        except httpx.TransportError as error:
            raise StoreUnavailableError(
                f"The model server at {base} gave no answer ({type(error).__name__}). Is `mlops serve` running there?"
            ) from error
        if response.status_code in (429, 502, 503, 504):
            raise StoreUnavailableError(f"The model server at {base} can't answer now: {_reason(response)}")
        if response.status_code == 401:
            raise StoreUnavailableError(
                f"The model server at {base} refused our token: {_reason(response)} It is the password of the "
                f"connection {names.SERVER_CONN!r}, or {names.Environment.SERVER_TOKEN}."
            )
        if response.headers.get(names.Header.REQUEST_ID) != request_id:
            raise _stranger(base)
        if response.status_code != 200:
            raise ServingCheckError(f"The model server at {base} refused the request: {_reason(response)}")
        if response.headers.get(names.Header.ARM) == names.Arm.FALLBACK:
            raise StoreUnavailableError(f"The model server at {base} is overloaded: it answers with its fallback.")
        try:
            return Answer(
                predictions=tuple(response.json()["predictions"]),
                version=response.headers[names.Header.VERSION],
                generation=int(response.headers[names.Header.GENERATION]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise _stranger(base) from error

    def observed(self, traffic: Traffic) -> Mapping[str, Observed]:
        """
        Add up what the live replicas counted themselves, at the addresses they reported.

        A replica counts from the first request of a generation on, and anew after a restart. Nothing has to be sealed
        or delivered for it.

        :raises StoreUnavailableError: A live replica does not say what it saw: nobody knows how callers fare. Retried.
        """
        seen = [each for replica in self.observe() if (each := self._seen(replica, traffic.generation))]
        return {version: _together([each[version] for each in seen if version in each]) for version in traffic.split}

    def _seen(self, replica: Replica, generation: int) -> Mapping[str, Any]:
        """What a replica counted, by version; nothing if it died meanwhile."""
        deadline = time.monotonic() + ALIVE_WITHIN
        while True:
            try:
                return self._told(replica, generation)
            except StoreUnavailableError:
                if replica.replica not in {each.replica for each in self.observe()}:
                    return {}
                if time.monotonic() > deadline:
                    raise
                time.sleep(_ASKED_AGAIN)

    def _told(self, replica: Replica, generation: int) -> Mapping[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            response = httpx.get(
                f"{replica.url}/models/{self.model}/observed",
                headers=headers,
                timeout=2.0,
                trust_env=False,
                verify=_tls(),
            )
            response.raise_for_status()
            found = response.json()
            versions: Mapping[str, Any] = found["versions"] if found["generation"] == generation else {}
            if any("answered" not in each for each in versions.values()):
                raise KeyError("answered")
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise StoreUnavailableError(
                f"Replica {replica.replica} at {replica.url} lives but does not say what callers met "
                f"({type(error).__name__}): is it overloaded, of an older release, or does it ask for another token?"
            ) from error
        return versions


def _together(seen: Sequence[Mapping[str, Any]]) -> Observed:
    """Add up what several replicas saw of a version."""
    latencies: Counter[int] = Counter()
    for each in seen:
        latencies.update({int(number): count for number, count in each["latencies"].items()})
    return Observed(
        requests=sum(each["requests"] for each in seen),
        errors=sum(each["errors"] for each in seen),
        p99_ms=percentile(latencies, 0.99),
        latencies=latencies,
        predictions=tuple(tuple(request) for request in _sampled(seen, "predictions")),
        pairs=tuple(tuple((one, other) for one, other in request) for request in _sampled(seen, "pairs")),
    )


def _sampled(seen: Sequence[Mapping[str, Any]], kept: str) -> Iterator[Any]:
    """
    What replicas kept, of each the same share of the requests it answered.

    All of it would say more of a replica that answered few, such as one that was started late in a step.
    """
    shares = [len(each[kept]) / each["answered"] if each["answered"] else 1.0 for each in seen]
    least = min((share for each, share in zip(seen, shares, strict=True) if each[kept]), default=1.0)
    for each, share in zip(seen, shares, strict=True):
        if not each[kept]:
            continue
        wanted = max(1, round(len(each[kept]) * least / share))
        yield from (each[kept][number * len(each[kept]) // wanted] for number in range(wanted))


@functools.cache
def _tls() -> ssl.SSLContext:
    """Made once: loading the system's certificates takes longer than a request."""
    return ssl.create_default_context()


def body(rows: pd.DataFrame) -> str:
    """Write rows in MLflow's split layout, floats with every digit; a missing cell becomes null."""
    plain = rows.astype(object).mask(rows.isna(), None)
    split = {"columns": list(rows.columns), "data": plain.to_numpy().tolist()}
    return json.dumps({"dataframe_split": split}, default=str)


def _stranger(base: str) -> StoreUnavailableError:
    """Somebody else's answer says nothing about a version."""
    return StoreUnavailableError(
        f"What answers at {base} is no model server: its answer lacks predictions, or the headers "
        f"{names.Header.REQUEST_ID}, {names.Header.VERSION} and {names.Header.GENERATION}. Does the address lead to "
        "`mlops serve`, and does a proxy in between pass these headers on?"
    )


def _reason(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
