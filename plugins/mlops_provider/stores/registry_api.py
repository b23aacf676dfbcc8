"""MLflow's model registry by REST alone: no MLflow in this process, and credentials that go nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from mlops_provider.core.payload import Payload
from mlops_provider.exceptions import ConfigurationError, PermanentError, StoreUnavailableError

OLDEST_TESTED = "2.3.2"
"""Oldest MLflow server that `make compat` runs this against; aliases came with 2.3."""

_SECONDS = 10.0
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_PRESENT = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True, slots=True)
class Moved(Payload):
    """
    Where an alias points.

    :param previous: Version it pointed at before; None if at none.
    """

    model: str
    version: str
    alias: str
    previous: str | None


class RegistryApi:
    """
    The registered models of one MLflow server.

    :param address: ``http(s)://host[:port][/prefix]``.
    :param login: User, if it asks for one.
    :param password: That user's password; without a login an access token.

    Every method raises ``StoreUnavailableError`` (retried) if MLflow is away, ``ConfigurationError`` (not retried) if
    it refuses the credentials, and ``PermanentError`` (not retried) if it refuses the request.
    """

    def __init__(self, address: str, *, login: str = "", password: str = "") -> None:
        if not address.startswith(("http://", "https://")):
            raise ConfigurationError(
                "The registry is spoken to by REST here, so its address must be that of an MLflow server, http:// or "
                f"https://, got the scheme {address.split('://', 1)[0]!r}."
            )
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {password}"} if password and not login else {}
        self._auth = httpx.BasicAuth(login, password) if login else None
        self.transport: httpx.BaseTransport | None = None

    def server_version(self) -> str:
        """Version of MLflow that the server runs."""
        with self._client() as client, self._explained():
            return _checked(client.get("/version"), self.address).text.strip()

    def ensure_version(
        self, model: str, source: str, *, run_id: str = "", tags: Mapping[str, str] | None = None
    ) -> tuple[str, bool]:
        """
        Return the version that holds *source*, registered now if there is none.

        Of two that register at the same moment the older version stays.

        :param model: Name of the registered model; made if there is none.
        :param source: ``runs:/<run>/<path>``, ``models:/m-<id>``, or the address of the model's files.
        :param run_id: Run that made it; of ``runs:/`` it is known.
        :param tags: Tags of a new version.
        :return: The version number, and whether it is new.
        """
        run = run_id or (source.removeprefix("runs:/").split("/", 1)[0] if source.startswith("runs:/") else "")
        place, model_id = self._place(source)
        if found := self._versions(model, place):
            return found[0], False
        self._ask("POST", "registered-models/create", {"name": model}, allowed=_PRESENT)
        about = {
            "name": model,
            "source": place,
            "run_id": run or None,
            "model_id": model_id,
            "tags": [{"key": key, "value": value} for key, value in (tags or {}).items()],
        }
        made = self._ask("POST", "model-versions/create", {key: value for key, value in about.items() if value})
        version = str(made["model_version"]["version"])
        first = self._versions(model, place)[0]
        if first != version:
            self._ask("DELETE", "model-versions/delete", {"name": model, "version": version})
        return first, first == version

    def promote(self, model: str, version: str, alias: str) -> Moved:
        """
        Point an alias at a version; nothing happens if it points there.

        :raises PermanentError: There is no such version. Not retried.
        """
        found = self._ask("GET", "model-versions/get", {"name": model, "version": version}, allowed=_ABSENT)
        if "model_version" not in found:
            raise PermanentError(f"MLflow at {self.address} has no version {version} of {model!r}: register it first.")
        previous = self.aliased(model, alias)
        if previous != version:
            self._ask("POST", "registered-models/alias", {"name": model, "alias": alias, "version": version})
        return Moved(model, version, alias, previous)

    def aliased(self, model: str, alias: str) -> str | None:
        """Version that an alias points at; None if there is none."""
        found = self._ask("GET", "registered-models/get", {"name": model}, allowed=_ABSENT)
        aliases = found.get("registered_model", {}).get("aliases") or []
        return next((str(each["version"]) for each in aliases if each["alias"] == alias), None)

    def _versions(self, model: str, source: str) -> list[str]:
        """Versions of a model that hold these files, oldest first."""
        found: list[str] = []
        token: str | None = ""
        while token is not None:
            query = {"filter": f"name = '{model}'", "max_results": 1000, **({"page_token": token} if token else {})}
            page = self._ask("GET", "model-versions/search", query)
            found += [str(each["version"]) for each in page.get("model_versions", ()) if each.get("source") == source]
            token = page.get("next_page_token") or None
        return sorted(found, key=int)

    def _place(self, source: str) -> tuple[str, str | None]:
        """Address of a model's files, and its ID if MLflow 3 gave it one."""
        if source.startswith("models:/m-"):
            model_id = source.removeprefix("models:/")
            found = self._ask("GET", f"logged-models/{model_id}", {}, unknown_route={})
            if "model" not in found:
                raise PermanentError(
                    f"MLflow at {self.address} knows no addresses like {source}: they came with MLflow 3."
                )
            return str(found["model"]["info"]["artifact_uri"]), model_id
        if not source.startswith("runs:/"):
            return source, None
        run_id, _, path = source.removeprefix("runs:/").partition("/")
        run = self._ask("GET", "runs/get", {"run_id": run_id})["run"]["info"]
        # MLflow 3 keeps models beside the run; older servers don't know the question.
        wanted = {"experiment_ids": [run["experiment_id"]], "filter": f"source_run_id = '{run_id}' AND name = '{path}'"}
        logged = self._ask("POST", "logged-models/search", wanted, unknown_route={}).get("models") or []
        if logged:
            return str(logged[0]["info"]["artifact_uri"]), str(logged[0]["info"]["model_id"])
        return f"{str(run['artifact_uri']).rstrip('/')}/{path}", None

    def _ask(
        self,
        method: str,
        route: str,
        about: Mapping[str, Any],
        *,
        allowed: str = "",
        unknown_route: Mapping[str, Any] | None = None,
    ) -> Mapping[str, Any]:
        """
        Send one request.

        :param allowed: Error code of MLflow that is an answer too, an empty one.
        :param unknown_route: What to answer for a server that has no such route; None makes it an error.
        """
        with self._client() as client, self._explained():
            sent = {"params": about} if method == "GET" else {"json": about}
            answer = client.request(method, f"/api/2.0/mlflow/{route}", **sent)  # type: ignore[arg-type]
            code = _error_code(answer)
            if allowed and code == allowed:
                return {}
            if unknown_route is not None and answer.status_code == httpx.codes.NOT_FOUND and not code:
                return unknown_route
            found: Mapping[str, Any] = _checked(answer, self.address).json()
            return found

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=self.address,
            auth=self._auth,
            headers=self._headers,
            timeout=_SECONDS,
            follow_redirects=True,
            transport=self.transport,
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.TransportError, httpx.TooManyRedirects) as error:
            raise StoreUnavailableError(
                f"MLflow at {self.address} does not answer: {str(error) or type(error).__name__}. Check that the "
                "server runs and that the connection names it."
            ) from error
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"The registry's address is no URL: {error}") from error


def _error_code(answer: httpx.Response) -> str:
    if answer.is_success:
        return ""
    try:
        return str(answer.json().get("error_code", ""))
    except (ValueError, AttributeError):
        return ""


def _checked(answer: httpx.Response, address: str) -> httpx.Response:
    if answer.is_success:
        return answer
    try:
        said = str(answer.json().get("message", ""))
    except (ValueError, AttributeError):
        said = answer.text
    said = " ".join(said.split())[:300] or "no reason given"
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise ConfigurationError(
            f"MLflow at {address} refuses the credentials ({answer.status_code}): {said}. Set login and password in "
            "the connection; a password without a login is sent as an access token."
        )
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        raise StoreUnavailableError(f"MLflow at {address} answers {answer.status_code}: {said}.")
    if answer.status_code == httpx.codes.NOT_FOUND and not _error_code(answer):
        raise PermanentError(
            f"MLflow at {address} does not know {answer.request.url.path}: the oldest server this was tested with is "
            f"{OLDEST_TESTED}. Is it older, or does the address lack a prefix?"
        )
    raise PermanentError(f"MLflow at {address} refuses: {said}")
