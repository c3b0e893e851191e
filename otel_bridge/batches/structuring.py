"""Running requests whose answers conform to a schema, sync and async."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, overload

from otel_bridge.batches.asking import Asking, AsyncAsking
from otel_bridge.batches.requests import Request
from otel_bridge.batches.results import BatchResults
from otel_bridge.batches.schemas import schema_of
from otel_bridge.batches.structured import Method, Plan, StructuredRequest, StructuredResults
from otel_bridge.telemetry import structured_span

T = TypeVar("T")


class Structuring(Asking, ABC):
    """Structured runs, over `anthropic.Anthropic`."""

    @abstractmethod
    def run(self, requests: Iterable[Request]) -> BatchResults:
        """Submit, wait and collect; the executor's."""

    @overload
    def run_structured(
        self,
        schema: type[T],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[T]: ...

    @overload
    def run_structured(
        self,
        schema: Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[Any]: ...

    def run_structured(
        self,
        schema: type[T] | Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[T]:
        """Run requests whose answers conform to a schema, under a span of their own.

        `schema` is a pydantic model, a dataclass or another type that pydantic knows, or a JSON
        schema, which takes the extra `jsonschema`. `method` "native" asks for structured outputs
        by `output_config.format`, "tool" for a forced tool call. `params` are further parameters
        of the Messages API for every request; a request that is given whole may have its own.

        Every request has a result; one without a value says why. Raises what `run` raises.
        """
        plan = Plan(
            schema_of(schema),
            requests,
            params={"model": model, "max_tokens": max_tokens, **params},
            system_prompt=system_prompt,
            method=method,
        )
        told = plan.begun()
        with structured_span(self.recorder, told):
            return plan.validated(self.run(plan.requests), told)


class AsyncStructuring(AsyncAsking, ABC):
    """Structured runs, over `anthropic.AsyncAnthropic`."""

    @abstractmethod
    async def run(self, requests: Iterable[Request]) -> BatchResults:
        """See Structuring.run."""

    @overload
    async def run_structured(
        self,
        schema: type[T],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[T]: ...

    @overload
    async def run_structured(
        self,
        schema: Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[Any]: ...

    async def run_structured(
        self,
        schema: type[T] | Mapping[str, Any],
        requests: Iterable[StructuredRequest | Request],
        *,
        model: str,
        max_tokens: int,
        system_prompt: str | None = None,
        method: Method = "native",
        **params: Any,
    ) -> StructuredResults[T]:
        """See BatchExecutor.run_structured."""
        plan = Plan(
            schema_of(schema),
            requests,
            params={"model": model, "max_tokens": max_tokens, **params},
            system_prompt=system_prompt,
            method=method,
        )
        told = plan.begun()
        with structured_span(self.recorder, told):
            results = await self.run(plan.requests)
            return await asyncio.to_thread(plan.validated, results, told)
