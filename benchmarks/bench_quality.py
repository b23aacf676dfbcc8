"""
The flight model on every month it would serve, beside a dummy and a logistic regression on the same rows.

For month m: trained on everything up to m-2, as it would have been gated on m-1. Default parameters, no search.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
from measure import ROOT, machine

from mlops_provider.adapters import evaluation, training
from mlops_provider.core import partitions
from mlops_provider.spec import load_spec

THREADS = 2

if __name__ == "__main__":
    print(machine())
    spec = load_spec(ROOT / "include/flight_delays/model.yaml")
    land, features, outcomes = (spec.function(name) for name in ("land", "features", "outcomes"))
    keys, target = list(spec.keys), spec.target.name
    as_of, rows, history = datetime(2026, 1, 1, tzinfo=UTC), {}, pd.DataFrame()
    for month in partitions.between("2013-01", "2013-12"):
        landed = land(month).drop_duplicates(keys)
        rows[month] = features(landed, history, as_of).merge(outcomes(month), on=keys)
        history = landed
    print(
        f"{'month':<10}{'rows':>8}   AUC (95 %)             better than dummy         better than logistic regression"
    )
    beaten = []
    for month in partitions.between("2013-03", "2013-12"):
        known = pd.concat(rows[past] for past in partitions.between("2013-01", partitions.previous(month, 2)))
        examples = training.Examples(known[list(spec.feature_columns)], known[target].to_numpy(float))
        models = training.baselines(
            examples, numeric=spec.features.numeric, categorical=spec.features.categorical, threads=THREADS
        )
        models["candidate"] = training.fit(spec.function("estimator")({}), examples, threads=THREADS)
        fresh = rows[month]
        scores = evaluation.evaluate(
            {
                name: training.predictions(model, fresh[list(spec.feature_columns)], threads=THREADS)
                for name, model in models.items()
            },
            fresh[target],
            fresh,
            slices=(),
            slice_metric="roc_auc",
            resamples=spec.bootstrap.resamples,
            confidence=spec.bootstrap.confidence,
            seed=spec.seed,
            metrics=("roc_auc",),
            blocks=evaluation.blocks_of(
                fresh, spec.bootstrap.block, event_time=spec.event_time, time_zone=spec.time_zone
            ),
        )
        auc = scores.metrics["candidate"]["roc_auc"]
        found = {comparison.opponent: comparison.difference for comparison in scores.comparisons}
        shown = (f"{one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f})" for one in (found["dummy"], found["linear"]))
        print(f"{month:<10}{scores.rows:>8,}   {auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})   {'   '.join(shown)}")
        beaten.append(all(one.low > 0 for one in found.values()))
    print(f"both beaten, whole interval above 0: {sum(beaten)} of {len(beaten)} months")
