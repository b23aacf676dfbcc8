"""Tables, reports and objects on S3, with credentials from the environment or an `aws` connection."""

from __future__ import annotations

import json

import boto3
import pandas as pd
import pytest

from mlops_provider.core.origin import Origin
from mlops_provider.core.references import TableRef
from mlops_provider.exceptions import ConcurrentWriteError, ConfigurationError, StoreUnavailableError
from mlops_provider.hooks import aws as aws_hook
from mlops_provider.hooks.tables import TablesHook
from mlops_provider.stores.reports import Reports
from mlops_provider.stores.s3 import S3, split
from mlops_provider.stores.suite import Stores
from mlops_provider.stores.tables import Tables
from support.aws import REGION, Aws

ORIGIN = Origin("bus_delays_ingest", "run-1", "validate_data")
ROLE = "arn:aws:iam::123456789012:role/mlops"


def rows(first: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"trip": range(first, first + 50), "line": "A"})


def connect(monkeypatch: pytest.MonkeyPatch, conn_id: str, connection: dict[str, object]) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection))


def test_a_partition_on_s3_is_versioned_and_read_back(aws: Aws) -> None:
    tables = Tables(f"s3://{aws.bucket()}/tables/", aws.s3())
    uri = tables.uri("bus_delays", "raw")

    first = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    again = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    orphan = tables.replace_partition(uri, "2013-01")
    second = tables.replace_partition(uri, "2013-01").write(rows(100), origin_key="b")
    with pytest.raises(ConcurrentWriteError, match="replaced with other content"):
        orphan.write(rows(200), origin_key="c")

    assert (first.changed, again.changed, second.changed) == (True, False, True)
    pd.testing.assert_frame_equal(tables.read(first.ref), rows())
    pd.testing.assert_frame_equal(tables.read(uri), rows(100))


def test_a_report_on_s3_is_read_back_and_none_beside_its_root(aws: Aws) -> None:
    bucket, s3 = aws.bucket(), aws.s3()
    reports = Reports(f"s3://{bucket}/reports", s3)
    s3.write(f"s3://{bucket}/secret", b"secret")

    relative = reports.write(ORIGIN, "report.html", "<p>naïve</p>")

    assert reports.read(relative).decode() == "<p>naïve</p>"
    for path in ("../secret", "a/../../secret", "/secret", "", "nothing.html"):
        with pytest.raises(FileNotFoundError):
            reports.read(path)


def test_outside_airflow_the_environment_gives_access(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)
    stores = Stores.from_environment({"MLOPS_TABLES_URI": f"s3://{aws.bucket()}/tables"})
    uri = stores.tables.uri("bus_delays", "raw")

    stores.tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")

    assert stores.tables.partitions(uri) == ["2013-01"]
    assert stores.reports.read(stores.reports.write(ORIGIN, "report.html", "a")) == b"a"


@pytest.mark.parametrize("kind", ["keys", "session token", "assumed role"])
def test_in_airflow_the_connection_that_the_tables_name_gives_access(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    extra: dict[str, object] = {
        "keys": {},
        "session token": {"aws_session_token": "a-token"},
        "assumed role": {"role_arn": ROLE, "service_config": {"sts": {"endpoint_url": aws.url}}},
    }[kind]
    connect(monkeypatch, "warehouse", aws.connection(**extra))
    root = f"s3://{aws.bucket()}/tables"
    connect(
        monkeypatch,
        "mlops_tables",
        {"conn_type": "mlops_tables", "host": root, "extra": {"aws_conn_id": "warehouse"}},
    )
    hook = TablesHook()

    uri = hook.client.uri("bus_delays", "raw")
    hook.client.replace_partition(uri, "2013-01").write(rows(), origin_key="a")
    hook.reports.write(ORIGIN, "report.html", "a")

    assert hook.s3 is not None
    options = hook.s3.storage_options()
    assert (options["AWS_REGION"], options["AWS_ENDPOINT_URL"]) == (REGION, aws.url)
    assert ("AWS_SESSION_TOKEN" in options) == (kind != "keys")
    assert (options["AWS_ACCESS_KEY_ID"] == "testing") == (kind != "assumed role")
    assert hook.s3.renewed == (kind == "assumed role")
    assert TablesHook().reports.read(f"{ORIGIN.path}/report.html") == b"a"
    assert hook.s3.filesystem().get_file_info(f"{root.removeprefix('s3://')}/bus_delays/raw").type.name == "Directory"


def test_a_tables_address_of_the_environment_takes_the_connection_that_it_names(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(monkeypatch, "warehouse", aws.connection())
    monkeypatch.setenv("MLOPS_TABLES_URI", f"s3://{aws.bucket()}/tables")
    monkeypatch.setenv("MLOPS_AWS_CONN_ID", "warehouse")

    tables = TablesHook().client

    assert tables.partitions(tables.uri("bus_delays", "raw")) == []


def test_a_connection_that_is_not_there_is_named_instead_of_taking_other_credentials(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in aws.environment().items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError, match=r"no connection 'nowhere'.*type 'aws'"):
        aws_hook.s3("nowhere")


def test_without_any_credentials_it_is_said_where_they_belong(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")

    with pytest.raises(ConfigurationError, match="AWS_ACCESS_KEY_ID.* gives no credentials"):
        Tables("s3://nowhere/tables", S3(boto3.session.Session(), endpoint_url=aws.url)).exists("s3://nowhere/tables/t")


def test_a_bucket_that_is_not_there_is_named(aws: Aws) -> None:
    with pytest.raises(ConfigurationError, match="no bucket 'nowhere'"):
        aws.s3().write("s3://nowhere/key", b"")
    with pytest.raises(ConfigurationError, match="no bucket 'nowhere'"):
        Tables("s3://nowhere/tables", aws.s3()).replace_partition("s3://nowhere/tables/m/raw", "2013-01").write(
            rows(), origin_key="a"
        )


def test_an_unreachable_s3_fails_soon_and_names_the_table() -> None:
    tables = Tables("s3://bucket/data", Aws("http://127.0.0.1:9").s3())

    with pytest.raises(StoreUnavailableError, match=r"127\.0\.0\.1:9 cannot be used for s3://bucket/data/delays/raw"):
        tables.replace_partition(tables.uri("delays", "raw"), "2013-01")


def test_of_two_that_create_an_object_one_wins(aws: Aws) -> None:
    uri, s3 = f"s3://{aws.bucket()}/claim", aws.s3()

    assert s3.create(uri, b"first")
    assert not s3.create(uri, b"second")
    assert s3.read(uri) == b"first"
    s3.delete(uri)
    with pytest.raises(FileNotFoundError):
        s3.read(uri)


def test_an_address_says_bucket_and_key() -> None:
    assert split("s3://bucket/a/b?c#d") == ("bucket", "a/b?c#d")
    assert split("s3://bucket") == ("bucket", "")
    with pytest.raises(ConfigurationError, match="s3://bucket/prefix"):
        split("s3:///key")


def test_references_to_s3_are_full_addresses(aws: Aws) -> None:
    tables = Tables(f"s3://{aws.bucket()}/t", aws.s3())
    uri = tables.uri("m", "raw")

    written = tables.replace_partition(uri, "2013-01").write(rows(), origin_key="a")

    assert written.ref == TableRef(uri, 1, "2013-01")
