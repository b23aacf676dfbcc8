"""YAML files checked against a schema; what is wrong is said with its line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from mlops_provider.exceptions import SpecError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # LibYAML where it is built in: ten times faster
Location = tuple[str | int, ...]
Problem = tuple[Location, str]
Schema = TypeVar("Schema", bound=BaseModel)

LISTED = 10
"""Problems listed at most; the rest is counted."""
LONGEST = 60
"""Characters shown of a wrong value."""


class Document:
    """
    A YAML file, as data and with the line of everything in it.

    :param path: The file; error messages name it as given here.
    :raises SpecError: The file is missing, is no YAML, is not a mapping, or holds a key twice. Not retried.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            loader = Loader(path.read_text(encoding="utf-8"))
            self._root = loader.get_single_node()
            self.data = None if self._root is None else loader.construct_document(self._root)
        except OSError as error:
            raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise SpecError(f"{path}: is not UTF-8 text.") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise SpecError(f"{path}:{line}: is not valid YAML: {error.problem or error}.") from error
        except yaml.YAMLError as error:
            raise SpecError(f"{path}: is not valid YAML: {error}.") from error
        if not isinstance(self.data, dict):
            raise SpecError(f"{path}:1: expected keys and values, got {_shown(self.data)}.")
        if twice := list(_repeated_keys(self._root, (), set())):
            raise self.error(twice)

    def check(self, schema: type[Schema]) -> Schema:
        """
        Return the content as *schema*.

        :raises SpecError: It does not fit; every problem has its line and says what was expected. Not retried.
        """
        try:
            return schema.model_validate(self.data)
        except ValidationError as error:
            problems = [(_place(one), _sentence(one, schema)) for one in error.errors(include_url=False)]
            raise self.error(problems) from None  # pydantic's own account says the same, at length

    def error(self, problems: Sequence[Problem]) -> SpecError:
        """Return one error that names all *problems*, in the order of the file."""
        lines = sorted((self.line(place), ".".join(map(str, place)), said) for place, said in problems)
        texts = [f"{self.path}:{line}: {place + ': ' if place else ''}{said}" for line, place, said in lines]
        rest = len(texts) - LISTED
        return SpecError("\n".join(texts[:LISTED] + ([f"And {rest} more."] if rest > 0 else [])))

    def line(self, place: Location) -> int:
        """Return the line of a key or list item, from 1; the line of its nearest parent if it is not there."""
        node, line = self._root, 1
        for step in place:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    """Return line and value of one step into *node*."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step].start_mark.line + 1, node.value[step]
    return None


def _repeated_keys(node: yaml.Node, place: Location, seen: set[int]) -> Iterator[Problem]:
    """YAML takes the last of two equal keys and says nothing; we say it. *seen* stops at aliases."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, (*place, index), seen)
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in lines:
                yield (*place, name), f"written twice, on lines {lines[name]} and {line}."
            lines[name] = line
            yield from _repeated_keys(value, (*place, name), seen)


def _place(error: ErrorDetails) -> Location:
    """Where it is wrong, without pydantic's mark for the key of a mapping."""
    return tuple(step for step in error["loc"] if step != "[key]")


def _sentence(error: ErrorDetails, schema: type[BaseModel]) -> str:
    """Pydantic's message in our words: what was expected, what is there."""
    kind, given = error["type"], error["input"]
    if kind == "missing":
        return "required, but missing."
    if kind == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), _known_keys(schema, error["loc"][:-1]))
    if kind == "value_error":
        return str(error["ctx"]["error"])
    expected = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "expected")
    return f"{expected}, got {_shown(given)}.{_number_hint(kind, given)}"


_EXPECTED = {
    "string_type": "expected a text",
    "float_type": "expected a number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "too_short": "expected at least one entry",
    "dict_type": "expected keys and values",
    "model_type": "expected keys and values",
    "string_too_short": "expected a text that is not empty",
    "string_too_long": "expected a shorter text",
}
_NUMBERS = ("float_type", "int_type")


def _shown(given: Any) -> str:
    """A value as a person may recognise it in the file."""
    if given is None:
        return "nothing"
    if isinstance(given, dict):
        return "keys and values"
    if isinstance(given, list | tuple):
        return "a list"
    if isinstance(given, bool):
        return str(given).lower()
    text = repr(given) if isinstance(given, str) else str(given)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _number_hint(kind: str, given: Any) -> str:
    """YAML 1.1 reads ``1e-3`` and ``"5"`` as text: say so."""
    if kind not in _NUMBERS or not isinstance(given, str):
        return ""
    try:
        float(given)
    except ValueError:
        return ""
    return " YAML reads this as text: write it without quotes, and with a point before an exponent (1.0e-3)."


def _unknown_key(key: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches  # DAG files load no more modules than they need

    close = get_close_matches(key, known, n=1)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key; known here: {', '.join(known)}."


def _known_keys(schema: Any, place: Location) -> list[str]:
    """Return the keys allowed at *place*, found by walking the schema's fields."""
    for step in place:
        if _is_schema(schema):
            schema = schema.model_fields[step].annotation
        else:
            schema = get_args(schema)[1 if get_origin(schema) is dict else 0]
        if type(None) in get_args(schema):
            schema = get_args(schema)[0]
    return list(schema.model_fields)


def _is_schema(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
