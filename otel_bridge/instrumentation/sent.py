"""What telemetry needs of a batch's requests, noted while they are sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

Params = Mapping[str, Any]

_KEPT = ("model", "max_tokens", "temperature", "top_k", "top_p")


class Sent:
    """The requests of one `create`; `whole` keeps their `params` as they are, for their content.

    Otherwise only what was asked for is kept, once for all requests that ask for the same.
    """

    def __init__(self, *, whole: bool) -> None:
        self.params: dict[str, Params] = {}
        """By custom id."""
        self._whole = whole
        self._shared: dict[str, Params] = {}
        self._again: Iterable[Any] = ()

    def through(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments to go on with: what can be read but once is noted as it goes."""
        requests = arguments.get("requests")
        if isinstance(requests, list | tuple):
            self._again = requests
        elif isinstance(requests, Iterable) and not isinstance(requests, Mapping | str | bytes):
            return {**arguments, "requests": self._noting(requests)}
        return dict(arguments)

    def done(self) -> None:
        """They were sent."""
        for request in self._again:
            self._note(request)
        self._again = ()
        self._shared = {}

    @property
    def models(self) -> tuple[str, ...]:
        """The models that were asked for."""
        return tuple(
            sorted({str(each["model"]) for each in self.params.values() if "model" in each})
        )

    def _noting(self, requests: Iterable[Any]) -> Iterator[Any]:
        for request in requests:
            self._note(request)
            yield request

    def _note(self, request: Any) -> None:
        # Amid the caller's own iteration, or the SDK's: whatever a request is, it is still sent.
        with contextlib.suppress(Exception):
            self._keep(request)

    def _keep(self, request: Any) -> None:
        params = request.get("params") if isinstance(request, Mapping) else None
        if not isinstance(params, Mapping):
            return  # the API will say what it thinks of it
        if not self._whole:
            kept = {name: params[name] for name in _KEPT if name in params}
            params = self._shared.setdefault(repr(kept), kept)
        self.params[str(request.get("custom_id"))] = params
