"""The command doctor: what is configured, what answers and what is missing, each as a check."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version
from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_bridge._core.display import safe_text
from otel_bridge.batches import api as anthropic_api
from otel_bridge.cli.render import print_json
from otel_bridge.cli.results import check_state_directory
from otel_bridge.cli.telemetry import FirstErrorHandler, default_exporters, otlp_endpoint
from otel_bridge.cli.terminal import FAILED, WRONG
from otel_bridge.cli.variables import Check, Severity, sdk_checks, variable_checks
from otel_bridge.config import Settings
from otel_bridge.errors import BridgeError, ConfigurationError
from otel_bridge.journal import journal_in
from otel_bridge.langsmith import client as langsmith_client

_SKEW = 5.0
_DETAIL = 2_000
_VERSIONS = ("anthropic", "langsmith", "opentelemetry-sdk", "genai-prices")
_ALSO_RECORD = (
    "opentelemetry-instrumentation-anthropic",
    "openinference-instrumentation-anthropic",
    "opentelemetry-instrumentation-genai-anthropic",
)
_STATUS: dict[Severity, int] = {
    "ok": 0,
    "skipped": 0,
    "warning": 0,
    "failed": FAILED,
    "wrong": WRONG,
}
"""The exit status by severity: something does not answer, or a variable has a bad value."""
_COLOURS = {"ok": "green", "skipped": "dim", "warning": "yellow", "failed": "red", "wrong": "red"}


def doctor(*, as_json: bool) -> int:
    """Print the checks; the exit status is that of the worst."""
    logging.disable(logging.WARNING)
    checks = examine()
    status = max(_STATUS[check.severity] for check in checks)
    if as_json:
        print_json({"status": status, "checks": [check.to_dict() for check in checks]})
    else:
        _print(Console(), checks)
    return status


def examine() -> list[Check]:
    """Check everything. Nothing is submitted, and nothing is sent but an empty export."""
    environ = dict(os.environ)
    settings = Settings.from_env()
    default_exporters()
    checks = [
        *variable_checks(environ),
        *_anthropic(),
        _otlp(settings),
        _langsmith(settings),
        _state(settings),
        *_exported(settings, environ),
        *_versions(),
        *sdk_checks(settings),
    ]
    # What libraries say of a fault may quote a URL whole.
    return [replace(each, detail=safe_text(each.detail, _DETAIL)) for each in checks]


def _anthropic() -> Iterator[Check]:
    try:
        probed = anthropic_api.probe()
    except ConfigurationError as error:
        yield Check("backends", "Anthropic API", "failed", str(error))
        return
    except BridgeError as error:
        yield Check("backends", "Anthropic API", "failed", f"{error}; check ANTHROPIC_BASE_URL")
        return
    answered = f"{probed.endpoint} lists batches ({probed.seconds:.2f} s)"
    yield Check("backends", "Anthropic API", "ok", answered)
    yield skew_check(probed.skew)


def skew_check(skew: float | None) -> Check:
    """Check that this clock and the API's agree, as unanswered submissions are found by time."""
    if skew is None:
        return Check("backends", "clock", "skipped", "the API's answer has no date")
    if abs(skew) <= _SKEW:
        return Check("backends", "clock", "ok", f"within {_SKEW:.0f} s of the API's")
    side = "ahead of" if skew > 0 else "behind"
    detail = f"{abs(skew):.0f} s {side} the API's; synchronise it"
    return Check("backends", "clock", "warning", detail)


def _otlp(settings: Settings) -> Check:
    name = "OTLP"
    reason = _unexported(settings)
    if reason:
        return Check("backends", name, "skipped", reason)
    errors = FirstErrorHandler("opentelemetry")
    place = otlp_endpoint()
    try:
        exporter = _exporter()
        taken = exporter.export([]).name == "SUCCESS"
        exporter.shutdown()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Check("backends", name, "failed", f"{type(error).__name__}: {error}")
    if taken:
        return Check("backends", name, "ok", f"{place} takes an empty export")
    reason = errors.about("") or "it is refused"
    detail = f"{place} takes no export ({reason}); check OTEL_EXPORTER_OTLP_ENDPOINT"
    return Check("backends", name, "failed", detail)


def _unexported(settings: Settings) -> str:
    """Say why no span goes to OTLP; empty where spans do."""
    if settings.sdk_disabled:
        return "OTEL_SDK_DISABLED turns telemetry off"
    if os.environ.get("OTEL_CONFIG_FILE"):
        return "OTEL_CONFIG_FILE says where spans go"
    if "otlp" not in os.environ["OTEL_TRACES_EXPORTER"].split(","):
        return "nothing is exported; set OTEL_EXPORTER_OTLP_ENDPOINT"
    return ""


def _exporter() -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL"
    )
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - slow
            OTLPSpanExporter as Exporter,
        )

        return Exporter(timeout=3)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - slow
        OTLPSpanExporter,
    )

    return OTLPSpanExporter(timeout=3)


def _langsmith(settings: Settings) -> Check:
    if not settings.langsmith_tracing:
        return Check(
            "backends", "LangSmith", "skipped", "nothing is mirrored; set LANGSMITH_TRACING"
        )
    if settings.langsmith_route == "collector":
        detail = "fed by the collector, which has its own endpoint and key"
        return Check("backends", "LangSmith", "skipped", detail)
    try:
        answered = langsmith_client.probe()
    except BridgeError as error:
        return Check("backends", "LangSmith", "failed", str(error))
    return Check("backends", "LangSmith", "ok", f"{answered} takes the key")


def _state(settings: Settings) -> Check:
    name, place = "state directory", settings.state_dir
    if place is None:
        return Check("state", name, "skipped", "there is none")
    try:
        check_state_directory(place)
    except BridgeError as error:
        return Check("state", name, "failed", str(error))
    batches = len(journal_in(place).totals())
    return Check("state", name, "ok", f"{place}, {batches} batches in the journal")


def _exported(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    group = "what leaves"
    content = "prompts and answers" if settings.span_content else "no prompt and no answer"
    reason = _unexported(settings)
    detail = f"batch and request spans with {content}"
    yield Check(group, "OTLP", "skipped" if reason else "ok", reason or detail)
    if settings.langsmith_tracing and settings.sdk_disabled:
        yield Check(group, "LangSmith", "skipped", reason)
    elif settings.langsmith_tracing:
        which = "every span" if settings.langsmith_spans == "all" else "spans of GenAI"
        content = _langsmith_content(settings)
        share = f"{settings.langsmith_sampling_rate:.0%} of traces"
        detail = f"{which}, {share}, with {content}, to project {settings.langsmith_project}"
        yield Check(group, "LangSmith", "ok", detail)
    if environ.get("ANTHROPIC_OPEN_TELEMETRY_TRACES_CONTENT_MODE", "").lower() == "content":
        yield Check(
            group, "Anthropic SDK", "warning", "puts content on its own spans, to OTLP, too"
        )
    for name, values in (
        ("LANGSMITH_TRACING_MODE", ("otel", "hybrid")),
        ("LANGSMITH_OTEL_ENABLED", ("true", "1")),
    ):
        if environ.get(name, "").lower() in values:
            detail = "@traceable runs become spans as well; they are not mirrored back"
            yield Check(group, name, "warning", detail)


def _langsmith_content(settings: Settings) -> str:
    direct = settings.langsmith_route == "direct"
    sent = settings.span_content or (settings.langsmith_content and direct)
    hidden = {"prompts": settings.langsmith_hide_inputs, "answers": settings.langsmith_hide_outputs}
    parts = [name for name, hide in hidden.items() if sent and not (hide and direct)]
    return " and ".join(parts) or "no prompt and no answer"


def _versions() -> Iterator[Check]:
    group = "versions"
    for package in _VERSIONS:
        yield Check(group, package, "ok", metadata.version(package))
    yield from _unmet(metadata.requires("otel-bridge") or ())
    for package in _ALSO_RECORD:
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        detail = f"{version} records single calls, as the Anthropic SDK does: two spans in OTLP"
        yield Check(group, package, "warning", f"{detail} unless ANTHROPIC_OPEN_TELEMETRY=false")


def _unmet(requirements: Iterable[str]) -> Iterator[Check]:
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": "cli"}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        if version is None or not requirement.specifier.contains(
            Version(version), prereleases=True
        ):
            detail = f"{version or 'not installed'}, but {requirement} is needed"
            yield Check("versions", requirement.name, "failed", detail)


def _print(console: Console, checks: list[Check]) -> None:
    """Print the checks by group, each with its severity."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.group, []).append(check)
    for group, members in groups.items():
        table = Table(title=group, title_justify="left", show_header=False, box=None)
        table.add_column()
        table.add_column(overflow="fold", max_width=40)
        table.add_column(overflow="fold")
        for check in members:
            severity = Text(check.severity, style=_COLOURS[check.severity])
            table.add_row(severity, check.name, Text(check.detail))
        console.print(table)
