"""A version in a folder of its own, read back: it predicts and is served without ledger, registry or tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mlops_provider.adapters import scoring
from mlops_provider.core.evidence import Record
from mlops_provider.core.names import Kind
from mlops_provider.core.serving import ServingPolicy
from mlops_provider.exceptions import ConfigurationError, DataRejectedError, EvidenceError, SourceError
from mlops_provider.steps import models
from mlops_provider.stores import model_files
from mlops_provider.stores.archive import MANIFEST, Archive

if TYPE_CHECKING:
    from mlops_provider.adapters.scorers import Scorer
    from mlops_provider.core.columns import Column

WHAT = "package"
"""What the folder is called in messages."""
MODEL, EVIDENCE = "model", "evidence"
"""Folders of a package that predicting needs: the files as they were registered, and the records they rest on."""

TYPES: Mapping[str, pa.DataType] = {
    "number": pa.float64(),
    "whole": pa.int64(),
    "text": pa.string(),
    "flag": pa.bool_(),
    "time": pa.timestamp("ns"),
}
"""How rows of a version are stored, by kind of column."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """
    A package whose files are as they were written.

    :param about: What its manifest says of it.
    :param registration: Record of the version's registration.
    :param policy: How it answers; the defaults where whoever packaged it did not say.
    """

    folder: Path
    model: str
    version: str
    about: Mapping[str, Any]
    registration: Record
    policy: ServingPolicy

    def scorer(self, *, threads: int = 1, graph: bool = True) -> Scorer:
        """
        Load what predicts; see :func:`mlops_provider.steps.models.scorer_in`.

        :raises ServingCheckError: The files could run code, or can't be loaded here. Not retried.
        """
        trusted = models.trusted_types(self.registration)
        return models.scorer_in(self.folder / MODEL, trusted=trusted, threads=threads, graph=graph)


def opened(folder: Path, digest: str = "") -> Packaged:
    """
    Open a package; its files for predicting must be those that were registered, and the gate must have let them pass.

    :param digest: SHA-256 that its manifest must have, as somebody else vouches for; empty if nobody does, and then
        the package alone says that its records come from a ledger.
    :raises ConfigurationError: The folder is no package. Not retried.
    :raises EvidenceError: Its files were changed, or don't fit its records. Not retried.
    """
    _require_digest(folder / MANIFEST, digest)
    manifest = Archive(folder, WHAT).opened(only=(MODEL, EVIDENCE))
    about = manifest.about
    try:
        model, version = str(about["model"]), str(about["version"])
        records = [_record(folder / name) for name in manifest.files if name.startswith(f"{EVIDENCE}/")]
        registration = next(each for each in records if each.record_id == about["registration"])
        policy = _policy(about.get("serving", {}))
    except (KeyError, StopIteration, TypeError, ValueError) as error:
        raise ConfigurationError(f"{folder} is no package of a model version. Name another folder.") from error
    gate = next((each for each in records if each.record_id == registration.payload.get("gate")), None)
    about_it = (registration.kind, registration.model, registration.payload.get("version"))
    if about_it != (Kind.REGISTRATION, model, version) or gate is None:
        raise EvidenceError(f"The evidence in {folder} is not that of {model!r} version {version}.")
    if not gate.payload.get("passed"):
        raise EvidenceError(f"Version {version} of {model!r} in {folder} did not pass the gate.")
    found = model_files.content_digest(folder / MODEL)
    if found != registration.payload.get("files"):
        raise EvidenceError(
            f"The model's files in {folder} have the SHA-256 {found}, and {registration.payload.get('files')} was "
            "registered. None was opened; make the package anew."
        )
    return Packaged(folder, model, version, about, registration, policy)


def score_file(packaged: Packaged, source: Path, target: Path | None, *, threads: int = 1, graph: bool = True) -> int:
    """
    Predict the rows of a file, and write them with a column ``prediction`` behind the others.

    :param source: CSV (also compressed) or Parquet (``.parquet``), with the columns that the version takes.
    :param target: Parquet, if it is called so, else CSV; None: CSV on standard output.
    :param graph: Whether the ONNX graph may predict, if there is one.
    :return: How many rows.
    :raises SourceError: The file can't be read, or lacks columns. Not retried.
    :raises DataRejectedError: The version does not take a value that is there. Not retried.
    """
    scorer = packaged.scorer(graph=graph)
    rows = _read(source, scorer.columns)
    blocks = (rows.slice(first, scoring.ROWS_AT_ONCE) for first in range(0, len(rows), scoring.ROWS_AT_ONCE))
    try:
        predicted = scoring.predictions(scorer, blocks, threads=threads)
    except (ValueError, TypeError) as error:
        raise DataRejectedError(
            f"Version {packaged.version} of {packaged.model!r} can't score rows of {source} ({type(error).__name__}): "
            "cells are missing, or of a kind that it never saw in training."
        ) from error
    added = {scoring.PREDICTION: predicted}
    if scorer.segmented is not None:
        added[scoring.ANSWERED_BY] = scorer.segmented.answered_by(rows.select([scorer.segmented.column]).to_pandas())
    for name, values in added.items():
        rows = rows.drop_columns([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, pa.array(np.asarray(values)))
    _write(rows, target)
    return len(rows)


def _require_digest(manifest: Path, digest: str) -> None:
    if not digest or not manifest.exists():  # what is not there is told in other words
        return
    found = hashlib.sha256(manifest.read_bytes()).hexdigest()
    if found != digest:
        raise EvidenceError(
            f"{manifest} has the SHA-256 {found}, and {digest} was deployed: the package was exchanged. None of it was "
            "opened; deploy the version again."
        )


def _policy(declared: Mapping[str, Any]) -> ServingPolicy:
    """JSON has no tuples."""
    told: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in declared.items()
    }
    return ServingPolicy(**told)


def _record(file: Path) -> Record:
    record = Record.from_json(json.loads(file.read_text(encoding="utf-8")))
    if record.digest != record.expected_digest:
        raise EvidenceError(f"{file} does not match the digest in it: it was changed after it was written.")
    return record


def _read(source: Path, columns: tuple[Column, ...]) -> pa.Table:
    try:
        if source.suffix == ".parquet":
            rows = pq.read_table(source)
        else:
            kinds = {column.name: TYPES[column.kind] for column in columns}
            convert = pyarrow.csv.ConvertOptions(column_types=kinds, strings_can_be_null=True)
            rows = pyarrow.csv.read_csv(source, convert_options=convert)
    except pa.ArrowException as error:
        raise SourceError(f"{source} can't be read: it must be CSV or Parquet. {error}") from error
    except OSError as error:
        raise SourceError(f"{source} can't be read: {error.strerror or error}.") from error
    if lacking := [column.name for column in columns if column.name not in rows.column_names]:
        raise SourceError(f"{source} lacks {len(lacking)} of {len(columns)} columns: {', '.join(lacking[:10])}.")
    return rows


def _write(rows: pa.Table, target: Path | None) -> None:
    try:
        if target is not None and target.suffix == ".parquet":
            pq.write_table(rows, target)
        elif target is not None:
            pyarrow.csv.write_csv(rows, target)
        else:
            pyarrow.csv.write_csv(rows, pa.OSFile("/dev/stdout", "wb"))
    except OSError as error:
        raise SourceError(f"{target} can't be written: {error.strerror}.") from error
