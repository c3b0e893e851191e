"""Results of a batch: read once, made into the SDK's types when someone asks."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, reduce
from operator import add
from typing import Any, Protocol, TypeVar

from anthropic.types import ErrorResponse, Message
from anthropic.types.messages import MessageBatchIndividualResponse

from otel_bridge._core.json import as_object, as_objects, as_text
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
        return (
            f"BatchResult(custom_id={self.custom_id!r}, type={self.type!r}, "
            f"{_figures(self.usage, self.cost)})"
        )

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


class _Billed(Protocol):
    @property
    def usage(self) -> TokenUsage: ...

    @property
    def cost(self) -> Cost | None: ...


R = TypeVar("R", bound=_Billed)


class ResultMapping(Mapping[str, R]):
    """Results of a run by custom id, and what they come to."""

    def __init__(self, results: Mapping[str, R], batch_ids: tuple[str, ...]) -> None:
        self._results = results
        self.batch_ids = batch_ids

    def __getitem__(self, custom_id: str) -> R:
        return self._results[custom_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        outcomes = "".join(f", {count} {kind}" for kind, count in self.outcomes.items())
        figures = _figures(self.usage, self.cost)
        return f"{type(self).__name__}({len(self)} results{outcomes}, {figures})"

    @property
    def usage(self) -> TokenUsage:
        """Tokens of all requests."""
        return reduce(add, (each.usage for each in self.values()), TokenUsage())

    @property
    def cost(self) -> Cost | None:
        """Cost of all requests in USD, None when one has no known price."""
        costs = [each.cost for each in self.values()]
        priced = [cost for cost in costs if cost is not None]
        return reduce(add, priced, Cost()) if len(priced) == len(costs) else None

    @property
    @abstractmethod
    def outcomes(self) -> dict[str, int]:
        """Number of requests by outcome."""


class BatchResults(ResultMapping[BatchResult]):
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
    def outcomes(self) -> dict[str, int]:
        """Number of requests by the type of their result."""
        return dict(Counter(each.type for each in self.values()))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat, JSON-ready dict for each result, for instance for `pandas.DataFrame`.

        Its keys are `custom_id`, `type`, `error_type`, `model`, `stop_reason`, `text`, the fields
        of TokenUsage and `cost_usd`. What a result does not have is None.
        """
        return [flat(each) for each in self.values()]

    @property
    def succeeded(self) -> dict[str, BatchResult]:
        """The results that have a message."""
        return {key: result for key, result in self.items() if result.succeeded}

    @property
    def failed(self) -> dict[str, BatchResult]:
        """The results that have none."""
        return {key: result for key, result in self.items() if not result.succeeded}


def flat(result: BatchResult) -> dict[str, Any]:
    """A result as one row of a table; see `BatchResults.to_dicts`."""
    message = result.to_dict()["result"]["message"] if result.succeeded else {}
    texts = [
        as_text(block.get("text")) or ""
        for block in as_objects(message.get("content"))
        if block.get("type") == "text"
    ]
    return {
        "custom_id": result.custom_id,
        "type": result.type,
        "error_type": result.error_type,
        "model": as_text(message.get("model")),
        "stop_reason": as_text(message.get("stop_reason")),
        "text": "".join(texts) if message else None,
        **asdict(result.usage),
        "cost_usd": result.cost.total_cost if result.cost is not None else None,
    }


def _figures(usage: TokenUsage, cost: Cost | None) -> str:
    money = "price unknown" if cost is None else f"${cost.total_cost:,.6f}"
    return f"{usage.total_input_tokens:,} in, {usage.output_tokens:,} out, {money}"
