"""What is configured, what answers, what is missing: each as a check with its severity."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

from otel_bridge.batches import api as anthropic_api
from otel_bridge.cli.checks import Check
from otel_bridge.cli.telemetry import Complaints, default_exporters, otlp_endpoint
from otel_bridge.cli.variables import masked, sdk_checks, variable_checks
from otel_bridge.config import Settings
from otel_bridge.errors import BridgeError, ConfigurationError
from otel_bridge.journal import journal_in
from otel_bridge.langsmith import probing as langsmith_probing

_SKEW = 5.0
_URL = re.compile(r"https?://[^\s'\",;)]+")
_VERSIONS = ("anthropic", "langsmith", "opentelemetry-sdk", "genai-prices")
_ALSO_RECORD = (
    "opentelemetry-instrumentation-anthropic",
    "openinference-instrumentation-anthropic",
    "opentelemetry-instrumentation-genai-anthropic",
)


def examine() -> list[Check]:
    """Look at everything; nothing is submitted, and nothing sent but an empty export."""
    environ = dict(os.environ)
    settings = Settings.from_env()
    default_exporters()
    checks = [
        *variable_checks(environ),
        *_anthropic(),
        _otlp(settings),
        _langsmith(settings),
        _state(settings),
        *_mirrored(settings, environ),
        *_versions(),
        *sdk_checks(settings),
    ]
    # What libraries say of a fault may quote a URL whole.
    return [
        replace(each, detail=_URL.sub(lambda url: masked("", url[0]), each.detail))
        for each in checks
    ]


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
    """Whether this clock and the API's agree: a submission that got no answer is found by time."""
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
    complaints = Complaints("opentelemetry")
    place = masked("", otlp_endpoint())
    try:
        exporter = _exporter()
        taken = exporter.export([]).name == "SUCCESS"
        exporter.shutdown()
    except Exception as error:  # noqa: BLE001 - whatever is wrong with it is the finding
        return Check("backends", name, "failed", f"{type(error).__name__}: {error}")
    if taken:
        return Check("backends", name, "ok", f"{place} takes an empty export")
    reason = complaints.about("") or "it is refused"
    detail = f"{place} takes no export ({reason}); check OTEL_EXPORTER_OTLP_ENDPOINT"
    return Check("backends", name, "failed", detail)


def _unexported(settings: Settings) -> str:
    """Why nothing goes to OTLP, empty where something does."""
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
        answered = langsmith_probing.probe()
    except BridgeError as error:
        return Check("backends", "LangSmith", "failed", str(error))
    return Check("backends", "LangSmith", "ok", f"{answered} takes the key")


def _state(settings: Settings) -> Check:
    name, place = "state directory", settings.state_dir
    if place is None:
        return Check("state", name, "skipped", "there is none")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        detail = f"{place}: {error.strerror}; choose another OTEL_BRIDGE_STATE_DIR"
        return Check("state", name, "failed", detail)
    batches = len(journal_in(place).totals())
    return Check("state", name, "ok", f"{place}, {batches} batches in the journal")


def _mirrored(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    group = "what leaves"
    content = "prompts and answers" if settings.span_content else "no prompt and no answer"
    reason = _unexported(settings)
    detail = f"batch and request spans with {content}"
    yield Check(group, "OTLP", "skipped" if reason else "ok", reason or detail)
    if settings.langsmith_tracing and settings.sdk_disabled:
        yield Check(group, "LangSmith", "skipped", reason)
    elif settings.langsmith_tracing:
        which = "every span" if settings.langsmith_spans == "all" else "spans of GenAI"
        content = _told_langsmith(settings)
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


def _told_langsmith(settings: Settings) -> str:
    direct = settings.langsmith_route == "direct"
    told = settings.span_content or (settings.langsmith_content and direct)
    hidden = {"prompts": settings.langsmith_hide_inputs, "answers": settings.langsmith_hide_outputs}
    parts = [name for name, hide in hidden.items() if told and not (hide and direct)]
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
