"""
One model per segment: planned once, a child per segment fitted and compared with its parent, the winners put together.

Children are judged before the gate, on the later part of the training rows, where the search validates: rows on which
the best of many was picked would flatter it, and those of the gate have to judge the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_provider.adapters import evaluation, segmented, training
from mlops_provider.core import segments as core
from mlops_provider.core.evaluation import PARENT
from mlops_provider.core.names import PARTITION, Kind, Task
from mlops_provider.core.segments import Segment
from mlops_provider.exceptions import DataRejectedError, EvidenceError, NotApprovedError, SpecError
from mlops_provider.steps import candidate, models
from mlops_provider.steps.declaration import Declaration, declared_for
from mlops_provider.steps.learning import blocks, estimator, examples, task, threads, training_rows
from mlops_provider.steps.source import calling

if TYPE_CHECKING:
    from mlops_provider.core.evidence import Record
    from mlops_provider.core.origin import Origin
    from mlops_provider.spec import ModelSpec
    from mlops_provider.spec_parts import Segments
    from mlops_provider.stores.suite import Stores

_CHILD = "child"
_FOLDER = "segments"
"""Folder of the parent's MLflow run in which tasks keep estimators for each other."""
_ANEW = "start another training run"
"""What is left to do where code changed: clearing tasks would mix old and new."""


def plan_segments(
    spec: ModelSpec, stores: Stores, through: str, *, run_id: str, declaration: str, origin: Origin
) -> list[dict[str, str]]:
    """
    List the segments of the training rows, and fit the parent that their children are compared with.

    That parent sees the earlier rows only; it is kept with the run for the tasks that follow.

    :param through: Partition the candidate will be judged on.
    :param run_id: MLflow run of the parent, the model of all rows.
    :param declaration: Ledger ID of the gate's declaration.
    :return: Per segment ``plan`` (ledger ID) and ``value``, for :func:`train_segment`.
    :raises NotApprovedError: *run_id* was not trained under this declaration. Not retried.
    :raises EvidenceError: ``model.yaml`` or its code changed since. Not retried.
    :raises DataRejectedError: There are more segments than declared, or none. Not retried.
    :raises SpecError: ``model.yaml`` declares no segments, or ``estimator`` failed. Not retried.
    """
    declared = Declaration.from_json(declared_for(spec, stores, through, declaration).payload)
    parent = _trained(stores, run_id, declaration)
    _require_unchanged(spec, parent)
    wanted = _segments(spec)

    def plan() -> Mapping[str, Any]:
        rows = training_rows(spec, stores, declared, more=_block(spec))
        later = training.time_split(rows, partition=PARTITION, event_time=spec.event_time)
        found = _found(spec, wanted, rows, later)
        judged = [each for each in found if not each.excluded(wanted.minimum_rows)]
        confidence = core.corrected(spec.bootstrap.confidence, len(judged))
        kept: dict[str, str] | None = None
        if judged:
            with calling(spec, "estimator", then=_ANEW):
                early = training.fit(
                    estimator(spec, parent.payload["parameters"]),
                    examples(spec, rows[~later]),
                    threads=threads(spec, Task.PLAN_SEGMENTS),
                )
            kept = stores.registry.keep_estimator(run_id, early, folder=_FOLDER, trusted_types=training.TRUSTED_TYPES)
        return {
            "column": wanted.column,
            "segments": [{**each.as_json(), "excluded": each.excluded(wanted.minimum_rows)} for each in found],
            "judged": len(judged),
            "metric": spec.gate.primary,
            "confidence": confidence,
            "measured_at": core.MEASURED_AT,
            "resamples": max(spec.bootstrap.resamples, core.RESAMPLES),
            "validated_from": rows.loc[later, spec.event_time].min().isoformat(),
            "rows": int((~later).sum()),
            "validation_rows": int(later.sum()),
            "parent": run_id,
            "early_parent": kept,
            "declaration": declaration,
            "spec_digest": spec.digest,
            "code_digest": spec.code_digest,
        }

    record = stores.ledger.decide_once(
        Kind.SEGMENTS,
        spec.name,
        origin.key,
        plan,
        inputs={"run_id": run_id, "declaration": declaration, "spec": spec.digest, "code": spec.code_digest},
        actor=origin.actor,
        as_of=spec.labels_known_at(through),
    )
    return [{"plan": record.record_id, "value": each["value"]} for each in record.payload["segments"]]


def train_segment(
    spec: ModelSpec, stores: Stores, through: str, *, segment: Mapping[str, str], declaration: str, origin: Origin
) -> str:
    """
    Fit a child on one segment, and take it if it is shown better than its parent on later rows of that segment.

    A child that wins is fitted on all the segment's training rows and kept with the parent's run.

    :param segment: What :func:`plan_segments` gave for it.
    :return: Ledger ID of the decision.
    :raises EvidenceError: The segment is none of a plan under this declaration, or ``model.yaml`` or its code changed
        since it was planned. Not retried.
    :raises SpecError: ``estimator``, or fitting what it gave, failed. Not retried.
    """
    declared = Declaration.from_json(declared_for(spec, stores, through, declaration).payload)
    planned = _plan(stores, segment["plan"], declaration)
    _require_unchanged(spec, planned)
    about = next((each for each in planned.payload["segments"] if each["value"] == segment["value"]), None)
    if about is None:
        raise EvidenceError(f"Record {planned.record_id!r} plans no segment of that name: clear the task that plans.")
    record = stores.ledger.decide_once(
        Kind.SEGMENT,
        spec.name,
        origin.key,
        lambda: _decided(spec, stores, declared, planned, about),
        inputs={**segment, "spec": spec.digest, "code": spec.code_digest},
        actor=origin.actor,
        as_of=spec.labels_known_at(through),
    )
    return record.record_id


def assemble_model(
    spec: ModelSpec,
    stores: Stores,
    through: str,
    *,
    run_id: str,
    segments: Sequence[str],
    declaration: str,
    origin: Origin,
) -> str:
    """
    Put the parent and the children that won together, and log them to MLflow as one model.

    :param run_id: MLflow run of the parent.
    :param segments: Ledger IDs of what was decided about each segment.
    :return: MLflow run ID of the whole, the candidate.
    :raises EvidenceError: A segment was not decided, what was kept of a child was changed, or ``model.yaml`` or its
        code changed since the segments were planned. Not retried.
    :raises PermanentError: What was kept of a child is not there any more. Not retried.
    """
    record = declared_for(spec, stores, through, declaration)
    declared = Declaration.from_json(record.payload)
    parent = _trained(stores, run_id, declaration)
    planned, decided = _all_decided(stores, run_id, segments, declaration)
    _require_unchanged(spec, planned)
    column = planned.payload["column"]
    whole = candidate.begun(
        spec,
        stores,
        declared,
        record,
        made_of={"parent": run_id, "segments": [each.record_id for each in decided]},
        origin=origin,
        suffix=f", by {column}",
    )
    if candidate.finished_before(stores, whole):
        return whole

    children = {
        each.payload["segment"]: stores.registry.kept_estimator(
            run_id, each.payload["child"], trusted_types=training.TRUSTED_TYPES
        )
        for each in decided
        if each.payload["child"]
    }
    candidate.logged(
        spec,
        stores,
        declared,
        record,
        run_id=whole,
        model=segmented.Segmented(models.candidate(stores.registry, parent), children, column),
        known=examples(spec, training_rows(spec, stores, declared)),
        parameters=parent.payload["parameters"],
        origin=origin,
        own=segmented.TRUSTED_TYPES,
        more={
            "parent": run_id,
            "plan": planned.record_id,
            "segments": [each.record_id for each in decided],
            "children": list(children),
        },
    )
    return whole


def _segments(spec: ModelSpec) -> Segments:
    if spec.segments is None:
        raise SpecError(f"{spec.path} declares no segments: name a column there, such as `segments: carrier`.")
    return spec.segments


def _block(spec: ModelSpec) -> tuple[str, ...]:
    """The column whose rows are resampled as a whole, if it is one."""
    return (spec.bootstrap.block,) if spec.bootstrap.block in spec.kept_columns else ()


def _trained(stores: Stores, run_id: str, declaration: str) -> Record:
    record = stores.ledger.find(Kind.TRAINING, run_id)
    if record is None or record.payload["declaration"] != declaration:
        raise NotApprovedError(f"Run {run_id!r} was not trained under the declaration {declaration!r}: train it first.")
    return record


def _require_unchanged(spec: ModelSpec, made: Record) -> None:
    """
    Refuse to go on with other code than a run began with: its version would be made by two.

    :param made: Record with ``spec_digest`` and ``code_digest``.
    """
    theirs = made.payload.get("spec_digest"), made.payload.get("code_digest")
    if theirs != (spec.digest, spec.code_digest):
        raise EvidenceError(
            f"{spec.path} or its code changed since this run began (record {made.record_id!r}): parent and children "
            "would be made by two. Start another training run; clearing tasks of this one mixes them again."
        )


def _plan(stores: Stores, record_id: str, declaration: str) -> Record:
    record = stores.ledger.get(record_id)
    if record.kind != Kind.SEGMENTS or record.payload["declaration"] != declaration:
        raise EvidenceError(f"Record {record_id!r} plans no segments under the declaration {declaration!r}.")
    return record


def _found(spec: ModelSpec, wanted: Segments, rows: pd.DataFrame, later: NDArray[np.bool_]) -> list[Segment]:
    """Every segment of the training rows, by value."""
    members = positions_of(rows, wanted.column)
    if not 1 <= len(members) <= wanted.maximum:
        raise DataRejectedError(
            f"{spec.name!r}: the training rows hold {len(members):,} values of {wanted.column!r}, and 1 to "
            f"{wanted.maximum:,} can be segments: each is a task. Choose another column, or raise segments.maximum in "
            f"{spec.path}."
        )
    outcomes, numbers = rows[spec.target.name].to_numpy(dtype=np.float64), blocks(spec, rows)
    classes = task(spec).classes
    found = []
    for value in sorted(members):
        late = later[members[value]]
        early_rows, late_rows = members[value][~late], members[value][late]
        held = None if numbers is None else numbers[late_rows]
        found.append(
            Segment(
                value=value,
                rows=len(early_rows),
                validation_rows=len(late_rows),
                blocks=None if held is None else _blocks_held(held, outcomes[late_rows], classes),
                rare=_rare(outcomes[early_rows], classes),
                validation_rare=_rare(outcomes[late_rows], classes),
                unfit=_unfit(spec, outcomes[early_rows], outcomes[late_rows]),
            )
        )
    return found


def _rare(outcomes: NDArray[np.float64], classes: Sequence[float]) -> int | None:
    """Rows of the rarest class; None if there are no classes."""
    return min((int((outcomes == each).sum()) for each in classes), default=None)


def _blocks_held(numbers: NDArray[np.intp], outcomes: NDArray[np.float64], classes: Sequence[float]) -> int:
    """Blocks that hold rows; of classes, those that hold the class which the fewest do."""
    counted = (len(np.unique(numbers[outcomes == each])) for each in classes)
    return min(counted, default=len(np.unique(numbers)))


def positions_of(rows: pd.DataFrame, column: str) -> dict[str, NDArray[np.intp]]:
    """Positions of the rows of each segment; a row without a value is in none."""
    found = rows.groupby(column, observed=True).indices
    return {str(value): np.asarray(positions, dtype=np.intp) for value, positions in found.items()}


def _unfit(spec: ModelSpec, early: NDArray[np.float64], late: NDArray[np.float64]) -> str:
    try:
        task(spec).require_learnable(early)
        task(spec).require_scorable(late)
    except DataRejectedError as reason:
        return str(reason)
    return ""


def _decided(
    spec: ModelSpec, stores: Stores, declared: Declaration, planned: Record, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare child and parent, and give what the ledger keeps of it."""
    plan = planned.payload
    value, metric = about["value"], plan["metric"]
    decision: dict[str, Any] = {
        "plan": planned.record_id,
        "segment": value,
        "answered_by": PARENT,
        "reason": about["excluded"],
        "rows": about["rows"],
        "validation_rows": about["validation_rows"],
        "metric": metric,
        "scores": {},
        "difference": None,
        "child": None,
    }
    if about["excluded"]:
        return decision
    rows = training_rows(spec, stores, declared, equal=(plan["column"], value), more=_block(spec))
    later = (rows[spec.event_time] >= pd.Timestamp(plan["validated_from"])).to_numpy()
    scores = _compared(spec, stores, plan, rows, later)
    decision["scores"] = {name: each[metric].as_json() for name, each in scores.metrics.items() if metric in each}
    difference = next((each.difference for each in scores.comparisons), None)
    if difference is None:
        return {**decision, "reason": f"{metric} is undefined on its rows."}
    factor = core.drawn_out_by(plan["confidence"], Segment.from_json(about).independent)
    difference = core.drawn_out(difference, factor)
    decision |= {"difference": difference.as_json(), "reason": core.told(difference, metric)}
    if core.wins(difference):
        child = _fitted(spec, stores, plan, rows)
        kept = stores.registry.keep_estimator(
            plan["parent"], child, folder=_FOLDER, trusted_types=training.TRUSTED_TYPES
        )
        decision |= {"answered_by": value, "child": kept}
    return decision


def _compared(
    spec: ModelSpec, stores: Stores, plan: Mapping[str, Any], rows: pd.DataFrame, later: NDArray[np.bool_]
) -> evaluation.Scores:
    """Score child and parent, both fitted on earlier rows, on the later rows of the segment."""
    granted, late = threads(spec, Task.TRAIN_SEGMENT), examples(spec, rows[later])
    contenders = {
        _CHILD: _fitted(spec, stores, plan, rows[~later]),
        PARENT: stores.registry.kept_estimator(
            plan["parent"], plan["early_parent"], trusted_types=training.TRUSTED_TYPES
        ),
    }
    return evaluation.evaluate(
        {name: training.predictions(model, late.X, threads=granted) for name, model in contenders.items()},
        late.y,
        rows[later],
        slices=(),
        slice_metric=plan["metric"],
        resamples=plan["resamples"],
        confidence=core.MEASURED_AT,
        seed=spec.seed,
        subject=_CHILD,
        task=task(spec),
        metrics=(plan["metric"],),
        blocks=blocks(spec, rows[later]),
    )


def _fitted(spec: ModelSpec, stores: Stores, plan: Mapping[str, Any], rows: pd.DataFrame) -> Any:
    """Fit a child as the parent was fitted, with its parameters."""
    parent = _trained(stores, plan["parent"], plan["declaration"])
    with calling(spec, "estimator", about=f"the segment {rows[plan['column']].iloc[0]!r}", then=_ANEW):
        return training.fit(
            estimator(spec, parent.payload["parameters"]),
            examples(spec, rows),
            threads=threads(spec, Task.TRAIN_SEGMENT),
        )


def _all_decided(stores: Stores, run_id: str, segments: Sequence[str], declaration: str) -> tuple[Record, list[Record]]:
    """Give the plan of a run and what was decided about each of its segments, in the plan's order."""
    decided = {record.payload.get("segment"): record for record in map(stores.ledger.get, segments)}
    plans = {str(record.payload.get("plan")) for record in decided.values() if record.kind == Kind.SEGMENT}
    if len(plans) != 1:
        raise EvidenceError(f"{len(decided)} decisions on segments rest on {len(plans)} plans: one is needed.")
    planned = _plan(stores, plans.pop(), declaration)
    values = [each["value"] for each in planned.payload["segments"]]
    if planned.payload["parent"] != run_id or set(values) != set(decided):
        raise EvidenceError(
            f"Of the {len(values)} segments that record {planned.record_id!r} plans for run "
            f"{planned.payload['parent']!r}, {len(set(values) & set(decided))} were decided for run "
            f"{run_id!r}: clear the tasks that train segments."
        )
    return planned, [decided[value] for value in values]
