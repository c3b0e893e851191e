"""Marks the clients that this package made, so that the instrumentation ignores them."""

from __future__ import annotations

from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")

_clients: WeakSet[Any] = WeakSet()


def mark_own_client(client: T) -> T:
    """The client, marked as one of ours; copies of it are not."""
    _clients.add(client)
    return client


def is_own_client(client: Any) -> bool:
    """Whether a client was marked."""
    return client in _clients
