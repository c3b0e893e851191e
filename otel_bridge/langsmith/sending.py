"""Posting bodies to LangSmith, and what its answers mean."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from langsmith import Client
from langsmith import utils as ls_utils

from otel_bridge._core.json import as_object
from otel_bridge.langsmith.connecting import FAULTS, answer_to, reason_of, request
from otel_bridge.langsmith.multipart import Body

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why LangSmith did not take a body; `pause` in seconds when it may do so later.

    `asked` tells that LangSmith asked for the pause itself.
    """

    reason: str
    status: int | None
    pause: float | None = None
    asked: bool = False


class Sender:
    """Posts bodies through a client, one at a time; a body that cannot be taken now backs off."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._zstd: bool | None = None
        self._pause = 0.0

    def after_fork(self) -> None:
        """The connection is the parent's."""
        self._zstd, self._pause = None, 0.0
        session = self._client.session
        for prefix, adapter in session.adapters.items():
            session.adapters[prefix] = copy.copy(adapter)  # with a connection pool of its own

    @property
    def failing(self) -> bool:
        """Whether LangSmith took nothing when it was asked last."""
        return self._pause > 0

    def send(self, body: Body) -> Refusal | None:
        """Why the body was not taken, None when it was. A conflict is a repeat, which was."""
        try:
            body = body if self._takes_zstd() else body.uncompressed()
            request(self._client, "POST", "/runs/multipart", data=body.data, headers=body.headers)
        except ls_utils.LangSmithConflictError:
            pass
        except FAULTS as error:
            return self._refusal(error)
        self._pause = 0.0
        return None

    def _takes_zstd(self) -> bool:
        if self._zstd is None:
            try:
                info = request(self._client, "GET", "/info")
            except FAULTS as error:
                response = answer_to(error)
                if response is None or _is_transient(response.status_code):
                    raise
                info = {}
            flags = as_object(as_object(info).get("instance_flags"))
            self._zstd = bool(flags.get("zstd_compression_enabled"))
        return self._zstd

    def _refusal(self, error: Exception) -> Refusal:
        response = answer_to(error)
        status = response.status_code if response is not None else None
        if status is not None and not _is_transient(status):
            self._pause = 0.0  # it answers
            return Refusal(reason_of(error), status)
        self._pause = min(max(self._pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        if asked.isdecimal():
            return Refusal(reason_of(error), status, max(self._pause, float(asked)), asked=True)
        return Refusal(reason_of(error), status, self._pause)


def _is_transient(status: int) -> bool:
    # A success that raised, or a redirect, is not LangSmith's answer.
    return status < 400 or status in (408, 425, 429) or status >= 500
