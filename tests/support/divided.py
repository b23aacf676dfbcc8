"""
Trips whose lines follow laws of their own, and a use case that gives each line a model where it needs one.

Trips of line C are late where those of the others are in time, so it needs a model of its own; B is noise; D has hardly
any rows. No model sees the line as a feature.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from support import tasks
from support.tiny import ANY_MODEL_PASSES, FEBRUARY, JANUARY, MARCH, MODEL, Place, ingest_month, trips, write_month

SEGMENTS = {"column": "line", "minimum_rows": 40}


def divided(month: str, rows: int = 2400) -> pd.DataFrame:
    """A month of trips, whose lines follow laws of their own."""
    random = np.random.default_rng([9, *map(int, month.split("-"))])
    frame = trips(month, rows=rows)
    line = random.choice(["A", "B", "C", "D"], rows, p=[0.66, 0.15, 0.15, 0.04])
    late = (frame["delay"] > 5).to_numpy()
    late = np.where(line == "C", ~late, np.where(line == "B", random.random(rows) < 0.4, late))
    return frame.assign(line=line, delay=np.where(late, 12.0, 1.0))


def prepared(place: Place, january: pd.DataFrame | None = None, **changes: Any) -> Place:
    """January to March of that, and a use case whose model does not see the line."""
    declared = {"segments": SEGMENTS, "gate": ANY_MODEL_PASSES, **changes}
    made = place.declared(**declared)
    code = made.use_case / "model.py"
    code.write_text(code.read_text().replace('("words", words, ["line"])', '("words", "drop", ["line"])'))
    for month in (JANUARY, FEBRUARY, MARCH):
        frame = divided(month) if january is None or month != JANUARY else january
        write_month(made.source, month, frame)
        ingest_month(made, month)
    return made


def trained(place: Place, run: str = "t") -> dict[str, Any]:
    """Go through training up to the whole; give what tasks hand each other."""
    about: dict[str, Any] = {"through": FEBRUARY, "run": run}
    about["declaration"] = tasks.declare_gate(place, **about)
    parent = tasks.train_model(place, **about)
    planned = tasks.plan_segments(place, **about, run_id=parent)
    decided = [
        tasks.train_segment(place, **about, segment=segment, index=index) for index, segment in enumerate(planned)
    ]
    whole = tasks.assemble_model(place, **about, run_id=parent, decided=decided)
    return {**about, "parent": parent, "planned": planned, "decided": decided, "whole": whole}


def released(place: Place, run_id: str, declaration: str, *, run: str) -> dict[str, Any]:
    """Judge and register a candidate and give it all the traffic."""
    spec, stores = place.spec(), place.stores()
    evaluation = tasks.evaluate_model(place, FEBRUARY, run, run_id, declaration)
    verdict = tasks.decide_gate(place, run, evaluation, declaration)
    version = tasks.register_model(place, run, run_id, verdict)
    now = stores.ledger.traffic(MODEL)
    generation = now.generation if now else 0
    stores.ledger.propose_traffic(spec.name, {version: 100}, settled=True, expected_generation=generation)
    return {"evaluation": evaluation, "verdict": verdict, "version": version}


def decisions(place: Place, made: dict[str, Any]) -> dict[str, Any]:
    found = [place.stores().ledger.get(record).payload for record in made["decided"]]
    return {each["segment"]: each for each in found}
