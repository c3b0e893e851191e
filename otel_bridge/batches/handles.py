"""The batches that this process knows, each with its requests and its recording."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from otel_bridge.batches.flows import Flow
from otel_bridge.batches.handle import BatchHandle
from otel_bridge.batches.reconciling import Found, belongs, known_here
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.requests import Request, models_of
from otel_bridge.errors import SubmissionAmbiguousError
from otel_bridge.telemetry import Attempt

if TYPE_CHECKING:
    from otel_bridge.batches.api import AsyncApi, SyncApi
    from otel_bridge.telemetry import BatchRecorder

logger = logging.getLogger(__name__)

MAX_REQUESTS = 200_000
"""Of the batches that are not collected; their handles, where the caller has them, know theirs."""


class Handles:
    """Handles by batch id; `prepare` is called before a span is made."""

    def __init__(self, recorder: BatchRecorder, prepare: Callable[[], object]) -> None:
        self._recorder = recorder
        self._prepare = prepare
        self._submitted: OrderedDict[str, BatchHandle] = OrderedDict()

    def found(
        self,
        found: Found,
        facts: BatchInfo,
        requests: Sequence[Request],
        carrier: Mapping[str, str],
    ) -> BatchHandle:
        """The handle of a batch that was created here or, by an earlier try, elsewhere."""
        known = self._recorder.journal.get(facts.id)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = models_of(requests)
        handle = BatchHandle(facts.id, facts.request_count, dict(carrier), models, params)
        elsewhere = known is not None and known.carrier != carrier
        if known is not None and elsewhere:
            handle.carrier = dict(known.carrier)
        handle.adopted, created = found.adopted, not found.knew
        if not found.adopted:
            self._prepare()
            if elsewhere:
                handle.recording = self._recorder.start_from_carrier(
                    facts, handle.carrier, models, created=created
                )
            else:
                attempt = Attempt.from_carrier(carrier)
                handle.recording = self._recorder.start(
                    facts, None, models, attempt, created=created
                )
        self._remember(handle)
        return handle

    def of(self, batch: BatchHandle | str) -> BatchHandle:
        """What is known of a batch, here or in the journal."""
        handle = batch if isinstance(batch, BatchHandle) else BatchHandle(batch, 0)
        if handle.adopted:  # by one of several submissions, perhaps
            return handle
        submitted = self._submitted.get(handle.id)
        if submitted is not None:
            return submitted
        known = self._recorder.journal.get(handle.id)
        if known is not None and not handle.carrier:
            handle.request_count = known.request_count
            handle.carrier, handle.models = dict(known.carrier), known.models
        if known is not None and known.tentative:
            logger.warning(
                "Batch %s was found where an answer was lost: see that its custom ids are yours",
                handle.id,
            )
        return handle

    def described(
        self, api: SyncApi | AsyncApi, handle: BatchHandle, facts: BatchInfo
    ) -> Flow[None]:
        """The API described a batch anew.

        Raises SubmissionAmbiguousError for one that was adopted and turns out to be others'.
        """
        created = handle.adopted
        if handle.adopted and facts.status == "ended":
            yield from self._verify(api, handle)
        if handle.recording is not None and not handle.recording.missing:
            handle.recording.update(facts)
        elif not handle.adopted:
            self._prepare()
            handle.recording = self._recorder.start_from_carrier(
                facts, handle.carrier, handle.models, created=created
            )

    def forget(self, handle: BatchHandle) -> None:
        """Nobody asks for it by its id alone any more."""
        self._submitted.pop(handle.id, None)

    def _verify(self, api: SyncApi | AsyncApi, handle: BatchHandle) -> Flow[None]:
        """Have the results tell whose a batch is that was taken for ours."""
        journal = self._recorder.journal
        if handle.id in known_here or not (yield from belongs(api, handle.id, handle.params)):
            journal.unbind_batch(handle.submission_id)
            if self._submitted.get(handle.id) is handle:
                self.forget(handle)
            raise SubmissionAmbiguousError(
                f"batch {handle.id}, found where the answer to a submission was lost, has "
                "results of other requests: it is others', and these requests are most likely in "
                "no batch; run the same again, which looks once more before it creates one"
            )
        handle.adopted = False
        self._remember(handle)
        known_here.add(handle.id)
        journal.bind_batch(handle.submission_id, handle.id)

    def _remember(self, handle: BatchHandle) -> None:
        self._submitted[handle.id] = handle
        self._submitted.move_to_end(handle.id)
        while len(self._submitted) > 1 and self._kept > MAX_REQUESTS:
            self._submitted.popitem(last=False)

    @property
    def _kept(self) -> int:
        return sum(len(each.params) for each in self._submitted.values())
