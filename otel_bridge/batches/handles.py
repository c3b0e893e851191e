"""Submitted batches: what another process needs to collect one, and what this process knows."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from otel_bridge.batches.api import check_id
from otel_bridge.batches.flows import Flow
from otel_bridge.batches.reconciling import Found, belongs, confirmed_batch_ids
from otel_bridge.domain.batch import BatchInfo
from otel_bridge.domain.requests import Request, models_of
from otel_bridge.errors import ConfigurationError, SubmissionAmbiguousError
from otel_bridge.telemetry import Attempt

if TYPE_CHECKING:
    from otel_bridge.batches.api import Api
    from otel_bridge.telemetry import BatchRecorder, BatchRecording

logger = logging.getLogger(__name__)

MAX_REQUESTS = 200_000
"""How many requests of uncollected batches are kept here; a handle keeps its own in any case."""


@dataclass(slots=True)
class BatchHandle:
    """A submitted batch.

    `carrier` holds the submitting trace context as propagation headers; `models` the models of
    its requests. In the submitting process it also knows the requests and the open recording.
    """

    id: str
    request_count: int
    carrier: dict[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    recording: BatchRecording | None = field(default=None, repr=False, compare=False)
    submission_id: int | None = field(default=None, repr=False, compare=False)
    """The journal's id of the submission, while this process means to collect the batch."""

    tentative: bool = field(default=False, repr=False, compare=False)
    """Whether the match is by time and size only; until its results prove it, it has no spans."""

    shift: timedelta = field(default=timedelta(0), repr=False, compare=False)
    """Added to the times of its spans, for backends that refuse old ones."""

    def __post_init__(self) -> None:
        check_id(self.id)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form for another process; it holds no content of requests."""
        return {
            "id": self.id,
            "request_count": self.request_count,
            "carrier": dict(self.carrier),
            "models": list(self.models),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BatchHandle:
        """Read what `to_dict` wrote. Raises ConfigurationError when it is something else."""
        if not isinstance(data, Mapping):
            raise _no_handle("it is no object")
        for name, kind in _FIELDS.items():
            value = data.get(name)
            if not (isinstance(value, kind) or (value is None and name != "id")):
                raise _no_handle(f"`{name}` is {'missing' if value is None else 'malformed'}")
        carrier = data.get("carrier") or {}
        return cls(
            data["id"],
            data.get("request_count") or 0,
            {str(key): str(value) for key, value in carrier.items()},
            tuple(map(str, data.get("models") or ())),
        )


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "id": str,
    "request_count": int,
    "carrier": Mapping,
    "models": (list, tuple),
}


def _no_handle(why: str) -> ConfigurationError:
    return ConfigurationError(f"not a batch handle: {why}; pass what to_dict() gave")


class Handles:
    """The handles of this process by batch id; `prepare` is called before a batch's span starts."""

    def __init__(self, recorder: BatchRecorder, prepare: Callable[[], object]) -> None:
        self._recorder = recorder
        self._prepare = prepare
        self._submitted: OrderedDict[str, BatchHandle] = OrderedDict()

    def register(
        self,
        found: Found,
        facts: BatchInfo,
        requests: Sequence[Request],
        carrier: Mapping[str, str],
    ) -> BatchHandle:
        """Make the handle of a batch that was created here, or elsewhere by an earlier try.

        Its recording starts, unless the batch is tentative.
        """
        recorded = self._recorder.journal.get(facts.id)
        params = {request["custom_id"]: request["params"] for request in requests}
        models = models_of(requests)
        handle = BatchHandle(facts.id, facts.request_count, dict(carrier), models, params)
        elsewhere = recorded is not None and recorded.carrier != carrier
        if recorded is not None and elsewhere:
            handle.carrier = dict(recorded.carrier)
        handle.tentative, created = found.tentative, not found.already_recorded
        if not found.tentative:
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

    def resolve(self, batch: BatchHandle | str) -> BatchHandle:
        """The handle of a batch, completed by what this process or the journal knows."""
        handle = batch if isinstance(batch, BatchHandle) else BatchHandle(batch, 0)
        if handle.tentative:  # another submission may have matched the same batch
            return handle
        submitted = self._submitted.get(handle.id)
        if submitted is not None:
            return submitted
        recorded = self._recorder.journal.get(handle.id)
        if recorded is not None and not handle.carrier:
            handle.request_count = recorded.request_count
            handle.carrier, handle.models = dict(recorded.carrier), recorded.models
        if recorded is not None and recorded.tentative:
            logger.warning(
                "Batch %s was found where an answer was lost: see that its custom ids are yours",
                handle.id,
            )
        return handle

    def update(self, api: Api, handle: BatchHandle, facts: BatchInfo) -> Flow[None]:
        """Record what the API says of a batch now.

        A tentative batch that has ended is verified first. Raises SubmissionAmbiguousError where
        its results are of other requests.
        """
        created = handle.tentative
        if handle.tentative and facts.status == "ended":
            yield from self._verify(api, handle)
        if handle.recording is not None and not handle.recording.missing:
            handle.recording.update(facts)
        elif not handle.tentative:
            self._prepare()
            handle.recording = self._recorder.start_from_carrier(
                facts, handle.carrier, handle.models, created=created
            )

    def forget(self, handle: BatchHandle) -> None:
        """Forget a handle: its batch was collected, or is not ours."""
        self._submitted.pop(handle.id, None)

    def uncollected(self) -> list[BatchHandle]:
        """The handles that are kept: their batches were submitted here and not collected."""
        return list(self._submitted.values())

    def _verify(self, api: Api, handle: BatchHandle) -> Flow[None]:
        """Bind a tentative batch to its submission if its results are of these requests."""
        journal = self._recorder.journal
        taken = handle.id in confirmed_batch_ids
        if taken or not (yield from belongs(api, handle.id, handle.params)):
            journal.unbind_batch(handle.submission_id)
            if self._submitted.get(handle.id) is handle:
                self.forget(handle)
            raise SubmissionAmbiguousError(
                f"batch {handle.id}, found where the answer to a submission was lost, has "
                "results of other requests: it is others', and these requests are most likely in "
                "no batch; run the same again, which looks once more before it creates one"
            )
        handle.tentative = False
        self._remember(handle)
        confirmed_batch_ids.add(handle.id)
        journal.bind_batch(handle.submission_id, handle.id)

    def _remember(self, handle: BatchHandle) -> None:
        self._submitted[handle.id] = handle
        self._submitted.move_to_end(handle.id)
        while len(self._submitted) > 1 and self._kept > MAX_REQUESTS:
            self._submitted.popitem(last=False)

    @property
    def _kept(self) -> int:
        return sum(len(each.params) for each in self._submitted.values())
