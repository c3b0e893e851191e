"""The inside of an executor: its API, its recorder and its steps, as flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry import trace

from otel_bridge._core.shield import Shield
from otel_bridge.batches.collecting import Collector, read_all, wait
from otel_bridge.batches.estimating import enforce_max_cost
from otel_bridge.batches.faults import READ_FAULTS, unreadable
from otel_bridge.batches.flows import Flow, Stream
from otel_bridge.batches.handles import Handles
from otel_bridge.batches.reconciling import Found
from otel_bridge.batches.submitting import submit
from otel_bridge.config import Settings
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.requests import Request, split_requests
from otel_bridge.propagation import carrier as carriers
from otel_bridge.telemetry import Attempt, BatchRecorder

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from otel_bridge.batches.api import Api
    from otel_bridge.batches.handles import BatchHandle
    from otel_bridge.batches.results import BatchResult
    from otel_bridge.langsmith import LangSmithSpanProcessor

Progress = Callable[[BatchInfo], None]
AsyncProgress = Callable[[BatchInfo], Awaitable[None] | None]


class Engine:
    """The steps of an executor, which a sync or an async one drives.

    Commands and tests may use `api`, `settings`, `recorder` and `on_emitted`.
    """

    def __init__(
        self,
        api: Api,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        settings: Settings | None,
        on_progress: AsyncProgress | None,
    ) -> None:
        self.api = api
        self.settings = settings or Settings.from_env()
        self.recorder = BatchRecorder(tracer_provider, meter_provider, self.settings)
        self.on_emitted: Callable[[], None] = lambda: None
        """Called when the caller has what arrived together, and before that is recorded."""
        self._on_progress = on_progress
        self._progress_shield = Shield("on_progress failed; the batch goes on")
        self._meter_provider = meter_provider
        self._handles = Handles(self.recorder, self._mirror)
        if not isinstance(self.recorder.provider, trace.ProxyTracerProvider):
            self._mirror()  # before any span that is to have a run

    def submit(
        self,
        requests: Sequence[Request],
        *,
        resume: bool,
        new: bool = False,
        attempt: Attempt | None = None,
    ) -> Flow[list[BatchHandle]]:
        """Create the batches of checked requests; see `BatchExecutor.submit`."""
        if attempt is None:  # what failed cost nothing, so a follow-up is within the first bound
            yield from enforce_max_cost(self.settings.max_cost, self.api, requests)
        chunks = split_requests(requests)
        self._mirror()
        with self.recorder.together(len(requests), len(chunks)):
            carrier = carriers.current() | (attempt.to_carrier() if attempt else {})

            def on_created(found: Found, created: Sequence[Request]) -> Flow[BatchHandle]:
                facts = BatchInfo.from_api(found.batch)
                handle = self._handles.register(found, facts, created, carrier)
                yield from self._progress(facts)
                return handle

            return (
                yield from submit(
                    self.api,
                    self.recorder.journal,
                    chunks,
                    carrier,
                    on_created,
                    after=[batch_id for batch_id, _ in attempt.previous] if attempt else (),
                    resume=resume,
                    new=new,
                )
            )

    def resolve(self, batch: BatchHandle | str) -> BatchHandle:
        """The handle of a batch, completed by what this process or the journal knows."""
        return self._handles.resolve(batch)

    def read(
        self,
        batch: BatchHandle | str,
        select: Callable[[list[BatchResult]], list[BatchResult]] = lambda results: results,
    ) -> Stream[BatchResult]:
        """Wait for a batch, record all its results, and emit those that `select` returns."""
        handle = self.resolve(batch)

        def on_described(facts: BatchInfo) -> Flow[None]:
            yield from self._handles.update(self.api, handle, facts)
            yield from self._progress(facts)

        try:
            facts = yield from wait(self.api, handle, self.settings, on_described)
            if handle.recording is None:
                raise AssertionError("a batch that was described has a recording")
            collector = Collector(handle, facts, handle.recording)
            yield from read_all(collector, self.api, handle.id, select, self.on_emitted)
            yield from self.api.io.run_in_thread(partial(self._finish, collector, handle))
        except READ_FAULTS as error:
            raise unreadable(f"results of batch {handle.id}", error) from error
        finally:
            self.release([handle])
            if handle.recording is not None:
                handle.recording.abandon()
        self._handles.forget(handle)

    def collect(self, batch: BatchHandle | str) -> Stream[BatchResult]:
        """As `read`; nobody needs to go on with the batch then."""
        handle = self.resolve(batch)
        yield from self.read(handle)
        self.mark_collected([handle])

    def mark_collected(self, handles: Iterable[BatchHandle]) -> None:
        """Nobody needs to go on with these batches: the caller has all their results."""
        for handle in handles:
            self.recorder.journal.mark_collected(handle.id)

    def release(self, handles: Iterable[BatchHandle]) -> None:
        """Let whoever submits the same requests again go on with these batches."""
        self.recorder.journal.release(handle.submission_id for handle in handles)

    def close(self) -> Flow[None]:
        """Make no more calls, and release what was submitted and not collected."""
        self.release(self._handles.uncollected())
        yield from self.api.close()

    def _mirror(self) -> LangSmithSpanProcessor | None:
        """The provider's mirror: a service may set its provider after this was made."""
        if not self.settings.langsmith_tracing:
            return None
        from otel_bridge.langsmith import mirror  # noqa: PLC0415 - only where it is wanted

        mirrored = mirror(self.recorder.provider, self.settings, self._meter_provider)
        if mirrored is not None:
            self.recorder.runs_lost = lambda: mirrored.lost
        return mirrored

    def _progress(self, facts: BatchInfo) -> Flow[None]:
        callback = self._on_progress
        if callback is not None:
            with self._progress_shield:
                yield from self.api.io.notify(callback, facts)

    def _finish(self, collector: Collector, handle: BatchHandle) -> None:
        collector.finish()
        mirrored = self._mirror()
        if mirrored is not None and mirrored.force_flush() and handle.recording is not None:
            handle.recording.mark_runs_exported()
