"""S3: one set of credentials for all that speaks to it (deltalake, boto3, pyarrow), and its refusals in our words."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mlops_provider.exceptions import (
    ConcurrentWriteError,
    ConfigurationError,
    MLOpsError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.config import Config
    from pyarrow.fs import FileSystem

SCHEMES = ("s3", "s3a")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken")
"""What S3 says of a session token whose time is over."""
DENIED = (
    "AccessDenied",
    "AllAccessDisabled",
    "AuthFailure",
    "Forbidden",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
)
_TO_HEAD = {"400": "InvalidToken (or RequestExpired: to a HEAD it says only 400)", "403": "AccessDenied"}
"""An answer to a HEAD has no body: its status stands for the code."""
_MISSING = ("NoSuchKey", "404", "NotFound")
_TAKEN = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_ENVIRONMENT = "the environment (AWS_ACCESS_KEY_ID and its like, or AWS_PROFILE)"

_CONNECT_SECONDS, _READ_SECONDS, _ATTEMPTS = 5, 30, 4
_HURRIED_READ_SECONDS, _HURRIED_ATTEMPTS = 10, 2
_MAKING_CLIENT = threading.Lock()
"""boto3's sessions make one client at a time."""
# deltalake's own limits (10 retries, 180 s) would keep a task waiting for minutes when the address is wrong.
_DELTA_LIMITS = {
    "max_retries": str(_ATTEMPTS - 1),
    "retry_timeout": "20s",
    "connect_timeout": f"{_CONNECT_SECONDS}s",
    "timeout": f"{_READ_SECONDS}s",
}


class S3:
    """
    Access to S3. Nothing is looked up before it is used, and credentials are asked for anew each time: those of an
    assumed role are renewed by their session before they end.

    :param session: Whose credentials and region to use; by default what boto3 finds in the environment.
    :param endpoint_url: Address of a server that is not Amazon's.
    :param config: Further settings of botocore; they win over the limits set here.
    :param verify: As boto3 takes it: check certificates, or a file with the authorities to trust.
    :param source: Where the credentials come from, for messages: ``connection 'aws_default'``.
    """

    def __init__(
        self,
        session: Session | None = None,
        *,
        endpoint_url: str | None = None,
        config: Config | None = None,
        verify: bool | str | None = None,
        source: str = _ENVIRONMENT,
    ) -> None:
        self._session = session
        self.endpoint_url = endpoint_url
        self.config = config
        self.verify = verify
        self.source = source

    @cached_property
    def session(self) -> Session:
        """
        The boto3 session.

        :raises ConfigurationError: boto3 is not installed. Not retried.
        """
        if self._session is not None:
            return self._session
        try:
            from boto3.session import Session
        except ImportError as missing:
            raise ConfigurationError(
                "S3 needs boto3, which comes with: pip install 'airflow-provider-mlops[amazon]'."
            ) from missing
        return Session()

    @cached_property
    def client(self) -> Any:
        """boto3's client of S3, with bounded waits and tries."""
        from botocore.config import Config

        limits = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        )
        config = limits.merge(self.config) if self.config is not None else limits
        with _MAKING_CLIENT, self.explained("S3"):
            return self.session.client("s3", endpoint_url=self.endpoint_url, verify=self.verify, config=config)

    def hurried(self) -> S3:
        """
        Give the same access for somebody whom others wait for: it gives up after two tries of 15 seconds.

        Also where the settings of an Airflow connection would wait longer.
        """
        session = self.session
        from botocore.config import Config

        limits = Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_HURRIED_READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": _HURRIED_ATTEMPTS},
        )
        config = self.config.merge(limits) if self.config is not None else limits
        return S3(session, endpoint_url=self.endpoint_url, config=config, verify=self.verify, source=self.source)

    @property
    def renewed(self) -> bool:
        """Whether the credentials renew themselves, so that a retry gets fresh ones."""
        from botocore.credentials import RefreshableCredentials

        return isinstance(self.session.get_credentials(), RefreshableCredentials)

    def storage_options(self) -> dict[str, str]:
        """
        What deltalake needs to know: credentials as they are now, address, limits.

        :raises ConfigurationError: No credentials were found. Not retried.
        """
        address = self.endpoint_url or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options = dict(_DELTA_LIMITS)
        if address:
            options["AWS_ENDPOINT_URL"] = address
            options["AWS_ALLOW_HTTP"] = str(address.startswith("http://")).lower()
        options["AWS_REGION"] = self.session.region_name or "us-east-1"
        access, secret, token = self._credentials()
        options |= {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}
        if token:
            options["AWS_SESSION_TOKEN"] = token
        return options

    def filesystem(self) -> FileSystem:
        """The same access as a file system of pyarrow, for its datasets; the credentials are those of now."""
        from pyarrow.fs import S3FileSystem

        options = self.storage_options()
        parts = urlsplit(options.get("AWS_ENDPOINT_URL", ""))
        return S3FileSystem(
            access_key=options["AWS_ACCESS_KEY_ID"],
            secret_key=options["AWS_SECRET_ACCESS_KEY"],
            session_token=options.get("AWS_SESSION_TOKEN"),
            region=options["AWS_REGION"],
            scheme=parts.scheme or "https",
            endpoint_override=parts.netloc or None,
            connect_timeout=_CONNECT_SECONDS,
            request_timeout=_READ_SECONDS,
        )

    def read(self, uri: str) -> bytes:
        """
        Content of an object.

        :raises FileNotFoundError: There is no such object.
        :raises StoreUnavailableError: S3 does not answer, or fails. Retried.
        :raises ConfigurationError: It refuses the credentials, or there is no such bucket. Not retried.
        """
        bucket, key = split(uri)
        with self.explained(uri):
            return bytes(self.client.get_object(Bucket=bucket, Key=key)["Body"].read())

    def write(self, uri: str, content: bytes, *, media_type: str = "application/octet-stream") -> None:
        """Put an object, in place of what was there; errors as in :meth:`read`."""
        bucket, key = split(uri)
        with self.explained(uri):
            self.client.put_object(Bucket=bucket, Key=key, Body=content, ContentType=media_type)

    def create(self, uri: str, content: bytes) -> bool:
        """
        Put an object if there is none: False if there is one.

        Other errors as in :meth:`read`. A store that does not know ``If-None-Match`` answers as if there were none.
        """
        bucket, key = split(uri)
        try:
            with self.explained(uri):
                self.client.put_object(Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
        except ConcurrentWriteError:
            return False
        return True

    def delete(self, uri: str) -> None:
        """Remove an object; nothing happens if there is none. Errors as in :meth:`read`."""
        bucket, key = split(uri)
        with self.explained(uri):
            self.client.delete_object(Bucket=bucket, Key=key)

    def sizes(self, uri: str) -> dict[str, int]:
        """Address and bytes of every object below *uri*, in the order of their keys; errors as in :meth:`read`."""
        bucket, prefix = split(uri)
        found: dict[str, int] = {}
        with self.explained(uri):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
            for page in pages:
                found |= {f"s3://{bucket}/{each['Key']}": int(each["Size"]) for each in page.get("Contents", ())}
        return found

    @contextmanager
    def explained(self, uri: str) -> Iterator[None]:
        """Say in words what boto3 raises."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            code = _TO_HEAD.get(code, code)
            if code in _MISSING:
                raise FileNotFoundError(uri) from None
            if code in _TAKEN:
                raise ConcurrentWriteError(f"{uri} is there already.") from error
            raise self.refusal(uri, code) or self.away(uri, f"{code or error}") from error
        except (NoCredentialsError, ProfileNotFound) as error:
            raise ConfigurationError(f"{self.source} gives no credentials for {uri}: {error}.") from error
        except BotoCoreError as error:
            raise self.away(uri, str(error)) from error

    def refusal(self, uri: str, said: str) -> MLOpsError | None:
        """
        The error for what S3 *said*, if a person has to mend credentials or address; None if it said something else.

        A token that renews itself is worth another try; one that a person put there is not.
        """
        if "NoSuchBucket" in said:
            return ConfigurationError(f"There is no bucket {split(uri)[0]!r}: create it, or mend the address.")
        if code := next((code for code in EXPIRED if code in said), None):
            if self.renewed:
                return StoreUnavailableError(
                    f"S3 says {code} for {uri}: the session of {self.source} ended during the task. It is renewed "
                    "for the next try."
                )
            return ConfigurationError(
                f"S3 says {code} for {uri}: the session token of {self.source} has expired. Put a new access key, "
                "secret and token there (or a role to assume, which renews itself), then clear this task."
            )
        if code := next((code for code in DENIED if code in said), None):
            return ConfigurationError(
                f"S3 says {code} for {uri}: {self.source} may not do this. Mend its keys, its region or its "
                "policy (list, get, put and delete objects below that address), then clear this task."
            )
        return None

    def away(self, uri: str, said: str) -> StoreUnavailableError:
        """The error for a store that does not answer or fails."""
        where = f" at {self.endpoint_url}" if self.endpoint_url else ""
        return StoreUnavailableError(
            f"S3{where} cannot be used for {uri} ({self._tries} tries). It is tried again with the task; if it goes "
            f"on, check the network and {self.source}. It said: {' '.join(said.split())[:600]}"
        )

    @property
    def _tries(self) -> int:
        retries = getattr(self.config, "retries", None) or {}
        return int(retries.get("total_max_attempts", _ATTEMPTS))

    def _credentials(self) -> tuple[str, str, str | None]:
        with self.explained("S3"):
            found = self.session.get_credentials()
            if found is None:
                raise ConfigurationError(
                    f"{self.source} gives no credentials for S3: put an access key and a secret there, or a role."
                )
            frozen = found.get_frozen_credentials()
        return str(frozen.access_key), str(frozen.secret_key), frozen.token


def is_s3(address: str) -> bool:
    """Whether an address is one of S3."""
    return urlsplit(address).scheme in SCHEMES


def split(uri: str) -> tuple[str, str]:
    """
    Bucket and key of an ``s3://`` address.

    :raises ConfigurationError: It names no bucket. Not retried.
    """
    parts = urlsplit(uri)
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise ConfigurationError(f"Expected an address such as s3://bucket/prefix, got {uri!r}.")
    # Not `parts.path`: a key may hold what elsewhere begins a query or a fragment.
    return parts.netloc, uri.split("://", 1)[1].partition("/")[2].rstrip("/")
