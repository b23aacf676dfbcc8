"""
Validation of ten million rows in chunks, by one and by two workers, beside Great Expectations on pandas in one piece.

Memory is what a process takes beyond what it had before it began. For Great Expectations that leaves out the frame
itself, which it is handed; ours reads its rows from the table, so theirs is included. ``--rows`` makes it smaller.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from measure import figure, in_child, load, machine, peak_of, target

from mlops_provider.adapters import chunk_validation, validation
from mlops_provider.adapters.expectations import Expectation
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


def chunk(root: str, reference: dict[str, Any], first: int, last: int) -> tuple[str, int]:
    """One mapped task's share: check the rows, write what was found, hand on where it lies."""
    rows = Tables(root).rows(TableRef.from_json(reference))
    columns = sorted({column for each in TWELVE for column in each.columns})
    frame = rows.frame(first, last, columns=columns)
    return common.keep(staging(root, reference), chunk_validation.check_chunk(frame, TWELVE, start=first)), first


def staging(root: str, reference: dict[str, Any]) -> Staging:
    return Staging(Tables(root), Target(reference["table"], MONTH, 1, "bench"))


def concluded(root: str, reference: dict[str, Any], kept: list[tuple[str, int]]) -> list[Any]:
    """What the last task does: add up what the chunks found."""
    rows = Tables(root).rows(TableRef.from_json(reference))
    return summary(chunk_validation.conclude(TWELVE, common.Kept(staging(root, reference), kept), rows))


def warm(root: str, reference: dict[str, Any]) -> None:
    """What a worker has loaded before it forks is not the task's."""
    concluded(root, reference, [chunk(root, reference, 0, BLOCK_ROWS)])


def chunk_with_peak(*arguments: Any) -> dict[str, Any]:
    return peak_of(lambda: chunk(*arguments), tidy=False)


def by_one_worker(root: str, reference: dict[str, Any], stretches: list[tuple[int, int]]) -> dict[str, Any]:
    """All chunks and the adding up, one after the other in one process."""
    warm(root, reference)
    found = peak_of(
        lambda: concluded(root, reference, [chunk(root, reference, first, last) for first, last in stretches])
    )
    staging(root, reference).discard()
    return found


def by_two_workers(root: str, reference: dict[str, Any], stretches: list[tuple[int, int]]) -> dict[str, Any]:
    """The chunks in two processes, the adding up in this one."""
    warm(root, reference)
    peaks: list[float] = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        list(pool.map(warm, [root] * 4, [reference] * 4))

        def work() -> list[Any]:
            done = list(pool.map(chunk_with_peak, *zip(*[(root, reference, *each) for each in stretches], strict=True)))
            peaks.append(max(each["megabytes"] for each in done))
            return concluded(root, reference, [each["result"] for each in done])

        found = peak_of(work)
    staging(root, reference).discard()
    return {**found, "chunk_megabytes": max(peaks)}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--runs", type=int, default=3)
    arguments.add_argument("--chunk-rows", type=int, default=262_144)
    given = arguments.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="mlops-bench-") as root:
        reference = written(root, given.rows).as_json()
        stretches = ranges(given.rows, given.chunk_rows)
        say = f"{given.rows:,} rows, 12 expectations: "
        works: dict[str, Callable[[], dict[str, Any]]] = {
            "Great Expectations in one piece": lambda: in_child(in_one_piece, root, reference),
            "ours, one worker": lambda: in_child(by_one_worker, root, reference, stretches),
            "ours, two workers": lambda: in_child(by_two_workers, root, reference, stretches),
        }
        found: dict[str, list[dict[str, Any]]] = {}
        for name, work in works.items():
            print(load())
            runs = found[name] = [work() for _ in range(given.runs)]
            figure(say + name, [run["seconds"] for run in runs])
            beyond = median(run["megabytes"] for run in runs)
            print(
                f"{'':<20} memory beyond the start: {beyond:,.0f} MB, processor: {median(r['cpu'] for r in runs):.1f} s"
            )
        whole = in_child(verdict_in_one_piece, root, reference)
    plain, one, two = found.values()
    print(f"memory of a chunk's task, {given.chunk_rows:,} rows: {max(run['chunk_megabytes'] for run in two):,.0f} MB")
    before, after, parallel = (median(run["seconds"] for run in runs) for runs in (plain, one, two))
    beyond = median(run["megabytes"] for run in one)
    print(f"memory, one worker: {beyond / median(run['megabytes'] for run in plain):.2f} of Great Expectations'")
    if given.rows == 10_000_000:  # ours is as much for fewer rows, theirs is not
        target("memory, one worker, MB (a quarter of 974)", beyond, 974 / 4)
        target("seconds, one worker", after, 24)
    target("time, one worker, of Great Expectations'", after / before, 1)
    target("two workers, times as fast as one", after / parallel, 1, at_least=True)
    same = all(run["result"] == whole["result"] for run in (*one, *two))
    met = [each["met"] for each in whole["result"][0]]
    print(f"verdicts, counts and rows equal to one piece: {same}; to Great Expectations': {plain[0]['result'] == met}")


if __name__ == "__main__":
    main()
