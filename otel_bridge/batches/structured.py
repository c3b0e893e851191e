"""Structured output: prompts and a schema in, validated values or a reason out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import orjson

from otel_bridge._core.json import as_object, as_objects, as_text
from otel_bridge.batches.flows import Flow
from otel_bridge.batches.results import BatchResult, BatchResults, ResultMapping
from otel_bridge.batches.run import run_all
from otel_bridge.batches.schemas import schema_of
from otel_bridge.domain.batch import ERRORED
from otel_bridge.domain.pricing import Cost
from otel_bridge.domain.requests import Request, models_of, validate_requests
from otel_bridge.domain.usage import TokenUsage
from otel_bridge.errors import RequestsError
from otel_bridge.telemetry import VALID, Structured, structured_span

if TYPE_CHECKING:
    from otel_bridge.batches.engine import Engine

T = TypeVar("T")
StructuredMethod = Literal["native", "tool"]

_TOOL_NAME = "answer"
_CUT = ("max_tokens", "model_context_window_exceeded")


@dataclass(frozen=True, slots=True)
class StructuredRequest:
    """A request given as prompts; `system_prompt` takes the place of the call's."""

    custom_id: str
    user_prompt: str
    system_prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request has no value.

    `kind` is `refusal`, `truncated`, `schema_violation`, `errored`, `expired`, `canceled`,
    `unknown` (a result of a type that the API never documented) or `missing` (no result at all);
    `message` says more, in one line.
    """

    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True, slots=True)
class StructuredResult(Generic[T]):
    """What became of one request: `value`, or `error`. An answer that failed is billed, too."""

    custom_id: str
    value: T | None
    error: Failure | None
    result: BatchResult | None
    """What the API said, None where no result was read."""

    @property
    def usage(self) -> TokenUsage:
        """The request's tokens."""
        return self.result.usage if self.result else TokenUsage()

    @property
    def cost(self) -> Cost | None:
        """What the request cost in USD, None for a model without a known price."""
        return self.result.cost if self.result else Cost()


class StructuredResults(ResultMapping[StructuredResult[T]]):
    """All results by custom id, each request with one."""

    @property
    def values_by_id(self) -> dict[str, T]:
        """The validated values."""
        return {key: cast("T", each.value) for key, each in self.items() if each.error is None}

    @property
    def failed(self) -> dict[str, StructuredResult[T]]:
        """The results that have no value."""
        return {key: each for key, each in self.items() if each.error is not None}

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of requests by `valid` or the kind of their failure."""
        return dict(Counter(each.error.kind if each.error else VALID for each in self.values()))


class Plan(Generic[T]):
    """The requests of one structured run, and the reading of their results.

    `params` are further parameters of the Messages API for every request; a request given whole
    may have its own. Raises RequestsError before anything is sent.
    """

    def __init__(
        self,
        schema: type[T] | Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        params: Mapping[str, Any],
        system_prompt: str | None,
        method: StructuredMethod,
    ) -> None:
        if method not in ("native", "tool"):
            raise RequestsError(f"method={method!r} cannot be used; use 'native' or 'tool'")
        self._schema = schema_of(schema)
        self.schema_name = self._schema.name
        self._tool = self._tool_name(params) if method == "tool" else None
        own = self._schema
        self._schema_sent = own.native if method == "native" else own.tool_input
        self._params = params
        self._system_prompt = system_prompt
        self.requests = validate_requests(self._complete(each) for each in requests)
        self.models = models_of(self.requests)

    @staticmethod
    def _tool_name(params: Mapping[str, Any]) -> str:
        taken = {tool.get("name") for tool in params.get("tools") or ()}
        name = _TOOL_NAME
        while name in taken:
            name += "_"
        return name

    def _complete(self, request: StructuredRequest | Request) -> Any:
        if isinstance(request, StructuredRequest):
            custom_id: Any = request.custom_id
            own: dict[str, Any] = {"messages": [{"role": "user", "content": request.user_prompt}]}
            if request.system_prompt is not None:
                own["system"] = request.system_prompt
        elif isinstance(request, Mapping) and isinstance(request.get("params"), Mapping):
            custom_id, own = request.get("custom_id"), dict(request["params"])
        else:
            return request  # what is wrong with it is said where all requests are checked
        default = {} if self._system_prompt is None else {"system": self._system_prompt}
        return {
            "custom_id": custom_id,
            "params": self._with_schema({**default, **self._params, **own}),
        }

    def _with_schema(self, params: dict[str, Any]) -> dict[str, Any]:
        if self._tool is None:
            output = {"type": "json_schema", "schema": self._schema_sent}
            config = params.get("output_config") or {}
            return params | {"output_config": {**config, "format": output}}
        tool = {
            "name": self._tool,
            "description": f"Give the answer as {self._schema.name}.",
            "input_schema": self._schema_sent,
        }
        return params | {
            "tools": [*(params.get("tools") or ()), tool],
            "tool_choice": {"type": "tool", "name": self._tool, "disable_parallel_tool_use": True},
        }

    def validated(self, results: BatchResults) -> StructuredResults[T]:
        """Each request's value or failure."""
        by_id = {
            request["custom_id"]: self._validate(
                request["custom_id"], results.get(request["custom_id"])
            )
            for request in self.requests
        }
        return StructuredResults(by_id, results.batch_ids)

    def _validate(self, custom_id: str, result: BatchResult | None) -> StructuredResult[T]:
        if result is None:
            missing = Failure("missing", "the API gave no result for it, or it is in no batch")
            return StructuredResult(custom_id, None, missing, None)
        failure = _failure(result)
        value = None
        if failure is None:
            try:
                value = self._schema.parse(self._answer(result))
            except ValueError as error:
                failure = Failure("schema_violation", str(error))
            except Exception as error:  # noqa: BLE001 - a validator's fault must lose no result
                message = f"validating it raised {type(error).__name__}: {error}"
                failure = Failure("schema_violation", message)
        return StructuredResult(custom_id, value, failure, result)

    def _answer(self, result: BatchResult) -> str | bytes:
        message = result.to_dict()["result"]["message"]
        blocks = as_objects(message.get("content"))
        if self._tool is None:
            texts = (as_text(each.get("text")) for each in blocks if each.get("type") == "text")
            return "".join(filter(None, texts))
        for each in blocks:
            if each.get("type") == "tool_use" and each.get("name") == self._tool:
                return orjson.dumps(each.get("input"))
        raise ValueError(f"the answer does not call the tool {self._tool!r}")


def _failure(result: BatchResult) -> Failure | None:
    """Why there is no answer to validate, None when there is one."""
    if not result.succeeded:
        if result.type == ERRORED:
            error = (result.error_type, result.error_message)
            return Failure(ERRORED, ": ".join(filter(None, error)))
        messages = {
            "expired": "the batch expired before the request was sent to a model",
            "canceled": "the batch was canceled before the request was sent to a model",
        }
        message = messages.get(result.type)
        if message is None:
            return Failure("unknown", f"the API gave a result of type {result.type!r}")
        return Failure(result.type, message)
    answer = result.to_dict()["result"]["message"]
    stop = answer.get("stop_reason")
    if stop == "refusal":
        why = as_text(as_object(answer.get("stop_details")).get("explanation"))
        return Failure("refusal", why or "the model refused to answer")
    if stop in _CUT:
        tokens = result.usage.output_tokens
        return Failure("truncated", f"the answer was cut after {tokens} tokens ({stop})")
    return None


def run_structured(engine: Engine, plan: Plan[T]) -> Flow[StructuredResults[T]]:
    """Run a plan's requests under a span of their own, and validate their answers."""
    requests = plan.requests
    with structured_span(engine.recorder, plan.schema_name, plan.models, len(requests)) as finish:
        results = yield from run_all(engine, requests, new=False)
        validated = yield from engine.api.io.run_in_thread(partial(plan.validated, results))
        finish(Structured(validated.batch_ids, validated.outcomes, validated.usage, validated.cost))
        return validated
