"""Decoded JSON of which nothing is sure: what is not of the kind that is asked for is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def as_object(value: Any) -> Mapping[str, Any]:
    """An object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of an array, none for anything else."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str | None:
    """A text that is not empty, None for anything else."""
    return value if isinstance(value, str) and value else None
