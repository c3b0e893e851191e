"""The commands estimate, watch, backfill and replay, which run no batch."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from rich.console import Console

from otel_bridge.batches import BatchExecutor, engine_of
from otel_bridge.cli import render
from otel_bridge.cli.render import print_json
from otel_bridge.cli.results import check_state_directory, read_requests
from otel_bridge.cli.session import Session
from otel_bridge.cli.terminal import FAILED, print_error
from otel_bridge.config import Settings
from otel_bridge.errors import ConfigurationError, DeliveryError
from otel_bridge.langsmith import Delivery, LeftBehind

if TYPE_CHECKING:
    from otel_bridge.domain.batch import BatchInfo

_LONGEST_BATCH = timedelta(hours=25)
"""A batch expires 24 hours after its creation."""


def estimate(file: str, *, every: bool, sample: int, output_tokens: int, as_json: bool) -> int:
    """Print what the requests in a file will cost, by the tokens of `sample` or of all of them."""
    requests = read_requests(file)
    found = _silent_executor().estimate(
        requests, sample=None if every else sample, output_tokens=output_tokens
    )
    if as_json:
        print_json(found.to_dict())
    else:
        render.print_estimate(Console(), found)
    return 0


def watch(batches: Sequence[str], *, as_json: bool) -> int:
    """Show batches until each has ended; without ids, all batches that have not ended yet."""
    executor = _silent_executor()
    if batches:
        found = [executor.describe(batch_id) for batch_id in batches]
    else:
        recent = executor.since(datetime.now(UTC) - _LONGEST_BATCH)
        found = [batch for batch in reversed(recent) if batch.status != "ended"]
    ended = _poll_until_ended(executor, found)
    if as_json:
        print_json({"batches": [_describe(batch) for batch in ended]})
    elif not ended:
        print_error("no batch is in progress")
    return 0


def _poll_until_ended(executor: BatchExecutor, found: Sequence[BatchInfo]) -> list[BatchInfo]:
    """Ask the API for each batch that has not ended, once per poll interval, and show it."""
    batches = {batch.id: batch for batch in found}
    with render.Progress(Console(stderr=True)) as progress:
        while True:
            for batch in batches.values():
                progress.update(batch)
            in_progress = [batch.id for batch in batches.values() if batch.status != "ended"]
            if not in_progress:
                return list(batches.values())
            time.sleep(engine_of(executor).settings.poll_interval)
            batches |= {batch_id: executor.describe(batch_id) for batch_id in in_progress}


def _describe(batch: BatchInfo) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status,
        "requests": batch.request_count,
        **batch.counts,
        "created_at": batch.created_at.isoformat(),
        "ended_at": batch.ended_at.isoformat() if batch.ended_at else None,
        "seconds": batch.elapsed.total_seconds(),
    }


def _silent_executor() -> BatchExecutor:
    """Make an executor for a command that exports nothing."""
    settings = Settings.from_env(strict=True)
    return BatchExecutor(settings=dataclasses.replace(settings, langsmith_tracing=False))


def backfill(
    batches: Sequence[str], *, since: datetime | None, shift_times: bool, as_json: bool
) -> int:
    """Export telemetry of batches that ran without the bridge. FAILED where one could not be."""
    if not batches and since is None:
        raise ConfigurationError("no batch is named; name batches, or --since 7d")
    session = Session(as_json=as_json)
    done = []
    for each in session.executor.backfill(batches, since=since, shift_times=shift_times):
        done.append(each)
        reason = f" ({each.reason})" if each.reason else ""
        print(f"{each.id}: {each.state}, {each.requests} requests{reason}", file=sys.stderr)
    reports = session.telemetry.finish()
    if as_json:
        backends = {report.name.lower(): report.to_dict() for report in reports}
        print_json({"batches": [each.to_dict() for each in done], "backends": backends})
    for report in reports:
        if report.complaint:
            print_error(report.complaint)
    return FAILED if any(each.state == "failed" for each in done) else 0


def replay(*, refused: bool, other_keys: bool, as_json: bool) -> int:
    """Send the runs on disk to LangSmith. Raises DeliveryError where some still are not taken."""
    settings = Settings.from_env(strict=True)
    logging.getLogger("otel_bridge.langsmith.delivery").setLevel(logging.ERROR)
    if settings.state_dir is not None:
        check_state_directory(settings.state_dir)
    delivery = Delivery(state_dir=settings.state_dir)
    delivery.inherit(refused=refused, other_keys=other_keys)
    before = 0
    while (waiting := delivery.replayed.held_back) and waiting != before:
        before = waiting
        delivery.flush(10.0)
    report, left = delivery.replayed, delivery.left
    delivery.close(0.0)
    if as_json:
        counts = dataclasses.asdict(report) | {"left": dataclasses.asdict(left)}
        print_json({**counts, "endpoint": delivery.endpoint})
    else:
        print(f"{report.sent} run updates sent to {delivery.endpoint}")
    for line in _remain(left):
        print_error(line)
    if report.held_back or report.refused:
        raise DeliveryError(
            f"LangSmith at {delivery.endpoint}: {report.held_back} run updates still wait, "
            f"{report.refused} were refused ({report.reason}); check LANGSMITH_ENDPOINT and "
            "LANGSMITH_API_KEY"
        )
    return 0


def _remain(left: LeftBehind) -> Iterator[str]:
    """Say what is still on disk, and what sends it."""
    if left.refused:
        yield (
            f"{left.refused} run updates are set apart as refused; once that is mended, "
            "`otel-bridge replay --refused` sends them"
        )
    if left.other_keys:
        yield (
            f"{left.other_keys} run updates are another key's or workspace's; set "
            "LANGSMITH_API_KEY and LANGSMITH_WORKSPACE_ID to theirs, or send them with these by "
            "`otel-bridge replay --other-keys`"
        )
    if left.other_endpoints:
        yield f"{left.other_endpoints} run updates wait for another LANGSMITH_ENDPOINT"
