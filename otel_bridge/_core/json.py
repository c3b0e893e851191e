"""Decoded JSON of unknown shape: a value of another type than is asked for counts as absent."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import orjson

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY
_64_BITS = range(-(2**63), 2**64)
_DEEPEST = 200
_MOST = sys.float_info.max


def as_object(value: Any) -> Mapping[str, Any]:
    """An object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of an array, none for anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str | None:
    """A text that is not empty, None for anything else."""
    return value if isinstance(value, str) and value else None


def as_number(value: Any) -> float | None:
    """A finite number that is not negative, None for anything else."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return value if numeric and 0 <= value <= _MOST else None


def dumps(value: Any) -> bytes:
    """Encode whatever a span or a run holds as JSON.

    What JSON or its readers do not take is replaced: an unpaired surrogate by U+FFFD, an integer
    beyond 64 bits by its digits, what is nested too deep and any other object by its `str`.
    """
    if value == {}:
        return b"{}"
    try:
        return orjson.dumps(value, default=str, option=_OPTIONS)
    except TypeError:
        return orjson.dumps(_plain(value, 0), option=_OPTIONS)


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value in _64_BITS:
        return int(value)
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {_text(name): _plain(each, depth + 1) for name, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_plain(each, depth + 1) for each in value]
    return _text(value)


def _text(value: Any) -> str:
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - whatever an object's own code raises
        text = f"{type(value).__name__} that cannot be shown ({type(error).__name__})"
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
