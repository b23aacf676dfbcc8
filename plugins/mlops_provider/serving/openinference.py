"""The Open Inference Protocol, version 2 (REST): tensors in, tensors out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import msgspec

from mlops_provider.core.columns import Column, Kind
from mlops_provider.serving.columns import Cells, Rows, checked
from mlops_provider.serving.protocol import decoded
from mlops_provider.serving.refusal import RefusedRequestError, listed

OUTPUT = "prediction"
"""Name of the tensor that is answered: FP64, one number per row."""
ANSWERED_BY = "answered_by"
"""Name of the tensor that a model of segments answers as well: BYTES, one text per row."""
DATATYPES: Mapping[Kind, str] = {"number": "FP64", "whole": "INT64", "text": "BYTES", "flag": "BOOL", "time": "BYTES"}
"""What a model's metadata asks for, by kind of column."""

_WHOLE = frozenset({"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"})
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_ACCEPTED: Mapping[Kind, frozenset[str]] = {
    "number": _WHOLE | _FLOATS,
    "whole": _WHOLE | _FLOATS,
    "text": frozenset({"BYTES"}),
    "flag": frozenset({"BOOL"}),
    "time": frozenset({"BYTES"}),
}
_KNOWN = _WHOLE | _FLOATS | {"BYTES", "BOOL"}
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tensors:
    """
    The rows of a request: one tensor per column, of shape [n] or [n, 1].

    :param id: What the request calls itself; empty if it doesn't.
    """

    cells: Mapping[str, Cells]
    datatypes: Mapping[str, str]
    id: str

    def rows(self, columns: Sequence[Column]) -> Rows:
        for column in columns:
            given = self.datatypes.get(column.name)
            if given is not None and given not in _ACCEPTED[column.kind]:
                wanted = DATATYPES[column.kind]
                raise RefusedRequestError(f"Input {column.name!r} must have the datatype {wanted}, not {given}.")
        return checked(self.cells, columns)

    def column(self, name: str) -> Cells | None:
        return self.cells.get(name)

    def first(self, name: str) -> Any:
        return next(iter(self.cells.get(name, ())), None)


def parse(body: bytes, content_type: str) -> Tensors:
    """
    Read an inference request.

    :raises RefusedRequestError: Not JSON, no inputs, shapes and data that disagree, or an output there is not.
    """
    content = decoded(body)
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if not isinstance(inputs, list) or not inputs:
        raise RefusedRequestError('The body must be a JSON object with "inputs": a list of tensors, one per column.')
    given_id = content.get("id")
    if given_id is not None and not (isinstance(given_id, str) and _ID.fullmatch(given_id)):
        raise RefusedRequestError("id must be 1 to 128 letters, digits or any of . _ : - characters.")
    _check_parameters(content, "The request")
    _check_outputs(content.get("outputs"))
    cells: dict[str, Cells] = {}
    datatypes: dict[str, str] = {}
    for number, tensor in enumerate(inputs):
        name, datatype, data = _tensor(number, tensor)
        if name in cells:
            raise RefusedRequestError(f"Input {number} has the name of an earlier one.")
        cells[name], datatypes[name] = data, datatype
    if len({len(data) for data in cells.values()}) > 1:
        raise RefusedRequestError("The inputs must all have the same number of rows.")
    return Tensors(cells, datatypes, given_id or "")


def answer(
    predictions: Sequence[float],
    answered_by: Sequence[str] | None = None,
    *,
    fallback: bool,
    model: str = "",
    version: str = "",
    request_id: str = "",
) -> bytes:
    """
    Write an inference response; its parameters say if it is the declared fallback.

    :param answered_by: Of a model of segments, the segment whose own model answered each row: a second tensor.
    """
    content: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "id": request_id,
        "outputs": [{"name": OUTPUT, "shape": [len(predictions)], "datatype": "FP64", "data": predictions}],
    }
    if answered_by is not None:
        who = {"name": ANSWERED_BY, "shape": [len(answered_by)], "datatype": "BYTES", "data": answered_by}
        content["outputs"].append(who)
    return msgspec.json.encode(content | {"parameters": {"fallback": True}} if fallback else content)


def metadata(model: str, versions: Sequence[str], columns: Sequence[Column], *, segments: bool) -> dict[str, Any]:
    """
    What a model takes and gives; -1 is any number of rows.

    :param segments: Whether it also says who answered.
    """
    outputs = {OUTPUT: "FP64"} | ({ANSWERED_BY: "BYTES"} if segments else {})
    return {
        "name": model,
        "versions": list(versions),
        "platform": "mlops",
        "inputs": [{"name": column.name, "datatype": DATATYPES[column.kind], "shape": [-1]} for column in columns],
        "outputs": [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in outputs.items()],
    }


def _tensor(number: int, tensor: Any) -> tuple[str, str, Cells]:
    """Check one input: name, datatype, shape and data."""
    if not isinstance(tensor, dict):
        raise RefusedRequestError(f"Input {number} must be an object with name, shape, datatype and data.")
    name, datatype, shape, data = (tensor.get(key) for key in ("name", "datatype", "shape", "data"))
    if not isinstance(name, str) or not name:
        raise RefusedRequestError(f"Input {number} must have a name.")
    _check_parameters(tensor, f"Input {number}")
    if not isinstance(datatype, str) or datatype not in _KNOWN:
        raise RefusedRequestError(f"Input {number} must have one of the datatypes {listed(sorted(_KNOWN), 20)}.")
    if not isinstance(data, list):
        raise RefusedRequestError(f"Input {number} must have its data as a list, in JSON.")
    if (
        not isinstance(shape, list)
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(shape) not in (1, 2)
        or prod(shape[1:]) != 1
    ):
        raise RefusedRequestError(f"Input {number} must have the shape [n] or [n, 1]: one cell of a column per row.")
    cells: list[Any] = data
    if len(shape) == 2 and data and all(type(row) is list for row in data):
        cells = list(chain.from_iterable(data))
    if len(cells) != shape[0] or len(data) != shape[0]:
        raise RefusedRequestError(f"Input {number} holds {len(cells)} cells, and its shape says {shape[0]}.")
    return name, datatype, cells


def _check_parameters(content: Mapping[str, Any], what: str) -> None:
    """Parameters are for extensions; those of the binary one would change what the body means."""
    parameters = content.get("parameters")
    if parameters is None:
        return
    if not isinstance(parameters, dict):
        raise RefusedRequestError(f"{what}: parameters must be an object.")
    if any(parameters.get(key) for key in ("binary_data_size", "binary_data", "binary_data_output")):
        raise RefusedRequestError(f"{what} asks for the binary data extension, which is not spoken here: send JSON.")


def _check_outputs(outputs: Any) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise RefusedRequestError("outputs must be a list of objects.")
    for number, output in enumerate(outputs):
        if output.get("name") not in (OUTPUT, ANSWERED_BY):
            raise RefusedRequestError(f"Output {number} is none of this model's: it gives {OUTPUT!r}.")
        _check_parameters(output, f"Output {number}")
