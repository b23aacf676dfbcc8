"""What is inferred from a file: names, kinds, roles, and the reasons that are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_provider.adapters.table_profile import Choices, Profile, profile
from mlops_provider.adapters.table_sample import read_sample
from mlops_provider.exceptions import ConfigurationError, SourceError
from support.orders import orders


def looked_at(path: Path, target: str = "Returned", **choices: object) -> Profile:
    return profile(read_sample(path), Choices(target=target, **choices))  # type: ignore[arg-type]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    orders().to_csv(tmp_path / "orders.csv", sep=";", index=False)
    return tmp_path / "orders.csv"


def roles(found: Profile) -> dict[str, str]:
    return {column.name: column.role for column in found.columns}


def why(found: Profile) -> dict[str, str]:
    return {column.name: column.why for column in found.columns}


def test_every_column_gets_a_role(shop: Path) -> None:
    assert roles(looked_at(shop, protected=("age",))) == {
        "order_id": "key",
        "created_at": "event time",
        "amount_eur": "feature",
        "vip": "feature",
        "city": "feature",
        "post_code": "left out",
        "signed_up": "feature",
        "paid_on": "left out",
        "currency": "left out",
        "note": "left out",
        "partition_value": "feature",
        "age": "protected",
        "refund": "left out",
        "returned": "target",
    }


def test_what_is_left_out_says_why(shop: Path) -> None:
    said = why(looked_at(shop))

    assert said["post_code"] == "an identifier or free text: nearly every row has its own"
    assert "after the event time" in said["paid_on"]
    assert (said["currency"], said["note"]) == ("one value only", "no values")


def test_a_column_that_tells_the_target_is_a_suspect(shop: Path) -> None:
    found = looked_at(shop)

    assert "alone predicts the target almost perfectly" in found.warnings[0]
    assert "'refund'" in found.warnings[0]


def test_words_for_no_value_are_no_category(shop: Path) -> None:
    found = looked_at(shop)

    assert found.missing_words == ("?",)
    assert why(found)["city"].startswith("3 categories, ")


def test_the_positive_class_and_the_months_are_said(shop: Path) -> None:
    found = looked_at(shop)

    assert found.task == "binary"
    assert found.target.why.startswith("1 is true (by its name")
    assert list(found.months.index) == ["2024-03", "2024-04", "2024-05"]


def test_a_column_about_people_is_asked_about(shop: Path) -> None:
    assert any("'age' seems to be about people" in warning for warning in looked_at(shop).warnings)


def test_an_evening_in_utc_may_be_another_month_in_tokyo(tmp_path: Path) -> None:
    times = pd.date_range("2024-01-25T00:00Z", periods=400, freq="1h").strftime("%Y-%m-%dT%H:%M:%SZ")
    pd.DataFrame({"at": times, "x": np.arange(400) % 7, "y": np.arange(400) % 2}).to_csv(tmp_path / "h.csv")

    assert looked_at(tmp_path / "h.csv", "y").months["2024-01"] == 7 * 24
    assert looked_at(tmp_path / "h.csv", "y", time_zone="Asia/Tokyo").months["2024-01"] == 7 * 24 - 9


def test_numbers_are_a_regression_and_rows_without_dates_are_dealt(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    pd.DataFrame({"size": random.normal(size=900), "price": random.normal(size=900)}).to_parquet(tmp_path / "a.parquet")

    found = looked_at(tmp_path / "a.parquet", "price")

    assert (found.task, found.classes, found.keys, found.dealt) == ("regression", None, (), True)
    assert len(found.months) == 3
    assert any("no dates" in warning for warning in found.warnings)
    assert any("No column identifies a row" in warning for warning in found.warnings)


def test_three_classes_need_one_to_be_told_from_the_others(tmp_path: Path) -> None:
    rows = pd.DataFrame({"x": np.arange(300) % 7, "kind": ["a", "b", "c"] * 100})
    rows.to_csv(tmp_path / "kinds.csv", index=False)

    with pytest.raises(ConfigurationError, match=r"3 different values \(a, b, c\).*--positive"):
        looked_at(tmp_path / "kinds.csv", "kind")

    assert looked_at(tmp_path / "kinds.csv", "kind", positive="b").classes == (None, "b")


def test_a_file_without_a_feature_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": range(300), "y": np.arange(300) % 2, "same": "x"}).to_csv(tmp_path / "bare.csv", index=False)

    with pytest.raises(ConfigurationError, match="No column is left that a model could learn from"):
        looked_at(tmp_path / "bare.csv", "y")


def test_a_file_whose_first_line_is_data_wants_names(tmp_path: Path) -> None:
    (tmp_path / "bare.csv").write_text("39,Bachelors,<=50K\n50,Masters,>50K\n" * 50)

    with pytest.raises(SourceError, match="--columns a,b,c"):
        read_sample(tmp_path / "bare.csv")

    assert list(read_sample(tmp_path / "bare.csv", names=("age", "school", "income")).frame) == [
        "age",
        "school",
        "income",
    ]


def test_a_packed_file_is_read_as_well(tmp_path: Path) -> None:
    orders(200).to_csv(tmp_path / "orders.csv.gz", sep="\t", index=False)

    sample = read_sample(tmp_path / "orders.csv.gz")

    assert (sample.rows, sample.separator) == (200, "\t")


def test_of_a_long_file_rows_from_all_of_it_are_looked_at(tmp_path: Path) -> None:
    pd.DataFrame({"number": range(50_000)}).to_csv(tmp_path / "long.csv", index=False)

    sample = read_sample(tmp_path / "long.csv", most=1000)

    assert (sample.rows, sample.whole) == (50_000, False)
    assert 500 <= len(sample.frame) <= 2500
    assert sample.frame["number"].astype(int).max() > 49_000


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"\xff\xfe\x00\x81\x8d\x8f", "neither UTF-8"), (b"a,b\n", "has no rows")],
)
def test_a_file_that_is_no_table_is_refused_in_words(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "file.csv").write_bytes(content)

    with pytest.raises(SourceError, match=said):
        read_sample(tmp_path / "file.csv")
