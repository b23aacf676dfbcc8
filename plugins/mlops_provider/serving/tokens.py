"""Who may call the model server: bearer tokens with names and dates of expiry."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mlops_provider.core.names import Environment
from mlops_provider.exceptions import ConfigurationError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Pause between looks at the token file, so that a new token counts without a restart."""
SHORTEST = 16
"""Characters of a token; shorter ones can be guessed."""
OPEN_PATHS = frozenset({"/health", "/ping", "/ready", "/v2/health/live", "/v2/health/ready"})
"""Answered without a token, for probes."""
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Token:
    """
    One caller's token.

    :param name: Whom it was given to, for the log.
    :param digest: SHA-256 of the token.
    :param expires: Moment from which it is no longer accepted, in seconds since 1970; None if it stays.
    """

    name: str
    digest: bytes
    expires: float | None


class Tokens:
    """
    The tokens that are accepted; none declared means that everybody may call.

    :param entries: ``name token [expiry]``, separated by commas or lines. The expiry is an ISO 8601 time, in UTC unless
        it names a zone; the token may be given as ``sha256:<hex>`` instead. Lines that begin with ``#`` are ignored.
    :param file: File with such lines, read again when it changes.
    :raises ConfigurationError: The file can't be read, or an entry is not of this form.
    """

    def __init__(self, entries: str = "", file: Path | None = None) -> None:
        self._fixed = parse(entries, Environment.SERVER_TOKENS)
        self._file = file
        self._changed = 0
        self._looked_at = time.monotonic()
        self._listed: Sequence[Token] = self._read() if file else ()
        self.required = bool(entries.strip()) or file is not None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Tokens:
        """Take them from ``MLOPS_SERVER_TOKENS`` and from the file that ``MLOPS_SERVER_TOKENS_FILE`` names."""
        file = environment.get(Environment.SERVER_TOKENS_FILE)
        return cls(environment.get(Environment.SERVER_TOKENS, ""), Path(file) if file else None)

    def refusal(self, authorization: bytes) -> str:
        """
        Why the caller is sent away, as a sentence; empty if the token is good.

        :param authorization: Value of the header of that name; empty if there is none.
        """
        scheme, _, given = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not given:
            return "This server asks for a token: send the header 'Authorization: Bearer <token>'."
        self._look()
        digest = hashlib.sha256(given.strip()).digest()
        found = None
        for token in (*self._fixed, *self._listed):  # every one is compared, so the time taken tells nothing
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            return "This token is not known here."
        if found.expires is not None and time.time() >= found.expires:
            return "This token has expired: ask for a new one."
        return ""

    def _look(self) -> None:
        if self._file is None or time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            if self._file.stat().st_mtime_ns != self._changed:
                self._listed = self._read()
                logger.info("Read %s tokens from %s", len(self._listed), self._file)
        except (ConfigurationError, OSError) as error:
            logger.error("The tokens stay as they were: %s", error)

    def _read(self) -> Sequence[Token]:
        assert self._file is not None
        try:
            self._changed = self._file.stat().st_mtime_ns
            return parse(self._file.read_text(encoding="utf-8"), str(self._file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The token file {self._file} can't be read: {error}") from error


def parse(text: str, where: str) -> Sequence[Token]:
    """
    Read token entries, see :class:`Tokens`.

    :param where: What they are read from, for an error; a token is never repeated in it.
    :raises ConfigurationError: An entry has another form, or a name comes twice.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    tokens = [_token(entry.split(), where) for line in lines for entry in line.split(",") if entry.strip()]
    names = [token.name for token in tokens]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{where}: the token name {repeated[0]!r} comes twice.")
    return tokens


def _token(words: Sequence[str], where: str) -> Token:
    if len(words) not in (2, 3):
        raise ConfigurationError(f"{where}: each token is 'name token [expiry]', got {len(words)} words.")
    name, secret = words[:2]
    hashed = _HASHED.fullmatch(secret)
    if hashed is None and len(secret) < SHORTEST:
        raise ConfigurationError(f"{where}: the token of {name!r} has fewer than {SHORTEST} characters.")
    digest = bytes.fromhex(hashed[1]) if hashed else hashlib.sha256(secret.encode()).digest()
    try:
        moment = datetime.fromisoformat(words[2]) if len(words) > 2 else None
    except ValueError:
        raise ConfigurationError(f"{where}: the expiry of {name!r} is no time such as 2027-01-31T00:00:00Z.") from None
    if moment is not None and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Token(name, digest, moment.timestamp() if moment else None)
