"""Schemas of structured output: types through pydantic, JSON schemas through jsonschema."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anthropic
import orjson
import pydantic

from otel_bridge.errors import ConfigurationError, RequestsError

T = TypeVar("T")

_COMBINED = frozenset({"anyOf", "oneOf", "allOf"})
_VALUES = frozenset({"default", "const", "enum", "examples"})
"""Keywords whose values are no schemas."""


@dataclass(frozen=True, slots=True)
class Schema(Generic[T]):
    """A JSON schema by name, and how an answer's JSON becomes a value that conforms to it.

    `parse` raises ValueError with one line that says where the JSON does not conform.
    """

    name: str
    json: Mapping[str, Any]
    parse: Callable[[str | bytes], T]

    @property
    def native(self) -> dict[str, Any]:
        """The schema as `output_config.format` takes it, by the SDK's own rules.

        Raises RequestsError for one that the API cannot take; nothing was sent then.
        """
        place = next(_open_objects(self.json), None)
        if place is not None:
            raise RequestsError(
                f"the schema {self.name} cannot be used: {place or 'the answer'} is an object "
                "whose keys are not named, which structured outputs leave empty; name them, "
                "or use method='tool'"
            )
        try:
            return anthropic.transform_schema(dict(self.json))
        except (ValueError, TypeError, AttributeError) as error:
            raise RequestsError(f"the schema {self.name} cannot be used: {error}") from error

    @property
    def tool_input(self) -> dict[str, Any]:
        """The schema as a tool's `input_schema` takes it, which is an object at its root.

        Raises RequestsError for another.
        """
        root = dict(self.json)
        definition = str(root.get("$ref", "")).removeprefix("#/$defs/")
        if definition in root.get("$defs", {}):  # how pydantic writes a recursive model
            del root["$ref"]
            root = {**root["$defs"][definition], **root}
        if root.get("type") != "object" or not _COMBINED.isdisjoint(root):
            raise RequestsError(
                f"the schema {self.name} cannot be used with method='tool', whose answer is one "
                "object: make it a field of a model, or use method='native'"
            )
        return root


def _open_objects(node: Any, place: str = "") -> Iterator[str]:
    """Where a schema has objects whose keys it does not name."""
    if isinstance(node, Mapping):
        closed = "properties" in node or node.get("additionalProperties") is False
        if node.get("type") == "object" and not closed:
            yield place
        inner: Iterable[tuple[Any, Any]] = (
            (key, each) for key, each in node.items() if key not in _VALUES
        )
    elif isinstance(node, list):
        inner = enumerate(node)
    else:
        return
    for key, each in inner:
        yield from _open_objects(each, f"{place}.{key}" if place else str(key))


def schema_of(schema: type[T] | Mapping[str, Any]) -> Schema[Any]:
    """The schema of a pydantic model, a dataclass or another type, or of a JSON schema.

    Raises RequestsError for what has no schema, ConfigurationError when a JSON schema is given
    and `jsonschema`, which checks answers against it, is not installed.
    """
    if isinstance(schema, Mapping):
        return Schema(str(schema.get("title") or "answer"), schema, _json_schema_parser(schema))
    name = getattr(schema, "__name__", "answer")
    try:
        adapter = pydantic.TypeAdapter(schema)
        json = adapter.json_schema()
    except pydantic.errors.PydanticUserError as error:
        raise RequestsError(
            f"{schema!r} has no JSON schema ({error.message.splitlines()[0]}); "
            "pass a pydantic model, a dataclass or a JSON schema"
        ) from error

    def parse(text: str | bytes) -> Any:
        try:
            return adapter.validate_json(text)
        except pydantic.ValidationError as error:
            first, *others = error.errors(include_url=False, include_input=False)
            raise ValueError(_violation(first["loc"], first["msg"], len(others))) from None

    return Schema(name, json, parse)


def _json_schema_parser(schema: Mapping[str, Any]) -> Callable[[str | bytes], Any]:
    try:
        jsonschema: Any = importlib.import_module("jsonschema")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "checking answers against a JSON schema takes jsonschema; install it with "
            "pip install 'otel-bridge[jsonschema]', or pass a pydantic model or a dataclass"
        ) from error
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise RequestsError(
            f"the JSON schema is not one: {_violation(error.path, error.message, 0)}"
        ) from error
    validator = kind(schema)

    def parse(text: str | bytes) -> Any:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"not JSON: {error}") from None
        faults = list(validator.iter_errors(value))
        if faults:
            raise ValueError(_violation(faults[0].path, faults[0].message, len(faults) - 1))
        return value

    return parse


def _violation(path: Any, message: str, others: int) -> str:
    place = ".".join(map(str, path))
    more = f", and {others} more" if others else ""
    return f"{place}: {message}{more}" if place else f"{message}{more}"
