"""What ``/openapi.json`` says: OpenAPI 3.1, made from the table of routes and the columns of what is served."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any

from mlops_provider.core.columns import Column, Kind
from mlops_provider.core.names import Arm, Header
from mlops_provider.serving.feedback import MOST
from mlops_provider.serving.openinference import ANSWERED_BY, DATATYPES, OUTPUT
from mlops_provider.serving.refusal import CODES
from mlops_provider.serving.served import ServedModel
from mlops_provider.serving.tokens import OPEN_PATHS

Schema = Mapping[str, Any]

_LARGEST = 1.7976931348623157e308
_CELLS: Mapping[Kind, Schema] = {
    "number": {"type": ["number", "null"], "minimum": -_LARGEST, "maximum": _LARGEST},
    "whole": {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    "text": {"type": ["string", "null"]},
    "flag": {"type": ["boolean", "null"]},
    "time": {"type": ["string", "null"], "format": "date-time"},
}
_REASONS = {
    400: "The request can't be scored, and why.",
    401: "There is no token, or it is not accepted.",
    404: "There is no such model, or the version is not loaded.",
    405: "The path does not take this method.",
    408: "The body came too slowly.",
    413: "The body is too large.",
    415: "The content type is neither JSON nor CSV.",
    429: "Too many requests are waiting.",
    500: "The server failed.",
    503: "Nothing can answer now, and why.",
    504: "The deadline passed.",
}
_PATTERN = r"^[A-Za-z0-9._:\-]{1,128}$"


@dataclass(frozen=True, slots=True)
class Operation:
    """
    One method of one path.

    :param path: With ``{model}`` and ``{version}`` where they vary.
    :param summary: What it does, in a sentence.
    :param answer: Answers it: a function of a request, or an ASGI application.
    :param answers: Status -> schema of the body; None for a refusal in words.
    :param media_type: Of the answers that are no refusal.
    :param served: The model that predicts, whose columns the body holds.
    :param body: Schema of the body of another request.
    """

    method: str
    path: str
    summary: str
    answer: Any
    answers: Mapping[int, Schema | None]
    media_type: str = "application/json"
    served: ServedModel | None = None
    body: Schema | None = None


def schema(name: str) -> Schema:
    """Refer to one of the shared schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def outcomes(served: ServedModel) -> Schema:
    """What a model is told of its predictions."""
    policy = served.policy
    told: dict[str, Schema] = {
        "outcome": {"enum": [0, 1]} if policy.binary else {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
        "observed_at": {"type": "string", "format": "date-time", "description": "When it was seen; by default now."},
    }
    row = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
    cell = {"type": ["string", "number", "boolean"]}
    keys = {**_object(policy.keys, **dict.fromkeys(policy.keys, cell)), "additionalProperties": False}
    kinds = [_object(["request_id", "outcome"], request_id={"type": "string", "pattern": _PATTERN}, row=row, **told)]
    kinds += [_object(["keys", "outcome"], keys=keys, **told)] if policy.keys else []
    item = {"oneOf": [{**kind, "additionalProperties": False} for kind in kinds]}
    each = {"type": "array", "minItems": 1, "maxItems": MOST, "items": item}
    return {**_object(["outcomes"], outcomes=each), "additionalProperties": False}


def document(operations: Sequence[Operation], models: Sequence[str], *, secured: bool) -> dict[str, Any]:
    """
    Describe the API.

    :param models: Names of what is served.
    :param secured: Whether callers need a token.
    """
    paths: dict[str, Any] = {}
    for operation in operations:
        needs_token = secured and operation.path not in OPEN_PATHS
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, models, needs_token)
    security = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if secured else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Model server",
            "version": installed_version("airflow-provider-mlops"),
            "description": f"Predictions of {', '.join(models)}, by MLflow's protocol and the Open Inference Protocol.",
        },
        "paths": paths,
        "components": {"schemas": _SCHEMAS, **security},
    }


def _described(operation: Operation, models: Sequence[str], needs_token: bool) -> dict[str, Any]:
    inference = operation.path.startswith("/v2")
    answers = dict(operation.answers) | ({401: None} if needs_token else {})
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}"),
        "summary": operation.summary,
        "responses": {
            str(status): _response(operation, status, answers[status], inference) for status in sorted(answers)
        },
    }
    parameters = [_in_path(name, models) for name in re.findall(r"{(\w+)}", operation.path)]
    if operation.served:
        parameters += _HEADERS
        described["requestBody"] = {"required": True, "content": _bodies(operation.served, inference)}
    if operation.body:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    if parameters:
        described["parameters"] = parameters
    if needs_token:
        described["security"] = [{"token": []}]
    return described


def _response(operation: Operation, status: int, body: Schema | None, inference: bool) -> dict[str, Any]:
    if body is None:
        refusal = schema("InferenceError" if inference else "Refusal")
        described: dict[str, Any] = {
            "description": _REASONS[status], "content": {"application/json": {"schema": refusal}},
        }  # fmt: skip
        if status in (429, 503, 504):
            described["headers"] = {"Retry-After": {"schema": {"type": "integer", "minimum": 1}}}
        if status == 401:
            described["headers"] = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
        return described
    described = {
        "description": operation.summary if status == 200 else _REASONS[status],
        "content": {operation.media_type: {"schema": body}},
    }
    if operation.served:
        described["headers"] = _ANSWERED
    return described


def _in_path(name: str, models: Sequence[str]) -> dict[str, Any]:
    allowed = {"enum": list(models)} if name == "model" else {"pattern": r"^\d+$"}
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", **allowed}}


def _bodies(served: ServedModel, inference: bool) -> dict[str, Any]:
    """What a model takes, as far as a version of it is loaded that can tell."""
    snapshot = served.follower.snapshot
    columns = snapshot.leading.columns if snapshot and snapshot.open else None
    if inference:
        return {"application/json": {"schema": _tensors(columns)}}
    return {
        "application/json": {"schema": _rows(columns)},
        "text/csv": {"schema": {"type": "string", "description": "A line of column names, then a line per row."}},
    }


def _rows(columns: Sequence[Column] | None) -> Schema:
    """MLflow's layouts."""
    names = [column.name for column in columns or ()]
    cells = {column.name: _CELLS[column.kind] for column in columns or ()}
    record = {"type": "object", "properties": cells, "required": names}
    records = {"type": "array", "minItems": 1, "items": record}
    lists = {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "array",
            "prefixItems": list(cells.values()),
            "minItems": len(names),
            "maxItems": len(names),
        },
    }  # fmt: skip
    lists = lists if columns else {"type": "array", "minItems": 1, "items": {"type": "array"}}
    one_row = {
        "type": "object",
        "properties": {
            name: {"type": "array", "items": cell, "minItems": 1, "maxItems": 1} for name, cell in cells.items()
        },
        "required": names,
    }
    split = {
        "type": "object",
        "properties": {"columns": {"const": names} if columns else {"type": "array"}, "data": lists},
        "required": ["columns", "data"],
    }
    layouts = {
        "dataframe_split": split,
        "dataframe_records": records,
        "instances": {"anyOf": [records, lists]},
        "inputs": {"anyOf": [one_row, records, lists]},
    }
    return {
        "oneOf": [
            {"type": "object", "properties": {name: layout}, "required": [name], "additionalProperties": False}
            for name, layout in layouts.items()
        ]
    }


def _tensors(columns: Sequence[Column] | None) -> Schema:
    """The Open Inference Protocol's request, for one row."""
    inputs: Schema = {"type": "array", "minItems": 1, "items": schema("Tensor")}
    if columns:
        inputs = {
            "type": "array",
            "prefixItems": [
                {
                    "type": "object",
                    "properties": {
                        "name": {"const": column.name},
                        "shape": {"enum": [[1], [1, 1]]},
                        "datatype": {"const": DATATYPES[column.kind]},
                        "data": {"type": "array", "items": _CELLS[column.kind], "minItems": 1, "maxItems": 1},
                        "parameters": {"type": "object"},
                    },
                    "required": ["name", "shape", "datatype", "data"],
                    "additionalProperties": False,
                }
                for column in columns
            ],
            "minItems": len(columns),
            "maxItems": len(columns),
        }
    return {
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": _PATTERN},
            "parameters": {"type": "object"},
            "inputs": inputs,
            "outputs": {
                "type": "array",
                "items": {"type": "object", "properties": {"name": {"const": OUTPUT}}, "required": ["name"]},
            },
        },
        "required": ["inputs"],
    }


def _object(required: Sequence[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(required)}


_TEXT: Schema = {"type": "string"}
_TRUTH: Schema = {"type": "boolean"}
_NUMBERS: Schema = {"type": "array", "items": {"type": "number"}}
_TEXTS: Schema = {"type": "array", "items": _TEXT}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHAPE: Schema = {"type": "array", "items": {"type": "integer", "minimum": -1}}
_TENSORS: Schema = {
    "type": "array",
    "items": _object(["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_SHAPE),
}

_SCHEMAS: Mapping[str, Schema] = {
    "Refusal": _object(
        ["error_code", "message"],
        error_code={"enum": sorted({*CODES.values(), "INTERNAL_ERROR"})},
        message=_TEXT,
    ),
    "InferenceError": _object(["error"], error=_TEXT),
    "Predictions": _object(["predictions"], predictions=_NUMBERS, answered_by=_TEXTS, fallback={"const": True}),
    "Tensor": _object(
        ["name", "shape", "datatype", "data"],
        name=_TEXT,
        shape={"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
        datatype=_TEXT,
        data={"type": "array"},
        parameters={"type": "object"},
    ),
    "InferenceResponse": _object(
        ["model_name", "model_version", "id", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_object([], fallback={"const": True}),
        outputs={
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": _object(
                ["name", "shape", "datatype", "data"],
                name={"enum": [OUTPUT, ANSWERED_BY]},
                shape=_SHAPE,
                datatype={"enum": ["FP64", "BYTES"]},
                data={"type": "array"},
            ),
        },
    ),
    "Accepted": _object(["accepted"], accepted={"type": "integer", "minimum": 1}),
    "Server": _object(["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions=_TEXTS),
    "Live": _object(["live"], live=_TRUTH),
    "Ready": _object(["ready"], ready=_TRUTH),
    "ModelReady": _object(["name", "ready"], name=_TEXT, ready=_TRUTH),
    "ModelMetadata": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions=_TEXTS,
        platform=_TEXT,
        inputs=_TENSORS,
        outputs=_TENSORS,
    ),
    "Observed": _object(
        ["replica", "generation", "versions"],
        replica=_TEXT,
        generation=_COUNT,
        versions={
            "type": "object",
            "additionalProperties": _object(
                ["requests", "errors", "answered", "latencies", "predictions", "pairs"],
                requests={
                    **_COUNT,
                    "description": "Without those that no version takes: missing columns, wrong types.",
                },
                errors={**_COUNT, "description": "Could not be scored, failed, were late or left to the fallback."},
                answered={**_COUNT, "description": "Of these, the predictions are a sample."},
                latencies={"type": "object", "additionalProperties": _COUNT},
                predictions={"type": "array", "items": _NUMBERS},
                pairs={"type": "array", "items": {"type": "array", "items": _NUMBERS}},
            ),
        },
    ),
    "Traffic": {
        "type": "object",
        "additionalProperties": _object(
            ["replica", "generation", "split", "shadow", "versions", "errors", "ready"],
            replica=_TEXT,
            generation={"type": "integer", "minimum": 0},
            split={"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 100}},
            shadow=_TEXTS,
            versions=_TEXTS,
            errors=_TEXTS,
            ready=_TRUTH,
        ),
    },
}

_HEADERS: list[dict[str, Any]] = [
    {"name": str(name), "in": "header", "description": description, "schema": {"type": "string", **allowed}}
    for name, description, allowed in (
        (Header.REQUEST_ID, "Names the request.", {"pattern": _PATTERN}),
        (Header.VERSION, "Asks for a loaded version.", {"pattern": r"^\d+$"}),
        (Header.ENTITY, "What the request is about: the same entity meets the same version.", {}),
        (Header.DEADLINE, "Milliseconds until the caller stops waiting.", {"pattern": r"^[1-9]\d{0,8}$"}),
    )
]
_ANSWERED: Schema = {
    Header.VERSION: {"required": True, "description": "Version that answered.", "schema": _TEXT},
    Header.GENERATION: {
        "required": True,
        "description": "Generation of the traffic record it followed.",
        "schema": {"type": "string", "pattern": r"^\d+$"},
    },
    Header.REQUEST_ID: {"required": True, "description": "The request's name.", "schema": _TEXT},
    Header.ARM: {
        "required": True,
        "description": "Why this version answered.",
        "schema": {"enum": [Arm.SPLIT, Arm.PINNED, Arm.FALLBACK]},
    },
}
