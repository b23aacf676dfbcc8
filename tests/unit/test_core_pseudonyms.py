"""What entities are called in logs."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from mlops_provider.core.pseudonyms import Pseudonyms, text_of
from mlops_provider.exceptions import ConfigurationError

SECRET = "a-secret-of-some-length"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (7, 7.0),
        (7, "7"),
        (True, "true"),
        (datetime(2013, 1, 1, 5, tzinfo=UTC), "2013-01-01T05:00:00Z"),
        (datetime(2013, 1, 1, 5, tzinfo=timezone(timedelta(hours=5))), "2013-01-01 00:00:00"),
        (date(2013, 1, 1), "2013-01-01"),
        (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "0001-01-01 00:00:00+14:00"),
    ],
)
def test_one_cell_has_one_text_however_it_is_written(one: object, other: object) -> None:
    assert text_of(one) == text_of(other)


def test_different_cells_have_different_texts() -> None:
    cells = [7, 7.5, "7a", "2013-01-01T99:00", "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", "", False]

    assert len({text_of(cell) for cell in cells}) == len(cells)


def test_a_pseudonym_is_the_keyed_hash_of_column_and_cell_and_names_its_secret() -> None:
    pseudonyms = Pseudonyms.of(["customer"], f"2026 {SECRET}")

    expected = hmac.new(SECRET.encode(), b"customer\x007", hashlib.sha256).hexdigest()

    assert pseudonyms.cell("customer", 7) == f"2026:{expected}"
    assert pseudonyms.cell("day", 7) == 7
    assert pseudonyms.cell("customer", None) is None


def test_the_first_secret_writes_and_all_are_known() -> None:
    old, new = (Pseudonyms.of(["customer"], text) for text in (f"a {SECRET}", f"b {SECRET}!, a {SECRET}"))
    cells = {"customer": 7, "day": "2013-01-02"}

    known = list(new.identities(["customer", "day"], cells))

    assert known == [new.identity(["customer", "day"], cells), old.identity(["customer", "day"], cells)]
    assert list(Pseudonyms().identities(["customer"], cells)) == ['["7"]']


@pytest.mark.parametrize("text", ["alone", "2026 short", "two/words a-secret-of-some-length", f"a {SECRET}, b"])
def test_a_secret_that_is_none_is_refused_without_being_told(text: str) -> None:
    with pytest.raises(ConfigurationError, match="must hold `id secret`") as refused:
        Pseudonyms.of([], text)

    assert SECRET not in str(refused.value)


def test_declared_pseudonyms_need_a_secret() -> None:
    with pytest.raises(ConfigurationError, match=r"pseudonyms for customer .* set MLOPS_PSEUDONYM_KEYS"):
        Pseudonyms.of(["customer"], "")
