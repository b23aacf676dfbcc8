"""Raw data becomes features."""

from __future__ import annotations

from airflow.sdk import Asset

from mlops_provider.core import names
from mlops_provider.core.names import Task
from mlops_provider.operators.ingest import BuildFeaturesOperator, LandDataOperator, ValidateDataOperator
from mlops_provider.sensors.source import SourceSensor
from mlops_provider.spec import load_spec
from mlops_provider.stages.resources import chunks_of, resources


def features_of(model_yaml: str) -> Asset:
    """Name the asset that announces new features; its events carry the table and its version."""
    return Asset(name=names.features_asset(load_spec(model_yaml).name))


def ingest(model_yaml: str) -> None:
    """Land a partition, validate it and build its features; if its source is on S3, wait for the file first."""
    source = load_spec(model_yaml).source("land")
    delivered = SourceSensor(**resources(model_yaml, Task.WAIT_FOR_SOURCE)) if source and source.on_s3 else None
    land = LandDataOperator(
        **resources(model_yaml, Task.LAND_DATA), chunks=chunks_of(model_yaml, Task.LAND_DATA, after=delivered)
    )
    if delivered is not None:
        delivered >> land
    landed = land.output
    clean = ValidateDataOperator(
        **resources(model_yaml, Task.VALIDATE_DATA),
        landed=landed,
        chunks=chunks_of(model_yaml, Task.VALIDATE_DATA, source=landed),
    ).output
    BuildFeaturesOperator(
        **resources(model_yaml, Task.BUILD_FEATURES),
        clean=clean,
        chunks=chunks_of(model_yaml, Task.BUILD_FEATURES, source=clean),
        outlets=[features_of(model_yaml)],
    )
