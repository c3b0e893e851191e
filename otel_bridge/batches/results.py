"""Results of a batch: read once, made into the SDK's types when someone asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from anthropic.types import ErrorResponse, Message
from anthropic.types.messages import MessageBatchIndividualResponse

from otel_bridge._core.json import as_object, as_text
from otel_bridge.domain.batch import ERRORED, OUTCOMES, UNKNOWN
from otel_bridge.domain.outcome import ResultOutcome
from otel_bridge.domain.pricing import Cost
from otel_bridge.domain.usage import TokenUsage


class BatchResult:
    """What became of one request."""

    def __init__(self, outcome: ResultOutcome, line: Mapping[str, Any], raw: bytes) -> None:
        self.raw = raw
        """The API's own line, without its end."""
        self._outcome = outcome
        self._line = line

    def __repr__(self) -> str:
        return f"BatchResult(custom_id={self.custom_id!r}, type={self.type!r})"

    @property
    def custom_id(self) -> str:
        """The request's id, one of ours where the API's line has none."""
        return self._outcome.custom_id

    @property
    def type(self) -> str:
        """`succeeded`, `errored`, `canceled`, `expired`, or what the API says that is newer.

        `unknown` where it says none of these.
        """
        kind = self._outcome.kind
        if kind != UNKNOWN:
            return kind
        newer = as_text(self._result.get("type"))
        return newer if newer and newer not in OUTCOMES else kind

    @property
    def succeeded(self) -> bool:
        """Whether there is a message."""
        return self._outcome.succeeded

    @cached_property
    def message(self) -> Message | None:
        """The answer as the SDK's type, None where there is none."""
        message = self._outcome.message
        return None if message is None else Message.construct(**message)

    @cached_property
    def error(self) -> ErrorResponse | None:
        """The API's error of an errored request as the SDK's type."""
        error = as_object(self._result.get("error"))
        return ErrorResponse.construct(**error) if error else None

    @property
    def error_type(self) -> str | None:
        """The type of the API's error, None unless the request errored."""
        return self._outcome.error_type if self._outcome.kind == ERRORED else None

    @property
    def error_message(self) -> str | None:
        """The message of the API's error, which may quote the request; None where it has none."""
        return self._outcome.error_message

    @property
    def usage(self) -> TokenUsage:
        """The request's tokens; none unless it succeeded."""
        return self._outcome.usage

    @property
    def cost(self) -> Cost | None:
        """What the request cost in USD, nothing unless it succeeded; None for an unknown price."""
        return self._outcome.cost

    def to_dict(self) -> Mapping[str, Any]:
        """The API's line, decoded; not a copy. With a custom id of ours where it has none."""
        return self._line

    def to_sdk(self) -> MessageBatchIndividualResponse:
        """The whole result as `client.messages.batches.results()` gives it."""
        return MessageBatchIndividualResponse.construct(**self._line)

    @property
    def _result(self) -> Mapping[str, Any]:
        return as_object(self._line.get("result"))


R = TypeVar("R")


class ById(Mapping[str, R]):
    """Results of a run by custom id."""

    def __init__(self, results: Mapping[str, R], batch_ids: tuple[str, ...]) -> None:
        self._results = results
        self.batch_ids = batch_ids

    def __getitem__(self, custom_id: str) -> R:
        return self._results[custom_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)


class BatchResults(ById[BatchResult]):
    """All results of a run by custom id."""

    def __init__(
        self,
        results: Mapping[str, BatchResult],
        batch_ids: tuple[str, ...],
        unsubmitted: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(results, batch_ids)
        self.unsubmitted = tuple(unsubmitted)
        """Requests that are in no batch, since a later one of several could not be created."""

    @property
    def succeeded(self) -> dict[str, BatchResult]:
        """The results that have a message."""
        return {key: result for key, result in self.items() if result.succeeded}

    @property
    def failed(self) -> dict[str, BatchResult]:
        """The results that have none."""
        return {key: result for key, result in self.items() if not result.succeeded}
