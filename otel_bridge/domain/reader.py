"""A batch's results as they are read: bytes to lines, lines to results, each counted once."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from otel_bridge._core.json import as_object, as_text
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.outcome import ResultOutcome

Params = Mapping[str, Any]

_NAMELESS = "line "
"""With a space, which the API allows in no custom id."""


class LineBuffer:
    """Splits chunks of bytes into lines; a line takes time in proportion to its length."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that end in a chunk, without their line ends."""
        self._pieces.append(chunk)
        if b"\n" not in chunk:
            return []
        *lines, rest = b"".join(self._pieces).split(b"\n")
        self._pieces = [rest]
        return lines

    def rest(self) -> bytes:
        """The bytes after the last line end."""
        return b"".join(self._pieces)


@dataclass(slots=True)
class ReadResult:
    """One line of the results as a pass read it."""

    outcome: ResultOutcome
    """What became of the request. A line without a custom id has one of ours."""
    line: Mapping[str, Any]
    """The decoded line, with that custom id."""
    params: Params | None
    """The request's parameters, None where they are not known."""
    requested: bool
    """Whether the request was submitted, as far as that is known."""
    earlier_pass: int
    """Number of the pass that read a result of this request before, 0 for none."""


class ResultTracker:
    """Knows the requests of a batch, and the pass that read each one's result last.

    `params` are the requests' parameters by custom id as far as they are known; they are those of
    all requests unless `complete` is False. `models` are the models that were asked for. A tracker
    grows by about 120 bytes a request, and by nothing else.
    """

    def __init__(
        self,
        batch: BatchInfo,
        params: Mapping[str, Params],
        models: Collection[str] = (),
        *,
        complete: bool = True,
    ) -> None:
        self.passes = 0
        """Number of passes that began."""
        self.unrecorded: deque[ReadResult] = deque()
        """Results that the caller has and that are not recorded yet."""
        self._batch = batch
        self._params = params
        self._model = next(iter(models)) if len(models) == 1 else ""
        self._expected: Collection[str] = params if complete else ()
        self._last_pass: dict[str, int] = {}
        self._unrequested = 0

    def add(self, line: Mapping[str, Any], number: int) -> ReadResult:
        """Read a decoded line that pass `number` came upon, and count it."""
        custom_id = line["custom_id"]
        earlier = self._last_pass.get(custom_id, 0)
        self._last_pass[custom_id] = number
        requested = self._is_requested(custom_id)
        self._unrequested += not (earlier or requested)
        params = self._params.get(custom_id)
        model = as_text(params.get("model")) if params else None
        outcome = ResultOutcome.from_line(line, model or self._model, self._batch.created_at)
        return ReadResult(outcome, line, params, requested, earlier)

    def _is_requested(self, custom_id: str) -> bool:
        # A line without a custom id may be the result of any request.
        return not self._expected or custom_id in self._expected or custom_id.startswith(_NAMELESS)

    @property
    def missing(self) -> int:
        """Number of requests without a result so far."""
        known = len(self._last_pass) - self._unrequested
        return max(self._batch.request_count - known, 0)


class ReadPass:
    """One pass through a batch's results, line by line."""

    def __init__(self, tracker: ResultTracker) -> None:
        tracker.passes += 1
        self.tracker = tracker
        self.number = tracker.passes
        """Number of the pass, from 1."""
        self.duplicates = 0
        """Number of lines so far that repeat a custom id."""
        self._nameless: Counter[str] = Counter()

    def parse(self, raw: bytes) -> ReadResult | None:
        """Read a line, whatever JSON it is; None for a blank one.

        Raises ValueError for a line that is no JSON, as where a stream was cut.
        """
        if not raw.strip():
            return None
        line = as_object(orjson.loads(raw))
        if as_text(line.get("custom_id")) is None:
            line = {**line, "custom_id": self._name(raw)}
        result = self.tracker.add(line, self.number)
        self.duplicates += result.earlier_pass == self.number
        return result

    def _name(self, raw: bytes) -> str:
        # By what the line holds, so that a later pass gives it the same name in whatever order.
        digest = hashlib.sha256(raw.strip()).hexdigest()[:16]
        self._nameless[digest] += 1
        return f"{_NAMELESS}{digest} {self._nameless[digest]}"
