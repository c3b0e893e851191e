"""The Message Batches API on loopback, and the Messages API beside it.

Source: https://docs.anthropic.com/en/api/creating-message-batches and its neighbours.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson

from otel_bridge.simulator import messages
from otel_bridge.simulator.answers import OUTCOMES, Responder, result_of, truth_of
from otel_bridge.simulator.checks import (
    MAX_BYTES,
    RefusedError,
    check_key,
    check_requests,
    page_limit,
    refusal,
)
from otel_bridge.simulator.server import LoopbackServer, Request, Response

PATH = "/v1/messages/batches"
_LIFE = timedelta(hours=24)
_LINES_PER_CHUNK = 200


@dataclass(slots=True)
class _Batch:
    id: str
    requests: Sequence[Mapping[str, Any]]
    created_at: datetime
    ends_at: datetime
    cancel_initiated_at: datetime | None = None
    answered_before_cancel: float = 1.0
    archived_at: datetime | None = None
    results: list[dict[str, Any]] | None = field(default=None, repr=False)

    def status(self, now: datetime) -> str:
        if now >= self.ends_at:
            return "ended"
        return "canceling" if self.cancel_initiated_at else "in_progress"


class MessageBatchesServer(LoopbackServer):
    """Message Batches on loopback; a batch ends `batch_seconds` after its creation.

    Results are a function of `seed` and custom ids; `responder` may change each one: it gets the
    request and its result. `api_key` is the only key that is taken, any by default. `latency` in
    seconds comes before every answer. Single requests, `POST /v1/messages`, are answered, too, and
    tokens counted.
    """

    def __init__(
        self,
        *,
        batch_seconds: float = 0.0,
        seed: int = 0,
        latency: float = 0.0,
        api_key: str | None = None,
        responder: Responder | None = None,
    ) -> None:
        super().__init__(latency=latency)
        self.batch_seconds = batch_seconds
        self.seed = seed
        self.api_key = api_key
        self.responder = responder
        self.canceling_seconds = 0.2
        """How long a batch is `canceling` before it ends."""
        self.answered_before_cancel: float | None = None
        """Share, from 0 to 1, of a batch's requests that were answered when it was canceled.

        By default it is the share of the batch's time that had passed.
        """
        self._batches: dict[str, _Batch] = {}
        self.results_host: str | None = None
        """Another base URL that `results_url` points at, as behind a gateway."""
        self.messages: list[dict[str, Any]] = []
        """The messages that single requests were answered with, whole or streamed."""
        self._dice = random.Random()

    @property
    def batch_ids(self) -> list[str]:
        """Ids of all batches, the oldest first."""
        return list(self._batches)

    def add_batch(
        self,
        requests: Sequence[Mapping[str, Any]],
        *,
        batch_id: str | None = None,
        created_at: datetime | None = None,
        seconds: float | None = None,
    ) -> str:
        """Have a batch that no client created here; returns its id."""
        created = created_at or self.now()
        batch_id = batch_id or f"msgbatch_{self._dice.getrandbits(96):024x}"
        life = timedelta(seconds=self.batch_seconds if seconds is None else seconds)
        self._batches[batch_id] = _Batch(batch_id, requests, created, created + life)
        return batch_id

    def end(self, batch_id: str) -> None:
        """End a batch now."""
        batch = self._batches[batch_id]
        batch.ends_at = min(batch.ends_at, self.now())

    def archive(self, batch_id: str) -> None:
        """Have a batch that ended be too old: it is described, and its results are gone."""
        self._batches[batch_id].archived_at = self.now()

    def results(self, batch_id: str) -> list[dict[str, Any]]:
        """The lines of a batch's results, shuffled as the API gives them."""
        batch = self._batches[batch_id]
        with self._lock:
            if batch.results is None:
                batch.results = [self._result(batch, request) for request in batch.requests]
                random.Random(batch_id).shuffle(batch.results)
            return batch.results

    def replace_results(self, batch_id: str, lines: list[Any]) -> None:
        """Have the API give other lines: repeats, strangers, unknown types, fewer, any JSON."""
        self._batches[batch_id].results = lines

    def truth(self, batch_id: str) -> dict[str, int]:
        """Requests by outcome and tokens by type, named as in the API's usage."""
        return truth_of(self.results(batch_id))

    def answer(self, request: Request) -> Response:
        request_id = f"req_{self._dice.getrandbits(96):024x}"
        try:
            check_key(request.headers, self.api_key)
            response = self._route(request)
        except RefusedError as error:
            return refusal(error.status, str(error), request_id)
        return Response(
            response.status, response.body, {"request-id": request_id, **response.headers}
        )

    def error(self, status: int) -> Response:
        return refusal(status, f"simulated {status}", "req_simulated")

    def _route(self, request: Request) -> Response:
        if (request.method, request.path) == ("POST", messages.PATH):
            response, message = messages.answer_to(request, self.seed)
            self.messages.append(message)
            return response
        if (request.method, request.path) == ("POST", messages.COUNT_PATH):
            return messages.token_count(request)
        if not request.path.startswith(PATH):
            raise RefusedError(404, f"Not found: {request.path}")
        parts = request.path.removeprefix(PATH).strip("/").split("/")
        match request.method, parts:
            case "POST", [""]:
                return self._create(request)
            case "GET", [""]:
                return self._list(request.query)
            case "GET", [batch_id]:
                return Response.of_json(self._describe(self._known(batch_id)))
            case "POST", [batch_id, "cancel"]:
                return self._cancel(self._known(batch_id))
            case "DELETE", [batch_id]:
                return self._delete(self._known(batch_id))
            case "GET", [batch_id, "results"]:
                return self._results(self._known(batch_id))
        raise RefusedError(404, f"Not found: {request.method} {request.path}")

    def _known(self, batch_id: str) -> _Batch:
        batch = self._batches.get(batch_id)
        if batch is None:
            raise RefusedError(404, f"No such message batch: {batch_id}")
        return batch

    def _has_ended(self, batch: _Batch) -> bool:
        return batch.status(self.now()) == "ended"

    def _create(self, request: Request) -> Response:
        if len(request.body) > MAX_BYTES:
            raise RefusedError(413, "Request exceeds the maximum size of 256 MB")
        try:
            requests = request.json()["requests"]
        except (ValueError, KeyError, TypeError):
            raise RefusedError(400, "requests: Field required") from None
        check_requests(requests)
        return Response.of_json(self._describe(self._batches[self.add_batch(requests)]))

    def _list(self, query: Mapping[str, str]) -> Response:
        newest = list(reversed(self._batches))
        limit = page_limit(query)
        after, before = query.get("after_id"), query.get("before_id")
        if after in newest:
            newest = newest[newest.index(after) + 1 :]
        if before in newest:
            newest = newest[: newest.index(before)]
        # Going back, a page holds the neighbours of `before_id` and not the newest of all.
        page = newest[-limit:] if before and not after else newest[:limit]
        return Response.of_json(
            {
                "data": [self._describe(self._batches[batch_id]) for batch_id in page],
                "has_more": len(newest) > limit,
                "first_id": page[0] if page else None,
                "last_id": page[-1] if page else None,
            }
        )

    def _cancel(self, batch: _Batch) -> Response:
        if self._has_ended(batch):
            raise RefusedError(400, "Message Batch has already ended")
        if batch.cancel_initiated_at is None:
            now = self.now()
            batch.cancel_initiated_at = now
            passed = (now - batch.created_at) / (batch.ends_at - batch.created_at)
            share = self.answered_before_cancel
            batch.answered_before_cancel = passed if share is None else share
            batch.ends_at = min(batch.ends_at, now + timedelta(seconds=self.canceling_seconds))
        return Response.of_json(self._describe(batch))

    def _delete(self, batch: _Batch) -> Response:
        if not self._has_ended(batch):
            raise RefusedError(400, "Message Batches can only be deleted once they have ended")
        del self._batches[batch.id]
        return Response.of_json({"id": batch.id, "type": "message_batch_deleted"})

    def _results(self, batch: _Batch) -> Response:
        if not self._has_ended(batch):
            raise RefusedError(404, f"Message Batch {batch.id} has no results yet")
        if batch.archived_at:
            raise RefusedError(404, f"Message Batch {batch.id} is archived")
        return Response(
            200, _streamed(self.results(batch.id)), {"content-type": "application/x-jsonl"}
        )

    def _result(self, batch: _Batch, request: Mapping[str, Any]) -> dict[str, Any]:
        custom_id = request["custom_id"]
        result = result_of(custom_id, request["params"], self.seed)
        finished = random.Random(f"{batch.id} {custom_id}").random()
        if batch.cancel_initiated_at and finished >= batch.answered_before_cancel:
            result = {"type": "canceled"}
        if self.responder is not None:
            result = self.responder(request, result)
        return {"custom_id": custom_id, "result": result}

    def _describe(self, batch: _Batch) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", *OUTCOMES), 0)
        status = batch.status(self.now())  # once: the batch may end while it is described
        ended = status == "ended"
        if ended:
            kinds = list(map(_kind, self.results(batch.id)))
            counts |= {kind: kinds.count(kind) for kind in OUTCOMES}
            # What no line tells of, or one of a type the API never documented, did succeed.
            counts["succeeded"] += max(len(batch.requests) - sum(counts.values()), 0)
        else:
            counts["processing"] = len(batch.requests)
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": counts,
            "created_at": _timestamp(batch.created_at),
            "ended_at": _timestamp(batch.ends_at) if ended else None,
            "expires_at": _timestamp(batch.created_at + _LIFE),
            "archived_at": _timestamp(batch.archived_at),
            "cancel_initiated_at": _timestamp(batch.cancel_initiated_at),
            "results_url": f"{self.results_host or self.url}{PATH}/{batch.id}/results"
            if ended and not batch.archived_at
            else None,
        }


def _kind(line: Any) -> Any:
    result = line.get("result") if isinstance(line, dict) else None
    return result.get("type") if isinstance(result, dict) else None


def _streamed(lines: Sequence[dict[str, Any]]) -> Iterable[bytes]:
    def chunks() -> Iterator[bytes]:
        for start in range(0, len(lines), _LINES_PER_CHUNK):
            yield b"".join(
                orjson.dumps(line) + b"\n" for line in lines[start : start + _LINES_PER_CHUNK]
            )

    return chunks()


def _timestamp(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z") if moment else None
