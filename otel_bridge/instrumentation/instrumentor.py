"""The instrumentor, for `opentelemetry-instrument` and for `otel_bridge.instrument()`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection
from types import ModuleType
from typing import TYPE_CHECKING, Any

import wrapt
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]  # untyped
    BaseInstrumentor,
)
from opentelemetry.instrumentation.utils import unwrap

from otel_bridge.config import Settings
from otel_bridge.instrumentation.calls import async_calls, sync_calls

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.instrumentation.tracker import BatchTracker
    from otel_bridge.langsmith import LangSmithSpanProcessor

logger = logging.getLogger(__name__)

_MODULES = ("anthropic.resources.messages.batches", "anthropic.resources.beta.messages.batches")
_METHODS = ("create", "retrieve", "cancel", "results")


class AnthropicBatchesInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Watches `client.messages.batches` and its beta twin, sync and async, whoever calls them.

    It patches the anthropic SDK when that is imported, and imports nothing before: a process
    that does not use the SDK pays nothing.
    """

    _settings: Settings
    _tracer_provider: TracerProvider | None
    _meter_provider: MeterProvider | None
    _tracker: BatchTracker | None = None
    _active = False
    _patched: set[str]
    _lock = threading.Lock()

    def instrumentation_dependencies(self) -> Collection[str]:
        """The SDK whose batches are tracked."""
        return ("anthropic >= 2.12, < 3",)

    def _instrument(self, **kwargs: Any) -> None:
        self._settings = kwargs.get("settings") or Settings.from_env()
        self._tracer_provider = kwargs.get("tracer_provider")
        self._meter_provider = kwargs.get("meter_provider")
        self._patched = set()
        if self._settings.sdk_disabled:
            return
        self._active = True
        provider = self._provider()
        if provider is not None:
            self._mirror(provider)
        elif self._settings.langsmith_tracing:
            logger.warning(
                "There is no tracer provider yet; for all spans to be mirrored to LangSmith, call "
                "otel_bridge.instrument() after it is set"
            )
        for name in _MODULES:
            wrapt.register_post_import_hook(self._patch, name)

    def _uninstrument(self, **_: Any) -> None:
        self._active = False
        self._tracker = None
        for name in self._patched:
            for resource in ("Batches", "AsyncBatches"):
                for method in _METHODS:
                    unwrap(f"{name}.{resource}", method)
        self._patched = set()

    def _patch(self, module: ModuleType) -> None:
        if not self._active or module.__name__ in self._patched:
            return
        self._patched.add(module.__name__)
        for resource, calls in (
            (module.Batches, sync_calls(self._find)),
            (module.AsyncBatches, async_calls(self._find)),
        ):
            for method, wrapper in calls.items():
                wrapt.wrap_function_wrapper(resource, method, wrapper)
        # While the SDK is imported rather than in its first call, which may be on an event loop.
        self._find()

    def _provider(self) -> TracerProvider | None:
        provider = self._tracer_provider or trace.get_tracer_provider()
        return None if isinstance(provider, trace.ProxyTracerProvider) else provider

    def _mirror(self, provider: TracerProvider) -> LangSmithSpanProcessor | None:
        if not self._settings.langsmith_tracing:
            return None
        from otel_bridge.langsmith import mirror  # noqa: PLC0415 - only where it is wanted

        return mirror(provider, self._settings, self._meter_provider)

    def _find(self) -> BatchTracker | None:
        """The tracker, made when it is first needed: providers may be set after instrumenting."""
        if self._active and self._tracker is None:
            try:
                with self._lock:
                    self._tracker = self._tracker or self._make()
            except Exception as error:  # noqa: BLE001 - the caller's batch goes on without it
                self._active = False
                logger.warning("Batches are not recorded: %s: %s", type(error).__name__, error)
        return self._tracker

    def _make(self) -> BatchTracker | None:
        from otel_bridge.instrumentation.tracker import BatchTracker  # noqa: PLC0415
        from otel_bridge.telemetry import BatchRecorder  # noqa: PLC0415

        provider = self._provider()
        if provider is None:
            return None
        recorder = BatchRecorder(provider, self._meter_provider, self._settings)
        return BatchTracker(recorder, self._mirror(provider))


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    settings: Settings | None = None,
) -> None:
    """Record every batch that any code of this process runs with the anthropic SDK.

    Also adds the mirror to the tracer provider where LANGSMITH_TRACING is on. Providers are the
    global ones by default, settings the environment's. What `opentelemetry-instrument` has done
    already, or an earlier call, stays as it is.
    """
    instrumentor = AnthropicBatchesInstrumentor()
    if not instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.instrument(
            tracer_provider=tracer_provider, meter_provider=meter_provider, settings=settings
        )


def uninstrument() -> None:
    """Take the SDK's methods back; the mirror stays with its provider."""
    instrumentor = AnthropicBatchesInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
