"""Reports behind Airflow's login, found through the task's own link."""

from __future__ import annotations

import httpx

from support.stack import RunningStack

INGEST = "flight_delays_ingest"


def test_a_task_links_to_its_report_which_opens_for_who_is_logged_in(stack: RunningStack) -> None:
    run_id = "with-a-report"
    stack.start(INGEST, run_id, partition_key="2013-01").raise_for_status()
    assert stack.finished(INGEST, run_id) == "success"

    links = stack.api.get(f"/dags/{INGEST}/dagRuns/{run_id}/taskInstances/validate_data/links").json()["extra_links"]
    page = stack.api.get(links["Report"])

    assert page.status_code == 200
    assert "flight_delays: the data of 2013-01" in page.text
    assert "sandbox" in page.headers["content-security-policy"]


def test_a_report_asks_who_you_are(stack: RunningStack) -> None:
    address = f"{stack.airflow}/mlops/reports/{INGEST}/any/validate_data/report.html"

    assert httpx.get(address, trust_env=False).status_code == 401


def test_a_report_that_is_not_there_is_said_in_words(stack: RunningStack) -> None:
    page = stack.api.get(f"{stack.airflow}/mlops/reports/{INGEST}/none/validate_data/report.html")

    assert page.status_code == 404
    assert "has written a report" in page.text


def test_no_path_leaves_the_reports(stack: RunningStack) -> None:
    for path in ("..%2f..%2fsecrets.json", "%2e%2e/%2e%2e/%2e%2e/secrets.json", "..%5c..%5csecrets.json"):
        page = stack.api.get(f"{stack.airflow}/mlops/reports/{INGEST}/{path}")

        assert page.status_code in (401, 403, 404), path
        assert "fernet_key" not in page.text
