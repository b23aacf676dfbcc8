"""
Validation of ten million rows in chunks, by one and by two workers, beside Great Expectations on pandas in one piece.

Memory is what a process takes beyond what it had before it began. For Great Expectations that leaves out the frame
itself, which it is handed; ours reads its rows from the table, so theirs is included. ``--rows`` makes it smaller.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from measure import figure, in_child, machine, peak_of

from mlops_provider.adapters import validation
from mlops_provider.adapters.expectations import Expectation, Findings
from mlops_provider.core.chunks import BLOCK_ROWS, Target, ranges
from mlops_provider.core.references import TableRef
from mlops_provider.steps.chunked import common
from mlops_provider.stores.staging import Staging
from mlops_provider.stores.tables import Tables

CHUNK_ROWS = 131_072
MONTH = "2013-01"
KEYS = ["flight_date", "carrier", "flight", "origin"]


def expectation(kind: str, severity: str = "quarantine", **kwargs: Any) -> Expectation:
    return Expectation(type=kind, kwargs=kwargs, severity=severity, meaning=kind)


TWELVE = [
    expectation("expect_table_row_count_to_be_between", "block", min_value=1),
    expectation("expect_column_values_to_be_of_type", "block", column="hour", type_="int64"),
    expectation("expect_compound_columns_to_be_unique", column_list=KEYS),
    expectation("expect_column_values_to_not_be_null", column="carrier"),
    expectation("expect_column_values_to_not_be_null", column="dest"),
    expectation("expect_column_values_to_be_in_set", column="origin", value_set=["EWR", "JFK", "LGA"]),
    expectation("expect_column_values_to_be_between", column="hour", min_value=0, max_value=23),
    expectation("expect_column_values_to_be_between", column="distance", min_value=50, max_value=5200),
    expectation("expect_column_values_to_be_between", column="wind_speed", min_value=0, max_value=150),
    expectation(
        "expect_column_pair_values_a_to_be_greater_than_b",
        "warn",
        column_A="temp",
        column_B="dewp",
        or_equal=True,
        mostly=0.99,
        ignore_row_if="either_value_is_missing",
    ),
    expectation("expect_column_mean_to_be_between", "warn", column="arr_delay", min_value=-10, max_value=30),
    expectation("expect_column_values_to_not_be_null", "warn", column="arr_delay", mostly=0.9),
]


def flights(first: int, last: int) -> pd.DataFrame:
    """Made-up flights with distinct keys, but for one copy and one bad distance in a thousand."""
    rows = np.arange(first, last)
    random = np.random.default_rng(first)
    dates = np.array([f"2013-01-{day:02}" for day in range(1, 32)], dtype=object)
    frame = pd.DataFrame(
        {
            "flight_date": dates[rows * 31 // 10_000_000 % 31],
            "carrier": random.choice(np.array(["AA", "B6", "DL", "EV", "UA"], dtype=object), len(rows)),
            "flight": rows,
            "origin": random.choice(np.array(["EWR", "JFK", "LGA"], dtype=object), len(rows)),
            "dest": random.choice(np.array(["ATL", "BOS", "LAX", "MIA", "ORD"], dtype=object), len(rows)),
            "hour": random.integers(5, 24, len(rows)),
            "distance": random.uniform(50, 5000, len(rows)),
            "temp": random.uniform(30, 90, len(rows)),
            "dewp": random.uniform(0, 30, len(rows)),
            "wind_speed": random.uniform(0, 40, len(rows)),
            "arr_delay": np.where(random.random(len(rows)) < 0.03, np.nan, random.normal(7, 40, len(rows))),
        }
    )
    frame.loc[::1000, "distance"] = -1.0
    frame.iloc[1::1000] = frame.iloc[0::1000].to_numpy()[: len(frame.iloc[1::1000])]
    return frame.astype({"flight": "int64", "hour": "int64", **dict.fromkeys(frame.columns[6:], "float64")})


def written(root: str, rows: int) -> TableRef:
    store = Tables(root)
    staging = Staging(store, Target(store.uri("flights", "raw"), MONTH, 0, "made"))
    pieces = [
        staging.stage(flights(first, last), index=index, start=first)
        for index, (first, last) in enumerate(ranges(rows, CHUNK_ROWS))
    ]
    return staging.commit(pieces, origin_key="bench").ref


def summary(found: validation.Validation) -> list[Any]:
    return [[outcome.as_json() for outcome in found.outcomes], len(found.rejected), int(found.rejected.sum())]


def in_one_piece(root: str, reference: dict[str, Any]) -> dict[str, Any]:
    """Great Expectations as its own guide uses it: one frame, one suite, its default result format."""
    import great_expectations as gx
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    frame = Tables(root).read(TableRef.from_json(reference))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    suite = context.suites.add(gx.ExpectationSuite("twelve"))
    for index, each in enumerate(TWELVE):
        suite.add_expectation_configuration(
            ExpectationConfiguration(type=each.type, kwargs=dict(each.kwargs), meta={"index": index})
        )
    definition = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    batch = definition.get_batch({"dataframe": frame})

    def work() -> list[bool]:
        results = {each.expectation_config.meta["index"]: bool(each.success) for each in batch.validate(suite).results}
        return [results[index] for index in sorted(results)]

    return peak_of(work)


def verdict_in_one_piece(root: str, reference: dict[str, Any]) -> dict[str, Any]:
    """Our own validation of one frame, whose verdicts the chunks must give."""
    frame = Tables(root).read(TableRef.from_json(reference))
    return peak_of(lambda: summary(validation.validate(frame, TWELVE)))


def chunk(root: str, reference: dict[str, Any], first: int, last: int) -> Findings:
    rows = Tables(root).rows(TableRef.from_json(reference))
    columns = sorted({column for each in TWELVE for column in each.columns})
    return validation.check_chunk(rows.frame(first, last, columns=columns), TWELVE, start=first)


def chunk_with_peak(*arguments: Any) -> dict[str, Any]:
    return peak_of(lambda: chunk(*arguments))


def by_one_worker(root: str, reference: dict[str, Any]) -> dict[str, Any]:
    """All chunks and the adding up, one after the other in one process."""
    chunk(root, reference, 0, BLOCK_ROWS)  # what a worker has loaded before it forks is not the task's
    staging = Staging(Tables(root), Target(reference["table"], MONTH, 1, "bench"))

    def work() -> list[Any]:
        rows = Tables(root).rows(TableRef.from_json(reference))
        stretches = ranges(len(rows), CHUNK_ROWS)
        kept = [(common.keep(staging, chunk(root, reference, *each)), each[0]) for each in stretches]
        found = summary(validation.conclude(TWELVE, common.Kept(staging, kept), rows))
        staging.discard()
        return found

    return peak_of(work)


def by_two_workers(root: str, reference: dict[str, Any]) -> dict[str, Any]:
    """The chunks in two processes, the adding up in this one."""
    rows = Tables(root).rows(TableRef.from_json(reference))
    stretches = ranges(len(rows), CHUNK_ROWS)
    validation.check_chunk(rows.frame(0, BLOCK_ROWS), TWELVE, start=0)
    peaks: list[float] = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(chunk, *zip(*[(root, reference, 0, BLOCK_ROWS)] * 4, strict=True)))

        def work() -> list[Any]:
            tasks = [pool.submit(chunk_with_peak, root, reference, *each) for each in stretches]
            done = [task.result() for task in tasks]
            peaks.append(max(each["megabytes"] for each in done))
            return summary(validation.conclude(TWELVE, [each["result"] for each in done], rows))

        found = peak_of(work)
    return {**found, "chunk_megabytes": max(peaks)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--runs", type=int, default=3)
    given = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as root:
        reference = written(root, given.rows).as_json()
        say = f"{given.rows:,} rows, 12 expectations: "
        found = {
            name: [in_child(work, root, reference) for _ in range(given.runs)]
            for name, work in (
                ("Great Expectations in one piece", in_one_piece),
                ("ours, one worker", by_one_worker),
                ("ours, two workers", by_two_workers),
            )
        }
        whole = in_child(verdict_in_one_piece, root, reference)
    for name, runs in found.items():
        figure(say + name, [run["seconds"] for run in runs])
        print(f"{'':<20} memory beyond the start: {median(run['megabytes'] for run in runs):,.0f} MB")
    plain, one, two = found.values()
    ratio = median(run["megabytes"] for run in one) / median(run["megabytes"] for run in plain)
    print(f"memory, one worker: {ratio:.2f} of Great Expectations' (target 0.25 at most)")
    print(f"memory of a chunk's task: {max(run['chunk_megabytes'] for run in two):,.0f} MB")
    speed = median(run["seconds"] for run in plain) / median(run["seconds"] for run in one)
    print(f"time, one worker: {1 / speed:.2f} of Great Expectations' (target 1.00 at most)")
    print(f"two workers: {median(r['seconds'] for r in one) / median(r['seconds'] for r in two):.2f} times one")
    same = all(run["result"] == whole["result"] for run in (*one, *two))
    met = [each["met"] for each in whole["result"][0]]
    print(f"verdicts, counts and rows equal to one piece: {same}; to Great Expectations': {plain[0]['result'] == met}")


if __name__ == "__main__":
    main()
