"""What a test knows to be there, where its type says that it may not be."""

from __future__ import annotations

from typing import TypeVar

Value = TypeVar("Value")


def present(value: Value | None) -> Value:
    """The value; fails where there is none."""
    assert value is not None
    return value
